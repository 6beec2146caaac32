"""`--search`: which further numbers a sweep varies, within the recipe's bounds, and who proposes them."""

import math
from pathlib import Path
from typing import Any

import makers
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from rich.console import Console

from audioconfit.errors import InputError
from sweeps.report import accounts
from sweeps.report.record import Record, Run
from sweeps.request import datasets, flags, resuming, searched
from sweeps.request.cells import Cell, Space, lay_out
from sweeps.request.plan import Plan
from sweeps.search import importances
from sweeps.search.studies import STARTUP_TRIALS, Budget, Studies, distributions
from sweeps.tracking.journal import Outcome

SMALL = Space(batch_sizes=(8,), chunk_seconds=(0.25, 0.5), probe_lr=(1e-3, 1e-1))


def plan_of(*words: str, more: tuple[str, ...] = ()) -> Plan:
    return flags.parse(["--datasets", "emodb", *more, "--search", *words], {})


def cell_of(*words: str, space: Space = makers.SPACE, **changes: Any) -> Cell:
    further = searched.parse(words)
    return Cell(
        makers.recipe(**changes), Space(space.batch_sizes, space.chunk_seconds, further=further), Path("nowhere")
    )


def studies(cell: Cell, root: Path, **settings: Any) -> Studies:
    settings = {"budget": Budget(trials=6), "storage": InMemoryStorage(), **settings}
    return Studies([cell], root=root, sweep=makers.IDENTITY, shared=False, **settings)


def run(search: Studies, count: int) -> list[dict[str, Any]]:
    """The params of as many trials, each told a score."""
    found = []
    for number in range(count):
        asked = search.start(str(number))
        assert asked is not None
        found.append(dict(asked.trial.params))
        score = -abs(math.log10(asked.trial.params["probe_lr"]) + 2)
        search.finish(str(number), {"ended": True, "valid_score": score, "cost": 1.0})
    return found


def test_a_search_is_typed_as_ranges_and_choices() -> None:
    words = ("lr=1e-5..1e-3:log", "temperature=0.05,0.1", "warmup=0..0.1", "epochs=5..40", "mining=hardest,none")
    found = distributions(Space((16,), (1.0,), further=plan_of(*words).searched))
    assert found["lr"] == FloatDistribution(1e-5, 1e-3, log=True)
    assert found["temperature"] == CategoricalDistribution((0.05, 0.1))
    assert found["warmup"] == FloatDistribution(0.0, 0.1)
    assert found["epochs"] == IntDistribution(5, 40)
    assert found["mining"] == CategoricalDistribution(("hardest", "none"))
    assert {"batch_size", "chunk_seconds", "probe_lr"} < found.keys()


def test_a_search_comes_back_from_the_plan_from_json_and_from_python() -> None:
    plan = plan_of("lr=1e-5..1e-3:log", "temperature=0.05,0.1", "spec_augment=true,false")
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert plan_of(*plan.search) == plan
    words = {"lr": "1e-5..1e-3:log", "temperature": [0.05, 0.1], "spec_augment": [True, False]}
    assert flags.of({"datasets": "emodb", "search": words}, {}).searched == plan.searched
    assert flags.of({"datasets": "emodb", "search": "epochs=5..40 lr=1e-5,1e-4"}, {}).search[0] == "epochs=5..40"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lr", "'lr' is not NAME=VALUES"),
        ("rate=1..2", "No number 'rate' can be searched; choose from lr, epochs"),
        ("lr=-1..1", "lr=-1: Input should be greater than 0"),
        ("temperature=0.1,0", "temperature=0: Input should be greater than 0"),
        ("warmup=0..2", "warmup=2: Input should be less than or equal to 1"),
        ("epochs=5..7.5", "epochs=7.5: Input should be a valid integer"),
        ("mining=soft,none", "mining=soft: Input should be"),
        ("mining=hardest..none", "mining is a choice and has no range"),
        ("lr=1e-3..1e-5:log", "lr=1e-3..1e-5:log is no range"),
        ("lr=1e-5..1e-3:linear", "is no range"),
        ("warmup=0..0.1:log", "is no range"),
        ("lr=1e-3", "leaves nothing to search"),
        ("lr=1e-3,1e-3", "leaves nothing to search"),
        ("batch_size=8,16", "--batch-sizes names what is searched"),
        ("chunk_seconds=1..2", "--chunks names what is searched"),
        ("layer=1,2", "layer=all searches which one the probe reads"),
        ("probe_layer=1,2", "layer=all searches it"),
        ("seed=1..9", "No number 'seed'"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_the_way_out(word: str, said: str) -> None:
    with pytest.raises(InputError, match=r"^--search: ") as refused:
        plan_of(word)
    assert said in str(refused.value)
    assert str(refused.value).endswith(".")


@pytest.mark.parametrize(
    ("more", "word", "said"),
    [
        (("--lr", "1e-4"), "lr=1e-5..1e-3:log", "lr is set and searched"),
        (("--set", "layers=last"), "layer=all", "layers is set and searched"),
        (("--epochs", "4"), "epochs=5..9", "epochs is set and searched"),
        (("--probe", "lbfgs"), "probe=adam,lbfgs", "probe is set and searched"),
        (("--set", "temperature=0.2"), "temperature=0.05,0.1", "temperature is set and searched"),
        (("--methods", "frozen"), "lr=1e-5..1e-3", "lr changes nothing for frozen"),
        (("--methods", "finetune"), "temperature=0.05,0.1", "temperature changes nothing for finetune"),
    ],
)
def test_a_number_that_is_set_or_read_by_no_method_is_not_searched(more: tuple[str, ...], word: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan_of(word, more=more)


def test_a_search_of_the_layer_is_the_setting_of_that_name() -> None:
    further = ("lr=1e-5..1e-3:log", "warmup=0..0.1")
    assert plan_of("layer=all", *further) == plan_of(*further, more=("--set", "layers=all"))
    assert plan_of("layer=all", more=("--set", "margin=0.2")).settings == {"layers": "all", "margin": 0.2}
    assert flags.of({"datasets": "emodb", "search": {"layer": "all"}}, {}).settings == {"layers": "all"}


def test_a_search_begins_where_the_recipe_would_be() -> None:
    cell = cell_of("lr=1e-6..1e-4:log", "epochs=10..20", "warmup=0..0.1", "temperature=0.05,0.1", lr=5e-5)
    first = cell.first_guess
    assert (first["lr"], first["epochs"], first["warmup"], first["temperature"]) == (5e-5, 15, 0.05, 0.1)
    assert first["batch_size"] == 16


def test_another_space_is_another_sweep(tmp_path: Path) -> None:
    resuming.reconcile(tmp_path, [cell_of("lr=1e-5..1e-3:log")])
    resuming.reconcile(tmp_path, [cell_of("lr=0.00001..0.001:log", lr=1.0)])  # the same, whatever the unsearched rate
    for other in ("lr=1e-5..1e-3", "lr=1e-5..2e-3:log", "lr=1e-5,1e-3"):
        with pytest.raises(InputError, match="search was"):
            resuming.reconcile(tmp_path, [cell_of(other)])
    with pytest.raises(InputError, match=r"lr was None, is 5e-05"):
        resuming.reconcile(tmp_path, [cell_of()])


def test_numbers_of_the_probe_never_train_stage_1_again(tmp_path: Path) -> None:
    cell = cell_of("probe_epochs=10..200:log", "probe=adam,lbfgs", space=SMALL)
    asked = run(studies(cell, tmp_path), 6)
    assert len({one["probe_epochs"] for one in asked}) > 2
    assert {cell.recipe(one).stage_key for one in asked} <= {
        cell.recipe({"batch_size": 8, "chunk_seconds": chunk}).stage_key for chunk in (0.25, 0.5)
    }
    assert cell.space.stage_count(6) == 2
    assert cell_of("lr=1e-5..1e-3", space=SMALL).space.stage_count(6) == 6
    assert cell_of("views=1,2", space=SMALL).space.stage_count(6) == 4


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random", "grid"])
def test_a_sampler_draws_by_its_seed_and_goes_on_where_it_stopped(sampler: str, tmp_path: Path) -> None:
    cell = cell_of("temperature=0.05,0.1", "warmup=0..0.1", space=SMALL)
    count = STARTUP_TRIALS + 2
    budget = Budget(trials=count)
    whole, other = (
        run(studies(cell, tmp_path / name, sampler=sampler, seed=seed, budget=budget), count)
        for name, seed in (("whole", 1), ("other", 2))
    )
    kept = {"sampler": sampler, "seed": 1, "budget": budget, "storage": InMemoryStorage()}
    first = run(studies(cell, tmp_path / "parts", **kept), 5)
    second = run(studies(cell, tmp_path / "parts", **kept), count - 5)
    assert first + second == whole
    assert whole[1:] != other[1:]
    assert {one["temperature"] for one in whole} == {0.05, 0.1}


def test_a_grid_tries_every_point_once_and_ends(tmp_path: Path) -> None:
    cell = cell_of("temperature=0.05,0.1", "probe_lr=1e-3..1e-1:log", space=SMALL)
    search = studies(cell, tmp_path, sampler="grid", budget=Budget(trials=99))
    assert search.remaining() == 2 * 2 * 5
    asked = run(search, 20)
    assert search.remaining() == 0
    assert len({tuple(one.values()) for one in asked}) == 20
    assert sorted({round(one["probe_lr"], 6) for one in asked}) == [0.001, 0.003162, 0.01, 0.031623, 0.1]


def test_failed_points_of_a_grid_that_are_tried_again_leave_none_out(tmp_path: Path) -> None:
    cell = cell_of("temperature=0.05,0.1", "probe_lr=1e-3..1e-1:log", space=SMALL)
    how = {"sampler": "grid", "budget": Budget(trials=99), "storage": InMemoryStorage()}
    first = studies(cell, tmp_path, **how)
    asked = run(first, 3)
    for name in ("a", "b"):
        assert first.start(name) is not None
        first.finish(name, {"failed": "the node was lost"})
    again = studies(cell, tmp_path, **how, retry_failed=True)
    assert again.remaining() == 20 - 3
    asked += run(again, 17)
    assert again.remaining() == 0
    assert len({tuple(one.values()) for one in asked}) == 20


def test_the_report_has_a_column_per_further_number(tmp_path: Path) -> None:
    cells = {name: {"search": {"temperature": "0.05,0.1", "mining": "hardest,none"}} for name in ("a", "b")}
    params = {"batch_size": "8", "chunk_seconds": "0.5", "probe_lr": "0.01", "temperature": "0.05", "mining": "none"}
    ended = Run("a-0", "a", "trial", params, 0, outcome=Outcome.COMPLETE, last={"valid_score": 0.5})
    table = accounts.search(Record(tmp_path, cells, [], [ended], {}, is_running=False))
    (row,) = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (row["probe_lr"], row["temperature"], row["mining"]) == (0.01, 0.05, "none")


def test_the_importances_say_which_of_the_further_numbers_mattered() -> None:
    values = [
        (lr, warmup, epochs) for lr in (1e-5, 1e-4, 1e-3, 1e-2) for warmup in (0.0, 0.1) for epochs in range(5, 16)
    ]
    trials = [
        ({"lr": lr, "warmup": warmup, "epochs": epochs}, float(math.log10(lr)) + 0.001 * epochs)
        for lr, warmup, epochs in values
    ]
    found = importances.of(trials)
    assert next(iter(found)) == "lr"
    assert found["lr"] > 0.9
    assert found["warmup"] < 0.01
    mixed = [({"freeze": freeze}, float(freeze == "conv")) for freeze in ("None", "conv", 1, 2) * 2]
    assert importances.of(mixed) == {"freeze": 1.0}


def test_a_choice_that_the_backbone_cannot_take_is_refused_at_the_plan(tmp_path: Path) -> None:
    folder = makers.tones(tmp_path / "tones", classes=2, clips=6, seconds=0.3)
    asked = ["--datasets", str(folder), "--backbones", "wav2vec2-random", "--storage", str(tmp_path), "--search"]
    plan = flags.parse([*asked, "freeze=null,conv,3"], {})
    tasks = datasets.prepare(plan, Console(quiet=True))
    with pytest.raises(InputError, match="freeze=3: wav2vec2-random has 2 layers"):
        lay_out(plan, tasks)
    (cell,) = lay_out(flags.parse([*asked, "freeze=null,conv,2", "temperature=0.05,0.2"], {}), tasks)
    assert cell.first_guess["freeze"] is None
    assert cell.settings["search"] == {"freeze": "null,conv,2", "temperature": "0.05,0.2"}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--probe lbfgs --set probe_balance=sampling", "probe=lbfgs reads all clips at once"),
        ("--probe lbfgs --search probe_balance=none,weights,sampling", "probe=lbfgs reads all clips at once"),
        ("--search probe=adam,lbfgs probe_balance=none,sampling", "probe=lbfgs reads all clips at once"),
        ("--batch-sizes 4,5 --set views=2", "A batch of 5 cannot hold 2 views"),
        ("--batch-sizes 4,5 --search views=1,2", "A batch of 5 cannot hold 2 views"),
        ("--chunks 0.05,0.25 --search spec_augment=false,true", r"SpecAugment masks stretches of 0.2\d* s"),
        ("--search lora_rank=4,8", "lora_rank=4 changes nothing without tune=lora"),
        ("--set tune=lora --search freeze=null,1,2", "nothing of wav2vec2-random is trained"),
        ("--set tune=lora --set freeze=conv", "freeze=conv changes nothing with tune=lora"),
        ("--set warmup=0.1 --set warmup_steps=10", "warmup_steps=10 changes nothing with warmup=0.1"),
        ("--set warmup=0.1 --search warmup_steps=10,30", "warmup_steps=10 changes nothing with warmup=0.1"),
        ("--search warmup=0..0.1 warmup_steps=10,30", "warmup_steps=10 changes nothing with warmup=0"),
        ("--set mining=none --search margin=0.1,0.2", "margin=0.2 changes nothing with mining=none"),
        ("--search mining=multi_similarity,hardest margin=0.1,0.2", "margin=0.2 changes nothing with mining=hardest"),
        ("--methods finetune --set mining=none --set margin=0.2 --set warmup=0.1", None),
        ("--set layers=last --search freeze=null,1 epochs=3..9 lr=1e-4..1e-2:log", None),
        ("--set tune=lora --search freeze=null,1 lora_rank=2..8 views=1,2", None),
    ],
)
def test_two_settings_that_exclude_each_other_are_refused_at_the_plan(
    words: str, reason: str | None, prepared: tuple[list[str], list[datasets.Task]]
) -> None:
    asked, tasks = prepared
    plan = flags.parse([*asked, *words.split()], {})
    if reason is None:
        assert len(lay_out(plan, tasks)) == 1
        return
    with pytest.raises(InputError, match=reason):
        lay_out(plan, tasks)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[datasets.Task]]:
    """The command line of a sweep over two tones, and its task."""
    root = tmp_path_factory.mktemp("tones")
    folder = makers.tones(root / "tones", classes=2, clips=6, seconds=0.3)
    asked = ["--datasets", str(folder), "--backbones", "wav2vec2-random", "--storage", str(root)]
    return asked, datasets.prepare(flags.parse(asked, {}), Console(quiet=True))


def test_more_workers_than_rows_are_refused_at_the_plan(prepared: tuple[list[str], list[datasets.Task]]) -> None:
    asked, tasks = prepared
    with pytest.raises(InputError, match="A batch of 4 leaves some of 5 workers without a row"):
        lay_out(flags.parse([*asked, "--batch-sizes", "4,8", "--workers-per-trial", "5"], {}), tasks)

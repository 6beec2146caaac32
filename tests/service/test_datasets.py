"""Datasets of a plan: which columns make them, and that a sweep does not go on with others."""

from pathlib import Path

import hub_server
import makers
import pytest
from hub_server import Repository
from rich.console import Console

from audioconfit import audio, synthesis
from audioconfit.errors import InputError
from sweeps.request import cells, datasets, flags, resuming
from sweeps.request.plan import Plan
from sweeps.search import studies

CONSOLE = Console(quiet=True)


def plan_of(tmp_path: Path, *words: str, names: str = "") -> Plan:
    """Three pitches, six tones of each; the table calls them by pitch, and by two halves of each pitch."""
    recordings = sorted(makers.tones(tmp_path / "tones", clips=6, seconds=0.3).rglob("*.wav"))
    lines = [f"{path},{path.parent.name},{('early', 'late')[i % 2]}" for i, path in enumerate(recordings)]
    (tmp_path / "own.csv").write_text("\n".join(["path,pitch,half", *lines]))
    asked = ["--datasets", f"{tmp_path / 'own.csv'}{names}", "--backbones", "wav2vec2-random", "--data", str(tmp_path)]
    return flags.parse([*asked, "--storage", str(tmp_path / "storage"), *words], {})


def test_a_sweep_does_not_go_on_with_another_column(tmp_path: Path) -> None:
    for name in ("pitch", "half"):
        plan = plan_of(tmp_path, "--label-column", name)
        (task,) = datasets.prepare(plan, CONSOLE)
        made = cells.lay_out(plan, [task])
        if name == "pitch":
            begun = task
            assert task.waveforms.corpus.classes == ("pitch-0", "pitch-1", "pitch-2")
            resuming.reconcile(tmp_path, made)
    assert audio.load(begun.prepared).corpus == begun.waveforms.corpus
    with pytest.raises(InputError, match="fingerprint was"):
        resuming.reconcile(tmp_path, made)


def test_the_layer_is_searched_where_features_have_every_one(tmp_path: Path) -> None:
    words = ("--label-column", "pitch")
    last, every = (plan_of(tmp_path, *words, *more) for more in ((), ("--set", "layers=all")))
    (task,) = datasets.prepare(last, CONSOLE)
    (plain,), (layered,) = (cells.lay_out(plan, [task]) for plan in (last, every))
    assert plain.space.probe_layers == ()
    assert "layers" not in plain.settings
    assert layered.space.probe_layers == (0, 1, "last", "mean", "weighted")
    assert layered.space.first_guess()["probe_layer"] == "last"
    assert studies.distributions(layered.space).keys() - studies.distributions(plain.space).keys() == {"probe_layer"}
    assert layered.settings["probe_layers"] == [0, 1, "last", "mean", "weighted"]


def test_columns_are_named_for_own_data_only(tmp_path: Path) -> None:
    synthesis.write("emodb", tmp_path)
    named = ("--label-column", "pitch", "--allow-incomplete")
    plan = plan_of(tmp_path, *named, names=",emodb")
    assert [task.dataset for task in datasets.prepare(plan, CONSOLE)] == ["own", "emodb"]
    with pytest.raises(InputError, match="no column to choose as the label, but 'pitch' is named"):
        datasets.prepare(plan.model_copy(update={"datasets": ("emodb",)}), CONSOLE)


def test_a_column_that_is_not_there_is_refused_before_anything_is_prepared(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'pich' to be the label; it has path, pitch, half"):
        datasets.prepare(plan_of(tmp_path, "--label-column", "pich"), CONSOLE)
    assert not (tmp_path / "storage").exists()


def test_a_sweep_stays_at_the_commit_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = sorted(makers.tones(tmp_path / "tones", clips=6, seconds=0.3).rglob("*.wav"))
    files = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in recordings}
    words = ["--datasets", "org/tones", "--backbones", "wav2vec2-random", "--data", str(tmp_path / "data")]
    first, other = (
        flags.parse([*words, "--storage", str(tmp_path / "storage"), "--name", name], {}) for name in ("first", "other")
    )
    with hub_server.serving(monkeypatch) as hub:
        hub.repositories["org/tones"] = Repository()
        begun = hub.repositories["org/tones"].commit(files)
        (task,) = datasets.prepare(first, CONSOLE)
        resuming.reconcile(tmp_path, cells.lay_out(first, [task]))
        later = hub.repositories["org/tones"].commit(files)
        assert datasets.prepare(other, CONSOLE)[0].waveforms.corpus.revision == later
        assert audio.load(task.prepared).corpus.revision == begun  # the other sweep has a store of its own
        hub.requests.clear()
        (again,) = datasets.prepare(first, CONSOLE)
        assert not hub.requests  # it needs no network
    assert (again.dataset, again.waveforms.corpus.revision) == ("org-tones", begun)
    resuming.reconcile(tmp_path, cells.lay_out(first, [again]))
    (later_task,) = datasets.prepare(other.model_copy(update={"datasets": (f"org/tones@{later}",)}), CONSOLE)
    with pytest.raises(InputError, match="fingerprint was"):
        resuming.reconcile(tmp_path, cells.lay_out(other, [later_task]))


def test_nodes_must_see_where_the_hub_is_fetched_to(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    asked = ["--datasets", "org/tones@main", "--data", str(tmp_path / "data")]
    assert flags.parse(asked, {}).recordings == [tmp_path / "data"]

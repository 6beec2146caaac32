"""The plan is a plain value; its flags come from its fields: before the environment, and that before the defaults."""

import subprocess
import sys
from pathlib import Path

import pytest

from audioconfit.errors import InputError
from sweeps.request import flags
from sweeps.request.plan import Group, Plan

CLUSTER = {
    "AUDIOCONFIT_DATA": "/srv/data",
    "AUDIOCONFIT_STORAGE": "/srv/storage",
    "MLFLOW_TRACKING_URI": "http://10.0.0.1:5000",
    "AUDIOCONFIT_OPTUNA_STORAGE": "postgresql://10.0.0.1/optuna",
}


def test_without_flags_a_cluster_says_where_things_are() -> None:
    found = flags.parse(["--datasets", "emodb"], CLUSTER)
    assert (found.data, found.storage) == (Path("/srv/data"), Path("/srv/storage"))
    assert (found.tracking_uri, found.optuna_storage) == ("http://10.0.0.1:5000", "postgresql://10.0.0.1/optuna")


def test_a_flag_overrules_the_environment() -> None:
    found = flags.parse(["--datasets", "emodb", "--storage", "here", "--tracking-uri", "sqlite:///x.db"], CLUSTER)
    assert (found.storage, found.tracking_uri) == (Path("here"), "sqlite:///x.db")


def test_an_empty_variable_says_nothing() -> None:
    assert flags.parse(["--datasets", "emodb"], {"AUDIOCONFIT_STORAGE": ""}).storage == Path("storage")


@pytest.mark.parametrize("flag", ["datasets", "backbones", "storage", "data", "search", "set", "name"])
def test_a_byte_that_is_no_unicode_is_refused(flag: str) -> None:
    with pytest.raises(InputError, match=rf"^--{flag} .*b\\udce4r'?: This is no Unicode text"):
        flags.parse(["--datasets", "emodb", f"--{flag}", "temperature=b\udce4r"], {})


def test_a_password_beside_it_is_masked() -> None:
    with pytest.raises(InputError, match="no Unicode") as refused:
        flags.parse(["--datasets", "emodb", "--tracking-uri", "postgresql://u:secret@h/b\udce4r"], {})
    assert "secret" not in str(refused.value)


def test_a_folder_whose_name_is_no_unicode_is_refused_where_one_stands_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here := tmp_path / "b\udce4r").mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(InputError, match=r"^--storage .*b\\udce4r/storage': This is no Unicode text"):
        flags.parse(["--datasets", "emodb"], {})
    assert flags.parse(["--datasets", "emodb", "--storage", str(tmp_path)], {}).storage == tmp_path


def test_recordings_are_those_folders_that_are_there(tmp_path: Path) -> None:
    (own := tmp_path / "own").mkdir()
    (data := tmp_path / "data").mkdir()
    asked = ["--datasets", f"emodb,{own},{tmp_path / 'missing'}", "--data", str(data)]
    assert flags.parse(asked, {}).recordings == [data, own]
    assert flags.parse(["--datasets", str(own), "--data", str(data)], {}).recordings == [own]


def test_a_plan_comes_back_from_its_own_dump_and_from_json() -> None:
    words = [
        "--datasets",
        "emodb,own",
        "--chunks",
        "0.5,1",
        "--set",
        "augment=speed,noise",
        "--set",
        "temperature=0.07",
    ]
    asked = flags.parse([*words, "--set", "mining=hardest", "--no-early-stopping", "--gpus-per-worker", "0.5"], {})
    assert asked.settings == {"augment": ("speed", "noise"), "temperature": 0.07, "mining": "hardest"}
    assert Plan.model_validate(asked.model_dump()) == asked
    assert Plan.model_validate_json(asked.model_dump_json()) == asked


def test_help_has_every_flag_under_its_heading_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        flags.parse(["--help"])
    said = capsys.readouterr().out
    assert all(f"\n{group}:\n" in said for group in Group)
    assert "--trials N" in said
    assert "(default: 30)" in said
    assert "$AUDIOCONFIT_STORAGE, else storage" in " ".join(said.split())
    assert said.count("python sweeps/grid.py --") >= 4  # examples
    assert len(Plan.model_fields) == said.split("options:")[1].split("examples:")[0].count("\n  --")


@pytest.mark.parametrize("flag", ["--trials", "--hours", "--seeds", "--slots", "--patience"])
def test_a_number_out_of_range_is_refused_with_the_flag_as_it_was_typed(flag: str) -> None:
    with pytest.raises(InputError, match=f"^{flag} -1: .*\\.$"):
        flags.parse(["--datasets", "emodb", flag, "-1"], {})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--chunks", "nan"], "--chunks: A chunk of nan s is no duration"),
        (["--chunks", "1,inf"], "--chunks: A chunk of inf s is no duration"),
        (["--lr", "inf"], "--lr inf: .*finite"),
        (["--datasets", ","], "Say what to learn"),
        (["--methods", ","], "--methods: No method; choose from pairtune"),
        (["--backbones", ","], "--backbones: No backbone; choose one of wav2vec2"),
        (["--name", ""], "--name: '' does not name a folder"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_is_nothing_or_no_number_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        flags.parse(["--datasets", "emodb", *words], {})


def test_every_wrong_value_is_named_at_once() -> None:
    with pytest.raises(InputError) as refused:
        flags.parse(["--datasets", "emodb", "--trials", "many", "--batch-sizes", "16,x", "--methods", "magic"], {})
    said = str(refused.value).splitlines()
    assert [line.split()[0].rstrip(":") for line in said] == ["--methods", "--trials", "--batch-sizes"]
    assert all(line.endswith(".") for line in said)


def test_places_are_those_of_a_sweep_started_here() -> None:
    found = flags.places(CLUSTER, data="mine", storage=None, name="try")
    assert found.data == Path("mine")
    assert found.folder == Path("/srv/storage/try")
    assert found.tracking_uri == CLUSTER["MLFLOW_TRACKING_URI"]
    assert flags.places({}).folder == Path("storage/sweep").absolute()


@pytest.mark.parametrize(("words", "code"), [(["--help"], 0), (["--datasets", "emodb", "--trials", "many"], 2)])
def test_help_and_a_typing_error_do_not_wait_for_the_heavy_libraries(words: list[str], code: int) -> None:
    program = (
        "import sys\nfrom sweeps import grid\n"
        "try: code = grid.main(sys.argv[1:])\nexcept SystemExit as ended: code = ended.code or 0\n"
        "print(code, *{'torch', 'ray', 'mlflow', 'optuna', 'transformers'} & set(sys.modules), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True, text=True)
    assert ran.stderr.splitlines()[-1] == str(code)

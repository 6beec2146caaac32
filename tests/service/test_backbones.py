"""What a backbone's configuration says is read before all else: no recording is decoded, no weights are fetched."""

import json
import time
from pathlib import Path

import hub
import makers
import pytest

from audioconfit import encoders
from sweeps import grid
from sweeps.request import backbones, flags


def command(folder: Path, *more: str, backbones: str) -> list[str]:
    tones = makers.tones(folder / "tones")
    return ["--datasets", str(tones), "--backbones", backbones, "--storage", str(folder / "storage"), *more]


@pytest.mark.parametrize("more", [[], ["--dry-run"]], ids=["sweep", "dry run"])
def test_backbones_that_cannot_be_used_are_refused_together_before_anything_is_fetched_or_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    for name, change in (("clap", {"model_type": "clap"}), ("adapted", {"add_adapter": True}), ("good", {})):
        encoders.load("wav2vec2-random").save(tmp_path / name)
        settings = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps(settings | change))
    named = f"org/clap,{tmp_path / 'adapted'},org/good"
    repositories = {f"org/{name}": tmp_path / name for name in ("clap", "good")}
    asked = command(tmp_path, *more, backbones=named)
    with hub.serving(monkeypatch, tmp_path / "cache", repositories) as served:
        began = time.process_time()
        assert grid.main(asked) == 2
        assert time.process_time() - began < 2.0  # of CPU, what is imported when it is needed among it
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert [line.split()[1] for line in lines] == ["org/clap", str(tmp_path / "adapted")]
    assert "model.safetensors" not in served.fetched
    assert not (tmp_path / "storage" / "prepared").exists()


def test_folders_of_backbones_have_names_that_hold_on_every_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "wavlm-tiny"):  # the second one is a known name, whatever lies here
        (tmp_path / name).mkdir()
    plan = flags.parse(command(tmp_path, backbones="mine,wavlm-tiny,org/good"), {})
    assert backbones.absolute(plan).backbones == (str(tmp_path / "mine"), "wavlm-tiny", "org/good")
    assert backbones.folders(plan) == [Path("mine")]


def test_a_plan_needs_no_network_but_a_sweep_says_what_to_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with hub.serving(monkeypatch, tmp_path / "cache", {}):
        pass  # nobody answers there any more
    assert grid.main(command(tmp_path, backbones="org/good")) == 2
    assert "No weights for 'org/good'" in capsys.readouterr().err
    assert not (tmp_path / "storage" / "prepared").exists()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert grid.main(command(tmp_path, "--dry-run", backbones="org/good")) == 0
    assert "whose weights are not here" in " ".join(capsys.readouterr().out.split())

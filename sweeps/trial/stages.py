"""The stage-1 store: what stage 1 left, under the hash of all that it depends on, published whole or not at all.

    stages/<stage>/train.safetensors, valid.safetensors, curve.json    always
    stages/<stage>/head.safetensors                                    of FineTune
    stages/<stage>/test.safetensors                                    once the confirmation has read test
    stages/<stage>/encoder/                                            for the best of each cell only
    inflight/<stage>.pt                                                a checkpoint, while stage 1 is at work or was
    interrupted

Trials that differ only in the probe share an entry. That no two workers produce one entry at a time is the hub's rule;
should a killed driver's worker outlive it by a second, the loser of the rename throws its copy away.
"""

import json
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from audioconfit import encoders, features, files
from audioconfit.encoders import Encoder
from audioconfit.features import Features
from audioconfit.method import Stage
from audioconfit.probe import Probe

TEST = "test.safetensors"


@dataclass(frozen=True)
class StageStore:
    """The stages of one sweep under its folder."""

    root: Path

    def folder(self, stage: str) -> Path:
        return self.root / "stages" / stage

    def checkpoint(self, stage: str) -> Path:
        """Where an interrupted stage 1 goes on from."""
        path = self.root / "inflight" / f"{stage}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def has(self, stage: str) -> bool:
        """Whether it is there and whole. One that is damaged is dropped, and trained again."""
        if not self.is_whole(stage):
            _drop(self.folder(stage))
        return self.folder(stage).is_dir()

    def is_whole(self, stage: str) -> bool:
        """Whether its files are what was stored, as far as it is there."""
        folder = self.folder(stage)
        return not folder.is_dir() or _is_whole(folder, folder.stat().st_mtime_ns)

    def has_encoder(self, stage: str) -> bool:
        """Whether its encoder is there and whole. One that is damaged is dropped, and trained again."""
        folder = self.folder(stage) / "encoder"
        if folder.is_dir() and files.damaged(folder):
            _drop(folder)
        return self.has(stage) and folder.is_dir()

    def publish(self, key: str, stage: Stage) -> None:
        """Writes the stage whole; then its checkpoint is not needed any more.

        A stage whose encoder had been dropped was trained again for the encoder's sake, and gets only that.
        """
        with files.whole(self.folder(key) / "encoder" if self.has(key) else self.folder(key)) as temporary:
            if self.has(key):
                stage.encoder.save(temporary)
                files.seal(temporary)
            else:
                stage.train.save(temporary / "train.safetensors")
                stage.valid.save(temporary / "valid.safetensors")
                files.write(temporary / "curve.json", json.dumps(stage.curve))
                if stage.head is not None:
                    stage.head.save(temporary / "head.safetensors")
                files.seal(temporary)
                stage.encoder.save(temporary / "encoder")
                files.seal(temporary / "encoder")
        self.checkpoint(key).unlink(missing_ok=True)

    def frozen_features(self, stage: str) -> tuple[Features, Features]:
        """The frozen features of train and valid."""
        folder = self.folder(stage)
        return features.load(folder / "train.safetensors"), features.load(folder / "valid.safetensors")

    def head(self, stage: str) -> Probe | None:
        """FineTune's own head; None of the other methods, and of stages that were stored before heads were kept."""
        path = self.folder(stage) / "head.safetensors"
        return Probe.load(path) if path.exists() else None

    def test_features(self, stage: str) -> Features | None:
        """The frozen features of test, where the confirmation left them."""
        path = self.folder(stage) / TEST
        return features.load(path) if path.exists() else None

    def publish_test_features(self, stage: str, test: Features) -> None:
        test.save(self.folder(stage) / TEST)
        files.seal(self.folder(stage), TEST)

    def curve(self, stage: str) -> list[dict[str, float]]:
        """The metrics of each epoch."""
        return json.loads((self.folder(stage) / "curve.json").read_text())

    def encoder(self, stage: str) -> Encoder:
        """The trained encoder, where it was kept."""
        return encoders.load(str(self.folder(stage) / "encoder"))

    def keep_encoders(self, stages: set[str], *, among: set[str]) -> None:
        """Drops the encoders of `among` except those of `stages`: disk grows with cells, not with trials."""
        for stage in among - stages:
            _drop(self.folder(stage) / "encoder")

    def drop_checkpoints(self, *, keep: int, live: set[str]) -> None:
        """Only the latest `keep` checkpoints of pruned stages stay, and those of the stages at work."""
        resting = [path for path in (self.root / "inflight").glob("*.pt") if path.stem not in live]
        for path in sorted(resting, key=lambda path: -path.stat().st_mtime)[keep:]:
            path.unlink(missing_ok=True)

    def drop_leftovers(self) -> None:
        """Removes what killed workers and drivers left half written. Only while nothing runs."""
        for pattern in ("stages/.*", "stages/*/.*", "inflight/.*", "trials/*/.*"):
            for path in self.root.glob(pattern):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()


@cache
def _is_whole(folder: Path, stamp: int) -> bool:
    """Whether the files of a stage are what was stored; each is read once per process and change of the folder.

    What earlier versions stored has no checksums, and is whole where it can be opened.
    """
    if (folder / files.SUMS).exists():
        return not files.damaged(folder)
    try:
        json.loads((folder / "curve.json").read_text())
        return all(bool(features.load(path).keys) for path in folder.glob("*.safetensors") if path.stem != "head")
    except Exception:  # of whatever reads it: there is nothing to tell apart
        return False


def _drop(folder: Path) -> None:
    """Whole or not at all, for readers too; of two workers that drop it one does."""
    doomed = folder.with_name(f".{folder.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        folder.rename(doomed)
        shutil.rmtree(doomed)

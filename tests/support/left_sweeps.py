"""What sweeps leave in their folders, written by hand: for readers of finished sweeps and of half-finished ones."""

import json
from dataclasses import replace
from pathlib import Path

import makers
import torch

from audioconfit import audio, corpora, files
from audioconfit.features import Features
from audioconfit.predictions import Predictions
from sweeps.outcome import confirmation, race, runs
from sweeps.outcome.selection import Candidate, Confirmed
from sweeps.request import left_out, resuming
from sweeps.request.cells import Cell
from sweeps.tracking import journal
from sweeps.tracking.journal import End, Metrics, Outcome, Start
from sweeps.trial.assignment import RESULT
from sweeps.trial.stages import StageStore
from sweeps.trial.usage import SHARE, SPEED

HOSTILE = "<script>alert(1)</script>&%$#_{}~^\\|`*\"'"
CLASSES = ("=SUM(A1)", HOSTILE, "-minus")
CLIPS = 24  # of test, dealt to four speakers
METHODS = ("pairtune", "finetune")


def prepared(folder: Path) -> Path:
    """The recordings of every sweep here."""
    makers.tones(folder / "tones")
    audio.prepare(corpora.load(str(folder / "tones"), folder), folder / "prepared")
    return folder / "prepared"


def begun(folder: Path, recordings: Path = Path("nowhere")) -> list[Cell]:
    """A sweep of PairTune and FineTune that was killed: of the first cell four trials done, one failed."""
    content = {"fingerprint": audio.load(recordings).fingerprint} if recordings.exists() else {}
    cells = [replace(makers.cell(method=method, **content), prepared=recordings) for method in METHODS]
    files.write(folder / resuming.RECORD, json.dumps({cell.name: cell.settings for cell in cells}))
    files.write(folder / resuming.CONDUCT, json.dumps({"--workers-per-trial": [2], "--gpus-per-worker": [0.5]}))
    path = left_out.folder_of(folder, "tones") / left_out.FILE
    files.write(path, f'backbone,file,labels,reason\n,a.wav,x,"{HOSTILE.replace(chr(34), "")}: 1"\n,b.wav,x,empty\n')
    events: list[journal.Event] = []
    for number in range(5):
        key, name = f"{cells[0].name}-{number}", cells[0].name
        rate = 1e-3 * 2**number
        params = {"batch_size": str((8, 16)[number % 2]), "chunk_seconds": "0.5", "probe_lr": str(rate)}
        events.append(Start(key, 1000, name, key, params, {"kind": "trial", "cell": name}))
        if number == 4:
            events.append(End(key, 37_000, Outcome.FAILED, why=f"out of memory in {HOSTILE}"))
            continue
        events += [Metrics(key, 2000, epoch, {"loss": 1.0, "epoch": epoch}) for epoch in (1, 2)]
        # Batches of 8 and 16 decide: 0.5 and 0.9. One trial in four trained nothing: its stage was there.
        scores = {"valid_score": (0.5, 0.9)[number % 2], "seconds": 900.0, "trained_seconds": float(number < 3)}
        if number < 2:  # half of 900 s and 0.1 of it, with 2 and 4 clips a second; others are of an earlier version
            share = (0.5, 0.1)[number]
            scores |= {SHARE.format(phase="training"): share, SHARE.format(phase="rest"): 1 - share}
            scores[SPEED] = 2.0 * (number + 1)
        events += [Metrics(key, 3000, 3, scores), End(key, 3000, Outcome.COMPLETE)]
    (folder / "tracking").mkdir(parents=True)
    half = b'{"kind": "start", "ke'  # a line that a kill left
    (folder / "tracking" / journal.EVENTS).write_bytes(b"".join(map(journal.encode, events)) + half)
    return cells


def finished(folder: Path, recordings: Path) -> list[Candidate]:
    """The same sweep at its end: PairTune has 18 of 24 test clips right, FineTune 6, each over two seeds. The clips of
    speaker s0 are the worst, for right ones come last.
    """
    cells = begun(folder, recordings)
    candidates = [_confirmed(cell, folder, right) for cell, right in zip(cells, (18, 6), strict=True)]
    confirmation.record(folder, candidates)
    told = {"batch_size": 8, "chunk_seconds": 0.5, "probe_lr": 0.01, "cost": 1.0}
    standing = [
        {"cell": cells[0].name, **told, "scores": [0.7, 0.9], "out": None},
        {"cell": cells[1].name, **told, "scores": [0.4], "out": "Behind."},
    ]
    races = {"tones": {"metric": "accuracy", "folds": 2, "finalists": standing}}
    files.write(folder / race.RECORD, json.dumps(races))
    return candidates


def _confirmed(cell: Cell, folder: Path, right: int) -> Candidate:
    made = []
    store = StageStore(folder)
    truth = torch.arange(CLIPS) % len(CLASSES)
    said = torch.where(torch.arange(CLIPS) >= CLIPS - right, truth, (truth + 1) % len(CLASSES))
    keys = tuple(f"{clip}.wav" for clip in range(CLIPS))
    groups = tuple(f"s{clip * 4 // CLIPS}" for clip in range(CLIPS))
    counts = [[int(((truth == row) & (said == column)).sum()) for column in range(3)] for row in range(3)]
    for seed in range(2):
        recipe = cell.base.model_copy(update={"seed": seed})
        assignment = runs.CONFIRMATION.assignment(cell, recipe, folder, None)
        one_hot = torch.nn.functional.one_hot(said, 3).float()
        assignment.folder.mkdir(parents=True)
        Predictions(keys, groups, truth, one_hot).save(assignment.folder / "predictions-test.safetensors")
        share = right / CLIPS
        metrics = {"valid_score": share, "test_score": share, "test_accuracy": share, "test_uar": share}
        metrics |= {"test_accuracy_low": 0.1, "test_accuracy_high": 0.9}
        by_group = {f"s{each}": {"clips": 6, "accuracy": float(each >= 4 - right / 6)} for each in range(4)}
        result = {"recipe": recipe.model_dump(mode="json"), "metrics": metrics, "classes": CLASSES}
        result |= {"confusion": {"side": "test", "counts": counts}, "groups": by_group}
        files.write(assignment.folder / RESULT, json.dumps(result))
        stage = store.folder(recipe.stage_key)
        files.write(stage / "curve.json", json.dumps([{"epoch": epoch, "valid_knn": 0.5} for epoch in (1.0, 2.0)]))
        draw = torch.Generator().manual_seed(seed)
        Features(torch.randn(CLIPS, 6, generator=draw) + one_hot.repeat(1, 2), keys, truth).save(
            stage / "test.safetensors"
        )
        made.append(Confirmed(assignment, metrics))
    return Candidate(cell.name, tuple(made), 1.0)

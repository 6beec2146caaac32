"""What people would use instead, in one table: `python -m tests.benchmarks OUT [--rounds 5]`, five minutes of one core.

Each row times our part and its peers in turns, in CPU seconds of one thread, which neighbours on the machine stretch
less than the clock: medians, and of the ratio its median and spread over the rounds. `loaders` alone goes by the clock,
for its peers decode in processes beside that thread. Into OUT/peers.json with hardware, load, versions and commit, and
OUT/peers.md as a table. A peer that is not installed is left out by name. --gpu makes the table of a GPU
(tests/gpu/benchmark.py); that of the service is test_overhead.py's and test_sharing.py's.
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "gpu"))  # material, measuring, rival
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

import measuring
import numpy as np
import rival
import soundfile
import speechbrain_loop
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from torch.utils.data import DataLoader

from audioconfit import audio, finetune, losses, mining, probe
from audioconfit.batches import Batches
from audioconfit.corpora import Clip
from audioconfit.encoders import Encoder
from audioconfit.features import Features
from audioconfit.training import Settings

ROWS, SECONDS, STEPS = 16, 1.0, 8  # of a step; steps an epoch
LOADERS = 0, 1, 2  # processes that decode
PLAIN = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "feat_proj_dropout": 0.0}
# The shapes of the packaged backbones and of the random ones.
SHAPES: dict[str, dict[str, Any]] = {
    "wav2vec2-tiny (0.75 M)": {
        **{"conv_dim": (128, 128), "conv_kernel": (400, 4), "conv_stride": (160, 2), "num_feat_extract_layers": 2},
        **{"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512},
        **{"num_conv_pos_embeddings": 16, "feat_extract_norm": "layer", **PLAIN},
    },
    "small (0.1 M)": {
        **{"conv_dim": (32,) * 4, "conv_kernel": (20, 8, 4, 4), "conv_stride": (10, 4, 4, 2)},
        **{"num_feat_extract_layers": 4, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 128, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, **PLAIN},
    },
}
PEERS = ("torch", "transformers", "accelerate", "pytorch-metric-learning", "scikit-learn", "librosa", "numpy")

Timed = Callable[[], float]  # its CPU seconds, or those of the clock
Now = Callable[[], float]


@dataclass
class Table:
    """What was found, a line per peer."""

    folder: Path
    rounds: int
    only: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def compare(self, what: str, ours: Timed, **peers: Timed) -> None:
        """All of them once, which is not counted, and then in turns; of the peers those that are asked for."""
        peers = {name: run for name, run in peers.items() if self.only in name}
        runs = {"ours": ours, **peers}
        for run in runs.values():
            run()
        spent = [{name: run() for name, run in runs.items()} for _ in range(self.rounds)]
        for peer in peers:
            ratios = sorted(one[peer] / one["ours"] for one in spent)
            self.rows.append(
                {
                    "what": what,
                    "peer": peer.replace("_", " "),
                    "ours_ms": 1000 * statistics.median(one["ours"] for one in spent),
                    "peer_ms": 1000 * statistics.median(one[peer] for one in spent),
                    "ratio": statistics.median(ratios),
                    "least": ratios[0],
                    "most": ratios[-1],
                }
            )
            print("{what} | {peer}: {ratio:.2f} ({least:.2f} to {most:.2f})".format(**self.rows[-1]), flush=True)
        self.write()

    def write(self) -> None:
        (self.folder / "peers.json").write_text(
            json.dumps({"environment": self.about, "rows": self.rows, "left out": self.left_out}, indent=1)
        )
        lines = ["| what | ours, ms | beside | its ms | times as fast (spread) |", "|---|---|---|---|---|"]
        for row in self.rows:
            lines.append(
                "| {what} | {ours_ms:.1f} | {peer} | {peer_ms:.1f} | {ratio:.2f} ({least:.2f} to {most:.2f}) |".format(
                    **row
                )
            )
        lines += [f"Left out: {what} ({why})." for what, why in self.left_out.items()]
        (self.folder / "peers.md").write_text("\n".join(lines) + "\n")


def timed(run: Callable[[], object]) -> Timed:
    def once() -> float:
        began = time.process_time()
        run()
        return time.process_time() - began

    return once


def steps(table: Table, scratch: Path) -> None:
    """FineTune beside Hugging Face's Trainer, SpeechBrain's recipe and a plain loop over a DataLoader, all of the same
    network and clips, in CPU seconds.
    """
    files, labels, classes = rival.written(scratch / "clips", rows=ROWS, seconds=SECONDS, steps=STEPS)
    kinds = {kind: recorded(files, labels, cached=kind == "cached") for kind in ("decoding", "cached")}
    for name, shape in SHAPES.items():
        peers = {f"a_plain_PyTorch_loop,_{kind}": plain(kinds[kind], classes, shape) for kind in kinds}
        peers["SpeechBrain's_recipe,_decoding"] = recipe(files, labels, classes, shape)
        if has_trainer(table):
            peers |= {f"Hugging_Face_Trainer,_{kind}": trainer(kinds[kind], classes, shape) for kind in kinds}
        table.compare(f"a step of {ROWS} x {SECONDS:g} s, {name}", finetuned(files, labels, classes, shape), **peers)


def loaders(table: Table, scratch: Path) -> None:
    """The same, with processes beside the one thread that decode for the peers: by the clock."""
    files, labels, classes = rival.written(scratch / "clips", rows=ROWS, seconds=SECONDS, steps=STEPS)
    recordings = recorded(files, labels, cached=False)
    for name, shape in SHAPES.items():
        by_clock = finetuned(files, labels, classes, shape, now=time.perf_counter)
        peers = {
            f"a_plain_PyTorch_loop,_workers:_{workers}": plain(recordings, classes, shape, workers, time.perf_counter)
            for workers in LOADERS
        }
        if has_trainer(table):
            peers |= {
                f"Hugging_Face_Trainer,_workers:_{workers}": trainer(
                    recordings, classes, shape, workers, time.perf_counter
                )
                for workers in LOADERS
            }
        table.compare(f"by the clock, a step of {ROWS} x {SECONDS:g} s, {name}", by_clock, **peers)


def recorded(files: list[Path], labels: list[int], *, cached: bool) -> rival.Recordings:
    return rival.Recordings(files, labels, round(SECONDS * rival.RATE), cached=cached)


def has_trainer(table: Table) -> bool:
    try:
        metadata.version("accelerate")
    except metadata.PackageNotFoundError:
        table.left_out["Hugging Face Trainer"] = "accelerate is not installed"
        return False
    return True


def finetuned(
    files: list[Path], labels: list[int], classes: int, shape: dict[str, Any], now: Now = time.process_time
) -> Timed:
    """A step of FineTune."""
    waveforms = {str(file): (soundfile.read(file, dtype="int16"))[0] for file in files}
    names = tuple(map(str, range(classes)))
    clips = [Clip(str(file), file, (names[label],)) for file, label in zip(files, labels, strict=True)]

    def once() -> float:
        config = transformers.Wav2Vec2Config(**shape)
        encoder, ends = Encoder("peer", transformers.Wav2Vec2Model(config)), []
        batches = Batches(waveforms, clips, names, batch_size=ROWS, chunk_seconds=SECONDS, seed=0)

        def report(epoch: int, metrics: dict[str, float]) -> bool:
            if metrics:
                ends.append(now())
            return True

        finetune.train(encoder, batches, Settings(lr=1e-5, epochs=3, seed=0, micro_batch=None, report=report))
        return (ends[-1] - ends[0]) / (2 * len(batches))

    return once


def trainer(
    recordings: rival.Recordings, classes: int, shape: dict[str, Any], workers: int = 0, now: Now = time.process_time
) -> Timed:
    """A step of Hugging Face's Trainer."""

    def once() -> float:
        clock = rival.Clock(rival.WARM + 2 * STEPS, now)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it reached
            rival.train(recordings, classes, ROWS, clock, False, workers, shape, cpu=True)
        return clock.seconds

    return once


def plain(
    recordings: rival.Recordings, classes: int, shape: dict[str, Any], workers: int = 0, now: Now = time.process_time
) -> Timed:
    """A step of a plain PyTorch loop."""

    def once() -> float:
        model = rival.classifier(classes, shape).train()
        adam = torch.optim.AdamW(model.parameters(), lr=1e-5)
        parallel: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
        loader = DataLoader(recordings, batch_size=ROWS, shuffle=True, drop_last=True, **parallel)
        ends = []
        for _ in range(3):
            for batch in loader:
                adam.zero_grad()
                model(**batch).loss.backward()
                adam.step()
            ends.append(now())
        return (ends[-1] - ends[0]) / (2 * (len(recordings) // ROWS))

    return once


def recipe(files: list[Path], labels: list[int], classes: int, shape: dict[str, Any]) -> Timed:
    """A step of SpeechBrain's recipe."""

    def once() -> float:
        size: dict[str, Any] = {"rows": ROWS, "samples": round(SECONDS * rival.RATE), "shape": shape, "count": 3}
        ends = [time.process_time() for _ in speechbrain_loop.epochs(files, labels, classes, **size)]
        return (ends[-1] - ends[0]) / (2 * (len(files) // ROWS))

    return once


def contrast(table: Table, scratch: Path) -> None:
    """Mining and SupCon, forward and backward."""
    from pytorch_metric_learning.losses import SupConLoss
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    miner, supcon = MultiSimilarityMiner(epsilon=0.1), SupConLoss(temperature=0.1)
    for rows, classes in ((64, 7), (1024, 64)):
        draw = torch.Generator().manual_seed(0)
        embeddings, labels = torch.randn(rows, 256, generator=draw), torch.randint(classes, (rows,), generator=draw)
        many = 2048 // rows

        def ours(unit: Tensor, labels: Tensor = labels) -> Tensor:
            return losses.supcon(unit, labels, miner=mining.multi_similarity)

        def theirs(unit: Tensor, labels: Tensor = labels) -> Tensor:
            return supcon(unit, labels, miner(unit, labels))

        def passes(loss: Callable[[Tensor], Tensor], embeddings: Tensor = embeddings, many: int = many) -> None:
            for _ in range(many):
                loss(F.normalize(embeddings.clone().requires_grad_(), dim=1)).backward()

        what = f"mining and SupCon, {many} times {rows} x 256"
        peer = timed(partial(passes, theirs))
        table.compare(what, timed(partial(passes, ours)), pytorch_metric_learning=peer)


def probes(table: Table, scratch: Path) -> None:
    """The grid of five penalties, chosen on validation, beside scikit-learn's: the same features, the same minima."""
    from sklearn.linear_model import LogisticRegression

    for clips, dim, classes in ((249, 128, 7), (2000, 768, 20)):
        draw = np.random.default_rng(0)
        labels = np.arange(clips) % classes
        rows = draw.standard_normal((classes, dim))[labels] + 4 * draw.standard_normal((clips, dim))
        train = Features(torch.tensor(rows).float(), tuple(map(str, range(clips))), torch.tensor(labels))
        names = tuple(map(str, range(classes)))
        mean, deviation = probe._moments(train.embeddings)
        scaled = ((train.embeddings - mean) / deviation).double().numpy()

        def grid(scaled: np.ndarray = scaled, labels: np.ndarray = labels) -> None:
            warm = LogisticRegression(max_iter=500, tol=1e-6, warm_start=True)
            for penalty in probe.PENALTIES:  # the mean loss + penalty / 2 |w|^2, as the sum + |w|^2 / 2C
                warm.set_params(C=1 / (len(scaled) * penalty)).fit(scaled, labels)
                warm.score(scaled, labels)

        def ours(train: Features = train, names: tuple[str, ...] = names) -> None:
            probe.fit(train, train, classes=names, lr=1e-3, kind="lbfgs")

        what = f"a probe's {len(probe.PENALTIES)} penalties, {clips} x {dim}, {classes} classes"
        table.compare(what, timed(ours), scikit_learn=timed(grid))


def stack(table: Table, scratch: Path) -> None:
    """Probes one by one, which is what the search does, beside a stack of them, which is no other system's."""
    import test_probes_at_once as at_once

    for name, (clips, dim, classes) in at_once.SIZES.items():
        train, epochs = at_once.side(clips, dim, classes), at_once.EPOCHS[name] // 2

        def one_by_one(train: Features = train, classes: int = classes, epochs: int = epochs) -> object:
            return at_once.one_by_one(train, classes, epochs)

        def together(train: Features = train, classes: int = classes, epochs: int = epochs) -> object:
            return at_once.at_once(train, classes, epochs)

        what = f"{len(at_once.PROBES)} Adam probes one by one, {clips} x {dim}, {classes} classes"
        table.compare(what, timed(one_by_one), the_same_as_one_stack=timed(together))


def decoding(table: Table, scratch: Path) -> None:
    """From a file of 22 050 Hz to 16 kHz mono."""
    import librosa

    clips = []
    for number in range(40):
        path = scratch / f"{number}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(number).standard_normal(2 * 22_050), 22_050)
        clips.append(Clip(path.name, path, ("noise",)))

    def ours() -> None:
        for clip in clips:
            audio.decode(clip)

    def theirs() -> None:
        for clip in clips:
            librosa.load(clip.path, sr=audio.SAMPLE_RATE)

    table.compare("40 clips of 2 s decoded and resampled", timed(ours), librosa=timed(theirs))


PARTS = {
    "steps": steps,
    "loaders": loaders,
    "contrast": contrast,
    "probes": probes,
    "stack": stack,
    "decoding": decoding,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="OUT")
    parser.add_argument("--rounds", type=int, default=5, help="in turns, after one that is not counted")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--only", default="", metavar="WORD", help="of the peers those with WORD in their name")
    parser.add_argument("--gpu", action="store_true", help="a GPU's table instead, in five minutes")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.gpu:
        script = Path(rival.__file__).with_name("benchmark.py")
        raise SystemExit(subprocess.run([sys.executable, "-W", "ignore", script, asked.folder]).returncode)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peers' own
    versions = {name: measuring._version(name) for name in PEERS}
    table = Table(asked.folder, asked.rounds, asked.only, about=measuring.environment() | {"versions": versions})
    for name in asked.parts:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                PARTS[name](table, Path(scratch))
            except ModuleNotFoundError as error:
                table.left_out[name] = f"{error.name} is not installed"
    table.write()
    print((asked.folder / "peers.md").read_text())


if __name__ == "__main__":
    main()

"""A classifier as one ONNX graph: waveforms and their lengths in, probabilities out, without torch.

Batch and length are free; padding counts for nothing, as in the encoder; standardisation of the features lies in the
last layer's weights.
"""

import contextlib
import importlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.export import Dim

from audioconfit import classifier, files
from audioconfit.audio import SAMPLE_RATE
from audioconfit.classifier import Classifier
from audioconfit.encoders.spectrograms import SpectrogramEncoder
from audioconfit.errors import InputError
from audioconfit.features import mix
from audioconfit.handover import card
from audioconfit.probe import Probe

GRAPH, SMALL_GRAPH = "model.onnx", "model.int8.onnx"
QUANTIZED = ("MatMul", "Gemm")  # the positional convolution's weights are computed in the graph, and cannot be
NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of a probability, against torch
LONGEST_SECONDS, MOST_ROWS = 3600, 1024


@dataclass(frozen=True)
class Heard:
    """A recording with its labels, to try an int8 graph on."""

    samples: Float[np.ndarray, "samples"]  # 16 kHz, in [-1, 1]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Tried:
    """The int8 graph beside the whole one: shares of the recordings whose labels are right, and are the same."""

    recordings: int
    accuracy: float
    small_accuracy: float
    agreement: float
    furthest: float  # of a probability

    def __str__(self) -> str:
        return (
            f"On {self.recordings} test recordings, read whole: accuracy {self.small_accuracy:.4f} in int8 and "
            f"{self.accuracy:.4f} in float32, the same labels for {self.agreement:.1%}, probabilities at most "
            f"{self.furthest:.3f} apart"
        )


@dataclass(frozen=True)
class Written:
    """What `save` found out."""

    difference: float  # of a probability from torch, the largest on noise
    tried: Tried | None


class _Named(nn.Module):
    """The encoder with the probe folded into one layer."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        weight, bias = model.probe.folded()
        self.encoder = model.encoder.eval()
        self.weight, self.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        self.several = model.probe.thresholds is not None
        self.layers = model.probe.layers

    def forward(
        self, waveforms: Float[Tensor, "batch samples"], lengths: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch classes"]:
        embeddings = self.encoder(waveforms, lengths, every_layer=self.layers is not None)
        logits = F.linear(embeddings if self.layers is None else mix(embeddings, self.layers), self.weight, self.bias)
        return logits.sigmoid() if self.several else logits.softmax(1)


def check(model: Classifier) -> None:
    """InputError where no graph can be made of the encoder: its spectrogram is computed row by row."""
    if isinstance(model.encoder, SpectrogramEncoder):
        raise InputError(
            f"There is no ONNX graph of the spectrogram of {model.encoder.name}; export --to transformers, or use "
            "`audioconfit predict`."
        )


def save(model: Classifier, folder: Path, *, small: Sequence[Heard] | None = None) -> Written:
    """model.onnx, its card and classifier.json into `folder`. With `small` model.int8.onnx too, tried on these.

    The graph takes `waveforms` (batch x samples, float32, 16 kHz) and `lengths` (samples of each row that count) and
    gives `probabilities` (batch x classes).

    Raises:
        InputError: the packages are not installed, `folder` holds other things, or the graph differs from torch.
    """
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError:
            raise InputError(f"--to onnx needs the package {name}: pip install 'audioconfit[onnx]'.") from None
    classifier.check_free(folder)
    named = _Named(model).eval()
    with files.whole(folder.absolute()) as temporary:
        temporary.mkdir()
        _export(named, model.encoder.receptive_field, temporary / GRAPH)
        description = model.description()
        _describe(temporary / GRAPH, description)
        difference = _difference(named, model.encoder.receptive_field, temporary / GRAPH)
        if difference > TOLERANCE:
            raise InputError(f"The ONNX graph differs from the model by {difference:.1e}; export --to transformers.")
        tried = None
        if small is not None:
            _quantize(temporary / GRAPH, temporary / SMALL_GRAPH)
            tried = _tried(temporary, small, model.probe) if small else None
        files.write(temporary / classifier.DESCRIPTION, json.dumps(description, indent=2))
        usage = [*_use(description), *([] if small is None else _use_of_small(tried))]
        files.write(temporary / "README.md", card.written(description, name=folder.name, use=usage))
        if folder.is_dir():
            shutil.rmtree(folder)
    return Written(difference, tried)


def _quantize(file: Path, out: Path) -> None:
    """Weights of the linear layers as int8, activations as they come: no clips are needed to set a scale."""
    quantization = importlib.import_module("onnxruntime.quantization")
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)  # advice on a step that fails on a graph with free lengths
    try:
        quantization.quantize_dynamic(file, out, op_types_to_quantize=list(QUANTIZED))
    finally:
        log.setLevel(level)


def _tried(folder: Path, heard: Sequence[Heard], probe: Probe) -> Tried:
    ort = importlib.import_module("onnxruntime")
    graphs = [ort.InferenceSession(folder / name, providers=["CPUExecutionProvider"]) for name in (GRAPH, SMALL_GRAPH)]
    right, agreed, furthest = [0, 0], 0, 0.0
    for one in heard:
        given = {"waveforms": one.samples[None], "lengths": np.array([len(one.samples)])}
        whole, small = (graph.run(None, given)[0][0] for graph in graphs)
        named = [_labels(row, probe) for row in (whole, small)]
        right = [count + (labels == set(one.labels)) for count, labels in zip(right, named, strict=True)]
        agreed += named[0] == named[1]
        furthest = max(furthest, float(abs(whole - small).max()))
    return Tried(len(heard), right[0] / len(heard), right[1] / len(heard), agreed / len(heard), furthest)


def _labels(probabilities: Float[np.ndarray, "classes"], probe: Probe) -> set[str]:
    if probe.thresholds is None:
        return {probe.classes[int(probabilities.argmax())]}
    above = torch.from_numpy(probabilities).logit() > probe.thresholds
    return {label for label, yes in zip(probe.classes, above.tolist(), strict=True) if yes}


def _export(named: nn.Module, shortest: int, file: Path) -> None:
    waveforms, lengths = _noise(rows=2, shortest=shortest)
    batch, samples = Dim("batch", max=MOST_ROWS), Dim("samples", min=shortest, max=LONGEST_SECONDS * SAMPLE_RATE)
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            named,
            (waveforms, lengths),
            file,
            dynamo=True,
            input_names=["waveforms", "lengths"],
            output_names=["probabilities"],
            dynamic_shapes={"waveforms": {0: batch, 1: samples}, "lengths": {0: batch}},
            external_data=False,
            verbose=False,
        )


def _describe(file: Path, description: dict[str, Any]) -> None:
    """Classes, chunk and rate go with the graph."""
    onnx = importlib.import_module("onnx")
    graph = onnx.load(file)
    kept = {name: description[name] for name in ("classes", "chunk_seconds", "sample_rate", "thresholds")}
    onnx.helper.set_model_props(graph, {name: json.dumps(value) for name, value in kept.items()})
    onnx.save(graph, file)


def _difference(named: nn.Module, shortest: int, file: Path) -> float:
    """The largest, over one row and a padded batch."""
    session = importlib.import_module("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
    found = []
    for rows in (1, 3):
        waveforms, lengths = _noise(rows=rows, shortest=shortest)
        with torch.no_grad():
            ours = named(waveforms, lengths)
        (theirs,) = session.run(None, {"waveforms": waveforms.numpy(), "lengths": lengths.numpy()})
        found.append(float((ours - torch.from_numpy(theirs)).abs().max()))
    return max(found)


def _noise(*, rows: int, shortest: int) -> tuple[Float[Tensor, "batch samples"], Int[Tensor, "batch"]]:
    draw = torch.Generator().manual_seed(rows)
    whole = max(SAMPLE_RATE, 2 * shortest)
    lengths = torch.tensor([whole - row * (whole - shortest) // max(1, rows - 1) for row in range(rows)])
    return 0.1 * torch.randn(rows, whole, generator=draw), lengths


def _use(description: dict[str, Any]) -> Iterator[str]:
    yield (
        "```python\nimport json\n\nimport numpy as np\nimport onnxruntime\n\n"
        f'session = onnxruntime.InferenceSession("{GRAPH}")\n'
        'classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])\n'
        'given = {"waveforms": samples[None], "lengths": np.array([len(samples)])}  # float32 in [-1, 1], one channel\n'
        "(probabilities,) = session.run(None, given)\n"
        "print(classes[probabilities[0].argmax()])\n```"
    )
    chunk = description["chunk_seconds"]
    yield (
        f"Expects {description['sample_rate']} Hz mono. A batch is padded to its longest row with anything; `lengths` "
        f"says how much of each row counts. Up to {chunk:g} s, the probabilities are those of AudioConFit. A longer "
        f"recording goes through AudioConFit in consecutive pieces of {chunk:g} s, whose frames are averaged, and "
        "through this graph whole: attention then spans all of it, and probabilities differ."
    )


def _use_of_small(tried: Tried | None) -> Iterator[str]:
    found = f"{tried}." if tried else "It was not tried on recordings: `audioconfit export --int8 --on CORPUS` does."
    yield f"`{SMALL_GRAPH}` has the linear layers' weights as int8. {found}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on torch's own code."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.export import Dim

from audioconfit import classifier, files
from audioconfit.audio import SAMPLE_RATE
from audioconfit.classifier import Classifier
from audioconfit.errors import InputError
from audioconfit.features import mix
from audioconfit.handover import card

GRAPH = "model.onnx"
NEEDED = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of a probability, against torch
LONGEST_SECONDS, MOST_ROWS = 3600, 1024


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


def save(model: Classifier, folder: Path) -> float:
    """model.onnx, its card and classifier.json into `folder`; the largest difference from torch on noise.

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
        files.write(temporary / classifier.DESCRIPTION, json.dumps(description, indent=2))
        files.write(temporary / "README.md", card.written(description, name=folder.name, use=_use(description)))
        if folder.is_dir():
            shutil.rmtree(folder)
    return difference


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

"""Run: from a setting to the weights, step by step, with a checkpoint to go on from."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from audioconfit import encoders, files, randomness
from audioconfit.encoders import Encoder
from audioconfit.encoders.layers import standardise
from audioconfit.errors import InputError
from audioconfit.pretraining import blank, views
from audioconfit.pretraining.objective import Heads, Objective, losses
from audioconfit.pretraining.targets import Targets
from audioconfit.pretraining.views import START

ARCHITECTURES = {"wav2vec2-tiny": "wav2vec2", "hubert-tiny": "hubert", "wavlm-tiny": "wavlm"}

STEPS = 4_000
CPU = torch.device("cpu")

LR, WARMUP, CLIPPED = 2e-3, 100, 2.0
CHECKPOINT_STEPS = 10


def rate(step: int, steps: int) -> float:
    """The learning rate: up over WARMUP steps, down along a half cosine."""
    return LR * min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))


@dataclass(frozen=True)
class Setting:
    """All that the weights depend on."""

    name: str
    seed: int = 0
    steps: int = STEPS
    objective: Objective = field(default_factory=Objective)
    start: Literal["filters", "random"] = "filters"
    shape: dict[str, Any] = field(default_factory=dict)  # of the encoder, where it is not blank.SHAPE's

    def __post_init__(self) -> None:
        if self.name not in ARCHITECTURES:
            raise InputError(f"Unknown backbone {self.name!r} to pre-train; choose one of {', '.join(ARCHITECTURES)}.")
        if self.steps < 1:
            raise InputError(f"{self.steps} steps train nothing; choose 1 or more (default {STEPS}).")
        if self.seed < 0:
            raise InputError(f"Seed {self.seed} is negative; choose 0 or more.")


class Run:
    """A pre-training between two steps: what a checkpoint holds, and what follows from the setting."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.step = 0
        self.targets = Targets(setting.seed)
        self.encoder = untrained(setting).train()
        with randomness.private(setting.seed, START, CPU):
            self.heads = Heads(self.encoder.dim, len(self.targets.making_scale[0]))
        self.parameters = [*self.encoder.parameters(), *self.heads.parameters()]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=LR, betas=(0.9, 0.98), weight_decay=0.01)

    def advance(self) -> dict[str, float]:
        """One step; the parts of its loss. ArithmeticError: a loss that is not finite."""
        parts = losses(self.encoder, self.heads, self.targets, views.at(self.setting.seed, self.step))
        loss = sum(weight * parts[name] for name, weight in asdict(self.setting.objective).items() if weight)
        assert isinstance(loss, Tensor)
        told = {name: part.item() for name, part in parts.items()}
        if not loss.isfinite():
            raise ArithmeticError(f"The loss is {loss.item()} after {self.step} steps of {self.setting}: {told}.")
        self.optimiser.param_groups[0]["lr"] = rate(self.step, self.setting.steps)
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIPPED)
        self.optimiser.step()
        self.step += 1
        return told

    def save(self, file: Path) -> None:
        """All that the steps so far changed."""
        kept = [part.state_dict() for part in self._parts]
        with files.whole(file) as temporary:
            torch.save({"setting": asdict(self.setting), "step": self.step, "kept": kept}, temporary)

    def load(self, file: Path) -> None:
        """Go on where `save` left off. InputError: the checkpoint of another setting."""
        found = torch.load(file, weights_only=True)
        if found["setting"] != asdict(self.setting):
            raise InputError(
                f"{file} was left by another pre-training, {found['setting']}, not {asdict(self.setting)}; "
                f"repeat that one's command to finish it, or choose another folder."
            )
        self.step = found["step"]
        for part, state in zip(self._parts, found["kept"], strict=True):
            part.load_state_dict(state)

    @property
    def _parts(self) -> tuple[Any, ...]:
        return self.encoder, self.heads, self.optimiser


def untrained(setting: Setting) -> Encoder:
    """Where a pre-training begins."""
    encoder = blank.blank(ARCHITECTURES[setting.name], seed=setting.seed, start=setting.start, **setting.shape)
    if setting.start == "filters":
        blank.even_out(encoder, standardise(views.at(setting.seed, 0).sound))
    return encoder


Progress = Callable[[int, dict[str, float]], None]


def pretrain(setting: Setting, folder: Path, *, progress: Progress | None = None) -> Encoder:
    """Pre-train, and write the encoder to `folder` as config.json, preprocessor_config.json and model.safetensors.

    A run that was killed goes on from the checkpoint in `folder`, a finished one is loaded. `progress` is told (step,
    the parts of the loss) after each step.

    Raises:
        InputError: a folder with something else in it.
        ArithmeticError: a loss that is not finite.
    """
    about, checkpoint = folder / "pretraining.json", folder / "checkpoint.pt"
    wanted = json.dumps(asdict(setting), indent=2)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose a folder, new or empty.")
    if about.exists() and about.read_text() != wanted:
        raise InputError(f"{folder} holds another pre-training, see {about}; choose another folder.")
    if not about.exists() and folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds something else; choose a folder that is new or empty.")
    if not (folder / "model.safetensors").exists():
        folder.mkdir(parents=True, exist_ok=True)
        files.write(about, wanted)
        run = Run(setting)
        if checkpoint.exists():
            run.load(checkpoint)
        while run.step < setting.steps:
            told = run.advance()
            if progress is not None:
                progress(run.step, told)
            if run.step % CHECKPOINT_STEPS == 0:
                run.save(checkpoint)
        run.encoder.half().save(folder)  # the weights come last: they say that all is there
        checkpoint.unlink(missing_ok=True)
    return encoders.load(str(folder))

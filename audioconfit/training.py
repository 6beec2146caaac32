"""Training: the one optimisation loop, for both methods.

`fit` takes an encoder, a head and a loss; it knows steps, precision, ranks, checkpoints and when to stop, and nothing
of what the loss means. Progress goes out through `report`, validation comes in through `validate`, so that the loop
depends on no service.
"""

import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from audioconfit import caching, files, memory, precision, randomness, ranks
from audioconfit.batches import Batch, Batches
from audioconfit.caching import Loss
from audioconfit.clock import Clock
from audioconfit.encoders import Encoder
from audioconfit.errors import InputError
from audioconfit.precision import Precision

Report = Callable[[int, dict[str, float]], bool]
Validate = Callable[[int], dict[str, float]]

HEARTBEAT_SECONDS = 5.0
CHECKPOINT_SECONDS = 60.0  # within an epoch; the end of an epoch writes one too
CHECKPOINT_SHARE = 0.1  # of the time, at most, goes into writing checkpoints


@dataclass(frozen=True)
class Settings:
    """How a run goes, whatever its loss means.

    Attributes:
        lr: reached after `warmup_steps` linear steps, constant from there.
        decay_steps: where the rate has gone to 0 along a half cosine; 0 where it is constant.
        lr_decay: each layer of the encoder has the rate of the one above it times this; the last one and the head have
            `lr` (Howard and Ruder 2018).
        seed: of what the layers draw (dropout, LayerDrop, SpecAugment); the global streams are left as they were.
        precision: "bf16" and "fp16" run the encoder under autocast; head and loss stay in float32 outside of it. With
            "fp16" a step whose gradients overflow is left out, on all ranks alike: precision.py.
        micro_batch: rows whose activations are kept at once; fewer than the rank has means gradient caching, which is
            exact. "auto" finds what fits the device, anew where a checkpoint comes from another one; None is the whole
            batch.
        validate: asked (epoch) after every epoch, encoder in eval mode; its numbers join the epoch's metrics, {} for
            none. What it draws does not change the training.
        report: told (epoch, {"epoch", "loss", ...}) after every epoch, counted from 1, and (epoch, {}) every few
            seconds in between as a sign of life. Return False to stop. After a resume the finished epochs are reported
            again first.
        checkpoint: file that an interrupted run goes on from, bit for bit on the CPU. It outlives a stop and the end;
            the caller deletes it.
        clock: told what the time goes into.
    """

    lr: float
    epochs: int
    seed: int
    warmup_steps: int = 0
    decay_steps: int = 0
    lr_decay: float = 1.0
    device: torch.device | str = "cpu"
    precision: Precision = "fp32"
    micro_batch: int | str | None = "auto"
    validate: Validate | None = None
    report: Report | None = None
    checkpoint: Path | None = None
    clock: Clock = field(default_factory=Clock)


def alive(tell: Callable[[], object]) -> Callable[[], None]:
    """Tells on every rank, every few seconds however often it is called, by ranks that all do the same work."""
    last = time.monotonic()

    def told() -> None:
        nonlocal last
        if ranks.agree(time.monotonic() - last > HEARTBEAT_SECONDS):
            last = time.monotonic()
            tell()

    return told


class Diverged(RuntimeError):  # noqa: N818  (what happened, not what kind of thing it is)
    """The loss, or in fp16 the gradient at whatever scale, is no finite number. Never skipped: a search must not take
    such a setting for a valid one.
    """

    def __init__(self, epoch: int, step: int, value: float, what: str = "loss", precision: str = "") -> None:
        super().__init__(epoch, step, value, what, precision)  # the arguments, so that it pickles
        self.epoch, self.step, self.value, self.what, self.precision = epoch, step, value, what, precision

    def __str__(self) -> str:
        way_out = ", or precision fp32" if self.precision == "fp16" else ""  # whose numbers end at 65504
        return (
            f"The {self.what} became {self.value} in epoch {self.epoch}, step {self.step}; "
            f"try a lower learning rate{way_out}."
        )


def fit(encoder: nn.Module, head: nn.Module, loss: Loss, batches: Batches, settings: Settings) -> bool:
    """Train encoder and head in place with Adam; True at the end, False where `report` asked to stop.

    `loss` is (head's outputs, labels) -> this rank's share of the loss over all ranks, see losses.py.
    Under several ranks each calls `fit` with its own batches. `validate` and `report` are called on every rank at the
    same points; the answer of rank 0 counts.

    Raises:
        Diverged: the loss is not finite, or the gradient of step after step overflows fp16.
        InputError: batches made for another number of ranks, or with rows shorter than a frame; a checkpoint that is
            further than `epochs`; a precision that the device has not.
    """
    device = torch.device(settings.device)
    if batches.world != ranks.world():
        raise InputError(
            f"These batches are for {batches.world} workers, but {ranks.world()} train: make them with their number."
        )
    if batches.shortest < (shortest := getattr(encoder, "receptive_field", 1)):
        raise InputError(
            f"A row of {batches.shortest} samples cannot be embedded: one frame takes {shortest}. Leave shorter clips "
            f"out, or choose longer chunks."
        )
    precision.check(settings.precision, device)
    run = _Run(encoder, head, loss, settings)
    with randomness.private(settings.seed, ranks.rank(), device):
        goes_on = settings.checkpoint is not None and ranks.agree(settings.checkpoint.exists())
        loaded = settings.checkpoint is not None and goes_on and run.load(settings.checkpoint)
        if not loaded or settings.micro_batch != "auto" or run.fitted_to != memory.described(device):
            run.micro_batch = _micro_batch(settings.micro_batch, run, batches)
            run.fitted_to = memory.described(device)
        return _Loop(run, batches).finish()


def _micro_batch(asked: int | str | None, run: "_Run", batches: Batches) -> int:
    if asked is None:
        return batches.batch_size
    if asked == "auto":
        return caching.rows_that_fit(run.embed, batches.heaviest(), run.model.parameters())
    if not isinstance(asked, int) or asked < 1:
        raise InputError(f"Choose for micro_batch a number of rows, 1 or more, or 'auto', not {asked!r}.")
    return asked


@dataclass
class _Run:
    """What a checkpoint holds: the weights, the optimiser and how far they have come."""

    encoder: nn.Module
    head: nn.Module
    loss: Loss
    settings: Settings
    micro_batch: int = 0
    fitted_to: str = ""  # the device that `micro_batch` was found for
    epoch: int = 0  # finished
    losses: list[float] = field(default_factory=list)  # of the steps of the epoch in progress
    steps: int = 0  # in all
    curve: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.device = torch.device(self.settings.device)
        self.model = nn.ModuleDict({"encoder": self.encoder, "head": self.head}).to(self.device).train()
        ranks.copy_from_first([*self.model.parameters(), *self.model.buffers()])
        groups = [{"params": found, "scale": scale} for scale, found in self._by_rate().items()]
        self._optimiser = torch.optim.Adam(groups, lr=self.settings.lr, fused=self.device.type in ("cpu", "cuda"))
        self.scaler = precision.scaler(self.device, self.settings.precision)

    def _by_rate(self) -> dict[float, list[nn.Parameter]]:
        """The parameters that are trained, by the share of the rate that they have."""
        found: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                above = 0
                if self.settings.lr_decay != 1.0 and isinstance(self.encoder, Encoder) and name.startswith("encoder."):
                    above = self.encoder.layers_above(name.removeprefix("encoder."))
                found.setdefault(self.settings.lr_decay**above, []).append(parameter)
        return found

    def _rate(self) -> float:
        """Of this step, in shares of `lr`."""
        settings = self.settings
        rising = min(1.0, self.steps / max(1, settings.warmup_steps))
        if not settings.decay_steps:
            return rising
        return rising * (1 + math.cos(math.pi * min(1.0, self.steps / settings.decay_steps))) / 2

    def embed(self, batch: Batch) -> Float[Tensor, "batch dim"]:
        """What the loss sees of a batch."""
        with precision.autocast(self.device, self.settings.precision):
            every = {"every_layer": True} if getattr(self.head, "every_layer", False) else {}
            pooled = self.encoder(batch.waveforms, batch.lengths, **every)
        outputs: Tensor = self.head(pooled if pooled.dtype == torch.float64 else pooled.float())
        return outputs

    def step(self, batch: Batch) -> Float[Tensor, ""]:
        """One step of Adam; the loss over all ranks."""
        self._optimiser.zero_grad(set_to_none=True)
        share = caching.backward(self.embed, self.loss, batch, micro_batch=self.micro_batch, scaled=self.scaler.scale)
        ranks.sum_gradients(self.model.parameters())
        self.steps += 1
        for group in self._optimiser.param_groups:
            group["lr"] = self.settings.lr * self._rate() * group.get("scale", 1.0)
        self.scaler.step(self._optimiser)  # behind the sum over ranks: what overflows on one does so on all
        self.scaler.update()
        return ranks.total(share)

    def has_stepped(self) -> bool:
        """Whether Adam ever took a step; only with fp16 may all have been left out."""
        return not self.scaler.is_enabled() or any(float(one["step"]) for one in self._optimiser.state.values())

    def save(self, file: Path) -> None:
        """All of it into one file, from rank 0; a reader sees the old file or the new one and nothing in between."""
        streams = ranks.collect(randomness.state(self.device))
        if ranks.rank() > 0:
            return
        content = {
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "randomness": streams,
            "micro_batch": self.micro_batch,
            "fitted_to": self.fitted_to,
            "epoch": self.epoch,
            "losses": self.losses,
            "steps": self.steps,
            "curve": self.curve,
        }
        with files.whole(file) as temporary:
            torch.save(content, temporary)

    def load(self, file: Path) -> bool:
        """Goes on from a checkpoint. False: it is damaged, and the run begins anew."""
        try:
            content: dict[str, Any] = torch.load(file, map_location=self.device, weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError):  # what torch has for a file that was cut or zeroed
            return False
        if content["epoch"] > self.settings.epochs:
            raise InputError(
                f"{file} has {content['epoch']} epochs behind it, more than the {self.settings.epochs} asked for. "
                "Delete it first."
            )
        self.model.load_state_dict(content["model"])
        self._optimiser.load_state_dict(content["optimiser"])
        if scale := content.get("scaler"):  # of another precision there is none
            self.scaler.load_state_dict(scale)
        self.micro_batch, self.epoch, self.steps = content["micro_batch"], content["epoch"], content["steps"]
        self.losses, self.curve = content["losses"], content["curve"]
        # Those of earlier versions do not say: they stay as they are.
        self.fitted_to = content.get("fitted_to", memory.described(self.device))
        # A run that goes on with more ranks than it had: the new ones begin their own streams.
        if ranks.rank() < len(content["randomness"]):
            randomness.restore(content["randomness"][ranks.rank()], self.device)
        return True


class _Loop:
    """A run's way through its epochs: when to read the loss, validate, tell, save and stop."""

    def __init__(self, run: _Run, batches: Batches) -> None:
        self.run, self.batches, self.settings = run, batches, run.settings
        self._told = self._saved = time.monotonic()
        self._cost_of_saving = 0.0
        self._steps_saved = run.steps

    def finish(self) -> bool:
        """Tell again the epochs that a checkpoint brought with it, then do those that are left; False where stopped."""
        told = all(self._tell(int(metrics["epoch"]), metrics) for metrics in self.run.curve)
        with self.settings.clock.phase("training"):
            return told and all(self._epoch(number) for number in range(self.run.epoch + 1, self.settings.epochs + 1))

    def _epoch(self, number: int) -> bool:
        run = self.run
        run.model.train()
        unread: list[Tensor] = []
        for batch in self.batches.epoch(number, start=len(run.losses)):
            unread.append(run.step(batch))
            self.settings.clock.clips += self.batches.batch_size
            due = ranks.agree(time.monotonic() - self._told > HEARTBEAT_SECONDS)
            if due or run.device.type == "cpu":  # reading a loss makes the CPU wait for the GPU
                self._read(unread, number)
            if due and not self._beat(number):
                return False
        self._read(unread, number)
        if number == self.settings.epochs and not run.has_stepped():
            raise Diverged(number, len(run.losses), math.inf, "gradient", self.settings.precision)
        metrics = {"epoch": float(number), "loss": sum(run.losses) / len(run.losses), **self._validated(number)}
        run.epoch, run.losses = number, []
        run.curve.append(metrics)
        self._save_if(number == self.settings.epochs or self._worth_saving())
        going_on = self._tell(number, metrics)
        self._save_if(not going_on)
        return going_on

    def _read(self, unread: list[Tensor], number: int) -> None:
        for value in torch.stack(unread).tolist() if unread else []:
            self.run.losses.append(value)
            if not math.isfinite(value):
                raise Diverged(number, len(self.run.losses), value, precision=self.settings.precision)
        if unread and self.run.scaler.get_scale() < precision.LEAST_SCALE:
            raise Diverged(number, len(self.run.losses), math.inf, "gradient", self.settings.precision)
        unread.clear()

    def _beat(self, number: int) -> bool:
        """Within an epoch: a sign of life, and a checkpoint when the last one is old or the answer is to stop."""
        self._save_if(time.monotonic() - self._saved > CHECKPOINT_SECONDS and self._worth_saving())
        going_on = self._tell(number, {})
        self._save_if(not going_on)
        return going_on

    def _validated(self, number: int) -> dict[str, float]:
        if self.settings.validate is None:
            return {}
        self.run.model.eval()
        with self.settings.clock.phase("validation"), randomness.kept(self.run.device):
            return self.settings.validate(number)

    def _tell(self, number: int, metrics: dict[str, float]) -> bool:
        self._told = time.monotonic()
        with self.settings.clock.phase("waiting"):
            return ranks.agree(self.settings.report is None or self.settings.report(number, metrics))

    def _worth_saving(self) -> bool:
        """Short epochs of a large model: not all the time goes into its checkpoints."""
        return (time.monotonic() - self._saved) * CHECKPOINT_SHARE >= self._cost_of_saving

    def _save_if(self, wanted: bool) -> None:
        checkpoint = self.settings.checkpoint
        if checkpoint is None or not ranks.agree(wanted) or self._steps_saved == self.run.steps:
            return
        began = time.monotonic()
        with self.settings.clock.phase("rest"):
            self.run.save(checkpoint)
        self._saved, self._steps_saved = time.monotonic(), self.run.steps
        self._cost_of_saving = self._saved - began

"""The loop of SpeechBrain's recipe for emotions (recipes/IEMOCAP, train_with_wav2vec2.py) in plain PyTorch, without
SpeechBrain: the data loader decodes and pads, a mask always goes with a batch, rows are averaged one by one, two
optimisers step behind a clipped gradient, and each step reads its loss.

What decides the amount of work is as ours: clips are cut to the chunk, and the convolutions, which the recipe freezes,
are trained. Left out is what SpeechBrain itself adds: its data pipeline, progress bar and hooks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import soundfile
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

Row = tuple[Tensor, int]


class Clips(Dataset):
    """Decoded anew each time that one is asked for."""

    def __init__(self, files: list[Path], labels: list[int], samples: int) -> None:
        self.files, self.labels, self.samples = files, labels, samples

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Row:
        audio, _ = soundfile.read(self.files[number], frames=self.samples, dtype="float32")
        return torch.from_numpy(audio), self.labels[number]


def padded(rows: list[Row]) -> tuple[Tensor, Tensor, Tensor]:
    """Waveforms, what share of the longest each row fills, and labels."""
    waveforms, labels = zip(*rows, strict=True)
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    return pad_sequence(waveforms, batch_first=True), lengths / lengths.max(), torch.tensor(labels)


class Network(nn.Module):
    """The encoder, the mean over each row's frames, a linear layer."""

    def __init__(self, classes: int, shape: dict[str, Any]) -> None:
        super().__init__()
        config = transformers.Wav2Vec2Config(layerdrop=0.0, apply_spec_augment=False, **shape)
        self.wav2vec2 = transformers.Wav2Vec2Model(config)
        self.linear = nn.Linear(config.hidden_size, classes, bias=False)

    def forward(self, waveforms: Tensor, shares: Tensor) -> Tensor:
        samples = (shares * waveforms.shape[1]).round()
        mask = torch.arange(waveforms.shape[1]) < samples[:, None]
        normal = F.layer_norm(waveforms, waveforms.shape[1:])
        frames = self.wav2vec2(normal, attention_mask=mask.long()).last_hidden_state
        means = [row[: int((share * len(row)).round())].mean(0) for row, share in zip(frames, shares, strict=True)]
        return self.linear(torch.stack(means)).log_softmax(1)


def epochs(
    files: list[Path], labels: list[int], classes: int, *, rows: int, samples: int, shape: dict[str, Any], count: int
) -> Iterator[float]:
    """The mean loss of each epoch, as it ends."""
    network = Network(classes, shape).train()
    encoders, heads = (
        torch.optim.Adam(part.parameters(), lr=lr) for part, lr in ((network.wav2vec2, 1e-5), (network.linear, 1e-4))
    )
    loader = DataLoader(Clips(files, labels, samples), batch_size=rows, shuffle=True, drop_last=True, collate_fn=padded)
    for _ in range(count):
        mean = 0.0
        for step, (waveforms, shares, targets) in enumerate(loader, start=1):
            loss = F.nll_loss(network(waveforms, shares), targets)
            loss.backward()
            if loss.isfinite():
                nn.utils.clip_grad_norm_(network.parameters(), 5.0)
                encoders.step()
                heads.step()
            encoders.zero_grad()
            heads.zero_grad()
            mean += (loss.item() - mean) / step
        yield mean

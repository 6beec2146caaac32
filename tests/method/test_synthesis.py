"""Stand-ins for the six corpora: read by the real loaders, cut by the real protocols, the same every time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from audioconfit import audio, corpora, splits, synthesis
from audioconfit.corpora import CORPORA, Clip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All six stand-ins."""
    folder = tmp_path_factory.mktemp("data")
    for name in CORPORA:
        synthesis.write(name, folder)
    return folder


@pytest.mark.parametrize("name", CORPORA)
def test_the_real_loader_and_the_real_protocol_take_a_stand_in(data: Path, name: str) -> None:
    corpus = corpora.load(name, data)
    assert corpus.generated
    for fold in range(splits.fold_count(corpus)):
        split = splits.split(corpus, fold=fold)
        for side in (split.train, split.valid, split.test):
            assert {clip.label for clip in side} == set(corpus.classes)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("timit/TRAIN/DR1/FCJF0/SA1.WAV", ("NIST", "PCM_16", 16_000, 1)),
        ("gtzan/genres/blues/blues.00029.wav", ("WAV", "PCM_16", 22_050, 1)),
        ("esc50/audio/1-100010-A-0.wav", ("WAV", "PCM_16", 44_100, 1)),
        ("mswc-spanish/es/clips/agua/common_voice_es_73000.opus", ("OGG", "OPUS", 48_000, 1)),
        ("emodb/wav/03a01Fa.wav", ("WAV", "PCM_16", 16_000, 1)),
    ],
)
def test_files_have_the_real_names_and_formats(data: Path, path: str, kind: tuple[str, str, int, int]) -> None:
    info = soundfile.info(data / path)
    assert (info.format, info.subtype, info.samplerate, info.channels) == kind


@pytest.mark.parametrize("name", ["mswc-indonesian", "timit"])
def test_equal_seeds_write_equal_bytes_and_other_seeds_other_sounds(data: Path, tmp_path: Path, name: str) -> None:
    again, other = synthesis.write(name, tmp_path / "again"), synthesis.write(name, tmp_path / "other", seed=1)
    clips = corpora.load(name, data).clips
    for clip in clips:
        assert (again / clip.key).read_bytes() == clip.path.read_bytes()
    there = [path for clip in clips if (path := other / clip.key).exists()]
    assert there
    assert all(path.read_bytes() != (again / path.relative_to(other)).read_bytes() for path in there)


def test_what_is_there_stays_and_what_we_did_not_write_is_left_alone(tmp_path: Path) -> None:
    folder = synthesis.write("esc50", tmp_path)
    before = (folder / "meta" / "esc50.csv").stat()
    assert synthesis.write("esc50", tmp_path) == folder
    assert (folder / "meta" / "esc50.csv").stat() == before
    assert not list(tmp_path.glob(".*"))
    (folder / ".generated").unlink()
    with pytest.raises(ValueError, match="exists and was not generated"):
        synthesis.write("esc50", tmp_path)


def test_noise_hides_the_sound_and_leaves_it_as_loud(tmp_path: Path) -> None:
    clean, noisy = synthesis.write("timit", tmp_path / "clean"), synthesis.write("timit", tmp_path / "noisy", noise=2.0)
    said, heard = (soundfile.read(folder / "TRAIN/DR1/FCJF0/SA1.WAV")[0] for folder in (clean, noisy))
    assert np.sqrt(np.mean(heard**2)) == pytest.approx(np.sqrt(np.mean(said**2)), rel=1e-3)
    # In noise n times as strong, n from 1 to 4, sound and mixture correlate by 1 / sqrt(1 + n^2).
    assert 0.2 < float(np.corrcoef(said, heard)[0, 1]) < 0.75


def test_an_unknown_name_or_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No stand-in for 'esc10'; choose one of emodb, esc50"):
        synthesis.write("esc10", tmp_path)
    with pytest.raises(ValueError, match="Unknown size 'big'; choose one of tiny, small"):
        synthesis.write("esc50", tmp_path, size="big")


@pytest.mark.parametrize("name", CORPORA)
def test_its_classes_can_be_learnt(data: Path, tmp_path: Path, name: str) -> None:
    """Log spectra and a linear probe go far beyond chance on clips that they have not seen."""
    corpus = corpora.load(name, data)
    waveforms, split = audio.prepare(corpus, tmp_path), splits.split(corpus)
    features: Callable[[tuple[Clip, ...]], np.ndarray] = lambda clips: np.array(  # noqa: E731
        [_spectrum(waveforms[clip.key] / audio.SCALE) for clip in clips]
    )
    scaler = StandardScaler().fit(features(split.train))
    probe = LogisticRegression(max_iter=1_000).fit(
        scaler.transform(features(split.train)), [clip.label for clip in split.train]
    )
    scored = probe.score(scaler.transform(features(split.test)), [clip.label for clip in split.test])
    assert scored > 2.5 / len(corpus.classes)
    assert not waveforms.faults


def _spectrum(samples: np.ndarray) -> np.ndarray:
    """Mean and deviation over time of the log energies in 40 bands, closer together at low frequencies."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 400)[::160] * np.hanning(400)
    edges = np.unique(np.geomspace(2, 200, 41).astype(int))
    power = np.add.reduceat(np.abs(np.fft.rfft(frames)) ** 2, edges[:-1], axis=1)
    bands = np.log(power + 1e-6)
    return np.concatenate([bands.mean(axis=0), bands.std(axis=0)])

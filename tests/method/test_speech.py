"""Speech: the pitch that was asked for, formants where they belong, another sound for another seed."""

import time

import numpy as np
import pytest

from audioconfit.pretraining import speech
from audioconfit.pretraining.language import Language, Segment
from audioconfit.pretraining.speech import Manner, Track, Voice

NEUTRAL = (500.0, 1500.0, 2500.0, 3500.0)
CLEAR = Voice(
    pitch=120.0, tract=1.0, formants=(1.0,) * 6, bandwidth=1.0, tilt=10.0, breath=0.0, jitter=0.0, shimmer=0.0
)


def held(steps: int = 400, *, voice: float = 1.0, formants: tuple[float, ...] = NEUTRAL, **values: float) -> Track:
    """Controls that stay where they are; 400 steps are 2 s."""
    values = {"pitch": 120.0, "breath": 0.0, "hiss": 0.0, "centre": 2000.0, "width": 0.5, "nasal": 0.0} | values
    curves = {name: np.full(steps, value) for name, value in values.items()}
    tilt = curves.pop("tilt", np.full(steps, 10.0))
    return Track(formants=np.tile(formants, (steps, 1)), voice=np.full(steps, voice), tilt=tilt, **curves)


def sound_of(track: Track, voice: Voice = CLEAR, seed: int = 0) -> np.ndarray:
    return speech.render(track, voice, np.random.default_rng(seed))


def spectrum(sound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hz and decibels of the middle second: bins of 1 Hz."""
    middle = sound[8_000:24_000] * np.hanning(16_000)
    return np.fft.rfftfreq(16_000, 1 / speech.RATE), 20 * np.log10(np.abs(np.fft.rfft(middle)) + 1e-9)


def period_of(sound: np.ndarray) -> float:
    """Samples from one pulse to the next, by the autocorrelation's highest peak from 400 Hz down to 50 Hz."""
    middle = sound[8_000:24_000]
    power = np.abs(np.fft.rfft(middle, 32_768)) ** 2
    return 40 + int(np.fft.irfft(power)[40:320].argmax())


def envelope(sound: np.ndarray, hertz: float, width: float) -> float:
    """The strongest decibel around a frequency."""
    frequencies, decibels = spectrum(sound)
    return float(decibels[np.abs(frequencies - hertz) <= width].max())


@pytest.mark.parametrize("pitch", [60.0, 100.0, 160.0, 320.0])
def test_the_pitch_is_the_one_asked_for(pitch: float) -> None:
    assert period_of(sound_of(held(pitch=pitch))) == pytest.approx(speech.RATE / pitch, abs=1)


def test_harmonics_lie_at_multiples_of_the_pitch_and_nowhere_else() -> None:
    frequencies, decibels = spectrum(sound_of(held(pitch=200.0)))
    between = decibels[(frequencies > 20) & (np.abs((frequencies + 100) % 200 - 100) > 20) & (frequencies < 4000)]
    assert all(decibels[200 * n] > between.max() for n in range(1, 13))


@pytest.mark.parametrize("first", [300.0, 500.0, 800.0])
@pytest.mark.parametrize("tract", [0.85, 1.0, 1.2])
def test_formants_are_where_they_were_put_and_a_short_tract_raises_them(first: float, tract: float) -> None:
    voice = Voice(100.0, tract, (1.0,) * 6, bandwidth=1.0, tilt=0.0, breath=0.0, jitter=0.0, shimmer=0.0)
    whispered = held(voice=0.0, breath=1.0, formants=(first, 1500.0, 2500.0, 3500.0), tilt=0.0)
    mean = np.mean(
        [10 ** (spectrum(sound_of(whispered, voice, seed))[1] / 10) for seed in range(12)], axis=0
    )  # of noise
    smooth = np.convolve(mean, np.ones(41) / 41, mode="same")
    low = round(first * tract * 0.6), round(first * tract * 1.4)
    assert low[0] + smooth[low[0] : low[1]].argmax() == pytest.approx(first * tract, rel=0.08)


def test_more_tilt_is_a_darker_voice() -> None:
    def fall(tilt: float) -> float:
        sound = sound_of(held(pitch=100.0, tilt=tilt))
        return envelope(sound, 500, 60) - envelope(sound, 1500, 60)

    # From 250 Hz on: 6 dB per octave more is 15.7 dB more at 1500 Hz, and 7.0 at 500 Hz.
    assert fall(14.0) - fall(8.0) == pytest.approx(15.7 - 7.0, abs=0.5)


def test_a_hiss_lies_around_its_centre() -> None:
    frequencies, decibels = spectrum(sound_of(held(voice=0.0, hiss=1.0, centre=4000.0, width=0.2)))
    power = 10 ** (decibels / 10)
    assert (frequencies * power).sum() / power.sum() == pytest.approx(4000, rel=0.05)


def test_the_nose_takes_from_900_hz() -> None:
    oral, nasal = (sound_of(held(pitch=100.0, nasal=share)) for share in (0.0, 1.0))
    loss = [envelope(oral, hertz, 20) - envelope(nasal, hertz, 20) for hertz in (900, 300)]
    assert loss[0] - loss[1] > 10


def test_silence_stays_silent_while_the_voice_is_off() -> None:
    track = held()
    track.voice[200:] = 0.0
    sound = sound_of(track)
    assert np.abs(sound[17_000:]).max() < 1e-3 < np.abs(sound[:16_000]).max()


def test_an_utterance_knows_its_pitch() -> None:
    vowel = (Segment(0.5, NEUTRAL, voice=1.0),)
    said = speech.say([(vowel,)] * 4, CLEAR, Manner(range=0.0, slope=0.0, unevenness=0.0), np.random.default_rng(0))
    true = np.median(said.pitch[100:300])
    assert period_of(said.sound) == pytest.approx(speech.RATE / true, rel=0.05)
    assert len(said.sound) == speech.STEP * len(said.pitch)


def test_pauses_and_whispers_have_no_pitch() -> None:
    vowel = (Segment(0.4, NEUTRAL, voice=1.0),)
    said = speech.say([(vowel,), None, (vowel,)], CLEAR, Manner(unevenness=0.0), np.random.default_rng(0))
    assert (said.pitch[:60] > 0).all()
    assert (said.pitch[95:100] == 0).all()
    whispered = speech.say([(vowel,)], CLEAR, Manner(whisper=True), np.random.default_rng(0))
    assert not whispered.pitch.any()
    assert np.abs(whispered.sound).max() == pytest.approx(1, abs=1e-3)


def test_a_shout_is_brighter_and_faster_speech_is_shorter() -> None:
    vowel = (Segment(0.5, NEUTRAL, voice=1.0),)

    def say(**manner: float) -> np.ndarray:
        even = Manner(range=0.0, unevenness=0.0, dynamics=0.0, **manner)
        return speech.say([(vowel,)] * 4, CLEAR, even, np.random.default_rng(0)).sound

    murmured, shouted = (say(effort=effort) for effort in (-1.0, 1.0))
    bright = [envelope(sound, 3500, 100) - envelope(sound, 500, 100) for sound in (murmured, shouted)]
    assert bright[1] - bright[0] > 10
    assert len(say(tempo=2.0)) == pytest.approx(len(say()) / 2, rel=0.02)


def utterances(seed: int, count: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    language = Language.drawn(rng)
    return [speech.utter(language, Voice.drawn(rng), Manner.drawn(rng), 2.0, rng).sound for _ in range(count)]


def test_the_seed_decides_every_sample() -> None:
    first, again, other = utterances(1), utterances(1), utterances(2)
    assert all(np.array_equal(one, same) for one, same in zip(first, again, strict=True))
    assert not any(np.array_equal(one, else_) for one, else_ in zip(first, other, strict=True))


def test_utterances_are_as_long_as_asked_finite_and_of_peak_1() -> None:
    for sound in utterances(3, count=40):
        assert sound.shape == (32_000,)
        assert sound.dtype == np.float32
        assert np.abs(sound).max() == pytest.approx(1, abs=1e-3)
        assert abs(sound.mean()) < 0.02


def test_too_few_syllables_are_followed_by_silence() -> None:
    vowel = (Segment(0.5, NEUTRAL, voice=1.0),)
    said = speech.say([(vowel,)], CLEAR, Manner(), np.random.default_rng(0), seconds=2.0)
    assert (len(said.sound), len(said.pitch)) == (32_000, 400)
    assert not said.sound[20_000:].any()
    assert not said.pitch[250:].any()


def test_drawn_voices_and_manners_cover_what_people_do() -> None:
    rng = np.random.default_rng(0)
    pitches = [said.pitch[said.pitch > 0] for said in (_any(rng) for _ in range(150)) if said.pitch.any()]
    medians = [np.median(pitch) for pitch in pitches]
    assert min(medians) < 70
    assert max(medians) > 380
    spreads = [np.std(12 * np.log2(pitch)) for pitch in pitches]
    assert np.percentile(spreads, 90) > 4 * np.percentile(spreads, 10)


def _any(rng: np.random.Generator) -> speech.Utterance:
    return speech.utter(Language.drawn(rng), Voice.drawn(rng), Manner.drawn(rng), 1.5, rng)


def test_speech_is_made_sixty_times_faster_than_it_is_spoken() -> None:
    utterances(0)
    began = time.process_time()
    utterances(0, count=20)
    assert 40 / (time.process_time() - began) > 60

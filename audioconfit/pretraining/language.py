"""Language: invented words of invented syllables, each phone a few positions of the articulators (for speech.py)."""

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator


@dataclass(frozen=True)
class Segment:
    """A stretch in which the articulators aim at one position."""

    seconds: float
    formants: tuple[float, float, float, float]  # Hz, an adult male's
    voice: float = 0.0  # loudness of the glottal source
    breath: float = 0.0  # of noise at the glottis
    hiss: float = 0.0  # of noise in the mouth, around `centre` Hz and `width` octaves
    centre: float = 2000.0
    width: float = 0.6
    nasal: float = 0.0  # how far the nose takes part


Phone = tuple[Segment, ...]
Syllable = tuple[Phone, ...]


SILENCE = Segment(0.15, (500.0, 1500.0, 2500.0, 3500.0))


@dataclass(frozen=True)
class Language:
    """Some words; each is syllables, each of these phones. The first phone that is a vowel carries the accent."""

    words: tuple[tuple[Syllable, ...], ...]

    @classmethod
    def drawn(cls, rng: Generator, *, words: int = 40) -> "Language":
        """A language at random: its vowels and consonants, its syllables' shapes, its words."""
        vowels = [_vowel(rng) for _ in range(rng.integers(4, 13))]
        consonants = [CONSONANTS[kind](rng) for kind in rng.integers(0, len(CONSONANTS), rng.integers(8, 25))]
        onset, cluster, coda, glide = rng.uniform((0.6, 0.0, 0.0, 0.0), (1.0, 0.4, 0.7, 0.3))

        def syllable() -> Syllable:
            phones = []
            for chance in (onset, onset * cluster):
                if rng.random() < chance:
                    phones.append(consonants[rng.integers(len(consonants))])
            phones += [vowels[rng.integers(len(vowels))] for _ in range(1 + (rng.random() < glide))]
            if rng.random() < coda:
                phones.append(consonants[rng.integers(len(consonants))])
            return tuple(phones)

        return cls(tuple(tuple(syllable() for _ in range(rng.integers(1, 5))) for _ in range(words)))


def spoken_seconds(syllables: Sequence[Syllable | None]) -> float:
    """How long the syllables take at tempo 1; None is a pause."""
    phones = (phone for syllable in syllables for phone in (syllable or ((SILENCE,),)))
    return sum(segment.seconds for phone in phones for segment in phone)


def _vowel(rng: Generator) -> Phone:
    """Somewhere between i, a and u."""
    openness, front = rng.uniform(0, 1, 2)
    low, high = 700 + 450 * openness, 2350 - 850 * openness
    second = low + (high - low) * front
    formants = (270 + 530 * openness, second, 2450 + 0.3 * (second - 1500) + rng.normal(0, 120), rng.normal(3500, 100))
    return (Segment(rng.uniform(0.07, 0.14), formants, voice=1.0),)


def _nasal(rng: Generator) -> Phone:
    return (Segment(rng.uniform(0.05, 0.08), (270.0, rng.uniform(900, 2100), 2300.0, 3300.0), voice=0.45, nasal=1.0),)


def _liquid(rng: Generator) -> Phone:
    """Like l, r, w or j."""
    formants = (rng.uniform(280, 430), rng.uniform(650, 2300), rng.uniform(1600, 2900), 3400.0)
    return (Segment(rng.uniform(0.04, 0.08), formants, voice=0.6),)


def _fricative(rng: Generator) -> Phone:
    voiced = 0.35 * (rng.random() < 0.4)
    return (_hissing(rng, rng.uniform(0.06, 0.12), voiced),)


def _aspirate(rng: Generator) -> Phone:
    return (Segment(rng.uniform(0.04, 0.08), (500.0, rng.uniform(1000, 1900), 2500.0, 3500.0), breath=0.6),)


def _stop(rng: Generator) -> Phone:
    """Closure, burst and, of some, a breath before the voice sets in."""
    locus = _locus(rng)
    closure = Segment(rng.uniform(0.03, 0.08), locus, voice=0.12 * (rng.random() < 0.4))
    burst = Segment(0.012, locus, hiss=rng.uniform(0.5, 1.5), centre=500 * 2 ** rng.uniform(0, 3.3), width=0.7)
    breath = Segment(rng.uniform(0.02, 0.06), locus, breath=0.5)
    return (closure, burst, breath) if rng.random() < 0.5 else (closure, burst)


def _affricate(rng: Generator) -> Phone:
    return Segment(rng.uniform(0.03, 0.06), _locus(rng)), _hissing(rng, rng.uniform(0.04, 0.08), 0.0)


def _trill(rng: Generator) -> Phone:
    formants = (450.0, rng.uniform(1000, 1700), rng.uniform(1800, 2600), 3400.0)
    beat = (Segment(0.02, formants, voice=0.1), Segment(0.02, formants, voice=0.7))
    return beat * int(rng.integers(1, 4))


def _hissing(rng: Generator, seconds: float, voiced: float) -> Segment:
    centre, width = 1200 * 2 ** rng.uniform(0, 2.5), rng.uniform(0.2, 0.9)
    return Segment(seconds, _locus(rng), voiced, hiss=rng.uniform(0.1, 0.8), centre=centre, width=width)


def _locus(rng: Generator) -> tuple[float, float, float, float]:
    """Where the formants point to while the mouth is closed or nearly so: what tells p from t from k."""
    return 280.0, rng.uniform(700, 2300), rng.uniform(2100, 2900), 3500.0


CONSONANTS = (_nasal, _liquid, _fricative, _fricative, _aspirate, _stop, _stop, _stop, _affricate, _trill)

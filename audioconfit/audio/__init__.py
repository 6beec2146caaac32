"""Audio: clips decoded to 16 kHz mono, and the store in which a corpus is prepared once for training.

waveforms = audio.prepare(corpus, folder)      # decode what is not there yet, in parallel, resumable
waveforms = audio.load(folder)                 # on a worker: nothing but the folder
waveforms[clip.key]                            # int16, a view into the memory-mapped file
"""

from audioconfit.audio.decoders import Unreadable
from audioconfit.audio.decoding import SAMPLE_RATE, SCALE, decode, duration, resample
from audioconfit.audio.parts import to_int16
from audioconfit.audio.preparing import place, prepare
from audioconfit.audio.waveforms import Fault, Recordings, Waveforms, load

__all__ = [
    "SAMPLE_RATE",
    "SCALE",
    "Fault",
    "Recordings",
    "Unreadable",
    "Waveforms",
    "decode",
    "duration",
    "load",
    "place",
    "prepare",
    "resample",
    "to_int16",
]

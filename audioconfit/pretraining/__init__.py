"""Pre-training: small backbones of our own, from speech that nobody ever spoke.

    python -m audioconfit pretrain wav2vec2-tiny --out FOLDER     # about 20 minutes on one core

A batch is a pure function of (seed, step), so that a run that was killed goes on to the same weights, bit for bit on
one machine. What is listened to is made in speech.py and recorded in rooms.py. What is
learned, all at once (`Objective`):

- masked prediction, as in HuBERT (Hsu et al. 2021): the cluster of each hidden frame of the clean sound,
- the log-mel spectrum, the voicing and the pitch of each frame,
- the statistics of these over the clip, and how the clip was made: who speaks, and in what manner,
- which two clips come from one utterance (InfoNCE, van den Oord et al. 2018).
"""

from audioconfit.pretraining.objective import Objective
from audioconfit.pretraining.run import ARCHITECTURES, STEPS, Run, Setting, pretrain, untrained

__all__ = ["ARCHITECTURES", "STEPS", "Objective", "Run", "Setting", "pretrain", "untrained"]

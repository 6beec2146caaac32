"""The method: contrastive fine-tuning of speech models (PairTune), and the linear probe on the frozen features.

`load_corpus` -> `fit` -> a `Classifier` with `scores`, `predict` and `save`; `load` brings it back. Its steps, one by
one: `corpora.load` -> `audio.prepare` -> `recipe.Recipe` -> `method.tune`, `fit_probe`, `evaluate`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from audioconfit.fitting import fit, load_corpus
    from audioconfit.handover.models import load

__all__ = ["fit", "load", "load_corpus"]

__version__ = "0.2.0"

# Imported when asked for: processes that only decode start without torch.
HOMES = {"fit": "fitting", "load_corpus": "fitting", "load": "handover.models"}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)

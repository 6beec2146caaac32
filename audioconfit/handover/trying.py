"""The test recordings of a model's corpus, to try another form of the model on."""

from pathlib import Path

from audioconfit import audio, corpora, splits
from audioconfit.classifier import Classifier
from audioconfit.errors import InputError
from audioconfit.handover.onnx_graph import Heard


def heard(model: Classifier, corpus: str, data: Path) -> list[Heard]:
    """The clips of `corpus` that tested the model, decoded; those that cannot be read or have no frame are left out.

    InputError: the model was made on another corpus, or does not say on which.
    """
    found = corpora.load(corpus, data)
    recipe = model.about.get("recipe", {})
    if recipe.get("dataset") != found.name:
        raise InputError(
            f"The model is of {recipe.get('dataset', 'a corpus that it does not name')}, not of {found.name}: its test "
            f"clips are not known. Leave --on out, or name the model's own corpus."
        )
    split = splits.split(found, protocol=recipe.get("protocol"), fold=recipe.get("fold", 0))
    recordings = []
    for clip in split.test:
        try:
            samples = audio.decode(clip)
        except audio.Unreadable:
            continue
        if len(samples) >= model.encoder.receptive_field:
            recordings.append(Heard(samples, clip.labels))
    return recordings

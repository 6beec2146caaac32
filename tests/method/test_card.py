"""The model card: what it says to everybody."""

import makers
import pytest

from audioconfit.handover import card


@pytest.mark.parametrize(
    ("backbone", "shown"),
    [
        ("/home/somebody/secret/checkpoint", "Backbone: checkpoint,"),
        ("org/model", "Backbone: org/model,"),
        ("wav2vec2-tiny", "Backbone: wav2vec2-tiny,"),
    ],
)
def test_a_card_may_go_public_and_names_no_folder_of_its_maker(backbone: str, shown: str) -> None:
    recipe = makers.recipe(backbone=backbone).model_dump()
    about = {"recipe": recipe, "signature": "0123", "metrics": {}}
    description = {
        **{"backbone": backbone, "architecture": "wav2vec2", "classes": ["a", "b"], "thresholds": None},
        **{"about": about, "chunk_seconds": 1.0},
    }
    said = card.written(description, name="tones", use=[])
    assert shown in said
    assert "somebody" not in said
    assert ("base_model: org/model" in said) == (backbone == "org/model")

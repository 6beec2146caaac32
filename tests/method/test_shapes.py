"""Shapes and types are checked in every test run: what an annotation says is true of every call."""

import pytest
import torch
from jaxtyping import TypeCheckError

from audioconfit import losses, pretraining, scores
from audioconfit.batches import Batch


def test_a_wrong_shape_is_refused_by_its_name() -> None:
    with pytest.raises(TypeCheckError, match="labels"):
        losses.supcon(torch.zeros(4, 8), torch.zeros(3, dtype=torch.long))


def test_a_wrong_type_of_number_is_refused() -> None:
    with pytest.raises(TypeCheckError, match="labels"):
        scores.score(torch.tensor([True, False]), torch.zeros(2, 2), ("a", "b"))


def test_values_between_stages_are_checked_too() -> None:
    with pytest.raises(TypeCheckError, match="lengths"):
        Batch(torch.zeros(4, 160), torch.full((3,), 160), torch.zeros(4, dtype=torch.long))


def test_every_part_of_the_method_is_checked() -> None:
    with pytest.raises(TypeCheckError, match="steps"):
        pretraining.Setting("hubert-tiny", steps="many")

"""An encoder with a linear layer on it, as transformers' own sequence classifier: a checkpoint that needs none of our
code.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from audioconfit import randomness
from audioconfit.encoders.encoder import Encoder, ends_apart
from audioconfit.encoders.weights import quiet
from audioconfit.errors import InputError

SEQUENCE_CLASSIFIERS: dict[str, type[PreTrainedModel]] = {
    "wav2vec2": transformers.Wav2Vec2ForSequenceClassification,
    "hubert": transformers.HubertForSequenceClassification,
    "wavlm": transformers.WavLMForSequenceClassification,
    "unispeech": transformers.UniSpeechForSequenceClassification,
    "unispeech-sat": transformers.UniSpeechSatForSequenceClassification,
    "data2vec-audio": transformers.Data2VecAudioForSequenceClassification,
    "wav2vec2-conformer": transformers.Wav2Vec2ConformerForSequenceClassification,
    "sew": transformers.SEWForSequenceClassification,
    "wav2vec2-bert": transformers.Wav2Vec2BertForSequenceClassification,
}


def is_known(encoder: Encoder, layers: Float[Tensor, "layers"] | None = None) -> bool:
    """Whether transformers has a classifier that reads this encoder, or these layers of it, as we do. Of spectrograms
    it averages the filling too (Whisper), or reads two tokens (AST); of SEW's pooled layers it has no mean.
    """
    architecture = encoder.model.config.model_type
    return architecture in SEQUENCE_CLASSIFIERS and (architecture != "sew" or layers is None or bool(layers[-1] == 1))


NO_WEIGHT = 1e-30  # in place of 0, whose logarithm is not finite; a sum of float32 does not notice it


def save(
    encoder: Encoder,
    weight: Float[Tensor, "classes dim"],
    bias: Float[Tensor, "classes"],
    folder: Path,
    *,
    classes: Sequence[str],
    multi_label: bool = False,
    layers: Float[Tensor, "layers"] | None = None,
) -> None:
    """config.json, preprocessor_config.json and model.safetensors into `folder`, which is made.

    `weight` and `bias` are of the encoder's embeddings as they are. transformers puts a projector in front of the mean
    over frames; it is the identity here. With `multi_label` transformers' pipelines take a sigmoid per class. `layers`:
    the weights of the layers' mean that the classifier reads; None: the last layer alone.
    InputError: weights of several layers of a backbone that normalises after the last one, for transformers adds that
    layer up as it is before.
    """
    if layers is not None and layers[-1] == 1:  # the same, and without the other layers
        layers = None
    if layers is not None and layers[-1] > 0 and ends_apart(encoder.model.config):
        raise InputError(
            f"{encoder.name} normalises after its last layer, which transformers' weighted sum of layers leaves out: "
            "choose a single layer for the probe."
        )
    encoder.save_configuration(folder)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {
        "classifier_proj_size": encoder.dim,
        "use_weighted_layer_sum": layers is not None,
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
        "problem_type": "multi_label_classification" if multi_label else "single_label_classification",
    }
    config = type(encoder.model.config)(**settings)
    with quiet():
        # Its first weights are drawn from the global streams, and all of them are replaced.
        with randomness.private(0, 0, torch.device("cpu")):
            model: Any = SEQUENCE_CLASSIFIERS[config.model_type](config)
        with torch.no_grad():
            model.base_model.load_state_dict(encoder.model.state_dict())
            model.projector.weight.copy_(torch.eye(encoder.dim))
            model.projector.bias.zero_()
            model.classifier.weight.copy_(weight)
            model.classifier.bias.copy_(bias)
            if layers is not None:
                model.layer_weights.copy_(layers.clamp_min(NO_WEIGHT).log())
        model.save_pretrained(folder)

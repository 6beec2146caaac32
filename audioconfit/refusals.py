"""Refusals: recipes that cannot run, told before anything is loaded or trained. A sweep asks for every value that it
may try, and for every two of them together.
"""

from audioconfit import encoders, probe
from audioconfit.audio import SAMPLE_RATE, Waveforms
from audioconfit.encoders import adapters
from audioconfit.errors import InputError
from audioconfit.recipe import Recipe

USUAL = {name: field.default for name, field in Recipe.model_fields.items()}


def check(recipe: Recipe, waveforms: Waveforms) -> None:
    """Refuses what cannot work before any expensive step: a chunk longer than every clip, a layer that is not there,
    settings that exclude each other. Loads no weights.

    Raises:
        InputError: with the value and the way out.
    """
    if recipe.fingerprint != waveforms.fingerprint:
        raise InputError(
            f"The recipe is for {recipe.dataset} with content {recipe.fingerprint[:12]}, but the prepared corpus has "
            f"{waveforms.fingerprint[:12]}: its recordings or labels have changed. Start a sweep under another name."
        )
    probe.check_balance(recipe.probe_balance, recipe.probe, multi_label=waveforms.corpus.multi_label)
    _check_chunk(recipe, waveforms)
    _check_layer(recipe)
    if recipe.method != "frozen":
        _check_training(recipe)
    if recipe.spec_augment:
        _check_masking(recipe)


def _check_chunk(recipe: Recipe, waveforms: Waveforms) -> None:
    longest = waveforms.longest_seconds
    if recipe.chunk_seconds > longest:
        raise InputError(
            f"A chunk of {recipe.chunk_seconds:g} s is longer than every clip of {recipe.dataset} (the longest has "
            f"{longest:.2f} s); choose chunks of at most {longest:.2f} s."
        )
    if (most := encoders.longest(recipe.backbone)) is not None and round(recipe.chunk_seconds * SAMPLE_RATE) > most:
        raise InputError(
            f"{recipe.backbone} takes {most / SAMPLE_RATE:g} s at most, and a chunk of {recipe.chunk_seconds:g} s is "
            f"longer; choose chunks of at most {most / SAMPLE_RATE:g} s."
        )


def _check_layer(recipe: Recipe) -> None:
    readable = ("last",) if recipe.layers == "last" else encoders.layers(recipe.backbone)
    if recipe.probe_layer not in readable:
        raise InputError(
            f"The probe cannot read layer {recipe.probe_layer} of {recipe.backbone} (layers={recipe.layers}); choose "
            f"one of {', '.join(map(str, readable))}" + (", or layers=all." if recipe.layers == "last" else ".")
        )


def _check_training(recipe: Recipe) -> None:
    if recipe.batch_size % recipe.views:
        raise InputError(
            f"A batch of {recipe.batch_size} cannot hold {recipe.views} views of every clip (views={recipe.views}); "
            "choose batch sizes that are a multiple."
        )
    readable = encoders.layers(recipe.backbone)
    count = sum(isinstance(layer, int) for layer in readable)
    if recipe.pair_layer not in readable:
        raise InputError(
            f"PairTune cannot read layer {recipe.pair_layer} of {recipe.backbone} (pair_layer); choose one of "
            f"{', '.join(map(str, readable))}."
        )
    if isinstance(recipe.freeze, int) and recipe.freeze > count:
        raise InputError(
            f"Setting freeze={recipe.freeze}: {recipe.backbone} has {count} layers; choose {count} or fewer, or conv."
        )
    if recipe.warmup is not None and recipe.warmup_steps != USUAL["warmup_steps"]:
        raise InputError(
            f"Setting warmup_steps={recipe.warmup_steps} changes nothing with warmup={recipe.warmup:g}, a share of all "
            "steps in their place; leave one of the two."
        )
    has_margin = recipe.mining == "multi_similarity"
    if recipe.method == "pairtune" and not has_margin and recipe.margin != USUAL["margin"]:
        raise InputError(
            f"Setting margin={recipe.margin:g} changes nothing with mining={recipe.mining}; leave one of the two."
        )
    _check_adapters(recipe, count)


def _check_adapters(recipe: Recipe, count: int) -> None:
    if recipe.tune == "full":
        if recipe.lora_rank != USUAL["lora_rank"]:
            raise InputError(f"Setting lora_rank={recipe.lora_rank} changes nothing without tune=lora; set that too.")
        return
    adapters.check()
    if recipe.freeze in ("conv", 0):
        raise InputError(f"Setting freeze={recipe.freeze} changes nothing with tune=lora, which trains layers alone.")
    if recipe.freeze == count:
        raise InputError(
            f"With tune=lora and freeze={recipe.freeze} nothing of {recipe.backbone} is trained, for it has {count} "
            f"layers; choose fewer, or method frozen."
        )


def _check_masking(recipe: Recipe) -> None:
    if (shortest := encoders.shortest_masked(recipe.backbone)) is None:
        raise InputError(f"{recipe.backbone} has no SpecAugment; leave spec_augment off.")
    if recipe.method != "frozen" and round(recipe.chunk_seconds * SAMPLE_RATE) < shortest:
        raise InputError(
            f"SpecAugment masks stretches of {shortest / SAMPLE_RATE:g} s of {recipe.backbone}, and a chunk of "
            f"{recipe.chunk_seconds:g} s is shorter; choose longer chunks, or leave spec_augment off."
        )

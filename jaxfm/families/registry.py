"""The families, by model_type. A new one is a file beside this one and a line here."""

import dataclasses

from jaxfm.core.encoder_config import CAUSAL, EncoderConfig
from jaxfm.errors import UserError, did_you_mean
from jaxfm.families import (
    albert,
    audio_spectrogram_transformer,
    bert,
    camembert,
    clip,
    deberta_v2,
    deit,
    dinov2,
    distilbert,
    electra,
    esm,
    eurobert,
    gemma3_text,
    modernbert,
    modernbert_decoder,
    mpnet,
    neobert,
    roberta,
    vit,
    xlm_roberta,
    xlm_roberta_xl,
    yolos,
)
from jaxfm.families.family import Family, TowerPair

FAMILIES: dict[str, Family] = {}
# By the model_type of whole checkpoints; of each, FAMILIES has the image tower under the same name.
PAIRS: dict[str, TowerPair] = {pair.name: pair for pair in (clip.CLIP_TOWERS, clip.SIGLIP_TOWERS)}
# Shapes of families that transformers computes otherwise: they can be trained and planned, not read or exported.
_SHAPES_ONLY = xlm_roberta_xl.PRESETS


def register(new: Family) -> Family:
    """Adds a family, for the rest of the process; its name and those of its presets must be new."""
    taken = {new.name} & set(FAMILIES) | set(new.presets) & set(presets())
    assert not taken, f"already registered: {sorted(taken)}"
    FAMILIES[new.name] = new
    return new


def presets() -> dict[str, EncoderConfig]:
    """Returns the published shapes of all families by name."""
    found = {name: shape for each in FAMILIES.values() for name, shape in each.presets.items()}
    return found | _SHAPES_ONLY


def token_presets() -> tuple[str, ...]:
    """Returns the names of shapes that read tokens with a learned position each, from the first: for any vocabulary."""
    return tuple(
        name
        for name, shape in presets().items()
        if not shape.reads_patches and shape.position_embedding == "learned" and not shape.position_offset
    )


def preset(name: str) -> EncoderConfig:
    """Returns the encoder shape of that name; an unknown one is a UserError that names the nearest."""
    known = presets()
    if name not in known:
        raise UserError(f"config.model.preset: {name!r} is not a known architecture. {did_you_mean(name, known)}")
    return known[name]


def family(name: str) -> Family:
    """Returns the family of an encoder that is to be written; UserError for a name without tables."""
    if name not in FAMILIES:
        raise UserError(
            f"an encoder of family {name!r} cannot be written for transformers, which computes another function under "
            f"that name; those that can: {', '.join(FAMILIES)}."
        )
    return FAMILIES[name]


def with_sight(encoder: EncoderConfig, sight: str) -> EncoderConfig:
    """Returns the encoder with another sight, under the name of the family whose classes have that."""
    name = encoder.family
    if sight == CAUSAL:
        name = next((each.name for each in FAMILIES.values() if each.causal_of and each.causal_of == name), name)
    elif name in FAMILIES and FAMILIES[name].causal_of:
        name = FAMILIES[name].causal_of
    return dataclasses.replace(encoder, sight=sight, family=name)


def pair_of(image: str, text: str) -> TowerPair | None:
    """Returns the pair that has an image tower and a text tower of these families; None: there is none."""
    return next((pair for pair in PAIRS.values() if (pair.image.name, pair.text.name) == (image, text)), None)


def discriminator_family(name: str) -> str:
    """Returns the family as which encoders of family `name` are trained for replaced-token detection.

    It is `name` where that family's classes have such a head, else a family of the same parameters and function; "" if
    transformers has no such class.
    """
    if name in FAMILIES and "replaced_tokens" in FAMILIES[name].heads:
        return name
    return next((each.name for each in FAMILIES.values() if name in each.discriminator_of), "")


def detector_family(name: str) -> str:
    """Returns the family as which encoders of family `name` are trained to find objects: its own if none is known."""
    return next((each.name for each in FAMILIES.values() if name in each.detector_of), name)


def classes_with(kind: str) -> list[str]:
    """Returns transformers' classes that have a head of that kind, over the families known here."""
    return [each.class_name(kind) for each in FAMILIES.values() if kind in each.heads and each.heads[kind].suffix]


for _module in (
    bert,
    roberta,
    xlm_roberta,
    camembert,
    electra,
    modernbert,
    modernbert_decoder,
    distilbert,
    mpnet,
    albert,
    deberta_v2,
    eurobert,
    neobert,
    esm,
    gemma3_text,
):
    register(_module.FAMILY)
for _family in (
    vit.FAMILY,
    vit.MAE_FAMILY,
    deit.FAMILY,
    dinov2.FAMILY,
    dinov2.WITH_REGISTERS,
    yolos.FAMILY,
    clip.FAMILY,
    clip.SIGLIP_FAMILY,
    clip.CLIP_PAIR,
    clip.SIGLIP_PAIR,
    clip.TEXT_FAMILY,
    clip.SIGLIP_TEXT_FAMILY,
    audio_spectrogram_transformer.FAMILY,
):
    register(_family)

"""What two towers are: as a config asks for, or as the pair has it that they are of."""

import dataclasses

from jaxfm.core.encoder_config import CAUSAL, EncoderConfig
from jaxfm.core.towers import TowersConfig
from jaxfm.errors import UserError
from jaxfm.families.registry import pair_of
from jaxfm.tasks.image_text.spec import AUTO, ImageTextConfig

_DIMENSION = 256  # where nothing says it


def towers_of(
    task: ImageTextConfig, image: EncoderConfig, text: EncoderConfig, weights: TowersConfig | None
) -> TowersConfig:
    """Returns the shape of both towers and of what is between them.

    Keys that are left to "auto" are those of the pair that both families make, weights or not: then the maps after the
    pooled vectors are as its class has them too.

    Args:
      task: keys of the task.
      image: of the image tower, with the patches that are read.
      text: of the text tower.
      weights: the pair that both towers' weights are of; None: they are not of one.

    Raises:
      UserError: a key that contradicts these weights, or a pooling that the encoder cannot have.
    """
    pair = pair_of(image.family, text.family)
    usual = weights or (pair.towers(image, text) if pair else None)
    biased = usual is not None and usual.bias if task.loss == AUTO else task.loss == "sigmoid"
    asked = {"image_pooling": task.image_pooling, "text_pooling": task.text_pooling, "dimension": task.dimension}
    asked = {key: value for key, value in asked.items() if value not in (AUTO, 0)}
    if usual is not None:
        other = [key for key, value in asked.items() if value != getattr(usual, key)]
        if not other:
            return dataclasses.replace(usual, image=image, text=text, bias=biased)
        if weights:
            key, own = other[0], getattr(weights, other[0])
            left = 0 if key == "dimension" else "auto"
            raise UserError(f"config.task.{key}: is {asked[key]!r}, but the weights have {own!r}. Leave it {left}.")
    image_pooling = str(asked.get("image_pooling", "cls"))
    text_pooling = str(asked.get("text_pooling", "last" if text.sight == CAUSAL else "mean"))
    if image_pooling in ("cls", "pooler") and not image.patches.class_token:
        raise UserError(
            f"config.task.image_pooling: is {image_pooling!r}, but there is no class token. Take mean, or map."
        )
    if text.sight == CAUSAL and text_pooling in ("cls", "pooler"):
        raise UserError(
            f"config.task.text_pooling: is {text_pooling!r}, but the first token of this text encoder sees no other. "
            "Take last, or mean."
        )
    return TowersConfig(image, text, image_pooling, text_pooling, task.dimension or _DIMENSION, bias=biased)

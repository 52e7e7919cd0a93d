"""The shape of an encoder of images and one of texts whose vectors are compared."""

import dataclasses

from jaxfm.core.encoder_config import EncoderConfig

# How an image, or a text, becomes a vector; described at the fields of `TowersConfig`.
IMAGE_POOLINGS = ("pooler", "cls", "mean", "map")
TEXT_POOLINGS = ("pooler", "cls", "mean", "last")


@dataclasses.dataclass(frozen=True)
class TowersConfig:
    """All that determines the parameters of two towers and their function.

    Attributes:
      image: shape of the image tower.
      text: shape of the text tower.
      image_pooling: "cls", the class token; "pooler", the same after a dense layer and tanh; "mean" over patches;
        "map", attention of a learned vector over all tokens (`models.attention_pool`).
      text_pooling: "cls", the first token; "pooler", likewise; "mean" over tokens; "last", the last token.
      dimension: numbers of a vector.
      image_projection: a linear map without bias leads from the pooled vector to `dimension`; else the tower is as
        wide.
      text_bias: the linear map of texts has a bias.
      bias: a learned number is added to similarities (Zhai et al. 2023).
    """

    image: EncoderConfig
    text: EncoderConfig
    image_pooling: str
    text_pooling: str
    dimension: int
    image_projection: bool = True
    text_bias: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        assert self.image_pooling in IMAGE_POOLINGS and self.text_pooling in TEXT_POOLINGS
        assert self.image_projection or self.dimension == self.image.hidden_size

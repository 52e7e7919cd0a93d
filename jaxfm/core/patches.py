"""How an encoder reads images: the part of its shape that text has no use for."""

import dataclasses

IMAGE_POOLINGS = ("cls", "mean", "cls_mean")


@dataclasses.dataclass(frozen=True)
class PatchConfig:
    """Images cut into squares, each of which becomes a token (Dosovitskiy et al. 2021, section 3.1).

    Tokens of an image are, in this order: the class token, the distillation token, the registers, and the patches row
    by row. The first three are the `prefix`: they have no pixels.

    Attributes:
      size: side P of a patch in pixels; 0: the encoder reads no images.
      channels: C, 3 (red, green, blue) or 1 (grey).
      grid: rows and columns of patches that the table of learned positions has; images of other sizes read between its
        entries.
      class_token: a token that gathers what an image shows.
      distillation_token: a further one, of a model that learned from a teacher (Touvron et al. 2021, DeiT).
      registers: number of further tokens that nothing reads (Darcet et al. 2024).
      bias: the linear map of patches has one.
      pooling: what an image is judged by where transformers' class of the family has one way: its class token ("cls"),
        the mean over its patches ("mean"), or both, one after the other ("cls_mean").
      mask_token: a learned vector in place of patches that are hidden from the encoder (Xie et al. 2022, SimMIM).
    """

    size: int = 0
    channels: int = 3
    grid: tuple[int, int] = (0, 0)
    class_token: bool = True
    distillation_token: bool = False
    registers: int = 0
    bias: bool = True
    pooling: str = "cls"
    mask_token: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))  # a list where it comes from JSON
        assert self.pooling in IMAGE_POOLINGS and (self.class_token or self.pooling == "mean")

    @property
    def prefix(self) -> int:
        """Tokens of an image before its patches."""
        return self.class_token + self.distillation_token + self.registers

    @property
    def placed_prefix(self) -> int:
        """Tokens of the prefix that have a learned position: all but the registers."""
        return self.class_token + self.distillation_token

    @property
    def values(self) -> int:
        """Numbers of a patch."""
        return self.size * self.size * self.channels

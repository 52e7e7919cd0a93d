"""A model that makes images of classes beside its weights, and its config keys."""

# B batch, T tokens, S segments (images in a row), G cells of an image, K codes

import dataclasses

from flax import nnx

from jaxfm.core.batch import BatchSpec
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig, UnfitShapeError
from jaxfm.data.images.codebook import KINDS, KMEANS
from jaxfm.data.text.packing import more_fields, text_fields
from jaxfm.models.heads import MaskedLM
from jaxfm.schema import field

NAME = "image_generation"


@dataclasses.dataclass(frozen=True)
class ImageUnmaskingConfig:
    """How masks are filled (Chang et al. 2022, MaskGIT, section 3.2); may be set anew at each prediction."""

    steps: int = field(
        8, "passes in which an image is filled, the surest codes first; by a cosine few at first, many at the end",
        at_least=1, at_most=4096,
    )  # fmt: skip
    temperature: float = field(
        1.0, "codes are drawn from the probabilities at this temperature; 0: the likeliest is taken",
        at_least=0.0, at_most=1e3,
    )  # fmt: skip
    order_noise: float = field(
        4.5,
        "how far the order in which codes are kept is left to chance: Gumbel noise times this is added to their "
        "log-probabilities, less in each pass, none in the last",
        at_least=0.0,
        at_most=1e6,
    )
    guidance: float = field(
        0.0,
        "g: scores are (1 + g) times those of the class less g times those without a class (Ho and Salimans 2022); 0: "
        "those of the class alone, at half of the work",
        at_least=0.0,
        at_most=1e3,
    )
    samples: int = field(1, "images of each class that jaxfm predict makes", at_least=1, at_most=10_000)
    seed: int = field(0, "of what is drawn: the same seed draws the same images", at_least=0, at_most=2**32 - 1)


@dataclasses.dataclass(frozen=True)
class ImageGenerationConfig:
    """Images of classes, made from nothing."""

    name: str = field(NAME, "the task", choices=(NAME,))
    image_size: int = field(28, "side of the square that is read and made, in pixels", at_least=1, at_most=4096)
    patch_size: int = field(2, "side of the square of pixels that is one code; it divides image_size", at_least=1)
    channels: int = field(1, "1: grey, or 3 colours", choices=(1, 3))
    resize: str = field(
        "squash",
        "to image_size: whatever the shape (squash), or its middle (crop)",
        choices=("squash", "crop"),
    )
    broken_images: str = field(
        "stop", "a file that cannot be decoded ends the run, or is left out and counted", choices=("stop", "skip")
    )
    codebook: str = field(
        KMEANS,
        "what a code stands for: an entry of a table that k-means learns from patches of the training images, or the "
        "grey level of a pixel (levels; patch_size=1, channels=1)",
        choices=KINDS,
    )
    codes: int = field(256, "entries of the table, or grey levels (at most 256)", at_least=2, at_most=65_536)
    codebook_patches: int = field(
        50_000, "patches of training images, chosen by the seed, that k-means learns from", at_least=1
    )
    class_dropout: float = field(
        0.1,
        "share of the training images whose class the model is not told, so that it can do without one (guidance)",
        at_least=0.0,
        below=1.0,
    )
    judge: str = field(
        "",
        "run:DIR of a classifier of images (the task image_classification) that says of the images which are made what "
        "they show, and whose features their distance from real ones is measured by; empty: none",
    )
    valid_made: int = field(
        200, "images that are made at each evaluation, of classes as in the validation split; 0: none", at_least=0
    )
    test_made: int = field(1000, "the same at the end, of test and of jaxfm.evaluate", at_least=0)
    unmasking: ImageUnmaskingConfig = dataclasses.field(default_factory=ImageUnmaskingConfig)


@dataclasses.dataclass(frozen=True)
class ImageGenerationSpec:
    """All that a trained model is beside its weights and its codebook (implements jaxfm.core.spec.Spec).

    Tokens are numbered: codes from 0, the mask, the classes, and the token of no class.

    Attributes:
      classes: names of the classes.
      encoder: shape of the encoder, whose vocabulary are the tokens.
      image_size: side of an image in pixels.
      patch_size: side of a cell.
      channels: 1 or 3.
      resize: "squash" or "crop".
      codes: K.
      row_length: tokens of a row.
      segments: most images a row, S.
      packed: several images may share a row.
      unmasking: how images are made unless a person says otherwise.
    """

    classes: tuple[str, ...]
    encoder: EncoderConfig
    image_size: int
    patch_size: int
    channels: int
    resize: str
    codes: int
    row_length: int
    segments: int
    packed: bool
    unmasking: ImageUnmaskingConfig

    def __post_init__(self) -> None:
        whole = self.patch_size > 0 and self.image_size % self.patch_size == 0 and self.channels in (1, 3)
        if not whole or self.encoder.vocab_size != self.tokens or min(self.segments, self.cells) < 1:
            raise UnfitShapeError("the cells of an image, its codes and classes do not fit the encoder's vocabulary")
        if self.segments * (self.cells + 1) > self.row_length or self.encoder.max_positions <= self.cells:
            raise UnfitShapeError(f"images of {self.cells} cells do not fit its rows")

    @property
    def side(self) -> int:
        """Cells of a side of an image."""
        return self.image_size // self.patch_size

    @property
    def cells(self) -> int:
        """G, codes of an image."""
        return self.side**2

    @property
    def values(self) -> int:
        """Numbers of a cell."""
        return self.patch_size**2 * self.channels

    @property
    def mask(self) -> int:
        """The token of a code that is not known."""
        return self.codes

    @property
    def no_class(self) -> int:
        """The token in place of a class that is not told."""
        return self.codes + 1 + len(self.classes)

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return vocabulary_size(self.codes, len(self.classes))

    def class_token(self, number: int) -> int:
        """Returns the token of a class."""
        return self.codes + 1 + number

    def batch_spec(self) -> BatchSpec:
        """Rows of tokens, and "labels": the code at each cell, -1 elsewhere."""
        return {**text_fields(self.row_length, self.mask), **more_fields(self.row_length, ("labels",))}

    def make_model(self, build: Build, rngs: nnx.Rngs) -> MaskedLM:
        """Builds encoder and head."""
        return MaskedLM(self.encoder, build, rngs)


def vocabulary_size(codes: int, classes: int) -> int:
    """Returns the number of tokens: codes, mask, classes, no class."""
    return codes + 1 + classes + 1

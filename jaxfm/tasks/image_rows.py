"""Images of a run as rows of patches."""

# E images, S segments (images in a row), N rows

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from jaxfm.config import Config
from jaxfm.core.batch import Field
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import ImageLayout
from jaxfm.data.images.rows import ImageRows, build_image_rows, channel_statistics
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.tasks.image_options import Reading


class HasImage(Protocol):
    """An example with one image."""

    @property
    def image(self) -> StoredImage:
        """Where it is kept."""
        ...


class HasExamples(Protocol):
    """A split of such examples."""

    @property
    def examples(self) -> Sequence[HasImage]:
        """In the order of the source."""
        ...


Example = TypeVar("Example", bound=HasImage)


class ImageSpec(Protocol):
    """What rows of images need of a spec."""

    @property
    def encoder(self) -> EncoderConfig:
        """With the patches that it reads."""
        ...

    @property
    def layout(self) -> ImageLayout:
        """How an image becomes pixels."""
        ...

    @property
    def row_length(self) -> int:
        """Tokens of a row."""
        ...

    @property
    def packed(self) -> bool:
        """Whether several images may share a row."""
        ...

    @property
    def segments(self) -> int:
        """Most images a row."""
        ...


def read_rows(reading: Reading, read: Mapping[str, HasExamples], config: Config) -> dict[str, ImageRows]:
    """Returns rows of the images of each split; packed ones of "train" are shuffled first.

    Raises:
      UserError: as `build_image_rows`.
    """
    encoder, layout, packed = reading.encoder, reading.layout, config.data.packed
    rows = {}
    for split, found in read.items():
        images = [each.image for each in found.examples]
        seed = config.seed if split == "train" else None
        rows[split] = _rows(encoder, layout, images, reading.row_length, packed, seed, None, config.task.broken_images)
    return rows


def kept_examples(examples: Sequence[Example], rows: ImageRows) -> tuple[Example, ...]:
    """Returns the examples whose images could be decoded."""
    return tuple(examples[index] for index in rows.kept.tolist())


def image_rows(spec: ImageSpec, images: Sequence[StoredImage], *, broken: str | None = None) -> ImageRows:
    """Returns rows of images as a run's spec says; see `read_rows`. None: a broken image is an error without a key."""
    segments = spec.segments if spec.packed else None
    return _rows(spec.encoder, spec.layout, images, spec.row_length, spec.packed, None, segments, broken)


def pixel_rows(spec: ImageSpec, pixels: Sequence[np.ndarray], origins: Sequence[str] = ()) -> ImageRows:
    """Returns rows of images [H, W, C] that have the size in which the model reads them already."""
    named = origins or [f"image {number}" for number in range(len(pixels))]
    images = [StoredImage(origin, array=each) for origin, each in zip(named, pixels, strict=True)]
    # A cut of the middle would cut again what was resized for it: these are cut already.
    layout = dataclasses.replace(spec.layout, shorter_side=0)
    segments = spec.segments if spec.packed else None
    return _rows(spec.encoder, layout, images, spec.row_length, spec.packed, None, segments, None)


def _rows(
    encoder: EncoderConfig,
    layout: ImageLayout,
    images: Sequence[StoredImage],
    row_length: int,
    packed: bool,
    seed: int | None,
    segments: int | None,
    broken: str | None,
) -> ImageRows:
    patches = encoder.patches
    return build_image_rows(
        images,
        rule=layout.rule,
        side=layout.side,
        shorter_side=layout.shorter_side,
        patch=patches.size,
        channels=patches.channels,
        prefix=patches.prefix,
        row_length=row_length,
        packed=packed,
        seed=seed,
        max_segments=segments,
        broken=broken or "stop",
        broken_option="config.task.broken_images" if broken else "",
    )


def with_statistics(reading: Reading, train: ImageRows) -> tuple[Reading, tuple[str, ...]]:
    """Returns the reading with mean and deviation of the training images where the weights say none, and a note."""
    if reading.layout.mean:
        return reading, ()
    mean, std = channel_statistics(train)
    if min(std) == 0:
        raise UserError("config.data.source: all pixels of a channel of the training images are equal.")
    mean, std = (tuple(round(each, 6) for each in values) for values in (mean, std))
    shown = [", ".join(f"{each:.3f}" for each in values) for values in (mean, std)]
    return reading.with_statistics(mean, std), (
        f"pixels: mean {shown[0]}, deviation {shown[1]} of the training images (0 to 1)",
    )


def most_in_a_row(rows: Any) -> int:
    """Returns how many examples the fullest row has; `rows` say where they lie."""
    return int(rows.example_locations[:, 1].max(initial=0)) + 1


def of_segments(rows: Any, targets_E: np.ndarray, segments: int) -> np.ndarray:
    """Returns targets [N, S, ...] of targets [E, ...] of the examples; -1 where a row has no such example."""
    laid = np.full((len(rows), segments, *targets_E.shape[1:]), -1, targets_E.dtype)
    laid[rows.example_locations[:, 0], rows.example_locations[:, 1]] = targets_E
    return laid


def with_labels(rows: ImageRows, targets_E: np.ndarray, field: Field) -> ImageRows:
    """Returns rows with the field "labels", whose first axis is the images of a row."""
    return rows.with_fields({"labels": of_segments(rows, targets_E, field.shape[0])}, {"labels": field})

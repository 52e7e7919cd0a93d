"""Images as rows of tokens: the class, then the code of each cell, row by row."""

# N rows, E images, G cells, V values of a cell, n images to make

from collections.abc import Iterator, Sequence

import numpy as np

from jaxfm.data.images.codebook import Codebook
from jaxfm.data.images.rows import ImageRows, build_image_rows, from_patches
from jaxfm.data.images.stored import StoredImage
from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.tasks.held_out import HeldOut
from jaxfm.tasks.image_generation.spec import ImageGenerationConfig, ImageGenerationSpec

# Of the tokens of held-out rows: 1 where a code is masked. Of rows that are to be filled: the number of the image among
# those of its class; what is drawn depends on it.
MASKED, NUMBER = "masked", "number"
_SEED = 20220208
_GOLDEN = 0.5 * (5**0.5 - 1)  # multiples of it, less their whole parts, are spread evenly


def read_pixels(
    images: Sequence[StoredImage], config: ImageGenerationConfig | ImageGenerationSpec, broken: str
) -> ImageRows:
    """Decodes images to cells of pixels.

    Raises:
      UserError: as `build_image_rows`.
    """
    return build_image_rows(
        images,
        rule=config.resize,
        side=config.image_size,
        patch=config.patch_size,
        channels=config.channels,
        prefix=0,
        broken=broken,
        broken_option="config.task.broken_images",
    )


def cells_of(pixels: ImageRows) -> Iterator[np.ndarray]:
    """Yields the cells of each image, uint8 [G, V]."""
    return (pixels.patches(number) for number in range(len(pixels.images)))


def encoded(codebook: Codebook, pixels: ImageRows) -> np.ndarray:
    """Returns the codes of all images, int32 [E, G]."""
    return np.stack([codebook.encode(cells) for cells in cells_of(pixels)])


def picture(spec: ImageGenerationSpec, codebook: Codebook, codes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns the pixels uint8 [H, W, C] of the codes [G] of an image."""
    return from_patches(codebook.decode(np.asarray(codes)), (spec.side, spec.side), spec.patch_size)


def training_rows(spec: ImageGenerationSpec, codes_EG: np.ndarray, classes_E: np.ndarray, seed: int) -> PackedRows:
    """Packs images; several that share a row are shuffled first."""
    return _packed(spec, codes_EG, classes_E, seed if spec.packed else None, {})


def held_out_rows(
    spec: ImageGenerationSpec, codes_EG: np.ndarray, classes_E: np.ndarray, made_n: np.ndarray
) -> HeldOut:
    """Packs a split: its images, of which the same codes are always masked, and `made_n`, classes of images to make."""
    masked_EG = held_out_masks(len(codes_EG), spec.cells)
    zeros_EG = np.zeros_like(masked_EG)
    scored = _packed(spec, codes_EG, classes_E, None, {MASKED: masked_EG, NUMBER: zeros_EG})
    return HeldOut(scored, blank_rows(spec, made_n, numbers_of(made_n)), np.arange(len(made_n)))


def blank_rows(spec: ImageGenerationSpec, classes_n: np.ndarray, numbers_n: np.ndarray) -> PackedRows:
    """Packs images of nothing but masks, whose cells are labelled 0, 1, 2, ..."""
    slots_nG = np.broadcast_to(np.arange(spec.cells, dtype=np.int32), (len(classes_n), spec.cells))
    numbers_nG = np.broadcast_to(numbers_n.astype(np.int32)[:, None], slots_nG.shape)
    more = {MASKED: np.ones_like(slots_nG), NUMBER: numbers_nG}
    return _packed(spec, slots_nG, classes_n, None, more, tokens_EG=np.full_like(slots_nG, spec.mask))


def numbers_of(classes_n: np.ndarray) -> np.ndarray:
    """Returns the number of each image among those of its class before it."""
    seen: dict[int, int] = {}
    found = np.zeros(len(classes_n), np.int32)
    for place, kind in enumerate(classes_n.tolist()):
        found[place] = seen.get(kind, 0)
        seen[kind] = int(found[place]) + 1
    return found


def held_out_masks(images: int, cells: int) -> np.ndarray:
    """Returns which codes of held-out images are masked, int32 [E, G] of 0 and 1: a function of an image's number.

    As in training the share is a cosine of a number from 0 to 1; here these numbers are spread evenly over the images.
    """
    masked_EG = np.zeros((images, cells), np.int32)
    for number in range(images):
        share = np.cos(np.pi / 2 * ((number + 1) * _GOLDEN % 1.0))
        count = max(int(np.floor(share * cells)), 1)
        bits_G = np.random.PCG64(np.random.SeedSequence((_SEED, number))).random_raw(cells)
        masked_EG[number, np.argsort(bits_G, kind="stable")[:count]] = 1
    return masked_EG


def _packed(
    spec: ImageGenerationSpec,
    labels_EG: np.ndarray,
    classes_E: np.ndarray,
    seed: int | None,
    more: dict[str, np.ndarray],
    tokens_EG: np.ndarray | None = None,
) -> PackedRows:
    """Packs segments of a class token and cells; fields of cells have at the class token their first cell's value."""
    first_E1 = np.asarray([spec.class_token(int(number)) for number in classes_E], np.int32).reshape(-1, 1)
    tokens = np.concatenate([first_E1, labels_EG if tokens_EG is None else tokens_EG], axis=1).astype(np.int32)
    labels = np.concatenate([np.full_like(first_E1, -1), labels_EG], axis=1).astype(np.int32)
    return build_rows(
        list(tokens),
        list(labels),
        spec.row_length,
        spec.mask,
        seed,
        max_segments=spec.segments,
        token_fields={name: list(np.concatenate([x[:, :1], x], axis=1)) for name, x in more.items()},
    )

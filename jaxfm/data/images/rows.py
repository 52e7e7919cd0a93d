"""Images as rows of patches: one image a row, or several of any sizes, as texts are packed (Dehghani et al. 2023)."""

# N rows, T tokens, E examples (images), P patch side, C channels, H height, W width

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.core.batch import Batch, BatchSpec, Field, Volume
from jaxfm.core.encoder_config import PatchConfig
from jaxfm.data.images.decoding import RULES, Fitted, check_patch, decode, fit, fit_size
from jaxfm.data.images.stored import BadImageError, StoredImage
from jaxfm.data.media.looking import (
    BROKEN,
    MEMORY_BYTES,
    Decoded,
    broken_notes,
    in_threads,
    look,
    row_members,
    stopped_message,
)
from jaxfm.errors import UserError
from jaxfm.models.inputs.patches import fields


def to_patches(image: np.ndarray, patch: int) -> np.ndarray:
    """Returns the patches [rows * columns, P * P * C] of an image [H, W, C], row by row; within one as in the image."""
    height, width, channels = image.shape
    cut = image.reshape(height // patch, patch, width // patch, patch, channels)
    return cut.transpose(0, 2, 1, 3, 4).reshape(-1, patch * patch * channels)


def from_patches(patches: np.ndarray, grid: tuple[int, int], patch: int) -> np.ndarray:
    """Returns the image [H, W, C] of its patches [rows * columns, P * P * C]; `grid` is its rows and columns."""
    rows, columns = grid
    cut = patches.reshape(rows, columns, patch, patch, -1).transpose(0, 2, 1, 3, 4)
    return cut.reshape(rows * patch, columns * patch, -1)


@dataclasses.dataclass(frozen=True)
class PatchSettings:
    """How an image becomes patches.

    Attributes:
        rule: "squash", "crop" or "native"; see `decoding.fit_size`.
        side: of a squashed or cropped image in pixels; a native one has as many patches as that at most.
        patch: P, side of a patch in pixels.
        channels: C, 1 (grey) or 3.
        prefix: tokens without pixels before the patches of each image (class token, registers).
        shorter_side: of a cropped image: what its shorter side is resized to first; 0: `side`.
    """

    rule: str
    side: int
    patch: int
    channels: int
    prefix: int
    shorter_side: int = 0

    @property
    def most_tokens(self) -> int:
        """Tokens of the largest image that the rule makes."""
        return self.prefix + (self.side // self.patch) ** 2

    def fitted(self, height: int, width: int) -> Fitted:
        """Returns how an image of this size is resized and cut."""
        most = (self.side // self.patch) ** 2
        return fit_size(
            height, width, rule=self.rule, side=self.side, patch=self.patch, most_patches=most,
            shorter_side=self.shorter_side,
        )  # fmt: skip

    def patches(self, image: StoredImage, content: bytes | None = None) -> tuple[np.ndarray, tuple[int, int]]:
        """Returns the patches uint8 [rows * columns, P * P * C] of an image, and its rows and columns."""
        pixels = decode(image, self.channels, content)
        pixels = fit(pixels, self.fitted(*pixels.shape[:2]))
        return to_patches(pixels, self.patch), (pixels.shape[0] // self.patch, pixels.shape[1] // self.patch)


@dataclasses.dataclass(frozen=True, eq=False)
class ImageRows:
    """Rows of patches (implements jaxfm.core.batch.Dataset), made when they are asked for.

    A batch has the fields of `models.inputs.patches.fields`.

    Attributes:
        images: the E images that could be decoded, in the order in which they were given.
        kept: [E] which of the images given these are.
        settings: how they become patches.
        grids: [E, 2] rows and columns of patches of each.
        row_length: T.
        members: of each row, the numbers of its images, in order.
        content: the sha256 of all images' files.
        decoded: the patches of each image, or None where there are too many to keep (`MEMORY_BYTES`).
        notes: what the log should say: images that are left out, whether they stay in memory.
        more: further arrays [N, ...] of rows, by the name of their field.
        more_fields: their fields.
    """

    images: Sequence[StoredImage]
    kept: np.ndarray
    settings: PatchSettings
    grids: np.ndarray
    row_length: int
    members: Sequence[np.ndarray]
    content: str
    decoded: Sequence[np.ndarray] | None
    notes: tuple[str, ...] = ()
    more: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    more_fields: Mapping[str, Field] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def spec(self) -> BatchSpec:
        """The arrays of a batch."""
        patches = PatchConfig(self.settings.patch, self.settings.channels)
        return {**fields(self.row_length, patches), **self.more_fields}

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each image [E], prefix included."""
        return self.settings.prefix + self.grids.prod(axis=1)

    @property
    def volume(self) -> Volume:
        """Tokens of a row: patches, and the few without pixels."""
        rows = max(1, len(self))
        return Volume(
            "patches",
            self.row_length,
            int(self.lengths.sum()) / rows,
            longest=int(self.lengths.max(initial=0)),
            singular="patch",
            examples_per_row=len(self.images) / rows,
        )

    @functools.cached_property
    def example_locations(self) -> np.ndarray:
        """Where each image lies, int32 [E, 2]: its row, and its segment counted from 0."""
        found = np.zeros((len(self.images), 2), np.int32)
        for row, members in enumerate(self.members):
            found[members] = np.stack([np.full(len(members), row), np.arange(len(members))], axis=1)
        return found

    def with_fields(self, arrays: Mapping[str, np.ndarray], fields: Mapping[str, Field]) -> "ImageRows":
        """Returns these rows with further arrays [N, ...], such as labels."""
        assert arrays.keys() == fields.keys() and all(len(array) == len(self) for array in arrays.values())
        return dataclasses.replace(self, more={**self.more, **arrays}, more_fields={**self.more_fields, **fields})

    def patches(self, example: int) -> np.ndarray:
        """Returns the patches of an image, uint8 [rows * columns, P * P * C].

        Raises BadImageError where its file is no longer what it was when the rows were made.
        """
        if self.decoded is not None:
            return self.decoded[example]
        image = self.images[example]
        patches, grid = self.settings.patches(image)
        if grid != tuple(self.grids[example]):
            raise BadImageError(f"{image.origin}: has another size than when the run began.")
        return patches

    def image(self, example: int) -> np.ndarray:
        """Returns the pixels of an image as a model sees them, uint8 [H, W, C]."""
        rows, columns = self.grids[example].tolist()
        return from_patches(self.patches(example), (rows, columns), self.settings.patch)

    def of_patches(self, values_NT: np.ndarray, row: int, segment: int) -> np.ndarray:
        """Returns values [rows, columns, ...] of an image's patches, of values [N, T, ...] of all tokens."""
        example = int(self.members[row][segment])
        start = int(self.lengths[self.members[row][:segment]].sum()) + self.settings.prefix
        rows, columns = self.grids[example].tolist()
        return values_NT[row, start : start + rows * columns].reshape(rows, columns, *values_NT.shape[2:])

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for as a batch; images that are not in memory are decoded now."""
        spec = self.spec
        batch = {
            name: np.full((len(index), *field.shape), field.fill, field.dtype)
            for name, field in spec.items()
            if name not in self.more
        }
        prefix = self.settings.prefix
        for at, row in enumerate(np.asarray(index).tolist()):
            start = 0
            for segment, example in enumerate(self.members[row].tolist()):
                grid = (int(self.grids[example, 0]), int(self.grids[example, 1]))
                positions, cells = _layout(grid, prefix)
                place = (at, slice(start, start + len(positions)))
                batch["pixels"][at, start + prefix : start + len(positions)] = self.patches(example)
                batch["segment_ids"][place] = segment + 1
                batch["positions"][place] = positions
                batch["cells"][place] = cells
                batch["grids"][place] = grid
                start += len(positions)
        return batch | {name: np.asarray(array[index], spec[name].dtype) for name, array in self.more.items()}

    def fingerprint(self) -> str:
        """The sha256 of the images' files, of which images a row has, of all settings and of further arrays."""
        digest = hashlib.sha256(f"{self.content} {self.settings} {self.row_length}".encode())
        digest.update(np.ascontiguousarray(self.example_locations, "<i4").data)
        for name, array in sorted(self.more.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@functools.lru_cache(maxsize=4096)
def _layout(grid: tuple[int, int], prefix: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions [n] and cells [n, 2] of an image of rows x columns patches after `prefix` tokens without pixels."""
    before = np.stack([np.full(prefix, -1), np.arange(prefix)], axis=1)
    cells = np.concatenate([before, np.indices(grid).reshape(2, -1).T]).astype(np.int32)
    return np.arange(len(cells), dtype=np.int32), cells


def build_image_rows(
    images: Sequence[StoredImage],
    *,
    rule: str,
    side: int,
    patch: int,
    channels: int,
    prefix: int,
    row_length: int = 0,
    packed: bool = False,
    seed: int | None = None,
    max_segments: int | None = None,
    shorter_side: int = 0,
    broken: str = "stop",
    broken_option: str = "task.broken_images",
    memory_bytes: int = MEMORY_BYTES,
) -> ImageRows:
    """Returns rows of images; all are decoded once for it, as a broken one must be found before training.

    Args:
      images: where they are kept.
      rule: see `decoding.fit_size`.
      side: see `PatchSettings`.
      patch: side of a patch in pixels.
      channels: 1 or 3.
      prefix: tokens without pixels before each image's patches.
      row_length: tokens a row; 0: what the largest image needs that the rule makes.
      packed: whether a row has as many images as fit; else one.
      seed: of packed rows: shuffles the images first (training); None: the largest go first, which wastes least.
      max_segments: the most images a row.
      shorter_side: see `PatchSettings`.
      broken: "stop": a broken image is an error; "skip": it is left out, counted and named in a note.
      broken_option: the key that says so, for messages; "" where there is none.
      memory_bytes: pixels up to which they are kept; see `MEMORY_BYTES`.

    Raises:
      BadImageError: the first broken image, and how many more there are.
      UserError: a patch that leaves too little of an image (`check_patch`), rows that are too short for one, only
        broken images.
    """
    assert rule in RULES and broken in BROKEN
    check_patch(side, patch)
    settings = PatchSettings(rule, side, patch, channels, prefix, shorter_side)

    def one(image: StoredImage) -> Decoded:
        content = image.content()
        return Decoded(image.digest(content), *settings.patches(image, content))

    looked = look(images, one, BadImageError, memory_bytes)
    if looked.broken and broken == "stop":
        raise BadImageError(stopped_message(looked.broken, len(images), "images", broken_option))
    if not looked.kept:
        raise UserError(f"None of the {len(images):,} images can be decoded. The first: {looked.broken[0]}")
    grids = np.asarray(looked.more, np.int32).reshape(-1, 2)
    lengths = prefix + grids.prod(axis=1)
    length = row_length or settings.most_tokens
    if lengths.max() > length:
        raise UserError(
            f"data.row_length={row_length}: an image needs {lengths.max()} tokens ({prefix} + {lengths.max() - prefix} "
            f"patches of {patch} x {patch} pixels). Set at least that, 0 for what one image needs, a larger "
            "task.patch_size or a smaller task.image_size."
        )
    return ImageRows(
        images=[images[number] for number in looked.kept],
        kept=np.asarray(looked.kept, np.int64),
        settings=settings,
        grids=grids,
        row_length=length,
        members=row_members(lengths, length, packed, seed, max_segments),
        content=looked.content,
        decoded=looked.decoded,
        notes=(*broken_notes(looked.broken, len(images), "images"), *_notes(looked.decoded, memory_bytes)),
    )


def _notes(decoded: Sequence[np.ndarray] | None, memory_bytes: int) -> list[str]:
    if decoded is not None:
        return []
    return [f"the images have more than {memory_bytes >> 20} MiB of pixels, so they are decoded anew in every epoch"]


def channel_statistics(rows: ImageRows) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and the standard deviation of each channel over all pixels of all images, in shares of 255.

    Sums are whole numbers, so the order of images does not matter. A deviation is 0 where all pixels are equal.
    """
    channels = rows.settings.channels

    def sums(example: int) -> tuple[int, np.ndarray, np.ndarray]:
        pixels = rows.patches(example).reshape(-1, channels).astype(np.int64)
        return len(pixels), pixels.sum(axis=0), (pixels**2).sum(axis=0)

    count, total, squares = 0, np.zeros(channels, object), np.zeros(channels, object)
    for pixels, one, two in in_threads(sums, range(len(rows.images))):
        count, total, squares = count + pixels, total + one, squares + two
    # As whole numbers of any size: count * squares - total**2 is exact.
    deviations = [
        (count * int(two) - int(one) ** 2) ** 0.5 / (count * 255) for one, two in zip(total, squares, strict=True)
    ]
    return tuple(int(one) / (count * 255) for one in total), tuple(deviations)

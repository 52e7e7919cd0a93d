"""Images and their texts as rows, and texts of classes after them."""

# E pairs, C classes, N = E + C rows, L tokens of a text

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxfm.core.batch import Batch, BatchSpec, Volume
from jaxfm.data.images.rows import ImageRows
from jaxfm.models.two_towers import TEXT
from jaxfm.tasks.image_text.spec import ImageTextSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_TEXTS_PER_CALL = 1024  # bounds the memory that the tokenizer's own encodings take


@dataclasses.dataclass(frozen=True, eq=False)
class PairRows:
    """Rows of an image and its text (implements jaxfm.core.batch.Dataset), and rows of further texts.

    Attributes:
      images: one image a row, E of them.
      texts: field -> array [N, ...]; texts after the first E have no image of their own, and show that of row 0.
      fields: of `texts`.
    """

    images: ImageRows
    texts: Mapping[str, np.ndarray]
    fields: BatchSpec

    def __len__(self) -> int:
        return len(next(iter(self.texts.values())))

    @property
    def spec(self) -> BatchSpec:
        """The arrays of a batch."""
        return {**self.images.spec, **self.fields}

    @property
    def volume(self) -> Volume:
        """Of the images; texts are a small part of a row."""
        return self.images.volume

    def take(self, index: np.ndarray) -> Batch:
        """Returns the rows [n] asked for."""
        of_images = np.where(index < len(self.images), index, 0)
        texts = {name: np.asarray(array[index], self.fields[name].dtype) for name, array in self.texts.items()}
        return {**self.images.take(of_images), **texts}

    def fingerprint(self) -> str:
        """The sha256 of that of the images and of all texts."""
        digest = hashlib.sha256(self.images.fingerprint().encode())
        for name, array in sorted(self.texts.items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def text_rows(
    spec: ImageTextSpec, tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str]
) -> tuple[dict[str, np.ndarray], int]:
    """Returns the fields of texts, one a row, int32 [N, L] each, and how many had to be cut."""
    length, pad_id = spec.text_length, tokenizer.pad_token_id
    assert isinstance(pad_id, int), "see check_tokenizer"
    tokens = np.full((len(texts), length), pad_id, np.int32)
    segments = np.zeros((len(texts), length), np.int32)
    cut = 0
    for first in range(0, len(texts), _TEXTS_PER_CALL):
        batch = tokenizer(
            list(texts[first : first + _TEXTS_PER_CALL]), truncation=True, max_length=length, padding=False,
            return_attention_mask=False, verbose=False,
        )  # fmt: skip
        for row, encoding in enumerate(batch.encodings or (), start=first):
            tokens[row, : len(encoding.ids)] = encoding.ids
            segments[row, : None if spec.text_encoder.reads_padding else len(encoding.ids)] = 1
            cut += bool(encoding.overflowing)
    positions = np.arange(length, dtype=np.int32) * segments
    return {f"{TEXT}tokens": tokens, f"{TEXT}segment_ids": segments, f"{TEXT}positions": positions}, cut


def pair_numbers(rows: ImageRows, texts: Sequence[str]) -> np.ndarray:
    """Returns numbers of images and texts, int32 [E, 2]: equal ones have equal numbers, no image that of a text."""
    images = [image.digest() for image in rows.images]
    known: dict[str, int] = {}
    return np.asarray(
        [
            (known.setdefault(f"image {image}", len(known)), known.setdefault(f"text {text}", len(known)))
            for image, text in zip(images, texts, strict=True)
        ],
        np.int32,
    ).reshape(-1, 2)

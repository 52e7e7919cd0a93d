"""`quickstart` of images: the handwritten digits that come with scikit-learn, 8 x 8 pixels, no download.

1,797 digits of 43 people, from the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and
Kaynak 1998), 0 to 16 in the original, 0 to 255 here.
"""

import functools
import hashlib
from typing import Any

import numpy as np

from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.images.stored import StoredImage
from jaxfm.data.records.splits import SPLIT_NAMES
from jaxfm.data.records.table import Table, Tables, memory_table
from jaxfm.errors import UserError, install_hint

_VALID, _TEST = 0.15, 0.15
_BRIGHTEST = 16
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def find_digits() -> Tables:
    """Returns the splits: image, label, text. Raises UserError where scikit-learn is not installed."""
    return Tables({split: functools.partial(_open, split) for split in SPLIT_NAMES})


@functools.cache
def _digits() -> dict[str, list[tuple[str, tuple[StoredImage, int, str]]]]:
    """Split -> (origin, (image, digit)); a hash of its pixels says which split a digit is in, so no digit is in two."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise UserError(
            f"quickstart: its images, handwritten digits, come with scikit-learn: {install_hint('images')}."
        ) from None
    found: Any = load_digits()
    splits: dict[str, list[tuple[str, tuple[StoredImage, int, str]]]] = {split: [] for split in SPLIT_NAMES}
    for number, (pixels, digit) in enumerate(zip(found.images, found.target, strict=True)):
        grey = np.rint(pixels * (255 / _BRIGHTEST)).astype(np.uint8)
        draw = uniform_hash(hashlib.sha256(grey.tobytes()).hexdigest())
        split = "test" if draw < _TEST else "valid" if draw < _TEST + _VALID else "train"
        origin = f"digits[{number}]"
        image = StoredImage(origin, array=grey)
        splits[split].append((origin, (image, int(digit), f"the digit {_WORDS[int(digit)]}")))
    return splits


def _open(split: str) -> Table:
    return memory_table(f"scikit-learn's digits/{split}", ("image", "label", "text"), _digits()[split])

"""Checks of images before training: broken files, copies, sizes, classes."""

# E images

import statistics
from collections.abc import Mapping, Sequence
from typing import Protocol

from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.data.images.decoding import decode
from jaxfm.data.images.stored import BadImageError, StoredImage
from jaxfm.observe.tables import Table
from jaxfm.tasks import text_checks
from jaxfm.tasks.image_options import Reading
from jaxfm.tasks.label_checks import check_balance, check_names
from jaxfm.tasks.media_checks import check_broken, check_copies
from jaxfm.tasks.text_checks import LabelCounts, label_table


class CheckedExample(Protocol):
    """An image with any number of labels."""

    @property
    def image(self) -> StoredImage:
        """Where it is kept."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Its classes."""
        ...

    @property
    def origin(self) -> str:
        """Where it was read."""
        ...


Examples = Mapping[str, Sequence[CheckedExample]]
# An image smaller than this share of what is read is enlarged so much that little of it is seen.
_SMALL = 0.5
_FIX = "repair or remove them, or leave them out with --config.task.broken_images=skip"


def check_images(examples: Examples, reading: Reading, kind: str = "none") -> DataCheck:
    """Decodes every image once and runs all checks.

    Args:
      examples: of each split, "train" first.
      reading: how they are read.
      kind: "single" or "multi" where they have labels, "none" otherwise.
    """
    sizes: dict[str, list[tuple[int, int]]] = {}
    broken: list[str] = []
    small: list[str] = []
    places: dict[str, dict[str, str]] = {}
    for split, found in examples.items():
        sizes[split], places[split] = [], {}
        for example in found:
            try:
                content = example.image.content()
                height, width, _ = decode(example.image, reading.encoder.patches.channels, content).shape
            except BadImageError as error:
                broken.append(str(error))
                continue
            sizes[split].append((height, width))
            places[split].setdefault(example.image.digest(content), example.origin)
            if min(height, width) < _SMALL * reading.layout.side:
                small.append(f"{example.origin}: {width} x {height} pixels")
    tables = [Table("Splits", ("split", "images", "median width", "median height", "smallest", "largest"),
                    [_size_row(split, found) for split, found in sizes.items()])]  # fmt: skip
    findings = [check_broken(broken, "images", _FIX), check_copies(places, examples, "images"), _small(small, reading)]
    if kind != "none":
        counts = {split: LabelCounts.of(_labels(found)) for split, found in examples.items()}
        tables.append(label_table(counts, "Labels", "label"))
        findings += [
            *text_checks.check_labels(counts, "labels"),
            check_balance(counts["train"].counts, len(examples["train"]), kind),
            check_names(counts),
        ]
    return DataCheck(tuple(tables), tuple(findings))


def _size_row(split: str, found: Sequence[tuple[int, int]]) -> tuple[str, int, int, int, str, str]:
    if not found:
        return split, 0, 0, 0, "", ""
    heights, widths = zip(*found, strict=True)
    least, most = (choose(found, key=lambda size: size[0] * size[1]) for choose in (min, max))
    return (
        split,
        len(found),
        int(statistics.median(widths)),
        int(statistics.median(heights)),
        f"{least[1]} x {least[0]}",
        f"{most[1]} x {most[0]}",
    )


def _small(small: Sequence[str], reading: Reading) -> Finding:
    if not small:
        return Finding("ok", "sizes", f"images are at least half as large as the {reading.layout.side} pixels read")
    fix = "read fewer pixels: --config.task.image_size, which costs less as well"
    message = f"images less than half as large as the {reading.layout.side} pixels that are read: {len(small):,}"
    return Finding("warning", "sizes", message, fix, tuple(small))


def _labels(examples: Sequence[CheckedExample]) -> list[tuple[str, str]]:
    """Returns each label of each image, and where it stands."""
    return [(name, each.origin) for each in examples for name in each.labels]

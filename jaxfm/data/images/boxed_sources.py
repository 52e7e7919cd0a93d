"""Images with boxes by the URI of their source: quickstart, `coco:`, `yolo:`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.images import coco, shapes, yolo_txt
from jaxfm.data.images.boxes import BoxedExample, BoxedSplit, BoxRules, check_classes, counted
from jaxfm.data.records.holdout import holdout_share
from jaxfm.data.records.key_division import divide_by_keys
from jaxfm.data.records.source_keys import check_source
from jaxfm.data.records.split_keys import NO_KEYS, SplitKeys, keys_of_rows
from jaxfm.data.records.splits import SPLIT_NAMES, require_split
from jaxfm.errors import UserError, did_you_mean
from jaxfm.files import expanded

FORMS = ("quickstart", *coco.FORMS, yolo_txt.FORM)


def read_boxed(
    source: str,
    splits: Sequence[str] | None,
    *,
    holdout: float | None = None,
    bad: str = "stop",
    broken: str = "stop",
    drawn: int = 10_000,
    classes: Sequence[str] = (),
    by: SplitKeys = NO_KEYS,
) -> dict[str, BoxedSplit]:
    """Reads the splits asked for; no image is decoded but those whose size no header says.

    Args:
      source: one of `FORMS`.
      splits: what to read; None: all that the source has.
      holdout: this share of train becomes valid where the source has none; None: a share by size. A hash of the image's
        file chooses, so equal images are on one side.
      bad: what becomes of boxes that break a rule; see `boxes.BoxRules`.
      broken: what becomes of images that cannot be read.
      drawn: training images of the quickstart.
      classes: that objects may have; empty: those that the first split declares.
      by: columns of groups and times: fields of the image records of `coco:`; see `divide_by_keys`.

    Raises:
      UserError: unknown source or split, and all that its reader finds.
    """
    if not source.startswith("coco:"):
        check_source(source, by, splits)
    readers = _readers(source, lambda: BoxRules(bad, broken), drawn)
    wanted = None if splits is None else list(map(require_split, splits))
    held_out = holdout != 0 and "valid" not in readers and "train" in readers
    present = [name for name in SPLIT_NAMES if name in readers or (name == "valid" and held_out)]
    for name in wanted or ():
        if name not in present:
            raise UserError(f"{source} has no split {name!r}; it has: {', '.join(present)}.")
    wanted = present if wanted is None else wanted
    read = {
        name: readers[name]()
        for name in dict.fromkeys("train" if held_out and name == "valid" else name for name in wanted)
    }
    if by:
        read = _divided(source, read, by, list(readers), holdout)
    elif held_out and "train" in read:
        read["train"], read["valid"] = _held_out(source, read["train"], holdout)
    found = {name: read[name] for name in wanted}
    known = tuple(classes) or next(iter(found.values())).classes
    check_classes(found, known, "the model" if classes else source)
    return found


def _readers(source: str, rules: Callable[[], BoxRules], drawn: int) -> dict[str, Callable[[], BoxedSplit]]:
    """Returns split -> what reads it."""
    scheme, colon, rest = source.partition(":")
    if source == "quickstart":
        sizes = {"train": drawn, "valid": shapes.HELD_OUT, "test": shapes.HELD_OUT}
        return {split: lambda split=split, size=size: shapes.draw_split(split, size) for split, size in sizes.items()}
    if scheme == "coco" and colon:
        files, given = coco.find_coco(rest), expanded(rest)
        root = given if given.is_dir() else given.parent
        return {
            split: lambda split=split, path=path: coco.read_coco(path, split, root, rules())
            for split, path in files.items()
        }
    if scheme == "yolo" and colon:
        folders, names = yolo_txt.find_yolo(rest)
        return {
            split: lambda split=split, folder=folder: yolo_txt.read_yolo(folder, names, split, rules())
            for split, folder in folders.items()
        }
    raise UserError(
        f"config.data.source: {source!r} is not a source of images with boxes: {', '.join(FORMS)}. "
        f"{did_you_mean(scheme, ('quickstart', 'coco', 'yolo'))}"
    )


def _divided(
    source: str, read: Mapping[str, BoxedSplit], by: SplitKeys, given: Sequence[str], holdout: float | None
) -> dict[str, BoxedSplit]:
    """Returns the splits divided by groups and times."""
    paths = coco.find_coco(source.partition(":")[2])
    divided = divide_by_keys(
        source,
        {name: split.examples for name, split in read.items()},
        by,
        lambda: keys_of_rows({split: coco.image_rows(path, by.columns) for split, path in paths.items()}, by),
        given=given,
        holdout=holdout,
        origin=lambda example: example.origin,
        targets=lambda examples: [tuple(sorted(set(each.labels))) for each in examples],
    )
    splits = {}
    for name, own in divided.read.items():
        split = read.get(name) or dataclasses.replace(read["train"], note=f"valid: {counted(own)}")
        splits[name] = dataclasses.replace(split, examples=tuple(own), note=split.note + divided.notes[name])
    return splits


def _held_out(source: str, train: BoxedSplit, asked: float | None) -> tuple[BoxedSplit, BoxedSplit]:
    share = holdout_share(asked, len(train.examples))
    ranked = sorted(train.examples, key=lambda each: uniform_hash(each.image.digest()))
    last = uniform_hash(ranked[max(round(share * len(ranked)), 1) - 1].image.digest())
    sides: tuple[list[BoxedExample], list[BoxedExample]] = ([], [])
    for example in train.examples:
        sides[uniform_hash(example.image.digest()) <= last].append(example)
    if not sides[0]:
        raise UserError(
            f"{source}: it has no split 'valid', and none of its {len(train.examples):,} training images can be held "
            "out."
        )
    kept, valid = (dataclasses.replace(train, examples=tuple(side)) for side in sides)
    note = f"valid: {counted(valid.examples)}; {share:.1%} of train, chosen by a hash of the images"
    return (
        dataclasses.replace(kept, note=f"{train.note}; without the {len(valid.examples):,} that are valid"),
        dataclasses.replace(valid, note=note),
    )


def largest(read: Mapping[str, BoxedSplit]) -> tuple[int, BoxedExample | None]:
    """Returns the most objects that an image has, and that image."""
    every = [example for split in read.values() for example in split.examples]
    most = max(every, key=lambda each: len(each.learned), default=None)
    return (0 if most is None else len(most.learned)), most

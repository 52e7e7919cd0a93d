"""`yolo:DIR`: a text file an image, with a line "class column row width height" an object, all in shares of the image.

DIR/data.yaml                                     names of the classes, and where splits lie (optional there)
DIR/images/train/x.jpg, DIR/labels/train/x.txt    or DIR/train/images/x.jpg, DIR/train/labels/x.txt
DIR/images/x.jpg, DIR/labels/x.txt                one split, train
An image without a text file has no objects.
"""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from jaxfm.data.images.boxes import BoxedSplit, BoxRules, counted, example_of
from jaxfm.data.images.examples import IMAGES
from jaxfm.data.images.stored import StoredImage
from jaxfm.data.media.folders import media_files
from jaxfm.data.records.source_files import nearest_folder, numbered_lines
from jaxfm.data.records.splits import SPLIT_NAMES, canonical_split
from jaxfm.errors import UserError
from jaxfm.files import expanded

FORM = "yolo:DIR"
_FILES = ("data.yaml", "data.yml", "dataset.yaml")


def find_yolo(rest: str) -> tuple[dict[str, pathlib.Path], tuple[str, ...]]:
    """Returns split -> its folder of images, and the names of the classes.

    Raises UserError: no such folder, no data.yaml with names in it, no folder of images, one that leads out of DIR.
    """
    root = expanded(rest) if rest else None
    if root is None or not root.is_dir():
        raise UserError(f"yolo:{rest}: no such folder{f'; {nearest_folder(root)}' if root else ''}.")
    file = next((root / name for name in _FILES if (root / name).is_file()), None)
    if file is None:
        raise UserError(f"yolo:{rest}: has no {_FILES[0]}, which says the names of the classes: names: [cat, dog].")
    values = _yaml(file)
    names = _names(values, file)
    found: dict[str, pathlib.Path] = {}
    for key, value in values.items():
        split = canonical_split(str(key))
        if split is None or not value:
            continue
        if not isinstance(value, str):
            raise UserError(f"{file}: {key}: is {value!r:.60}; it must be one folder of images.")
        found[split] = _named_folder(root, values.get("path"), value, file, str(key))
    if not found:
        for split, usual in SPLIT_NAMES.items():
            for name in usual:
                for folder in (root / "images" / name, root / name / "images"):
                    if folder.is_dir():
                        found.setdefault(split, folder)
    if not found and (root / "images").is_dir():
        found["train"] = root / "images"
    if not found:
        raise UserError(f"yolo:{rest}: has no folder of images: images/train, train/images or images.")
    return {split: found[split] for split in SPLIT_NAMES if split in found}, names


def _named_folder(root: pathlib.Path, path: Any, value: str, file: pathlib.Path, key: str) -> pathlib.Path:
    """Returns the folder that data.yaml names; relative to `path`, or to the file; inside DIR alone."""
    bases = [root, *([root / str(path)] if path else [])]
    tried = [(base / value).resolve() for base in bases] + [(root / value.lstrip("./")).resolve()]
    for folder in tried:
        if folder.is_dir() and folder.is_relative_to(root.resolve()):
            return root / folder.relative_to(root.resolve())
    raise UserError(
        f"{file}: {key}: {value!r} is no folder inside {root}. Write the folder of its images, relative to the file."
    )


def _names(values: Mapping[str, Any], file: pathlib.Path) -> tuple[str, ...]:
    names = values.get("names")
    if isinstance(names, Mapping):
        if sorted(names) != list(range(len(names))):
            raise UserError(f"{file}: names: its numbers must be 0 to {len(names) - 1}, without gaps.")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or len({str(name) for name in names}) < len(names):
        raise UserError(f"{file}: names: is {names!r:.60}; it must be a list of the classes, each once.")
    return tuple(map(str, names))


def _yaml(file: pathlib.Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(found, Mapping):
        raise UserError(f"{file}: must have keys: names, and perhaps train, val and test.")
    return found


def read_yolo(folder: pathlib.Path, names: Sequence[str], split: str, rules: BoxRules) -> BoxedSplit:
    """Reads a folder of images and their text files; decodes no image.

    Args:
      folder: of images, with "images" in its path; the text files lie where that says "labels".
      names: of the classes.
      split: which it is.
      rules: of its boxes; they count what they repair.

    Raises:
      UserError: no image, a text file without its image, a line that is not a class and a box, an unknown class, a box
        that breaks a rule.
    """
    files = media_files(IMAGES, folder)
    if not files:
        raise UserError(f"{folder}: holds no image.")
    labels = _labels_folder(folder)
    stems = {file.relative_to(folder).with_suffix("") for file in files}
    for text in sorted(labels.rglob("*.txt")) if labels.is_dir() else []:
        if text.relative_to(labels).with_suffix("") not in stems and text.name != "classes.txt":
            raise UserError(f"{text}: is without its image, which would be {folder / text.relative_to(labels).stem}.*.")
    examples, without = [], 0
    for file in files:
        stored = StoredImage(str(file), path=file)
        text = labels / file.relative_to(folder).with_suffix(".txt")
        size = rules.size(stored)
        if size is None:
            continue
        without += not text.is_file()
        objects = list(_objects(text, names, size, rules)) if text.is_file() else []
        examples.append(example_of(stored, size, objects, str(file)))
    if without == len(files):
        raise UserError(f"{labels}: has no text file of any of the {len(files):,} images of {folder}.")
    said = f"; {without:,} images have no text file: they have no objects" if without else ""
    return BoxedSplit(tuple(examples), tuple(names), f"{split}: {counted(examples)} from {folder}{said}{rules.note()}")


def _labels_folder(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder of text files: the path with its last "images" as "labels"."""
    parts = list(folder.parts)
    if "images" not in parts:
        return folder
    last = len(parts) - 1 - parts[::-1].index("images")
    return pathlib.Path(*parts[:last], "labels", *parts[last + 1 :])


def _objects(
    text: pathlib.Path, names: Sequence[str], size: tuple[int, int], rules: BoxRules
) -> Iterator[tuple[tuple[float, ...], str, bool, float]]:
    height, width = size
    for number, line in numbered_lines(text):
        words, where = line.split(), f"{text}:{number}"
        if not words:
            continue
        try:
            kind, (column, row, wide, tall) = int(words[0]), map(float, words[1:])
        except ValueError:
            raise UserError(
                f"{where}: {line.strip()!r:.60} is not a class and four numbers: class column row width height. "
                "Outlines (more numbers) are not read."
            ) from None
        if not 0 <= kind < len(names):
            raise UserError(f"{where}: the class {kind} is not one of 0 to {len(names) - 1}: {', '.join(names[:20])}.")
        box = (
            (column - wide / 2) * width,
            (row - tall / 2) * height,
            (column + wide / 2) * width,
            (row + tall / 2) * height,
        )
        inside = rules.checked(box, size, where)
        if inside is not None:
            yield inside, names[kind], False, 0.0

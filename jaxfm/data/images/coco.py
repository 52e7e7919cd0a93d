"""`coco:DIR` and `coco:FILE.json`: COCO's instances, one JSON file a split.

DIR/annotations/instances_train2017.json  with DIR/train2017/x.jpg     COCO itself
DIR/train.json, DIR/valid.json            with DIR/images/x.jpg or DIR/x.jpg
DIR/train/_annotations.coco.json          with DIR/train/x.jpg         Roboflow's export
"""

import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfm.data.images.boxes import BoxedSplit, BoxRules, counted, example_of
from jaxfm.data.images.stored import StoredImage
from jaxfm.data.records.source_files import nearest_folder
from jaxfm.data.records.splits import canonical_split
from jaxfm.data.records.table import Row, listed
from jaxfm.errors import UserError, did_you_mean
from jaxfm.families.config_values import is_integer, is_number
from jaxfm.files import expanded

FORMS = ("coco:DIR", "coco:FILE.json")


def find_coco(rest: str) -> dict[str, pathlib.Path]:
    """Returns split -> its JSON file.

    Raises UserError: no such file or folder, no JSON file of a split, two for one split.
    """
    root = expanded(rest) if rest else None
    if root is None:
        raise UserError("coco: needs a folder or a file after the colon.")
    if root.is_file():
        return {_split_of(root, root.parent) or "train": root}
    if not root.is_dir():
        raise UserError(f"coco:{rest}: no such file or folder; {nearest_folder(root)}.")
    found: dict[str, pathlib.Path] = {}
    for path in sorted({*root.glob("*.json"), *root.glob("*/*.json")}):
        split = _split_of(path, root)
        if split is None or not _is_instances(path.stem):
            continue
        if split in found:
            raise UserError(
                f"coco:{rest}: both {found[split]} and {path} could be the split {split!r}. Name one: coco:FILE.json."
            )
        found[split] = path
    if not found:
        raise UserError(
            f"coco:{rest}: has no JSON file named for a split, such as annotations/instances_train2017.json, "
            "train.json or train/_annotations.coco.json. For another name write coco:FILE.json."
        )
    return found


def _is_instances(stem: str) -> bool:
    """Whether a file may hold objects; COCO has captions and keypoints beside these, by other names."""
    return not stem.startswith(("captions", "person_keypoints", "image_info", "stuff", "panoptic"))


def _split_of(path: pathlib.Path, root: pathlib.Path) -> str | None:
    """Returns the split that a file's name says, or else the folder that it lies in."""
    folder = path.parent.name if path.parent != root else ""
    for name in (path.stem, folder):
        for word in re.split(r"[^A-Za-z]+", name):
            if split := canonical_split(word):
                return split
    return None


def read_coco(path: pathlib.Path, split: str, root: pathlib.Path, rules: BoxRules) -> BoxedSplit:
    """Reads a file; decodes no image.

    Args:
      path: of the JSON file.
      split: which it is.
      root: the folder that images lie in, or in folders of it.
      rules: of its boxes; they count what they repair.

    Raises:
      UserError: no such JSON, a record that lacks a field or has one of a wrong kind, a category or an image that is
        not declared, an absent image, one of another size than declared, a box that breaks a rule.
    """
    values = _json(path)
    names = {}
    for category in _records(values, "categories", path):
        names[_number(category, "id", path, "categories")] = str(category.get("name", ""))
    classes = tuple(names[number] for number in sorted(names))
    if not classes or len(set(classes)) < len(classes) or "" in classes:
        raise UserError(f"{path}: categories: needs one record a class, each with an id and its own name.")
    of_image: dict[int, list[Mapping[str, Any]]] = {}
    for record in _records(values, "images", path):
        of_image[_number(record, "id", path, "images")] = []
    for record in _records(values, "annotations", path):
        where = f"{path}: annotation {record.get('id')!r}"
        image, category = (_number(record, key, path, "annotations") for key in ("image_id", "category_id"))
        if image not in of_image:
            raise UserError(f"{where}: image_id {image} is not among the images of the file.")
        if category not in names:
            raise UserError(
                f"{where}: category_id {category} is not among the categories: "
                f"{', '.join(map(str, sorted(names)[:20]))}."
            )
        of_image[image].append(record)
    examples = []
    for record in _records(values, "images", path):
        number = record["id"]
        name = record.get("file_name")
        if not isinstance(name, str) or not name:
            raise UserError(f"{path}: image {number}: has no file_name.")
        stored = StoredImage(_place(path, number, name), path=_image_path(name, number, path, split, root))
        size = rules.size(stored)
        if size is None:
            continue
        declared = (record.get("height", size[0]), record.get("width", size[1]))
        if declared != size:
            raise UserError(
                f"{stored.origin}: width and height are {declared[1]} x {declared[0]}, but the file has {size[1]} x "
                f"{size[0]} pixels: its boxes would be in the wrong places. Correct the record, or the image."
            )
        objects = list(_objects(of_image[number], names, size, path, rules))
        examples.append(example_of(stored, size, objects, stored.origin))
    if not examples:
        raise UserError(f"{path}: has no images.")
    return BoxedSplit(tuple(examples), classes, f"{split}: {counted(examples)} from {path}{rules.note()}")


def image_rows(path: pathlib.Path, columns: Sequence[str]) -> Iterator[Row]:
    """Yields the record of each image of a file as a row. Raises UserError as `read_coco`, or for absent columns."""
    records = _records(_json(path), "images", path)
    names = tuple(dict.fromkeys(name for record in records for name in record))
    for name in columns:
        if name not in names:
            raise UserError(
                f"{path}: images: no record has the field {name!r}. {did_you_mean(name, names)} Fields: "
                f"{listed(names)}."
            )
    for record in records:
        yield Row(_place(path, _number(record, "id", path, "images"), record.get("file_name")), record)


def _place(path: pathlib.Path, number: int, name: Any) -> str:
    """Returns what messages call an image."""
    return f"{path}: image {number} ({name})"


def _objects(
    records: list[Mapping[str, Any]],
    names: Mapping[int, str],
    size: tuple[int, int],
    path: pathlib.Path,
    rules: BoxRules,
) -> Iterator[tuple[tuple[float, ...], str, bool, float]]:
    """Yields box, class, whether it is a crowd, and area of each annotation whose box keeps the rules."""
    for record in records:
        where = f"{path}: annotation {record.get('id')!r}"
        box, area = record.get("bbox"), record.get("area", 0)
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            raise UserError(f"{where}: bbox is {box!r:.60}; it must be [left, top, width, height] in pixels.")
        left, top, width, height = box
        inside = rules.checked((left, top, left + width, top + height), size, where)
        if inside is not None:
            yield inside, names[record["category_id"]], bool(record.get("iscrowd", 0)), area if is_number(area) else 0


def _image_path(name: str, number: int, path: pathlib.Path, split: str, root: pathlib.Path) -> pathlib.Path:
    """Returns the file of an image: beside the JSON file, in the folder of its split, or in images/."""
    folders = [path.parent, root, path.parent / "images", root / "images"]
    for base in (root, root / "images", path.parent):
        if base.is_dir():
            folders += [each for each in sorted(base.iterdir()) if each.is_dir() and _split_of(each, each) == split]
    for folder in folders:
        file = (folder / name).resolve()
        if file.is_file() and file.is_relative_to(root.resolve()):
            return file
    looked = ", ".join(dict.fromkeys(str(folder) for folder in folders if folder.is_dir()))
    raise UserError(f"{path}: image {number}: the file {name!r} is absent (looked in {looked}).")


def _json(path: pathlib.Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}.") from None
    if not isinstance(found, Mapping) or not {"images", "annotations", "categories"} <= found.keys():
        raise UserError(f"{path}: is not COCO's form: an object with images, annotations and categories.")
    return found


def _records(values: Mapping[str, Any], key: str, path: pathlib.Path) -> list[Mapping[str, Any]]:
    found = values[key]
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise UserError(f"{path}: {key}: must be a list of objects.")
    return found


def _number(record: Mapping[str, Any], key: str, path: pathlib.Path, where: str) -> int:
    value = record.get(key)
    if not is_integer(value):
        raise UserError(f"{path}: {where}: a record has {key} {value!r:.40}; it must be an integer.")
    return int(value)  # type: ignore[arg-type]

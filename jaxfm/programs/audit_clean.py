"""Writes labelled data without, or with corrected, labels that are probably wrong, in a form that jaxfm reads again."""

import collections
import io
import json
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.core.labels import IMAGE, LABEL, TAGS, LabelledRecord
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.evaluation.label_errors import LabelError, corrected_tags
from jaxfm.programs.audit_copies import EXACT, LEAK, Repeated
from jaxfm.programs.audit_records import TRAIN, Records

REMOVE, RELABEL, KEEP = "remove", "relabel", "keep"
ACTIONS = (REMOVE, RELABEL, KEEP)
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")


def repeating(repeated: Sequence[Repeated]) -> set[int]:
    """Returns the records of train that repeat an earlier one, or of which another split has a copy or near copy."""
    found = {each.record for each in repeated if each.kind == EXACT and each.split == TRAIN}
    return found | {each.of_record for each in repeated if each.kind == LEAK}


def cleaned(
    records: Sequence[LabelledRecord], errors: Sequence[LabelError], action: str, dropped: Collection[int]
) -> tuple[list[LabelledRecord], list[int]]:
    """Returns the records of train as they are to be, and the numbers of those that are left out.

    Args:
      records: of train.
      errors: of its labels.
      action: one of ACTIONS: what becomes of records with wrong labels.
      dropped: numbers of records that are left out in any case.

    Raises:
      UserError: nothing is left.
    """
    of_records: dict[int, list[LabelError]] = collections.defaultdict(list)
    for error in errors:
        of_records[error.record].append(error)
    kept, left_out = list[LabelledRecord](), list[int]()
    for number, record in enumerate(records):
        own = of_records.get(number, []) if action != KEEP else []
        if number in dropped or (own and action == REMOVE):
            left_out.append(number)
        else:
            kept.append(relabelled(record, own) if own else record)
    if not kept:
        raise UserError("--clean: no record of train would be left. Look at audit.html, and keep some.")
    return kept, left_out


def relabelled(record: LabelledRecord, errors: Sequence[LabelError]) -> LabelledRecord:
    """Returns a record with the suggested labels."""
    row = dict(record.row)
    if TAGS in row:
        row[TAGS] = corrected_tags(row[TAGS], errors)
    else:
        (error,) = errors
        row[LABEL] = list(error.classes) if isinstance(row[LABEL], list) else error.classes[0]
    return LabelledRecord(row, record.origin, record.classes)


def write_data(folder: pathlib.Path, records: Records) -> None:
    """Writes FOLDER/SPLIT.jsonl of each split, of images their files too; whole or not at all.

    Raises UserError where the folder is there already.
    """
    with files.held(files.lock_beside(folder), f"--clean={folder}"), files.atomic_directory(folder) as made:
        for split, own in records.items():
            with open(made / f"{split}.jsonl", "w", encoding="utf-8", newline="\n") as file:
                for number, record in enumerate(own):
                    row = dict(record.row)
                    if IMAGE in row:
                        row[IMAGE] = _write_image(made, split, number, row[IMAGE])
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_image(folder: pathlib.Path, split: str, number: int, image: StoredImage) -> str:
    """Writes the file of an image as it is, an array as PNG; returns its path in the folder."""
    suffix = pathlib.PurePath(image.origin).suffix.lower()
    if image.array is not None:
        import PIL.Image

        file = io.BytesIO()
        PIL.Image.fromarray(image.array).save(file, "PNG")
        content, suffix = file.getvalue(), ".png"
    else:
        content = image.content()
    path = pathlib.Path(split) / f"{number:06}{suffix if suffix in _IMAGE_SUFFIXES else '.png'}"
    (folder / split).mkdir(exist_ok=True)
    (folder / path).write_bytes(content)
    return path.as_posix()


def cleaned_data(
    records: Records, errors: Mapping[str, Any], action: str, dropped: Collection[int]
) -> tuple[dict[str, Sequence[LabelledRecord]], list[int]]:
    """Returns all splits with train cleaned, the others as they are, and the numbers that are left out of train."""
    found = errors.get(TRAIN)
    kept, left_out = cleaned(records[TRAIN], found.errors if found else (), action, dropped)
    return {**records, TRAIN: kept}, left_out

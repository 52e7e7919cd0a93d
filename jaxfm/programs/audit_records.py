"""The records that an audit looks at: as they were read, and as rows that a run reads again."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.config import Config
from jaxfm.core.labels import DOCUMENT, GROUP, IMAGE, TIME, LabelledRecord, with_class_labels
from jaxfm.data.records.source_keys import source_keys, split_keys
from jaxfm.data.records.split_keys import check_key
from jaxfm.tasks import registry
from jaxfm.training import initial as initials

TRAIN, VALID, TEST = "train", "valid", "test"

Records = Mapping[str, Sequence[LabelledRecord]]
"""Split -> records, "train" first."""


def read_records(config: Config) -> tuple[Records, tuple[str, ...]]:
    """Returns the records of all splits as they are read, "train" first, and the classes.

    A task is made as training makes it, so that whatever training refuses is refused here; it is opened again as that
    of a run, so that copies that training would add are no records.
    """
    task, _ = registry.create(config, initials.resolve(config.model))
    definition = registry.definition(config.task.name)
    made = with_class_labels(task, config.task.name)
    with tempfile.TemporaryDirectory() as name:
        workdir = pathlib.Path(name)
        task.save(workdir)
        spec = task.objective.spec  # type: ignore[attr-defined]
        records = {}
        for split in task.datasets:
            reopened = definition.reopen(workdir, spec, config, config.data.source, split)
            found = with_class_labels(reopened, config.task.name).labelled(split)
            records[split] = with_keys(found, config, config.data.source, split)
    return records, made.class_names


def with_keys(records: Sequence[LabelledRecord], config: Config, source: str, split: str) -> Sequence[LabelledRecord]:
    """Returns records with their group and time as columns more, where a config says by which splits are kept apart.

    Raises UserError for a record without.
    """
    by = split_keys(config.data)
    if not by:
        return records
    keys, found = source_keys(source, by)[split], []
    for record in records:
        key = check_key(keys.get(record.origin), by, record.origin)
        own = {GROUP: key.group, TIME: None if key.time is None else key.time.text}
        row = dict(record.row) | {name: value for name, value in own.items() if value is not None}
        found.append(dataclasses.replace(record, row=row))
    return found


def readable(split: str, records: Sequence[LabelledRecord]) -> list[dict[str, Any]]:
    """Returns the records of a split as rows of a table in memory; documents of no other split have their names."""
    rows = [dict(record.row) for record in records]
    for row in rows:
        if IMAGE in row:
            image = row[IMAGE]
            row[IMAGE] = image.array if image.array is not None else image.content()
        if DOCUMENT in row:
            row[DOCUMENT] = f"{split} {row[DOCUMENT]}"
    return rows

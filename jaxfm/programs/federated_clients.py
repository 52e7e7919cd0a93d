"""The data of the clients of a simulation: records dealt out, and of each client rows to train and rows to score on.

The classes, the tokenizer and the shape of rows are those that the task finds in `config.data.source`: what parties
must have agreed on before they train together. A client's rows hold examples of its own alone.
"""

# N records of train, C clients

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfm.config import Config
from jaxfm.core.labels import GROUP, TIME, LabelledRecord, with_class_labels
from jaxfm.core.task import ReadsNeighbours, Task, TaskDefinition
from jaxfm.data.records import in_memory
from jaxfm.data.records.key_division import hold_out
from jaxfm.data.records.record_times import Moment, moment_of
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.records.split_keys import Key, SplitKeys
from jaxfm.errors import UserError
from jaxfm.federation import splits
from jaxfm.federation.client import ClientData, client_seed
from jaxfm.federation.splits import DIRICHLET, FILES, IID, Split
from jaxfm.observe.progress import Progress
from jaxfm.programs.audit_records import TEST, TRAIN, readable, with_keys
from jaxfm.schema import replaced

_COLUMNS = ("words", "tags", "document", "text", "pair", "image", "label", "group", "time")


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """Reads data as the server's task does.

    Attributes:
      definition: of the task.
      folder: where the task has been saved.
      spec: of its model.
      config: of the run.
    """

    definition: TaskDefinition
    folder: pathlib.Path
    spec: Any
    config: Config

    def records(self, source: str, config: Config, split: str = TRAIN) -> tuple[list[LabelledRecord], Sequence[str]]:
        """Returns the records of a source, and the classes; UserError for a label that is none of these."""
        task = with_class_labels(
            self.definition.reopen(self.folder, self.spec, config, source, split), config.task.name
        )
        return list(with_keys(task.labelled(split), config, source, split)), task.class_names

    def rows(self, records: Sequence[LabelledRecord]) -> Task:
        """Returns the task over records, as its split "test".

        Of training examples readers ask for more than one class, which a client may not have.
        """
        data = {TEST: readable(TEST, records)}
        # Columns are found by their usual names, whatever those of the source are.
        config = replaced(self.config, {f"data.{name}_column": "" for name in _COLUMNS})
        with in_memory.provided(data) as source:
            return self.definition.reopen(self.folder, self.spec, config, source, TEST)


@dataclasses.dataclass(frozen=True, eq=False)
class Dealt:
    """What the clients have.

    Attributes:
      clients: of each its data.
      classes: of each class -> number of its training and held-out records.
      pooled: what all of them train on, as one.
      fingerprint: of all rows of all clients.
    """

    clients: list[ClientData]
    classes: list[dict[str, int]]
    pooled: ClientData
    fingerprint: str


class ClientRecords(NamedTuple):
    """The records of one client.

    Attributes:
      name: what a person calls it.
      records: all of them.
      classes: of each.
    """

    name: str
    records: list[LabelledRecord]
    classes: list[str]


def deal(reader: Reader, split: Split, clients: int, folder: pathlib.Path | None, least: int) -> list[ClientRecords]:
    """Returns the records of each client.

    Args:
      reader: of the task.
      split: how.
      clients: how many, where they have no folder.
      folder: of the clients, for "files".
      least: records that a client must have.

    Raises:
      UserError: fewer records than clients need, a folder without files, records that read their neighbours.
    """
    if split.kind == FILES:
        assert folder is not None
        return _by_files(reader, folder, least)
    _check_neighbours(reader)
    if column := reader.config.data.group_column:
        raise UserError(
            f"--split={split.kind}: deals out single records, so several clients would have records of one group "
            f"(config.data.group_column={column!r}), trained on by one and held out by another. Take --split=files, a "
            "file or folder a client, with whole groups in each."
        )
    records, names = reader.records(reader.config.data.source, reader.config)
    seed = reader.config.seed
    if len(records) < clients * least:
        raise UserError(
            f"--clients={clients}: the {len(records):,} training examples are fewer than {least} a client "
            f"(--min_examples). At most {len(records) // least} clients."
        )
    classes = splits.main_classes(records, names)
    if split.kind == IID:
        parts = splits.iid(len(records), clients, seed)
    else:
        assert split.kind == DIRICHLET
        parts = splits.dirichlet(classes, clients, split.alpha, seed, least)
    return [
        ClientRecords(f"client {number}", [records[index] for index in part], [classes[index] for index in part])
        for number, part in enumerate(parts)
    ]


def make_clients(
    reader: Reader,
    dealt: Sequence[ClientRecords],
    holdout: float,
    progress: Progress,
) -> Dealt:
    """Returns the data of clients; each holds out a share of its records, drawn by its own number."""
    clients, classes, training = [], [], []
    digest = hashlib.sha256()
    with progress.task("reading clients", len(dealt)) as advance:
        for number, (name, records, of_class) in enumerate(dealt):
            own = own_records(reader, number, records, holdout)
            clients.append(client_data(reader, name, *own))
            digest.update(f"{name} {clients[-1].rows.fingerprint()} ".encode())
            training += own[0]
            counts = np.unique(np.asarray(of_class, object), return_counts=True)
            classes.append(dict(zip(map(str, counts[0]), map(int, counts[1]), strict=True)))
            advance(1)
    return Dealt(clients, classes, client_data(reader, "all clients", training, []), digest.hexdigest())


def own_records(
    reader: Reader, number: int, records: Sequence[LabelledRecord], holdout: float
) -> tuple[list[LabelledRecord], list[LabelledRecord]]:
    """Returns the records that a client trains on, and those that it holds out, drawn by its own number.

    Where splits are kept apart by groups and times they are whole groups of it, or its latest records; UserError where
    that is impossible.
    """
    if by := split_keys(reader.config.data):
        keys = [Key(each.row.get(GROUP), _moment(each, by)) for each in records]
        chosen = hold_out(keys, by, holdout, ["record"] * len(records))
        if not any(chosen):
            raise UserError(
                f"{records[0].origin}: client {number} has records of one group or time only ({by.said}), of which "
                "none can be held out. Leave the client out, or give it more."
            )
        sides = [[each for each, held in zip(records, chosen, strict=True) if held is side] for side in (False, True)]
        return sides[0], sides[1]
    train, held = splits.held_out(len(records), holdout, client_seed(reader.config.seed, number))
    return [records[index] for index in train], [records[index] for index in held]


def _moment(record: LabelledRecord, by: SplitKeys) -> Moment | None:
    return moment_of(record.row[TIME], by.time, record.origin) if by.time else None


def client_data(
    reader: Reader, name: str, training: Sequence[LabelledRecord], held: Sequence[LabelledRecord]
) -> ClientData:
    """Returns the data of a client of these records."""
    rows = reader.rows(training).datasets[TEST]
    if not held:
        return ClientData(rows, len(training), name=name)
    task = reader.rows(held)
    return ClientData(rows, len(training), task.datasets[TEST], len(held), task.scorer(TEST), name)


def _by_files(reader: Reader, folder: pathlib.Path, least: int) -> list[ClientRecords]:
    """Returns the clients of a folder, in the order of their names; hidden files are none."""
    scheme, colon, _ = reader.config.data.source.partition(":")
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not colon or not paths:
        why = "it is empty" if colon else f"config.data.source={reader.config.data.source} is not of files"
        raise UserError(f"--clients={folder}: {why}. Each file or folder in it is a client, of the kind of the source.")
    config = replaced(reader.config, {"data.holdout": 0.0})
    found = []
    for path in paths:
        if path.is_dir():
            records, names = reader.records(f"{scheme}:{path}", config)
        else:
            records, names = reader.records(f"{scheme}:{TEST}={path}", config, TEST)
        if len(records) < least:
            raise UserError(
                f"{path}: the client has {len(records):,} examples, fewer than --min_examples={least}. Leave it out, "
                "or ask for fewer."
            )
        found.append(ClientRecords(path.name, records, splits.main_classes(records, names)))
    return found


def _check_neighbours(reader: Reader) -> None:
    predictor = reader.definition.predictor(reader.folder, reader.spec)
    if isinstance(predictor, ReadsNeighbours) and predictor.reads_neighbours:
        raise UserError(
            "--split: this model reads an example with its neighbours in the document, which other clients would hold. "
            "Take --split=files, whose documents stay whole, or a task that reads each by itself."
        )

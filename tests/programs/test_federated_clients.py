"""The data of clients: whole, apart from each other, in rows of the model's one shape."""

import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.federation.splits import Split
from jaxfm.observe.progress import Progress
from jaxfm.programs.federated_clients import Reader, deal, make_clients
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from tests import tiny

QUIET = Progress(None, quiet=True)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny.config(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def reader(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return reader_of(config, tmp_path_factory.mktemp("saved"))


def reader_of(config: Config, folder: pathlib.Path) -> Reader:
    task, _ = registry.create(config, resolve(config.model))
    task.save(folder)
    return Reader(registry.definition(config.task.name), folder, task.objective.spec, config)


def texts(records: Any) -> list[str]:
    return sorted(" ".join(record.row["tokens"]) for record in records)


def test_every_record_is_dealt_out_once_and_rows_have_one_shape(reader: Reader) -> None:
    every, _ = reader.records(reader.config.data.source, reader.config)
    for split in (Split("iid"), Split("dirichlet", 0.5)):
        dealt = deal(reader, split, 4, None, 4)
        assert texts(record for client in dealt for record in client.records) == texts(every)
        made = make_clients(reader, dealt, 0.25, QUIET)
        for client, data, counts in zip(dealt, made.clients, made.classes, strict=True):
            assert data.examples + data.held_out_examples == len(client.records) == sum(counts.values())
            assert data.held_out_examples == max(1, round(0.25 * len(client.records)))
            assert data.rows.spec == made.clients[0].rows.spec
            # Rows of a client have the tokens of its own records alone.
            assert data.rows.take(np.arange(len(data.rows)))["segment_ids"].max() <= data.examples
        assert made.pooled.examples == sum(data.examples for data in made.clients)
        assert made.fingerprint == make_clients(reader, dealt, 0.25, QUIET).fingerprint
        assert made.fingerprint != make_clients(reader, dealt, 0.5, QUIET).fingerprint


def test_a_client_of_the_same_records_is_the_same_whoever_else_there_is(reader: Reader) -> None:
    dealt = deal(reader, Split("iid"), 3, None, 4)
    alone = make_clients(reader, dealt[:1], 0.2, QUIET).clients[0]
    assert alone.rows.fingerprint() == make_clients(reader, dealt, 0.2, QUIET).clients[0].rows.fingerprint()


def test_clients_by_file(reader: Reader, tmp_path: pathlib.Path) -> None:
    for number, name in enumerate(("north", "south")):
        tiny.write_conll(tmp_path / f"{name}.conll", tiny.sentences(12 + number, number))
    tiny.write_corpus(tmp_path / "west", {"train": 15, "test": 5})
    (tmp_path / ".hidden").write_text("no client")
    dealt = deal(reader, Split("files"), 0, tmp_path, 10)
    assert [(client.name, len(client.records)) for client in dealt] == [
        *(("north.conll", 12), ("south.conll", 13), ("west", 15))
    ]
    assert len(make_clients(reader, dealt, 0.2, QUIET).clients) == 3
    with pytest.raises(UserError, match="north.conll: the client has 12 examples, fewer than --min_examples=13"):
        deal(reader, Split("files"), 0, tmp_path, 13)
    (tmp_path / "north.conll").write_text("x B-DOG\n\n" * 12)
    with pytest.raises(UserError, match="DOG"):
        deal(reader, Split("files"), 0, tmp_path, 10)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="it is empty"):
        deal(reader, Split("files"), 0, tmp_path / "empty", 10)


def test_neighbours_are_not_torn_apart(config: Config, tmp_path: pathlib.Path) -> None:
    corpus = tiny.write_corpus(tmp_path / "corpus", documents=4)
    near = replaced(config, {"data.source": corpus, "task.context": "document"})
    with pytest.raises(UserError, match="reads an example with its neighbours"):
        deal(reader_of(near, tmp_path), Split("iid"), 2, None, 4)

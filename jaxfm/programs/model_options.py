"""What a person may ask of a trained model beside its inputs: how words are split, other classes, a text's role."""

import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from jaxfm.core.reads_files import ReadsFiles
from jaxfm.core.task import ComparesLabels, FindsEntities, Predictor, ReadsEntities, ReadsImages, ReadsLabels
from jaxfm.core.writing import WritesTexts
from jaxfm.data.records.examples import PAIR_COLUMNS
from jaxfm.data.records.source_unlabelled import Wanted
from jaxfm.errors import UserError, did_you_mean
from jaxfm.training.evaluation import Evaluator, bucket
from jaxfm.training.saved_run import Restored

RUN_WORDS = "run"


class Writing(NamedTuple):
    """How texts are written: settings of decoding (--decoding), and controls of all texts that lack them (--control).

    Both are name -> value; what is not named is as the run has it.
    """

    decoding: Mapping[str, str] = {}
    controls: Mapping[str, str] = {}


AS_TRAINED = Writing()


def split_by(predictor: Predictor, words: str) -> Predictor:
    """Returns the predictor with the asked way to split raw text into words; UserError where it has no such way."""
    if words == RUN_WORDS:
        return predictor
    if not predictor.splitters:
        raise UserError(
            f"--words={words}: only a model that reads a text word by word (named entities) has such a rule."
        )
    if words not in predictor.splitters:
        raise UserError(f"--words={words}: {did_you_mean(words, predictor.splitters)}")
    return predictor.with_splitter(words)


def labelled(predictor: Predictor, labels: Sequence[str]) -> Predictor:
    """Returns the predictor with other classes, () for its own; UserError where it has no others than its own."""
    if not labels:
        return predictor
    if not isinstance(predictor, ComparesLabels):
        raise UserError("--labels: the model of --workdir has its own classes: leave out the flag.")
    asked, fewest = tuple(label.strip() for label in labels), predictor.fewest_labels
    if len(set(asked)) < max(fewest, len(asked)) or not all(asked):
        least = "two texts at least" if fewest == 2 else "texts"
        raise UserError(f"--labels={','.join(labels)}: give {least}, all different, with commas between them.")
    return predictor.with_labels(asked)


def record_fields(predictor: Predictor) -> tuple[str, ...]:
    """Returns the fields of a record that the predictor reads beside its text."""
    return predictor.record_fields if isinstance(predictor, ReadsEntities | WritesTexts) else ()


def writing_as(predictor: Predictor, writing: Writing) -> Predictor:
    """Returns the predictor with another way of writing; UserError where it writes nothing."""
    if not writing.decoding and not writing.controls:
        return predictor
    if not isinstance(predictor, WritesTexts):
        flag = "--decoding" if writing.decoding else "--control"
        raise UserError(f"{flag}: the model of --workdir writes no texts: leave out the flag.")
    return predictor.with_writing(writing.decoding, writing.controls)


def named_values(flag: str, given: Sequence[str]) -> dict[str, str]:
    """Returns the values of a flag "NAME=VALUE", given any number of times; UserError for another form."""
    found: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not name.strip() or not equals or not value.strip():
            raise UserError(f"{flag}={each}: give {flag}=NAME=VALUE.")
        found[name.strip()] = value.strip()
    return found


def with_label_vectors(predictor: Predictor, restored: Restored, mesh: Mesh, batch_size: int) -> Predictor:
    """Returns the predictor with what the model computes of its labels, if it compares records with such."""
    if not isinstance(predictor, ReadsLabels) or not predictor.labels:
        return predictor
    rows = predictor.label_rows()
    size = bucket(batch_size, len(rows), mesh)
    return predictor.with_label_outputs(
        Evaluator(predictor.label_outputs, restored.graphdef, mesh, size)(restored.params, rows)
    )


def role_of(given: str, roles: Sequence[str]) -> str:
    """Returns the role of texts, the usual one where none is given; UserError for an unknown one."""
    role = given or roles[-1]
    if role not in roles:
        raise UserError(f"role: {role!r}. {did_you_mean(role, roles)}")
    return role


def portions(texts: Iterable[str], at_once: int) -> Iterator[list[str]]:
    """Yields `at_once` texts at a time; UserError for what is not a text."""
    iterator, number = iter(texts), 0
    while chunk := list(itertools.islice(iterator, at_once)):
        for text in chunk:
            number += 1
            if not isinstance(text, str):
                raise UserError(f"text {number}: is of type {type(text).__name__}, but must be text.")
        yield [str(text) for text in chunk]


def check_finder(predictor: Predictor, found: Predictor, entities: str | pathlib.Path, task: str) -> None:
    """Raises UserError unless `found`, of a run of that task, finds the entities that another model relates."""
    if not isinstance(found, FindsEntities):
        raise UserError(
            f"--entities={entities}: is a run of the task {task}, which finds no entities. Name a run that does."
        )
    assert isinstance(predictor, ReadsEntities)
    if problem := predictor.entity_problem(found.entity_types):
        raise UserError(f"--entities={entities}: {problem}")


def reads_texts(predictor: Predictor) -> bool:
    """Whether a record may be a text."""
    if isinstance(predictor, ReadsFiles):
        return False
    return not isinstance(predictor, ReadsImages) or predictor.reads_texts


def example_record(predictor: Predictor, words: int) -> dict[str, Any]:
    """Returns any record, of a text of so many words where it reads texts, to compile a program with."""
    if isinstance(predictor, ReadsFiles):
        return predictor.example_record()
    if not reads_texts(predictor):
        return {"image": np.zeros((64, 64, 3), np.uint8)}
    text = " ".join(["a"] * words)
    return {"text": "a", "pair": text} if predictor.pairs else {"text": text}


def named_fields(text: Mapping[str, Any], accepted: Wanted) -> dict[str, Any]:
    """Returns the fields of a text that a model reads; both texts of a pair may have other usual names."""
    names = ("text", "pair", "tokens", "id", *accepted.fields)
    record = {name: text[name] for name in names if name in text}
    if accepted.pairs and "text" not in record:
        both = next((both for both in PAIR_COLUMNS if set(both) <= set(text)), ())
        record |= {name: text[column] for name, column in zip(("text", "pair"), both, strict=False)}
    return record

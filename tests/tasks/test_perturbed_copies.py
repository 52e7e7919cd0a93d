"""Training with changed copies: which records there are, and that a run resumes with the same."""

import pathlib

import numpy as np
import pytest

from jaxfm.core.records import TEXTS, WORDS, TextsRecord
from jaxfm.errors import UserError
from jaxfm.tasks import registry
from jaxfm.tasks.perturbed_copies import PerturbConfig, changed_copies, parse_kinds
from jaxfm.training.initial import resolve
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("copies")


def test_a_copy_depends_on_its_record_alone() -> None:
    records = [TextsRecord((f"the film number {number} was long and good",)) for number in range(40)]
    config = PerturbConfig("typos=5,case=5", copies=2)
    first, second = changed_copies(records, config, TEXTS, seed=1)
    assert first != second and len(first) == len(second) == len(records)
    assert sum(one != other for one, other in zip(first, records, strict=True)) > 35
    alone = [changed_copies([record], config, TEXTS, seed=1) for record in records]
    assert [each[0][0] for each in alone] == first and [each[1][0] for each in alone] == second
    assert changed_copies(records, config, TEXTS, seed=2)[0] != first
    assert changed_copies(records, PerturbConfig(), TEXTS, seed=1) == []


def test_each_copy_has_one_of_the_kinds() -> None:
    records = [TextsRecord(("Aa Bb Cc Dd " * 8 + str(number),)) for number in range(60)]
    (copies,) = changed_copies(records, PerturbConfig("case=5,length=1"), TEXTS, seed=0)
    pairs = [(before, after) for before, after in zip(records, copies, strict=True) if isinstance(after, TextsRecord)]
    kinds = {before.texts[0].lower() == after.texts[0].lower() for before, after in pairs}
    assert kinds == {True, False}


def test_a_classifier_learns_from_both(folder: pathlib.Path) -> None:
    plain = tiny.classification_config(folder)
    more = tiny.classification_config(folder, task__perturb__kinds="typos=3", task__perturb__copies=2)
    (one, _), (other, _) = (registry.create(each, resolve(each.model)) for each in (plain, more))
    assert len(other.examples["train"]) == 3 * len(one.examples["train"])  # type: ignore[attr-defined]
    assert other.examples["train"][: tiny.SIZES["train"]] == one.examples["train"]  # type: ignore[attr-defined]
    assert other.examples["valid"] == one.examples["valid"]  # type: ignore[attr-defined]
    assert any("2 changed copies of each record (120)" in note for note in other.notes)
    again, _ = registry.create(more, resolve(more.model))
    assert again.datasets["train"].fingerprint() == other.datasets["train"].fingerprint()
    assert other.datasets["train"].fingerprint() != one.datasets["train"].fingerprint()


def test_a_tagger_learns_from_both(folder: pathlib.Path) -> None:
    config = tiny.config(folder, task__perturb__kinds="keyboard=4,entities=5", task__context="document")
    task, _ = registry.create(config, resolve(config.model))
    sentences = task.sentences["train"]  # type: ignore[attr-defined]
    count = tiny.SIZES["train"]
    assert len(sentences) == 2 * count
    pairs = list(zip(sentences[:count], sentences[count:], strict=True))
    assert all(len(other.words) == len(other.tags) for _, other in pairs)
    assert sum(one.words != other.words for one, other in pairs) > 0.8 * count
    assert not {one.document for one, _ in pairs} & {other.document for _, other in pairs}
    known = {word for one, _ in pairs for word in one.words}
    swapped = [other for one, other in pairs if set(other.words) <= known and one.words != other.words]
    assert swapped and all(len(task.sentences[split]) == tiny.SIZES[split] for split in ("valid", "test"))  # type: ignore[attr-defined]
    assert np.isfinite(task.datasets["train"].volume.useful_per_row)


@pytest.mark.parametrize(
    ("text", "reads", "message"),
    [
        ("typos", TEXTS, "'typos' is not KIND=SEVERITY"),
        ("typos=9", TEXTS, "severity of 1 to 5"),
        ("tpyos=1", TEXTS, "unknown kind 'tpyos'. Did you mean 'typos'?"),
        ("blur=1", WORDS, "'blur' changes image"),
        ("synonyms=1", WORDS, "needs a masked language model, which training does not have"),
        ("entities=1", TEXTS, "'entities' changes words"),
    ],
)
def test_what_cannot_be_is_refused(text: str, reads: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_kinds(text, reads)
    assert message in str(caught.value) and "config.task.perturb.kinds" in str(caught.value)


def test_groups_and_later_severities_win() -> None:
    assert parse_kinds("typos=2,ocr=4", TEXTS) == [("keyboard", 2), ("swaps", 2), ("ocr", 4)]
    assert parse_kinds("", WORDS) == []

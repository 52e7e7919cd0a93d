"""jaxfm.audit from data to files: flipped labels are found, runs of folds go on, clean data are read again."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from jaxfm.data.records import in_memory
from jaxfm.errors import UserError
from jaxfm.evaluation.confident_learning import label_quality
from jaxfm.programs import audit_folds
from jaxfm.programs.audit import audit
from jaxfm.programs.audit_records import readable
from jaxfm.programs.audit_report import AuditReport
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from tests import tiny

OTHER = {"PER": "LOC", "LOC": "PER"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def flipped(folder: pathlib.Path) -> tuple[str, list[int]]:
    """Labelled texts without a validation split, a tenth of the training labels flipped."""
    source = tiny.write_examples(folder / "noisy", "single", pairs=False, sizes={"train": 300, "test": 20})
    path = folder / "noisy" / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    chosen = list(range(5, 300, 10))
    for number in chosen:
        rows[number]["label"] = OTHER[rows[number]["label"]]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return source, chosen


def config_of(folder: pathlib.Path, source: str, **changes: Any) -> Any:
    return tiny.classification_config(folder, data__source=source, train__steps=150, eval__every_steps=75, **changes)


@pytest.fixture(scope="module")
def audited(folder: pathlib.Path, flipped: tuple[str, list[int]]) -> AuditReport:
    """An audit that was stopped after its first fold, and went on."""
    config = config_of(folder, flipped[0])
    calls = []

    def stop(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    train = audit_folds.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit_folds, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            audit(config, folder / "out", folds=2)
    assert not (folder / "out" / "audit.json").exists()
    first = (folder / "out" / "folds" / "fold0" / "report.json").stat().st_mtime_ns
    found = audit(config, folder / "out", folds=2, clean=folder / "clean", duplicates="remove")
    assert (folder / "out" / "folds" / "fold0" / "report.json").stat().st_mtime_ns == first
    return found


def test_flipped_labels_are_suspicious(audited: AuditReport, flipped: tuple[str, list[int]]) -> None:
    records = audited.records["train"]
    assert len(records) == 300 and list(audited.records) == ["train", "test"]
    labels = np.concatenate([record.classes for record in records])
    probabilities = np.concatenate(audited.probabilities["train"])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    quality = label_quality(labels, probabilities)
    is_flipped = np.isin(np.arange(300), flipped[1])
    above = quality[is_flipped][:, None] < quality[~is_flipped][None]
    assert above.mean() > 0.8  # the area under the curve: chance is 0.5
    found = audited.errors["train"]
    assert {error.record for error in found.errors} & set(flipped[1]) and found.noise > 0.02
    assert all(error.suggested == OTHER[error.given] for error in found.errors)
    assert audited.suspects[0].quality == min(error.quality for error in audited.suspects)


def test_each_record_is_judged_by_a_model_that_has_not_seen_it(audited: AuditReport, folder: pathlib.Path) -> None:
    held_out = []
    for number in range(2):
        values = json.loads((folder / "out" / "folds" / f"fold{number}" / "config.json").read_text())
        assert values["config"]["data"]["source"].startswith("memory:")
        held_out.append(values["config"]["data"]["source"])
    assert len(set(held_out)) == 2
    texts = [record.row["text"] for record in audited.records["train"]]
    fold_N = _folds_again(audited, folder)
    for text in set(texts):  # copies are never on both sides
        assert len({fold for fold, each in zip(fold_N.tolist(), texts, strict=True) if each == text}) == 1
    for number, source in enumerate(held_out):
        rows = readable("train", [audited.records["train"][n] for n in np.flatnonzero(fold_N != number).tolist()])
        with in_memory.provided({"train": rows}) as again:
            assert again == source


def _folds_again(audited: AuditReport, folder: pathlib.Path) -> np.ndarray:
    from jaxfm.programs.audit import _Asked, _assign

    asked = _Asked(2, 0, "prune_by_noise_rate", "normalised_margin", "remove", "keep")
    return _assign(audited.records["train"], audited.copies.groups, asked)[0]


def test_what_is_written(audited: AuditReport, folder: pathlib.Path) -> None:
    written = json.loads((folder / "out" / "audit.json").read_text())
    assert written["records"] == {"train": 300, "test": 20} and written["folds"] == 2
    errors = written["label_errors"]["train"]["errors"]
    assert [each["record"] for each in errors] == [error.record for error in audited.errors["train"].errors]
    assert "train.jsonl:" in errors[0]["origin"] and errors[0]["text"]
    text = (folder / "out" / "audit.md").read_text()
    assert "Suspicious labels" in text and "## Copies" in text and "estimated wrong" in text
    page = (folder / "out" / "audit.html").read_text()
    assert errors[0]["text"] in page and "Suspicious labels: train" in page


def test_clean_data_are_read_again(audited: AuditReport, folder: pathlib.Path) -> None:
    assert audited.removed is not None
    suspects = {error.record for error in audited.errors["train"].errors}
    repeats = {each.record for each in audited.copies.repeated if each.kind == "copy" and each.split == "train"}
    repeats |= {each.of_record for each in audited.copies.repeated if each.kind == "in train"}
    assert set(audited.removed) == suspects | repeats and repeats
    config = config_of(folder, f"jsonl:{folder / 'clean'}", data__holdout=0.0)
    task, _ = registry.create(config, resolve(config.model))
    read = task.labelled_records("train")  # type: ignore[attr-defined]
    kept = [record for number, record in enumerate(audited.records["train"]) if number not in audited.removed]
    assert [(each["text"], each["gold"]) for each in read] == [(each.row["text"], each.row["label"]) for each in kept]
    assert len(task.labelled_records("test")) == 20  # type: ignore[attr-defined]


def test_another_audit_in_its_folder_is_refused(
    audited: AuditReport, folder: pathlib.Path, flipped: tuple[str, list[int]]
) -> None:
    assert audited.folds == 2
    with pytest.raises(UserError, match="fold0"):
        audit(config_of(folder, flipped[0], optim__learning_rate=3e-3), folder / "out", folds=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ner", "document", "crf", "multi", "image"])
def test_every_kind_of_record(kind: str, folder: pathlib.Path) -> None:
    if kind == "image":
        config = tiny.image_config(folder, train__steps=4)
    elif kind == "multi":
        config = tiny.classification_config(folder, "multi", train__steps=4)
    else:
        source = tiny.write_corpus(folder / "corpus", documents=3)
        changes = {"document": {"task__context": "document"}, "crf": {"task__head": "crf", "task__decoding": "viterbi"}}
        config = tiny.config(folder, data__source=source, train__steps=4, **changes.get(kind, {}))
    found = audit(config, folder / f"out_{kind}", folds=2, clean=folder / f"clean_{kind}", label_errors="relabel")
    for split, own in found.records.items():
        for record, probabilities in zip(own, found.probabilities[split], strict=True):
            assert probabilities.shape == (len(record.classes), len(found.class_names))
            if kind != "multi":
                np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert (found.suspects or kind == "image") and found.removed == ()
    assert ("whole documents" in found.notes[0]) == (kind in ("ner", "document", "crf"))
    again = tiny.replaced(config, data__source=f"jsonl:{folder / f'clean_{kind}'}", data__holdout=0.0)
    task, _ = registry.create(again, resolve(again.model))
    gold = {error.record: error for error in found.errors["train"].errors}
    read = task.labelled("train")  # type: ignore[attr-defined]
    assert len(read) == len(found.records["train"])
    changed = [
        number
        for number, (one, other) in enumerate(zip(read, found.records["train"], strict=True))
        if not np.array_equal(one.classes, other.classes)
    ]
    assert changed == sorted(gold)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "--folds=1: must be 2 or more"),
        ({"folds": -2}, "--folds=-2"),
        ({"folds": 500}, "is more than the"),
        ({"method": "prune"}, "--method=prune"),
        ({"score": "margin"}, "--score=margin: .*normalised_margin"),
        ({"duplicates": "remove"}, "give it too"),
        ({"label_errors": "relabel"}, "give it too"),
        ({"label_errors": "drop", "clean": "x"}, "--label_errors=drop"),
        ({"folds": 0, "clean": "x"}, "no label is judged"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    if "clean" in options:
        options = options | {"clean": tmp_path / "clean"}
    with pytest.raises(UserError, match=message):
        audit(tiny.classification_config(folder), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists() and not (tmp_path / "clean").exists()


def test_tasks_and_data_that_cannot_be_judged(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="'regression' has numbers, not classes"):
        audit(tiny.classification_config(folder, "regression"), tmp_path, folds=2)
    with pytest.raises(UserError, match="'qa' has no class per record or word"):
        audit(tiny.qa_config(folder), tmp_path, folds=2)
    rows = [{"text": f"met {word}", "label": "ab"[number % 2]} for number, word in enumerate("abcdefgh")]
    config = tiny.classification_config(folder)
    with pytest.raises(UserError, match="the class 'c' has 1 different example .*train row 8.*--folds=0"):
        audit(config, tmp_path, folds=2, data=[*rows, {"text": "x", "label": "c"}])
    with pytest.raises(UserError, match="several runs in one program"):
        audit(config, tmp_path, overrides={"train.seeds": 2})
    assert not list(tmp_path.iterdir())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run itself"):
        audit(config, tmp_path)


def test_without_folds_nothing_is_trained(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    data = {
        "train": [
            {"tokens": ["ada", "met", "the", "old"], "tags": ["B-PER", "O", "O", "O"]},
            {"tokens": ["Ada", "met", "the", "old"], "tags": ["O", "O", "O", "O"]},
            {"tokens": ["in", "essen"], "tags": ["O", "B-LOC"]},
            {"tokens": ["in", "essen"], "tags": ["O", "B-LOC"]},
        ],
        "test": [{"tokens": ["ada", "met", "the", "old"], "tags": ["B-PER", "O", "O", "O"]}],
    }
    found = audit(tiny.config(folder), tmp_path / "out", folds=0, data=data)
    assert not found.errors and sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "audit.html",
        "audit.json",
        "audit.md",
    ]
    kinds = {(each.kind, each.split, each.record, each.of_record) for each in found.copies.repeated}
    # Of fewer than four words sentences repeat by chance.
    assert kinds == {("copy", "train", 1, 0), ("other label", "train", 1, 0), ("in train", "test", 0, 0)}


def test_the_program(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tiny.classification_config(folder)  # writes data and weights
    command = [sys.executable, "-m", "jaxfm.audit", "classification:files", "--folds=0", f"--workdir={tmp_path / 'a'}"]
    command += [f"--data=jsonl:{folder / 'single'}", f"--config.model.init=dir:{folder / 'weights'}"]
    done = subprocess.run([*command, "--config.data.row_length=48"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Copies" in done.stdout and "audit.html" in done.stdout and "Tokens of an example" in done.stdout

"""jaxfm.probe: two runs side by side, what it writes, and what it refuses."""

import json
import pathlib
import sys

import pytest

pytest.importorskip("sklearn", reason="the library of probes: pip install scikit-learn")

from jaxfm.errors import UserError
from jaxfm.evaluation.probes import CLUSTER_METRICS, METRICS
from jaxfm.programs.probe import ProbeReport, probe
from tests import tiny
from tests.programs import embedding_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Texts with labels in `data`, and two runs of vectors."""
    folder = tmp_path_factory.mktemp("probe")
    tiny.write_examples(folder / "data", "single", pairs=False)
    tiny.write_weights(folder / "weights")
    embedding_run.write(folder / "one", f"dir:{folder / 'weights'}")
    embedding_run.write(folder / "two", f"dir:{folder / 'weights'}", document_prompt="old ")
    return folder


@pytest.fixture(scope="module")
def report(folder: pathlib.Path) -> ProbeReport:
    return probe(folder / "one", f"jsonl:{folder / 'data'}", beside=folder / "two")


def test_two_runs_stand_side_by_side(report: ProbeReport) -> None:
    assert (report.train_texts, report.texts, report.labels) == (tiny.SIZES["train"], tiny.SIZES["test"], 2)
    assert [table.title.split(":")[0] for table in report.tables] == [
        "Logistic regression",
        "k-means",
        "test, 18 examples",
        "McNemar's exact test",
    ]
    rows = report.tables[0].rows
    assert [str(row[0]).rpartition("/")[2] for row in rows] == ["one", "two", "the most frequent label"]
    assert report.comparison is not None and set(report.comparison.differences) == set(METRICS)
    for each, side in zip(report.runs, "ab", strict=True):
        for name in METRICS:
            found = each.probe.intervals[name]
            assert found.low <= found.value <= found.high
            assert getattr(report.comparison.differences[name], side) == pytest.approx(found.value)
    assert report.runs[0].clusters != report.runs[1].clusters


def test_what_is_written_is_json(report: ProbeReport) -> None:
    found = json.loads(json.dumps(report.to_dict()))
    assert set(found["runs"][0]["clusters"]) == set(CLUSTER_METRICS) and found["comparison"]["count"] == 18
    assert found["majority"]["accuracy"]["value"] == report.majority.intervals["accuracy"].value
    assert "accuracy=" in repr(report) and "k-means" in report._repr_html_()


def write(folder: pathlib.Path, **splits: list[str]) -> str:
    """Writes texts whose labels are given; returns the source."""
    folder.mkdir()
    for split, labels in splits.items():
        rows = [
            json.dumps({"text": f"ada met {tiny.NAMES['LOC'][number % 8]}", "label": label})
            for number, label in enumerate(labels)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    return f"jsonl:{folder}"


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"test": ["a", "b", "a"]}, "has no split 'train'"),
        ({"train": ["a", "b", "a"]}, "has no split 'test'"),
        ({"train": ["a", "a"], "test": ["a", "b", "a"]}, "all 2 training examples have 'a'"),
        ({"train": ["a", "b"], "test": ["a", "a"]}, "test has the label 'a' alone"),
        ({"train": ["a", "b"], "test": ["a", "b", "c"]}, "test has 3 texts of 3 labels"),
    ],
)
def test_labels_that_say_nothing(
    folder: pathlib.Path, tmp_path: pathlib.Path, splits: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        probe(folder / "one", write(tmp_path / "data", **splits))


def test_other_refusals(folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"jsonl:{folder / 'data'}"
    with pytest.raises(UserError, match="--split=train: the probe is fitted to train"):
        probe(folder / "one", source, "train")
    with pytest.raises(UserError, match=r"role: 'documents'. Did you mean 'document'\?"):
        probe(folder / "one", source, role="documents")
    pairs = tiny.write_examples(tmp_path / "pairs", "single", pairs=True)
    with pytest.raises(UserError, match=r"train.jsonl:1: has two texts.*config.data.text_column"):
        probe(folder / "one", pairs)
    run = tiny.write_runs(tmp_path, ["classification"])["classification"]
    with pytest.raises(UserError, match="is a run of the task classification, which makes no vectors of texts"):
        probe(run, source)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"jaxfm.probe needs the package scikit-learn: .*probe"):
        probe(folder / "one", source)


def test_vectors_that_are_all_the_same_cannot_be_clustered(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flat = embedding_run.write(tmp_path / "flat", f"dir:{folder / 'weights'}", scale=0.0)
    with pytest.raises(UserError, match=r"flat: .*(fewer different vectors than the 2 labels|is not finite)"):
        probe(flat, f"jsonl:{folder / 'data'}")


def test_a_label_of_test_alone_is_said(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = write(tmp_path / "data", train=["a", "b"] * 6, test=["a", "b", "c", "c", "a"])
    found = probe(folder / "one", source)
    assert any("1 labels of test do not occur in train, and are never predicted: c" in note for note in found.notes)

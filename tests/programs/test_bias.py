"""jaxfm.bias: a planted gap is found, answers of every kind are compared, and what does not fit is refused."""

import json
import pathlib
from collections.abc import Mapping

import pytest

from jaxfm.errors import UserError
from jaxfm.observe import studies
from jaxfm.programs.bias import BiasReport, bias
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from tests import tiny

TERMS = """
[[attribute]]
name = "kinds of names"
place = "name"
[attribute.groups]
people = ["ada", "boole", "curry", "dedekind", "emmy", "frege", "gauss", "hilbert"]
places = ["arles", "bergen", "cadiz", "delft", "essen", "ferrara", "ghent", "hull"]

[[attribute]]
name = "letters"
place = "name"
[attribute.groups]
early = ["boole", "curry", "dedekind", "emmy"]
late = ["frege", "gauss", "hilbert", "ada"]

[templates]
name = ["the old {name} left", "{name} met and went", "saw {name} near the town", "{name} ."]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Runs of random weights, `run_NAME`, and one that tells names of people from those of places, `trained`."""
    folder = tmp_path_factory.mktemp("bias")
    tiny.write_runs(folder, ["classification", "pairs", "regression", "ner", "masked_lm", "embedding"])
    (folder / "terms.toml").write_text(TERMS)
    config = replaced(tiny.classification_config(folder), {"train.steps": 80, "log.every_steps": 80})
    train(config, folder / "trained")
    return folder


@pytest.fixture(scope="module")
def report(folder: pathlib.Path) -> BiasReport:
    return bias(folder / "trained", templates=folder / "terms.toml")


def test_a_model_that_judges_by_the_kind_of_name_is_found_out(report: BiasReport) -> None:
    (planted,) = report.gaps["kinds of names"]
    assert (planted.group, planted.number) == ("places", "P(PER)")
    assert planted.p < 0.05 and planted.interval.high < 0
    (other,) = report.gaps["letters"]  # all of them are people
    assert abs(other.interval.value) < abs(planted.interval.value) / 2 and other.p > 0.05
    assert "1 of 1 gaps are more than chance and 0.01" in report.study.summary[0] and "PER" in report.study.summary[0]


def test_what_is_written_is_read_by_the_model_card(report: BiasReport, tmp_path: pathlib.Path) -> None:
    report.write(tmp_path / studies.FOLDER)
    written = json.loads((tmp_path / studies.FOLDER / "bias_terms.json").read_text())
    assert written["attributes"]["kinds of names"]["terms"] == {"people": 8, "places": 8}
    assert (tmp_path / studies.FOLDER / "bias_terms_1.png").stat().st_size > 1000
    assert "kinds of names" in (tmp_path / studies.FOLDER / "bias_terms.md").read_text()
    step = report.study.step
    assert studies.read_summaries(tmp_path, step) == {"Bias: exchanged terms": report.study.summary}
    assert studies.read_summaries(tmp_path, step + 1) == {}
    assert "kinds of names" in report._repr_html_() and "kinds of names" in repr(report)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("regression", {"value"}), ("ner", {"found as LOC", "found as PER"}), ("classification", {"P(PER)"})],
)
def test_answers_of_every_kind(folder: pathlib.Path, name: str, numbers: set[str]) -> None:
    found = bias(folder / f"run_{name}", templates=folder / "terms.toml")
    assert {gap.number for gaps in found.gaps.values() for gap in gaps} == numbers


def test_the_terms_that_come_with_jaxfm(folder: pathlib.Path) -> None:
    found = bias(folder / "run_regression")
    assert list(found.gaps) == ["gender of names", "origin of names", "gender of nouns", "religion", "nationality"]
    assert [len(gaps) for gaps in found.gaps.values()] == [1, 8, 1, 6, 10]


def write_groups(folder: pathlib.Path, source: pathlib.Path) -> str:
    """Writes labelled texts with a column: the labels of one group are exchanged, so that they are mostly wrong."""
    folder.mkdir()
    for split in ("train", "valid", "test"):
        lines = []
        for number, line in enumerate((source / f"{split}.jsonl").read_text().splitlines()):
            record = json.loads(line)
            if number % 3 == 0:
                record["label"] = {"PER": "LOC", "LOC": "PER"}[record["label"]]
            lines.append(json.dumps(record | {"region": None if number % 3 == 2 else f"r{number % 3}"}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return f"jsonl:{folder}"


def test_scores_by_a_column(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    source = write_groups(tmp_path / "data", folder / "single")
    found = bias(folder / "trained", by="region", split="train", source=source)
    groups: Mapping[str, Mapping[str, object]] = found.study.values["groups"]
    assert {name: each["count"] for name, each in groups.items()} == {"r0": 20, "r1": 20, "(none)": 20}
    assert found.gaps["region"][0].group == "r0" and found.gaps["region"][0].p < 0.05
    found.write(tmp_path / "studies")
    assert {path.name for path in (tmp_path / "studies").iterdir()} == {
        "bias_by_region.json",
        "bias_by_region.md",
        "bias_by_region_1.png",
    }
    with pytest.raises(UserError, match="--by=regoin: is no column of .*Did you mean 'region'"):
        bias(folder / "trained", by="regoin", split="train", source=source)
    with pytest.raises(UserError, match="fewer than two groups of 10 examples"):
        bias(folder / "trained", by="region", split="test", source=source)
    with pytest.raises(UserError, match="--by=text: has [0-9]+ different values.*at most 50"):
        bias(folder / "trained", by="text", split="train", source=source)
    with pytest.raises(UserError, match="has no columns"):
        bias(folder / "run_ner", by="region", source=tiny.write_corpus(tmp_path / "conll"))


def test_pairs_of_both_forms(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    crows = tmp_path / "crows.csv"
    crows.write_text(
        "sent_more,sent_less,bias_type\nada met the town,boole met the town,gender\nada left,arles left,other\n"
    )
    found = bias(folder / "run_masked_lm", stereotypes=crows)
    assert [each.kind for each in found.preferences] == ["all", "gender", "other"]
    assert found.preferences[0].pairs == 2 and found.preferences[0].sense is None
    sentences = [
        {"sentence": f"saw {word} near", "gold_label": label}
        for word, label in (("ada", "stereotype"), ("boole", "anti-stereotype"), ("the", "unrelated"))
    ]
    item = {"bias_type": "gender", "target": "x", "context": "saw BLANK near", "sentences": sentences}
    (tmp_path / "set.json").write_text(json.dumps({"data": {"intrasentence": [item]}}))
    found = bias(folder / "run_masked_lm", stereotypes=tmp_path / "set.json")
    assert found.preferences[0].sense is not None and found.preferences[0].idealised is not None
    found.write(tmp_path / "studies")
    assert "ICAT" in (tmp_path / "studies" / "bias_stereotypes.md").read_text()
    with pytest.raises(UserError, match="gives no probability of each token"):
        bias(folder / "run_classification", stereotypes=crows)


def test_what_does_not_fit_is_refused(folder: pathlib.Path) -> None:
    with pytest.raises(UserError, match="--by and --stereotypes: these are two measures"):
        bias(folder / "trained", by="a", stereotypes="b")
    with pytest.raises(UserError, match="are compared by the groups of a column: --by=COLUMN"):
        bias(folder / "trained", source="quickstart")
    with pytest.raises(UserError, match="judges pairs of texts"):
        bias(folder / "run_pairs")
    for name in ("masked_lm", "embedding"):
        with pytest.raises(UserError, match=f"task {name}, whose answers have neither.*--stereotypes=FILE"):
            bias(folder / f"run_{name}")

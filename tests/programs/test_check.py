"""The program that looks at data before training: what it finds for each task, and how it ends."""

import json
import pathlib
from typing import Any

import pytest

import jaxfm
from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.errors import UserError
from jaxfm.programs.check import check, plan_updates
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from tests import tiny
from tests.programs.many_calls import call_many
from tests.toy import image

CONFIG = """
from jaxfm.tasks.registry import default_config

def get_config():
    config = default_config("classification")
    config.model.init = "dir:{weights}"
    config.data.source = "jsonl:{data}"
    return config
"""


def by_check(found: DataCheck) -> dict[str, Finding]:
    return {each.check: each for each in found.findings}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("check")


def write_bad(folder: pathlib.Path) -> None:
    """Labelled texts with one of each fault: in test a label of its own, a training text, and a text of signs."""
    tiny.write_examples(folder, "single", pairs=False)
    first = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    other = {"PER": "LOC", "LOC": "PER"}[first["label"]]
    with open(folder / "test.jsonl", "a") as file:
        for text, label in (("met in town", "ORG"), (first["text"], other), ("...", "LOC")):
            file.write(json.dumps({"text": text, "label": label}) + "\n")


@pytest.mark.parametrize("kind", ["single", "multi", "regression"])
def test_good_examples_have_no_error(folder: pathlib.Path, kind: str) -> None:
    found = check(tiny.classification_config(folder, kind))
    levels = {each.check: each.level for each in found.findings}
    assert not found.count("error") and {"duplicates", "leaks", "length", "unknown tokens", "updates"} <= levels.keys()
    assert ("range of scores" in levels) == (kind == "regression")
    assert ("balance" in levels and "names of labels" in levels) == (kind != "regression")
    assert found.tables[0].rows[0][:2] == ("train", tiny.SIZES["train"])


def test_pairs_are_read_as_pairs(folder: pathlib.Path) -> None:
    found, alone = (check(tiny.classification_config(folder, "single", pairs=pairs)) for pairs in (True, False))
    assert found.tables[0].rows[0][4] > alone.tables[0].rows[0][4]  # the longest example: two texts and a [SEP] more


def test_tagged_sentences(folder: pathlib.Path) -> None:
    found = check(tiny.config(folder))
    levels = {each.check: each.level for each in found.findings}
    assert not found.count("error")
    assert {"reading", "tags of a form", "edges of entities", "long entities"} <= levels.keys()
    assert [row[0] for row in found.tables[0].rows] == ["train", "valid", "test"]
    assert dict(row[:2] for row in found.tables[1].rows).keys() == {"PER", "LOC"}


def test_a_task_of_its_own_brings_its_checks(folder: pathlib.Path) -> None:
    config = tiny.config(folder)
    with image.registered():
        values: dict[str, Any] = {"task": {"name": image.NAME}, "model": {"init": config.model.init}}
        values["train"] = {"batch_size": 4, "steps": 120}
        found = by_check(check(registry.from_config_dict(values)))
    assert found["size"].message == "32 images"
    assert found["updates"].message.startswith("120 updates of 4 rows of ") and found["updates"].level == "ok"


def test_it_says_what_training_would_choose(folder: pathlib.Path) -> None:
    open_keys = {"data__row_length": "auto", "train__batch_size": "examples", "train__steps": 0, "eval__metric": "auto"}
    config = tiny.classification_config(folder, **open_keys, train__min_steps=150)
    plan = plan_updates(config, resolve(config.model))
    assert (plan.updates, plan.config.eval.metric) == (150, "accuracy") and plan.config.train.batch_size > 0
    assert plan.config.data.row_length == 128 and "train.batch_examples: 16" in plan.notes[0]
    message = by_check(check(config))["updates"].message
    assert message == (
        f"150 updates of {plan.config.train.batch_size} rows of 128 ({plan.epochs:.1f} epochs), "
        f"{plan.evaluations} evaluations by accuracy"
    )
    few = by_check(check(tiny.classification_config(folder)))["updates"]
    assert few.level == "warning" and few.message.endswith("a new head needs some hundred") and "min_steps" in few.fix


def test_without_validation_it_warns(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tiny.write_examples(tmp_path / "data", "single", pairs=False, sizes={"train": 40})
    config = tiny.classification_config(folder, data__source=f"jsonl:{tmp_path / 'data'}")
    assert [row[:2] for row in check(config).tables[0].rows] == [("train", 32), ("valid", 8)]  # a fifth is held out
    found = by_check(check(tiny.replaced(config, data__holdout=0.0)))
    assert found["validation"].level == "warning" and "data.holdout" in found["validation"].fix


def test_a_source_that_cannot_be_read_is_refused(folder: pathlib.Path) -> None:
    with pytest.raises(UserError, match="no such"):
        check(tiny.classification_config(folder, data__source="jsonl:/nowhere"))


@pytest.fixture(scope="module")
def runs(folder: pathlib.Path) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of good data, of bad data, of no data and of no config."""
    good = tiny.classification_config(folder)
    write_bad(folder / "bad")
    source = good.data.source.removeprefix("jsonl:")
    weights = good.model.init.removeprefix("dir:")
    (folder / "config.py").write_text(CONFIG.format(weights=weights, data=source))
    config = f"--config={folder / 'config.py'}"
    calls = [
        [config, f"--output={folder / 'good.json'}"],
        [config, f"--config.data.source=jsonl:{folder / 'bad'}", f"--output={folder / 'bad.json'}"],
        [config, "--config.data.source=jsonl:nowhere", f"--output={folder / 'none.json'}"],
        [],
    ]
    return call_many("check", calls)


def test_exit_codes(runs: list[tuple[int, str, str]]) -> None:
    assert [code for code, _, _ in runs] == [0, 1, 2, 2]
    assert "nowhere" in runs[2][2] and "--config is missing" in runs[3][2]


def test_what_is_printed(runs: list[tuple[int, str, str]]) -> None:
    output = runs[1][1]
    lines = output.splitlines()
    assert any(line.startswith("error:   unseen labels: test has labels that train has not") for line in lines)
    assert any("bad/test.jsonl:19: ORG" in line for line in lines)
    assert any(line.startswith("error:   training: ") and "'ORG' does not occur" in line for line in lines)
    assert any(line.startswith("warning: contradictions: ") for line in lines)
    assert any(line.startswith("warning: empty texts: ") for line in lines)
    assert any(line.strip().startswith("-> ") for line in lines) and "2 errors, " in lines[-1]
    assert "0 errors, " in runs[0][1].splitlines()[-1]


def test_what_is_written(runs: list[tuple[int, str, str]], folder: pathlib.Path) -> None:
    assert runs
    good, bad = (json.loads((folder / f"{name}.json").read_text()) for name in ("good", "bad"))
    assert (good["errors"], bad["errors"]) == (0, 2) and bad["task"] == "classification"
    assert {each["check"] for each in good["findings"]} >= {"duplicates", "leaks", "updates"}
    assert bad["tables"]["Splits"][0]["examples"] == tiny.SIZES["train"]
    assert not (folder / "none.json").exists()


def test_the_function_is_public() -> None:
    assert jaxfm.check is check


def test_groups_and_times_are_told_and_leaks_are_errors(folder: pathlib.Path) -> None:
    source = tiny.write_examples(folder / "keyed", "single", pairs=False, sizes={"train": 40, "test": 8})
    for split, first in (("train", 0), ("test", 9)):
        path = folder / "keyed" / f"{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        keyed = [row | {"patient": f"p{first + number // 4}"} for number, row in enumerate(rows)]
        path.write_text("".join(json.dumps(row) + "\n" for row in keyed))
    config = tiny.classification_config(folder, data__source=source, data__group_column="patient")
    found = by_check(check(config))
    assert found["training"].level == "error" and "1 group by 'patient'" in found["training"].message
    assert "data.leaks=drop" in found["training"].message and "duplicates" in found
    allowed = check(config, overrides={"data.leaks": "allow"})
    told = [each for each in allowed.findings if each.check == "groups and times"]
    assert [each.level for each in told] == ["ok", "warning"] and "1 group by 'patient'" in told[1].message
    assert len(told[0].examples) == 3 and "groups by 'patient' (data.group_column)" in told[0].examples[1]
    assert not check(config, overrides={"data.leaks": "drop"}).count("error")

"""Runs of data in memory: trained, resumed, scored, used again; and configs by name with single keys set."""

import json
import logging
import pathlib
import shutil
import warnings
from typing import Any

import pytest

import jaxfm
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.observe.shown import Report
from jaxfm.programs.given_config import resolve_config
from jaxfm.tasks.registry import default_config
from tests import tiny

STEPS = {"train.steps": 2, "eval.every_steps": 2, "checkpoint.keep_optimizer": True}  # to resume a finished run


def examples(count: int, seed: int) -> list[dict[str, str]]:
    """Texts and the kind of their first name."""
    return [
        {"text": " ".join(words), "label": next(tag[2:] for tag in tags if tag != "O")}
        for words, tags in tiny.sentences(count, seed)
    ]


DATA = {"train": examples(24, seed=0), "dev": examples(12, seed=1)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("memory")


@pytest.fixture(scope="module")
def config(base: pathlib.Path) -> jaxfm.Config:
    return tiny.classification_config(base)


@pytest.fixture(scope="module")
def run(base: pathlib.Path, config: jaxfm.Config) -> tuple[pathlib.Path, Report]:
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    level = logging.getLogger("orbax").level
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        report = jaxfm.train(config, base / "run", data=DATA, overrides=STEPS)
    assert not [str(each.message) for each in seen]  # no library says anything
    assert root.handlers == before and logging.getLogger("orbax").level == level  # and nothing of the caller's changed
    return base / "run", report


def test_a_run_of_data_in_memory_is_remembered_and_used_again(run: tuple[pathlib.Path, Report]) -> None:
    workdir, report = run
    assert set(report["splits"]) == {"valid"} and report["training"]["steps"] == 2
    source = json.loads((workdir / "config.json").read_text())["config"]["data"]["source"]
    assert source == report["data"]["source"] and source.startswith("memory:")
    record = json.loads((workdir / "predictions" / "valid.jsonl").read_text().splitlines()[0])
    assert record["origin"] == "valid row 0" and record["text"] == DATA["dev"][0]["text"]
    # Later, without the data:
    assert jaxfm.predict(workdir, "ada met boole")["label"] in ("LOC", "PER")
    with pytest.raises(UserError, match=rf"^{source}: these data were given in memory, .* give them again \(data="):
        jaxfm.evaluate(workdir, split="valid")
    # And with them, in whatever form:
    quiet = Progress(0, quiet=True)
    again = jaxfm.evaluate(workdir, split="dev", data=DATA, progress=quiet)
    alone = jaxfm.evaluate(workdir, data=DATA["dev"], progress=quiet)  # without splits they are "test"
    assert again.metrics == alone.metrics and again.metrics["loss"] == report["splits"]["valid"]["loss"]
    with pytest.raises(UserError, match=r"^test row 0: the label 'ORG' does not occur in the training data"):
        jaxfm.evaluate(workdir, data=[{"text": "ada", "label": "ORG"}], progress=quiet)
    with pytest.raises(UserError, match=r"source='csv:x' and data: give one of them"):
        jaxfm.evaluate(workdir, source="csv:x", data=DATA)


def test_the_same_data_find_the_run_and_others_are_refused(
    run: tuple[pathlib.Path, Report], config: jaxfm.Config
) -> None:
    workdir, report = run
    columns = {split: {name: [row[name] for row in rows] for name in rows[0]} for split, rows in DATA.items()}
    assert jaxfm.train(config, workdir, data=columns, overrides=STEPS) == report  # the finished run
    other = {**DATA, "train": DATA["train"][1:]}
    with pytest.raises(UserError, match=r"holds a run of data .* in memory .*, and the data given now .* are others"):
        jaxfm.train(config, workdir, data=other, overrides=STEPS)
    with pytest.raises(UserError, match=r"given in memory \(memory:\w+\), and no such data are given now\. Give the"):
        jaxfm.train(config, workdir, overrides=STEPS)


def test_a_run_that_was_cut_off_goes_on_with_the_same_data(
    run: tuple[pathlib.Path, Report], base: pathlib.Path, config: jaxfm.Config
) -> None:
    whole, workdir = run[1], base / "cut"
    shutil.copytree(run[0], workdir)
    (workdir / "report.json").unlink()
    again = jaxfm.train(config, workdir, data=DATA, overrides=STEPS)
    assert again["splits"]["valid"]["loss"] == whole["splits"]["valid"]["loss"]


def test_what_is_wrong_with_data_leaves_nothing_behind(base: pathlib.Path, config: jaxfm.Config) -> None:
    with pytest.raises(UserError, match=r"^train row 1: the text in 'text' is empty"):
        jaxfm.train(config, base / "none", data=[{"text": "a", "label": "x"}, {"text": " ", "label": "y"}])
    with pytest.raises(UserError, match=r"has no split 'train'; it has: valid"):
        jaxfm.train(config, base / "none", data={"valid": DATA["dev"]})
    assert not (base / "none").exists()


def test_a_report_is_a_dict_that_shows_its_scores(run: tuple[pathlib.Path, Report]) -> None:
    workdir, report = run
    assert json.loads(json.dumps(report)) == json.loads((workdir / "report.json").read_text())
    text = repr(report)
    first, second = text.splitlines()[:2]
    assert first.startswith(f"valid accuracy {report['result']['value']:.4f} (95% interval ")
    assert second.startswith("classification: 2 updates in ") and len(text) < 3000
    accuracy = f"{report['splits']['valid']['accuracy']:.4f}"
    low, high = report["splits"]["valid"]["intervals"]["metrics"]["accuracy"]
    for shown in (text, report._repr_html_()):
        assert accuracy in shown and f"{low:.4f} to {high:.4f}" in shown and str(workdir / "report.html") in shown


@pytest.mark.parametrize("name", ["ner", "ner:files", "classification:files", "mlm"])
def test_a_config_has_a_name(name: str) -> None:
    config = resolve_config(name, {"train.epochs": 1, "optim.learning_rate": 3e-5, "data.text_column": "x"})
    assert (config.train.epochs, config.optim.learning_rate, config.data.text_column) == (1.0, 3e-5, "x")


def test_a_config_is_a_file_a_config_dict_or_a_config(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from jaxfm.tasks.registry import default_config\n\n\ndef get_config(variant='one'):\n"
        "    config = default_config('ner')\n    config.seed = {'one': 1, 'two': 2}[variant]\n    return config\n"
    )
    assert resolve_config(str(path)).seed == 1 and resolve_config(f"{path}:two").seed == 2
    values = default_config("ner")
    assert resolve_config(values, {"train.batch_size": "auto"}).train.batch_size == 0
    checked = resolve_config(values)
    assert resolve_config(checked) is checked
    assert resolve_config(checked, {"optim.no_decay": ["*"]}).optim.no_decay == ("*",)
    (tmp_path / "none.py").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"none\.py: has no function get_config"):
        resolve_config(str(tmp_path / "none.py"))


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("nerr", {}, r"^config nerr: there is no config 'nerr' in jaxfm\. Did you mean 'ner'\?"),
        ("ner:mine", {}, r"has no variant 'mine'"),
        ("missing.py", {}, r"^config missing\.py: there is no such file"),
        ("ner", {"train.epoch": 1}, r"^config\.train\.epoch: there is no such key\. Did you mean 'epochs'"),
        ("ner", {"train": {"epochs": 1}}, r"^config\.train: is a group of keys\. Name one of them: train\.acc"),
        ("ner", {"task.kind": "multi"}, r"^config\.task\.kind: is a key of another task than 'ner'"),
        ("ner", {"train.epochs": "3"}, r"^config\.train\.epochs: is '3' \(str\), but must be float"),
    ],
)
def test_what_is_wrong_with_a_config_is_said(config: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_config(config, overrides)

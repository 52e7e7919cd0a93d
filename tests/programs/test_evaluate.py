"""The program on other devices than the run had, calibrated, and on two runs; its scores are tested with the tasks."""

import json
import pathlib

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import write_calibration
from jaxfm.programs.evaluate import compare, evaluate
from jaxfm.programs.predict import predict
from tests import tiny
from tests.programs.many_calls import call_many


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two runs of random weights, one and two, over one corpus."""
    folder = tmp_path_factory.mktemp("evaluate")
    config = tiny.config(folder)
    for best, name in ((1, "one"), (2, "two")):
        tiny.write_run(folder / name, config, best=best)
    return folder


@pytest.mark.slow
def test_a_run_is_scored_on_other_devices_than_it_was_trained_on(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, said = {}, {}
    for fsdp in (1, 8):  # there are 4
        config = tiny.config(tmp_path, parallel__mesh={"data": 4 // fsdp or 1, "fsdp": fsdp})
        tiny.write_run(tmp_path / f"run{fsdp}", config, best=1)
        scores[fsdp] = evaluate(tmp_path / f"run{fsdp}").metrics
        printed = capsys.readouterr()
        said[fsdp] = printed.out + printed.err
    assert scores[1] == pytest.approx(scores[8], rel=1e-5)
    assert "mesh" not in said[1] and "fsdp=8 x tensor=1 x sequence=1 does not multiply" in " ".join(said[8].split())


def test_every_metric_has_its_interval(folder: pathlib.Path) -> None:
    evaluation = evaluate(folder / "one")
    told = evaluation.scores["intervals"]
    assert told["unit"] == "sentences" and told["count"] == tiny.SIZES["test"]
    assert set(told["metrics"]) == set(evaluation.metrics)
    for name, (low, high) in told["metrics"].items():
        assert low <= evaluation.metrics[name] <= high, name
        assert low < high or evaluation.metrics[name] == 0.0, name
    table = evaluation.tables[0]
    assert {row[0].replace(" ", "_"): row[1] for row in table.rows} == dict(evaluation.metrics)
    # What the metrics are resampled by is what they are.
    assert evaluation.bootstrap_data is not None
    again = evaluation.bootstrap_data.metrics(np.arange(evaluation.bootstrap_data.count))
    assert again == pytest.approx(dict(evaluation.metrics), rel=1e-6)


def test_probabilities_are_calibrated_where_the_run_says_so(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    # Weights that are not trained hardly find an entity that the tag scheme allows.
    tiny.write_run(tmp_path / "run", tiny.config(folder, task__decoding="argmax"), best=1)
    text = "ada met rome"
    plain, before = predict(tmp_path / "run", [text])[0], evaluate(tmp_path / "run")
    assert "calibrated" not in before.scores["calibration"] and plain["entities"]
    write_calibration(tmp_path / "run", {"temperature": 3.0})
    hot, after = predict(tmp_path / "run", [text])[0], evaluate(tmp_path / "run")
    assert after.scores["calibration"]["temperature"] == 3.0
    assert after.metrics == before.metrics  # the loss too is that of the model as trained
    without = [{**entity, "score": 0} for entity in plain["entities"]]
    assert [{**entity, "score": 0} for entity in hot["entities"]] == without
    for cold, warm in zip(plain["entities"], hot["entities"], strict=True):
        assert 1 / len(tiny.LABELS) < warm["score"] < cold["score"]
    (first, again) = (next(iter(found.predictions))["probabilities"] for found in (before, after))
    assert all(warm < cold for cold, warm in zip(first, again, strict=True))


def test_a_run_does_not_differ_from_itself_but_from_another(folder: pathlib.Path) -> None:
    same = compare(folder / "one", folder / "one")
    for name, found in same.differences.items():
        assert (found.interval.value, found.interval.low, found.interval.high, found.p) == (0, 0, 0, 1), name
    other = compare(folder / "one", folder / "two")
    one, two = (evaluate(folder / name).metrics for name in ("one", "two"))
    assert {name: found.a for name, found in other.differences.items()} == pytest.approx(one, rel=1e-6)
    assert {name: found.b for name, found in other.differences.items()} == pytest.approx(two, rel=1e-6)
    assert other.differences["loss"].p < 1 and other.count == tiny.SIZES["test"]
    assert other.mcnemar is not None and other.mcnemar.both + other.mcnemar.neither <= other.count


def test_runs_on_other_data_are_refused_and_may_be_given_common_data(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    sizes = {**tiny.SIZES, "test": tiny.SIZES["test"] + 1}
    elsewhere = tiny.write_corpus(tmp_path / "corpus", sizes)
    tiny.write_run(tmp_path / "run", tiny.config(folder, data__source=elsewhere), best=1)
    with pytest.raises(UserError, match=rf"--compare=.*on {sizes['test'] - 1} sentences.*on {sizes['test']} sentences"):
        compare(folder / "one", tmp_path / "run")
    assert compare(folder / "one", tmp_path / "run", source=elsewhere).count == sizes["test"]
    text = (tmp_path / "corpus" / "valid.conll").read_text()
    (tmp_path / "corpus" / "valid.conll").write_text(text.replace("B-LOC", "B-PER", 1))
    with pytest.raises(UserError, match="has at number . of the sentences"):
        compare(folder / "one", tmp_path / "run", split="valid")


def test_splits_go_by_any_of_their_usual_names(folder: pathlib.Path) -> None:
    for name, split in (("dev", "valid"), ("VALIDATION", "valid"), ("testb", "test")):
        assert evaluate(folder / "one", name).metrics == evaluate(folder / "one", split).metrics
    assert compare(folder / "one", folder / "two", "dev").count == tiny.SIZES["valid"]
    for call in (lambda: evaluate(folder / "one", "tset"), lambda: compare(folder / "one", folder / "two", "tset")):
        with pytest.raises(
            UserError, match="unknown split 'tset': splits are train, valid and test. Did you mean 'test'"
        ):
            call()


def test_other_data_may_have_other_columns(folder: pathlib.Path) -> None:
    lines = (folder / "corpus" / "test.conll").read_text().splitlines()
    turned = "".join(f"{' '.join(reversed(line.split()))}\n" for line in lines)
    (folder / "turned.conll").write_text(turned)
    source, columns = f"conll:test={folder / 'turned.conll'}", {"words_column": "1", "tags_column": "0"}
    assert evaluate(folder / "one", "test", source, columns=columns).metrics == evaluate(folder / "one").metrics
    assert compare(folder / "one", folder / "two", "test", source, columns=columns).count == tiny.SIZES["test"]


def test_the_program_compares(folder: pathlib.Path) -> None:
    pair, output = f"{folder / 'one'},{folder / 'two'}", folder / "comparison.json"
    calls = [
        [f"--compare={pair}", "--split=dev", f"--output={output}"],
        [f"--compare={folder / 'one'}"],
        [f"--compare={pair}", f"--workdir={folder / 'one'}"],
        [],
        [f"--compare={pair}", "--split=foo"],
        [f"--workdir={folder / 'one'}", f"--output={folder}"],
        [f"--workdir={folder / 'one'}", "--config.data.tags_column=7"],
        [f"--workdir={folder / 'one'}", "--config.data.tags=7"],
    ]
    done, one, both, neither, *others = call_many("evaluate", calls)
    assert done[0] == 0, done
    assert f"valid, {tiny.SIZES['valid']} sentences: A = {folder / 'one'}, B = {folder / 'two'}" in done[1]
    assert "McNemar's exact test" in done[1] and "approximate randomisation" in done[1]
    told = json.loads(output.read_text())
    assert (told["a"], told["split"], told["source"]) == (str(folder / "one"), "valid", None)
    assert set(told["metrics"]) == {"f1", "precision", "recall", "macro_f1", "accuracy", "loss"}
    assert f"{told['metrics']['loss']['difference']:+.4f}" in done[1]
    assert one[0] == 2 and "needs two run directories" in one[2]
    assert both[0] == neither[0] == 2 and "give one of --workdir and --compare" in both[2]
    messages = (
        "unknown split 'foo'",
        "is a directory",
        "data.tags_column=7, but the line has 2",
        "there is no such flag",
    )
    for (code, _, errors), message in zip(others, messages, strict=True):
        assert code == 2 and message in errors and errors.startswith("error: ")

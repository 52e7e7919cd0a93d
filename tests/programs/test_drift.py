"""jaxfm.drift over runs of many tasks: equal data, changed data, labels; its files, exit codes, and what it refuses."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import types
from typing import Any

import pytest

import jaxfm
from jaxfm.errors import UserError
from jaxfm.evaluation.drift_rules import ERROR, FAR, LOOK, NOTHING, SCORE, SHIFT, TRAIN_AGAIN, Thresholds
from jaxfm.evaluation.error_estimate import ATC, REAL
from jaxfm.programs.drift import EXIT_AGAIN, EXIT_CODES, EXIT_LOOK, drift
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.train import train
from tests import tiny
from tests.programs.test_ensemble import write_ensemble

SIZES = {"train": 150, "valid": 60, "test": 60}
ROUNDS = 800


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("drift")


@pytest.fixture(scope="module")
def learned(folder: pathlib.Path) -> pathlib.Path:
    """A classifier that has learned its task."""
    source = tiny.write_examples(folder / "learned_data", "single", pairs=False, sizes=SIZES)
    train(tiny.classification_config(folder, data__source=source, train__steps=60), folder / "learned")
    return folder / "learned"


class Runs(dict[str, pathlib.Path]):
    """Runs of random weights over data of enough records, each written when it is first asked for."""

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self.folder, sizes = folder, {"train": 60, "valid": 40, "test": 40}
        tiny.write_corpus(folder / "corpus", sizes)
        tiny.write_text(folder / "text", {"train": 120, "valid": 80, "test": 80})
        tiny.write_groups(folder / "groups", sizes)
        tiny.write_questions(folder / "questions", sizes)
        for kind, pairs in (("multi", False), ("regression", False), ("single", True)):
            tiny.write_examples(folder / (f"{kind}_pairs" if pairs else kind), kind, pairs=pairs, sizes=sizes)

    def __missing__(self, name: str) -> pathlib.Path:
        self.update(tiny.write_runs(self.folder, (name,)))
        return self[name]


@pytest.fixture(scope="module")
def runs(folder: pathlib.Path) -> Runs:
    return Runs(folder)


def labelled(path: pathlib.Path, *, swapped: bool) -> str:
    """Writes records that the run has not seen, perhaps with the other label; returns their source."""
    tiny.write_examples(path, "single", pairs=False, sizes={"a": 1, "b": 1, "c": 1, "test": 120})
    lines = [json.loads(line) for line in (path / "test.jsonl").read_text().splitlines()]
    other = {"PER": "LOC", "LOC": "PER"} if swapped else {"PER": "PER", "LOC": "LOC"}
    (path / "test.jsonl").write_text("\n".join(json.dumps(each | {"label": other[each["label"]]}) for each in lines))
    return f"jsonl:{path}"


def strangers(path: pathlib.Path, count: int = 60) -> pathlib.Path:
    """Writes texts of words that no training text has."""
    path.write_text("\n".join(f"qx zk vw {'jy ' * (number % 4)}" for number in range(count)) + "\n")
    return path


def test_equal_data_are_not_accused(learned: pathlib.Path, folder: pathlib.Path) -> None:
    found = drift(learned, f"jsonl:{folder / 'learned_data'}", rounds=ROUNDS)
    assert (found.verdict, found.rules) == (NOTHING, ()) and found.verdict not in EXIT_CODES
    assert [each.name for each in found.measures] == [
        *("words", "pieces", "unknown words", "length", "vectors", "vectors, by a classifier"),
        *("confidence", "predicted classes"),
    ]
    assert (found.reference[1], found.new[1]) == (150, 60) and found.held_out is not None and found.unit == "texts"
    assert found.estimate is not None and found.shares is not None and found.scores is None
    assert found.estimate.reference.value == pytest.approx(evaluate(learned, "valid").metrics["accuracy"])
    written = json.loads((learned / "drift" / "drift.json").read_text())
    assert written["verdict"] == NOTHING and written["measures"]["words"]["p"] == found.measures[0].tested.p
    assert set(written["classes"]["shares"]) == {"PER", "LOC"}
    text = (learned / "drift" / "drift.md").read_text()
    assert "verdict: nothing" in text and "Words that differ most" in text
    assert (learned / "drift" / "drift.png").stat().st_size > 5000
    again = drift(learned, f"jsonl:{folder / 'learned_data'}", rounds=ROUNDS)
    values, repeated = found.to_dict(), again.to_dict()
    assert values == repeated
    history = [json.loads(line) for line in (learned / "drift" / "history.jsonl").read_text().splitlines()]
    assert [line["verdict"] for line in history] == [NOTHING, NOTHING]
    page = (learned / "drift" / "drift.html").read_text()
    assert page.count(history[0]["time"]) >= 1 and "So far: beyond chance" in page
    assert jaxfm.drift is drift


def test_other_texts_are_far(learned: pathlib.Path, folder: pathlib.Path) -> None:
    path = strangers(folder / "strangers.txt")
    found = drift(learned, path, rounds=ROUNDS, output=folder / "out")
    assert found.verdict == TRAIN_AGAIN and {FAR, SHIFT} <= {each.name for each in found.rules}
    by_name = {each.name: each for each in found.measures}
    assert by_name["words"].tested.distance == pytest.approx(1.0)
    assert by_name["unknown words"].tested.distance == 1.0
    assert {"qx", "zk", "vw"} <= {each.word for each in found.words[:5]}
    assert found.words[0].reference == 0 and found.unlike[0].origin.startswith(f"{path}:")
    near = drift(learned, path, rounds=ROUNDS, output="", thresholds=Thresholds(far=1.0, max_drop=1.0))
    if by_name["vectors, by a classifier"].tested.value < 1.0:
        assert near.verdict == LOOK


def test_labels_say_whether_to_train_again(learned: pathlib.Path, folder: pathlib.Path) -> None:
    source = labelled(folder / "swapped", swapped=True)
    asked: dict[str, Any] = {"rounds": ROUNDS, "output": "", "thresholds": Thresholds(max_drop=0.15)}
    found = drift(learned, source, labelled=True, **asked)
    assert found.verdict == TRAIN_AGAIN and found.rules[0].name == SCORE
    assert found.scores is not None and found.estimate is not None
    assert found.scores.new.value == pytest.approx(evaluate(learned, "test", source).metrics["accuracy"])
    assert found.scores.drop.value == pytest.approx(found.scores.reference.value - found.scores.new.value)
    assert found.estimate.accuracy[REAL].value == pytest.approx(found.scores.new.value)
    # Who only asks how sure the model is does not see that labels have changed their meaning.
    assert found.estimate.accuracy[ATC].value - found.scores.new.value > 0.3
    unlabelled = drift(learned, source, **asked)
    assert all(each.name != ERROR for each in unlabelled.rules) and unlabelled.scores is None
    lines = [json.loads(line) for line in (folder / "swapped" / "test.jsonl").read_text().splitlines()]
    memory = drift(learned, lines, labelled=True, **asked)
    assert memory.scores == found.scores and memory.new == ("data in memory", 120)
    same = drift(learned, labelled(folder / "same", swapped=False), labelled=True, **asked)
    assert same.verdict == NOTHING and same.scores is not None and same.scores.new.value > 0.7


@pytest.mark.parametrize(
    ("name", "data", "unit"),
    [
        ("ner", "conll:corpus", "words"),
        *(
            pytest.param(*values, marks=pytest.mark.slow)
            for values in (
                ("multi", "jsonl:multi", "decisions about a label"),
                ("embedding", "jsonl:groups", ""),
                ("regression", "jsonl:regression", ""),
                ("masked_lm", "text:text", ""),
                ("pairs", "jsonl:single_pairs", "texts"),
                ("qa", "jsonl:questions", ""),
            )
        ),
    ],
)
def test_every_task_over_texts(name: str, data: str, unit: str, runs: Runs, folder: pathlib.Path) -> None:
    scheme, _, rest = data.partition(":")
    found = drift(runs[name], f"{scheme}:{folder / rest}", rounds=ROUNDS, output="")
    assert found.verdict == NOTHING and found.unit == unit
    assert len(found.measures) == (8 if unit else 6) and (found.estimate is not None) == bool(unit)
    # A text of a pair that is read singly is a record; two sentences are a document.
    assert found.new[1] == (80 if name == "embedding" else 40) and found.unlike
    if name == "ner":
        other = strangers(folder / f"{name}.txt")
        assert drift(runs[name], str(other), rounds=ROUNDS, output="").verdict == TRAIN_AGAIN


def test_records_are_drawn_by_the_seed(runs: Runs, folder: pathlib.Path) -> None:
    asked: dict[str, Any] = {"rounds": ROUNDS, "output": "", "limit": 25}
    source = f"jsonl:{folder / 'multi'}"
    found = drift(runs["multi"], source, **asked)
    assert found.new[1] == found.reference[1] == 25 and len(found.notes) == 3
    assert "25 of 60 records, drawn by the seed" in found.notes[0]
    assert drift(runs["multi"], source, **asked).to_dict() == found.to_dict()
    assert drift(runs["multi"], source, **asked, seed=1).to_dict() != found.to_dict()


def test_without_a_validation_split_texts_alone_are_compared(runs: Runs, folder: pathlib.Path) -> None:
    path = folder / "multi" / "valid.jsonl"
    content = path.read_bytes()
    path.unlink()
    try:
        source = f"jsonl:{folder / 'multi'}"
        found = drift(runs["multi"], source, rounds=ROUNDS, output="")
        assert len(found.measures) == 4 and found.held_out is None and "Name one by --held_out" in found.notes[0]
        named = drift(runs["multi"], source, rounds=ROUNDS, output="", held_out="train")
        assert len(named.measures) == 8
        with pytest.raises(UserError, match="name their split by --held_out"):
            drift(runs["multi"], source, rounds=ROUNDS, output="", labelled=True)
        with pytest.raises(UserError, match="no split 'valid'|valid"):
            drift(runs["multi"], source, rounds=ROUNDS, output="", held_out="valid")
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"data": "absent.txt"}, "--data=absent.txt: no such file"),
        ({"data": "jsonl:absent"}, "absent"),
        ({"data": ["ada met"] * 19}, "data in memory: has 19 records that are not blank; a comparison needs 20"),
        ({"data": "new.txt", "labelled": True}, "--labelled: reads a source of labelled data"),
        ({"estimate": "act"}, "--estimate=act: Did you mean 'atc'?"),
        ({"thresholds": Thresholds(alpha=1.0)}, "--alpha=1: must be above 0 and below 1"),
        ({"thresholds": Thresholds(far=0.4)}, "--far=0.4: must be 0.5 to 1"),
        ({"thresholds": Thresholds(least=-1)}, "--least=-1: must be 0 to 1"),
        ({"rounds": 700}, "--rounds=700: 8 tests could not show anything at --alpha=0.01; 800 rounds are the fewest"),
        ({"limit": -1}, "--limit=-1: must be 0"),
        ({"metric": "accuracy"}, "--metric=accuracy: is a score of labelled data; give --labelled too"),
        ({"split": "tset"}, "unknown split 'tset'"),
        ({"reference": "jsonl:absent"}, "Name where it is by --reference=URI"),
        ({"output": "new.txt"}, "new.txt: is a file; name a directory"),
    ],
)
def test_what_cannot_be_is_refused(
    asked: dict[str, Any],
    message: str,
    runs: Runs,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    strangers(tmp_path / "new.txt")
    with pytest.raises(UserError) as caught:
        drift(runs["multi"], **{"data": "new.txt", "rounds": ROUNDS, "output": "out", **asked})
    assert message in str(caught.value) and not (tmp_path / "out").exists()


def test_a_folder_of_runs_is_refused(tmp_path: pathlib.Path) -> None:
    folder = write_ensemble(tmp_path, "classification")
    with pytest.raises(UserError, match=r"holds \d runs\. Name one of them"):
        drift(folder, ["ada met boole"] * 30)


def code(run: pathlib.Path, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "jaxfm.drift", f"--workdir={run}", "--output=", f"--rounds={ROUNDS}"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("verdict", "expected"), [(TRAIN_AGAIN, 3), (LOOK, 4), (NOTHING, None)])
def test_the_verdict_is_an_exit_code(
    verdict: str,
    expected: int | None,
    learned: pathlib.Path,
    folder: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The program with its flags, but for their parsing."""
    given: dict[str, Any] = {"workdir": str(learned), "data": f"jsonl:{folder / 'learned_data'}", "split": "test"}
    given |= {"labelled": False, "alpha": 0.01, "least": 0.1, "max_drop": 1.0, "far": 1.0, "estimate": "atc"}
    given |= {"metric": None, "reference": None, "text_split": "train", "held_out": None, "limit": 0, "rounds": ROUNDS}
    given |= {"seed": 0, "output": ""}
    given |= {} if verdict == NOTHING else {"data": str(strangers(folder / "strangers.txt"))}
    given |= {"far": 0.5} if verdict == TRAIN_AGAIN else {"max_drop": 0.0, "estimate": "doc"} if verdict == LOOK else {}

    class Values(types.SimpleNamespace):
        def __getitem__(self, name: str) -> types.SimpleNamespace:
            return types.SimpleNamespace(value=given[name])

    module = sys.modules["jaxfm.programs.drift"]
    monkeypatch.setattr(module, "flags", types.SimpleNamespace(FLAGS=Values(**given)))
    monkeypatch.setattr(module.program, "given_columns", lambda names: {})
    if verdict == LOOK:  # whatever the run says of these
        found = dataclasses.replace(drift(given["workdir"], given["data"], rounds=ROUNDS, output=""), verdict=LOOK)
        monkeypatch.setattr(module, "drift", lambda *words, **more: found)
    if expected is None:
        module.main()
    else:
        with pytest.raises(SystemExit) as stopped:
            module.main()
        assert stopped.value.code == expected == EXIT_CODES[verdict]
    assert f"verdict: {verdict if verdict == NOTHING else verdict.upper()}" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command(learned: pathlib.Path, folder: pathlib.Path) -> None:
    again, said = code(learned, f"--data={strangers(folder / 'strangers.txt')}")
    assert again == EXIT_AGAIN == 3 and "verdict: TRAIN AGAIN" in said and "  far: " in said
    nothing, said = code(learned, f"--data=jsonl:{folder / 'learned_data'}")
    assert nothing == 0 and "verdict: nothing" in said
    look, said = code(learned, f"--data={strangers(folder / 'strangers.txt')}", "--far=1.0", "--max_drop=1.0")
    assert (look, "verdict: LOOK" in said) in ((EXIT_LOOK, True), (EXIT_AGAIN, False)) and EXIT_LOOK == 4
    wrong, said = code(learned)
    assert wrong == 2 and "--data is missing" in said

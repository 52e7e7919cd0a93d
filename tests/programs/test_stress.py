"""jaxfm.stress over runs of every kind of record: what it writes, its gate, and what it refuses."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from jaxfm.data.perturbations.kinds import GROUPS, KINDS
from jaxfm.errors import UserError
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.model import Model
from jaxfm.programs.stress import EXIT_DROPPED, stress
from jaxfm.programs.train import train
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("stress")


@pytest.fixture(scope="module")
def runs(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """A classifier that has learned its task, and other runs of random weights."""
    found = tiny.write_runs(folder, ("ner", "pairs", "multi", "regression", "qa"))
    source = tiny.write_examples(folder / "more", "single", pairs=False, sizes={"train": 150, "valid": 20, "test": 80})
    train(tiny.classification_config(folder, data__source=source, train__steps=100), folder / "learned")
    return found | {"learned": folder / "learned"}


@pytest.fixture(scope="module")
def images(folder: pathlib.Path) -> pathlib.Path:
    train(tiny.image_config(folder, train__steps=2), folder / "run_images")
    return folder / "run_images"


def test_scores_fall_and_are_those_of_evaluate(runs: dict[str, pathlib.Path], folder: pathlib.Path) -> None:
    found = stress(runs["learned"], kinds=["typos", "case"], severities=[1, 5], max_drop=0.1)
    assert found.clean is not None
    assert found.clean.value.value == pytest.approx(evaluate(runs["learned"]).metrics["accuracy"], abs=1e-6)
    assert found.clean.value.value > 0.8
    by_kind = {(each.kind, each.severity): each for each in found.effects}
    assert list(by_kind) == [(kind, severity) for kind in (*GROUPS["typos"], "case") for severity in (1, 5)]
    assert by_kind["swaps", 5].drop.value > 0.1 > by_kind["case", 1].drop.value
    assert by_kind["swaps", 5].touched > by_kind["swaps", 1].touched
    assert {each.kind for each in found.worst} and all(each.before != each.after for each in found.worst)
    written = json.loads((runs["learned"] / "stress" / "stress.json").read_text())
    assert written["clean"]["score"]["value"] == found.clean.value.value and len(written["effects"]) == 8
    assert written["gate"]["passes"] == found.passes
    text = (runs["learned"] / "stress" / "stress.md").read_text()
    assert "Right before, wrong now" in text and "gate: " in text
    assert (runs["learned"] / "stress" / "stress.png").stat().st_size > 5000
    study = json.loads((runs["learned"] / "studies" / "stress.json").read_text())  # for the model card
    said = next(line for line in study["summary"] if line.startswith("swaps at severity 5"))
    assert f"{by_kind['swaps', 5].drop.value:.3f} worse" in said and len(study["summary"]) == 5
    assert study["step"] == Model(runs["learned"]).step
    again = stress(runs["learned"], kinds=["swaps"], severities=[5], output=folder / "again")
    assert again.effects[0].to_dict() == by_kind["swaps", 5].to_dict()  # whatever else was asked for
    other = stress(runs["learned"], kinds=["swaps"], severities=[5], seed=1, output="")
    assert other.effects[0].to_dict() != by_kind["swaps", 5].to_dict()


def test_each_kind_of_record_has_its_changes(runs: dict[str, pathlib.Path], images: pathlib.Path) -> None:
    for name, reads in (("ner", "words"), ("pairs", "texts"), ("multi", "texts"), ("images", "image")):
        run = images if name == "images" else runs[name]
        split = "valid" if name == "images" else "test"
        found = stress(run, split, severities=[3], limit=10, output="", metric="loss")
        expected = [kind.name for kind in KINDS.values() if reads in kind.reads and kind.needs != "synonyms"]
        assert [each.kind for each in found.effects] == expected
        assert found.clean is not None and found.clean.data.count == 10 and found.clean.ece is not None
        assert any(each.touched > 0 for each in found.effects)
        assert all(np.isfinite(each.scored.value.value) for each in found.effects)


def test_numbers_have_a_drop_alone(runs: dict[str, pathlib.Path]) -> None:
    found = stress(runs["regression"], kinds=["keyboard"], severities=[5], metric="mse", output="")
    assert found.effects[0].flips is None and found.effects[0].ece_rise is None
    assert "mse" in found.tables[0].columns


def test_what_is_out_of_the_domain(runs: dict[str, pathlib.Path], images: pathlib.Path, tmp_path: pathlib.Path) -> None:
    lines = [json.dumps({"text": ". " * 20, "sort": number}) for number in range(9)]
    (tmp_path / "test.jsonl").write_text("\n".join(lines) + "\n")
    for name in ("learned", "ner"):
        found = stress(runs[name], kinds=["none"], ood=f"jsonl:{tmp_path}", output="")
        assert [each.score for each in found.detections] == ["maximum probability", "energy", "Mahalanobis distance"]
        by_name = {each.score: each for each in found.detections}
        assert by_name["Mahalanobis distance"].auroc.value > 0.8
        assert all(each.outside == 9 and 0 <= each.auroc.value <= 1 for each in found.detections)
        assert found.clean is None and "Out of domain" in found.tables[0].title
    source = f"images:{images.parent / 'images'}"
    same = stress(images, "valid", kinds=["none"], ood=source, ood_split="valid", output="").detections
    assert [each.auroc.value for each in same] == pytest.approx([0.5] * 3)


def test_tests_of_behaviour(runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    path = tmp_path / "tests.jsonl"
    tests: list[dict[str, Any]] = [
        {
            "name": "people",
            "type": "minimum",
            "template": "{name} met",
            "slots": {"name": ["ada", "gauss"]},
            "expect": "PER",
        },
        {"name": "wrong", "type": "minimum", "texts": ["ada met"], "expect": "LOC"},
        {"name": "case", "type": "invariance", "change": "case", "most": 5, "severity": 5},
        {
            "name": "not",
            "type": "direction",
            "change": "negation",
            "label": "PER",
            "must": "not fall",
            "tolerance": 1.0,
        },
        {"name": "pair", "type": "invariance", "pairs": [["ada met", "gauss met"]]},
    ]
    path.write_text("\n".join(map(json.dumps, tests)))
    found = {each.name: each for each in stress(runs["learned"], kinds=["none"], tests=path, output="").tests}
    assert (found["people"].cases, found["people"].failed) == (2, 0)
    assert found["wrong"].failed == 1 and found["wrong"].examples[0].said[0].startswith("PER")
    assert found["case"].cases == 5 and found["not"].failed == 0 and found["not"].cases > 1
    assert found["pair"].failed == 0
    tests = [{"name": "a", "type": "minimum", "texts": ["ada met"], "expect": [["ada", "PER"]]}]
    path.write_text(json.dumps(tests[0]))
    assert stress(runs["ner"], kinds=["none"], tests=path, output="").tests[0].cases == 1


@pytest.mark.parametrize(
    ("name", "test", "message"),
    [
        ("learned", {"type": "minimum", "texts": ["x"], "expect": "PRE"}, "no label 'PRE'. Did you mean 'PER'?"),
        ("learned", {"type": "minimum", "texts": ["x"], "expect": [["x", "PER"]]}, "expect is a label"),
        ("learned", {"type": "minimum", "texts": ["x\ty"], "expect": "PER"}, "single texts, without a tab"),
        ("pairs", {"type": "minimum", "texts": ["x"], "expect": "PER"}, "a tab between the two texts"),
        ("learned", {"type": "invariance", "change": "synonyms"}, "needs a masked language model"),
        ("ner", {"type": "direction", "pairs": [["x", "y"]], "label": "PER"}, "the run finds entities"),
        ("regression", {"type": "minimum", "texts": ["x"], "expect": "PER"}, "gives numbers"),
    ],
)
def test_tests_that_the_run_cannot_be_asked(
    name: str, test: dict[str, Any], message: str, runs: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "tests.jsonl"
    path.write_text(json.dumps({"name": "a", **test}))
    with pytest.raises(UserError) as caught:
        stress(runs[name], kinds=["none"], tests=path, output="")
    assert message in str(caught.value) and "tests.jsonl:1" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("qa", {}, "does not say how the inputs of its records are changed"),
        ("learned", {"kinds": ["tpyos"]}, "unknown kind 'tpyos'. Did you mean 'typos'?"),
        ("learned", {"kinds": ["entities"]}, "'entities' changes words"),
        ("learned", {"kinds": ["none", "case"]}, "none stands alone"),
        ("learned", {"severities": [6]}, "--severities=6: is one of 1, 2, 3, 4, 5"),
        ("learned", {"metric": "bleu"}, "--metric=bleu: is not one of this task: accuracy"),
        ("learned", {"limit": -1}, "--limit=-1"),
        ("learned", {"max_drop": -0.1}, "--max_drop=-0.1: must be 0 or more"),
        ("learned", {"strict": True}, "--strict: says how --max_drop judges"),
        ("learned", {"split": "tset"}, "unknown split 'tset'"),
        ("learned", {"source": "x", "data": []}, "give one of them"),
        ("learned", {"kinds": ["none"], "ood": "jsonl:/absent"}, "/absent"),
        ("regression", {"kinds": ["none"], "ood": "jsonl:/absent"}, "neither an energy nor a probability"),
    ],
)
def test_what_cannot_be_is_refused(
    name: str, asked: dict[str, Any], message: str, runs: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError) as caught:
        stress(runs[name], **{"output": tmp_path / "out", **asked})
    assert message in str(caught.value) and not (tmp_path / "out").exists()


def test_the_gate_is_an_exit_code(runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "jaxfm.stress", f"--workdir={runs['learned']}", f"--output={tmp_path / 'out'}"]

    def code(*words: str) -> tuple[int, str]:
        done = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    fails, said = code("--kinds=typos", "--severities=5", "--max_drop=0.01")
    assert fails == EXIT_DROPPED == 3
    assert "gate: FAILS: --max_drop=0.01" in said and "at severity 5: +0." in said
    assert (tmp_path / "out" / "stress.md").is_file()
    passes, said = code("--kinds=case", "--severities=5", "--max_drop=0.05")
    assert passes == 0 and "gate: passes" in said
    wrong, said = code("--kinds=none")
    assert wrong == 2 and "nothing is left to do" in said


def test_without_its_training_split_a_tagger_has_the_other_changes(
    runs: dict[str, pathlib.Path], folder: pathlib.Path
) -> None:
    train_file = folder / "corpus" / "train.conll"
    kept = train_file.read_bytes()
    train_file.unlink()
    try:
        found = stress(runs["ner"], severities=[1], metric="loss", output="")
        assert "entities" not in {each.kind for each in found.effects}
        assert any("no entities are exchanged" in note for note in found.notes)
        with pytest.raises(UserError, match="could not be read"):
            stress(runs["ner"], kinds=["entities"], metric="loss", output="")
    finally:
        train_file.write_bytes(kept)

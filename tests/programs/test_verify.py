"""Two models of any form beside each other: equal ones, changed ones, and those that cannot be compared."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from jaxfm.errors import UserError
from jaxfm.programs.export import export
from jaxfm.programs.verify import sentences, verify
from jaxfm.programs.verify_sides import open_side
from tests import tiny

TEXTS = ["ada met boole in the old town .", "gauss went near ghent and left", "in", "curry saw emmy ."]
TOKENS = 48  # of these: names are spelled
LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    return tiny.write_runs(tmp_path_factory.mktemp("verify"), ("ner", "classification", "multi", "regression"))


def test_a_run_equals_its_export(runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    for name in runs:
        found = verify(str(runs[name]), f"dir:{export(runs[name], tmp_path / name)}", TEXTS)
        assert [each.what for each in found.differences] == ["states", "logits"] and found.within(0.0)
        assert found.agreeing == found.predictions == {"ner": TOKENS, "regression": 0}.get(name, 4)
        assert found.unit == ("tokens" if name == "ner" else "texts") and not found.notes


def changed(folder: pathlib.Path, target: pathlib.Path, name: str, by: float) -> pathlib.Path:
    """A copy of a checkpoint in which one tensor is larger by a number."""
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    tensors = safetensors.numpy.load_file(target / "model.safetensors")
    tensors[name] = tensors[name] + np.float32(by)
    safetensors.numpy.save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_changed_head_changes_logits_alone(tmp_path: pathlib.Path) -> None:
    tiny.write_weights(tmp_path / "a", labels=LABELS)
    other = changed(tmp_path / "a", tmp_path / "b", "classifier.bias", by=0.5)
    found = verify(str(tmp_path / "a"), str(other), TEXTS)
    states, logits = found.differences
    assert states.largest == states.mean == 0
    assert logits.largest == pytest.approx(0.5, abs=1e-5) and logits.mean == pytest.approx(0.5, abs=1e-5)
    assert found.within(0.51) and not found.within(0.49)
    assert found.agreeing == found.predictions  # all classes gain alike
    assert (states.vectors, states.width, logits.width) == (TOKENS, 32, 5)


def test_predictions_that_differ_are_named(tmp_path: pathlib.Path) -> None:
    tiny.write_weights(tmp_path / "a", labels=LABELS)
    tensors = safetensors.numpy.load_file(tmp_path / "a" / "model.safetensors")
    bias = np.asarray([0, 0, 0, 100, 0], np.float32)
    tensors["classifier.bias"] = bias
    safetensors.numpy.save_file(tensors, tmp_path / "a" / "model.safetensors", metadata={"format": "pt"})
    other = changed(tmp_path / "a", tmp_path / "b", "classifier.bias", by=0.0)
    tensors["classifier.bias"] = bias[::-1].copy()  # B-LOC everywhere
    safetensors.numpy.save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    found = verify(str(tmp_path / "a"), str(other), ["ada met", "in"])
    assert found.agreeing == 0 and found.predictions == 9  # [CLS] a ##d ##a met [SEP] [CLS] in [SEP]
    assert found.differing == (
        "text 1, 0-3: PER | LOC  (ada)",
        "text 1, 4-7: PER | LOC  (met)",
        "text 2, 0-2: PER | LOC  (in)",
    )


def test_classes_in_another_order_are_matched_by_name(tmp_path: pathlib.Path) -> None:
    tiny.write_weights(tmp_path / "a", labels=LABELS)
    order = [3, 0, 4, 1, 2]
    other = changed(tmp_path / "a", tmp_path / "b", "classifier.bias", by=0.0)
    tensors = safetensors.numpy.load_file(other / "model.safetensors")
    for name in ("classifier.bias", "classifier.weight"):
        tensors[name] = np.ascontiguousarray(tensors[name][order])
    safetensors.numpy.save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((other / "config.json").read_text())
    values["id2label"] = {str(number): LABELS[place] for number, place in enumerate(order)}
    values["label2id"] = {label: int(number) for number, label in values["id2label"].items()}
    (other / "config.json").write_text(json.dumps(values))
    found = verify(str(tmp_path / "a"), str(other), TEXTS)
    assert found.within(1e-6) and found.agreeing == found.predictions == TOKENS


def test_other_labels_leave_the_states(tmp_path: pathlib.Path) -> None:
    tiny.write_weights(tmp_path / "a", labels=LABELS)
    tiny.write_weights(tmp_path / "b", labels=("O", "B-LOC", "I-LOC", "B-ORG"))
    found = verify(str(tmp_path / "a"), str(tmp_path / "b"), TEXTS)
    assert [each.what for each in found.differences] == ["states"] and found.predictions == 0
    (note,) = found.notes
    assert f"only in {tmp_path / 'a'}: B-PER, I-PER" in note and f"only in {tmp_path / 'b'}: B-ORG" in note


def test_a_model_without_a_head_leaves_the_states(runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    tiny.write_weights(tmp_path / "bare")
    values = json.loads((tmp_path / "bare" / "config.json").read_text())
    values["architectures"] = ["BertModel"]
    (tmp_path / "bare" / "config.json").write_text(json.dumps(values))
    found = verify(f"run:{runs['ner']}", f"dir:{tmp_path / 'bare'}", TEXTS)
    assert [each.what for each in found.differences] == ["states"] and not found.within(1e-3)
    assert found.notes == (f"without a head: dir:{tmp_path / 'bare'}",)


def test_heads_of_other_kinds_leave_the_states(runs: dict[str, pathlib.Path]) -> None:
    found = verify(str(runs["ner"]), str(runs["classification"]), TEXTS)
    assert found.notes == ("the heads differ: token_classes and sequence_classes",)
    found = verify(str(runs["multi"]), str(runs["classification"]), TEXTS)
    assert found.notes == ("the problems differ: multi and single",)


def test_other_tokenizers_are_compared_by_words(tmp_path: pathlib.Path) -> None:
    """The same weights behind a tokenizer that has "ada" as one piece: another token, other states."""
    tiny.write_weights(tmp_path / "a", labels=LABELS)
    other = changed(tmp_path / "a", tmp_path / "b", "classifier.bias", by=0.0)
    (other / "vocab.txt").write_text("\n".join([*tiny.VOCABULARY, "ada"]) + "\n")
    same = verify(str(tmp_path / "a"), str(other), ["the old town ."])
    assert same.unit == "tokens" and same.within(0.0)
    found = verify(str(tmp_path / "a"), str(other), ["ada met the old town ."])
    assert found.unit == "words" and found.predictions == 6
    assert found.notes == ("the tokenizers differ: the first token of each word is compared",)
    assert not found.within(1e-3)


def test_texts_longer_than_either_can_read_are_cut(tmp_path: pathlib.Path) -> None:
    tiny.write_weights(tmp_path / "a", labels=LABELS)
    found = verify(str(tmp_path / "a"), str(tmp_path / "a"), ["met " * 500, "in"])
    assert found.differences[0].vectors == 64 + 3 and found.within(0.0)


def test_the_sentences_that_come_along() -> None:
    texts = sentences()
    assert len(texts) == 20 and all(text.strip() for text in texts) and "No." in texts


def test_the_command(runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    tiny.write_weights(tmp_path / "a", labels=LABELS)
    other = changed(tmp_path / "a", tmp_path / "b", "classifier.bias", by=0.5)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")

    def command(*words: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "jaxfm.verify", *map(str, words)]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    done = command(tmp_path / "a", other, f"--input={tmp_path / 'texts.txt'}", f"--output={tmp_path / 'o.json'}")
    assert done.returncode == 1, done.stderr[-2000:]
    assert (
        f"predictions: {TOKENS} of {TOKENS} tokens agree" in done.stdout
        and "DIFFERENT: --tolerance=0.0001" in done.stdout
    )
    written = json.loads((tmp_path / "o.json").read_text())
    assert written["within"] is False and written["differences"][1]["largest"] == pytest.approx(0.5, abs=1e-5)
    done = command(tmp_path / "a")
    assert done.returncode == 2 and "1 models are named, but two are compared" in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "there is no such directory"),
        ("empty", "holds no run .*, no checkpoint .*, no ONNX .* and no StableHLO"),
        ("absent.onnx", "no such file"),
        ("package:absent/model", "the package absent is not installed"),
    ],
)
def test_what_cannot_be_opened(name: str, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        open_side(name if name.startswith("package:") else str(tmp_path / name))


def test_a_damaged_program_is_refused(runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    folder = export(runs["ner"], tmp_path / "model", "stablehlo")
    (folder / "weights.safetensors").unlink()
    with pytest.raises(UserError, match="weights.safetensors: no such file, so the folder is not whole"):
        open_side(str(folder))
    (folder / "weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="is damaged"):
        open_side(str(folder))


def test_no_text_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="--input: has no text"):
        verify("a", "b", ["", " "])

"""Rounded runs: gated by score, used like any other run, the same in onnxruntime, and what is refused."""

import json
import os
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import quantise as quantise_program
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.quantise import quantise
from jaxfm.programs.verify import verify
from jaxfm.training.quantised_weights import WEIGHTS_FILE
from jaxfm.training.saved_run import open_run
from tests import tiny

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TEXTS = ["ada met boole in the old town .", "gauss went near ghent and left", "in", "curry saw emmy ."]
ANY = 10.0  # loss of score: random weights have none to lose
LABELS = "classification"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("quantise")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    return tiny.write_runs(folder, ("classification",))["classification"]


@pytest.fixture(scope="module")
def made(run: pathlib.Path, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """A run of each method, and folders of onnxruntime where there are some."""
    kinds: dict[str, dict[str, Any]] = {
        "static": {"method": "static", "keep": ["layers/0/ffn/down"]},
        "dynamic": {"method": "dynamic"},
        "four": {"method": "weights", "bits": 4},
    }
    found = {name: quantise(run, folder / name, **kind, max_loss=ANY) for name, kind in kinds.items()}
    for name in ("static", "four"):
        found[f"{name}_onnx"] = quantise(run, folder / f"{name}_onnx", **kinds[name], max_loss=ANY, format="onnx")
    return found


def facts_of(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "quantisation.json").read_text())


def test_a_rounded_run_is_scored_as_it_was_when_it_was_written(made: dict[str, pathlib.Path]) -> None:
    for name in ("static", "dynamic", "four"):
        facts = facts_of(made[name])
        metric, score = facts["gate"]["metric"], facts["scores"]["valid"]["after"]
        assert evaluate(made[name], "valid").metrics[metric] == pytest.approx(score, abs=1e-6)
        assert facts["scores"].keys() == {"valid", "test"}
        assert (made[name] / WEIGHTS_FILE).stat().st_size == facts["bytes"]["rounded"] < 0.8 * facts["bytes"]["floats"]
        assert not (made[name] / "checkpoints").exists()
        assert (made[name] / "plots" / "quantisation.png").stat().st_size > 1000
        assert "One layer rounded" in (made[name] / "quantisation.md").read_text()


def test_a_rounded_run_answers(made: dict[str, pathlib.Path], run: pathlib.Path) -> None:
    expected = Model(run)(TEXTS)
    for name in ("static", "dynamic", "four"):
        model = Model(made[name])
        found = model(TEXTS)
        for one, other in zip(found, expected, strict=True):
            assert one["text"] == other["text"]
            near = [(each, other["scores"][label]) for label, each in one["scores"].items()]
            assert all(a == pytest.approx(b, abs=0.1) for a, b in near)
        assert found != expected
        if name != "four":
            assert model.explain(TEXTS[0])  # gradients go straight through


def test_each_part_alone_errs_less_than_all(made: dict[str, pathlib.Path]) -> None:
    facts = facts_of(made["static"])
    assert len(facts["units"]) == 1 + 2 * 6 - 1 and "layers/0/ffn/down" not in {each["part"] for each in facts["units"]}
    assert [each["part"] for each in facts["layers"]] == ["embeddings/word", "layers/0", "layers/1"]
    errors = {each["part"]: each["error"] for each in facts["units"]}
    assert all(0 < error < 0.2 for error in errors.values())
    whole = {each["part"]: each["error"] for each in facts["layers"]}
    assert whole["layers/1"] > max(error for part, error in errors.items() if part.startswith("layers/1/"))
    assert whole["embeddings/word"] == pytest.approx(errors["embeddings/word"])


@pytest.mark.parametrize("name", ["static", "four"])
def test_onnxruntime_computes_what_the_run_does(name: str, made: dict[str, pathlib.Path]) -> None:
    import onnx

    found = verify(f"run:{made[name]}", f"dir:{made[name + '_onnx']}", TEXTS)
    # A sum that differs in its last bit may round to the next integer.
    assert found.within(1e-4 if name == "four" else 2e-2) and found.agreeing == found.predictions
    graph = onnx.load(made[f"{name}_onnx"] / "onnx" / "model.onnx").graph
    count = {op: sum(node.op_type == op for node in graph.node) for op in ("MatMulNBits", "QuantizeLinear")}
    if name == "four":
        assert count == {"MatMulNBits": 12, "QuantizeLinear": 0}
    else:
        # Query, key and value share their inputs; the map that was kept is none.
        assert count == {"MatMulNBits": 0, "QuantizeLinear": 2 * 4 - 1}
        whole = [each for each in graph.initializer if each.name.endswith("_whole")]
        assert len(whole) == 12 - 1 + 1 and all(each.data_type == onnx.TensorProto.INT8 for each in whole)
    gate = facts_of(made[f"{name}_onnx"])["gate"]
    assert gate["extent"].endswith("by onnxruntime") and gate["form"] == ("int4" if name == "four" else "int8")
    assert "onnx/model.onnx | int" in (made[f"{name}_onnx"] / "README.md").read_text()
    assert not (made[f"{name}_onnx"] / ".run").exists()


def test_a_rounded_run_is_exported(made: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    again = export(made["four"], tmp_path / "onnx", "onnx")
    assert (again / "onnx" / "model.onnx").read_bytes() == (made["four_onnx"] / "onnx" / "model.onnx").read_bytes()
    floats = export(made["static"], tmp_path / "hf", "hf")
    found = verify(f"dir:{floats}", f"run:{made['static']}", TEXTS)
    assert found.within(0.3)  # its weights are the rounded ones, its inputs are not
    with pytest.raises(UserError, match=r"--format=onnx: the run rounds inputs token by token"):
        export(made["dynamic"], tmp_path / "no", "onnx")
    with pytest.raises(UserError, match=r"--format=stablehlo: .*rounded"):
        export(made["static"], tmp_path / "no", "stablehlo")
    with pytest.raises(UserError, match=r"--quantize=int8: the weights of .* are rounded already"):
        export(made["static"], tmp_path / "no", "onnx", quantize="int8")
    assert not (tmp_path / "no").exists()


def test_a_loss_above_the_gate_writes_nothing_and_names_parts(
    run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = quantise_program.scored

    def worse(opened: Any, task: Any, split: str, *model: Any, refit: bool = False) -> Any:
        found = plain(opened, task, split, *model, refit=refit)
        return found if not refit else found.__class__(**{**vars(found), "metrics": dict.fromkeys(found.metrics, 0.0)})

    monkeypatch.setattr(quantise_program, "scored", worse)
    with pytest.raises(UserError, match=r"--max_loss=0.01: refused, nothing is written.*--keep='.*layers/") as caught:
        quantise(run, tmp_path / "never")
    assert "config.adapt.quantise.bits" in str(caught.value)
    assert os.listdir(tmp_path) == [] or all(name.startswith(".") and "lock" in name for name in os.listdir(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "statik"}, r"--method=statik: .*static"),
        ({"bits": 3}, r"--bits=3: weights have 8 or 4 bits"),
        ({"bits": 4}, r"--bits=4: products of integers have 8 \(--method=static\)"),
        ({"method": "weights", "calibration": "entropy"}, r"--calibration=entropy: is of --method=static"),
        ({"calibration": "max"}, r"--calibration=max: .*minmax"),
        ({"keep": ["layers/9/*"]}, r"--keep=layers/9/\*: names nothing"),
        ({"keep": ["*"]}, r"--keep=\*: leaves all in floats"),
        ({"max_loss": -1.0}, r"--max_loss=-1.0: must be 0 or more"),
        ({"format": "onyx"}, r"--format=onyx: .*onnx"),
        ({"format": "onnx", "method": "dynamic"}, r"--format=onnx: the run rounds inputs token by token"),
        ({"source": "tsv:/nowhere"}, r"validation split, which is not to be had: .*--source"),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    changes: dict[str, Any], message: str, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=message):
        quantise(run, tmp_path / "never", **changes)
    assert not (tmp_path / "never").exists()


def test_runs_that_cannot_be_rounded_are_refused(made: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="its weights are rounded already"):
        quantise(made["static"], tmp_path / "never")
    two = tiny.write_runs(tmp_path / "two", ("replaced_token",))["replaced_token"]
    with pytest.raises(UserError, match="trains several encoders at once"):
        quantise(two, tmp_path / "never")


def test_a_run_of_before_has_the_model_that_it_had(run: pathlib.Path) -> None:
    """Without a quantisation in task.json, and with the one of no rounding, parameters and structure are the same."""
    path = run / "task.json"
    before = open_run(run).restore(make_mesh(MeshConfig()), Build())
    values = json.loads(path.read_text())
    text, removed = path.read_text(), values["encoder"].pop("quantisation")
    path.write_text(json.dumps(values))
    try:
        after = open_run(run).restore(make_mesh(MeshConfig()), Build())
    finally:
        path.write_text(text)
    assert removed["weights"] == 0 and after.graphdef == before.graphdef
    for name, array in before.to_host().items():
        np.testing.assert_array_equal(after.to_host()[name], array)

"""Runs of every task as programs for others: they compute what the run does, and are scored as the run is."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.errors import UserError
from jaxfm.formats import onnx_files, quantisation
from jaxfm.formats.quantisation import EXTENTS, score
from jaxfm.models.adapters import merge_low_rank
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import export_formats
from jaxfm.programs.export import export
from jaxfm.programs.export_formats import inference_of
from jaxfm.programs.train import train
from jaxfm.programs.verify import verify
from jaxfm.training.evaluation import Evaluator
from jaxfm.training.saved_run import open_run
from tests import tiny

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

FAST = ("ner", "classification", "masked_lm", "replaced_token")
NOWHERE = ("nested_ner", "zero_shot_ner")  # no other library has such a head, so its exports are refused
EXPORTED = [name for name in tiny.CONFIGS if name not in NOWHERE]
TASKS = [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in EXPORTED]
TEXTS = ["ada met boole in the old town .", "gauss went near ghent and left", "in", "curry saw emmy ."]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    return tiny.write_runs(tmp_path_factory.mktemp("formats"))


@pytest.mark.parametrize("task", TASKS)
def test_both_formats_compute_what_the_run_does(
    task: str, runs: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    for format in ("onnx", "stablehlo"):
        folder = export(runs[task], tmp_path / format, format)
        found = verify(f"run:{runs[task]}", f"dir:{folder}", TEXTS)
        assert found.within(1e-5) and found.agreeing == found.predictions and not found.differing
        (logits,) = found.differences
        assert logits.what == ("vectors" if task == "embedding" else "logits")
        assert logits.vectors == (4 if "classes" in head(folder) or task == "embedding" else 48)


def head(folder: pathlib.Path) -> str:
    """The kind of head: of texts "sequence_classes", else of tokens."""
    if (folder / "model.json").exists():
        return "classes" if json.loads((folder / "model.json").read_text())["head"] == "sequence_classes" else ""
    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    return "classes" if name.endswith("ForSequenceClassification") else ""


@pytest.mark.parametrize("task", TASKS)
def test_a_program_is_scored_as_the_run_is(task: str, runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    run = open_run(runs[task])
    mesh = make_mesh(MeshConfig())
    restored = run.restore(mesh, Build())
    data = run.task(run.config.data.source, "valid")
    rows = data.datasets["valid"]
    outputs = Evaluator(data.objective.outputs, restored.graphdef, mesh, 8)(restored.params, rows)
    expected = data.scorer("valid").metrics(outputs)
    _, merged = merge_low_rank(run.spec.encoder, restored.to_host())
    onnx_files.write_onnx(tmp_path / "model.onnx", onnx_files.model_proto(inference_of(run, merged)))
    model: Any = nnx.merge(restored.graphdef, restored.params)
    session = onnx_files.Session(tmp_path / "model.onnx")
    found = score(data, "valid", model, session, run.spec.encoder.padded_vocab_size)
    assert found == pytest.approx(expected, abs=1e-5) and len(found) > 1
    # A program that says something else scores something else.
    other = score(
        data, "valid", model, lambda given: {name: np.cumsum(-array, -1) for name, array in session(given).items()}, 128
    )
    assert other != pytest.approx(expected, abs=1e-2)


def test_the_folder_is_what_others_look_for(runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    folder = export(runs["ner"], tmp_path / "model", "onnx")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert names == ["README.md", "config.json", "onnx/model.onnx", "tokenizer.json", "tokenizer_config.json"]
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"] and config["id2label"]["1"] == "B-LOC"
    card = (folder / "README.md").read_text()
    assert "library_name: transformers.js" in card and "ORTModelForTokenClassification" in card
    session = onnx_files.Session(folder / "onnx" / "model.onnx")
    assert session.inputs == ("input_ids", "attention_mask", "token_type_ids") and session.outputs == ("logits",)


def test_large_weights_are_announced_to_browsers(
    runs: dict[str, pathlib.Path], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = onnx_files.write_onnx
    monkeypatch.setattr(onnx_files, "write_onnx", lambda path, model: write(path, model, largest=1000))
    folder = export(runs["ner"], tmp_path / "model", "onnx")
    assert (folder / "onnx" / "model.onnx_data").is_file()
    config = json.loads((folder / "config.json").read_text())
    assert config["transformers.js_config"] == {"use_external_data_format": {"model.onnx": 1}}
    assert verify(str(runs["ner"]), str(folder), TEXTS).within(1e-5)


def test_the_card_runs(runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    """The lines of README.md that need onnxruntime and tokenizers alone, as they stand there."""
    folder = export(runs["classification"], tmp_path / "model", "onnx")
    block = (folder / "README.md").read_text().split("```python\n")[-1].split("```")[0].replace("FOLDER", str(folder))
    done = subprocess.run(
        [sys.executable, "-c", f"{block}\nprint(logits.shape)"], capture_output=True, text=True, check=False
    )
    assert done.stdout == "(1, 2)\n", done.stderr[-2000:]


def test_low_rank_updates_are_merged(tmp_path: pathlib.Path) -> None:
    config = tiny.config(tmp_path, adapt__lora={"rank": 2, "alpha": 8.0, "targets": ("all",)}, train__steps=3)
    train(config, tmp_path / "run")
    for format in ("onnx", "stablehlo"):
        folder = export(tmp_path / "run", tmp_path / format, format)
        assert verify(f"run:{tmp_path / 'run'}", f"dir:{folder}", TEXTS).within(1e-4)


@pytest.mark.slow
def test_adapters_are_refused(tmp_path: pathlib.Path) -> None:
    train(tiny.config(tmp_path, adapt__adapter_size=4, train__steps=1), tmp_path / "run")
    for format in ("onnx", "stablehlo"):
        with pytest.raises(UserError, match=f"--format={format}: the run was trained with config.adapt.adapter_size=4"):
            export(tmp_path / "run", tmp_path / "out", format)
    assert not (tmp_path / "out").exists()


def test_eight_bits_are_scored_before_they_are_written(
    runs: dict[str, pathlib.Path], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = export(runs["classification"], tmp_path / "model", "onnx", quantize="int8", max_loss=1.0)
    gate = json.loads((folder / "quantisation.json").read_text())
    assert gate["metric"] == "accuracy" and gate["split"] == "valid" and gate["extent"] == EXTENTS[0]
    assert gate["lost"] == gate["before"] - gate["after"] <= 1.0
    assert f"accuracy on valid is {gate['after']:.4f}, and {gate['before']:.4f} in f32" in capsys.readouterr().out
    small, large = (folder / "onnx" / name for name in (onnx_files.QUANTISED, onnx_files.MODEL))
    assert small.stat().st_size < 0.75 * large.stat().st_size  # of so small a model much is not weights
    assert "| onnx/model_quantized.onnx | int8 |" in (folder / "README.md").read_text()
    found = verify(str(large), str(small), TEXTS)
    assert 1e-4 < found.differences[0].largest < 0.5


def test_eight_bits_that_lose_too_much_are_refused(
    runs: dict[str, pathlib.Path],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    values = iter((0.9, 0.5, 0.8))
    monkeypatch.setattr(export_formats, "score", lambda *_: {"accuracy": next(values)})
    with pytest.raises(UserError, match=r"refused, nothing is written: accuracy on valid loses 0\.1000 at least, and"):
        export(runs["classification"], tmp_path / "model", "onnx", quantize="int8", max_loss=0.05)
    assert list(tmp_path.iterdir()) == []
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"int8, {extent}" for extent in EXTENTS
    ]


def test_the_second_extent_is_taken_where_the_first_loses_too_much(
    runs: dict[str, pathlib.Path], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter((0.9, 0.5, 0.88))
    monkeypatch.setattr(export_formats, "score", lambda *_: {"accuracy": next(values)})
    folder = export(runs["classification"], tmp_path / "model", "onnx", quantize="int8", max_loss=0.05)
    gate = json.loads((folder / "quantisation.json").read_text())
    assert gate["extent"] == quantisation.WIDENING and gate["lost"] == pytest.approx(0.02)


def test_without_a_validation_split_data_must_be_named(tmp_path: pathlib.Path) -> None:
    config = tiny.config(tmp_path)
    tiny.write_run(tmp_path / "run", config, best=1)
    (tmp_path / "corpus").rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"--quantize: files in 8 bits are scored on .* Name data with that split by"):
        export(tmp_path / "run", tmp_path / "model", "onnx", quantize="int8", max_loss=1.0)
    assert not (tmp_path / "model").exists()
    source = f"conll:{tmp_path / 'moved'}"
    folder = export(tmp_path / "run", tmp_path / "model", "onnx", quantize="int8", max_loss=1.0, source=source)
    assert (folder / "onnx" / onnx_files.QUANTISED).is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"format": "onnxx"}, r"--format=onnxx: .*Did you mean 'onnx'"),
        ({"format": "onnx", "quantize": "int4"}, "--quantize=int4: .*int8"),
        ({"format": "hf", "quantize": "int8"}, "--quantize=int8: is for --format=onnx, not --format=hf"),
        ({"format": "onnx", "quantize": "int8", "max_loss": -0.1}, "--max_loss=-0.1: must be 0 or more"),
        ({"format": "onnx", "quantize": "int8", "max_loss": float("nan")}, "--max_loss=nan: must be 0 or more"),
    ],
)
def test_wrong_words(words: Any, message: str, runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=message):
        export(runs["ner"], tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


def test_without_onnx_it_says_what_to_install(
    runs: dict[str, pathlib.Path], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"--format=onnx: needs the package onnx\. Install it: pip install 'jaxfm-encoders"
    ):
        export(runs["ner"], tmp_path / "out", "onnx")


def test_a_program_that_knows_no_jaxfm_runs(runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    """run.py of a StableHLO folder in a process that cannot import jaxfm, with shapes that it has never seen."""
    folder = export(runs["ner"], tmp_path / "model", "stablehlo")
    ids = np.random.default_rng(0).integers(5, 69, (3, 11))
    mask = (np.arange(11) < np.asarray([[11], [4], [7]])).astype(np.int64)
    np.savez(tmp_path / "in.npz", input_ids=ids, attention_mask=mask, token_type_ids=ids * 0)
    code = (
        "import sys; sys.modules['jaxfm'] = None; sys.modules['flax'] = None; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, runpy, run\n"
        "given = np.load(sys.argv[2])\n"
        "outputs = run.run(**given)\n"
        "one = run.run(**{name: given[name][:1, :4] for name in given})\n"
        "np.savez(sys.argv[3], logits=outputs['logits'], one=one['logits'])\n"
        "runpy.run_path(sys.argv[1] + '/run.py', run_name='__main__')\n"
    )
    words = [sys.executable, "-c", code, str(folder), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'logits': (2, " in done.stdout and "'B-LOC'" in done.stdout
    with np.load(tmp_path / "out.npz") as arrays:
        found = dict(arrays)
    run = open_run(runs["ner"])
    merged = run.restore(make_mesh(MeshConfig()), Build()).to_host()
    inference = inference_of(run, merged)
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}
    expected = np.asarray(inference(inference.params, given)["logits"])
    np.testing.assert_allclose(found["logits"][mask > 0], expected[mask > 0], atol=1e-5)
    cut = {name: array[:1, :4] for name, array in given.items()}
    np.testing.assert_allclose(found["one"], np.asarray(inference(inference.params, cut)["logits"]), atol=1e-5)

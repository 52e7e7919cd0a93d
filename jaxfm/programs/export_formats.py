"""A run as a program for others: the folders of --format=onnx and --format=stablehlo."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from jaxfm import files
from jaxfm.core.encoder_config import DYNAMIC, TRAINED, EncoderConfig
from jaxfm.core.exits import LeavesEarly
from jaxfm.core.spec import Spec
from jaxfm.errors import UserError
from jaxfm.formats import onnx_files, stablehlo
from jaxfm.formats.cards import onnx_card, stablehlo_card
from jaxfm.formats.inference import Inference, make_inference
from jaxfm.formats.onnx_quantised import IntegerMatrix, IntegerTable, with_integers
from jaxfm.formats.quantisation import EXTENTS, INT8, Gate, quantise, score
from jaxfm.models.adapters import without_adapters
from jaxfm.models.exits import without_exits
from jaxfm.models.quantised import INPUT_LIMIT
from jaxfm.training.quantised_weights import REPORT_FILE, TABLE, WEIGHTS_FILE, read_weights
from jaxfm.training.saved_run import Restored, SavedRun

SPLIT = "valid"
GATE_FILE = REPORT_FILE


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """What is asked of weights in 8 bits.

    Attributes:
      max_loss: most that they may lose, in units of the run's metric.
      source: data with the validation split; None: the run's own.
    """

    max_loss: float
    source: str | None


def inference_of(run: SavedRun, merged: Mapping[str, np.ndarray], *, rounded: bool = False) -> Inference:
    """Returns what a run computes of one text a row; low-rank updates are merged into the parameters.

    With `rounded` it computes of integers where the run does, and `merged` has these.
    """
    encoder = without_adapters(run.spec.encoder)
    if rounded:
        encoder = dataclasses.replace(encoder, quantisation=run.spec.encoder.quantisation)
    changes: dict[str, Any] = {"encoder": encoder}
    assert dataclasses.is_dataclass(run.spec) and not isinstance(run.spec, type)
    if isinstance(run.spec, LeavesEarly):  # what is exported has the last head alone
        changes["exits"] = ()
    # How many examples a packed row has at most; where texts come in groups, both numbers.
    counts = {"segments", "groups", "texts"} & {each.name for each in dataclasses.fields(run.spec)}
    spec: Spec = dataclasses.replace(run.spec, **changes, **dict.fromkeys(counts, 1))  # type: ignore[assignment]
    return make_inference(spec.make_model, spec.encoder, without_exits(merged))


def write_onnx_folder(
    folder: pathlib.Path,
    run: SavedRun,
    restored: Restored,
    merged: Mapping[str, np.ndarray],
    quantisation: Quantisation | None,
) -> None:
    """Writes what transformers.js and optimum open: config, tokenizer, onnx/model.onnx.

    With a quantisation also onnx/model_quantized.onnx, and quantisation.json with the scores of both.

    Raises:
      UserError: transformers has no class for the model; a quantised file that loses too much.
    """
    with tempfile.TemporaryDirectory(dir=folder) as whole:
        run.predictor().write_hf(pathlib.Path(whole), merged)
        for path in pathlib.Path(whole).iterdir():
            if ".safetensors" not in path.name and path.name != "README.md":
                path.rename(folder / path.name)
    model = folder / onnx_files.FOLDER / onnx_files.MODEL
    proto = onnx_files.model_proto(inference_of(run, merged))
    is_rounded = (run.workdir / WEIGHTS_FILE).is_file()
    if is_rounded:
        gate = _write_rounded(model, proto, run, restored, merged)
    else:
        onnx_files.write_onnx(model, proto)
        gate = None if quantisation is None else write_quantised(model, run, restored, quantisation)
    if gate is not None:
        files.write_json(folder / GATE_FILE, gate.to_dict())
    config = files.read_json(folder / "config.json")
    if large := sorted(path.name.removesuffix("_data") for path in model.parent.glob("*.onnx_data")):
        # transformers.js fetches the second file of weights only where the config says that there is one.
        config["transformers.js_config"] = {"use_external_data_format": dict.fromkeys(large, 1)}
        files.write_json(folder / "config.json", config)
    files.write_text(folder / "README.md", onnx_card(config, gate, alone=is_rounded))


def write_quantised(model: pathlib.Path, run: SavedRun, restored: Restored, quantisation: Quantisation) -> Gate:
    """Writes the smallest file in 8 bits that keeps the score on the validation split, beside the f32 file `model`.

    Raises:
      UserError: none keeps it, or the source has no such split.
    """
    metric, source = run.config.eval.metric, quantisation.source or run.config.data.source
    try:
        task = run.task(source, SPLIT)
    except UserError as error:
        raise UserError(
            f"--quantize: files in 8 bits are scored on the run's validation split, which is not to be had: {error} "
            "Name data with that split by --source."
        ) from error
    own: Any = nnx.merge(restored.graphdef, restored.params)

    def scored(path: pathlib.Path) -> float:
        metrics = score(task, SPLIT, own, onnx_files.Session(path), run.spec.encoder.padded_vocab_size)
        if metric not in metrics:
            raise UserError(f"--quantize: the run's metric {metric} cannot be computed on {SPLIT} of {source}.")
        return float(metrics[metric])

    before, better = scored(model), dict(task.directions).get(metric, False)
    small = model.with_name(onnx_files.QUANTISED)
    gates = []
    for extent in EXTENTS:
        quantise(model, small, extent)
        gates.append(Gate(SPLIT, metric, better, before, scored(small), quantisation.max_loss, extent))
        print(gates[-1])
        if gates[-1].passes:
            return gates[-1]
    least = min(gate.lost for gate in gates)
    raise UserError(
        f"--quantize={INT8}: refused, nothing is written: {metric} on {SPLIT} loses {least:.4f} at least, and at most "
        f"{quantisation.max_loss:g} may be lost. Accept more with --max_loss, or export without --quantize."
    )


def check_rounded(encoder: EncoderConfig, format: str) -> None:
    """Raises UserError where a run's rounding has no form in a format for others."""
    quantisation, instead = encoder.quantisation, "jaxfm.evaluate, predict and serve use the run as it is"
    if quantisation.weights and quantisation.form == TRAINED:
        raise UserError(
            f"--format={format}: the run was trained for rounded weights (config.adapt.quantise), which it still holds "
            "as floats. Round them first: jaxfm quantise --workdir=RUN --output=DIR, and export that."
        )
    if format == "onnx" and quantisation.inputs == DYNAMIC:
        raise UserError(
            f"--format=onnx: the run rounds inputs token by token (--method=dynamic), which ONNX has no operator for; "
            f"{instead}. Quantise with --method=static or weights, or export the run in floats with --quantize=int8."
        )
    if format == "stablehlo" and quantisation.weights:
        raise UserError(
            f"--format=stablehlo: writes weights in f32 alone, and those of the run are rounded; {instead}. "
            "Take --format=onnx, or export the run that it was made of."
        )


def _write_rounded(
    model: pathlib.Path, proto: Any, run: SavedRun, restored: Restored, merged: Mapping[str, np.ndarray]
) -> Gate:
    """Writes the file of a quantised run with the run's own integers, and scores it as the run was.

    Raises:
      UserError: it loses more than the run was allowed to.
    """
    _, rounded, _ = read_weights(run.workdir)
    tables, matrices = [], []
    for path, each in rounded.items():
        if path == TABLE:
            rows = run.spec.encoder.vocab_size
            whole_VE = np.ascontiguousarray(each.whole[0].T[:rows])
            tables.append(IntegerTable(np.asarray(merged[path][:rows]), whole_VE, each.scale[0, 0, :rows]))
            continue
        values = merged[path].reshape(each.count, *each.whole.shape[1:])
        for number, layer in enumerate(each.layers):
            given = float(each.range[number] * np.float32(1 / INPUT_LIMIT)) if len(each.range) else None
            matrices.append(
                IntegerMatrix(values[layer], each.whole[number], each.scale[number], each.bits, each.group, given)
            )
    found = with_integers(proto, matrices, tables)
    assert found >= len({each.values.tobytes() for each in matrices}), "a product of the graph was not recognised"
    onnx_files.write_onnx(model, proto)
    facts = files.read_object(run.workdir / REPORT_FILE)
    asked = facts["gate"]
    task = run.task(asked["source"], asked["split"])
    own: Any = nnx.merge(restored.graphdef, restored.params)
    scores = score(task, asked["split"], own, onnx_files.Session(model), run.spec.encoder.padded_vocab_size)
    gate = Gate(
        asked["split"], asked["metric"], asked["greater_is_better"], asked["before"],
        float(scores[asked["metric"]]), asked["max_loss"], f"{facts['method']} by onnxruntime", asked["form"],
    )  # fmt: skip
    print(gate)
    if not gate.passes:
        raise UserError(
            f"--format=onnx: refused, nothing is written: {gate}. Quantise the run again with more of it in floats "
            "(--keep), or with another --max_loss."
        )
    return gate


def write_stablehlo_folder(folder: pathlib.Path, run: SavedRun, merged: Mapping[str, np.ndarray]) -> None:
    """Writes the program, its weights, the tokenizer and an example that needs JAX alone."""
    inference = inference_of(run, merged)
    predictor: Any = run.predictor()
    stablehlo.write(folder, inference, predictor.labels, getattr(run.spec, "kind", ""))
    if getattr(predictor, "tokenizer", None) is not None:
        predictor.tokenizer.save_pretrained(folder)
    files.write_text(folder / "README.md", stablehlo_card(inference.inputs, predictor.labels))

"""A run as a program for others: the folders of --format=onnx and --format=stablehlo."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from jaxfm import files
from jaxfm.core.spec import Spec
from jaxfm.errors import UserError
from jaxfm.formats import onnx_files, stablehlo
from jaxfm.formats.cards import onnx_card, stablehlo_card
from jaxfm.formats.inference import Inference, make_inference
from jaxfm.formats.quantisation import EXTENTS, INT8, Gate, quantise, score
from jaxfm.models.adapters import without_adapters
from jaxfm.training.saved_run import Restored, SavedRun

SPLIT = "valid"
GATE_FILE = "quantisation.json"


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """What is asked of weights in 8 bits.

    Attributes:
      max_loss: most that they may lose, in units of the run's metric.
      source: data with the validation split; None: the run's own.
    """

    max_loss: float
    source: str | None


def inference_of(run: SavedRun, merged: Mapping[str, np.ndarray]) -> Inference:
    """Returns what a run computes of one text a row; low-rank updates are merged into the parameters."""
    changes: dict[str, Any] = {"encoder": without_adapters(run.spec.encoder)}
    assert dataclasses.is_dataclass(run.spec) and not isinstance(run.spec, type)
    # How many examples a packed row has at most; where texts come in groups, both numbers.
    counts = {"segments", "groups", "texts"} & {each.name for each in dataclasses.fields(run.spec)}
    spec: Spec = dataclasses.replace(run.spec, **changes, **dict.fromkeys(counts, 1))  # type: ignore[assignment]
    return make_inference(spec.make_model, spec.encoder, merged)


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
    onnx_files.write_onnx(model, onnx_files.model_proto(inference_of(run, merged)))
    gate = None if quantisation is None else write_quantised(model, run, restored, quantisation)
    if gate is not None:
        files.write_json(folder / GATE_FILE, gate.to_dict())
    config = files.read_json(folder / "config.json")
    if large := sorted(path.name.removesuffix("_data") for path in model.parent.glob("*.onnx_data")):
        # transformers.js fetches the second file of weights only where the config says that there is one.
        config["transformers.js_config"] = {"use_external_data_format": dict.fromkeys(large, 1)}
        files.write_json(folder / "config.json", config)
    files.write_text(folder / "README.md", onnx_card(config, gate))


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


def write_stablehlo_folder(folder: pathlib.Path, run: SavedRun, merged: Mapping[str, np.ndarray]) -> None:
    """Writes the program, its weights, the tokenizer and an example that needs JAX alone."""
    inference = inference_of(run, merged)
    predictor: Any = run.predictor()
    stablehlo.write(folder, inference, predictor.labels, getattr(run.spec, "kind", ""))
    if getattr(predictor, "tokenizer", None) is not None:
        predictor.tokenizer.save_pretrained(folder)
    files.write_text(folder / "README.md", stablehlo_card(inference.inputs, predictor.labels))

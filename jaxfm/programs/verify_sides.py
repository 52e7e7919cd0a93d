"""What `jaxfm verify` can open: runs, Hugging Face checkpoints, ONNX files, StableHLO programs."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.spec import SPEC_FILE
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.families.registry import FAMILIES
from jaxfm.formats import onnx_files, stablehlo
from jaxfm.formats.comparison import Arrays, Side
from jaxfm.formats.inference import HEADS, OF_TEXTS, VECTORS, Inference, inference_of
from jaxfm.hub.config_json import encoder_config, labels_of
from jaxfm.hub.locate import SCHEMES, locate
from jaxfm.hub.weights import read_checkpoint
from jaxfm.models.adapters import only_mergeable, plain_weights
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import export_formats
from jaxfm.training.saved_run import open_run

_PROBLEMS = {"multi_label_classification": "multi", "regression": "regression"}


def open_side(given: str) -> Side:
    """Opens a run directory, a directory of transformers, ONNX or StableHLO, an .onnx file, or a URI of one.

    Raises:
      UserError: nothing there that can be opened, or what is there is damaged.
    """
    path = _path(given)
    if path.suffix == ".onnx":
        if not path.is_file():
            raise UserError(f"{given}: no such file.")
        return _open_onnx(given, path)
    if not path.is_dir():
        raise UserError(f"{given}: there is no such directory.")
    if (path / SPEC_FILE).is_file():
        return _open_run(given, path)
    if (path / stablehlo.PROGRAM).is_file():
        return _open_stablehlo(given, path)
    for model in (path / onnx_files.FOLDER / onnx_files.MODEL, path / onnx_files.MODEL):
        # A repository may have both; the weights of transformers are what its other files are made of.
        if model.is_file() and not any(path.glob("*.safetensors")):
            return _open_onnx(given, model)
    if (path / "config.json").is_file():
        return _open_checkpoint(given, path)
    raise UserError(
        f"{given}: holds no run ({SPEC_FILE}), no checkpoint (config.json), no ONNX ({onnx_files.FOLDER}/"
        f"{onnx_files.MODEL}) and no StableHLO ({stablehlo.PROGRAM})."
    )


def _path(given: str) -> pathlib.Path:
    scheme, _, rest = given.partition(":")
    if scheme == "run" and rest:
        return files.user_path(rest, given)
    if scheme in SCHEMES and rest:
        return locate(given, "verify")
    return files.user_path(given, given or "a model")


def _open_run(given: str, path: pathlib.Path) -> Side:
    run = open_run(path)
    only_mergeable(run.spec.encoder, "verify")
    restored = run.restore(make_mesh(MeshConfig()), Build())
    rounded = run.spec.encoder.quantisation.weights > 0
    found = restored.to_host()
    merged = found if rounded else plain_weights(run.spec.encoder, found)[1]
    predictor: Any = run.predictor()
    if getattr(predictor, "tokenizer", None) is None:
        raise UserError(f"{given}: is a run of {run.config.task.name}, which reads no text.")
    inference = export_formats.inference_of(run, merged, rounded=rounded)
    problem = getattr(run.spec, "kind", "single")
    return Side(
        given, "run", predictor.tokenizer, inference.encoder.max_positions, inference.kind, tuple(predictor.labels),
        problem, *_functions(inference),
    )  # fmt: skip


def _open_checkpoint(given: str, path: pathlib.Path) -> Side:
    read = read_checkpoint(path)
    values = files.read_json(path / "config.json")
    kind = next(
        (found for name in values.get("architectures") or () if (found := FAMILIES[read.encoder.family].kind_of(name))),
        "",
    )
    kind = kind if kind in read.heads and kind in HEADS else ""
    inference = inference_of(read, kind)
    problem = _PROBLEMS.get(values.get("problem_type"), "single")
    outputs, states = _functions(inference)
    return Side(
        given, "checkpoint", load_tokenizer(path), read.encoder.max_positions, kind, read.labels if kind else (),
        problem, outputs if kind else None, states,
    )  # fmt: skip


def _functions(inference: Inference) -> tuple[Callable[[Arrays], Arrays], Callable[[Arrays], np.ndarray]]:
    """Returns outputs and states of a model of jaxfm, compiled once for each shape."""
    params = jax.device_put(inference.params)
    outputs, states = jax.jit(inference.__call__), jax.jit(inference.states)

    def given(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: inputs[name].astype(np.int32) for name in inference.inputs}

    return (
        lambda inputs: jax.device_get(outputs(params, given(inputs))),
        lambda inputs: jax.device_get(states(params, given(inputs))),
    )


def _open_onnx(given: str, model: pathlib.Path) -> Side:
    onnx_files.require_onnx(given)
    folder = next((each for each in (model.parent, model.parent.parent) if (each / "config.json").is_file()), None)
    if folder is None:
        raise UserError(f"{given}: has no config.json beside it, which says what the model is.")
    values, where = files.read_json(folder / "config.json"), str(folder / "config.json")
    encoder = encoder_config(values, where)
    names = values.get("architectures") or ()
    kind = next((found for name in names if (found := FAMILIES[encoder.family].kind_of(name))), "")
    problem = _PROBLEMS.get(values.get("problem_type"), "single")
    session = onnx_files.Session(model)
    kind = OF_TEXTS if VECTORS in session.outputs else kind
    labels = labels_of(values, where) if kind.endswith("classes") else ()
    return Side(
        given, "onnx", load_tokenizer(folder), encoder.max_positions, kind, labels, problem, session, None
    )  # fmt: skip


def _open_stablehlo(given: str, path: pathlib.Path) -> Side:
    found = stablehlo.read(path)
    described = found.description
    return Side(
        given, "stablehlo", load_tokenizer(path), described["max_positions"], described["head"],
        tuple(described["labels"]), described["problem"] or "single", found, None,
    )  # fmt: skip

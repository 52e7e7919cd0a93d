"""A model as a StableHLO program with its weights beside it: JAX runs it without jaxfm, on CPUs, GPUs and TPUs."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors.numpy
from jax import export

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.formats.inference import BATCH, SEQUENCE, Inference

PROGRAM, WEIGHTS, DESCRIPTION, EXAMPLE = "model.stablehlo", "weights.safetensors", "model.json", "run.py"
# Where the program may run; "cuda" stands for NVIDIA's devices.
PLATFORMS = ("cpu", "cuda", "tpu")
_VERSION = 1

_EXAMPLE = '''"""Runs the program of this folder: needs jax and safetensors, and for the last lines tokenizers."""

import json
import pathlib

import jax
import numpy as np
from safetensors.numpy import load_file

FOLDER = pathlib.Path(__file__).parent
DESCRIPTION = json.loads((FOLDER / "model.json").read_text())
PROGRAM = jax.export.deserialize(bytearray((FOLDER / "model.stablehlo").read_bytes()))
# On the device once, not with every call.
WEIGHTS = jax.device_put(load_file(FOLDER / "weights.safetensors"))
CALL = jax.jit(PROGRAM.call)


def run(**inputs):
    """Returns the outputs by name for int32 arrays [texts, tokens]; compiles once for each shape."""
    return CALL(WEIGHTS, {name: np.asarray(inputs[name], np.int32) for name in DESCRIPTION["inputs"]})


if __name__ == "__main__":
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.enable_padding()
    found = tokenizer.encode_batch(["Ada Lovelace was born in London.", "A second text."])
    outputs = run(
        input_ids=[text.ids for text in found],
        attention_mask=[text.attention_mask for text in found],
        token_type_ids=[text.type_ids for text in found],
    )
    print({name: value.shape for name, value in outputs.items()}, "labels:", DESCRIPTION["labels"])
'''


def write(folder: pathlib.Path, inference: Inference, labels: Sequence[str], problem: str = "") -> None:
    """Writes the program, its weights, what its inputs are, and run.py, which runs it.

    `problem` says of classes of texts whether they exclude each other ("single", "multi", "regression").

    The weights lie beside the program: an archive of StableHLO is one message of at most 2 GiB, constants in it are
    compiled anew for each shape, and safetensors can be read, compared and sharded by other tools.
    """
    flat = {
        name: np.asarray(array) for name, array in flax.traverse_util.flatten_dict(inference.params, sep="/").items()
    }
    exported, used = _exported(inference, flat)
    (folder / PROGRAM).write_bytes(exported.serialize())
    weights = {name: np.ascontiguousarray(flat[name]) for name in used}
    (folder / WEIGHTS).write_bytes(safetensors.numpy.save(weights))
    described = {
        "version": _VERSION,
        "inputs": list(inference.inputs),
        "input_axes": [BATCH, SEQUENCE],
        "input_type": "int32",
        "head": inference.kind,
        "problem": problem,
        "max_positions": inference.encoder.max_positions,
        "labels": list(labels),
        "platforms": list(exported.platforms),
    }
    files.write_json(folder / DESCRIPTION, described)
    files.write_text(folder / EXAMPLE, _EXAMPLE)


def _exported(inference: Inference, flat: Mapping[str, np.ndarray]) -> tuple[Any, list[str]]:
    """Returns the program as a function of (weights by name, inputs by name), and the weights that it reads."""
    texts, tokens = export.symbolic_shape(f"{BATCH}, {SEQUENCE}")
    inputs = {name: jax.ShapeDtypeStruct((texts, tokens), np.int32) for name in inference.inputs}

    def function(weights: Mapping[str, jax.Array], given: Mapping[str, jax.Array]) -> Any:
        return inference(flax.traverse_util.unflatten_dict(dict(weights), sep="/"), given)

    shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in flat.items()}
    traced = jax.make_jaxpr(function)(shapes, inputs).jaxpr
    read = _read_by(traced)
    # A generator, say, is among the parameters of the model, and not needed.
    used = [name for name, variable in zip(sorted(flat), traced.invars, strict=False) if variable in read]
    rest = {name: array for name, array in flat.items() if name not in used}

    def of_used(weights: Mapping[str, jax.Array], given: Mapping[str, jax.Array]) -> Any:
        zeros = {name: jax.numpy.zeros(array.shape, array.dtype) for name, array in rest.items()}
        return function({**weights, **zeros}, given)

    exporting = export.export(jax.jit(of_used), platforms=PLATFORMS)
    return exporting({name: shapes[name] for name in used}, inputs), used


def _read_by(jaxpr: Any) -> set[Any]:
    """Returns the variables on which a jaxpr's outputs depend."""
    needed = {atom for atom in jaxpr.outvars if not hasattr(atom, "val")}
    for equation in reversed(jaxpr.eqns):
        if needed & set(equation.outvars):
            needed |= {atom for atom in equation.invars if not hasattr(atom, "val")}
    return needed


@dataclasses.dataclass(frozen=True)
class Program:
    """A program that `write` wrote, loaded.

    Attributes:
      inputs: names of the arrays that it reads.
      description: the values of model.json.
      call: inputs by name, integers [B, T], to outputs by name.
    """

    inputs: tuple[str, ...]
    description: Mapping[str, Any]
    call: Any

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs by name; inputs that the program does not have are left out."""
        return jax.device_get(self.call({name: np.asarray(inputs[name], np.int32) for name in self.inputs}))


def read(folder: pathlib.Path) -> Program:
    """Loads a folder that `write` wrote; UserError where it is not whole or of a newer jaxfm."""
    values = files.read_versioned(folder / DESCRIPTION, _VERSION)
    files.check_values(values, {"inputs": list}, str(folder / DESCRIPTION))
    for name in (PROGRAM, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file, so the folder is not whole. Export the run again.")
    try:
        exported = export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
        weights = safetensors.numpy.load_file(folder / WEIGHTS)
    except Exception as error:  # flatbuffers and safetensors have no common class but this
        raise UserError(f"{folder}: is damaged ({error}). Export the run again.") from error
    on_device = jax.device_put(weights)
    call = jax.jit(exported.call)
    return Program(tuple(values["inputs"]), values, lambda given: call(on_device, given))

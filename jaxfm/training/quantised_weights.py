"""Rounded weights of a run: made from floats, kept in a file of packed integers and scales, and read back.

A unit is what is rounded or left in floats by itself: a linear map of one layer ("layers/3/ffn/down"), or the word
embedding ("embeddings/word"), of which each row has a scale.
"""

# L layers, n those of them that are rounded, K inputs, O outputs, G groups of inputs

import dataclasses
import fnmatch
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from jaxfm import files
from jaxfm.core.encoder_config import STATIC, STORED, EncoderConfig, Quantisation
from jaxfm.errors import UserError, did_you_mean
from jaxfm.models.quantised import INPUT_LIMIT, limit_of, round_weights, scaled_weights, weight_scales
from jaxfm.training.loading import put
from jaxfm.training.optimizers import matrix_axes
from jaxfm.training.paths import flat, nested

# In a run directory the weights take the place of checkpoints.
WEIGHTS_FILE, REPORT_FILE = "quantised.safetensors", "quantisation.json"
LAYERS, TABLE, TABLE_UNIT = "encoder/layers/", "encoder/embeddings/word/embedding", "embeddings/word"
TABLE_BITS = 8
_VERSION = 1
_ABOUT = "jaxfm"  # key of the file's metadata


@dataclasses.dataclass(frozen=True)
class Rounded:
    """A parameter of which some layers are rounded.

    Attributes:
      shape: of the parameter, [L, ...]; of the word embedding [V, E].
      bits: of an integer.
      group: as `Quantisation.group`.
      layers: those that are rounded, in their order.
      whole: int8 [n, K, O].
      scale: f32 [n, G, O].
      floats: f32 [L - n, K, O], the other layers.
      range: f32 [n], of the inputs where it is known before; else empty.
    """

    shape: tuple[int, ...]
    bits: int
    group: int
    layers: tuple[int, ...]
    whole: np.ndarray
    scale: np.ndarray
    floats: np.ndarray
    range: np.ndarray

    @property
    def count(self) -> int:
        """Number of layers, rounded or not; of the table 1."""
        return len(self.whole) + len(self.floats)

    def values(self) -> np.ndarray:
        """Returns the parameter that the integers stand for, f32 of `shape`."""
        if not self.layers:
            return self._placed(np.zeros((0, *self.floats.shape[1:]), np.float32))
        rounded = _on_host(
            jax.vmap(lambda whole, scale: scaled_weights(whole, scale, self.group)), self.whole, self.scale
        )
        return self._placed(rounded)

    def integers(self) -> np.ndarray:
        """Returns the integers, int8 of `shape`; all layers must be rounded."""
        assert not len(self.floats)
        return self.whole.reshape(self.shape)

    def _placed(self, rounded: np.ndarray) -> np.ndarray:
        whole = np.empty((self.count, *rounded.shape[1:]), np.float32)
        whole[list(self.layers)] = rounded
        whole[[layer for layer in range(self.count) if layer not in self.layers]] = self.floats
        is_table = len(self.shape) == 2
        return np.ascontiguousarray(whole[0].T) if is_table else whole.reshape(self.shape)


def maps_of(params: Mapping[str, Any]) -> dict[str, str]:
    """Returns map ("attention/query") -> path of its kernel, of all linear maps of the layers."""
    kernels = [path for path in params if path.startswith(LAYERS) and path.endswith("/kernel")]
    own = [path for path in kernels if "_adapter/" not in path]
    return {path.removeprefix(LAYERS).removesuffix("/kernel"): path for path in own}


def units_of(params: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of all units of a model: the word embedding where it has one, then layer by layer."""
    maps = maps_of(params)
    layers = max((len(params[path]) for path in maps.values()), default=0)
    of_layers = [f"layers/{layer}/{name}" for layer in range(layers) for name in maps]
    return (*([TABLE_UNIT] if TABLE in params else []), *of_layers)


def kept_units(units: Sequence[str], patterns: Sequence[str], option: str) -> frozenset[str]:
    """Returns the units that patterns (fnmatch) name; UserError for one that names none."""
    kept: set[str] = set()
    for pattern in patterns:
        found = {unit for unit in units if fnmatch.fnmatchcase(unit, pattern)}
        if not found:
            raise UserError(f"{option}={pattern}: names nothing that is rounded. {did_you_mean(pattern, units)}")
        kept |= found
    return frozenset(kept)


def round_params(
    params: Mapping[str, np.ndarray],
    quantisation: Quantisation,
    kept: frozenset[str],
    ranges: Mapping[str, np.ndarray],
) -> dict[str, Rounded]:
    """Returns path -> rounded parameter of all kernels and of the word embedding, but for the kept units.

    Args:
      params: path -> array, in floats.
      quantisation: bits and group of the kernels.
      kept: units that stay in floats.
      ranges: path of a map -> [L], of inputs whose range is known before.
    """
    found: dict[str, Rounded] = {}
    for name, path in maps_of(params).items():
        kernel = np.asarray(params[path], np.float32)
        layers = tuple(layer for layer in range(len(kernel)) if f"layers/{layer}/{name}" not in kept)
        if layers:
            inputs = len(np.atleast_1d(matrix_axes(path, kernel.ndim).reduction_axis))
            matrices = kernel.reshape(len(kernel), math.prod(kernel.shape[1 : 1 + inputs]), -1)
            range_L = ranges.get(path.removesuffix("/kernel"), np.zeros(0, np.float32))
            found[path] = _rounded(
                kernel.shape, matrices, layers, quantisation.weights, quantisation.group,
                range_L[list(layers)] if len(range_L) else range_L,
            )  # fmt: skip
    if TABLE in params and TABLE_UNIT not in kept:
        table = np.asarray(params[TABLE], np.float32)
        found[TABLE] = _rounded(table.shape, table.T[None], (0,), TABLE_BITS, 0, np.zeros(0, np.float32))
    return found


def only_units(
    rounded: Mapping[str, Rounded], units: frozenset[str], params: Mapping[str, np.ndarray] | None
) -> dict[str, Rounded]:
    """Returns the same parameters with only those of their layers rounded that are among the units.

    `params`, in floats, have the others; without them only what has any of the units is returned.
    """
    found: dict[str, Rounded] = {}
    for path, each in rounded.items():
        name = path.removeprefix(LAYERS).removesuffix("/kernel")
        chosen = [
            number
            for number, layer in enumerate(each.layers)
            if (TABLE_UNIT if path == TABLE else f"layers/{layer}/{name}") in units
        ]
        if params is None and not chosen:
            continue
        layers = tuple(each.layers[number] for number in chosen)
        floats = each.floats
        if params is not None:
            array = np.asarray(params[path], np.float32)
            matrices = array.T[None] if path == TABLE else array.reshape(len(array), *each.whole.shape[1:])
            floats = matrices[[layer for layer in range(len(matrices)) if layer not in layers]]
        found[path] = dataclasses.replace(
            each,
            layers=layers,
            whole=each.whole[chosen],
            scale=each.scale[chosen],
            floats=floats,
            range=each.range[chosen] if len(each.range) else each.range,
        )
    return found


def _rounded(
    shape: tuple[int, ...], matrices: np.ndarray, layers: tuple[int, ...], bits: int, group: int, range_n: np.ndarray
) -> Rounded:
    some = matrices[list(layers)]
    scale = _on_host(jax.vmap(lambda matrix: weight_scales(matrix, bits, group)), some)
    whole = _on_host(jax.vmap(lambda matrix, scale: round_weights(matrix, scale, bits, group)), some, scale)
    others = matrices[[layer for layer in range(len(matrices)) if layer not in layers]]
    return Rounded(shape, bits, group, layers, whole.astype(np.int8), scale, others, range_n)


def _on_host(function: Any, *arrays: np.ndarray) -> np.ndarray:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        return np.asarray(jax.jit(function)(*arrays))


def as_stored(
    encoder: EncoderConfig, quantisation: Quantisation, rounded: Mapping[str, Rounded], *, switched: bool = False
) -> EncoderConfig:
    """Returns the shape of an encoder whose maps are those of `rounded`; `switched`, or where a map is so in part."""
    maps = {path: each for path, each in rounded.items() if path != TABLE}
    names = sorted({path.split("/")[-2] for path in maps})
    partly = switched or any(len(each.floats) for each in maps.values())
    partly = partly and quantisation.rounds_inputs
    stored = dataclasses.replace(quantisation, maps=tuple(names), form=STORED, switched=partly)
    if not names:  # the word embedding alone
        stored = Quantisation(form=STORED)
    return dataclasses.replace(encoder, quantisation=stored)


def stored_params(
    params: Mapping[str, np.ndarray], rounded: Mapping[str, Rounded], quantisation: Quantisation
) -> dict[str, np.ndarray]:
    """Returns path -> array of a model of the form STORED.

    Args:
      params: in floats; those that are rounded are not read.
      rounded: as `round_params` makes them.
      quantisation: of the model (`as_stored`).
    """
    found = {path: np.asarray(array) for path, array in params.items() if path not in rounded}
    for path, each in rounded.items():
        of_integers = path != TABLE and quantisation.has_integers
        found[path] = each.integers() if of_integers else each.values()
        if path == TABLE or not quantisation.rounds_inputs:
            continue
        of_map, layers = path.removesuffix("/kernel"), list(each.layers)
        inputs = len(np.atleast_1d(matrix_axes(path, len(each.shape)).reduction_axis))
        outputs = each.shape[1 + inputs :]
        scale = np.ones((each.count, *outputs), np.float32)
        scale[layers] = each.scale.reshape(len(layers), *outputs)
        found[f"{of_map}/kernel_scale"] = scale
        if quantisation.inputs == STATIC or quantisation.switched:
            input_scale = np.full(each.count, np.inf, np.float32)
            of_inputs = each.range * np.float32(1 / INPUT_LIMIT) if quantisation.inputs == STATIC else 1.0
            input_scale[layers] = of_inputs
            found[f"{of_map}/input_scale"] = input_scale
    return found


def write_weights(
    path: pathlib.Path, params: Mapping[str, np.ndarray], rounded: Mapping[str, Rounded], step: int
) -> str:
    """Writes a file of all parameters, integers packed; returns its sha256.

    Args:
      path: of the file.
      params: in floats.
      rounded: those that are rounded.
      step: whose checkpoint they were.
    """
    tensors = {name: np.ascontiguousarray(array) for name, array in params.items() if name not in rounded}
    about: dict[str, Any] = {}
    for name, each in rounded.items():
        about[name] = {"shape": each.shape, "bits": each.bits, "group": each.group, "layers": each.layers}
        tensors[name] = _packed(each.whole) if each.bits == 4 else np.ascontiguousarray(each.whole)
        parts = {"scale": each.scale, "floats": each.floats, "range": each.range}
        tensors |= {f"{name}:{part}": np.ascontiguousarray(array) for part, array in parts.items() if array.size}
    metadata = {_ABOUT: json.dumps({"version": _VERSION, "step": step, "rounded": about})}
    content = safetensors.numpy.save(tensors, metadata=metadata)
    with files.atomic_write(path, binary=True) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def read_weights(workdir: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Rounded], int]:
    """Returns what `write_weights` wrote into a run directory: floats, rounded parameters, step.

    Raises:
      UserError: the file is absent, or not the one that was written.
    """
    path, report = workdir / WEIGHTS_FILE, workdir / REPORT_FILE
    if not path.is_file() or not report.is_file():
        raise UserError(f"{workdir}: has no {(path if not path.is_file() else report).name}. Quantise the run again.")
    if hashlib.sha256(path.read_bytes()).hexdigest() != files.read_object(report).get("sha256"):
        raise UserError(f"{path}: its bytes are not those that were written. Quantise the run again.")
    with safetensors.safe_open(path, "numpy") as file:
        about = json.loads(file.metadata()[_ABOUT])
        if about["version"] != _VERSION:
            raise UserError(f"{path}: is of another jaxfm (version {about['version']}); update jaxfm.")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it has no iterator
    rounded: dict[str, Rounded] = {}
    for name, facts in about["rounded"].items():
        scale = tensors.pop(f"{name}:scale")
        floats, range_n = tensors.pop(f"{name}:floats", None), tensors.pop(f"{name}:range", np.zeros(0, np.float32))
        shape, bits = tuple(facts["shape"]), int(facts["bits"])
        whole = tensors.pop(name)
        if bits == 4:
            whole = _unpacked(whole, math.prod(shape[1:]) // scale.shape[-1])
        floats = np.zeros((0, *whole.shape[1:]), np.float32) if floats is None else floats
        rounded[name] = Rounded(shape, bits, int(facts["group"]), tuple(facts["layers"]), whole, scale, floats, range_n)
    return tensors, rounded, int(about["step"])


def restore_stored(workdir: pathlib.Path, quantisation: Quantisation, abstract: Any) -> tuple[Any, int]:
    """Returns the parameters of a written run on the devices of `abstract`, and the step that they are of."""
    params, rounded, step = read_weights(workdir)
    found, shapes = stored_params(params, rounded, quantisation), flat(abstract)
    if found.keys() != shapes.keys() or any(found[path].shape != shapes[path].shape for path in shapes):
        raise UserError(f"{workdir / WEIGHTS_FILE}: is not of the model of task.json. Quantise the run again.")
    return nested({path: put(found[path], shape) for path, shape in shapes.items()}), step


def _packed(whole_nKO: np.ndarray) -> np.ndarray:
    """Returns two integers of 4 bits a byte, uint8 [n, (K + 1) // 2, O]: the first input in the lower half."""
    assert np.abs(whole_nKO).max(initial=0) <= limit_of(4)
    more = whole_nKO.shape[1] % 2
    halves = np.pad(whole_nKO, ((0, 0), (0, more), (0, 0))).astype(np.uint8) & 15
    return halves[:, ::2] | halves[:, 1::2] << 4


def _unpacked(packed: np.ndarray, count: int) -> np.ndarray:
    halves = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1, packed.shape[-1])[:, :count]
    return np.where(halves > 7, halves.astype(np.int16) - 16, halves).astype(np.int8)

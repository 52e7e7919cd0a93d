"""Tensors of a Hugging Face directory in and out: strict both ways, safetensors only."""

import dataclasses
import fnmatch
import math
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (teaches numpy bfloat16, which safetensors then reads)
import numpy as np
import safetensors
import safetensors.numpy

from jaxfm import files
from jaxfm.core.encoder_config import EncoderConfig, has_padded_rows
from jaxfm.errors import UserError
from jaxfm.families.family import Family, Head
from jaxfm.families.models import encoder_shapes, parameter_shapes
from jaxfm.families.registry import FAMILIES, family
from jaxfm.families.tensors import Tensor
from jaxfm.hub.config_json import encoder_config, labels_of


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face directory's weights in jaxfm's names.

    Attributes:
      encoder: shape of the encoder.
      params: path -> f32 array, layers stacked along a leading axis: "encoder/..."; "head/..." of a classifier whose
        classes have names; "pooler/..." before classes of whole examples; "transform/..." and "decoder/bias" of a
        masked-LM head; "detector/..." of replaced-token detection. The vocabulary is padded
        (EncoderConfig.padded_vocab_size).
      heads: kinds of head in `params` (`families.models.KINDS`); several where they share tensors.
      labels: class names of the "head/" in `params`; empty without a "head/".
      notes: sentences for the log: which tensors were not used.
    """

    encoder: EncoderConfig
    params: dict[str, np.ndarray]
    heads: tuple[str, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def read_config(directory: pathlib.Path) -> EncoderConfig:
    """Reads config.json of a Hugging Face directory; UserError when it is missing or not supported."""
    return encoder_config(_config_values(directory), str(directory / "config.json"))


def read_checkpoint(directory: pathlib.Path) -> Checkpoint:
    """Reads a Hugging Face directory whole.

    Raises:
      UserError: no safetensors (a .bin is refused: it is a pickle), a tensor missing, stored twice, unknown, of wrong
        shape, no floating-point numbers, or not finite.
    """
    values = _config_values(directory)
    where = str(directory / "config.json")
    encoder, labels = encoder_config(values, where), labels_of(values, where)
    own = FAMILIES[encoder.family]
    tensors, notes = _without_wrapper(_read_tensors(directory, own), own, directory)
    bare = not any(name.startswith(own.prefix) for name in tensors)
    found = _find_heads(own, encoder, tensors, len(labels), bare=bare)
    table = _encoder_entries(own, encoder, bare=bare)
    for kind in found.heads:
        table |= found.tables[kind]
    params, used = {}, set()
    for ours, entry in table.items():
        value = _gather(ours, entry, tensors, encoder, directory)
        params[ours] = pad_vocabulary(value, encoder) if has_padded_rows(ours) else value
        used |= set(entry.tensor.names(encoder.layer_stacks))
    for kind in found.heads:
        used |= {*own.head(kind, encoder).tied, *own.head(kind, encoder).unread}
    extras = {name.removeprefix(own.prefix) if bare else name for name in own.known_extras}
    for kind in own.heads:
        head = own.head(kind, encoder)
        extras |= {entry.tensor.name for entry in found.tables[kind].values()} | {*head.tied, *head.unread}
    unused = sorted(set(tensors) - used)
    unknown = [name for name in unused if not any(fnmatch.fnmatchcase(name, extra) for extra in extras)]
    if unknown:
        raise UserError(
            f"{directory}: {len(unknown)} tensors have no place in a {own.name} encoder: {', '.join(unknown[:8])}"
            f"{' ...' if len(unknown) > 8 else ''}. The checkpoint is of another architecture than config.json says."
        )
    if unused:
        notes.append(f"weights not used: {', '.join(unused)}")
    named = labels if "head/bias" in params else ()
    return Checkpoint(encoder, params, found.heads, named, (*notes, *found.notes))


def write_tensors(path: pathlib.Path, encoder: EncoderConfig, head: str, params: Mapping[str, np.ndarray]) -> None:
    """Writes encoder and head under transformers' names to one safetensors file, without what pads the vocabulary.

    Args:
      path: of the file.
      encoder: low-rank updates that it names must be merged into `params`.
      head: kind of the head in `params` (`families.models.KINDS`); "": the encoder alone, as transformers' class of it
        has it, with a pooler if `params` have one.
      params: path -> array of every parameter of that model.

    Raises:
      UserError: a family without tables.
    """
    own = family(encoder.family)
    num_classes = len(params["head/bias"]) if "head/bias" in params else 1
    kind = head or ("pooler" if "pooler/kernel" in params else "")
    table = _encoder_entries(own, encoder, bare=not head)
    table |= _head_entries(own, encoder, kind, num_classes, bare=not head) if kind else {}
    assert set(params) == set(table), f"not the parameters of {head}: {sorted(set(params) ^ set(table))}"
    found: dict[str, list[np.ndarray]] = {}
    for ours, (tensor, shape) in table.items():
        value = np.asarray(params[ours], np.float32)
        assert value.shape == shape, f"{ours}: has shape {value.shape}, not {shape}"
        if has_padded_rows(ours):
            value = value[: encoder.vocab_size]
        names = tensor.names(encoder.layer_stacks)
        for name, array in zip(names, value if tensor.layered else [value], strict=True):
            if tensor.inputs:
                array = array.reshape(math.prod(array.shape[: tensor.inputs]), -1).T
            elif tensor.layered:
                array = array.reshape(-1)
            assert len(found.setdefault(name, [])) == tensor.part, f"{ours}: the parts of {name} are out of order"
            found[name].append(array)
    tensors = {name: np.ascontiguousarray(np.concatenate(parts)) for name, parts in found.items()}
    for name, ours in (own.head(kind, encoder).unread if kind else {}).items():
        tensors[name] = tensors[table[ours].tensor.name].copy()
    with files.atomic_write(path, binary=True) as file:
        # transformers reads from the metadata how the file was laid out.
        file.write(safetensors.numpy.save(tensors, metadata={"format": "pt"}))


def pad_vocabulary(table: np.ndarray, config: EncoderConfig) -> np.ndarray:
    """Appends rows of zeros to an array [V, ...] up to the padded vocabulary."""
    assert len(table) == config.vocab_size
    return np.pad(table, [(0, config.padded_vocab_size - len(table)), *[(0, 0)] * (table.ndim - 1)])


_OLD_NORMS = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


class Entry(NamedTuple):
    """A parameter's tensor in the checkpoint, and the parameter's own shape: layers stacked, the vocabulary padded."""

    tensor: Tensor
    shape: tuple[int, ...]


def _encoder_entries(own: Family, encoder: EncoderConfig, *, bare: bool = False) -> dict[str, Entry]:
    return _entries(own, encoder_shapes(encoder), own.encoder_tensors(bare=bare))


def _head_entries(
    own: Family, encoder: EncoderConfig, kind: str, num_classes: int, *, bare: bool = False
) -> dict[str, Entry]:
    """Returns the entries of a head without those of the encoder."""
    shapes = parameter_shapes(encoder, kind, num_classes)
    head = {ours: shape for ours, shape in shapes.items() if not ours.startswith("encoder/")}
    return _entries(own, head, own.head_tensors(kind, encoder, bare=bare))


def _entries(own: Family, shapes: Mapping[str, tuple[int, ...]], table: Mapping[str, Tensor]) -> dict[str, Entry]:
    """Joins shapes and tensors by our path; the table may have more, of biases that the model does not have."""
    assert set(shapes) <= set(table), f"{own.name}: without a tensor: {sorted(set(shapes) - set(table))}"
    return {ours: Entry(tensor, shapes[ours]) for ours, tensor in table.items() if ours in shapes}


class _Heads(NamedTuple):
    """What a checkpoint carries beside the encoder.

    Attributes:
      heads: kinds of head that are read.
      tables: entries of each kind that the family has.
      notes: sentences for the log about heads that are carried and not read.
    """

    heads: tuple[str, ...]
    tables: dict[str, dict[str, Entry]]
    notes: tuple[str, ...]


def _find_heads(
    own: Family, encoder: EncoderConfig, tensors: Mapping[str, np.ndarray], num_classes: int, *, bare: bool
) -> _Heads:
    """Finds the heads whose every tensor is there.

    Some heads share tensors (BERT's classes of tokens are the last layer of its classes of texts), so that several may
    be found in one checkpoint. A head with classes is read only where they have names.
    """
    tables = {kind: _head_entries(own, encoder, kind, num_classes or 1, bare=bare) for kind in own.heads}
    names = {kind: {entry.tensor.name for entry in table.values()} for kind, table in tables.items()}
    complete = [kind for kind in tables if names[kind] <= set(tensors) and _spans_fit(tables[kind], tensors)]
    explained = {name for kind in complete for name in names[kind]}
    heads: list[str] = []
    notes: list[str] = []
    for kind, table in tables.items():
        carried = names[kind] & set(tensors)
        if kind not in complete and carried - explained:
            notes.append(f"{kind} head not used: {', '.join(sorted(names[kind] - carried))} missing")
        elif kind in complete and (untied := _untied(own, own.head(kind, encoder), table, tensors, bare=bare)):
            notes.append(f"{kind} head not used: {untied}; here they are one parameter")
        elif kind in complete and (num_classes or "head/bias" not in table):
            heads.append(kind)
    return _Heads(tuple(heads), tables, tuple(notes))


def _spans_fit(table: Mapping[str, Entry], tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether a head of starts and ends has two outputs: ModernBERT's has the names of its head of classes."""
    bias = table.get("spans/bias")
    return bias is None or tensors[bias.tensor.name].shape == bias.shape


def _untied(
    own: Family, head: Head, table: Mapping[str, Entry], tensors: Mapping[str, np.ndarray], *, bare: bool
) -> str:
    """Says which tensor of the checkpoint differs from the one it must equal; "" when none does."""
    known = own.encoder_tensors(bare=bare) | {ours: entry.tensor for ours, entry in table.items()}
    for name, ours in head.tied.items():
        other = known[ours].name
        if name in tensors and other in tensors and not np.array_equal(tensors[name], tensors[other]):
            return f"{name} differs from {other}"
    return ""


def _gather(
    ours: str, entry: Entry, tensors: Mapping[str, np.ndarray], encoder: EncoderConfig, directory: pathlib.Path
) -> np.ndarray:
    """Returns one of our arrays, layers stacked, without what pads the vocabulary."""
    tensor, shape = entry
    if tensor.layered:
        shape = shape[1:]
    if has_padded_rows(ours):
        shape = (encoder.vocab_size, *shape[1:])
    parts = []
    for name in tensor.names(encoder.layer_stacks):
        if name not in tensors:
            raise UserError(f"{directory}: the tensor {name!r} is missing (needed for {ours}).")
        value = tensors[name]
        if list(value.shape) != (wanted := _their_shape(ours, tensor, shape)):
            raise UserError(f"{directory}: {name!r} has shape {list(value.shape)}, but config.json asks for {wanted}.")
        value = np.split(value, tensor.parts)[tensor.part]
        check_finite(name, value, str(directory))
        value = value.astype(np.float32)
        parts.append((value.T if tensor.inputs else value).reshape(shape))
    return np.stack(parts) if tensor.layered else parts[0]


def _their_shape(ours: str, tensor: Tensor, shape: tuple[int, ...]) -> list[int]:
    """Shape in the checkpoint of what is `shape` here: [out, in] for a linear map's kernel, heads in one axis."""
    if tensor.inputs:
        return [tensor.parts * math.prod(shape[tensor.inputs :]), math.prod(shape[: tensor.inputs])]
    return [tensor.parts * math.prod(shape)] if ours.endswith("/bias") else list(shape)


def check_finite(name: str, value: np.ndarray, where: str) -> None:
    """Raises UserError where weights are not floating-point numbers, or one of them is NaN or infinite."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise UserError(
            f"{where}: {name!r} holds {value.dtype} numbers. Weights are read as floating-point numbers; quantised "
            "ones must be converted first."
        )
    with np.errstate(all="ignore"):
        total = value.sum(dtype=np.float32)  # one pass, and no array as large as the weights
    if np.isfinite(total) or (finite := np.isfinite(value)).all():
        return
    raise UserError(
        f"{where}: {np.size(finite) - np.count_nonzero(finite):,} of the {value.size:,} numbers of {name!r} are NaN or "
        "infinite: these weights were damaged, or saved after a training that diverged. Take an earlier checkpoint."
    )


def _read_tensors(directory: pathlib.Path, family: Family) -> dict[str, np.ndarray]:
    """Reads all tensors of a directory, under the names of today."""
    found: dict[str, np.ndarray] = {}
    origins: dict[str, pathlib.Path] = {}
    for path in _safetensors_files(directory):
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118  (not a dict)
                    own = renamed(name, family)
                    if own in found:
                        both = " and ".join(dict.fromkeys((origins[own].name, path.name)))
                        raise UserError(f"{directory}: the tensor {own!r} is there twice, in {both}. Fetch it again.")
                    found[own], origins[own] = file.get_tensor(name), path
        except UserError:
            raise
        # Types that numpy does not have are a TypeError or a KeyError, by the version of safetensors.
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{path}: is not a whole safetensors file ({error}). Fetch it again.") from error
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise UserError(f"{path}: holds a type of numbers that is not read here ({error!r}).") from error
    return found


def _without_wrapper(
    tensors: dict[str, np.ndarray], family: Family, directory: pathlib.Path
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Takes off what torch's wrappers put before all names ("module.", "_orig_mod."); returns a note that says so.

    Raises:
      UserError: some names have it and others do not.
    """
    word = family.encoder["embeddings/word/embedding"].name
    known = {family.prefix + word, word}
    wrapped = sorted(name for name in tensors if name.endswith(f".{word}") and name not in known)
    if not wrapped or known & set(tensors):
        return tensors, []
    wrapper = wrapped[0].removesuffix(word).removesuffix(family.prefix)
    # A family's own prefix may be what a wrapper is called: "model." before ModernBERT's encoder, but not its head.
    others = [name for name in tensors if not name.startswith(wrapper)]
    if others:
        raise UserError(
            f"{directory}: the encoder's tensors are called {wrapper!r} + {word!r}, but other names do not start so "
            f"({', '.join(sorted(others)[:3])}): the file holds more than a model of transformers. Save the model "
            "inside alone (save_pretrained)."
        )
    note = f"weights: all tensor names start with {wrapper!r}, which was taken off"
    return {name.removeprefix(wrapper): value for name, value in tensors.items()}, [note]


def _safetensors_files(directory: pathlib.Path) -> list[pathlib.Path]:
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        names = _shards(index)
        if any(pathlib.PurePath(name).name != name for name in names):
            raise UserError(f"{index}: names files outside its directory: {names}.")
        missing = [name for name in names if not (directory / name).is_file()]
        if missing:
            raise UserError(f"{directory}: {', '.join(missing)} listed in {index.name} but not there.")
        return [directory / name for name in names]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.ckpt", "*.h5") for path in directory.glob(pattern))
    if pickles:
        raise UserError(
            f"{directory}: has {pickles[0]} but no model.safetensors. jaxfm reads safetensors only (a .bin is a pickle "
            "and can run code). Convert it once where torch is installed: AutoModel.from_pretrained(DIR)"
            ".save_pretrained(NEW_DIR)."
        )
    raise UserError(f"{directory}: has no model.safetensors (found: {', '.join(_listing(directory)) or 'nothing'}).")


def _shards(index: pathlib.Path) -> list[str]:
    """Names of the files that an index says hold the tensors."""
    table = _json_object(index).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise UserError(f"{index}: has no 'weight_map' from tensors to files. Fetch it again.")
    return sorted(set(table.values()))


def _config_values(directory: pathlib.Path) -> dict[str, object]:
    path = directory / "config.json"
    if not path.is_file():
        raise UserError(f"{directory}: has no config.json (found: {', '.join(_listing(directory)) or 'nothing'}).")
    return _json_object(path)


def _json_object(path: pathlib.Path) -> dict[str, object]:
    try:
        values = files.read_json(path)
    except (ValueError, RecursionError) as error:  # ValueError: a number of too many digits, too
        raise UserError(f"{path}: is not JSON ({error}).") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: is JSON, but not an object of keys and values.")
    return values


def renamed(name: str, family: Family) -> str:
    """Returns the name that a tensor has today.

    The first BERT checkpoints carry TensorFlow's names of layer-norm parameters; transformers renames them too.
    """
    for old, new in {**_OLD_NORMS, **family.renamed}.items():
        name = name.replace(old, new)
    return name


def _listing(directory: pathlib.Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())[:12]

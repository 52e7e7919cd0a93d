"""Tensors of a Hugging Face directory in and out: strict both ways, safetensors only."""

import dataclasses
import fnmatch
import math
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from jaxfm.core.encoder_config import EncoderConfig, has_padded_rows
from jaxfm.core.initial import HostArray
from jaxfm.errors import UserError
from jaxfm.families.family import Family, Head
from jaxfm.families.models import encoder_shapes, parameter_shapes
from jaxfm.families.registry import FAMILIES, family
from jaxfm.families.tensors import Tensor
from jaxfm.hub.config_json import encoder_config, labels_of
from jaxfm.hub.directory import json_object, listing
from jaxfm.hub.stored import StoredParam, WithRows
from jaxfm.hub.tensor_files import StoredTensor, check_finite, check_floating, equal, open_tensors
from jaxfm.hub.tensor_writing import write_f32


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face directory's weights in jaxfm's names.

    Attributes:
      encoder: shape of the encoder.
      params: path -> f32 array, read from the files when it is asked for, layers stacked along a leading axis:
        "encoder/..."; "head/..." of a classifier whose
        classes have names; "pooler/..." before classes of whole examples; "transform/..." and "decoder/bias" of a
        masked-LM head; "detector/..." of replaced-token detection. The vocabulary is padded
        (EncoderConfig.padded_vocab_size).
      heads: kinds of head in `params` (`families.models.KINDS`); several where they share tensors.
      labels: class names of the "head/" in `params`; empty without a "head/".
      notes: sentences for the log: which tensors were not used.
    """

    encoder: EncoderConfig
    params: dict[str, HostArray]
    heads: tuple[str, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]

    def arrays(self) -> dict[str, np.ndarray]:
        """Reads all parameters into the host's memory."""
        return {path: np.asarray(value) for path, value in self.params.items()}


def read_config(directory: pathlib.Path) -> EncoderConfig:
    """Reads config.json of a Hugging Face directory; UserError when it is missing or not supported."""
    return encoder_config(config_values(directory), str(directory / "config.json"))


def read_checkpoint(directory: pathlib.Path) -> Checkpoint:
    """Reads what is in a Hugging Face directory: names, types and shapes first, then whether all numbers are finite.

    No more than a chunk of a tensor is in memory at a time; `params` read the files again.

    Raises:
      UserError: no safetensors (a .bin is refused: it is a pickle), a tensor missing, stored twice, unknown, of wrong
        shape, no floating-point numbers, or not finite.
    """
    values = config_values(directory)
    where = str(directory / "config.json")
    encoder, labels = encoder_config(values, where), labels_of(values, where)
    own = FAMILIES[encoder.family]
    tensors, notes = _without_wrapper(open_tensors(directory, own.renamed), own, directory)
    bare = not any(name.startswith(own.prefix) for name in tensors)
    table = _encoder_entries(own, encoder, bare=bare)
    params = {ours: gather(ours, entry, tensors, encoder, directory) for ours, entry in table.items()}
    found = _find_heads(own, encoder, tensors, len(labels), bare=bare)
    heads: dict[str, Entry] = {}
    for kind in found.heads:
        heads |= found.tables[kind]
    params |= {ours: gather(ours, entry, tensors, encoder, directory) for ours, entry in heads.items()}
    read = {name for entry in (table | heads).values() for name in entry.tensor.names(encoder.layer_stacks)}
    known = {name for kind in found.heads for name in _copies(own.head(kind, encoder))}
    extras = {name.removeprefix(own.prefix) if bare else name for name in own.known_extras}
    for kind in own.heads:
        extras |= {entry.tensor.name for entry in found.tables[kind].values()} | _copies(own.head(kind, encoder))
    unused = check_unused(set(tensors) - read - known, extras, f"{own.name} encoder", directory)
    for name in sorted(read):
        check_finite(name, tensors[name].chunks(), str(directory))
    if "auto_map" in values:
        notes.append(
            "NOTE: config.json names Python code of the model's own (auto_map). It is not run: the weights are read "
            f"into jaxfm's {own.name} encoder, whose tensors they have"
        )
    if unused:
        notes.append(f"weights not used: {', '.join(unused)}")
    named = labels if "head/bias" in params else ()
    return Checkpoint(encoder, params, found.heads, named, (*notes, *found.notes))


def check_unused(names: Collection[str], extras: Collection[str], model: str, directory: pathlib.Path) -> list[str]:
    """Returns tensors that are not read, in order.

    Raises:
      UserError: some of them match none of the patterns `extras`, those of tensors that are known to be left alone.
    """
    unknown = [name for name in sorted(names) if not any(fnmatch.fnmatchcase(name, extra) for extra in extras)]
    if unknown:
        raise UserError(
            f"{directory}: {len(unknown)} tensors have no place in a {model}: {', '.join(unknown[:8])}"
            f"{' ...' if len(unknown) > 8 else ''}. The checkpoint is of another architecture than config.json says."
        )
    return sorted(names)


def write_tensors(path: pathlib.Path, encoder: EncoderConfig, head: str, params: Mapping[str, HostArray]) -> None:
    """Writes a model to one safetensors file as `plan_model` says; one layer of one parameter is copied at a time."""
    plan = plan_model(encoder, head, params)
    write_f32(path, plan.shapes, plan.read)


class TensorPlan(NamedTuple):
    """Tensors that are to be written: their shapes by name, and what yields the parts of each in order."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], Iterator[np.ndarray]]


def plan_model(encoder: EncoderConfig, head: str, params: Mapping[str, HostArray]) -> TensorPlan:
    """Returns how encoder and head are written under transformers' names, without what pads the vocabulary.

    Args:
      encoder: low-rank updates that it names must be merged into `params`.
      head: kind of the head in `params` (`families.models.KINDS`); "": the encoder alone, as transformers' class of it
        has it, with a pooler if `params` have one.
      params: path -> array of every parameter of that model.

    Raises:
      UserError: a family without tables.
    """
    own = family(encoder.family)
    kind = head or ("pooler" if "pooler/kernel" in params else "")
    unnamed = own.head(kind, encoder).unnamed_classes if kind else 0
    num_classes = len(params["head/bias"]) - unnamed if "head/bias" in params else 1
    table = _encoder_entries(own, encoder, bare=not head)
    table |= _head_entries(own, encoder, kind, num_classes, bare=not head) if kind else {}
    assert set(params) == set(table), f"not the parameters of {head}: {sorted(set(params) ^ set(table))}"
    return plan_tensors(encoder, table, params, own.head(kind, encoder).unread if kind else {})


def plan_tensors(
    encoder: EncoderConfig,
    table: "Mapping[str, Entry]",
    params: Mapping[str, HostArray],
    unread: Mapping[str, str] | None = None,
) -> TensorPlan:
    """Returns how parameters are written under transformers' names, without what pads the vocabulary.

    Args:
      encoder: of which they are.
      table: our parameter -> where it lies.
      params: path -> array of each of these.
      unread: further tensors -> our parameter whose values they get (`Head.unread`).
    """
    shapes: dict[str, tuple[int, ...]] = {}
    parts: dict[str, list[tuple[str, int]]] = {}  # of each of their tensors: our parameters and the layer
    for ours, (tensor, shape) in table.items():
        assert params[ours].shape == shape, f"{ours}: has shape {params[ours].shape}, not {shape}"
        stored = shape[1:] if tensor.layered else _without_padding(ours, shape, encoder)
        for layer, name in enumerate(tensor.names(encoder.layer_stacks)):
            assert len(parts.setdefault(name, [])) == tensor.part, f"{ours}: the parts of {name} are out of order"
            parts[name].append((ours, layer))
            shapes[name] = tuple(_their_shape(ours, tensor, stored))
    for name, ours in (unread or {}).items():
        other = table[ours].tensor.name
        parts[name], shapes[name] = parts[other], shapes[other]

    def put(ours: str, layer: int) -> np.ndarray:
        tensor, shape = table[ours]
        if not shape:
            return np.asarray(params[ours], np.float32)
        return tensor.put(params[ours][layer if tensor.layered else slice(_rows(ours, shape, encoder))])

    def read(name: str) -> Iterator[np.ndarray]:
        if table[parts[name][0][0]].tensor.by_head:
            yield np.stack([put(ours, layer) for ours, layer in parts[name]], axis=1)
        else:
            yield from (put(ours, layer) for ours, layer in parts[name])

    return TensorPlan(shapes, read)


def _copies(head: Head) -> set[str]:
    """Returns names of tensors that are the same as others, or that nothing computes with."""
    return {*head.tied, *head.unread}


def _rows(ours: str, shape: tuple[int, ...], encoder: EncoderConfig) -> int:
    """Returns the size of a parameter's first axis without what pads the vocabulary."""
    return encoder.vocab_size if has_padded_rows(ours) else shape[0]


def _without_padding(ours: str, shape: tuple[int, ...], encoder: EncoderConfig) -> tuple[int, ...]:
    """Returns the shape of a parameter without what pads the vocabulary."""
    return (_rows(ours, shape, encoder), *shape[1:]) if shape else ()


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
    own: Family, encoder: EncoderConfig, tensors: Mapping[str, StoredTensor], num_classes: int, *, bare: bool
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


def _spans_fit(table: Mapping[str, Entry], tensors: Mapping[str, StoredTensor]) -> bool:
    """Whether a head of starts and ends has two outputs: ModernBERT's has the names of its head of classes."""
    bias = table.get("spans/bias")
    return bias is None or tensors[bias.tensor.name].shape == bias.shape


def _untied(
    own: Family, head: Head, table: Mapping[str, Entry], tensors: Mapping[str, StoredTensor], *, bare: bool
) -> str:
    """Says which tensor of the checkpoint differs from the one it must equal; "" when none does."""
    known = own.encoder_tensors(bare=bare) | {ours: entry.tensor for ours, entry in table.items()}
    for name, ours in head.tied.items():
        other = known[ours].name
        if name in tensors and other in tensors and not equal(tensors[name], tensors[other]):
            return f"{name} differs from {other}"
    return ""


def gather(
    ours: str, entry: Entry, tensors: Mapping[str, StoredTensor], encoder: EncoderConfig, directory: pathlib.Path
) -> HostArray:
    """Returns one of our arrays, layers stacked, the vocabulary padded; nothing is read yet."""
    tensor, whole = entry
    padded = has_padded_rows(ours)
    whole = _without_padding(ours, whole, encoder)
    wanted = _their_shape(ours, tensor, whole[1:] if tensor.layered else whole)
    parts: list[StoredTensor] = []
    for name in tensor.names(encoder.layer_stacks):
        if name not in tensors:
            raise UserError(f"{directory}: the tensor {name!r} is missing (needed for {ours}).")
        if list(tensors[name].shape) != wanted:
            raise UserError(
                f"{directory}: {name!r} has shape {list(tensors[name].shape)}, but config.json asks for {wanted}."
            )
        check_floating(name, tensors[name].dtype, str(directory))
        parts.append(tensors[name])
    if not whole:
        return parts[0].rows_f32(0, 1).reshape(())
    stored = StoredParam(tuple(parts), tensor, whole)
    return WithRows(stored, np.zeros((0, *whole[1:]), np.float32), encoder.padded_vocab_size) if padded else stored


def _their_shape(ours: str, tensor: Tensor, shape: tuple[int, ...]) -> list[int]:
    """Shape in the checkpoint of what is `shape` here: [out, in] for a linear map's kernel, heads in one axis."""
    if tensor.conv:
        return [shape[3], shape[2], *shape[:2]]
    if tensor.inputs:
        return [tensor.parts * math.prod(shape[tensor.inputs :]), math.prod(shape[: tensor.inputs])]
    return (
        [tensor.parts * math.prod(shape)]
        if ours.endswith("/bias")
        else [*[1] * tensor.ones, *shape[max(-tensor.ones, 0) :]]
    )


def _without_wrapper(
    tensors: dict[str, StoredTensor], family: Family, directory: pathlib.Path
) -> tuple[dict[str, StoredTensor], list[str]]:
    """Takes off what torch's wrappers put before all names ("module.", "_orig_mod."); returns a note that says so.

    Raises:
      UserError: some names have it and others do not.
    """
    word = family.first_tensor
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


def config_values(directory: pathlib.Path) -> dict[str, object]:
    """Returns the object in config.json of a directory; UserError without one."""
    path = directory / "config.json"
    if not path.is_file():
        raise UserError(f"{directory}: has no config.json (found: {listing(directory)}).")
    return json_object(path)

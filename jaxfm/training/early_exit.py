"""A model with early heads over rows, examples leaving as soon as a head is sure of them: less is computed.

The layers are computed a part at a time, as many as lie between two heads. After each part the examples that leave are
taken out, and those that stay are packed anew, into fewer rows: an example is a segment, which attends to itself alone,
so that it may lie in any row. Rows come in few numbers (`sizes`), each of which is compiled once for every part between
two early heads.
"""

# N rows, T tokens, E examples, B rows of a batch, D model

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.core.batch import Dataset, Field, Units, axes_of
from jaxfm.core.exits import ExitForm
from jaxfm.data.text.packing import PackedRows, pack, ramps
from jaxfm.data.text.short_rows import short_row
from jaxfm.evaluation.exits import ExitRule, Places, confidence
from jaxfm.models.exits import Computed, name_of
from jaxfm.models.inputs.inputs import Inputs
from jaxfm.models.stack import apply_some_layers, first_stream
from jaxfm.parallel.mesh import batch_shards, constrain, replicated, shard_batch

_LEAST_ROW = 16  # tokens: below that a row costs what its overheads cost
# Of a batch, what no layer and no head reads.
_UNREAD = ("labels",)
# What fields of tokens have on padding; -1 where it is not said here.
_EMPTY = {"segment_ids": 0, "positions": 0}


class Layers(NamedTuple):
    """How many layers examples have taken.

    Attributes:
      examples: their number.
      layers: that they took, all together.
      of: layers of the whole model.
    """

    examples: int = 0
    layers: int = 0
    of: int = 0

    @property
    def average(self) -> float:
        """Layers an example; those of the whole model where there is no example."""
        return self.layers / self.examples if self.examples else float(self.of)

    def __add__(self, other: Any) -> "Layers":
        return Layers(self.examples + other.examples, self.layers + other.layers, other.of)


@dataclasses.dataclass(frozen=True)
class ExitOutputs:
    """What `EarlyExit` gives.

    Attributes:
      outputs: of all rows, as an `Evaluator` gives them, the last head's temperature being that of all logits.
      left: layers that each example took, int [E].
      units: tokens of the rows that were embedded, and those of them that are no padding.
    """

    outputs: dict[str, np.ndarray]
    left: np.ndarray
    units: Units


@dataclasses.dataclass(frozen=True)
class _Waiting:
    """The examples that are still in, and where they lie; e of them.

    Attributes:
      examples: [e] their numbers among those of the rows at the start.
      locations: [e, 3] row, segment and first token of each in the rows as they lie now.
      tokens: [B, T] of each token of these rows its place among those at the start, row by row; -1: padding.
      fields: of these rows, what layers and heads read of a batch.
    """

    examples: np.ndarray
    locations: np.ndarray
    tokens: np.ndarray
    fields: Mapping[str, np.ndarray]

    @property
    def segment_ids(self) -> np.ndarray:
        """[B, T]."""
        return self.fields["segment_ids"]

    def example_of_tokens(self) -> np.ndarray:
        """Returns which of `examples` each token is of, an index [B, T]; -1: of none that is in."""
        return Places(self.locations, self.segment_ids).example_of_tokens()


class EarlyExit:
    """Computes a model's outputs for packed rows, each example by as few layers as the rule allows.

    Attributes:
      sizes: numbers of rows that are computed together.
    """

    def __init__(self, spec: Any, graphdef: nnx.GraphDef[Any], mesh: Mesh, batch_size: int, rule: ExitRule):
        """Closes over the model; `batch_size` is the most rows that are computed together."""
        self._spec, self._graphdef, self._mesh, self.rule = spec, graphdef, mesh, rule
        self.sizes = row_counts(batch_size, batch_shards(mesh))
        # Of later batches: what is left of a text where its tokens are not read again.
        self._fields_read = tuple(name for name in spec.batch_spec() if name not in (*_UNREAD, "tokens", "type_ids"))
        self._axes, self._row_length = axes_of(spec.batch_spec()), spec.row_length
        encoder = spec.encoder
        self._period = encoder.global_every if encoder.local_window else 1
        self._start = jax.jit(self._first)
        self._part = jax.jit(
            self._some_layers, static_argnames=("count", "phase"), out_shardings=(None, replicated(mesh))
        )
        self._end = jax.jit(self._last_layers, static_argnames=("count", "phase"), out_shardings=replicated(mesh))
        self._move = jax.jit(_moved)

    def __call__(self, params: Any, rows: PackedRows, read_NT: np.ndarray | None = None) -> ExitOutputs:
        """Returns the outputs of all rows.

        Args:
          params: of the model.
          rows: with the places of their examples.
          read_NT: bool [N, T], the tokens whose outputs are read; None: all, or outputs are of whole examples.
        """
        left_E = np.full(len(rows.example_locations), self._spec.encoder.num_layers)
        name, found, dataset = self._spec.exit_form.output, list[np.ndarray](), short_row(rows)
        units = Units()
        for first in range(0, len(rows), self.sizes[-1]):
            index = np.arange(first, min(first + self.sizes[-1], len(rows)))
            batch = _padded(dataset, index, next(size for size in self.sizes if size >= len(index)))
            inside = np.flatnonzero(np.isin(rows.example_locations[:, 0], index))
            start = _at_start(rows, inside, first, batch, self._fields_read)
            outputs, layers = self._of_batch(params, start, batch, None if read_NT is None else read_NT[index])
            found.append(outputs[: len(index)])
            left_E[inside] = layers
            useful = int(np.count_nonzero(batch["segment_ids"]))
            units = Units(units.computed + batch["segment_ids"].size, units.useful + useful)
        logits = np.concatenate(found) if found else self._of_none(params, rows)
        return ExitOutputs({name: logits}, left_E, units)

    def shapes(self, rows: int) -> list[tuple[int, int]]:
        """Returns the numbers of rows, up to `rows`, and their lengths, for which programs are compiled."""
        shorter = [(self.sizes[0], _LEAST_ROW << power) for power in range(16)]
        least = [shape for shape in shorter if shape[1] < self._row_length]
        return [*least, *((size, self._row_length) for size in self.sizes if size <= max(rows, self.sizes[0]))]

    def compile(self, params: Any, size: int, length: int) -> None:
        """Compiles the programs for rows of that number and length, by computing padding."""
        batch = {
            name: np.full((size, *(length if axis == "tokens" else whole for axis, whole in _named(field))), field.fill)
            .astype(field.dtype)
            for name, field in self._spec.batch_spec().items()
            if name not in _UNREAD
        }  # fmt: skip
        heads = self.rule.layers
        with jax.set_mesh(self._mesh):
            fields = self._put_on_devices(batch)
            stream = self._start(params, fields)
            read = {name: fields[name] for name in fields if name in self._fields_read}
            for below, head in zip((0, *heads), heads, strict=False):
                shape = {"count": head - below, "phase": below % self._period}
                if head == heads[-1]:
                    jax.block_until_ready(self._end(params, stream, read, np.int32(below), **shape))
                else:
                    early = params["exits"][name_of(head)]
                    stream, _ = self._part(params, early, stream, read, np.int32(below), **shape)

    def _of_none(self, params: Any, rows: PackedRows) -> np.ndarray:
        """Returns the outputs of no row: their type and shape are found without computing."""
        batch = {name: jax.ShapeDtypeStruct((1, *field.shape), field.dtype) for name, field in rows.spec.items()}
        shape = jax.eval_shape(lambda params, batch: self._spec.outputs(self._model(params), batch), params, batch)
        of_none = shape[self._spec.exit_form.output]
        return np.zeros((0, *of_none.shape[1:]), of_none.dtype)

    def _of_batch(
        self, params: Any, start: _Waiting, batch: Mapping[str, np.ndarray], read_BT: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the logits of some rows, and how many layers each of their examples took."""
        form, heads, temperatures = self._spec.exit_form, self.rule.layers, self.rule.temperature_of
        threshold = np.inf if self.rule.threshold is None else self.rule.threshold
        found, left = None, np.full(len(start.examples), heads[-1])
        waiting = start
        with jax.set_mesh(self._mesh):
            stream = self._start(params, self._put_on_devices(batch))
            for below, head in zip((0, *heads), heads, strict=False):
                fields, first = self._put_on_devices(waiting.fields), np.int32(below)
                shape = {"count": head - below, "phase": below % self._period}
                if head == heads[-1]:
                    outputs = self._end(params, stream, fields, first, **shape)
                else:
                    early = params["exits"][name_of(head)]
                    stream, outputs = self._part(params, early, stream, fields, first, **shape)
                logits = jax.device_get(outputs[form.output])
                if found is None:
                    found = np.zeros((len(batch["segment_ids"]), *logits.shape[1:]), logits.dtype)
                leaves = np.ones(len(waiting.examples), bool)
                if head != heads[-1]:
                    read = None if read_BT is None else _at(read_BT, waiting.tokens)
                    places = Places(waiting.locations, waiting.segment_ids, read)
                    leaves = confidence(form, logits, places, temperatures[head]) >= threshold
                factor = temperatures[heads[-1]] / temperatures[head]
                _write(found, logits * np.float32(factor), form, start, waiting, leaves, self._row_length)
                left[waiting.examples[leaves]] = head
                if leaves.all():
                    break
                if leaves.any():
                    waiting, index = self._packed(waiting, ~leaves)
                    stream = stream if index is None else self._move(stream, index)
        assert found is not None
        return found, left

    def _put_on_devices(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        return shard_batch(batch, {name: self._axes[name] for name in batch}, self._mesh)

    def _packed(self, waiting: _Waiting, stays: np.ndarray) -> tuple[_Waiting, np.ndarray | None]:
        """Returns the examples that stay in as few rows as hold them, and where each token of these lies now.

        Where that saves nothing they lie as before, beside those that left, and the second result is None.
        """
        rest = dataclasses.replace(waiting, examples=waiting.examples[stays], locations=waiting.locations[stays])
        of_tokens = rest.example_of_tokens()
        lengths, length = np.bincount(of_tokens[of_tokens >= 0], minlength=len(rest.examples)), of_tokens.shape[1]
        # Of outputs of whole examples a row has no more than at the start.
        most = None if self._spec.exit_form.of_tokens else self._spec.segments
        order = np.argsort(-lengths, kind="stable")  # the longest first, which wastes least
        packed = [order[members] for members in pack(lengths[order], length, most)]
        size = next((each for each in self.sizes if each >= len(packed)), len(packed))
        if len(packed) == 1:
            length = min(length, max(_LEAST_ROW, 1 << (int(lengths.sum()) - 1).bit_length()))
        if size * length >= of_tokens.size:
            return rest, None
        return _packed_again(rest, packed, lengths, (size, length))

    def _model(self, params: Any) -> Any:
        return nnx.merge(self._graphdef, params)

    def _first(self, params: Any, batch: Mapping[str, jax.Array]) -> Any:
        """Returns the stream before the first layer."""
        encoder = self._model(params).encoder
        return first_stream(encoder.config, encoder.common, encoder.embeddings(batch, None).x_BTD)

    def _layers(
        self, model: Any, stream: Any, batch: Mapping[str, jax.Array], first: jax.Array, count: int, phase: int
    ) -> Any:
        encoder = model.encoder
        return apply_some_layers(
            encoder.config,
            encoder.layers,
            encoder.common,
            stream,
            batch["segment_ids"],
            batch["positions"],
            encoder.build,
            first=first,
            count=count,
            phase=phase,
        )

    def _some_layers(
        self,
        params: Any,
        early: Any,
        stream: Any,
        batch: Mapping[str, jax.Array],
        first: jax.Array,
        *,
        count: int,
        phase: int,
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Returns the stream after some layers, and the outputs of the head there, whose parameters are `early`."""
        model = self._model(params)
        stream = self._layers(model, stream, batch, first, count, phase)
        head = nnx.merge(nnx.split(model.exits.after(self.rule.layers[0]))[0], early)
        x_BTD = stream[0] if model.encoder.config.pre_norm else stream
        inputs = Inputs(x_BTD, batch["segment_ids"], batch["positions"])
        return stream, self._spec.outputs(Computed(inputs, head), batch)

    def _last_layers(
        self, params: Any, stream: Any, batch: Mapping[str, jax.Array], first: jax.Array, *, count: int, phase: int
    ) -> dict[str, jax.Array]:
        """Returns the outputs of the last head."""
        model = self._model(params)
        stream = self._layers(model, stream, batch, first, count, phase)
        x_BTD = stream[1] if model.encoder.config.pre_norm else stream
        inputs = Inputs(x_BTD, batch["segment_ids"], batch["positions"])
        return self._spec.outputs(Computed(inputs, model), batch)


def row_counts(batch_size: int, shards: int) -> tuple[int, ...]:
    """Returns the numbers of rows that are computed together, ascending: what the mesh needs times 1, 2, 3, 4, 6, 8 ...

    The largest is the multiple of `shards` that is nearest below `batch_size`, or `shards`.
    """
    most = max(batch_size // shards, 1)
    found = {
        most,
        *(1 << power for power in range(most.bit_length())),
        *(3 << power for power in range(most.bit_length())),
    }
    return tuple(shards * each for each in sorted(found) if each <= most)


def _named(field: Field) -> Iterator[tuple[str, int]]:
    """Yields the name of each axis of a field, "" without one, and its size."""
    return zip((*field.axes, *[""] * (len(field.shape) - len(field.axes))), field.shape, strict=True)


def _padded(dataset: Dataset, index: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Returns some rows as a batch without targets, filled up to `size` rows."""
    spec, missing = dataset.spec, size - len(index)
    return {
        name: np.pad(values, ((0, missing), *[(0, 0)] * (values.ndim - 1)), constant_values=spec[name].fill)
        for name, values in dataset.take(index).items()
        if name not in _UNREAD
    }


def _at_start(
    rows: PackedRows, inside: np.ndarray, first: int, batch: Mapping[str, np.ndarray], fields_read: Sequence[str]
) -> _Waiting:
    """Returns the examples of a batch of rows from row `first` on, `inside` being their numbers among all."""
    size, length = batch["segment_ids"].shape
    # A single short row is a part of its row: places are counted in rows of the data.
    places = np.arange(size)[:, None] * rows.row_length + np.arange(length)
    fields = {name: batch[name] for name in fields_read}
    return _Waiting(
        np.arange(len(inside)),
        rows.example_locations[inside] - np.asarray([first, 0, 0]),
        np.where(batch["segment_ids"] == 0, -1, places),
        fields,
    )


def _packed_again(
    rest: _Waiting, packed: list[np.ndarray], lengths: np.ndarray, shape: tuple[int, int]
) -> tuple[_Waiting, np.ndarray]:
    """Returns examples in other rows [size, length], and where each token of these rows lay, int32 [size, length].

    Args:
      rest: the examples.
      packed: for each row the examples in it.
      lengths: tokens of each example.
      shape: of the rows.
    """
    order = np.concatenate(packed)
    counts, sizes = np.asarray([len(each) for each in packed]), lengths[order]
    row, segment = np.repeat(np.arange(len(packed)), counts), ramps(counts)
    ends = np.cumsum(sizes)
    first = ends - sizes - np.repeat(np.concatenate([[0], ends])[np.cumsum(counts) - counts], counts)
    old = rest.locations[order]
    inside = ramps(sizes)
    source = np.repeat(old[:, 0] * rest.tokens.shape[1] + old[:, 2], sizes) + inside
    place = np.repeat(row * shape[1] + first, sizes) + inside

    def laid(values: np.ndarray, empty: int) -> np.ndarray:
        made = np.full(shape, empty, values.dtype)
        made.reshape(-1)[place] = values
        return made

    fields = {name: laid(values.reshape(-1)[source], _EMPTY.get(name, -1)) for name, values in rest.fields.items()}
    fields["segment_ids"] = laid(np.repeat(segment + 1, sizes).astype(np.int32), 0)
    locations = np.stack([row, segment, first], axis=1)
    tokens = laid(rest.tokens.reshape(-1)[source], -1)
    return _Waiting(rest.examples[order], locations, tokens, fields), laid(source.astype(np.int32), 0)


def _moved(stream: Any, index_BT: jax.Array) -> Any:
    """Returns the stream at other tokens: of each, its place among all of the rows as they lie."""

    def taken(x_BTD: jax.Array) -> jax.Array:
        return constrain(x_BTD.reshape(-1, x_BTD.shape[-1])[index_BT], "batch", "tokens", "features")

    return jax.tree.map(taken, stream)


def _at(values_BT: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Returns the values of the tokens at the start that tokens of rows were, False for padding."""
    return np.where(tokens >= 0, values_BT.reshape(-1)[np.maximum(tokens, 0)], False)


def _write(
    found: np.ndarray,
    logits: np.ndarray,
    form: ExitForm,
    start: _Waiting,
    waiting: _Waiting,
    leaves: np.ndarray,
    row_length: int,
) -> None:
    """Writes the logits of examples that leave to where these lay at the start; rows there had `row_length` tokens."""
    if not form.of_tokens:
        old, now = start.locations[waiting.examples[leaves]], waiting.locations[leaves]
        found[old[:, 0], old[:, 1]] = logits[now[:, 0], now[:, 1]]
        return
    example = waiting.example_of_tokens()
    chosen = (example >= 0) & leaves[example]
    places = waiting.tokens[chosen]
    found[places // row_length, places % row_length] = logits[chosen]

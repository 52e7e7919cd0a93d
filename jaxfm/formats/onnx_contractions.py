"""Products and gathers of JAX as ONNX operators."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfm.errors import UserError
from jaxfm.formats.onnx_graph import Dim, Graph, Rule, Value, constant, is_static


def dot_general(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    """Products as MatMul; the result has the axes (batch, free of the left, free of the right).

    A product with weights is one of rows with a matrix [K, N], the form that runtimes fuse and quantise.
    """
    (left_summed, right_summed), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = (
        graph.materialise(value, atom.aval.shape) for value, atom in zip(inputs, equation.invars, strict=True)
    )
    dtype = equation.outvars[0].aval.dtype
    left_free = _others(left, left_batch, left_summed)
    right_free = _others(right, right_batch, right_summed)
    if left.constant is not None and not left_batch:
        # Weights stand on the right.
        product = _with_weights(graph, (right, right_free, right_summed), (left, left_free, left_summed), dtype)
        return graph.transpose(product, [*range(len(right_free), len(product.dims)), *range(len(right_free))])
    if right.constant is not None and not right_batch:
        return _with_weights(graph, (left, left_free, left_summed), (right, right_free, right_summed), dtype)
    of_left, of_right = (left, left_batch, left_free, left_summed), (right, right_batch, right_free, right_summed)
    # Transposing the product is cheaper than transposing attention's weights [B, N, T, T] before it.
    swapped = _is_in_order(*of_right) and not _is_in_order(*of_left)
    product = _batched(graph, of_right, of_left, dtype) if swapped else _batched(graph, of_left, of_right, dtype)
    if not swapped:
        return product
    batch, right_end = len(left_batch), len(left_batch) + len(right_free)
    return graph.transpose(product, [*range(batch), *range(right_end, len(product.dims)), *range(batch, right_end)])


_Side = tuple[Value, Sequence[int], Sequence[int]]


def _others(value: Value, *used: Sequence[int]) -> list[int]:
    return [axis for axis in range(len(value.dims)) if not any(axis in axes for axes in used)]


def _is_in_order(value: Value, batch: Sequence[int], free: Sequence[int], summed: Sequence[int]) -> bool:
    return [*batch, *free, *summed] == list(range(len(value.dims)))


def _with_weights(graph: Graph, rows: _Side, weights: _Side, dtype: Any) -> Value:
    """Returns rows [..., K] times a matrix [K, N], as [..., N] with the axes that N stands for."""
    value, free, summed = rows
    matrix, columns, matrix_summed = weights
    frees, outs = [value.dims[axis] for axis in free], [matrix.dims[axis] for axis in columns]
    inner = math.prod(value.dims[axis] for axis in summed)
    value = graph.reshape(graph.transpose(value, [*free, *summed]), [*frees, inner])
    matrix = graph.transpose(matrix, [*matrix_summed, *columns])
    matrix = graph.reshape(matrix, [inner, math.prod(outs)])
    product = graph.add("MatMul", [value, matrix], [*frees, math.prod(outs)], dtype)
    return graph.reshape(product, [*frees, *outs])


def _batched(graph: Graph, left: tuple[Any, ...], right: tuple[Any, ...], dtype: Any) -> Value:
    """Returns [batch, rows of the left, columns of the right]."""
    x, x_batch, x_free, x_summed = left
    y, y_batch, y_free, y_summed = right
    batch = [x.dims[axis] for axis in x_batch]
    rows, columns = ([value.dims[axis] for axis in free] for value, free in ((x, x_free), (y, y_free)))
    inner = [x.dims[axis] for axis in x_summed]
    x = graph.transpose(x, [*x_batch, *x_free, *x_summed])
    y = graph.transpose(y, [*y_batch, *y_summed, *y_free])
    one_row, one_column, one_inner = (_product(dims) for dims in (rows, columns, inner))
    x = graph.reshape(x, [*batch, one_row, one_inner])
    y = graph.reshape(y, [*batch, one_inner, one_column])
    product = graph.add("MatMul", [x, y], [*batch, one_row, one_column], dtype)
    return graph.reshape(product, [*batch, *rows, *columns])


def _product(dims: Sequence[Dim]) -> Dim:
    result: Dim = 1
    for dim in dims:
        result = dim * result
    return result


def gather(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    """Look-ups: Gather along one axis, GatherElements along the last, else GatherND.

    Indices out of range are an error of the runtime; JAX clamps them or fills with NaN, and no model here has any.
    """
    numbers, slices = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape = equation.invars[0].aval.shape
    looked_up, batch = list(numbers.start_index_map), list(numbers.operand_batching_dims)
    whole = [axis for axis in range(len(shape)) if axis not in looked_up and axis not in batch]
    single = all(_is(slices[axis], 1) for axis in looked_up)
    if not single or any(slices[axis] != shape[axis] for axis in whole):
        raise UserError("--format=onnx: the model gathers slices that are not whole axes.")
    # Where the result keeps an axis of size 1 that was looked up, this is added at the end.
    sliced = [axis for axis in range(len(shape)) if axis not in (*numbers.collapsed_slice_dims, *batch)]
    kept = [place for axis, place in zip(sliced, numbers.offset_dims, strict=True) if axis in looked_up]
    offsets = [place - sum(other < place for other in kept) for place in numbers.offset_dims if place not in kept]
    if not batch and len(looked_up) == 1:
        found = _gather_rows(graph, inputs, equation, looked_up[0], offsets)
    else:
        found = _gather_nd(graph, inputs, equation, (batch, looked_up, whole), offsets)
    return graph.unsqueeze(found, kept)


def _gather_rows(graph: Graph, inputs: Sequence[Value], equation: Any, axis: int, offsets: Sequence[int]) -> Value:
    table = graph.materialise(inputs[0], equation.invars[0].aval.shape)
    indices = graph.squeeze(inputs[1], [len(inputs[1].dims) - 1])
    inner = len(indices.dims)
    dims = [*table.dims[:axis], *indices.dims, *table.dims[axis + 1 :]]
    found = graph.add("Gather", [table, indices], dims, table.dtype, axis=axis)
    order = [*range(axis, axis + inner), *range(axis), *range(axis + inner, len(dims))]
    return graph.transpose(found, _placed(order, offsets, inner))


def _placed(order: Sequence[int], offset_dims: Sequence[int], inner: int) -> list[int]:
    """Returns the order of axes in which (indices..., slices...) stand where `offset_dims` puts the slices."""
    slices, rest = list(order[inner:]), list(order[:inner])
    return [slices.pop(0) if axis in offset_dims else rest.pop(0) for axis in range(len(order))]


def _gather_nd(
    graph: Graph,
    inputs: Sequence[Value],
    equation: Any,
    axes: tuple[list[int], list[int], list[int]],
    offsets: Sequence[int],
) -> Value:
    batch, looked_up, whole = axes
    numbers = equation.params["dimension_numbers"]
    table, indices = (
        graph.materialise(value, atom.aval.shape) for value, atom in zip(inputs, equation.invars, strict=True)
    )
    last = len(indices.dims) - 1
    index_batch = list(numbers.start_indices_batching_dims)
    rest = [axis for axis in range(last) if axis not in index_batch]
    table = graph.transpose(table, [*batch, *looked_up, *whole])
    indices = graph.cast(graph.transpose(indices, [*index_batch, *rest, last]), np.int64)
    # The result has the axes (batch, rest, whole); JAX puts the indices' axes back in their own order.
    if not whole and len(looked_up) == 1 and len(rest) == 1:
        indices = graph.squeeze(indices, [last])
        found = graph.add("GatherElements", [table, indices], indices.dims, table.dtype, axis=len(batch))
    else:
        dims = [*indices.dims[:-1], *table.dims[len(batch) + len(looked_up) :]]
        found = graph.add("GatherND", [table, indices], dims, table.dtype, batch_dims=len(batch))
    places = [*index_batch, *rest]
    order = [places.index(axis) for axis in range(last)] + list(range(last, len(found.dims)))
    return graph.transpose(found, _placed(order, offsets, last))


def _is(dim: Dim, number: int) -> bool:
    return isinstance(dim, int) and dim == number


def dynamic_slice(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    """A slice whose start is computed; it is inside the array wherever a model here cuts one."""
    table, *starts = inputs
    table = graph.materialise(table, equation.invars[0].aval.shape)
    sizes = equation.params["slice_sizes"]
    cut = [axis for axis, size in enumerate(sizes) if size != table.dims[axis]]
    first = [graph.unsqueeze(graph.cast(starts[axis], np.int64), [0]) for axis in cut]
    dims = equation.outvars[0].aval.shape
    if not cut or not is_static([sizes[axis] for axis in cut]):
        return graph.add("Identity", [table], dims, table.dtype)
    begin = graph.add("Concat", first, (len(cut),), np.int64, axis=0)
    lengths = constant(np.asarray([sizes[axis] for axis in cut], np.int64))
    end = graph.add("Add", [begin, lengths], (len(cut),), np.int64)
    return graph.add("Slice", [table, begin, end, graph.sizes(cut)], dims, table.dtype)


RULES: dict[str, Rule] = {
    "dot_general": dot_general,
    "gather": gather,
    "dynamic_slice": dynamic_slice,
}

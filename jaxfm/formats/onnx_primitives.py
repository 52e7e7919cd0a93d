"""JAX's primitives as ONNX operators, but for products and gathers (`onnx_contractions`).

A rule is a function (graph, inputs, equation) -> value, or a list of values. Inputs may be kept with size 1 along axes
where they only repeat (`Value.dims`): elementwise rules leave that to ONNX' broadcasting, others materialise them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxfm.errors import UserError
from jaxfm.formats.onnx_graph import Dim, Graph, Rule, Value, constant
from jaxfm.models.attention import MASKED


def take_index(graph: Graph, value: Value, index: int) -> Value:
    """Returns entry `index` of the first axis."""
    if value.constant is not None:
        return constant(value.constant[index])
    return graph.add("Gather", [value, constant(np.asarray(index, np.int64))], value.dims[1:], value.dtype, axis=0)


def stack(graph: Graph, values: Sequence[Value], dims: Sequence[Dim]) -> Value:
    """Returns values as the entries of a new first axis; the result has the shape `dims`."""
    whole = [graph.unsqueeze(graph.materialise(value, dims[1:]), [0]) for value in values]
    return graph.add("Concat", whole, dims, values[0].dtype, axis=0)


def broadcast_dims(inputs: Sequence[Value]) -> tuple[Dim, ...]:
    """Returns the sizes of an elementwise result: 1 where every operand has 1, else the other size."""
    rank = max(len(value.dims) for value in inputs)
    padded = [(1,) * (rank - len(value.dims)) + value.dims for value in inputs]
    return tuple(next((dim for dim in dims if not _is_one(dim)), 1) for dims in zip(*padded, strict=True))


def _is_one(dim: Dim) -> bool:
    return isinstance(dim, int) and dim == 1


def _elementwise(op: str) -> Rule:
    def rule(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
        return graph.add(op, inputs, broadcast_dims(inputs), equation.outvars[0].aval.dtype)

    return rule


def _chain(*ops: str) -> Rule:
    def rule(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
        value = inputs[0]
        for op in ops:
            value = graph.add(op, [value], value.dims, value.dtype)
        return value

    return rule


def _same(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    return list(inputs)


def _logical(op: str) -> Rule:
    def rule(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
        if inputs[0].dtype != np.bool_:
            raise UserError(f"--format=onnx: the model computes {equation.primitive.name} of bits of numbers.")
        return graph.add(op, inputs, broadcast_dims(inputs), np.bool_)

    return rule


def _add(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    """A bias is added to a product before this is cut into heads: runtimes have one kernel for both."""
    for value, bias in (inputs, inputs[::-1]):
        source = graph.reshaped.get(value.name)
        if source is None or bias.constant is None or graph.producer(source.name, "MatMul") is None:
            continue
        width, cut = source.dims[-1], [dim for dim in bias.dims if not _is_one(dim)]
        if bias.constant.size == width and cut == [*value.dims[len(value.dims) - len(cut) :]]:
            flat = constant(bias.constant.reshape(width))
            return graph.reshape(graph.add("Add", [source, flat], source.dims, source.dtype), value.dims)
    return graph.add("Add", _lean(inputs), broadcast_dims(inputs), inputs[0].dtype)


def _lean(inputs: Sequence[Value]) -> list[Value]:
    """Returns operands without the leading axes of size 1 of constants: what runtimes fuse is a bias of one axis."""
    rank = max((len(value.dims) for value in inputs if value.constant is None), default=0)
    lean = []
    for value in inputs:
        array = value.constant
        if array is not None and array.ndim <= rank:
            while array.ndim > 1 and array.shape[0] == 1:
                array = array[0]
            value = constant(array)
        lean.append(value)
    return lean


def _not_equal(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    dims = broadcast_dims(inputs)
    return graph.add("Not", [graph.add("Equal", inputs, dims, np.bool_)], dims, np.bool_)


def _max(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    for value, other in (inputs, inputs[::-1]):
        if value.constant is not None and value.constant.ndim == 0 and value.constant == -np.inf:
            return other  # jax.nn.softmax begins its maximum so
    return graph.add("Max", inputs, broadcast_dims(inputs), inputs[0].dtype)


def _square(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    return graph.add("Mul", [inputs[0], inputs[0]], inputs[0].dims, inputs[0].dtype)


def _integer_pow(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    power = equation.params["y"]
    if power == 2:
        return _square(graph, inputs, equation)
    exponent = constant(np.asarray(power, inputs[0].dtype))
    return graph.add("Pow", [inputs[0], exponent], inputs[0].dims, inputs[0].dtype)


def _with_one(op: str, last: bool) -> Rule:
    """exp(x) - 1 and log(x + 1)."""

    def rule(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
        (value,) = inputs
        one = constant(np.asarray(1, value.dtype))
        if last:
            return graph.add("Sub", [graph.add(op, inputs, value.dims, value.dtype), one], value.dims, value.dtype)
        return graph.add(op, [graph.add("Add", [value, one], value.dims, value.dtype)], value.dims, value.dtype)

    return rule


def _rem(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    return graph.add("Mod", inputs, broadcast_dims(inputs), inputs[0].dtype, fmod=1)


def _div(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    if softmax := _softmax(graph, *inputs):
        return softmax
    return graph.add("Div", inputs, broadcast_dims(inputs), inputs[0].dtype)


def _softmax(graph: Graph, weights: Value, total: Value) -> Value | None:
    """Returns the softmax over the last axis where this quotient ends one: one kernel instead of five passes."""
    last = len(weights.dims) - 1
    exp = graph.producer(weights.name, "Exp")
    kept = graph.producer(total.name, "Unsqueeze")
    summed = kept and graph.producer(kept.input[0], "ReduceSum")
    shifted = exp and graph.producer(exp.input[0], "Sub")
    top = shifted and graph.producer(shifted.input[1], "Unsqueeze")
    largest = top and graph.producer(top.input[0], "ReduceMax")
    if not (summed and largest and summed.input[0] == weights.name and largest.input[0] == shifted.input[0]):
        return None
    axes = [graph.initializers.get(name) for name in (kept.input[1], summed.input[1], top.input[1], largest.input[1])]
    if not all(axis is not None and axis.tolist() == [last] for axis in axes):
        return None
    source = Value(weights.dims, weights.dtype, shifted.input[0])
    return graph.add("Softmax", [source], weights.dims, weights.dtype, axis=-1)


def _clamp(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    least, value, most = inputs
    above = graph.add("Max", [value, least], broadcast_dims([value, least]), value.dtype)
    return graph.add("Min", [above, most], broadcast_dims([above, most]), value.dtype)


def _select(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    """select_n: the case that the first operand counts, of booleans False, True."""
    which, *cases = inputs
    result = cases[-1]
    for number in range(len(cases) - 2, -1, -1):
        other = cases[number]
        if which.dtype == np.bool_:
            condition, yes, no = which, result, other
        else:
            here = [which, constant(np.asarray(number, which.dtype))]
            condition, yes, no = graph.add("Equal", here, which.dims, np.bool_), other, result
        result = _where(graph, condition, yes, no)
    return result


def _where(graph: Graph, condition: Value, yes: Value, no: Value) -> Value:
    dims = broadcast_dims([condition, yes, no])
    if (
        no.constant is not None
        and no.constant.size == 1
        and no.constant.item() == np.float32(MASKED)
        and yes.dims == dims
    ):
        # Attention's mask, as a sum that all layers share: exact, as MASKED swallows whatever it is added to.
        zero = constant(np.zeros((), yes.dtype))
        return graph.add("Add", [yes, _where(graph, condition, zero, no)], dims, yes.dtype)
    if yes.dtype != np.bool_:
        return graph.add("Where", [condition, yes, no], dims, yes.dtype)
    opposite = graph.add("Not", [condition], condition.dims, np.bool_)
    both = [
        graph.add("And", [side, value], broadcast_dims([side, value]), np.bool_)
        for side, value in ((condition, yes), (opposite, no))
    ]
    return graph.add("Or", both, dims, np.bool_)


def _convert(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    return graph.cast(inputs[0], equation.params["new_dtype"])


def _round(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    if equation.params["rounding_method"] != jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        raise UserError("--format=onnx: the model rounds halves away from zero, which ONNX does not.")
    return graph.add("Round", inputs, inputs[0].dims, inputs[0].dtype)


def _broadcast(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    """Places the axes; repeating is left to the readers."""
    value, places = inputs[0], equation.params["broadcast_dimensions"]
    rank = len(equation.params["shape"])
    return graph.unsqueeze(value, [axis for axis in range(rank) if axis not in places])


def _reshape(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    assert equation.params["dimensions"] is None
    before, after = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    (value,) = inputs
    kept = [dim for dim in before if not _is_one(dim)]
    if kept == [dim for dim in after if not _is_one(dim)]:
        # Only axes of size 1 come or go.
        gone = [axis for axis, dim in enumerate(before) if _is_one(dim)]
        new = [axis for axis, dim in enumerate(after) if _is_one(dim)]
        return graph.unsqueeze(graph.squeeze(value, gone) if gone else value, new)
    return graph.reshape(graph.materialise(value, before), after)


def _transpose(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    return graph.transpose(inputs[0], equation.params["permutation"])


def _squeeze(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    return graph.squeeze(inputs[0], equation.params["dimensions"])


def _expand_dims(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    return graph.unsqueeze(inputs[0], equation.params["dimensions"])


def _whole(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    return [graph.materialise(value, atom.aval.shape) for value, atom in zip(inputs, equation.invars, strict=True)]


def _concatenate(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    out = equation.outvars[0].aval
    return graph.add("Concat", _whole(graph, inputs, equation), out.shape, out.dtype, axis=equation.params["dimension"])


def _slice(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    params, before = equation.params, equation.invars[0].aval.shape
    strides = params["strides"] or (1,) * len(before)
    ranges = zip(params["start_indices"], params["limit_indices"], strides, before, strict=True)
    cut = [
        (axis, first, last, step)
        for axis, (first, last, step, size) in enumerate(ranges)
        if not (_is_zero(first) and last == size and step == 1)
    ]
    return _cut(graph, inputs[0], equation, cut)


def _cut(graph: Graph, value: Value, equation: Any, cut: Sequence[tuple[int, Dim, Dim, int]]) -> Value:
    """Slices some axes (axis, first, last, step); the others stay as they are."""
    if not cut:
        return value
    before, out = equation.invars[0].aval.shape, equation.outvars[0].aval
    axes, first, last, steps = zip(*cut, strict=True)
    source = graph.materialise(value, [before[axis] if axis in axes else dim for axis, dim in enumerate(value.dims)])
    dims = [out.shape[axis] if axis in axes else dim for axis, dim in enumerate(value.dims)]
    ends = [graph.sizes(first), graph.sizes(last), graph.sizes(axes), graph.sizes(steps)]
    return graph.add("Slice", [source, *ends], dims, value.dtype)


def _is_zero(dim: Dim) -> bool:
    return isinstance(dim, int) and dim == 0


def _rev(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    least = np.iinfo(np.int64).min  # ONNX' word for "through the first"
    return _cut(graph, inputs[0], equation, [(axis, -1, least, -1) for axis in equation.params["dimensions"]])


def _split(graph: Graph, inputs: Sequence[Value], equation: Any) -> list[Value]:
    (value,) = _whole(graph, inputs, equation)
    sizes, axis = equation.params["sizes"], equation.params["axis"]
    names = graph.node("Split", [value, graph.sizes(sizes)], count=len(sizes), axis=axis)
    return [
        Value(variable.aval.shape, value.dtype, name) for name, variable in zip(names, equation.outvars, strict=True)
    ]


def _pad(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    value = graph.materialise(inputs[0], equation.invars[0].aval.shape)
    low, high, inner = zip(*equation.params["padding_config"], strict=True)
    if any(not _is_zero(size) for size in inner):
        raise UserError("--format=onnx: the model pads between elements, which ONNX does not.")
    out = equation.outvars[0].aval
    fill = inputs[1]
    if value.dtype == np.bool_:  # few runtimes pad booleans
        padded = [graph.cast(value, np.int32), graph.sizes([*low, *high]), graph.cast(fill, np.int32)]
        return graph.cast(graph.add("Pad", padded, out.shape, np.int32), np.bool_)
    return graph.add("Pad", [value, graph.sizes([*low, *high]), fill], out.shape, out.dtype)


def _tile(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    (value,), out = _whole(graph, inputs, equation), equation.outvars[0].aval
    return graph.add("Tile", [value, graph.sizes(equation.params["reps"])], out.shape, out.dtype)


def _iota(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    shape, axis, dtype = (equation.params[name] for name in ("shape", "dimension", "dtype"))
    length = graph.squeeze(graph.size(shape[axis]), [0])
    zero, one = (constant(np.asarray(number, np.int64)) for number in (0, 1))
    numbers = graph.cast(graph.add("Range", [zero, length, one], (shape[axis],), np.int64), dtype)
    return graph.unsqueeze(numbers, [other for other in range(len(shape)) if other != axis])


def _size_value(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    return graph.cast(graph.squeeze(graph.size(equation.params["dim"]), [0]), equation.outvars[0].aval.dtype)


def _reduce(op: str, *, boolean: bool = False) -> Rule:
    def rule(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
        axes, before = equation.params["axes"], equation.invars[0].aval.shape
        (value,) = inputs
        # Along the axes that stay, what repeats may go on repeating.
        value = graph.materialise(value, [before[axis] if axis in axes else dim for axis, dim in enumerate(value.dims)])
        dims = [dim for axis, dim in enumerate(value.dims) if axis not in axes]
        value = graph.cast(value, np.int32) if boolean else value
        places = constant(np.asarray(axes, np.int64))
        return graph.cast(graph.add(op, [value, places], dims, value.dtype, keepdims=0), equation.outvars[0].aval.dtype)

    return rule


def _arg(op: str) -> Rule:
    def rule(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
        (axis,) = equation.params["axes"]
        (value,) = _whole(graph, inputs, equation)
        found = graph.add(op, [value], equation.outvars[0].aval.shape, np.int64, axis=axis, keepdims=0)
        return graph.cast(found, equation.params["index_dtype"])

    return rule


def _cumsum(graph: Graph, inputs: Sequence[Value], equation: Any) -> Value:
    (value,) = _whole(graph, inputs, equation)
    axis = constant(np.asarray(equation.params["axis"], np.int64))
    return graph.add("CumSum", [value, axis], value.dims, value.dtype, reverse=int(equation.params["reverse"]))


RULES: dict[str, Rule] = {
    **{name: _elementwise(op) for name, op in {
        "sub": "Sub", "mul": "Mul", "min": "Min", "pow": "Pow", "neg": "Neg", "abs": "Abs", "exp": "Exp",
        "log": "Log", "sin": "Sin", "cos": "Cos", "tanh": "Tanh", "logistic": "Sigmoid", "erf": "Erf", "sqrt": "Sqrt",
        "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "eq": "Equal", "lt": "Less", "le": "LessOrEqual",
        "gt": "Greater", "ge": "GreaterOrEqual", "add_any": "Add",
    }.items()},
    **dict.fromkeys(("stop_gradient", "copy", "copy_p", "name", "optimization_barrier", "reduce_precision"), _same),
    "add": _add,
    "ne": _not_equal,
    "and": _logical("And"),
    "or": _logical("Or"),
    "xor": _logical("Xor"),
    "not": _logical("Not"),
    "max": _max,
    "div": _div,
    "rem": _rem,
    "square": _square,
    "integer_pow": _integer_pow,
    "rsqrt": _chain("Sqrt", "Reciprocal"),
    "expm1": _with_one("Exp", last=True),
    "log1p": _with_one("Log", last=False),
    "clamp": _clamp,
    "select_n": _select,
    "convert_element_type": _convert,
    "round": _round,
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "expand_dims": _expand_dims,
    "concatenate": _concatenate,
    "slice": _slice,
    "rev": _rev,
    "split": _split,
    "pad": _pad,
    "tile": _tile,
    "iota": _iota,
    "dim_as_value": _size_value,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_or": _reduce("ReduceMax", boolean=True),
    "reduce_and": _reduce("ReduceMin", boolean=True),
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "cumsum": _cumsum,
}  # fmt: skip

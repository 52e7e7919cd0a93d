"""Functions of jaxfm that ONNX, or what runtimes fuse, has as one operator.

They are recognised by name and by what they compute. A function that is not recognised is written equation by equation,
so a change of its code costs speed, never the result.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfm.formats.onnx_graph import Graph, Value, constant

_NORM = ("reduce_sum", "broadcast_in_dim", "div", "sub", "square", "reduce_sum", "broadcast_in_dim", "div", "add")
_NORM = (*_NORM, "rsqrt", "sub", "mul", "broadcast_in_dim", "mul")
_GELU = ("mul", "erf", "add", "mul", "mul")


def of_call(graph: Graph, equation: Any, inputs: Sequence[Value]) -> Value | None:
    """Returns the value of a call that is one of these functions; else None."""
    if equation.primitive.name != "custom_vjp_call":
        return None
    called = equation.params["call_jaxpr"]
    jaxpr = getattr(called, "jaxpr", called)
    names = tuple(inner.primitive.name for inner in jaxpr.eqns)
    if names in (_NORM, (*_NORM, "broadcast_in_dim", "add")) and len(inputs) == (2 if names == _NORM else 3):
        return _layer_norm(graph, jaxpr, inputs)
    if names == _GELU and len(inputs) == 1:
        return _gelu(graph, jaxpr, inputs[0])
    return None


def _layer_norm(graph: Graph, jaxpr: Any, inputs: Sequence[Value]) -> Value | None:
    x, scale = inputs[:2]
    epsilon = [getattr(atom, "val", None) for atom in jaxpr.eqns[_NORM.index("add")].invars]
    axes = [inner.params["axes"] for inner in jaxpr.eqns if inner.primitive.name == "reduce_sum"]
    whole = x.dims == jaxpr.invars[0].aval.shape
    if epsilon[1] is None or any(axis != (len(x.dims) - 1,) for axis in axes) or len(scale.dims) != 1 or not whole:
        return None
    bias = inputs[2] if len(inputs) == 3 else constant(np.zeros(scale.dims, np.float32))
    return graph.add(
        "LayerNormalization", [x, scale, bias], x.dims, x.dtype, axis=-1, epsilon=float(np.float32(epsilon[1]))
    )


def _gelu(graph: Graph, jaxpr: Any, x: Value) -> Value | None:
    """Returns exact gelu in the form that onnxruntime fuses to one kernel: Div, Erf, Add, Mul, Mul."""
    literals = [atom.val for inner in jaxpr.eqns for atom in inner.invars if hasattr(atom, "val")]
    if not np.allclose(np.asarray(literals, np.float64), [0.5**0.5, 1.0, 0.5], rtol=1e-6):
        return None

    def number(value: float) -> Value:
        return constant(np.asarray(value, x.dtype))

    def add(op: str, *inputs: Value) -> Value:
        return graph.add(op, inputs, x.dims, x.dtype)

    return add("Mul", add("Mul", x, add("Add", add("Erf", add("Div", x, number(2.0**0.5))), number(1.0))), number(0.5))

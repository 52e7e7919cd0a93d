"""From a traced function (a jaxpr) to an ONNX graph, equation by equation.

Every family so comes for free: what the model computes is traced, and only primitives of JAX are known here. Calls are
inlined, loops over layers are unrolled, and whatever depends on parameters alone is computed now.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import export

from jaxfm.errors import UserError
from jaxfm.formats import onnx_contractions, onnx_patterns, onnx_primitives
from jaxfm.formats.onnx_graph import Dim, Graph, Value, constant, is_static

# Primitives that call a function -> the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
_RULES = onnx_primitives.RULES | onnx_contractions.RULES


def to_onnx(
    function: Callable[..., Mapping[str, jax.Array]],
    params: Any,
    inputs: Mapping[str, tuple[tuple[str, ...], Any]],
) -> Any:
    """Traces a function and returns it as an onnx.ModelProto.

    Args:
      function: (params, inputs by name) -> outputs by name.
      params: arrays of the host; they become constants of the graph.
      inputs: name -> axes and type; equal names of axes are equal sizes, all of them known only when the model runs.

    Raises:
      UserError: the function needs a primitive of JAX that has no rule here.
    """
    axes = sorted({axis for names, _ in inputs.values() for axis in names})
    symbols = dict(zip(axes, export.symbolic_shape(", ".join(axes)), strict=True))
    # JAX computes in 32 bits; ids come as 64 bits, as tokenizers of all libraries give them.
    abstract = {
        name: jax.ShapeDtypeStruct([symbols[axis] for axis in names], np.int32) for name, (names, _) in inputs.items()
    }
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), params)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        traced, outputs_like = jax.make_jaxpr(function, return_shape=True)(shapes, abstract)
        graph = Graph()
        values = {
            name: graph.cast(graph.input(name, abstract[name].shape, dtype), np.int32)
            for name, (_, dtype) in inputs.items()
        }
        # Both in the order of JAX's own flattening.
        leaves = [constant(leaf) for leaf in jax.tree.leaves(params)] + [values[name] for name in sorted(inputs)]
        outputs = Lowering(graph).run(traced.jaxpr, [constant(const) for const in traced.consts], leaves)
    names = sorted(outputs_like)
    materialised = [
        graph.materialise(output, variable.aval.shape)
        for output, variable in zip(outputs, traced.jaxpr.outvars, strict=True)
    ]
    return graph.finish(dict(zip(names, materialised, strict=True)))


class Lowering:
    """Writes equations into a graph."""

    def __init__(self, graph: Graph):
        """`graph` is added to."""
        self.graph = graph

    def run(self, jaxpr: Any, consts: Sequence[Value], inputs: Sequence[Value]) -> list[Value]:
        """Writes a jaxpr and returns the values of its outputs."""
        values: dict[Any, Value] = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= zip(jaxpr.invars, inputs, strict=True)

        def read(atom: Any) -> Value:
            return constant(np.asarray(atom.val, atom.aval.dtype)) if hasattr(atom, "val") else values[atom]

        for equation in jaxpr.eqns:
            found = self.equation(equation, [read(atom) for atom in equation.invars])
            values |= zip(equation.outvars, found, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def equation(self, equation: Any, inputs: Sequence[Value]) -> list[Value]:
        """Writes one equation and returns the values of its outputs."""
        name = equation.primitive.name
        if name in _CALLS:
            if found := onnx_patterns.of_call(self.graph, equation, inputs):
                return [found]
            called = equation.params[_CALLS[name]]
            if hasattr(called, "consts"):
                return self.run(called.jaxpr, [constant(const) for const in called.consts], inputs)
            return self.run(called, [], inputs)
        if name == "scan":
            return self.scan(equation, inputs)
        if computed := _computed(equation, inputs):
            return computed
        if name not in _RULES:
            raise UserError(
                f"--format=onnx: the model computes {name}, a primitive of JAX that has no form in ONNX here "
                "(jaxfm/formats/onnx_primitives.py). Use --format=hf or --format=stablehlo."
            )
        result = _RULES[name](self.graph, inputs, equation)
        return list(result) if isinstance(result, list | tuple) else [result]

    def scan(self, equation: Any, inputs: Sequence[Value]) -> list[Value]:
        """Unrolls a loop over layers, whose stacked parameters are cut now."""
        params, body = equation.params, equation.params["jaxpr"]
        if not isinstance(params["length"], int):
            raise UserError("--format=onnx: the model loops over its tokens, which has no form in ONNX here.")
        fixed = params["num_consts"]
        first = fixed + params["num_carry"]
        consts, carry, stacked = list(inputs[:fixed]), list(inputs[fixed:first]), inputs[first:]
        # A value that only repeats along the loop's axis is cut as a whole.
        stacked = [
            self.graph.materialise(value, atom.aval.shape)
            for value, atom in zip(stacked, equation.invars[first:], strict=True)
        ]
        rounds = range(params["length"])
        steps: list[list[Value]] = []
        for index in reversed(rounds) if params["reverse"] else rounds:
            taken = [onnx_primitives.take_index(self.graph, value, index) for value in stacked]
            found = self.run(body.jaxpr, [constant(const) for const in body.consts], [*consts, *carry, *taken])
            carry = found[: params["num_carry"]]
            steps.append(found[params["num_carry"] :])
        if params["reverse"]:
            steps.reverse()
        gathered = [
            onnx_primitives.stack(self.graph, [step[number] for step in steps], variable.aval.shape)
            for number, variable in enumerate(equation.outvars[params["num_carry"] :])
        ]
        return [*carry, *gathered]


def _computed(equation: Any, inputs: Sequence[Value]) -> list[Value]:
    """Returns the outputs of an equation whose inputs and sizes are all known; else nothing."""
    shapes: list[Sequence[Dim]] = [variable.aval.shape for variable in (*equation.invars, *equation.outvars)]
    known = [value.constant for value in inputs if value.constant is not None]
    if len(known) < len(inputs) or not all(map(is_static, shapes)) or not is_static(_symbols(equation.params)):
        return []
    whole = [np.broadcast_to(array, atom.aval.shape) for array, atom in zip(known, equation.invars, strict=True)]
    outputs = equation.primitive.bind(*whole, **equation.params)
    outputs = outputs if equation.primitive.multiple_results else [outputs]
    return [constant(np.asarray(output)) for output in outputs]


def _symbols(params: Mapping[str, Any]) -> list[Dim]:
    """Returns the symbolic sizes among an equation's parameters."""
    entries = [entry for value in params.values() for entry in (value if isinstance(value, tuple) else (value,))]
    return [entry for entry in entries if export.is_symbolic_dim(entry)]

"""An ONNX graph under construction: values, nodes, initializers, sizes known only when it runs."""

import ast
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

# Of 2022: runtimes in browsers lag behind. LayerNormalization came with 17, axes of all reductions as an input with 18.
OPSET = 18
IR_VERSION = 9

Dim = Any
"""A size: an int, or a symbolic dimension of `jax.export.symbolic_shape`."""


def is_static(dims: Sequence[Dim]) -> bool:
    """Whether every size is known."""
    return all(isinstance(dim, int | np.integer) for dim in dims)


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """An array of the graph.

    Attributes:
      dims: its sizes. An array that only repeats along an axis is kept with size 1 there, until a node needs all of it
        (`Graph.materialise`): most readers are elementwise and broadcast by themselves.
      dtype: of its elements.
      name: in the graph; "" for a constant that no node has read yet.
      constant: its elements, where they are known.
    """

    dims: tuple[Dim, ...]
    dtype: np.dtype
    name: str = ""
    constant: np.ndarray | None = None


def constant(array: Any) -> Value:
    """Returns a known array as a value."""
    array = np.asarray(array)
    return Value(array.shape, array.dtype, constant=array)


class Graph:
    """Nodes in the order in which they run; equal nodes and equal constants exist once."""

    def __init__(self) -> None:
        """Makes an empty graph."""
        self.inputs: list[Value] = []
        self.nodes: list[Any] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.reshaped: dict[str, Value] = {}  # name -> what it is another shape of
        self._names = 0
        self._known: dict[Any, tuple[str, ...]] = {}
        self._producers: dict[str, Any] = {}
        self._axes: dict[str, tuple[Value, int]] = {}
        self._transposed: dict[str, tuple[np.ndarray, tuple[int, ...]]] = {}

    def input(self, name: str, dims: Sequence[Dim], dtype: np.dtype) -> Value:
        """Adds an input; its symbolic sizes are what later sizes are computed from."""
        value = Value(tuple(dims), np.dtype(dtype), name)
        self.inputs.append(value)
        for axis, dim in enumerate(dims):
            if not isinstance(dim, int):
                self._axes.setdefault(str(dim), (value, axis))
        return value

    def name(self, value: Value) -> str:
        """Returns the name by which nodes read a value; a constant becomes an initializer."""
        if value.name:
            return value.name
        array = value.constant
        assert array is not None
        content = np.asarray(array, order="C")
        digest = hashlib.sha1(content.reshape(-1).view(np.uint8).data, usedforsecurity=False).hexdigest()
        key = ("constant", array.shape, array.dtype.str, digest)
        if key not in self._known:
            self._known[key] = (self._fresh("c"),)
            self.initializers[self._known[key][0]] = content
        return self._known[key][0]

    def node(self, op: str, inputs: Sequence[Value | None], count: int = 1, **attributes: Any) -> tuple[str, ...]:
        """Adds a node and returns the names of its outputs; an input that is absent is None."""
        from onnx import helper

        names = ["" if value is None else self.name(value) for value in inputs]
        key = (op, *names, *((name, str(attributes[name])) for name in sorted(attributes)))
        if key not in self._known:
            outputs = tuple(self._fresh(op.lower()) for _ in range(count))
            made = helper.make_node(op, names, list(outputs), name=f"{op}_{len(self.nodes)}", **attributes)
            self.nodes.append(made)
            self._known[key] = outputs
            self._producers |= dict.fromkeys(outputs, made)
        return self._known[key]

    def add(self, op: str, inputs: Sequence[Value | None], dims: Sequence[Dim], dtype: Any, **attributes: Any) -> Value:
        """Adds a node with one output."""
        return Value(tuple(dims), np.dtype(dtype), self.node(op, inputs, **attributes)[0])

    def producer(self, name: str, op: str) -> Any:
        """Returns the node of that operator that computes a value, or None."""
        made = self._producers.get(name)
        return made if made is not None and made.op_type == op else None

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """Returns the value with its axes in another order; two in a row become one."""
        order = tuple(int(axis) for axis in order)
        if order == tuple(range(len(order))):
            return value
        dims = tuple(value.dims[axis] for axis in order)
        if value.constant is not None:
            turned = constant(np.asarray(np.transpose(value.constant, order), order="C"))
            self._transposed[self.name(turned)] = (value.constant, order)
            return dataclasses.replace(turned, name=self.name(turned))
        if before := self.producer(value.name, "Transpose"):
            first = list(before.attribute[0].ints)
            inverse = [first.index(axis) for axis in range(len(first))]
            source = Value(tuple(value.dims[axis] for axis in inverse), value.dtype, before.input[0])
            return self.transpose(source, [first[axis] for axis in order])
        return self.add("Transpose", [value], dims, value.dtype, perm=list(order))

    def reshape(self, value: Value, dims: Sequence[Dim]) -> Value:
        """Returns the value's elements in another shape."""
        dims = tuple(dims)
        if dims == value.dims:
            return value
        if value.constant is not None and is_static(dims):
            return constant(value.constant.reshape(dims))
        wanted: list[Dim] = list(dims)
        for axis, dim in enumerate(dims):
            if not isinstance(dim, int) and axis < len(value.dims) and value.dims[axis] == dim:
                wanted[axis] = 0  # copies the size of the same axis: no node computes it
        unknown = [axis for axis, dim in enumerate(wanted) if not isinstance(dim, int)]
        if len(unknown) == 1:
            wanted[unknown[0]] = -1
        made = self.add("Reshape", [value, self.sizes(wanted)], dims, value.dtype)
        self.reshaped[made.name] = value
        return made

    def unsqueeze(self, value: Value, axes: Sequence[int]) -> Value:
        """Returns the value with axes of size 1 at those places of the result."""
        if not axes:
            return value
        dims = list(value.dims)
        for axis in sorted(axes):
            dims.insert(axis, 1)
        if value.constant is not None:
            return constant(value.constant.reshape(dims))
        return self.add("Unsqueeze", [value, constant(np.asarray(sorted(axes), np.int64))], dims, value.dtype)

    def squeeze(self, value: Value, axes: Sequence[int]) -> Value:
        """Returns the value without those axes, each of size 1."""
        dims = [dim for axis, dim in enumerate(value.dims) if axis not in axes]
        if value.constant is not None:
            return constant(value.constant.reshape(dims))
        return self.add("Squeeze", [value, constant(np.asarray(axes, np.int64))], dims, value.dtype)

    def materialise(self, value: Value, dims: Sequence[Dim]) -> Value:
        """Returns the value with all its elements: repeated along the axes where it was kept with size 1."""
        dims = tuple(dims)
        if value.dims == dims:
            return value
        if value.constant is not None and is_static(dims):
            return constant(np.broadcast_to(value.constant, dims))
        return self.add("Expand", [value, self.sizes(dims)], dims, value.dtype)

    def cast(self, value: Value, dtype: Any) -> Value:
        """Returns the value's elements as another type."""
        from onnx import helper

        dtype = np.dtype(dtype)
        if value.dtype == dtype:
            return value
        if value.constant is not None:
            return constant(value.constant.astype(dtype))
        return self.add("Cast", [value], value.dims, dtype, to=helper.np_dtype_to_tensor_dtype(dtype))

    def sizes(self, dims: Sequence[Dim]) -> Value:
        """Returns int64 [len(dims)], as nodes that take a shape read it."""
        if is_static(dims):
            return constant(np.asarray(dims, np.int64))
        return self.add("Concat", [self.size(dim) for dim in dims], (len(dims),), np.int64, axis=0)

    def size(self, dim: Dim) -> Value:
        """Returns a size as int64 [1]: read from an input, or computed from such sizes."""
        if isinstance(dim, int | np.integer):
            return constant(np.asarray([dim], np.int64))
        # A symbolic dimension prints as an expression that jax.export.symbolic_shape reads: +, -, *, floordiv(,) ...
        return self._size_of(ast.parse(str(dim), mode="eval").body)

    def _size_of(self, node: ast.AST) -> Value:
        match node:
            case ast.Constant(value=int(number)):
                return self.size(number)
            case ast.Name(id=name):
                value, axis = self._axes[name]
                return self.add("Shape", [value], (1,), np.int64, start=axis, end=axis + 1)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._sizes("Neg", operand)
            case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(times))):
                power = self._size_of(left)
                for _ in range(times - 1):
                    power = self.add("Mul", [power, self._size_of(left)], (1,), np.int64)
                return power
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return self._sizes(_OPERATORS[type(op)], left, right)
            case ast.Call(func=ast.Name(id="max" | "min" as which), args=args):
                return self._sizes(which.capitalize(), *args)
            case ast.Call(func=ast.Name(id="mod"), args=[left, right]):
                return self._sizes("Mod", left, right)
            case ast.Call(func=ast.Name(id="floordiv"), args=[left, right]):
                x, y = self._size_of(left), self._size_of(right)
                rest = self.add("Mod", [x, y], (1,), np.int64)  # of the divisor's sign, unlike Div's own rest
                return self.add("Div", [self.add("Sub", [x, rest], (1,), np.int64), y], (1,), np.int64)
        raise NotImplementedError(f"the size {ast.unparse(node)}")

    def _sizes(self, op: str, *operands: ast.AST) -> Value:
        return self.add(op, [self._size_of(operand) for operand in operands], (1,), np.int64)

    def _fresh(self, stem: str) -> str:
        self._names += 1
        return f"{stem}_{self._names}"

    def finish(self, outputs: Mapping[str, Value]) -> Any:
        """Returns the ModelProto whose outputs have these names; what none of them needs is left out."""
        from onnx import helper, numpy_helper

        nodes = list(self.nodes)
        for name, value in outputs.items():
            nodes.append(helper.make_node("Identity", [self.name(value)], [name], name=f"Identity_{name}"))
        nodes = _needed(self._untransposed(nodes), outputs)
        read = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes,
            "jaxfm",
            [_info(value.name, value) for value in self.inputs],
            [_info(name, value) for name, value in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in self.initializers.items() if name in read],
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="jaxfm"
        )

    def _untransposed(self, nodes: list[Any]) -> list[Any]:
        """Computes a constant that is another one transposed, so that the file holds tied weights once."""
        from onnx import helper

        read = {name for node in nodes for name in node.input}
        added = []
        for name, (source, order) in self._transposed.items():
            other = self.name(constant(source))
            if name in read and other in read:
                del self.initializers[name]
                added.append(helper.make_node("Transpose", [other], [name], name=f"Tied_{name}", perm=list(order)))
        return added + nodes


def _needed(nodes: list[Any], outputs: Mapping[str, Value]) -> list[Any]:
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    return kept[::-1]


def _info(name: str, value: Value) -> Any:
    from onnx import helper

    dims = [dim if isinstance(dim, int) else str(dim) for dim in value.dims]
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), dims)


_OPERATORS: Mapping[type, str] = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}

Rule = Callable[[Graph, Sequence[Value], Any], Any]
"""(graph, inputs, equation of a jaxpr) -> the value of the equation's output, or a list of several."""

"""An ONNX graph in floats, rewritten with the integers that some of its weights were rounded to.

Weights are recognised by their values, so the graph may be made from any model. With ranges of inputs a product becomes
QuantizeLinear, DequantizeLinear and MatMul ("QDQ"), which onnxruntime runs as one product of integers; without, it is
onnxruntime's own MatMulNBits, which reads integers and multiplies in floats.
"""

# K inputs and O outputs of a product, G groups of inputs, V rows of a table of width E

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

# Operators that only onnxruntime has.
_DOMAIN = "com.microsoft"
# Of a column with one scale: MatMulNBits wants blocks, all of which then have that scale.
_BLOCKS = (16, 32, 64, 128)


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerMatrix:
    """A matrix of a product.

    Attributes:
      values: f32 [K, O], as the graph in floats has it.
      whole: int8 [K, O].
      scale: f32 [G, O].
      bits: of an integer.
      group: inputs that share a scale; 0: all.
      input_scale: of the product's inputs, integers of 8 bits; None: they stay in floats.
    """

    values: np.ndarray
    whole: np.ndarray
    scale: np.ndarray
    bits: int
    group: int
    input_scale: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerTable:
    """A table that rows are looked up in: `values` f32 [V, E], `whole` int8 [V, E], `scale` f32 [V]."""

    values: np.ndarray
    whole: np.ndarray
    scale: np.ndarray


def with_integers(model: Any, matrices: Iterable[IntegerMatrix], tables: Sequence[IntegerTable]) -> int:
    """Rewrites products and lookups of a ModelProto in place; returns how many products it found.

    Other nodes that read one of these weights (a decoder that is the word embedding) keep it in floats.
    """
    from onnx import numpy_helper

    graph = model.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    of_matrix = {_digest(each.values): each for each in matrices}
    of_table = {_digest(each.values): each for each in tables}
    rewritten = _Rewritten(graph, arrays)
    nodes, found = list(graph.node), 0
    del graph.node[:]
    for node in nodes:
        weights = node.input[1] if node.op_type == "MatMul" else node.input[0] if node.op_type == "Gather" else ""
        key = _digest(arrays[weights]) if weights in arrays else ""
        if node.op_type == "MatMul" and key in of_matrix:
            rewritten.product(node, weights, of_matrix[key])
            found += 1
        elif node.op_type == "Gather" and key in of_table:
            rewritten.lookup(node, weights, of_table[key])
        else:
            graph.node.append(node)
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    if any(node.domain == _DOMAIN for node in graph.node):
        from onnx import helper

        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return found


class _Rewritten:
    """Adds nodes and weights to a graph; those that it has are used again."""

    def __init__(self, graph: Any, arrays: dict[str, np.ndarray]):
        self._graph, self._known = graph, set(arrays)

    def product(self, node: Any, weights: str, matrix: IntegerMatrix) -> None:
        """Adds the product that takes the place of `node`."""
        if matrix.input_scale is None:
            self._in_blocks(node, weights, matrix)
            return
        outputs = matrix.values.shape[1]
        scale = self._constant(f"{weights}_scale", matrix.scale.reshape(outputs))
        whole = self._constant(f"{weights}_whole", matrix.whole)
        zero = self._constant(f"{weights}_zero", np.zeros(outputs, np.int8))
        read = self._node("DequantizeLinear", [whole, scale, zero], f"{weights}_read", axis=1)
        # The integers of jaxfm, from -128 to 127, moved by 128: kernels of CPUs are fastest for unsigned inputs.
        step = np.asarray(matrix.input_scale, np.float32)
        name = f"{node.input[0]}_{_digest(step)[:8]}"
        given = [self._constant(f"{name}_scale", step), self._constant("middle", np.asarray(128, np.uint8))]
        rounded = self._node("QuantizeLinear", [node.input[0], *given], f"{name}_rounded")
        inputs = self._node("DequantizeLinear", [rounded, *given], f"{name}_read")
        self._node("MatMul", [inputs, read], node.output[0])

    def lookup(self, node: Any, weights: str, table: IntegerTable) -> None:
        """Adds the lookup in place of `node`: integers and the scale of each row, multiplied."""
        from onnx import TensorProto

        whole, scale = self._constant(f"{weights}_whole", table.whole), table.scale.reshape(-1, 1)
        ids, out = node.input[1], node.output[0]
        found = self._node("Gather", [whole, ids], f"{out}_whole", axis=0)
        floats = self._node("Cast", [found], f"{out}_floats", to=TensorProto.FLOAT)
        scales = self._node("Gather", [self._constant(f"{weights}_scale", scale), ids], f"{out}_scale", axis=0)
        self._node("Mul", [floats, scales], out)

    def _in_blocks(self, node: Any, weights: str, matrix: IntegerMatrix) -> None:
        count, outputs = matrix.values.shape
        block = matrix.group or max(size for size in _BLOCKS if size <= max(count, _BLOCKS[0]))
        blocks = -(-count // block)
        moved = np.zeros((outputs, blocks * block), np.uint8)
        moved[:] = 2 ** (matrix.bits - 1)  # the operator's zero
        moved[:, :count] = (matrix.whole.T.astype(np.int16) + 2 ** (matrix.bits - 1)).astype(np.uint8)
        packed = moved if matrix.bits == 8 else moved[:, ::2] | moved[:, 1::2] << 4
        scale = np.broadcast_to(matrix.scale.T, (outputs, blocks)) if not matrix.group else matrix.scale.T
        given = [
            node.input[0],
            self._constant(f"{weights}_whole", packed.reshape(outputs, blocks, -1)),
            self._constant(f"{weights}_scale", np.ascontiguousarray(scale).reshape(-1)),
        ]
        self._node(
            "MatMulNBits", given, node.output[0],
            domain=_DOMAIN, K=count, N=outputs, bits=matrix.bits, block_size=block,
        )  # fmt: skip

    def _constant(self, name: str, array: np.ndarray) -> str:
        from onnx import numpy_helper

        if name not in self._known:
            self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
            self._known.add(name)
        return name

    def _node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        if output not in self._known:
            name = f"{op}_{len(self._graph.node)}_integers"
            self._graph.node.append(helper.make_node(op, list(inputs), [output], name=name, **attributes))
            self._known.add(output)
        return output


def _digest(array: np.ndarray) -> str:
    content = np.ascontiguousarray(array)
    return hashlib.sha1(repr(content.shape).encode() + content.tobytes(), usedforsecurity=False).hexdigest()

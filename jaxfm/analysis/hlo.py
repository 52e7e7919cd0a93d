"""Reads the HLO text of a compiled program: runs of each instruction, its matrix products and its memory traffic.

The text is that of `jax.stages.Compiled.as_text()`: XLA's optimized, scheduled module of one device. XLA's own cost
analysis counts the body of a loop once; here it counts once for each run.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

_ITEM_BITS = {
    **dict.fromkeys(("pred", "s8", "u8"), 8),
    **dict.fromkeys(("s16", "u16", "bf16", "f16"), 16),
    **dict.fromkeys(("s32", "u32", "f32"), 32),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 64),
    **dict.fromkeys(("s4", "u4"), 4),
    "c128": 128,
}
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+\w*|c64|c128)\[([\d,<=]*)\](?:\{([^}]*)\})?")
# Which of an instruction's computations run with it, once each (a `to_apply` of reduce or sort is an operator).
_CALLS = re.compile(r"\b(?:calls|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
# Instructions that name or regroup arrays and move no byte.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast while conditional call after-all partition-id replica-id "
    "opt-barrier copy-done slice-done async-done async-update add-dependency domain".split()
)

# Matrix products of a block of queries with a block of keys. Forward: scores and context. For the gradient of the
# queries: the scores again, the gradient of the weights, and the result. For the gradients of keys and values: four.
_SPLASH_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


@dataclasses.dataclass(frozen=True)
class Array:
    """One array type of an instruction.

    Attributes:
      dtype: HLO's name.
      shape: sizes.
      near: kept in on-chip memory (VMEM or similar), not in HBM.
    """

    dtype: str
    shape: tuple[int, ...]
    near: bool

    @property
    def count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes, without padding."""
        return self.count * _ITEM_BITS.get(self.dtype, 8) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str

    @property
    def size(self) -> int:
        """Bytes of the result; of a tuple, the sum of its parts."""
        return sum(array.size for array in self.arrays)

    def attribute(self, pattern: str) -> str:
        """Returns the first group of `pattern` in the attributes; empty where it does not match."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Call:
    """An instruction with its number of runs in a step.

    Attributes:
      instruction: the instruction.
      computation: the computation that holds it and its operands.
      times: runs in one step.
      caller: the fusion or wrapper that the instruction is inside (name of its computation, instruction), or None.
    """

    instruction: Instruction
    computation: "Computation"
    times: int
    caller: tuple[str, Instruction] | None


class Computation(dict[str, Instruction]):
    """Name -> instruction, in the order of the text; the last ROOT is `root`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.root: Instruction | None = None
        self._users: dict[str, list[Instruction]] = {}

    def users(self, name: str) -> list[Instruction]:
        """Returns the instructions that have `name` among their operands, once the computation is complete."""
        if not self._users:
            for line in self.values():
                for operand in dict.fromkeys(line.operands):
                    self._users.setdefault(operand, []).append(line)
        return self._users.get(name, [])


@dataclasses.dataclass(frozen=True)
class Module:
    """A parsed program."""

    computations: Mapping[str, Computation]
    entry: str

    def calls(self) -> Iterator[Call]:
        """Yields every instruction of a step, also those inside fusions.

        Both branches of a conditional count, and one pass of a loop that is not counted (`uncounted_loops`).
        """
        yield from self._calls(self.computations[self.entry], 1, None)

    def _calls(self, computation: Computation, times: int, caller: tuple[str, Instruction] | None) -> Iterator[Call]:
        for instruction in computation.values():
            yield Call(instruction, computation, times, caller)
            inner = instruction.opcode in ("fusion", "async-start", "custom-call")
            inner_caller = (caller or (computation.name, instruction)) if inner else None
            repeats = self.trip_count(instruction, computation) if instruction.opcode == "while" else 1
            repeats = 1 if repeats is None else repeats
            for name in called(instruction):
                yield from self._calls(self.computations[name], times * repeats, inner_caller)

    def uncounted_loops(self) -> list[str]:
        """Returns the names of the loops whose number of iterations is not in the program."""
        return [
            call.instruction.name
            for call in self.calls()
            if call.instruction.opcode == "while" and self.trip_count(call.instruction, call.computation) is None
        ]

    def trip_count(self, loop: Instruction, computation: Computation) -> int | None:
        """Returns the number of iterations of a while loop of `computation`; None where values decide it.

        XLA annotates the loop with it; otherwise it follows from `counter < limit`, the form of lax.scan and fori_loop.
        Values decide it where numbers are drawn until one is accepted, as jax.random.beta does.
        """
        if known := loop.attribute(r'known_trip_count":\{"n":"(\d+)"'):
            return int(known)
        condition = self.computations[loop.attribute(r"condition=%?([\w.\-]+)")]
        body = self.computations[loop.attribute(r"body=%?([\w.\-]+)")]
        test = self._comparison(condition)
        if test is None:
            return None
        index, limit = test
        start = _constant(computation, _element(computation, loop.operands[0], index)) or 0
        step = 1
        if body.root is not None and body.root.opcode == "tuple":
            following = body[body.root.operands[index]]
            if following.opcode == "add":
                step = next((c for c in (_constant(body, name) for name in following.operands) if c), 1)
        return max(-(-(limit - start) // step), 0)

    def _comparison(self, condition: Computation) -> tuple[int, int] | None:
        """Returns (index of the counter in the loop's tuple, limit) of `counter < limit`, fused or not."""
        root = condition.root
        if root is None:
            return None
        if root.opcode == "fusion":  # the comparison alone, with operands from outside
            inner = self.computations[called(root)[0]]
            order = {name: int(line.literal) for name, line in inner.items() if line.opcode == "parameter"}
            if inner.root is None or inner.root.opcode != "compare":
                return None
            compare, names = inner.root, []
            for name in inner.root.operands:
                names.append(root.operands[order[name]] if name in order else name)
            limit = _constant(inner, compare.operands[1]) or _constant(condition, names[1])
        elif root.opcode == "compare":
            compare, names, limit = root, list(root.operands), _constant(condition, root.operands[1])
        else:
            return None
        counter = condition.get(names[0])
        if "direction=LT" not in compare.attributes or limit is None or counter is None:
            return None
        index = counter.attribute(r"index=(\d+)")
        return (int(index), limit) if index else None


def parse(text: str) -> Module:
    """Parses HLO text.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    current, entry = None, ""
    # The metadata of a Pallas kernel takes separate lines in the middle of an instruction.
    text = re.sub(r"=\{\n([^}\n][^\n]*)\n\}\}", r"={\1}}", text)
    for line in text.splitlines():
        if current is None:
            if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$", line):
                current = computations[header[2]] = Computation(header[2])
                entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif instruction := _instruction(line):
            current[instruction.name] = instruction
            if line.lstrip().startswith("ROOT "):
                current.root = instruction
    if not entry:
        raise ValueError("no ENTRY computation in the HLO text")
    return Module(computations, entry)


def matmul_flops(call: Call) -> int:
    """Returns the FLOPs of one run of a dot, convolution or attention kernel (a multiply-add counts 2); else 0.

    TPUs run dots as convolutions whose batch axes are dilated windows: only taps that hit an element count.
    """
    instruction = call.instruction
    if instruction.opcode == "dot":
        left = call.computation[instruction.operands[0]].arrays[0].shape
        axes = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
        return 2 * math.prod(instruction.arrays[0].shape) * math.prod(left[int(a)] for a in axes.split(",") if a)
    if instruction.opcode == "custom-call":
        return _splash_flops(instruction) or _cudnn_attention_flops(instruction)
    if instruction.opcode != "convolution":
        return 0
    left, kernel = (call.computation[name].arrays[0].shape for name in instruction.operands[:2])
    inputs, kernels, outputs = re.split(r"_|->", instruction.attribute(r"dim_labels=([\w?]+->[\w?]+)"))
    window = instruction.attribute(r"window=\{([^}]*)\}")
    flops = 2 * kernel[kernels.index("i")]
    for label, size in zip(outputs, instruction.arrays[0].shape, strict=True):
        flops *= size if label in "bf" else 1
    for number in range(sum(label.isdigit() for label in outputs)):
        label = str(number)
        flops *= _taps(
            left[inputs.index(label)],
            kernel[kernels.index(label)],
            instruction.arrays[0].shape[outputs.index(label)],
            *(_window(window, key, number, default) for key, default in _WINDOW_DEFAULTS),
        )
    return flops


def traffic(call: Call, module: Module) -> int:
    """Returns the bytes that one run of a scheduled instruction reads from and writes to HBM.

    Of an operand that is only sliced, the slice counts; of one that is updated in place, the update. Arrays in on-chip
    memory and instructions inside a fusion count as 0.
    """
    instruction = call.instruction
    if call.caller is not None or instruction.opcode in _FREE:
        return 0
    operands = [call.computation[name] for name in instruction.operands if name in call.computation]
    if instruction.opcode == "fusion":
        return _fusion_traffic(instruction, operands, module)
    written = _far(instruction.arrays)
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return written + min(instruction.size, _far(operands[0].arrays))
    if instruction.opcode == "dynamic-update-slice":
        return 2 * _far(operands[1].arrays)
    if instruction.opcode in ("copy-start", "slice-start"):  # one of the results is the copy, another the operand
        copy = instruction.arrays[instruction.opcode == "slice-start"]
        return _far([copy]) + min(_far(operands[0].arrays), copy.size)
    if instruction.opcode.endswith("-start"):  # the results include the operands
        return written
    return written + sum(_far(operand.arrays) for operand in operands)


def _cudnn_attention_flops(call: Instruction) -> int:
    """Returns the FLOPs of a cuDNN attention kernel over all blocks; its first operands are [B, T, N, H]."""
    part = re.search(r'custom_call_target="__cudnn\$fmha\w*?Softmax(Backward)?"', call.attributes)
    operands = _arrays(call.attribute(r"operand_layout_constraints=\{(.*?\})\}"))
    if part is None or len(operands) < 2:
        return 0
    batch, queries, heads, head_dim = operands[0].shape
    # Forward: scores and context. Backward: the scores again, and the gradients of weights, values, queries and keys.
    return 2 * (5 if part[1] else 2) * batch * heads * queries * operands[1].shape[1] * head_dim


def _splash_flops(call: Instruction) -> int:
    """Returns the FLOPs of a splash attention kernel over the blocks that it visits, not those masked as a whole.

    Its first operand has the visited blocks, [heads or 1, blocks of queries, blocks of keys]; its third is the queries.
    """
    part = re.match(r"splash_m[hq]a_(fwd|dq|dkv)_", call.name)
    sizes = re.findall(r'block_k?[qv]\w*\\?": (\d+)', call.attribute(r"kernel_metadata=\{(.*?)\}\}"))
    operands = _arrays(call.attribute(r"operand_layout_constraints=\{(.*?\})\}"))
    if part is None or len(sizes) < 2 or len(operands) < 3:
        return 0
    queries, keys = int(sizes[0]), int(sizes[1])
    blocks = math.prod(operands[0].shape[1:])
    *leading, _, head_dim = operands[2].shape
    return 2 * _SPLASH_PRODUCTS[part[1]] * math.prod(leading) * blocks * queries * keys * head_dim


def estimated_cycles(call: Call) -> int:
    """Returns the cycles of one run of a scheduled instruction by the TPU compiler's cost model; 0: no estimate."""
    if call.caller is not None:
        return 0
    return int(call.instruction.attribute(r'"estimated_cycles":"(\d+)"') or 0)


def _fusion_traffic(fusion: Instruction, operands: Sequence[Instruction], module: Module) -> int:
    inner = module.computations[called(fusion)[0]]
    parameters = {int(line.literal): line.name for line in inner.values() if line.opcode == "parameter"}
    total, updated = 0, 0
    for index, operand in enumerate(operands):
        whole = _far(operand.arrays)
        if not whole or index not in parameters:
            continue
        read, written = _used(module, inner, parameters[index])
        total += min(read, whole) + written
        updated += whole if written else 0
    return total + max(_far(fusion.arrays) - updated, 0)


def _used(module: Module, computation: Computation, name: str) -> tuple[int, int]:
    """Returns the bytes of a value that a fused computation reads, and the bytes that it updates in place."""
    read, written = 0, 0
    for line in computation.users(name):
        if line.opcode in ("dynamic-slice", "slice", "gather"):
            read += line.size
        elif line.opcode == "dynamic-update-slice" and line.operands[0] == name:
            written += computation[line.operands[1]].size
        elif line.opcode == "bitcast":
            more = _used(module, computation, line.name)
            read, written = read + more[0], written + more[1]
        elif line.opcode == "fusion":  # fusions nest
            inner = module.computations[called(line)[0]]
            for parameter in inner.values():
                if parameter.opcode == "parameter" and line.operands[int(parameter.literal)] == name:
                    more = _used(module, inner, parameter.name)
                    read, written = read + more[0], written + more[1]
        else:
            read += computation[name].size
    return read, written


def _far(arrays: Sequence[Array]) -> int:
    return sum(array.size for array in arrays if not array.near)


_WINDOW_DEFAULTS = (("stride", 1), ("pad", 0), ("lhs_dilate", 1), ("rhs_dilate", 1))


def _window(text: str, key: str, number: int, default: int) -> int:
    """Returns the value of `key` for a spatial axis in e.g. `size=1x2 pad=0_0x1_1`; of padding the lower one."""
    found = re.search(rf"\b{key}=([\dx_\-]+)", text)
    return int(re.split(r"(?<=\d)_", found[1].split("x")[number])[0]) if found else default


@functools.cache
def _taps(size: int, kernel: int, output: int, stride: int, pad: int, dilation: int, kernel_dilation: int) -> int:
    """Returns the number of pairs (output position, kernel tap) that hit an element of the input along one axis."""
    hits = (position * stride + tap * kernel_dilation - pad for position in range(output) for tap in range(kernel))
    return sum(0 <= hit <= (size - 1) * dilation and hit % dilation == 0 for hit in hits)


def called(instruction: Instruction) -> list[str]:
    """Returns the computations that run with an instruction (the operator of a reduction or a sort does not)."""
    branches = _BRANCHES.search(instruction.attributes)
    names = [name.strip(" %") for name in branches[1].split(",")] if branches else []
    names += _CALLS.findall(instruction.attributes)
    if instruction.opcode == "call":
        names += re.findall(r"to_apply=%?([\w.\-]+)", instruction.attributes)
    return names


def _element(computation: Computation, name: str, index: int) -> str:
    """Returns the operand that element `index` of the tuple `name` was made from; `name` where it is unknown."""
    made = computation.get(name)
    return made.operands[index] if made is not None and made.opcode == "tuple" else name


def _constant(computation: Computation, name: str) -> int | None:
    """Returns the value of an integer constant, followed through copies; None for anything else."""
    line = computation.get(name)
    while line is not None and line.opcode in ("copy", "bitcast", "convert"):
        line = computation.get(line.operands[0])
    return int(line.literal) if line is not None and line.opcode == "constant" and line.literal.isdigit() else None


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    start = head.end()
    end = _closing(line, start) if line[start] == "(" else line.index(" ", start)
    opcode = re.match(r"\s*([a-z][\w\-]*)\(", line[end:])
    if not opcode:
        return None
    opening = end + opcode.end() - 1
    closing = _closing(line, opening)
    inside = line[opening + 1 : closing - 1]
    literal = inside if opcode[1] in ("constant", "parameter") else ""
    operands = () if literal else tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(head[1], opcode[1], _arrays(line[start:end]), operands, literal, line[closing:])


def _closing(text: str, start: int) -> int:
    """Returns the index after the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    raise ValueError(f"unbalanced parentheses: {text[:200]}")


@functools.cache
def _arrays(text: str) -> tuple[Array, ...]:
    found = []
    for dtype, sizes, layout in _ARRAY.findall(text):
        shape = tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size)
        # Memory space 0 is HBM; layouts write others as S(n).
        found.append(Array(dtype, shape, near="S(" in layout))
    return tuple(found)

"""The collectives of a compiled step: kind, axes of the mesh, bytes, and number of runs."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxfm.analysis.hlo import Call, Module

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
UNKNOWN = "unknown"
# How the TPU compiler names the pieces into which it cuts an asynchronous collective.
_CHAIN, _CHAIN_START = "chain_id=", "async-collective-start"

Groups = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective instruction.

    Attributes:
      name: of the instruction.
      kind: one of KINDS, or UNKNOWN.
      axes: axes of the mesh that its groups span.
      whole: each group spans all of these axes, not a part of them.
      groups: devices (indices into the flattened mesh) that communicate with each other; for a permute, the pairs.
      size: bytes of the whole array on a device: the sum of an all-reduce, the result of an all-gather, the operand
        of any other kind.
      times: number of runs a step.
      asynchronous: it overlaps with computation.
      between_slices: its bytes leave the slice; then only the axes are known, not the groups.
    """

    name: str
    kind: str
    axes: tuple[str, ...]
    whole: bool
    groups: Groups
    size: int
    times: int
    asynchronous: bool
    between_slices: bool = False


def collectives(
    module: Module, mesh_shape: Mapping[str, int], slice_axes: tuple[str, ...] = ()
) -> tuple[Collective, ...]:
    """Returns all collectives of a step; one split into a start and a done counts once.

    Args:
      module: the compiled program of one device.
      mesh_shape: axis -> size, in the order in which the program's devices are numbered.
      slice_axes: the axes along which devices lie in different slices.
    """
    devices = math.prod(mesh_shape.values())
    found: list[Collective] = []
    chains: dict[str, list[tuple[bool, Collective]]] = {}
    for call in module.calls():
        for each in _of(call, devices, mesh_shape, slice_axes):
            if call.caller is not None and _CHAIN in call.instruction.attributes:
                # One collective in pieces: between start and done it may pass through other fusions, even into a loop.
                channel = call.instruction.attribute(r"channel_id=(\d+)")
                is_start = call.caller[1].name.startswith(_CHAIN_START)
                chains.setdefault(channel, []).append((is_start, dataclasses.replace(each, asynchronous=True)))
            else:
                found.append(each)
    for pieces in chains.values():
        # Each start is one collective; where the compiler names no start, one of the pieces represents it.
        found += [each for is_start, each in pieces if is_start] or [pieces[0][1]]
    return tuple(found)


def _of(call: Call, devices: int, mesh_shape: Mapping[str, int], slice_axes: tuple[str, ...]) -> Iterator[Collective]:
    instruction = call.instruction
    opcode = instruction.opcode.removesuffix("-start")
    if opcode in ("send", "recv"):
        yield from _between_slices(call, slice_axes)
        return
    if instruction.opcode.endswith(("-done", "-update")) or opcode in ("async", "copy", "slice"):
        return
    takes_part = "replica_groups=" in instruction.attributes or "source_target_pairs=" in instruction.attributes
    if opcode not in KINDS and not takes_part:
        return
    groups = replica_groups(instruction.attributes, devices)
    if groups is not None and max(len(group) for group in groups) < 2:
        return  # a group of one moves nothing
    axes, whole = mesh_axes(groups, mesh_shape) if groups is not None else ((), False)
    size = sum(call.computation[name].size for name in instruction.operands if name in call.computation)
    kind = opcode if opcode in KINDS and groups is not None else UNKNOWN
    if kind == "all-gather" and groups:
        size *= len(groups[0])
    if kind == "all-reduce" and _is_scattered(call):
        kind = "reduce-scatter"
    wrapped = call.caller is not None and call.caller[1].opcode == "async-start"
    asynchronous = instruction.opcode.endswith("-start") or wrapped
    yield Collective(instruction.name, kind, axes, whole, groups or (), size, call.times, asynchronous)


def _is_scattered(call: Call) -> bool:
    """Whether only this device's part of the sum leaves the fusion, which is how TPUs express a reduce-scatter."""
    users = call.computation.users(call.instruction.name)
    return call.caller is not None and bool(users) and all(line.opcode == "dynamic-slice" for line in users)


def _between_slices(call: Call, slice_axes: tuple[str, ...]) -> Iterator[Collective]:
    """A send stands for a whole collective over the data-center network, which the host runs as its attributes say."""
    instruction = call.instruction
    if instruction.opcode == "recv" and "_xla_megascale_transfer_type" in instruction.attributes:
        return  # the matching send is counted
    kind = instruction.attribute(r'_xla_megascale_transfer_type="(\w+)"').lower().replace("_", "-")
    kind = {"one-to-one": "collective-permute"}.get(kind, kind)
    size = call.computation[instruction.operands[0]].size
    known = kind in KINDS and bool(slice_axes)
    yield Collective(
        instruction.name, kind if known else UNKNOWN, slice_axes, known, (), size, call.times, True, between_slices=True
    )


def replica_groups(attributes: str, devices: int) -> Groups | None:
    """Returns the groups in an instruction's attributes; None for an unknown notation.

    HLO's notations: {{0,1},{2,3}} (or {}: all devices), [2,4]<=[4,2]T(1,0), and mesh['x'=2,'y'=4] {'y'}, with
    device_ids where the mesh is not in order; for a permute source_target_pairs={{0,1},{1,0}}.
    """
    if pairs := re.search(r"source_target_pairs=\{((?:\{[\d,]+\},?)+)\}", attributes):
        return _braces(pairs[1])
    if iota := re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", attributes):
        shape, _, order = iota[1].partition("<=")
        return _rows(_iota(order).reshape(_numbers(shape)))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^ ]*)\))? \{([^}]*)\}", attributes):
        return _mesh_groups(mesh[1], mesh[2], mesh[3])
    if listed := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", attributes):
        return _braces(listed[1]) or (tuple(range(devices)),)
    return None


def mesh_axes(groups: Groups, mesh_shape: Mapping[str, int]) -> tuple[tuple[str, ...], bool]:
    """Returns the axes along which members of a group differ, and whether each group spans all of them."""
    indices = np.stack(np.unravel_index(np.arange(math.prod(mesh_shape.values())), tuple(mesh_shape.values())), axis=1)
    differs = np.zeros(len(mesh_shape), bool)
    for group in groups:
        members = indices[list(group)]
        differs |= (members != members[0]).any(axis=0)
    axes = tuple(axis for axis, is_used in zip(mesh_shape, differs, strict=True) if is_used)
    whole = math.prod(mesh_shape[axis] for axis in axes)
    return axes, all(len(set(group)) == whole for group in groups)


def _mesh_groups(axes: str, device_ids: str | None, chosen: str) -> Groups | None:
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", axes)}
    order = np.arange(math.prod(sizes.values()))
    if device_ids:
        order = _iota(device_ids) if "[" in device_ids else np.array(_numbers(device_ids))
    # An axis that is split, with only a part of it in the group, is written 'x':(before)size.
    split: list[tuple[int, bool]] = []
    picked = {name: (before, size) for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", chosen)}
    if not set(picked) <= set(sizes):
        return None
    for name, size in sizes.items():
        before, part = picked.get(name, ("", ""))
        if not part:
            split.append((size, name in picked))
        else:
            split += [(int(before), False), (int(part), True), (size // int(before) // int(part), False)]
    grid = order.reshape([size for size, _ in split])
    rest = [axis for axis, (_, taken) in enumerate(split) if not taken]
    taken = [axis for axis, (_, taken) in enumerate(split) if taken]
    count = math.prod(grid.shape[axis] for axis in taken)
    return _rows(grid.transpose([*rest, *taken]).reshape(-1, count))


def _iota(text: str) -> np.ndarray:
    """Returns the numbers that `[4,2]T(1,0)` describes: 0, 1, 2 ... in this shape, transposed, flattened."""
    shape, _, permutation = text.partition("T")
    grid = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return (grid.transpose(_numbers(permutation)) if permutation else grid).reshape(-1)


def _rows(groups: np.ndarray) -> Groups:
    return tuple(tuple(int(device) for device in group) for group in groups)


def _braces(text: str) -> Groups:
    return tuple(tuple(_numbers(group)) for group in re.findall(r"\{([\d,]+)\}", text))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def by_kind(found: Sequence[Collective]) -> dict[tuple[str, str], list[Collective]]:
    """Returns the collectives by kind and axes ("data+fsdp"; "(part)" where groups are a part of these axes)."""

    def key(each: Collective) -> tuple[str, str]:
        axes = "+".join(each.axes) or "?"
        between = " between slices" if each.between_slices else ""
        return each.kind + between, axes if each.whole or not each.axes else f"{axes} (part)"

    return {name: list(same) for name, same in itertools.groupby(sorted(found, key=key), key=key)}

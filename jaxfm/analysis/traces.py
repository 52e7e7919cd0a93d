"""Reads a recording of jax.profiler of train steps: seconds by operation and by part of the step, and idle time.

The recording is an XPlane file. On TPUs a device's plane has a line "XLA Ops"; on GPUs it has a line a stream, whose
kernels name their instruction; on CPU the operations are among the host's threads. The parts of a step are the names
of `jax.named_scope` in models/, data/text/masking.py and training/, which the compiled program's metadata keeps.
"""

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jax.profiler import ProfileData

from jaxfm.analysis import hlo
from jaxfm.observe.tables import Table

# Scope -> part of a step. An operation belongs to its innermost scope: dropout inside attention counts as dropout.
# "encoder" is the code around the layers (such as slicing stacked parameters); "head" includes the loss.
_SCOPES = {
    "attention": "attention",
    "ffn": "ffn",
    "norm": "norms",
    "embeddings": "embeddings",
    "head": "head",
    "optimizer": "optimizer",
    "masking": "input",
    "dropout": "dropout, random",
    "random": "dropout, random",
    "encoder": "other",
}
OTHER = "other"
PARTS = tuple(dict.fromkeys(_SCOPES.values()))
"""All parts, in the order of a report."""

WAITING = "wait for data"
"""The host's activity (`WallClock.during`) during which an idle device waits for its next batch."""

# Instructions whose time is that of the instructions they call, which are recorded as well.
_HOLDERS = frozenset(("while", "conditional", "call"))
# Opcodes that a fusion is named after if it contains one; the first that occurs.
_HEAVY = ("dot", "convolution", "custom-call", "scatter", "sort")
# Start of the names of a GPU's streams; other lines, added by the profiler's viewers, repeat the same kernels.
_STREAM = "Stream"


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One run of an operation.

    Attributes:
      device: name of the device.
      lane: stream or thread; two events of one lane are nested or disjoint.
      name: of the instruction; where it is unknown, of the kernel or the transfer.
      kernel: name of the GPU's kernel; empty elsewhere.
      program: the module of the instruction; empty where it is unknown.
      start: in seconds.
      end: in seconds.
      done: seconds when the result was ready: on CPU an operation may continue in other threads.
    """

    device: str
    lane: str
    name: str
    kernel: str
    program: str
    start: float
    end: float
    done: float


@dataclasses.dataclass(frozen=True)
class Trace:
    """A recording.

    Attributes:
      events: of the devices.
      waits: (start, end) in seconds of the times when the host waited for data.
    """

    events: tuple[Event, ...]
    waits: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Operation:
    """An instruction of the program, over all its runs.

    Attributes:
      name: as in the compiled program; operations of other programs have the program's name before it.
      kind: opcode; of a fusion with the heaviest opcode inside.
      shape: of the result.
      part: of the step.
      source: its origin in the model (`op_name`).
      seconds: of a step and device.
      count: runs of a step and device.
    """

    name: str
    kind: str
    shape: str
    part: str
    source: str
    seconds: float
    count: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """Where the time of a step went; seconds are means over steps and devices.

    Attributes:
      steps: number of recorded steps.
      devices: number of recorded devices.
      seconds: of a step: the time from the first operation to the last, divided by the steps.
      busy: the part of `seconds` in which a device computed.
      waiting: the part of `seconds` in which it was idle and the host waited for data.
      operations: the longest first. Where several run at once, their times add up to more than `busy`.
    """

    steps: int
    devices: int
    seconds: float
    busy: float
    waiting: float
    operations: tuple[Operation, ...]

    @property
    def idle(self) -> float:
        """Seconds of a step in which a device did nothing."""
        return max(self.seconds - self.busy, 0.0)

    @property
    def parts(self) -> dict[str, float]:
        """Part -> seconds of its operations."""
        spent = dict.fromkeys(PARTS, 0.0)
        for operation in self.operations:
            spent[operation.part] += operation.seconds
        return spent


def read_trace(path: str | os.PathLike[str]) -> Trace:
    """Reads an `*.xplane.pb`. Raises OSError or RuntimeError for a missing file or another format."""
    return trace_of(ProfileData.from_file(os.fspath(path)))


def trace_of(data: Any) -> Trace:
    """Returns the trace in a `jax.profiler.ProfileData`."""
    events: list[Event] = []
    waits: list[tuple[float, float]] = []
    for plane in data.planes:
        if re.fullmatch(r"/device:TPU:\d+", plane.name):
            events += _tpu_events(plane)
        elif plane.name.startswith("/device:"):
            events += _gpu_events(plane)
        elif plane.name == "/host:CPU":
            events += _cpu_events(plane)
            for line in plane.lines:
                waits += [_span(event) for event in line.events if event.name == WAITING]
    return Trace(tuple(events), tuple(waits))


def summarise(trace: Trace, text: str, steps: int) -> Summary:
    """Returns where the time of a step went.

    Args:
      trace: of `steps` steps.
      text: the compiled step (`jax.stages.Compiled.as_text()`).
      steps: number of recorded steps.
    """
    program = Program(text)
    devices = sorted({event.device for event in trace.events})
    seconds, counts = collections.defaultdict[str, float](float), collections.Counter[str]()
    window = busy = waiting = 0.0
    for device in devices:
        own = [event for event in trace.events if event.device == device]
        of_step = [event for event in own if program.has(event)] or own
        first, last = min(event.start for event in of_step), max(event.done for event in of_step)
        own = [event for event in own if event.done > first and event.start < last]
        spans = []
        for event, spent in zip(own, self_seconds(own), strict=True):
            name = program.name_of(event)
            end = event.end if program.holds(name) else event.done
            seconds[name] += spent + end - event.end
            counts[name] += 1
            spans.append((event.start, end))
        worked = union(spans)
        window += last - first
        busy += sum(end - start for start, end in worked)
        waiting += _overlap(_gaps(worked, first, last), union(trace.waits))
    share = 1 / max(steps * len(devices), 1)
    operations = [
        dataclasses.replace(program.describe(name), seconds=spent * share, count=counts[name] * share)
        for name, spent in sorted(seconds.items(), key=lambda pair: -pair[1])
    ]
    return Summary(steps, len(devices), window * share, busy * share, waiting * share, tuple(operations))


class Program:
    """A compiled step, which identifies the operations of a trace."""

    def __init__(self, text: str) -> None:
        """`text` as for `summarise`; with an empty text (a backend without one) all operations are unknown."""
        found = re.match(r"HloModule ([^\s,]+)", text)
        self.name = found[1] if found else ""
        self._computations = hlo.parse(text).computations if text else {}
        self._instructions = {
            name: (computation, line)
            for computation in self._computations.values()
            for name, line in computation.items()
        }
        # A GPU kernel has the name of its instruction, without characters that a symbol cannot have.
        self._kernels = {re.sub(r"\W", "_", name): name for name in self._instructions}
        self._part = functools.cache(self._find_part)

    def has(self, event: Event) -> bool:
        """Returns whether the event is an operation of this program."""
        return event.program in ("", self.name) and self.name_of(event) in self._instructions

    def name_of(self, event: Event) -> str:
        """Returns the name of the event's instruction; with the program's name before it for another program."""
        if event.program not in ("", self.name):
            return f"{event.program}: {event.name}"
        # All kernels of a GPU's command buffer (a CUDA graph) have the name of the buffer: openxla/xprof#3070.
        known = event.name in self._instructions and not (event.kernel and self.holds(event.name))
        return event.name if known else self._kernels.get(event.kernel, event.kernel or event.name)

    def holds(self, name: str) -> bool:
        """Returns whether the instruction only runs others."""
        return name in self._instructions and self._instructions[name][1].opcode in _HOLDERS

    def describe(self, name: str) -> Operation:
        """Returns an operation by its name, with seconds and count 0."""
        if name not in self._instructions:
            transfer = re.match(r"Mem(cpy|set)", name)
            kind = "transfer" if transfer else "kernel" if ": " not in name else "other program"
            return Operation(name, kind, "", "input" if name.startswith("MemcpyH2D") else OTHER, "", 0.0, 0.0)
        line = self._instructions[name][1]
        arrays = [f"{array.dtype}[{','.join(map(str, array.shape))}]" for array in line.arrays]
        shape = arrays[0] if len(arrays) == 1 else f"({', '.join(arrays[:2])}{', ...' if len(arrays) > 2 else ''})"
        return Operation(name, self._kind(line), shape, self._part(name), source_of(line), 0.0, 0.0)

    def _kind(self, line: hlo.Instruction) -> str:
        if line.opcode == "custom-call":
            return line.attribute(r'custom_call_target="([^"]*)"') or line.opcode
        if line.opcode != "fusion":
            return line.opcode
        inside = {inner.opcode for _, inner in self._inside(line)}
        heavy = next((opcode for opcode in _HEAVY if opcode in inside), "")
        return f"fusion of {heavy}" if heavy else "fusion"

    def _inside(self, line: hlo.Instruction) -> Iterator[tuple[hlo.Computation, hlo.Instruction]]:
        """Yields the instructions inside a fusion, a parallel or an asynchronous call, at any depth."""
        for name in hlo.called(line):
            computation = self._computations[name]
            for inner in computation.values():
                yield computation, inner
                if inner.opcode in ("fusion", "call"):
                    yield from self._inside(inner)

    def _find_part(self, name: str) -> str:
        """Returns the part of the step that an instruction belongs to.

        A fusion may serve several parts: it belongs to the one with most of its matrix products or, without products,
        with most of the elements that it computes. An instruction without a source (a copy that the compiler added)
        belongs to the part of its first reader.
        """
        computation, line = self._instructions[name]
        products, numbers = collections.Counter[str](), collections.Counter[str]()
        wraps = line.opcode in ("fusion", "async-start") or (line.opcode == "call" and "to_apply" in line.attributes)
        for of, inner in self._inside(line) if wraps else ():
            part = part_of(source_of(inner))
            if part != OTHER:
                products[part] += hlo.matmul_flops(hlo.Call(inner, of, 1, None))
                numbers[part] += sum(array.count for array in inner.arrays)
        if sum(products.values()):
            return products.most_common(1)[0][0]
        if numbers:
            return numbers.most_common(1)[0][0]
        if source_of(line):
            return part_of(source_of(line))
        readers = [user for user in computation.users(name) if source_of(user)]
        return part_of(source_of(readers[0])) if readers else OTHER


def source_of(line: hlo.Instruction) -> str:
    """Returns the `op_name` of an instruction, its origin in the model; empty where it has none."""
    return line.attribute(r'op_name="([^"]*)"')


def part_of(source: str) -> str:
    """Returns the part of a step that an `op_name` belongs to, by its innermost known scope."""
    for scope in reversed(re.split(r"[/()]", source)):
        if scope in _SCOPES:
            return _SCOPES[scope]
        if scope.startswith("_threefry"):
            return _SCOPES["random"]
    return OTHER


def self_seconds(events: Sequence[Event]) -> list[float]:
    """Returns the seconds of each event without those of events nested in it (same device and lane)."""
    spent = [event.end - event.start for event in events]
    order = sorted(range(len(events)), key=lambda index: (events[index].start, -events[index].end))
    open_events: dict[tuple[str, str], list[int]] = {}
    for index in order:
        event = events[index]
        stack = open_events.setdefault((event.device, event.lane), [])
        while stack and events[stack[-1]].end <= event.start:
            stack.pop()
        if stack:
            spent[stack[-1]] -= min(event.end, events[stack[-1]].end) - event.start
        stack.append(index)
    return [max(seconds, 0.0) for seconds in spent]


def union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the union of spans as spans in order that neither touch nor overlap."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def warnings(summary: Summary) -> list[str]:
    """Returns warnings about the recording, for example kernels whose instruction is unknown."""
    if not summary.devices:
        return ["no device was recorded; on a GPU the process must be allowed to use CUPTI"]
    total = sum(summary.parts.values()) or 1.0
    unknown = sum(each.seconds for each in summary.operations if each.kind == "kernel") / total
    if unknown < 0.05:
        return []
    return [
        f"{unknown:.0%} of the time is in kernels whose instruction is unknown, as in CUDA graphs "
        "(openxla/xprof#3070): XLA_FLAGS=--xla_gpu_enable_command_buffer= launches them one by one, and all are known"
    ]


def part_table(summary: Summary) -> Table:
    """Returns a table of a step's time by part, with busy, idle and total time in its footer."""
    total = sum(summary.parts.values()) or 1.0
    rows = [(part, 1e3 * seconds, seconds / total) for part, seconds in summary.parts.items()]
    whole = summary.seconds or 1.0
    waiting, idle = summary.waiting, summary.idle - summary.waiting
    footer = [
        ("device busy", 1e3 * summary.busy, summary.busy / whole),
        ("device idle, host waiting for data", 1e3 * waiting, waiting / whole),
        ("device idle otherwise", 1e3 * idle, idle / whole),
        ("step", 1e3 * summary.seconds, 1.0),
    ]
    title = f"Time by part, mean of {summary.steps} steps on {summary.devices} device(s)"
    formats = {"ms a step": ",.2f", "share": ".1%"}
    return Table(title, ("part", "ms a step", "share"), [*rows, *footer], footer=len(footer), formats=formats)


def operation_table(summary: Summary, count: int) -> Table:
    """Returns a table of the `count` longest operations."""
    total = sum(summary.parts.values()) or 1.0
    rows = [
        (each.name, each.kind, each.shape, each.part, 1e3 * each.seconds, each.seconds / total, each.count, each.source)
        for each in summary.operations[:count]
    ]
    columns = ("operation", "kind", "result", "part", "ms a step", "share", "runs", "source")
    formats = {"ms a step": ",.3f", "share": ".1%", "runs": ",.4g"}
    return Table(f"The {len(rows)} longest operations", columns, rows, formats=formats)


def to_record(summary: Summary, count: int) -> dict[str, Any]:
    """Returns a summary with its `count` longest operations as JSON values, times in milliseconds a step."""
    operations = [dataclasses.asdict(each) for each in summary.operations[:count]]
    for each in operations:
        each["milliseconds"] = round(1e3 * each.pop("seconds"), 4)
    return {
        "steps": summary.steps,
        "devices": summary.devices,
        **{
            f"{name}_milliseconds": round(1e3 * seconds, 3)
            for name, seconds in (
                ("step", summary.seconds),
                ("busy", summary.busy),
                ("idle", summary.idle),
                ("waiting_for_data", summary.waiting),
            )
        },
        "parts_milliseconds": {part: round(1e3 * seconds, 3) for part, seconds in summary.parts.items()},
        "operations": operations,
    }


def _tpu_events(plane: Any) -> Iterator[Event]:
    lines = {line.name: line for line in plane.lines}
    programs = [
        (*_span(event), event.name.partition("(")[0])
        for event in (lines["XLA Modules"].events if "XLA Modules" in lines else ())
    ]
    for event in lines["XLA Ops"].events if "XLA Ops" in lines else ():
        start, end = _span(event)
        program = next((name for first, last, name in programs if first <= start < last), "")
        # The event is named by the whole instruction, "%fusion.3 = ...", or by its name alone.
        name = re.match(r"%?([\w.\-]+)", event.name)
        yield Event(plane.name, "XLA Ops", name[1] if name else event.name, "", program, start, end, end)


def _gpu_events(plane: Any) -> Iterator[Event]:
    for line in plane.lines:
        if not line.name.startswith(_STREAM):
            continue
        for event in line.events:
            stats = dict(event.stats)
            start, end = _span(event)
            name = str(stats.get("hlo_op", event.name)).rpartition("::")[2]  # the innermost of several
            yield Event(plane.name, line.name, name, event.name, str(stats.get("hlo_module", "")), start, end, end)


def _cpu_events(plane: Any) -> Iterator[Event]:
    started: list[tuple[Event, Any]] = []
    done: dict[Any, float] = {}
    for line in plane.lines:
        for event in line.events:
            if event.name.startswith("end: "):
                done[dict(event.stats).get("_c")] = event.start_ns / 1e9
            elif "hlo_op" in (stats := dict(event.stats)):
                start, end = _span(event)
                device = f"CPU:{stats.get('device_ordinal', 0)}"
                name, program = str(stats["hlo_op"]), str(stats.get("hlo_module", ""))
                own = Event(device, line.name, name, "", program, start, end, end)
                started.append((own, stats.get("_p")))
    for event, number in started:
        later = done.get(number, event.end) if number is not None else event.end
        yield dataclasses.replace(event, done=max(event.end, later))


def _span(event: Any) -> tuple[float, float]:
    return event.start_ns / 1e9, (event.start_ns + event.duration_ns) / 1e9


def _gaps(spans: Sequence[tuple[float, float]], first: float, last: float) -> list[tuple[float, float]]:
    edges = [first, *(edge for span in spans for edge in span), last]
    return [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True) if end > start]


def _overlap(some: Sequence[tuple[float, float]], others: Sequence[tuple[float, float]]) -> float:
    return sum(max(min(a[1], b[1]) - max(a[0], b[0]), 0.0) for a in some for b in others)

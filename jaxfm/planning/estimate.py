"""One plan: the real train step compiled for a topology; its program, its memory, and times by published rates."""

import dataclasses
import importlib.metadata
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxfm.analysis import hlo
from jaxfm.config import AUTO, Config
from jaxfm.core.task import Objective
from jaxfm.errors import UserError, install_hint
from jaxfm.parallel import target
from jaxfm.parallel.compilation import held_bytes
from jaxfm.parallel.mesh import AXES, make_mesh
from jaxfm.planning import hardware, roofline
from jaxfm.planning.analytic import expected_collectives
from jaxfm.planning.collectives import UNKNOWN, Collective, by_kind, collectives
from jaxfm.planning.hardware import DeviceLocation, Topology, describe_devices, device_locations, target_of
from jaxfm.planning.roofline import LinkSeconds, Times
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.tasks.fine_tuning import assumed_shapes
from jaxfm.training import grid, initial
from jaxfm.training.session import Session, make_session
from jaxfm.training.state import count_parameters
from jaxfm.training.stepping import SingleRun, StackedRuns, Stepping

# Updates of a run whose config gives only epochs: schedules need a number; memory and time do not depend on it.
_STEPS = 100_000
_GPU_COMPILERS = ("jax-cuda12-plugin", "jax-cuda13-plugin", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")
_COMPILERS = ("jax", "jaxlib", "libtpu", *_GPU_COMPILERS)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes a chip.

    Attributes:
      parameters: this chip's part of the parameters.
      optimizer: this chip's part of the optimizer's state.
      batch: rows, metric sums and keys.
      temporaries: activations, gradients and other temporary arrays; None where the program was not compiled, or the
        compiler gave up before it knew.
      program: the machine code.
      peak: the sum; where the program does not fit, the compiler's figure of what it would need.
      capacity: memory of the chip.
      refused: the compiler gave up because the program needs more than the capacity.
    """

    parameters: int
    optimizer: int
    batch: int
    temporaries: int | None
    program: int
    peak: int | None
    capacity: int
    refused: bool = False

    @property
    def least(self) -> int:
        """Bytes needed without activations and gradients."""
        return self.parameters + self.optimizer + self.batch

    @property
    def fits(self) -> bool | None:
        """Whether the program fits; None without a compiler, as activations are unknown then."""
        if self.refused or self.least > self.capacity:
            return False
        return None if self.peak is None else self.peak <= self.capacity


@dataclasses.dataclass(frozen=True)
class CollectiveTotals:
    """All collectives of a step that are of one kind and over the same axes.

    Attributes:
      kind: as HLO names it.
      axes: of the mesh; "?" where unknown.
      count: runs a step.
      size: bytes of their arrays.
      sent: bytes that a chip sends.
      seconds: during which the links are busy.
      waited: the part of `seconds` that overlaps with no computation.
    """

    kind: str
    axes: str
    count: int
    size: int
    sent: float
    seconds: float
    waited: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """The estimate of a run; every number is of one step and one chip unless its description says otherwise.

    Attributes:
      topology: chips.
      mesh: axis -> size.
      settings: the values of the config that memory and time depend on; with "runs", where several are made at once.
      parameters: of the whole model.
      memory: see `Memory`.
      model_flops: by formula (`jaxfm.models.flops`).
      matmul_flops: of the compiled program's matrix products, including recomputed and repeated ones; None where it was
        not compiled.
      xla_flops: by XLA's cost analysis, which counts the body of a loop once.
      times: None where the program does not fit.
      collectives: empty where the program does not fit.
      compile_seconds: seconds that lowering and compiling took.
      notes: assumptions of the plan.
      versions: of the compiler's packages.
    """

    topology: Topology
    mesh: Mapping[str, int]
    settings: Mapping[str, Any]
    parameters: int
    memory: Memory
    model_flops: float
    matmul_flops: float | None
    xla_flops: float | None
    times: Times | None
    collectives: tuple[CollectiveTotals, ...]
    compile_seconds: float
    notes: tuple[str, ...]
    versions: Mapping[str, str]

    @property
    def tokens(self) -> int:
        """Tokens of a step over all chips, padding included."""
        return self.settings["batch_size"] * self.settings["row_length"] * self.settings.get("runs", 1)

    @property
    def is_compiled(self) -> bool:
        """Whether times are those of a compiled program; if not, they are lower bounds."""
        return self.matmul_flops is not None

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens a second over all chips; an upper bound where the step was not compiled."""
        return self.tokens / self.times.step if self.times else None

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation: the formula's operations as a share of what the chips could do in a step's time.

        None where the step was not compiled: its time then comes from the same formula, which would give 100 % wherever
        links do not limit it.
        """
        if self.times is None or not self.is_compiled:
            return None
        return self.model_flops / self.topology.chip.peak_flops / self.times.step


@dataclasses.dataclass(frozen=True)
class Subject:
    """A run to plan, known from shapes alone.

    Attributes:
      config: of the run.
      objective: model and loss.
      notes: assumptions about the shapes.
    """

    config: Config
    objective: Objective
    notes: tuple[str, ...]

    @classmethod
    def of(cls, config: Config) -> "Subject":
        """Finds the shapes; needs neither data nor weights nor a tokenizer.

        Raises:
          UserError: the shapes cannot be known, or the batch size is "auto".
        """
        if config.train.batch_size == AUTO:
            raise UserError(
                "config.train.batch_size: is auto, which a run finds on its own devices. Give a number to plan with; "
                "--sweep tries its half and its double as well."
            )
        encoder, notes = initial.shape(config.model)
        given, config = config, assumed_shapes(config)
        objective = registry.abstract_objective(given if encoder.reads_patches else config, encoder)
        if encoder.reads_patches:  # what a row has follows from the size of an image, not from data
            config = replaced(config, {"data.row_length": objective.spec.row_length})
        elif config != given:
            notes += (
                f"assumed, as a run chooses it from its data: {config.train.batch_size} rows of "
                f"{config.data.row_length} tokens (--config.train.batch_size, --config.data.row_length)",
            )
        return cls(config, objective, notes)

    def session(self, topology: Topology, devices: Sequence[Any]) -> Session:
        """Builds the train step for devices of a topology."""
        mesh = make_mesh(self.config.parallel.mesh, devices)
        with target.tracing_for(target_of(topology)):
            steps, teachers = self.config.train.steps or _STEPS, initial.find_teachers(self.config)
            return make_session(self.config, self.objective, mesh, total_steps=steps, teachers=teachers)


def make_plan(subject: Subject, topology: Topology) -> Plan:
    """Compiles the train step of a config for a topology and estimates its memory and time.

    Args:
      subject: the run to plan.
      topology: chips; for GPUs without their compiler the step is only lowered.

    Raises:
      UserError: the mesh does not fit the chips or does not divide the batch, or the TPU compiler is not installed.
    """
    config, encoder = subject.config, subject.objective.spec.encoder
    runs = [run.config for run in grid.runs_of(config)]
    session = dataclasses.replace(subject, config=runs[0]).session(topology, describe_devices(topology))
    optims = tuple(run.optim for run in runs)
    stepping = StackedRuns(session, optims) if len(runs) > 1 else SingleRun(session)
    mesh = session.mesh
    start = time.monotonic()
    compiled, memory, found = _compile(config, stepping, len(runs), topology)
    rows = config.train.batch_size * len(runs)
    model_flops = session.objective.flops_per_row(config.adapt) * rows / topology.size
    plan = Plan(
        topology=topology,
        mesh=dict(zip(AXES, mesh.devices.shape, strict=True)),
        settings=_settings(config, session) | ({"runs": len(runs)} if len(runs) > 1 else {}),
        parameters=count_parameters(session.abstract.params, encoder),
        memory=memory,
        model_flops=model_flops,
        matmul_flops=None,
        xla_flops=None,
        times=None,
        collectives=(),
        compile_seconds=time.monotonic() - start,
        notes=(*subject.notes, *session.notes, *found),
        versions=_versions(),
    )
    locations = device_locations(list(mesh.devices.flat), topology)
    if topology.chip.kind == "gpu" and compiled is None:
        expected = expected_collectives(config, encoder, session.abstract.params, mesh)
        return _with_times(plan, expected, locations, compute=model_flops)
    return _read(plan, compiled, mesh, locations) if compiled is not None else plan


def _compile(config: Config, stepping: Stepping, runs: int, topology: Topology) -> tuple[Any, Memory, list[str]]:
    """Returns the compiled step (None: it was only lowered, or does not fit), its memory, and notes for the plan."""
    session, state = stepping.session, stepping.abstract
    a_row = sum(math.prod(field.shape) * field.dtype.itemsize for field in session.batch_spec.values())
    rows = config.train.batch_size * runs * a_row
    memory = Memory(
        parameters=_bytes_held((state.params, state.live_params)),  # live: beside an average
        optimizer=_bytes_held(state.opt_state),
        batch=rows // math.prod(size for axis, size in session.mesh.shape.items() if axis != "tensor"),
        temporaries=None,
        program=0,
        peak=None,
        capacity=int(topology.chip.hbm),
    )
    if topology.chip.kind == "gpu" and not hardware.has_gpu_compiler():
        if runs > 1:
            raise UserError(f"several runs at once are planned by the compiler of GPUs: {install_hint('cuda')}")
        session.lower_for("cuda", config.train.batch_size)
        lacking = "lowered for CUDA, not compiled: activations are not known"
        return None, memory, [f"the step was {lacking}. The compiler needs no GPU: {install_hint('cuda')}"]
    with target.tracing_for(target_of(topology)):
        lowered = stepping.lower(config.train.batch_size)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return (
            None,
            dataclasses.replace(memory, peak=_bytes_wanted(str(error)), refused=True),
            _largest_allocations(str(error)),
        )
    known = compiled.memory_analysis()
    assert known is not None, "compilers of accelerators report memory"
    held = held_bytes(known)
    code = known.generated_code_size_in_bytes
    memory = dataclasses.replace(
        memory,
        temporaries=known.temp_size_in_bytes,
        program=code,
        peak=held + known.temp_size_in_bytes + code,
    )
    return compiled, memory, []


def _read(plan: Plan, compiled: jax.stages.Compiled, mesh: Mesh, locations: Sequence[DeviceLocation]) -> Plan:
    """Adds FLOPs, times and collectives of the compiled program."""
    module = hlo.parse(compiled.as_text() or "")
    calls, chip = list(module.calls()), plan.topology.chip
    flops = sum(call.times * hlo.matmul_flops(call) for call in calls)
    cost = compiled.cost_analysis() or {}
    loops = len(module.uncounted_loops())
    once = f"{loops} loop(s) end when values say so (a number is drawn until one is accepted): each is counted once"
    plan = dataclasses.replace(
        plan,
        matmul_flops=float(flops),
        xla_flops=cost.get("flops"),
        notes=(*plan.notes, once) if loops else plan.notes,
    )
    return _with_times(
        plan,
        collectives(module, plan.mesh, _slice_axes(mesh, locations)),
        locations,
        compute=flops,
        memory_bytes=sum(call.times * hlo.traffic(call, module) for call in calls),
        kernels=(
            sum(call.times * hlo.estimated_cycles(call) for call in calls) / chip.clock
            if chip.clock
            else roofline.kernel_seconds(module, chip)
        ),
    )


def _with_times(
    plan: Plan,
    found: Sequence[Collective],
    locations: Sequence[DeviceLocation],
    *,
    compute: float,
    memory_bytes: float = 0.0,
    kernels: float = 0.0,
) -> Plan:
    """Adds times and collectives; `compute` is in operations, `kernels` in seconds."""
    chip, totals, busy, waited = plan.topology.chip, [], [LinkSeconds()], [LinkSeconds()]
    for (kind, axes), same in by_kind(found).items():
        links = [_link_seconds(each, locations, plan.topology) for each in same]
        held_up = [each for each, one in zip(links, same, strict=True) if not one.asynchronous]
        totals.append(
            CollectiveTotals(
                kind=kind,
                axes=axes,
                count=sum(each.times for each in same),
                size=sum(each.times * each.size for each in same),
                sent=sum(each.times * roofline.ring_bytes(each) for each in same),
                seconds=roofline.total(links).longest,
                waited=roofline.total(held_up).longest,
            )
        )
        busy += links
        waited += held_up
    times = Times(
        compute=compute / chip.peak_flops,
        memory=memory_bytes / chip.hbm_bandwidth,
        links=roofline.total(busy),
        waiting=roofline.total(waited),
        kernels=kernels,
    )
    return dataclasses.replace(plan, times=times, collectives=tuple(totals))


def total_link_seconds(
    found: Sequence[Collective], locations: Sequence[DeviceLocation], topology: Topology
) -> LinkSeconds:
    """Returns the seconds of a step during which collectives keep the links busy."""
    return roofline.total([_link_seconds(each, locations, topology) for each in found])


def _link_seconds(each: Collective, locations: Sequence[DeviceLocation], topology: Topology) -> LinkSeconds:
    """Returns the seconds of links of all runs of a collective in a step; 0 for an unknown kind."""
    if each.kind == UNKNOWN:
        return LinkSeconds()
    one_run = roofline.link_seconds(each, locations, topology)
    return LinkSeconds(one_run.inside * each.times, one_run.between * each.times)


def _bytes_held(tree: Any) -> int:
    """Returns the bytes that one device holds of abstract arrays with shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _bytes_wanted(message: str) -> int | None:
    """Returns the bytes that a program would need, from the compiler's message that memory does not suffice."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of", message) or re.search(r"\(([\d.]+)([KMGT])\) exceeds", message)
    return int(float(found[1]) * _UNITS[found[2]]) if found else None


def _largest_allocations(message: str) -> list[str]:
    """Returns the compiler's list of the largest allocations, one a line: size, shape, operation."""
    found = re.findall(r"Size: (\S+)(?:(?!Size: ).)*?(?:Operator: op_name=\"([^\"]*)\".*?)?Shape: (\S+)", message, re.S)
    return [f"would need {size} for {shape} ({operation or 'no operation'})" for size, operation, shape in found[:3]]


def _slice_axes(mesh: Mesh, locations: Sequence[DeviceLocation]) -> tuple[str, ...]:
    """Returns the axes along which devices lie in different slices."""
    slices = np.array([location.slice for location in locations]).reshape(mesh.devices.shape)
    return tuple(name for axis, name in enumerate(AXES) if (slices != slices.take([0], axis)).any())


def _settings(config: Config, session: Session) -> dict[str, Any]:
    return {
        "task": config.task.name,
        "model": config.model.preset or config.model.init,
        "batch_size": config.train.batch_size,
        "accumulate": config.train.accumulate,
        "row_length": config.data.row_length,
        "remat": config.model.remat,
        "parameters_dtype": str(jax.tree.leaves(session.abstract.params)[0].dtype),
    }


def _versions() -> dict[str, str]:
    found = (importlib.metadata.distributions(name=name) for name in _COMPILERS)
    return {each.name: each.version for distributions in found for each in distributions}

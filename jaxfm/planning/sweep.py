"""A search over meshes, batches and remat: formulae choose which ones are compiled."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
from jax.sharding import Mesh

from jaxfm.config import REMAT, Config, MeshConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.observe.tables import Cell, Table
from jaxfm.parallel.mesh import AXES, batch_shards, make_mesh
from jaxfm.planning.analytic import expected_activations, expected_collectives, expected_compute
from jaxfm.planning.estimate import Plan, Subject, make_plan, total_link_seconds
from jaxfm.planning.hardware import Topology, describe_devices, device_locations
from jaxfm.planning.roofline import Times, cost_per_billion_tokens
from jaxfm.training.session import Session

# Candidates whose estimated memory is above this share of the chip's are not compiled.
_MAX_MEMORY_SHARE = 1.1


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A way to run, with estimates by formula.

    Attributes:
      config: with its mesh, batch and remat.
      seconds: estimated for a step.
      tokens: of a step.
      memory: estimated bytes on a chip.
    """

    config: Config
    seconds: float
    tokens: int
    memory: float


def candidates(subject: Subject, topology: Topology) -> list[Candidate]:
    """Returns the ways to run that may fit, those expected to be fastest first.

    Meshes are all products of powers of two (tensor divides the heads, sequence is the config's); batches are the
    config's, its half and its double; each with every kind of recomputation.
    """
    config, encoder, found = subject.config, subject.objective.spec.encoder, []
    devices = describe_devices(topology)
    session = dataclasses.replace(subject, config=_with(config, mesh=MeshConfig())).session(topology, devices)
    for mesh_config in _meshes(config, encoder, topology.size):
        try:
            mesh = make_mesh(mesh_config, devices)
        except UserError:  # of several slices
            continue
        batches = (config.train.batch_size // 2, config.train.batch_size, config.train.batch_size * 2)
        for batch, remat in itertools.product(batches, REMAT):
            if batch < 1 or batch % (batch_shards(mesh) * config.train.accumulate):
                continue
            tried = _with(config, mesh=mesh_config, batch=batch, remat=remat)
            candidate = _expect(tried, session, topology, mesh)
            if candidate.memory <= _MAX_MEMORY_SHARE * topology.chip.hbm:
                found.append(candidate)
    return sorted(found, key=lambda each: each.seconds / each.tokens)


def run(subject: Subject, topology: Topology, count: int, say: Callable[[str], None]) -> list[Plan]:
    """Compiles the `count` most promising candidates; plans that fit come first, by tokens a second.

    Raises:
      UserError: no candidate may fit.
    """
    found = candidates(subject, topology)
    if not found:
        raise UserError(
            f"--sweep: no mesh, batch or remat of {topology.size} {topology.chip.name} chips may hold this model. Take "
            "more chips, ones with more memory, or a smaller --config.train.batch_size."
        )
    say(f"{len(found)} ways to run may fit; the {min(count, len(found))} most promising ones are compiled")
    plans = []
    for number, each in enumerate(found[:count], 1):
        mesh, rows, remat = each.config.parallel.mesh, each.config.train.batch_size, each.config.model.remat
        sizes = f"data={mesh.data} fsdp={mesh.fsdp} tensor={mesh.tensor} sequence={mesh.sequence}"
        say(f"compiling {number}: {sizes}, {rows} rows, remat {remat}")
        plans.append(make_plan(dataclasses.replace(subject, config=each.config), topology))
    return sorted(plans, key=lambda plan: (plan.memory.fits is False, -(plan.tokens_per_second or 0.0)))


def table(plans: Sequence[Plan], price: float | None) -> Table:
    """Returns the compiled ways to run, best first."""
    rows: list[tuple[Cell, ...]] = []
    for plan in plans:
        rate = plan.tokens_per_second
        cost = None if price is None or rate is None else cost_per_billion_tokens(price, plan.topology.size, rate)
        mesh: Mapping[str, int] = plan.mesh
        rows.append(
            (
                " x ".join(str(mesh[axis]) for axis in AXES),
                plan.settings["batch_size"],
                plan.settings["remat"],
                {True: "yes", False: "no", None: "not known"}[plan.memory.fits],
                None if plan.memory.peak is None else plan.memory.peak / 2**30,
                plan.times.step * 1e3 if plan.times else None,
                None if rate is None else rate / plan.topology.size,
                None if plan.mfu is None else 100 * plan.mfu,
                cost,
            )
        )
    columns = ("data x fsdp x tensor x sequence", "rows", "remat", "fits", "GiB", "ms", "tokens/s/chip", "MFU %", "USD")
    formats = {"GiB": ",.2f", "ms": ",.1f", "tokens/s/chip": ",.0f", "MFU %": ".1f", "USD": ",.2f"}
    bound = "" if all(plan.is_compiled or plan.times is None for plan in plans) else "; not compiled: ms at the least"
    return Table(f"Ways to run, best first (USD for 1e9 tokens{bound})", columns, rows, formats=formats)


def _meshes(config: Config, encoder: EncoderConfig, size: int) -> Iterator[MeshConfig]:
    sequence = max(config.parallel.mesh.sequence, 1)
    tensors = [number for number in _powers(encoder.num_heads) if encoder.num_heads % number == 0]
    for tensor, fsdp in itertools.product(tensors, _powers(size)):
        if size % (tensor * fsdp * sequence) == 0:
            yield MeshConfig(data=size // (tensor * fsdp * sequence), fsdp=fsdp, tensor=tensor, sequence=sequence)


def _powers(limit: int) -> list[int]:
    return [2**number for number in range(limit.bit_length())]


def _expect(config: Config, session: Session, topology: Topology, mesh: Mesh) -> Candidate:
    objective, abstract = session.objective, session.abstract
    tokens, shape = config.train.batch_size * config.data.row_length, dict(mesh.shape)
    encoder = objective.spec.encoder
    model_flops = objective.flops_per_row(config.adapt) * config.train.batch_size / topology.size
    locations = device_locations(list(mesh.devices.flat), topology)
    links = total_link_seconds(expected_collectives(config, encoder, abstract.params, mesh), locations, topology)
    compute = expected_compute(config, encoder, model_flops) / topology.chip.peak_flops
    times = Times(compute=compute, memory=0.0, links=links, waiting=links, kernels=0.0)
    gradients = session.adaptation.partition.trained(abstract.params)
    kept = (abstract.params, abstract.opt_state, abstract.live_params, gradients)
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept)) / (shape["fsdp"] * shape["tensor"])
    return Candidate(
        config, times.step, tokens, state + expected_activations(config, encoder, shape, objective.logits_per_row())
    )


def _with(config: Config, *, mesh: MeshConfig, batch: int | None = None, remat: str | None = None) -> Config:
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, remat=remat or config.model.remat),
        train=dataclasses.replace(config.train, batch_size=batch or config.train.batch_size),
        parallel=dataclasses.replace(config.parallel, mesh=mesh),
    )

"""A plan as tables for people and as JSON for programs."""

import dataclasses
from typing import Any

from jaxfm.observe.tables import Cell, Table
from jaxfm.planning.advice import advise
from jaxfm.planning.collectives import UNKNOWN
from jaxfm.planning.estimate import Memory, Plan
from jaxfm.planning.roofline import cost_per_billion_tokens


def tables(plan: Plan, price: float | None) -> list[Table]:
    """Returns memory, collectives and times as tables; `price` is in USD a chip and hour."""
    found = [_memory(plan.memory)]
    if plan.collectives:
        found.append(_collectives(plan))
    if plan.times is not None:
        found.append(_times(plan, price))
    return found


def headline(plan: Plan) -> str:
    """Returns two lines: the model and the chips, the settings of a step."""
    shape = " x ".join(f"{size} {axis}" for axis, size in plan.mesh.items() if size > 1) or "1"
    slices = f"{plan.topology.slices} slices of " if plan.topology.slices > 1 else ""
    settings = plan.settings
    runs = f"{settings['runs']} runs at once of " if "runs" in settings else ""
    return (
        f"{settings['model']} ({settings['task']}): {plan.parameters:,} parameters on {slices}{plan.topology.name}, "
        f"{plan.topology.size} chips as {shape}\n"
        f"a step: {runs}{settings['batch_size']:,} rows of {settings['row_length']} tokens ({plan.tokens:,}), "
        f"{settings['accumulate']} micro-batch(es), remat {settings['remat']}; "
        f"{'compiled' if plan.is_compiled or plan.memory.refused else 'lowered'} in {plan.compile_seconds:.0f} s"
    )


def to_dict(plan: Plan, price: float | None) -> dict[str, Any]:
    """Returns the plan as JSON values."""
    values = dataclasses.asdict(plan)
    values["memory"]["fits"] = plan.memory.fits
    if plan.times is not None:
        own = {"bound": plan.times.bound, "limited_by": plan.times.limited_by, "step": plan.times.step}
        values["times"] |= own
    values["topology"] = {
        "name": plan.topology.name,
        "slices": plan.topology.slices,
        "chips": plan.topology.size,
        "chip": dataclasses.asdict(plan.topology.chip),
    }
    rate = plan.tokens_per_second
    return values | {
        "compiled": plan.is_compiled,  # if not, times and cost are lower bounds, tokens a second an upper bound
        "tokens_per_step": plan.tokens,
        "tokens_per_second": rate,
        "mfu": plan.mfu,
        "price": price,
        "cost_per_billion_tokens": _cost(plan, price),
        "unknown_collectives": sum(row.count for row in plan.collectives if row.kind.startswith(UNKNOWN)),
        "advice": advise(plan),
    }


def _cost(plan: Plan, price: float | None) -> float | None:
    rate = plan.tokens_per_second
    return None if price is None or rate is None else cost_per_billion_tokens(price, plan.topology.size, rate)


def _memory(memory: Memory) -> Table:
    parts: list[tuple[str, int | None]] = [
        ("parameters", memory.parameters),
        ("optimizer", memory.optimizer),
        ("batch", memory.batch),
        ("activations, gradients", memory.temporaries),
        ("program", None if memory.temporaries is None else memory.program),
        ("peak", memory.peak),
        ("capacity", memory.capacity),
    ]
    rows: list[tuple[Cell, ...]] = [
        (name, None if size is None else size / 2**20, None if size is None else size / memory.capacity)
        for name, size in parts
    ]
    verdict = {True: "fits", False: "DOES NOT FIT", None: "whether it fits is not known without a compiler"}[
        memory.fits
    ]
    if memory.fits is None:
        left = memory.capacity - memory.least
        rows.insert(-1, ("left for activations, gradients", left / 2**20, left / memory.capacity))
    formats = {"MiB": ",.1f", "share": ".1%"}
    return Table(f"Memory of a chip: {verdict}", ("part", "MiB", "share"), rows, footer=2, formats=formats)


def _collectives(plan: Plan) -> Table:
    rows = [
        (row.kind, row.axes, row.count, row.size / 2**20, row.sent / 2**20, 1e3 * row.seconds, 1e3 * row.waited)
        for row in plan.collectives
    ]
    columns = ("kind", "axes", "runs", "MiB", "MiB sent", "ms busy", "ms waited")
    formats: dict[str, str] = dict.fromkeys(columns[3:], ",.2f")
    by = "as compiled" if plan.is_compiled else "by formula"
    return Table(f"Collectives of a step and chip, {by}", columns, rows, formats=formats)


def _times(plan: Plan, price: float | None) -> Table:
    times = plan.times
    assert times is not None
    # Without a compiled program the times by formula are lower bounds.
    most, title = ("", "Time of a step") if plan.is_compiled else (" at the most", "Time of a step, a lower bound")
    rows: list[tuple[Cell, ...]] = [
        ("matrix products at peak", f"{1e3 * times.compute:,.2f} ms"),
        ("memory traffic", f"{1e3 * times.memory:,.2f} ms" if plan.is_compiled else "not known without a compiler"),
        ("links in the slice", f"{1e3 * times.links.inside:,.2f} ms"),
        ("links between slices", f"{1e3 * times.links.between:,.2f} ms"),
        ("roofline (limited by " + times.limited_by + ")", f"{1e3 * times.bound:,.2f} ms"),
    ]
    if times.kernels:
        how = "by the compiler's cost model" if plan.topology.chip.clock else "each at its own roofline"
        rows.append((f"kernels, {how}", f"{1e3 * times.kernels:,.2f} ms"))
    rate = plan.tokens_per_second or 0.0
    rows += [
        ("PREDICTED STEP" if plan.is_compiled else "step at the least", f"{1e3 * times.step:,.2f} ms"),
        (f"tokens a second{most}", f"{rate:,.0f}"),
        (f"tokens a second and chip{most}", f"{rate / plan.topology.size:,.0f}"),
        ("MFU", "not known without a compiler" if plan.mfu is None else f"{plan.mfu:.1%}"),
        ("FLOPs a chip: formula", f"{plan.model_flops:.4g}"),
    ]
    if plan.matmul_flops is not None:
        rows.append(("FLOPs a chip: matrix products of the program", f"{plan.matmul_flops:.4g}"))
    if plan.xla_flops is not None:
        rows.append(("FLOPs a chip: XLA (bodies of loops once)", f"{plan.xla_flops:.4g}"))
    cost = _cost(plan, price)
    if cost is not None:
        least = "" if plan.is_compiled else " at the least"
        rows.append((f"USD for 1e9 tokens at {price:g} a chip hour{least}", f"{cost:,.2f}"))
    return Table(title, ("what", "value"), rows)

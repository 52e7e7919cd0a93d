"""What limits a plan first, and what to change."""

from jaxfm.planning.estimate import Plan

# Share of the memory that parameters and optimizer may take, so that room is left for activations.
_ROOM_FOR_STATE = 0.6


def advise(plan: Plan) -> list[str]:
    """Returns sentences, most important first: what does not fit, or what limits the speed, and what to change."""
    memory, mesh = plan.memory, plan.mesh
    state = memory.parameters + memory.optimizer
    cut = mesh["fsdp"] * mesh["tensor"]
    if state > _ROOM_FOR_STATE * memory.capacity:
        wanted = cut
        while wanted < plan.topology.size and state * cut / wanted > _ROOM_FOR_STATE * memory.capacity:
            wanted *= 2
        first = f"parameters and optimizer alone take {state / memory.capacity:.0%} of a chip's memory"
        if state * cut / wanted > _ROOM_FOR_STATE * memory.capacity:
            return [f"{first}, too much even when sharded over all chips: take more chips, or ones with more memory"]
        return [f"{first}: --config.parallel.mesh.fsdp={mesh['fsdp'] * wanted // cut} leaves room for activations"]
    if memory.fits is False:
        return [_activations(plan)]
    if plan.times is None:
        return []
    if not plan.is_compiled:
        return [
            "without a compiler neither activations nor the time of kernels are known: parameters, optimizer and batch "
            f"leave {(memory.capacity - memory.least) / 2**30:.1f} GiB a chip for activations and gradients, and a "
            "step takes longer than its matrix products at the peak rate"
        ]
    times, advice = plan.times, []
    waiting = times.waiting.inside + times.waiting.between
    if times.links.between > 0.5 * times.step:
        advice.append(
            "the network between slices is busy for more than half of a step: more rows a chip, or "
            "--config.train.accumulate, so that gradients cross it less often"
        )
    if waiting > 0.1 * times.step:
        longest = max(plan.collectives, key=lambda row: row.waited)
        advice.append(
            f"{waiting / times.step:.0%} of a step waits for links, mostly for {longest.kind} over "
            f"{longest.axes}: {_less_of(longest.axes)}"
        )
    if times.kernels and times.kernels > 2 * times.compute:
        advice.append(
            f"the kernels take {times.kernels / times.compute:.1f} times as long as their matrix products alone: "
            "memory-bound parts, small matrices or recomputation; more rows a chip help where they fit"
        )
    return advice or ["nothing stands out: compute takes most of a step"]


def _activations(plan: Plan) -> str:
    accumulate, remat = plan.settings["accumulate"], plan.settings["remat"]
    needed = f", {plan.memory.peak / 2**30:.1f} GiB needed" if plan.memory.peak else ""
    first = f"activations do not fit beside parameters and optimizer{needed}"
    change = {"none": "--config.model.remat=dots (or full)", "dots": "--config.model.remat=full"}.get(remat)
    smaller = f"--config.train.accumulate={2 * accumulate}, or half of --config.train.batch_size"
    return f"{first}: {f'{change}, else ' if change else ''}{smaller}"


def _less_of(axes: str) -> str:
    if "tensor" in axes or "sequence" in axes:
        return "a smaller tensor or sequence axis, or more rows a chip"
    if "fsdp" in axes:
        return "a smaller fsdp axis where memory allows, or more rows a chip"
    return "more rows a chip"

import dataclasses

import jax
import pytest

from jaxfm.errors import UserError
from jaxfm.planning import estimate, sweep
from jaxfm.planning.estimate import Plan, Subject
from jaxfm.planning.hardware import Topology, parse_topology
from tests.planning import small


@pytest.fixture(autouse=True)
def devices(monkeypatch: pytest.MonkeyPatch) -> None:
    small.stand_in(monkeypatch)
    monkeypatch.setattr(sweep, "describe_devices", estimate.describe_devices)
    monkeypatch.setattr(sweep, "device_locations", estimate.device_locations)


def four(chip_memory: float) -> Topology:
    topology = parse_topology("v5e:2x2")
    return dataclasses.replace(topology, chip=dataclasses.replace(topology.chip, hbm=chip_memory))


def test_every_mesh_batch_and_remat_that_exists_is_considered() -> None:
    found = sweep.candidates(Subject.of(small.config()), four(16e9))
    ways = {
        (mesh.data, mesh.fsdp, mesh.tensor, each.config.train.batch_size, each.config.model.remat)
        for each in found
        for mesh in [each.config.parallel.mesh]
    }
    assert len(ways) == len(found)
    # Two heads: tensor 1 or 2; meshes of four chips: 3 and 2; batches 4, 8, 16; three ways to recompute.
    assert len(found) == (3 + 2) * 3 * 3
    assert all(data * fsdp * tensor == 4 and batch % (data * fsdp) == 0 for data, fsdp, tensor, batch, _ in ways)


def test_those_expected_to_be_fastest_come_first() -> None:
    found = sweep.candidates(Subject.of(small.config()), four(16e9))
    rates = [each.tokens / each.seconds for each in found]
    assert rates == sorted(rates, reverse=True)
    # A model this small pays for every byte on the links: copies, nothing recomputed.
    best = found[0].config
    assert best.parallel.mesh.data == 4 and best.model.remat == "none" and best.train.batch_size == 16


def test_what_cannot_fit_is_left_out() -> None:
    roomy, tight = (sweep.candidates(Subject.of(small.config()), four(size)) for size in (16e9, 5e6))
    assert 0 < len(tight) < len(roomy)
    assert all(each.config.parallel.mesh.fsdp * each.config.parallel.mesh.tensor > 1 for each in tight)


def test_a_model_that_nothing_can_hold() -> None:
    with pytest.raises(UserError, match="more chips"):
        sweep.run(Subject.of(small.config()), four(1e5), 2, lambda text: None)


def test_the_best_that_fits_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, topology, said = Subject.of(small.config()), parse_topology("gpu:h100:4"), []
    monkeypatch.setattr(sweep, "describe_devices", lambda topology: jax.devices()[:4])
    made: list[Plan] = []

    def make(subject: Subject, topology: Topology) -> Plan:
        plan = estimate.make_plan(subject, topology)
        if not made:  # the most promising one turns out not to fit
            plan = dataclasses.replace(plan, memory=dataclasses.replace(plan.memory, peak=10**15))
        made.append(plan)
        return plan

    monkeypatch.setattr(sweep, "make_plan", make)
    plans = sweep.run(subject, topology, 3, said.append)
    assert len(plans) == 3 and [plan.memory.fits for plan in plans] == [None, None, False]
    assert plans[-1] is made[0] and plans[0].tokens_per_second >= plans[1].tokens_per_second  # type: ignore[operator]
    assert len(said) == 4 and "compiling 3" in said[-1]
    table = sweep.table(plans, price=2.0)
    assert [row[3] for row in table.rows] == ["not known", "not known", "no"] and all(row[-1] for row in table.rows)

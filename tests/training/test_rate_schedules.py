"""The rate of each update: shapes against closed forms, transformers and torch; the host's numbers are the devices'."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.optim_config import SCHEDULES, OptimConfig
from jaxfm.training.rate_schedules import SHAPES, learning_rate_at, make_schedule

PEAK = 3e-4


def rates(total: int, **values: Any) -> np.ndarray:
    schedule = make_schedule(OptimConfig(learning_rate=PEAK, **values), total)
    return np.asarray([float(schedule(step)) for step in range(total)])


def shape_after(total: int, warmup: int, after: list[float]) -> np.ndarray:
    """Warm-up whose first rate is peak / warmup, then the given shares of the peak."""
    return PEAK * np.asarray([(step + 1) / warmup for step in range(warmup)] + after[: total - warmup])


@pytest.mark.parametrize(("total", "warmup"), [(40, 0), (40, 4), (40, 1), (7, 1), (1, 0), (3, 3)])
def test_schedules_equal_their_closed_forms(total: int, warmup: int) -> None:
    fraction, final = warmup / total, 0.1
    rest = max(total - warmup, 1)
    times = [step / rest for step in range(rest)]
    forms = {
        "linear": [1 - (1 - final) * time for time in times],
        "cosine": [final + (1 - final) * (1 + math.cos(math.pi * time)) / 2 for time in times],
        "constant": [1.0 for _ in times],
        "polynomial": [final + (1 - final) * (1 - time) ** 3 for time in times],
        "inverse_sqrt": [max(final, math.sqrt(max(warmup, 1) / (max(warmup, 1) + step))) for step in range(rest)],
    }
    for name, form in forms.items():
        own = {"decay_power": 3.0} if name == "polynomial" else {}
        got = rates(total, schedule=name, warmup_fraction=fraction, final_fraction=final, **own)
        np.testing.assert_allclose(got, shape_after(total, warmup, form), rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 7, 50])
def test_the_rate_on_the_host_is_that_of_the_optimizer(name: str, total: int) -> None:
    for warmup, decay, final in ((0.0, 0.2, 0.1), (0.1, 0.9, 0.0), (0.5, 0.5, 1.0), (1.0, 0.0, 0.3)):
        values: dict[str, Any] = {"schedule": name, "warmup_fraction": warmup, "final_fraction": final}
        own = {"wsd": {"decay_fraction": decay}, "polynomial": {"decay_power": 1.5}}.get(name, {})
        config = OptimConfig(learning_rate=PEAK, **own, **values)
        try:
            schedule = make_schedule(config, total)
        except UserError:  # parts that overlap
            continue
        steps = range(total + 3)
        host = [learning_rate_at(config, total, step) for step in steps]
        wanted = np.broadcast_to(schedule(jnp.arange(total + 3)), total + 3)
        np.testing.assert_allclose(host, wanted, rtol=1e-5, atol=1e-10)


def test_wsd_is_flat_until_the_last_steps() -> None:
    got = rates(50, schedule="wsd", warmup_fraction=0.1, decay_fraction=0.2, final_fraction=0.05)
    form = [1.0] * 35 + [1 - 0.95 * step / 10 for step in range(10)]
    np.testing.assert_allclose(got, shape_after(50, 5, form), rtol=1e-5)


def test_wsd_whose_parts_overlap_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"config\.optim\.decay_fraction: 0\.6 .*warmup_fraction 0\.5 .*overlap: 25 \+ 30"
    ):
        rates(50, schedule="wsd", warmup_fraction=0.5, decay_fraction=0.6)


def test_the_linear_schedule_is_that_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    import transformers

    def theirs(warmup: int) -> np.ndarray:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
        schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, 60)
        found = []
        for _ in range(60):
            found.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        return np.asarray(found)

    np.testing.assert_allclose(rates(60, warmup_fraction=0.0), theirs(0), rtol=1e-5)
    # Their warm-up wastes its first update on the rate 0 and so is one step behind; after it both are equal.
    warm = rates(60, warmup_fraction=0.2)
    np.testing.assert_allclose(warm[12:], theirs(12)[12:], rtol=1e-5)
    np.testing.assert_allclose(warm[:11], theirs(12)[1:12], rtol=1e-5)


def test_the_table_of_shapes_is_whole() -> None:
    assert tuple(SHAPES) == SCHEDULES


def theirs(name: str, total: int, **settings: Any) -> np.ndarray:
    """The rates of a schedule of transformers or torch."""
    torch = pytest.importorskip("torch")
    import transformers

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    if name == "one_cycle":
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, PEAK, total_steps=total, cycle_momentum=False, **settings
        )
    else:
        schedule = getattr(transformers, f"get_{name}")(optimizer, **settings)
    found = []
    for _ in range(total):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return np.asarray(found)


def test_the_inverse_square_root_is_that_of_transformers() -> None:
    # Theirs wastes its first update on the rate 0, and so is one step behind.
    wanted = theirs("inverse_sqrt_schedule", 61, num_warmup_steps=12)
    got = rates(60, schedule="inverse_sqrt", warmup_fraction=0.2)
    np.testing.assert_allclose(got[12:], wanted[12:60], rtol=1e-5)
    np.testing.assert_allclose(got[:11], wanted[1:12], rtol=1e-5)
    floored = rates(60, schedule="inverse_sqrt", warmup_fraction=0.2, final_fraction=0.6)
    np.testing.assert_allclose(floored, np.where(np.arange(60) < 12, got, np.maximum(got, 0.6 * PEAK)), rtol=1e-5)


def test_the_polynomial_is_that_of_transformers() -> None:
    wanted = theirs(
        "polynomial_decay_schedule_with_warmup",
        60,
        num_warmup_steps=0,
        num_training_steps=60,
        lr_end=0.1 * PEAK,
        power=3.0,
    )
    got = rates(60, schedule="polynomial", warmup_fraction=0.0, final_fraction=0.1, decay_power=3.0)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


def test_one_cycle_is_that_of_torch() -> None:
    # Theirs has its peak at update 0.3 * 50 - 1 = 14 and its lowest rate at the last; ours begins to fall after 14.
    wanted = theirs("one_cycle", 50, pct_start=0.3, div_factor=25.0, final_div_factor=4.0)  # ends at peak / 100
    got = rates(49, schedule="one_cycle", warmup_fraction=14 / 49, final_fraction=0.01)
    np.testing.assert_allclose(got, wanted[:49], rtol=1e-4)


def test_keys_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        rates(50, schedule="cosine", decay_fraction=0.3)
    assert str(caught.value) == (
        "config.optim.decay_fraction: 0.3 is read by schedule='wsd' alone, and config.optim.schedule is 'cosine'. "
        "Leave it at 0.2, or take that schedule."
    )
    with pytest.raises(UserError, match=r"config\.optim\.decay_power: 3\.0 is read by schedule='polynomial' alone"):
        rates(50, decay_power=3.0)

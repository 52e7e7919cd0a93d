"""The schedule of the share of masked tokens."""

import re
from typing import Any, NamedTuple

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.tasks.mask_ratios import check_stages, mean_ratio, ratio_at, starts_of


class Schedule(NamedTuple):
    ratios: tuple[float, ...]
    ratio_starts: tuple[float, ...] = ()


STAGES = Schedule((0.3, 0.15, 0.05), (0.6, 0.9))


def test_stages_hold_until_the_next() -> None:
    wanted = {0.0: 0.3, 0.59: 0.3, 0.6: 0.15, 0.89: 0.15, 0.9: 0.05, 1.0: 0.05}
    assert [float(ratio_at(STAGES, at)) for at in wanted] == pytest.approx(list(wanted.values()))
    assert mean_ratio(STAGES) == pytest.approx(0.6 * 0.3 + 0.3 * 0.15 + 0.1 * 0.05)
    # The step that begins a stage is one number, whatever the others: progress is compared, nothing is added up.
    starts = np.arange(1000, dtype=np.float32) / np.float32(1000)
    assert int(np.argmax([float(ratio_at(STAGES, each)) < 0.3 for each in starts])) == 600


def test_without_stages_the_share_is_linear() -> None:
    line = Schedule((0.4, 0.1))
    assert [ratio_at(line, at) for at in (0.0, 0.5, 1.0)] == pytest.approx([0.4, 0.25, 0.1])
    assert mean_ratio(line) == pytest.approx(0.25)


def test_stages_start_at_equal_intervals_where_nothing_is_said() -> None:
    assert starts_of((), ()) == ()
    assert starts_of((0.1, 0.05), ()) == pytest.approx((1 / 3, 2 / 3))
    assert starts_of((0.1, 0.05), (0.5, 0.7)) == (0.5, 0.7)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (((), (0.5,), None), "config.task.later_at: is (0.5,), but config.task.later_ratios is empty"),
        (((0.1,), (), 0.2), "config.task.final_ratio: is 0.2, but later_ratios (0.1,) are steps"),
        (((0.1, 0.95), (), None), "config.task.later_ratios: 0.95 must be above 0 and at most 0.9"),
        (((0.0,), (), None), "config.task.later_ratios: 0.0 must be above 0"),
        (((0.1, 0.05), (0.5,), None), "config.task.later_at: has 1 numbers, but later_ratios 2"),
        (((0.1, 0.05), (0.5, 0.5), None), "config.task.later_at: (0.5, 0.5) must be ascending"),
        (((0.1,), (0.0,), None), "config.task.later_at: (0.0,) must be ascending shares of the run, above 0"),
        (((0.1,), (1.0,), None), "above 0 and below 1"),
    ],
)
def test_what_is_no_schedule_is_refused(given: Any, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        check_stages(*given)


def test_schedules_are_accepted() -> None:
    check_stages((), (), None)
    check_stages((), (), 0.1)
    check_stages((0.15, 0.05), (), None)
    check_stages((0.15, 0.05), (0.5, 0.9), None)

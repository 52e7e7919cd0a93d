"""Programs timed in turns."""

import time

from jaxfm.training import latency


def test_calls_take_turns_and_the_median_counts() -> None:
    order: list[str] = []
    slow = iter([0.0, 0.02, 0.3, 0.02])

    def first() -> None:
        order.append("first")
        time.sleep(0.001)

    def second() -> None:
        order.append("second")
        time.sleep(next(slow))

    found = latency.in_turns({"first": first, "second": second}, turns=3)
    assert order == ["first", "second"] * 4
    assert 0.001 <= found["first"] < 0.02 <= found["second"] < 0.2

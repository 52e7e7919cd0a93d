"""What is held out by groups and times: whole groups, the latest records, as near to the share as can be."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from jaxfm.data.records.key_holdout import choose_groups, choose_latest
from jaxfm.data.records.record_times import moment_of

GROUPS = st.lists(st.integers(0, 12).map(lambda number: f"g{number}"), min_size=1, max_size=80)
SHARES = st.sampled_from([0.02, 0.1, 0.25, 0.5])


def sides(groups, chosen):
    held = {group for group, out in zip(groups, chosen, strict=True) if out}
    kept = {group for group, out in zip(groups, chosen, strict=True) if not out}
    return kept, held


@settings(max_examples=150, deadline=None)
@given(groups=GROUPS, share=SHARES, seed=st.integers(0, 3))
def test_groups_stay_whole_and_the_share_is_as_near_as_groups_allow(groups, share, seed):
    chosen = choose_groups(groups, share, ["record"] * len(groups))
    kept, held = sides(groups, chosen)
    assert not kept & held and kept
    if len(set(groups)) == 1:
        assert not held
        return
    # The rule, by brute force: no group that is left could be added, or put in the place of nothing, to come nearer.
    wanted = max(round(share * len(groups)), 1)
    sizes = {group: groups.count(group) for group in kept}
    off = abs(sum(chosen) - wanted)
    assert held
    if sum(chosen) <= wanted and len(kept) > 1:
        assert all(abs(sum(chosen) + size - wanted) >= off for size in sizes.values())
        assert off <= min(sizes.values()) / 2 or min(sizes.values()) + sum(chosen) - wanted >= off
    if sum(chosen) > wanted:  # one group more than fits: the smallest that was too large
        last = sum(chosen) - wanted
        assert all(groups.count(group) > last for group in held)
    order = list(range(len(groups)))
    random.Random(seed).shuffle(order)
    again = choose_groups([groups[i] for i in order], share, ["record"] * len(groups))
    assert again == [chosen[i] for i in order]


def test_the_size_is_within_half_of_the_smallest_group_left():
    draw = random.Random(5)
    for _ in range(50):
        groups = [f"p{number}" for number in range(60) for _ in range(draw.randint(1, 9))]
        chosen = choose_groups(groups, 0.2, ["record"] * len(groups))
        kept, _ = sides(groups, chosen)
        assert abs(sum(chosen) - round(0.2 * len(groups))) <= min(groups.count(group) for group in kept) / 2


def test_groups_keep_their_side_when_records_are_added():
    draw = random.Random(1)
    groups = [f"p{draw.randrange(300)}" for _ in range(3000)]
    more = groups + [f"p{draw.randrange(315)}" for _ in range(150)]  # a twentieth more, of old and of new groups
    _, before = sides(groups, choose_groups(groups, 0.2, ["record"] * len(groups)))
    _, after = sides(more, choose_groups(more, 0.2, ["record"] * len(more)))
    assert len(before & after) >= 0.9 * len(before)


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.sampled_from("uvwxyz"), st.sampled_from("aaabbc")), min_size=2, max_size=40),
    share=SHARES,
)
def test_the_last_records_of_a_class_stay_in_training(pairs, share):
    groups, targets = zip(*pairs, strict=True)
    chosen = choose_groups(groups, share, targets)
    assert {target for target, out in zip(targets, chosen, strict=True) if not out} == set(targets)


@settings(max_examples=150, deadline=None)
@given(times=st.lists(st.integers(0, 15), min_size=1, max_size=60), share=SHARES)
def test_the_latest_records_are_held_out_and_equal_times_stay_together(times, share):
    chosen = choose_latest([moment_of(time, "t", "a") for time in times], share)
    held = [time for time, out in zip(times, chosen, strict=True) if out]
    kept = [time for time, out in zip(times, chosen, strict=True) if not out]
    if len(set(times)) == 1:
        assert not held
        return
    assert max(kept) < min(held)
    wanted = max(round(share * len(times)), 1)
    borders = [sum(time >= border for time in times) for border in sorted(set(times))[1:]]
    assert abs(len(held) - wanted) == min(abs(count - wanted) for count in borders)

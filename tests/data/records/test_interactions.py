"""Tables of interactions read, and histories made of them, against slow versions."""

import collections
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfm.data.records.histories import BY_TIME, LEAVE_ONE_OUT, NO_ITEM, k_core, make_histories
from jaxfm.data.records.interactions import InteractionColumns, make_interactions, read_interactions
from jaxfm.data.records.quickstart_shop import draw_histories, make_shop
from jaxfm.errors import UserError

PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=40)


def write(folder: pathlib.Path, text: str, name: str = "a.csv") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return f"csv:{folder / name}"


def made(rows: list[tuple[int, int, int]]):
    user, item, time = (list(column) for column in zip(*rows, strict=True))
    users, items = (tuple(f"{kind}{number}" for number in range(6)) for kind in "ui")
    return make_interactions(users, items, user, item, [float(each) for each in time], "made")


def test_a_table_is_put_in_order(tmp_path: pathlib.Path) -> None:
    found = read_interactions(write(tmp_path, "userId,movieId,timestamp\nb,7,30\na,5,20\na,7,10\na,5,20\nb,5,30\n"))
    assert (found.users, found.items) == (("b", "a"), ("7", "5"))
    assert list(zip(found.user, found.item, found.time, strict=True)) == [
        (0, 0, 30.0),
        (0, 1, 30.0),  # of one time: as in the file
        (1, 0, 10.0),
        (1, 1, 20.0),
    ]
    assert "1 records that were there twice left out" in found.note


def test_dates_are_times(tmp_path: pathlib.Path) -> None:
    text = "user,item,date\na,x,2024-05-31\na,y,2024-05-31T00:00:01\na,z,2024-05-31T02:00:00+02:00\n"
    found = read_interactions(write(tmp_path, text))
    assert found.time.tolist() == [1717113600.0, 1717113600.0, 1717113601.0]
    assert [found.items[number] for number in found.item] == ["x", "z", "y"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,item,time\na,,3\n", r"a\.csv:2: 'item' is empty"),
        ("user,item,time\na,x,soon\n", r"a\.csv:2: the time in 'time' is \"soon\", but must be a number, or a date"),
        ("user,item,time\na,x,nan\n", r"a\.csv:2: the time in 'time'"),
        ("user,item,time\na,x,3\na,y,2024-01-01\n", r"a\.csv:3: the time in 'time' is a date, but that of .*:2 is a n"),
        ("user,item,time\n", "is empty"),
        ("user,thing,time\na,x,3\n", r"no column for the item .*: set config\.task\.item_column"),
    ],
)
def test_mistakes_have_their_place(text: str, message: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=message):
        read_interactions(write(tmp_path, text))


def test_columns_are_three_and_splits_are_none(tmp_path: pathlib.Path) -> None:
    source = write(tmp_path, "user,item,time\na,x,3\n", "train.csv")
    with pytest.raises(UserError, match="must be three columns"):
        read_interactions(source, InteractionColumns(item="user"))
    write(tmp_path, "user,item,time\na,x,3\n", "test.csv")
    with pytest.raises(UserError, match="has the splits .*, but what is held out"):
        read_interactions(f"csv:{tmp_path}")


@given(PAIRS, st.integers(0, 4), st.integers(0, 4))
def test_the_core_is_the_largest_set_that_fits(rows: list[tuple[int, int, int]], per_user: int, per_item: int) -> None:
    user, item = (np.asarray([row[place] for row in rows], np.int32) for place in (0, 1))
    kept = k_core(user, item, per_user, per_item)
    left = [row[:2] for row in rows]
    while True:  # one interaction at a time, in any order
        users, items = (collections.Counter(row[place] for row in left) for place in (0, 1))
        bad = next((row for row in left if users[row[0]] < per_user or items[row[1]] < per_item), None)
        if bad is None:
            break
        left.remove(bad)
    assert sorted(zip(user[kept].tolist(), item[kept].tolist(), strict=True)) == sorted(left)


@given(PAIRS)
def test_of_each_user_the_last_two_items_are_held_out(rows: list[tuple[int, int, int]]) -> None:
    found = made(rows)
    by_user = {
        name: [found.items[item] for item in found.item[found.user == number]]
        for number, name in enumerate(found.users)
    }
    long = {name: taken for name, taken in by_user.items() if len(taken) >= 3}
    if not long:
        with pytest.raises(UserError, match="nobody has an item to be predicted in valid"):
            make_histories(found, split=LEAVE_ONE_OUT)
        return
    made_of = make_histories(found, split=LEAVE_ONE_OUT)
    for split, back in (("valid", 2), ("test", 1)):
        assert {
            made_of.users[target.user]: (
                [made_of.items[item] for item in made_of.before(target)],
                made_of.items[made_of.item(target)],
            )
            for target in made_of.targets[split]
        } == {name: (taken[:-back], taken[-back]) for name, taken in long.items()}
    training = {
        name: [made_of.items[item] for item in made_of.training(user)] for user, name in enumerate(made_of.users)
    }
    assert training == {name: taken[:-2] if name in long else taken for name, taken in by_user.items() if taken}


@given(PAIRS, st.sampled_from([0.1, 0.25, 0.4]))
def test_by_time_nothing_looks_ahead(rows: list[tuple[int, int, int]], held_out: float) -> None:
    found = made(rows)
    try:
        made_of = make_histories(found, split=BY_TIME, held_out=held_out)
    except UserError:
        return
    records = [
        (found.users[user], found.items[item], time)
        for user, item, time in zip(found.user, found.item, found.time, strict=True)
    ]
    times = sorted(time for *_, time in records)
    valid, test = (times[min(round(len(times) * (1 - share)), len(times) - 1)] for share in (2 * held_out, held_out))
    known = {item for _, item, time in records if time < valid}
    assert set(made_of.items) == known
    for user, name in enumerate(made_of.users):
        own = [(item, time) for each, item, time in records if each == name]
        assert [made_of.items[item] for item in made_of.training(user)] == [item for item, time in own if time < valid]
        for split, first, end in (("valid", valid, test), ("test", test, np.inf)):
            (target,) = [each for each in made_of.targets[split] if each.user == user] or [None]
            later = [item for item, time in own if first <= time < end]
            before = [item for item, time in own if time < first and item in known]
            if target is None:
                assert not later or not before
                continue
            assert [made_of.items[item] for item in made_of.before(target)] == before
            number = made_of.item(target)
            assert later[0] == made_of.items[number] if number != NO_ITEM else later[0] not in known


def test_the_best_ranking_of_the_shop_is_that_of_what_was_drawn() -> None:
    shop = make_shop(genres=2, items=4, seed=1)
    counts = np.zeros(len(shop.items))
    drawn = [taken for seed in range(8) for taken in draw_histories(shop, 4000, seed, (4, 4))]
    # Items of one genre, then of another, then of the first one: who goes on, and with what?
    starts = collections.Counter(tuple(taken[:3]) for taken in drawn if [item // 4 for item in taken[:3]] == [0, 1, 0])
    start = list(starts.most_common(1)[0][0])
    following = [taken for taken in drawn if taken[:3] == start]
    for taken in following:
        counts[taken[3]] += 1
    assert len(following) > 100
    best = shop.best_scores(start)
    assert best.sum() == pytest.approx(1.0) and not best[start].any()
    # Six standard deviations of each share.
    bound = 6 * np.sqrt(best * (1 - best) / len(following)) + 1e-9
    assert (np.abs(counts / len(following) - best) <= bound).all()
    assert all(len({*taken}) == len(taken) for taken in following)

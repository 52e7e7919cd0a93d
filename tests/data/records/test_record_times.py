"""Times: their order is that of the calendar, and what has no order is refused."""

import datetime
import itertools

import pytest

from jaxfm.data.records.record_times import DAY, LOCAL, NUMBER, ZONED, check_kind, moment_of
from jaxfm.errors import UserError

UTC = datetime.UTC
EAST = datetime.timezone(datetime.timedelta(hours=2))


@pytest.mark.parametrize(
    ("kind", "ordered"),
    [
        (NUMBER, [-3, "-2.5", 0, 0.25, "1e2", 101, 1_700_000_000_000_000_001, "1700000000000000002"]),
        (DAY, ["1999-12-31", "2000-01-01", datetime.date(2000, 2, 29), "2000-03-01"]),
        (LOCAL, ["2024-01-31T23:59", "2024-02-01 00:00:00", "2024-02-01T00:00:00.5", datetime.datetime(2024, 2, 2)]),
        (
            ZONED,
            [
                "2024-01-31T12:00+02:00",  # 10:00 UTC
                "2024-01-31T11:00:00Z",
                datetime.datetime(2024, 1, 31, 13, 30, tzinfo=EAST),  # 11:30 UTC
                "2024-01-31T09:00:00-0300",  # 12:00 UTC
            ],
        ),
    ],
)
def test_times_of_a_kind_have_the_order_of_the_calendar(kind, ordered):
    moments = [moment_of(value, "day", "a.csv:1") for value in ordered]
    assert {moment.kind for moment in moments} == {kind}
    for first, second in itertools.pairwise(moments):
        assert first.value < second.value


def test_one_moment_in_two_zones_is_one_time():
    texts = ("2024-01-31T12:00+02:00", "2024-01-31T10:00:00Z")
    assert len({moment_of(text, "day", "a.csv:1").value for text in texts}) == 1


@pytest.mark.parametrize(
    "value",
    ["yesterday", "31.01.2024", "2024-1-31", "2024-02-30", "2024-01-31T25:00", "2024-01-31Z", "nan", "1e999999", "",
     True, float("inf"), [2024], "2024-W05-3", "٣", "2024-01-31T12:00:00.1234567"],
)  # fmt: skip
def test_what_is_no_time_is_refused_with_its_place(value):
    with pytest.raises(UserError, match=r"^a\.csv:7: .* in 'day' is no time: .*2024-01-31T12:30:05Z"):
        moment_of(value, "day", "a.csv:7")


@pytest.mark.parametrize(
    "pair", [*itertools.combinations((3, "2024-01-31", "2024-01-31T10:00", "2024-01-31T10:00Z"), 2)], ids=str
)
def test_two_kinds_are_refused_with_both_places(pair):
    first, second = (moment_of(value, "day", "x") for value in pair)
    with pytest.raises(UserError, match=r"^b\.csv:2: .* \(a\.csv:1\) is .*: there is no order between them"):
        check_kind(second, "b.csv:2", first, "a.csv:1", "day")
    check_kind(first, "b.csv:2", first, "a.csv:1", "day")

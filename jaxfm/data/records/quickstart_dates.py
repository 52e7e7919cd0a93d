"""The pairs of `quickstart` of sequence-to-sequence models: dates as people write them, and the same as YYYY-MM-DD.

The text is SYNTHETIC: there is one right answer, so that a model which has learned has 100 % exact match. The days of
valid and test are not in train.
"""

import datetime
import random
from collections.abc import Iterator, Mapping, Sequence

from jaxfm.data.corpora.documents import uniform_hash

COLUMNS = ("source", "target")
PAIRS: Mapping[str, int] = {"train": 6000, "valid": 200, "test": 400}
_FIRST, _DAYS = datetime.date(1950, 1, 1), 100 * 365
# Bounds of the hash of a day.
_SHARES: Mapping[str, tuple[float, float]] = {"train": (0.0, 0.8), "valid": (0.8, 0.9), "test": (0.9, 1.0)}
_MONTHS = (
    "January February March April May June July August September October November December".split()
)  # fmt: skip


def build(split: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Yields origin and values of COLUMNS of each pair of a split; the same at every call."""
    rng = random.Random(f"quickstart dates {split}")
    low, high = _SHARES[split]
    number = 0
    while number < PAIRS[split]:
        day = _FIRST + datetime.timedelta(days=rng.randrange(_DAYS))
        if low <= uniform_hash(day.isoformat()) < high:
            yield f"quickstart/{split}[{number}]", (_written(day, rng), day.isoformat())
            number += 1


def _written(day: datetime.date, rng: random.Random) -> str:
    """Returns a day in one of the ways in which people write it."""
    month = _MONTHS[day.month - 1]
    return rng.choice(
        (
            f"{day.day} {month} {day.year}",
            f"{month} {day.day}, {day.year}",
            f"the {day.day}{_ending(day.day)} of {month} {day.year}",
            f"{day.day}.{day.month}.{day.year}",
            f"{day.day:02}/{day.month:02}/{day.year}",
            f"{month[:3]} {day.day} {day.year}",
        )
    )


def _ending(number: int) -> str:
    """Returns "st", "nd", "rd" or "th"."""
    return "th" if 10 < number < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")

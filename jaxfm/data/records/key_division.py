"""Records divided into splits by group and time, and splits that are not: leaks are refused, dropped or said aloud."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from jaxfm.data.records.holdout import holdout_share
from jaxfm.data.records.key_holdout import Targets, choose_groups, choose_latest
from jaxfm.data.records.record_times import Moment
from jaxfm.data.records.split_keys import (
    ALLOW,
    DROP,
    GROUP_KEY,
    REFUSE,
    TIME_KEY,
    Key,
    RecordKeys,
    SplitKeys,
    check_key,
)
from jaxfm.data.records.splits import SPLIT_NAMES
from jaxfm.errors import UserError

R = TypeVar("R")
_EXAMPLES = 3  # of groups or records in a message
_WARNING = "WARNING: "


class LeakError(UserError):
    """Splits of a source share groups, or train on what is not before the others."""


class _Member(NamedTuple):
    """A record: its number among those of its split that were read (-1: its split is not read), place and key."""

    number: int
    origin: str
    key: Key


_Parts = dict[str, list[_Member]]


@dataclasses.dataclass(frozen=True)
class Divided(Generic[R]):
    """Records by split.

    Attributes:
        read: split -> records, in the order of the source; with "valid" where it is held out.
        notes: split -> what its note says of groups, times and leaks; each part begins with "; ".
        share: of train that is held out; 0: none.
    """

    read: dict[str, list[R]]
    notes: dict[str, str]
    share: float = 0.0


def as_one_target(records: Sequence[object]) -> Targets:
    """Returns targets of records that have no classes."""
    return ["record"] * len(records)


def divide_by_keys(
    source: str,
    read: Mapping[str, Sequence[R]],
    by: SplitKeys,
    keys: Callable[[], RecordKeys],
    *,
    given: Collection[str],
    holdout: float | None,
    origin: Callable[[R], str],
    targets: Callable[[Sequence[R]], Targets] = as_one_target,
) -> Divided[R]:
    """Divides records that were read so that no two splits share a group and training records are before all others.

    What is held out of train: whole groups, or with times the latest records. Where there are both columns, time
    decides, and groups on both sides are leaks. Nothing is looked at where test alone is read, or valid without
    `by.leaks` being DROP: these are as they are in any case.

    Args:
      source: the URI.
      read: split -> records; "train" for a valid that is to be held out.
      by: the columns.
      keys: reads the keys of all records of the source.
      given: splits that the source has.
      holdout: this share of train becomes valid where it is not given; 0: none; None: by size (`holdout_share`).
      origin: of a record, its place.
      targets: of training records, for `choose_groups`.

    Raises:
      LeakError: splits that leak, where `by.leaks` is REFUSE.
      UserError: as `keys`; a record without group or time; nothing that can be held out; nothing left.
    """
    if "train" not in read and not ("valid" in read and by.leaks == DROP):
        return Divided({split: list(records) for split, records in read.items()}, dict.fromkeys(read, ""))
    known = keys()
    parts: _Parts = {}
    for split in SPLIT_NAMES:
        if split in read:
            places = [origin(record) for record in read[split]]
            parts[split] = [
                _Member(number, place, check_key(known[split].get(place), by, place))
                for number, place in enumerate(places)
            ]
        elif split in given:
            parts[split] = [_Member(-1, place, key) for place, key in known[split].items() if _is_whole(key, by)]
    of_split = {split: read[split] for split in read}
    division = _Division(source, by)
    share = 0.0
    if by.leaks != ALLOW:
        division.check(parts)
    if holdout != 0 and "valid" not in given and "train" in read:
        share = holdout_share(holdout, len(parts["train"]))
        kept = [read["train"][member.number] for member in parts["train"]]
        _hold_out(source, parts, by, share, targets(kept))
        of_split["valid"], division.held_out = read["train"], True
        share = len(parts["valid"]) / (len(parts["train"]) + len(parts["valid"]))
    division.check(parts)
    return Divided(
        {split: [records[member.number] for member in parts[split]] for split, records in of_split.items()},
        {split: division.note(split, parts, share) for split in of_split},
        share,
    )


def hold_out(keys: Sequence[Key], by: SplitKeys, share: float, targets: Targets) -> list[bool]:
    """Returns which records are held out: the latest ones where there are times, otherwise whole groups.

    None where that is impossible; see `choose_groups` and `choose_latest`.
    """
    if by.time:
        return choose_latest([key.time for key in keys if key.time is not None], share)
    return choose_groups([key.group or "" for key in keys], share, targets)


def key_notes(notes: Iterable[str]) -> list[str]:
    """Returns those of a task's notes that speak of groups or times of a split."""
    return [note for note in notes if f"({GROUP_KEY}" in note or f"({TIME_KEY}" in note]


def leak_warnings(notes: Iterable[str]) -> list[str]:
    """Returns the leaks that `data.leaks=allow` has let through, of a task's notes."""
    parts = [part for note in key_notes(notes) for part in note.split("; ")]
    return list(dict.fromkeys(part.removeprefix(_WARNING) for part in parts if part.startswith(_WARNING)))


def _is_whole(key: Key, by: SplitKeys) -> bool:
    return not (by.group and key.group is None) and not (by.time and key.time is None)


def _time(member: _Member) -> Moment:
    assert member.key.time is not None
    return member.key.time


def _hold_out(source: str, parts: _Parts, by: SplitKeys, share: float, targets: Targets) -> None:
    """Moves what is held out of "train" to "valid"."""
    train = parts["train"]
    chosen = hold_out([member.key for member in train], by, share, targets)
    if not any(chosen):
        what = f"they have one time by {by.time!r}" if by.time else f"there is one group by {by.group!r}"
        if not by.time and len({member.key.group for member in train}) > 1:
            what = f"each group by {by.group!r} has the only records of some class, or training would lack classes"
        raise UserError(
            f"{source}: it has no split 'valid', and none of the {len(train):,} training records can be held out: "
            f"{what} ({by.said}). Give more, a file of validation records, or config.data.holdout=0 for no validation."
        )
    parts["train"] = [member for member, held in zip(train, chosen, strict=True) if not held]
    parts["valid"] = [member for member, held in zip(train, chosen, strict=True) if held]


class _Division:
    """What is done about leaks, and what is said of it."""

    def __init__(self, source: str, by: SplitKeys) -> None:
        """Starts without any."""
        self._source, self._by = source, by
        self.held_out = False
        self._dropped: dict[str, int] = {}
        self._warnings: list[str] = []

    def check(self, parts: _Parts) -> None:
        """Looks for leaks; takes their records out of `parts`, or raises LeakError, as `leaks` says."""
        refused = []
        for find in (self._early, self._shared):
            leak = find(parts)
            if leak is None:
                continue
            if self._by.leaks == REFUSE:
                refused.append(f"{leak.message}. {self._ways(leak)}")
            elif self._by.leaks == DROP:
                self._drop(parts, leak.members)
            else:
                self._warnings.append(f"{_WARNING}{leak.message} (config.data.leaks={ALLOW})")
        if refused:
            raise LeakError(f"{self._source}: {' '.join(refused)}")

    def note(self, split: str, parts: _Parts, share: float) -> str:
        """Returns what the note of a split says."""
        by, own, note = self._by, parts[split], ""
        if self.held_out and split == "valid":
            how = f"the latest by {by.time!r}" if by.time else f"whole groups by {by.group!r}, chosen by a hash"
            note += f"; {share:.1%} of train, {how}"
        elif self.held_out and split == "train":
            note += f"; without the {len(parts['valid']):,} that are valid"
        if by.group:
            count = len({member.key.group for member in own})
            note += f"; {len(own):,} records of {count:,} group{'s' * (count > 1)} by {by.group!r} ({GROUP_KEY})"
        if by.time:
            times = [_time(member) for member in own]
            note += f"; {min(times).text} to {max(times).text} by {by.time!r} ({TIME_KEY})"
        if dropped := self._dropped.get(split):
            note += f"; {dropped:,} records left out that leak (config.data.leaks={DROP})"
        warned = next(name for name in SPLIT_NAMES if name in parts)
        return note + "".join(f"; {warning}" for warning in self._warnings if split == warned)

    def _drop(self, parts: _Parts, leaking: Mapping[str, Collection[str]]) -> None:
        for split, origins in leaking.items():
            kept = [member for member in parts[split] if member.origin not in origins]
            self._dropped[split] = self._dropped.get(split, 0) + len(parts[split]) - len(kept)
            parts[split] = kept
            if not kept:
                raise UserError(
                    f"{self._source}: config.data.leaks={DROP} leaves no record of {split}: all of them leak by "
                    f"{self._by.said}. Divide the records anew, or set config.data.leaks={ALLOW}."
                )

    def _shared(self, parts: _Parts) -> "_Leak | None":
        """Finds groups of several splits; their records leak from all but the last of these."""
        if not self._by.group:
            return None
        of_group: dict[str, dict[str, _Member]] = {}
        in_order = [(split, parts[split]) for split in SPLIT_NAMES if split in parts]
        for split, own in in_order:
            for member in own:
                of_group.setdefault(member.key.group or "", {}).setdefault(split, member)
        shared = {group: first for group, first in of_group.items() if len(first) > 1}
        if not shared:
            return None
        counts = []
        leaking: dict[str, set[str]] = {}
        for split, own in in_order:
            inside = [member for member in own if member.key.group in shared]
            later = {member.origin for member in inside if list(shared[member.key.group or ""])[-1] != split}
            counts += [f"{len(inside):,} of the {len(own):,} records of {split}"] if inside else []
            leaking |= {split: later} if later else {}
        shown = [
            f"{group!r} ({' and '.join(member.origin for member in first.values())})"
            for group, first in list(shared.items())[:_EXAMPLES]
        ]
        many = len(shared)
        message = (
            f"{many:,} group{'s' * (many > 1)} by {self._by.group!r} ({GROUP_KEY}) "
            f"{'are' if many > 1 else 'is'} in more than one split, with {' and '.join(counts)}: such as "
            f"{', '.join(shown)}"
        )
        return _Leak(message, leaking, "by whole groups")

    def _early(self, parts: _Parts) -> "_Leak | None":
        """Finds training records that are not before all records of the other splits."""
        if not self._by.time:
            return None
        others = [
            (_time(member).value, split, member) for split in ("valid", "test") for member in parts.get(split, ())
        ]
        if not others or "train" not in parts:
            return None
        first, split, earliest = min(others, key=lambda each: each[0])
        late = [member for member in parts["train"] if _time(member).value >= first]
        if not late:
            return None
        same = sum(_time(member).value == first for member in late)
        ties = f", {same:,} of them at that very time" if same else ""
        shown = [f"{_time(member).text} ({member.origin})" for member in late[:_EXAMPLES]]
        message = (
            f"{len(late):,} of the {len(parts['train']):,} records of train {'are' if len(late) > 1 else 'is'} not "
            f"before the first record of {split}, {_time(earliest).text} ({earliest.origin}), by {self._by.time!r} "
            f"({TIME_KEY}){ties}: such as {', '.join(shown)}"
        )
        return _Leak(message, {"train": {member.origin for member in late}}, "by time, the latest")

    def _ways(self, leak: "_Leak") -> str:
        """Says what a person can do."""
        lost = " and ".join(f"{len(origins):,} of {split}" for split, origins in leak.members.items())
        first = f"Join the splits into one file and let config.data.holdout divide it anew {leak.how}"
        if self.held_out:
            first = f"Leave config.{GROUP_KEY} or config.{TIME_KEY} empty, as time has put these groups on both sides"
        return (
            f"{first}; or set config.data.leaks={DROP} to leave out the records that leak ({lost}), or "
            f"config.data.leaks={ALLOW} to take them as they are, which the report then says."
        )


class _Leak(NamedTuple):
    """A leak: what is wrong, split -> places of the records that would be left out, how a holdout would divide."""

    message: str
    members: Mapping[str, Collection[str]]
    how: str

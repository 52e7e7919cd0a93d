"""Interactions as one history a user, and which items of it are held out."""

# N interactions, U users, I items

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxfm.data.records.interactions import Interactions
from jaxfm.errors import UserError

LEAVE_ONE_OUT, BY_TIME = SPLITS = ("leave_one_out", "time")
NO_ITEM = -1  # a target that is no item of the catalogue
_FEWEST = 3  # items of a user of whom two are held out and one is left


class Target(NamedTuple):
    """An item to be predicted.

    Attributes:
      user: number of the user.
      place: how many items of the user's history come before it.
    """

    user: int
    place: int


@dataclasses.dataclass(frozen=True, eq=False)
class Histories:
    """What users took, in the order of time.

    Attributes:
      users: names.
      items: names: the catalogue, in which items have their numbers.
      taken: of each user int32 [L], numbers of items; `NO_ITEM` for those that are not in the catalogue.
      known: [U] how many of them are for training.
      targets: "valid" and "test" -> what is to be predicted.
      notes: lines for the log.
    """

    users: tuple[str, ...]
    items: tuple[str, ...]
    taken: tuple[np.ndarray, ...]
    known: np.ndarray
    targets: dict[str, tuple[Target, ...]]
    notes: tuple[str, ...]

    def training(self, user: int) -> np.ndarray:
        """Returns the items of a user that training sees, of the catalogue, int32 [L]."""
        taken = self.taken[user][: self.known[user]]
        return taken[taken >= 0]

    def before(self, target: Target) -> np.ndarray:
        """Returns the items of the catalogue that a user took before a target, int32 [L]."""
        taken = self.taken[target.user][: target.place]
        return taken[taken >= 0]

    def item(self, target: Target) -> int:
        """Returns the number of the item that is to be predicted, or `NO_ITEM`."""
        return int(self.taken[target.user][target.place])

    def counts(self) -> np.ndarray:
        """Returns how often each item of the catalogue is in training, int64 [I]."""
        all_items = [self.training(user) for user in range(len(self.users))]
        return np.bincount(np.concatenate([*all_items, np.zeros(0, np.int32)]), minlength=len(self.items))


def k_core(user_N: np.ndarray, item_N: np.ndarray, per_user: int, per_item: int) -> np.ndarray:
    """Returns which interactions remain, bool [N], where each user has `per_user` and each item `per_item` of them.

    Leaving out a rare item may make a user's history too short, and the other way round: it is repeated until nothing
    changes, so that the result is the largest such set.
    """
    kept_N = np.ones(len(user_N), bool)
    while True:
        users = np.bincount(user_N[kept_N], minlength=1 + user_N.max(initial=0))
        items = np.bincount(item_N[kept_N], minlength=1 + item_N.max(initial=0))
        more_N = kept_N & (users[user_N] >= per_user) & (items[item_N] >= per_item)
        if more_N.sum() == kept_N.sum():
            return kept_N
        kept_N = more_N


def make_histories(
    found: Interactions, *, split: str, per_user: int = 0, per_item: int = 0, held_out: float = 0.1
) -> Histories:
    """Filters interactions and holds some out.

    `leave_one_out`: of each user the last item is for test and the one before for valid (Kang and McAuley 2018);
    users of fewer than three items are trained on alone. The k-core is that of all interactions, and the catalogue has
    all of their items.

    `time`: the last `held_out` of all interactions, by the clock, are of test, the same share before them of valid. The
    first item that a user takes in such a period is the target, and what that user took before the period began is the
    history; whoever took nothing before is left out. The k-core and the catalogue are of the time before valid: nothing
    that is learned, counted or filtered looks ahead.

    Args:
      found: interactions.
      split: one of `SPLITS`.
      per_user: least interactions of a user; 0: any.
      per_item: the same of an item.
      held_out: share of interactions of valid, and of test.

    Raises:
      UserError: nothing is left, or nothing to be predicted.
    """
    if split == LEAVE_ONE_OUT:
        chosen = _leave_one_out(found, k_core(found.user, found.item, per_user, per_item))
    else:
        chosen = _by_time(found, per_user, per_item, held_out)
    if not len(chosen.items):
        raise UserError(
            f"config.task.least_per_user={per_user}, least_per_item={per_item}: no interaction is left of "
            f"{len(found):,}. Set smaller numbers."
        )
    for name in ("valid", "test"):
        if not chosen.targets[name]:
            raise UserError(f"{found.note}: nobody has an item to be predicted in {name}. {_ADVICE[split]}")
    return chosen


_ADVICE = {
    LEAVE_ONE_OUT: f"Some users must have {_FEWEST} interactions.",
    BY_TIME: "Set config.task.held_out higher, or config.task.split=leave_one_out.",
}


def _leave_one_out(found: Interactions, kept_N: np.ndarray) -> Histories:
    user_N, item_N = found.user[kept_N], found.item[kept_N]
    items, users = np.unique(item_N), np.unique(user_N)
    taken = _by_user(np.searchsorted(users, user_N), np.searchsorted(items, item_N), len(users))
    lengths = np.asarray([len(each) for each in taken], np.int64)
    held = lengths >= _FEWEST
    targets = {
        name: tuple(Target(int(user), int(lengths[user] - back)) for user in np.flatnonzero(held))
        for name, back in (("valid", 2), ("test", 1))
    }
    notes = [found.note, *_filter_note(found, kept_N, len(users), len(items))]
    if not held.all():
        notes.append(f"{(~held).sum():,} users of fewer than {_FEWEST} items are trained on, and nothing is predicted")
    return Histories(
        tuple(found.users[user] for user in users),
        tuple(found.items[item] for item in items),
        taken,
        np.where(held, lengths - 2, lengths),
        targets,
        tuple(notes),
    )


def _by_time(found: Interactions, per_user: int, per_item: int, held_out: float) -> Histories:
    # Cuts lie at times that occur, and what has such a time is after the cut: equal times are never divided.
    order = np.sort(found.time)
    at = [round(len(order) * (1 - share)) for share in (2 * held_out, held_out)]
    starts = [float(order[min(place, len(order) - 1)]) for place in at]
    early_N = found.time < starts[0]
    kept_N = early_N.copy()
    kept_N[early_N] = k_core(found.user[early_N], found.item[early_N], per_user, per_item)
    items, users = np.unique(found.item[kept_N]), np.unique(found.user[kept_N])
    # Later interactions of users who are known; their items may be new.
    own_N = kept_N | (~early_N & np.isin(found.user, users))
    place_N = np.searchsorted(items, found.item[own_N])
    known_item_N = np.isin(found.item[own_N], items)
    numbers_N = np.where(known_item_N, np.minimum(place_N, max(len(items) - 1, 0)), NO_ITEM)
    user_N, time_N = np.searchsorted(users, found.user[own_N]), found.time[own_N]
    taken, times = (_by_user(user_N, values, len(users)) for values in (numbers_N, time_N))
    cuts = [np.asarray([int((each < start).sum()) for each in times], np.int64) for start in starts]
    lengths = np.asarray([len(each) for each in taken], np.int64)
    targets = {}
    for name, first, end in (("valid", cuts[0], cuts[1]), ("test", cuts[1], lengths)):
        chosen = [Target(user, int(first[user])) for user in range(len(users)) if first[user] < end[user]]
        targets[name] = tuple(target for target in chosen if (taken[target.user][: target.place] >= 0).any())
    new = {name: sum(taken[user][place] < 0 for user, place in found) for name, found in targets.items()}
    late = len(np.unique(found.user[~early_N])) - len(np.intersect1d(found.user[~early_N], users))
    notes = [
        found.note,
        *_filter_note(found, kept_N, len(users), len(items), early_N),
        f"valid begins at {starts[0]:.15g}, test at {starts[1]:.15g}; {late:,} users are not known before valid and "
        "are left out",
        *(
            f"{name}: {count:,} of {len(targets[name]):,} targets are items that training does not have; no model can "
            "find them, and they count as misses"
            for name, count in new.items()
            if count
        ),
    ]
    return Histories(
        tuple(found.users[user] for user in users),
        tuple(found.items[item] for item in items),
        tuple(each.astype(np.int32) for each in taken),
        cuts[0],
        targets,
        tuple(notes),
    )


def _by_user(user_N: np.ndarray, values_N: np.ndarray, users: int) -> tuple[np.ndarray, ...]:
    """Divides values, which are in the order of users."""
    kind = np.int32 if values_N.dtype.kind == "i" else np.float64
    ends = np.searchsorted(user_N, np.arange(users), side="right")
    return tuple(np.split(values_N.astype(kind), ends[:-1])) if users else ()


def _filter_note(
    found: Interactions, kept_N: np.ndarray, users: int, items: int, among_N: np.ndarray | None = None
) -> list[str]:
    """Says what the filter has left, of all interactions or of some."""
    of = len(found) if among_N is None else int(among_N.sum())
    if among_N is None and kept_N.all():
        return []
    where = "" if among_N is None else " before valid"
    return [f"{kept_N.sum():,} of {of:,} interactions{where} are kept: {users:,} users, {items:,} items"]

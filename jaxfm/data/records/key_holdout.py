"""What is held out of records with groups and times: whole groups, the latest records."""

import collections
from collections.abc import Sequence

from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.example_holdout import TrainingLeft
from jaxfm.data.records.record_times import Moment

Targets = Sequence[str | float | tuple[str, ...] | None]


def choose_groups(groups: Sequence[str], share: float, targets: Targets) -> list[bool]:
    """Returns which records are held out: all of some groups, as near to a share of all records as groups allow.

    Groups are taken in the order of a hash of their names, those left out that are larger than what is still wanted;
    at last the smallest of these where that comes nearer to the share, or where none has been taken. So the number of
    held-out records differs from the wanted one by half of the smallest group left, at most, unless each group alone is
    larger than the share. Neither order nor seed
    matters. A group with the last record of a class in training is never taken, nor one without which all targets in
    training would be equal; all are False where these rules exclude every group.

    Args:
      groups: of each record.
      share: between 0 and 1.
      targets: class, classes or score of each record, as of `choose_held_out`.
    """
    indices_of: dict[str, list[int]] = collections.defaultdict(list)
    for index, group in enumerate(groups):
        indices_of[group].append(index)
    left, held_out = TrainingLeft(targets), [False] * len(groups)
    wanted = max(round(share * len(groups)), 1)

    def take(indices: Sequence[int]) -> int:
        left.take(indices)
        for index in indices:
            held_out[index] = True
        return len(indices)

    taken, too_large = 0, []
    for group in sorted(indices_of, key=lambda name: (uniform_hash(name), name)):
        indices = indices_of[group]
        if len(indices) > wanted - taken:
            too_large.append(indices)
        elif left.can_spare(indices):
            taken += take(indices)
    lacking = wanted - taken
    for indices in sorted(too_large, key=len):  # of equal ones the first by its hash
        if taken and len(indices) - lacking >= lacking:
            break
        if left.can_spare(indices):
            take(indices)
            break
    return held_out


def choose_latest(times: Sequence[Moment], share: float) -> list[bool]:
    """Returns which records are held out: those from some time on, as near to a share of all as equal times allow.

    Of two borders that are as near the later one is taken. At least one record is on each side; all are False where
    there is one time only.
    """
    counts = collections.Counter(time.value for time in times)
    wanted = max(round(share * len(times)), 1)
    border, nearest, later = None, len(times), 0
    for value in sorted(counts, reverse=True)[:-1]:
        later += counts[value]
        if abs(later - wanted) < nearest:
            border, nearest = value, abs(later - wanted)
    return [border is not None and time.value >= border for time in times]

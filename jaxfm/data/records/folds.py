"""Records in folds: each class in all of them alike, what belongs together in one."""

# N records, F folds

import collections
from collections.abc import Collection, Hashable, Sequence

import numpy as np

from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.errors import UserError


def assign_folds(
    groups: Sequence[Hashable],
    classes: Sequence[Collection[str]],
    origins: Sequence[str],
    folds: int,
    seed: int,
    option: str = "--folds",
) -> np.ndarray:
    """Returns the fold int [N], 0 to F - 1, of each record; the same for the same records, whatever their number is.

    Records of a group are in one fold. Groups are dealt out by the rarest of their classes, each to the fold that has
    fewest groups of it (iterative stratification, Sechidis et al. 2011). A hash of the seed and the group's name
    decides about their order.

    Args:
      groups: what each record belongs to (copies of one text, a document).
      classes: of each record, none or several.
      origins: of each record, for messages.
      folds: number of folds.
      seed: of the order.
      option: that gave their number, for messages.

    Raises:
      UserError: fewer than two folds, or fewer groups, of all records or with some class, than folds.
    """
    if folds < 2:
        raise UserError(f"{option}={folds}: must be at least 2, as a model judges records that it was not trained on.")
    of_groups: dict[Hashable, set[str]] = {}
    for group, own in zip(groups, classes, strict=True):
        of_groups.setdefault(group, set()).update(own)
    if folds > len(of_groups):
        raise UserError(f"{option}={folds}: is more than the {len(of_groups):,} different examples of train.")
    counts = collections.Counter(name for own in of_groups.values() for name in own)
    _check_rare(counts, classes, origins, folds, option)
    order = sorted(
        of_groups,
        key=lambda group: (
            min((counts[name] for name in of_groups[group]), default=len(of_groups) + 1),
            uniform_hash(f"{seed} {group!r}"),
        ),
    )
    totals, held = [0] * folds, [collections.Counter[str]() for _ in range(folds)]
    sizes = collections.Counter(groups)
    fold_of: dict[Hashable, int] = {}
    for group in order:
        own = of_groups[group]
        rarest = min(own, key=lambda name: (counts[name], name)) if own else None
        fold = min(range(folds), key=lambda each: (held[each][rarest] if rarest else 0, totals[each], each))
        fold_of[group] = fold
        totals[fold] += sizes[group]
        held[fold].update(own)
    found = np.asarray([fold_of[group] for group in groups], np.int64)
    _check_training(found, classes, origins, folds, option)
    return found


def _check_rare(
    counts: collections.Counter[str],
    classes: Sequence[Collection[str]],
    origins: Sequence[str],
    folds: int,
    option: str,
) -> None:
    """Raises UserError for a class that cannot be in each fold."""
    if not counts:
        return
    name = min(counts, key=lambda each: (counts[each], each))
    if (least := counts[name]) >= folds:
        return
    origin = next(origin for own, origin in zip(classes, origins, strict=True) if name in own)
    nearest = f"{option}={least}" if least > 1 else f"label more of it, leave it out, or {option}=0"
    raise UserError(
        f"{option}={folds}: the class {name!r} has {least} different example{'s' * (least != 1)} in train (first: "
        f"{origin}), and each fold needs one. The nearest choice: {nearest}."
    )


def _check_training(
    fold_N: np.ndarray, classes: Sequence[Collection[str]], origins: Sequence[str], folds: int, option: str
) -> None:
    """Raises UserError where a class is in one fold alone: its model would be trained without it."""
    places: dict[str, set[int]] = collections.defaultdict(set)
    first: dict[str, str] = {}
    for fold, own, origin in zip(fold_N.tolist(), classes, origins, strict=True):
        for name in own:
            places[name].add(fold)
            first.setdefault(name, origin)
    for name, found in places.items():
        if len(found) < 2:
            raise UserError(
                f"{option}={folds}: all examples of the class {name!r} (first: {first[name]}) would be in one fold. "
                "Label more of it, or leave it out."
            )

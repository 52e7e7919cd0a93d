"""Checks and summaries of the targets of a split."""

import collections
import itertools
import math
import re
import statistics
import unicodedata
from collections.abc import Collection, Sequence

from jaxfm.data.records.targets import SEPARATOR, Target
from jaxfm.errors import UserError

SET_COLUMNS = "Set data.text_column, data.pair_column, data.label_column."
_LISTED = 12  # classes listed in a note
_FEW, _OWN = 20, 0.9  # a column with this share of distinct values, in at least 20 examples, does not hold classes


def check_training(source: str, kind: str, label: str, known: Sequence[Target], columns: Sequence[str]) -> None:
    """Raises UserError for targets from which nothing can be learned, or that are plainly of another kind.

    Args:
      source: the URI, for messages.
      kind: "single", "multi" or "regression".
      label: the column or columns of the targets.
      known: the target of each training example.
      columns: all that the examples have.
    """
    different = {frozenset(target) if isinstance(target, tuple) else target for target in known}
    if len(different) == 1:
        target = known[0]
        said = f"the classes {', '.join(target) or '(none)'}" if isinstance(target, tuple) else repr(target)
        raise UserError(
            f"{source}: all {len(known):,} training examples have {said} in {label!r}: there is nothing to learn. "
            f"{SET_COLUMNS}"
        )
    classes = {target for target in known if isinstance(target, str)}
    own = len(known) >= _FEW and len(classes) > _OWN * len(known)
    if kind == "single" and (own or _are_scores(classes)):
        why = "such as " + repr(max(classes, key=len)) if _are_scores(classes) else "hardly any of them twice"
        raise UserError(
            f"{source}: {label!r} has {len(classes):,} values in {len(known):,} training examples, {why}: these are "
            "not classes. Train a regression if they are scores, or set data.label_column to another column "
            f"({', '.join(map(repr, columns))})."
        )
    several = {target for target in known if isinstance(target, tuple)}
    if "," not in label and all(len(target) < 2 for target in several):
        for name in itertools.chain.from_iterable(several):
            if re.search(r"[,;]|^\d+(?:\s+\d+)+$", name):
                raise UserError(
                    f"{source}: no example has several classes, but one has the class {name!r}: between the classes "
                    f"of an example there must be {SEPARATOR!r}."
                )


def _are_scores(classes: Collection[str]) -> bool:
    """Whether all of these classes are numbers, and not whole ones alone."""
    try:
        numbers = [float(name) for name in classes]
    except ValueError:
        return False
    return all(map(math.isfinite, numbers)) and not all(number.is_integer() for number in numbers)


def target_notes(known: Sequence[Target], declared: Sequence[str]) -> list[str]:
    """Returns what a person should know of training targets.

    That is: classes that differ by case, white space or the like alone, several labels that are always one, and classes
    of `declared` without an example.
    """
    occurring = set(_names(known))
    alike: dict[str, list[str]] = collections.defaultdict(list)
    for name in sorted(occurring):
        plain = unicodedata.normalize("NFKC", name).casefold()
        alike[re.sub(r"(?<=\d)\.0+$", "", " ".join(plain.split()))].append(name)
    notes = [
        f"NOTE: {' and '.join(map(repr, names))} are different classes, though they differ in the way they are written "
        "alone"
        for names in alike.values()
        if len(names) > 1
    ]
    if known and all(isinstance(target, tuple) and len(target) == 1 for target in known):
        notes.append("NOTE: every example has one class, which config.classification.kind=single is for")
    never = [name for name in declared if name not in occurring]
    listed = ", ".join(map(repr, never[:_LISTED])) + (" ..." if len(never) > _LISTED else "")
    return notes + ([f"NOTE: no training example has {listed}"] if never else [])


def _names(known: Sequence[Target]) -> list[str]:
    names: list[str] = []
    for target in known:
        if isinstance(target, str):
            names.append(target)
        elif isinstance(target, tuple):
            names.extend(target)
    return names


def summarise(known: Sequence[Target]) -> str:
    """Returns the targets of a split in words."""
    scores = [target for target in known if isinstance(target, float)]
    if scores:
        return f"scores {min(scores):g} to {max(scores):g}, {statistics.fmean(scores):.4g} on average"
    counts = collections.Counter(_names(known))
    listed = ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "no class"
    if len(counts) > _LISTED:
        listed = f"{len(counts)} classes of {min(counts.values()):,} to {max(counts.values()):,}"
    several = isinstance(known[0], tuple)
    return listed + (f"; {counts.total() / len(known):.2f} classes an example" if several else "")

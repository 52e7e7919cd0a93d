"""Checks of the classes of labelled examples, of any modality: how even they are, and names that look alike."""

import collections
import difflib
import itertools
import re
from collections.abc import Mapping

import numpy as np

from jaxfm.core.data_check import Finding
from jaxfm.tasks.class_balance import IMBALANCED, rarest
from jaxfm.tasks.text_checks import LabelCounts

# Names of at least so many letters, alike by this ratio of difflib, of which one is so many times rarer: a slip of the
# pen ("postive" beside "positive"), not a class.
_NAME_LETTERS, _ALIKE, _RARER = 5, 0.85, 20
_MOST_NAMES = 300  # more are not compared letter by letter


def check_balance(counts: Mapping[str, int], examples: int, kind: str) -> Finding:
    """Checks how evenly training examples are spread over the labels."""
    names = list(counts)
    index, share = rarest(np.asarray([counts[name] for name in names]))
    rare, most = names[index], max(names, key=lambda name: counts[name])
    message = f"{most!r} has {counts[most]:,} of {examples:,} training examples, {rare!r} has {counts[rare]:,}"
    if share >= IMBALANCED:
        return Finding("ok", "balance", message)
    fix = (
        "eval.metric=auto takes macro_f1, in which every class counts alike; rare classes count more in training with "
        "--config.task.loss.class_weights=balanced"
    )
    return Finding("warning", "balance", message, fix)


def check_names(splits: Mapping[str, LabelCounts]) -> Finding:
    """Checks for labels whose names differ in writing alone, or by a slip of the pen."""
    total: collections.Counter[str] = collections.Counter()
    for found in splits.values():
        total.update(found.counts)
    plain: dict[str, list[str]] = collections.defaultdict(list)
    for name in total:
        plain[re.sub(r"[\W_]+", "", name.casefold()) or name].append(name)
    alike = [names for names in plain.values() if len(names) > 1]
    if len(total) <= _MOST_NAMES:
        alike += [list(pair) for pair in itertools.combinations(total, 2) if _is_slip(*pair, total)]
    if not alike:
        return Finding("ok", "names of labels", "none are alike but for how they are written")
    examples = [", ".join(f"{name!r} ({total[name]:,})" for name in names) for names in alike]
    message = f"labels that may be one, written in several ways: {len(alike):,}"
    return Finding("warning", "names of labels", message, "write each in one way", tuple(examples))


def _is_slip(one: str, other: str, counts: Mapping[str, int]) -> bool:
    """Whether one of two names is much rarer and differs from the other by a letter or two, none of them a digit."""
    few, many = sorted((counts[one], counts[other]))
    if min(len(one), len(other)) < _NAME_LETTERS or many < _RARER * few or re.findall(r"\d", one + other):
        return False
    a, b = one.casefold(), other.casefold()
    return a != b and difflib.SequenceMatcher(None, a, b).ratio() >= _ALIKE

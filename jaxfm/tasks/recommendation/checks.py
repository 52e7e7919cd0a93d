"""What a person should know of a table of interactions before training."""

# U users, I items

import numpy as np

from jaxfm.core.data_check import DataCheck, Finding, Lengths
from jaxfm.data.records.histories import Histories
from jaxfm.observe.tables import Table
from jaxfm.tasks.recommendation.spec import RecommendationConfig

_FEW_USERS = 1_000
_MANY_REPEATS = 0.05
_HEAD = 0.2  # share of the items that are called popular
_FEW_PER_ITEM = 10.0


def check_histories(histories: Histories, task: RecommendationConfig) -> DataCheck:
    """Returns sizes and findings: little data, long histories, repeats, items that training has never."""
    counts = histories.counts()
    training = [histories.training(user) for user in range(len(histories.users))]
    lengths = np.asarray([len(taken) for taken in training], np.int64)
    order = -np.sort(-counts)
    head = float(order[: max(round(_HEAD * len(order)), 1)].sum() / max(counts.sum(), 1))
    density = float(counts.sum() / max(len(histories.users) * len(histories.items), 1))
    sizes = [
        ("users", len(histories.users)),
        ("items", len(histories.items)),
        ("interactions for training", int(counts.sum())),
        ("share of all pairs of user and item", density),
        ("items of a history, median", float(np.median(lengths)) if len(lengths) else 0.0),
        ("items of a history, most", int(lengths.max(initial=0))),
        (f"share of the interactions with the most popular {_HEAD:.0%} of the items", head),
        *((f"targets of {split}", len(found)) for split, found in histories.targets.items()),
    ]
    findings = [
        _size(histories, counts),
        _long(lengths, task.history),
        _repeats(histories, task),
        *_untrained(histories, counts),
    ]
    known = {"train": Lengths(lengths, task.history, windows=True)}
    return DataCheck((Table("Interactions", ("of them", "number"), sizes),), tuple(findings), known)


def _size(histories: Histories, counts: np.ndarray) -> Finding:
    each = float(counts.mean()) if len(counts) else 0.0
    if len(histories.users) >= _FEW_USERS and each >= _FEW_PER_ITEM:
        return Finding("ok", "size", f"{len(histories.users):,} users, {each:.1f} interactions an item")
    return Finding(
        "warning",
        "size",
        f"{len(histories.users):,} users and {each:.1f} interactions an item are few: rankings without training, which "
        "the report has too, are hard to beat",
        "collect more, or set config.task.least_per_item higher",
    )


def _long(lengths: np.ndarray, history: int) -> Finding:
    over = int((lengths > history).sum())
    if not over:
        return Finding("ok", "length", f"no history is longer than the {history} items that are read")
    return Finding(
        "warning" if over > len(lengths) // 4 else "ok",
        "length",
        f"{over:,} of {len(lengths):,} histories are longer than the {history} items that are read at once: training "
        "reads them in parts, predictions their last items",
        "set config.task.history higher",
    )


def _repeats(histories: Histories, task: RecommendationConfig) -> Finding:
    targets = [target for found in histories.targets.values() for target in found]
    again = sum(histories.item(target) in histories.before(target) for target in targets)
    share = again / max(len(targets), 1)
    if task.repeats or share < _MANY_REPEATS:
        return Finding("ok", "repeats", f"{share:.1%} of the targets are items that the user took before")
    return Finding(
        "warning",
        "repeats",
        f"{share:.1%} of the targets are items that the user took before, which are never recommended",
        "set config.task.repeats=True",
    )


def _untrained(histories: Histories, counts: np.ndarray) -> list[Finding]:
    findings = []
    for split, targets in histories.targets.items():
        items = np.asarray([histories.item(target) for target in targets], np.int64)
        new = int(((items < 0) | (counts[np.maximum(items, 0)] == 0)).sum())
        if new:
            findings.append(
                Finding(
                    "warning" if new > len(items) // 20 else "ok",
                    "new items",
                    f"{split}: {new:,} of {len(items):,} targets are items that nobody took in training",
                    "set config.task.least_per_item higher, or hold out less",
                )
            )
    return findings

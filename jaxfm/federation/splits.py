"""Training examples dealt out to clients: alike, by skewed classes, or as they are in files.

A partition of N records is arrays of record numbers, one a client, ascending; each record is in one of them.
"""

# N records, C clients, K classes

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxfm.core.labels import TOKENS, LabelledRecord
from jaxfm.data.text.packing import shuffled
from jaxfm.errors import UserError, did_you_mean

IID, DIRICHLET, FILES = KINDS = ("iid", "dirichlet", "files")
NO_CLASS = ""  # of a sentence without an entity, a record without a class
_ORDER, _GAMMA, _HOLDOUT = 11, 12, 13  # streams of random numbers
_ATTEMPTS = 2_000


@dataclasses.dataclass(frozen=True)
class Split:
    """How examples are dealt out.

    Attributes:
      kind: of KINDS.
      alpha: of "dirichlet": the smaller, the fewer clients share a class.
    """

    kind: str = IID
    alpha: float = 0.0


def parse_split(text: str) -> Split:
    """Returns what --split says: iid, dirichlet=0.1 or files; UserError for anything else."""
    kind, equals, value = text.partition("=")
    if kind not in KINDS:
        raise UserError(f"--split={text}: is unknown. {did_you_mean(kind, KINDS)}")
    if kind != DIRICHLET:
        if equals:
            raise UserError(f"--split={text}: {kind} has no value. Write --split={kind}.")
        return Split(kind)
    try:
        alpha = float(value)
    except ValueError:
        alpha = 0.0
    if not 0 < alpha < float("inf"):
        raise UserError(f"--split={text}: needs a number above 0, as --split=dirichlet=0.1 (1 is a mild skew).")
    return Split(kind, alpha)


def iid(records: int, clients: int, seed: int) -> list[np.ndarray]:
    """Returns a partition by chance into C equal parts; sizes differ by one at most."""
    order = shuffled(records, seed, _ORDER)
    return [np.sort(order[client::clients]) for client in range(clients)]


def dirichlet(classes: Sequence[str], clients: int, alpha: float, seed: int, least: int = 1) -> list[np.ndarray]:
    """Returns a partition in which the share of each class that a client has is drawn from Dirichlet(alpha).

    The shares of a class over the C clients are one draw of the symmetric Dirichlet distribution, independent of other
    classes (Yurochkin et al. 2019, section 4; Li et al. 2022, section 3.2). It is made of a gamma variable a client and
    class, seeded by the client's number: what a client draws does not depend on how many others there are. As in Li et
    al.'s benchmark all is drawn again until each client has `least` records.

    Args:
      classes: of each record.
      clients: C.
      alpha: above 0.
      seed: of the draws.
      least: records of a client.

    Raises UserError where no draw of many gives each client enough.
    """
    names = sorted(set(classes))
    of_class = {name: np.flatnonzero(np.asarray([each == name for each in classes])) for name in names}
    sizes_K = np.asarray([len(of_class[name]) for name in names])
    best = 0
    for attempt in range(_ATTEMPTS):
        cuts_KC = _cuts(sizes_K, clients, alpha, seed, attempt)
        counts_C = np.diff(cuts_KC, axis=1, prepend=0).sum(axis=0)
        if counts_C.min() >= least:
            break
        best = max(best, int(counts_C.min()))
    else:
        raise UserError(
            f"--split=dirichlet={alpha:g}: in none of {_ATTEMPTS:,} draws do all {clients} clients have {least} of the "
            f"{len(classes):,} examples (one has {best} at best). Take fewer --clients, a larger "
            f"alpha, or --min_examples={max(best, 2)}."
        )
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for name, cuts_C in zip(names, cuts_KC, strict=True):
        order = of_class[name][shuffled(len(of_class[name]), seed, _ORDER, _number(name))]
        for client, part in enumerate(np.split(order, cuts_C[:-1])):
            parts[client].append(part)
    return [np.sort(np.concatenate(own)) for own in parts]


def held_out(records: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns which of a client's records it trains on and which it holds out, ascending; one of each at least.

    `seed` is the client's (`client.client_seed`): the choice depends on no other client.
    """
    assert records >= 2
    order = shuffled(records, seed, _HOLDOUT)
    count = min(max(round(records * share), 1), records - 1)
    return np.sort(order[count:]), np.sort(order[:count])


def main_classes(records: Sequence[LabelledRecord], class_names: Sequence[str]) -> list[str]:
    """Returns the one class of each record that a split by class goes by.

    Of a sentence it is the type of most of its entities (of several the one that is rarest over all sentences), of a
    record with several classes the rarest of them; NO_CLASS where it has none.
    """
    found: list[collections.Counter[str]] = []
    for record in records:
        names = [str(class_names[number]) for number in _class_numbers(record)]
        if TOKENS in record.row:
            names = [name[2:] for name in names if name.startswith("B-")]
        found.append(collections.Counter(names))
    total: collections.Counter[str] = sum(found, collections.Counter())
    return [min(own, key=lambda name: (-own[name], total[name], name)) if own else NO_CLASS for own in found]


def _class_numbers(record: LabelledRecord) -> list[int]:
    """Returns the classes of a record, or of its words."""
    several = record.classes.dtype == bool
    return (np.flatnonzero(record.classes[0]) if several else record.classes).tolist()


def _cuts(sizes_K: np.ndarray, clients: int, alpha: float, seed: int, attempt: int) -> np.ndarray:
    """Returns int [K, C]: where the part of each client in the records of each class ends."""
    gamma_CK = np.stack(
        [
            np.random.Generator(
                np.random.PCG64(np.random.SeedSequence([seed, _GAMMA, attempt, client]))
            ).standard_gamma(alpha, len(sizes_K))
            for client in range(clients)
        ]
    )
    gamma_CK = np.maximum(gamma_CK, 1e-300)  # a tiny alpha draws numbers that are 0 in f64
    share_KC = (gamma_CK / gamma_CK.sum(axis=0)).T
    cuts_KC = np.rint(np.cumsum(share_KC, axis=1) * sizes_K[:, None]).astype(np.int64)
    cuts_KC[:, -1] = sizes_K
    return cuts_KC


def _number(name: str) -> int:
    return int.from_bytes(name.encode()[:32].ljust(1, b"\0"), "big")

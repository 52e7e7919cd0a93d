"""The three splits, and the names that sources give them."""

from collections.abc import Iterable

from jaxfm.errors import UserError, did_you_mean

# testa and testb are the CoNLL-2003 names of the development and the test part.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "valid": ("valid", "validation", "val", "dev", "devel", "development", "testa"),
    "test": ("test", "testb"),
}
_CANONICAL = {name: split for split, names in SPLIT_NAMES.items() for name in names}


def canonical_split(name: str) -> str | None:
    """Returns train, valid or test for any usual name of it (dev, validation, testa ...), else None."""
    return _CANONICAL.get(name.lower())


def require_split(name: str) -> str:
    """Returns train, valid or test for a name that a user gave. Raises UserError for any other."""
    split = canonical_split(name)
    if split is None:
        raise UserError(f"unknown split {name!r}: splits are train, valid and test. {did_you_mean(name, _CANONICAL)}")
    return split


def named_splits(names: Iterable[str], source: str) -> dict[str, str]:
    """Maps train, valid and test to a data set's names of them; other splits are left out.

    Raises UserError naming `source` where two names fit one split.
    """
    found: dict[str, str] = {}
    for name in names:
        split = canonical_split(name)
        if split is None:
            continue
        if split in found:
            raise UserError(f"{source}: both {found[split]!r} and {name!r} could be the split {split!r}.")
        found[split] = name
    return found

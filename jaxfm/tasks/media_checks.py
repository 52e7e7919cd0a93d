"""Checks of files before training, of images and of sound: broken ones, copies."""

from collections.abc import Mapping, Sequence

from jaxfm.core.data_check import Finding


def check_broken(broken: Sequence[str], many: str, fix: str) -> Finding:
    """Returns what is to be said of files that cannot be decoded, by what they are in words ("images")."""
    if not broken:
        return Finding("ok", f"broken {many}", "every file can be decoded")
    return Finding("error", f"broken {many}", f"files that cannot be decoded: {len(broken):,}", fix, tuple(broken))


def check_copies(
    places: Mapping[str, Mapping[str, str]], examples: Mapping[str, Sequence[object]], many: str
) -> Finding:
    """Checks for equal files: in two splits, where scores then promise too much, or within training.

    Args:
      places: split -> hash of a file -> where it was read first.
      examples: split -> all that was read.
      many: what they are in words: "images".
    """
    splits, one = list(places), many.removesuffix("s")
    across = [
        f"{places[this][digest]} = {places[other][digest]}"
        for at, this in enumerate(splits)
        for other in splits[at + 1 :]
        for digest in places[this].keys() & places[other].keys()
    ]
    if across:
        message = f"{many} that are in two splits: {len(across):,}; their scores promise too much"
        return Finding("warning", "copies", message, "keep each in one split", tuple(sorted(across)))
    repeated = sum(len(examples[split]) - len(found) for split, found in places.items())
    if repeated:
        fix = "leave them out, unless they are meant to count more"
        return Finding("warning", "copies", f"{many} that another of their split is a copy of: {repeated:,}", fix)
    return Finding("ok", "copies", f"no {one} is in the data twice")

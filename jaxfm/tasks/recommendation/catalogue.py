"""The items of a recommender and how often they were taken: items.json of a run."""

import dataclasses
import pathlib

from jaxfm import files
from jaxfm.errors import UserError

ITEMS_FILE = "items.json"


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Items in the order of their numbers.

    Attributes:
      items: names, all different.
      counts: how often each was taken in training.
    """

    items: tuple[str, ...]
    counts: tuple[int, ...]

    def save(self, folder: pathlib.Path) -> None:
        """Writes items.json."""
        files.write_json(folder / ITEMS_FILE, dataclasses.asdict(self))

    def numbers(self) -> dict[str, int]:
        """Returns name -> number."""
        return {name: number for number, name in enumerate(self.items)}


def read_catalogue(folder: pathlib.Path, items: int) -> Catalogue:
    """Reads items.json of a run whose model has so many items.

    Raises UserError for a file that is absent, damaged, or of another model.
    """
    path = folder / ITEMS_FILE
    if not path.is_file():
        raise UserError(f"{path}: is absent; a recommender cannot tell what its items are without it.")
    values = files.read_json(path)
    names = values.get("items") if isinstance(values, dict) else None
    counts = values.get("counts") if isinstance(values, dict) else None
    if (
        not isinstance(names, list)
        or not isinstance(counts, list)
        or not all(isinstance(name, str) for name in names)
        or not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts)
        or len({*names}) != len(names)
        or len(names) != len(counts)
    ):
        raise UserError(f"{path}: is no list of items with their counts. Take it from a backup, or train again.")
    if len(names) != items:
        raise UserError(
            f"{path}: has {len(names):,} items, but the model has {items:,}: they are of different runs. Take it from "
            "a backup, or train again."
        )
    return Catalogue(tuple(names), tuple(counts))

"""What is asked of how a target is written, as words before the source: "length: short | style: formal | ..."."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.errors import UserError, did_you_mean

LENGTH = "length"
LENGTHS = ("short", "medium", "long")


@dataclasses.dataclass(frozen=True)
class Controls:
    """The controls of a run.

    Attributes:
      names: columns of records, and LENGTH.
      bounds: words of a target from which it is "medium", and "long"; () without LENGTH.
    """

    names: tuple[str, ...] = ()
    bounds: tuple[int, ...] = ()

    @classmethod
    def of(cls, names: Sequence[str], targets: Sequence[str]) -> "Controls":
        """Finds the bounds that divide the targets of training into thirds by their words.

        Raises UserError where all have the same number of words.
        """
        if LENGTH not in names:
            return cls(tuple(names))
        words = np.asarray([len(target.split()) for target in targets])
        bounds = tuple(int(np.quantile(words, share, method="higher")) for share in (1 / 3, 2 / 3))
        bounds = (bounds[0], max(bounds[1], bounds[0] + 1))
        if int(words.min()) >= bounds[0]:
            bounds = (int(words.min()) + 1, max(bounds[1], int(words.min()) + 2))
        if int(words.max()) < bounds[0]:
            raise UserError(
                f"config.task.controls: all targets of train have {int(words.min())} words, so length says nothing. "
                f"Leave {LENGTH!r} out."
            )
        return cls(tuple(names), bounds)

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that are columns of records."""
        return tuple(name for name in self.names if name != LENGTH)

    def length_of(self, target: str) -> str:
        """Returns one of LENGTHS."""
        return LENGTHS[sum(len(target.split()) >= bound for bound in self.bounds)]

    def written(self, source: str, given: Mapping[str, str]) -> str:
        """Returns the source after the controls given."""
        return "".join(f"{name}: {given[name]} | " for name in self.names if given.get(name)) + source

    def training(self, source: str, given: Mapping[str, str], target: str, dropout: float) -> str:
        """Returns a training source after its controls; of a share `dropout`, drawn by a hash, each is left out."""
        found = {**given, **({LENGTH: self.length_of(target)} if LENGTH in self.names else {})}
        kept = {name: value for name, value in found.items() if uniform_hash(f"{name} {source} {target}") >= dropout}
        return self.written(source, kept)

    def checked(self, given: Mapping[str, object], origin: str) -> dict[str, str]:
        """Returns the controls of a record; UserError for one that the model does not know."""
        found = {}
        for name, value in given.items():
            if name not in self.names:
                rule = did_you_mean(name, self.names) if self.names else "It knows none (config.task.controls)."
                raise UserError(f"{origin}: this model was not trained with the control {name!r}. {rule}")
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                raise UserError(f"{origin}: the control {name!r} is {value!r:.40}, but must be a text or a number.")
            if name == LENGTH and value not in LENGTHS:
                raise UserError(f"{origin}: the control {name!r} is {value!r:.40}. {did_you_mean(str(value), LENGTHS)}")
            found[name] = str(value)
        return found

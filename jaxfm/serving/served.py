"""What a server asks of a model, and the limits that it keeps. It knows no task and no run directory."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from jaxfm.core.batch import Units

# Of a result: its input was longer than the model reads, so that a part of it has no share in the answer.
CUT_FIELDS = ("truncated", "cut")


class Served(Protocol):
    """A trained model as a server needs it (`jaxfm.programs.model.Model`)."""

    @property
    def task(self) -> str:
        """Name of its task."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of its head, empty where the head has none."""
        ...

    @property
    def step(self) -> int:
        """Whose checkpoint it is."""
        ...

    @property
    def pairs(self) -> bool:
        """Whether it judges pairs of texts."""
        ...

    @property
    def reads_images(self) -> bool:
        """Whether an input may be an image."""
        ...

    @property
    def reads_texts(self) -> bool:
        """Whether an input may be a text."""
        ...

    @property
    def embeds_texts(self) -> bool:
        """Whether a text becomes a vector."""
        ...

    @property
    def explains(self) -> bool:
        """Whether it can say which words a result is due to."""
        ...

    @property
    def units(self) -> Units:
        """What has been computed so far."""
        ...

    def record(self, value: Any, origin: str, /) -> dict[str, Any]:
        """Returns a record of what a person may call one input; UserError, which names `origin`, where it is none."""
        ...

    def answer_all(self, requests: Sequence[Sequence[Mapping[str, Any]]], /) -> list[list[dict[str, Any]]]:
        """Returns the results of each request, which are computed together and do not see each other."""
        ...

    def explain(self, record: Mapping[str, Any], /) -> dict[str, Any]:
        """Returns which words each part of a record's result is due to."""
        ...

    def rank(self, query: str, texts: Sequence[str], /) -> list[dict[str, Any]]:
        """Returns the texts by their similarity to a query, the most similar first."""
        ...

    def warm(self, rows: int, /) -> Iterator[str]:
        """Compiles the programs of 1, 2, 4, ... `rows` rows; yields what is done next."""
        ...


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server accepts.

    Attributes:
      inputs: inputs of a request.
      characters: of all texts of a request.
      queue: inputs that wait at a model; a request above that is refused (429).
      body: bytes of a request, and of a line of a batch.
      batch: bytes of a batch.
      batch_inputs: inputs that are computed together.
      wait: seconds that a request waits for others to be computed with it, where others came before.
      deadline: seconds after which a request that has no answer gets none (504).
    """

    inputs: int = 256
    characters: int = 1_000_000
    queue: int = 1024
    body: int = 8 * 2**20
    batch: int = 256 * 2**20
    batch_inputs: int = 64
    wait: float = 0.002
    deadline: float = 30.0


def is_cut(result: Mapping[str, Any]) -> bool:
    """Whether a result is of a part of its input alone."""
    return any(bool(result.get(name)) for name in CUT_FIELDS)

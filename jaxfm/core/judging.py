"""A trained run that judges images which another model makes.

Tasks lie below the room that opens runs, so that room says here how a run is opened (`register_opener`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np


class Judged(NamedTuple):
    """What is said of images.

    Attributes:
      labels: the likeliest class of each.
      features: what the last layer reads of each, f32 [N, D].
    """

    labels: list[str]
    features: np.ndarray


class Judge(Protocol):
    """A trained classifier of images, opened."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that it tells apart."""
        ...

    def __call__(self, images: Sequence[np.ndarray]) -> Judged:
        """Judges images, uint8 [H, W, C], C 1 or 3."""
        ...


@runtime_checkable
class JudgesImages(Protocol):
    """What a predictor is beside `core.task.Predictor` where it can be a judge; its records are {"image": ...}."""

    def judge_problem(self) -> str:
        """Returns why it cannot; "" where it can."""
        ...

    def judging_outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what `judged` needs of each row."""
        ...

    def judged(self, encoded: Any, outputs: Mapping[str, np.ndarray]) -> Judged:
        """Returns what is said of the images of `encode`."""
        ...


_OPENERS: list[Callable[[str, str], Judge]] = []


def register_opener(opener: Callable[[str, str], Judge]) -> None:
    """Says what opens a run: (URI, what its key is called in messages) -> a judge."""
    _OPENERS[:] = [opener]


def open_judge(uri: str, option: str) -> Judge:
    """Opens run:WORKDIR as a judge; UserError, which begins with `option`, where it is none."""
    assert _OPENERS, "jaxfm.training.saved_run is imported by whatever trains or evaluates"
    return _OPENERS[0](uri, option)

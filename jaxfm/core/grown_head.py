"""Heads that grow: labels that new data bring get new rows, after those of the labels that a model has already.

A row is all that a label has of its own in the parameters: a column of the last layer's kernel, a number of its bias,
transitions of a chain. The task says which labels a model has, and gives the loaded arrays as they are, smaller ones;
`training/state.py` draws the rows that they lack.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxfm.config import Config
from jaxfm.errors import UserError

KEY = "config.model.grow_head"
_LISTED = 10


@runtime_checkable
class GrowsHead(Protocol):
    """What a task's definition is beside `core.task.TaskDefinition` where `config.model.grow_head` means something.

    Its `create` takes the labels that `head_labels` gives.
    """

    def grow_problem(self, config: Config) -> str:
        """Returns why a head of this config cannot grow; "" where it can."""
        ...


def check_grows(definition: object, config: Config) -> None:
    """Raises UserError where `config.model.grow_head` is set for a head that cannot grow."""
    if not config.model.grow_head:
        return
    name = config.task.name
    if not isinstance(definition, GrowsHead):
        raise UserError(f"{KEY}: heads of the task {name!r} have no rows of labels that could grow. Set False.")
    if problem := definition.grow_problem(config):
        raise UserError(f"{KEY}: {problem}. Set False.")


def can_grow(definition: object, config: Config) -> bool:
    """Whether `config.model.grow_head` may be set."""
    return isinstance(definition, GrowsHead) and not definition.grow_problem(config)


def head_labels(config: Config, loaded: Sequence[str], found: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Returns the labels of a new run's model, and what becomes of the loaded head, for the log.

    Args:
      config: of the run.
      loaded: labels of the head that is loaded; empty: none is.
      found: labels of the training data, all different.

    Returns:
      The loaded labels in their order, and with `config.model.grow_head` after them those that are new; or else, where
      the two sets differ, `found`. The second result is "loaded, ..." or "new".
    """
    if loaded and set(loaded) == set(found):
        return tuple(loaded), "loaded, its classes are those of the data"
    if not (config.model.grow_head and loaded):
        return tuple(found), "new"
    added = [label for label in found if label not in loaded]
    absent = sum(label not in found for label in loaded)
    grown = f"{len(added)} new ({listed(added)})" if added else "none new"
    return (*loaded, *added), f"loaded, with {len(loaded)} classes, {absent} of them not in the data, and {grown}"


def takes_head(config: Config, loaded: Sequence[str], labels: Sequence[str]) -> bool:
    """Whether the rows of a loaded head with these labels are rows of a model with `labels`, in the same places."""
    if tuple(loaded) == tuple(labels):
        return True
    return config.model.grow_head and bool(loaded) and tuple(labels[: len(loaded)]) == tuple(loaded)


def taught_labels(teacher: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Returns the labels that a model of `labels` can learn of a teacher: the teacher's, where they are the first."""
    return tuple(labels[: len(teacher)]) if teacher and tuple(labels[: len(teacher)]) == tuple(teacher) else (*labels,)


def listed(names: Sequence[str]) -> str:
    """Returns the first names, for a message."""
    return ", ".join(names[:_LISTED]) + (" ..." if len(names) > _LISTED else "")

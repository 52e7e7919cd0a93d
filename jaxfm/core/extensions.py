"""Metrics and losses that a user adds from outside the package, each under a name of its own.

`jaxfm.register_metric` and `jaxfm.register_loss` fill this registry; whole tasks are in `jaxfm.tasks.registry`. Nothing
is ever looked for: a program registers what it imports, and the command line what `--plugin=FILE.py` names.
"""

import dataclasses
import hashlib
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax

from jaxfm.errors import UserError, did_you_mean, where_raised

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class MetricFunction(Protocol):
    """A number that says how well a split was predicted, NaN where it is not defined.

    Both arguments have one item an example: for classification its class ("single"), its classes as a tuple ("multi")
    or its score ("regression"); for named entities the BIO tags of a sentence, as a list.
    """

    def __call__(self, gold: Sequence[Any], predicted: Sequence[Any], /) -> float:
        """Returns the metric."""
        ...


class LossFunction(Protocol):
    """The loss of each target, before any sum: a pure function of JAX arrays, traced once."""

    def __call__(self, logits: jax.Array, labels: jax.Array, /) -> jax.Array:
        """Returns losses f32 [...] of the classes `labels` int32 [...] (from 0) under `logits` f32 [..., C].

        Places without a target are given with the label 0; what is returned for them is left out.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where something registered was written.

    Attributes:
      module: name of its module.
      name: its own name there.
      file: name of the module's file; empty where it has none (a prompt, a notebook).
      sha256: of the file's content.
    """

    module: str
    name: str
    file: str
    sha256: str

    def __str__(self) -> str:
        return self.file or self.module


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of `register_metric`; `task` is the only task it is for, empty: any."""

    name: str
    function: MetricFunction
    less_is_better: bool
    task: str
    origin: Origin


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss of `register_loss`."""

    name: str
    function: LossFunction
    origin: Origin


_metrics: dict[str, Metric] = {}
_losses: dict[str, Loss] = {}


def register_metric(name: str, function: MetricFunction, *, less_is_better: bool = False, task: str = "") -> None:
    """Adds a metric: it stands in every log line and report of the runs that follow, and may be `config.eval.metric`.

    It is computed for classification and named entities, from gold targets and predictions; see `MetricFunction`. It
    has no bootstrap interval.

    Args:
      name: lower-case letters, digits and underscores.
      function: see `MetricFunction`.
      less_is_better: as of an error rate.
      task: the only task it is for; empty: any of them.

    Raises:
      UserError: a name of another form, or one that is taken.
    """
    metric = Metric(name, function, less_is_better, task, origin_of(function))
    _check_name("metric", name, metric.origin, _metrics)
    _metrics[name] = metric


def register_loss(name: str, function: LossFunction) -> None:
    """Adds a loss over classes, which `config.task.loss.function` may name: of words (NER) or of texts ("single").

    Raises UserError as `register_metric`.
    """
    loss = Loss(name, function, origin_of(function))
    _check_name("loss", name, loss.origin, _losses)
    _losses[name] = loss


def metrics_of(task: str) -> tuple[Metric, ...]:
    """Returns the registered metrics of a task, in the order of their registration."""
    return tuple(metric for metric in _metrics.values() if metric.task in ("", task))


def loss_of(name: str, key: str) -> Loss:
    """Returns the registered loss of that name. Raises UserError naming the config's `key` where there is none."""
    if name not in _losses:
        hint = did_you_mean(name, _losses) if _losses else "Nothing is: jaxfm.register_loss, or --plugin=FILE.py."
        raise UserError(f"{key}: {name!r} is not a registered loss. {hint}")
    return _losses[name]


def registered_loss(name: str) -> Loss | None:
    """Returns the registered loss of that name, None where there is none."""
    return _losses.get(name)


def with_own(task: str, directions: Mapping[str, bool]) -> dict[str, bool]:
    """Returns a task's metrics -> is more better?, with the registered ones.

    Raises UserError for a registered one with the name of one of the task's.
    """
    own = {}
    for metric in metrics_of(task):
        if metric.name in directions:
            raise UserError(
                f"the metric {metric.name!r} of {metric.origin} has the name of one that {task} has already "
                f"({', '.join(directions)}). Register it under another name."
            )
        own[metric.name] = not metric.less_is_better
    return {**directions, **own}


def own_metrics(task: str, gold: Sequence[Any], predicted: Sequence[Any]) -> dict[str, float]:
    """Returns the registered metrics of a task for gold targets and predictions, one item an example each.

    Raises UserError, with file and line, where one of them fails or returns what is not a number.
    """
    return {metric.name: _value(metric, gold, predicted) for metric in metrics_of(task)}


def check_metrics(task: str, gold: Sequence[Any]) -> None:
    """Computes the registered metrics of right predictions, so that what fails does so before a run begins."""
    own_metrics(task, gold, gold)


def origin_of(thing: Any) -> Origin:
    """Returns where a function or class, or the class of an object, was written."""
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    path = getattr(sys.modules.get(named.__module__), "__file__", None)
    content = pathlib.Path(path).read_bytes() if path and pathlib.Path(path).is_file() else b""
    digest = hashlib.sha256(content).hexdigest() if content else ""
    return Origin(named.__module__, named.__qualname__, pathlib.Path(path).name if content and path else "", digest)


def check_same_origin(what: str, name: str, new: Origin, old: Origin) -> None:
    """Raises UserError unless both are one thing: a notebook's cell that is run again registers the same once more."""
    if (new.module, new.name) != (old.module, old.name):
        raise UserError(f"the {what} {name!r} of {new} has the name of one that {old} has registered. Rename one.")


def _check_name(what: str, name: str, origin: Origin, registered: Mapping[str, Any]) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(f"the {what} {name!r} of {origin}: a name is of lower-case letters, digits and underscores.")
    if name in registered:
        check_same_origin(what, name, origin, registered[name].origin)


def _value(metric: Metric, gold: Sequence[Any], predicted: Sequence[Any]) -> float:
    try:
        return float(metric.function(gold, predicted))
    # Whatever a user's function raises is said as what it is: his, with the line.
    except Exception as error:
        only = "" if metric.task else ' (If it is for one task alone, register it with task="...".)'
        raise UserError(
            f"the metric {metric.name!r} failed at {where_raised(error)}: {type(error).__name__}: {error}.{only}"
        ) from error

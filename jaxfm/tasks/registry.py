"""Tasks by the name that `config.task` gives."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from types import ModuleType

import numpy as np

from jaxfm.config import Config, EvalConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.task import TASK_FILE, Exporter, Objective, Predictor, Task, read_task
from jaxfm.errors import UserError, did_you_mean
from jaxfm.hub.initial import Initial
from jaxfm.models.adapters import with_adapters
from jaxfm.tasks import classification, masked_lm, ner, replaced_token

TASKS = {"classification": classification, "masked_lm": masked_lm, "ner": ner}
# What else a task may minimise, by the name that `config.objective` gives.
OBJECTIVES = {("masked_lm", "rtd"): replaced_token}


def create(config: Config, initial: Initial) -> tuple[Task, Mapping[str, np.ndarray], tuple[str, ...]]:
    """Builds a new run's task from its config and what `config.model` resolves to.

    Returns the task, its loaded parameters (path -> array; the others start at random) and notes for the log.
    """
    module = _of_config(config)
    initial = dataclasses.replace(initial, encoder=with_adapters(initial.encoder, config.adapt))
    task = module.create(config, initial)
    return task, module.select_params(task, initial), task.notes


def outline(config: Config, encoder: EncoderConfig) -> Objective:
    """Builds a run's model and loss for an encoder's shape, without data, weights or tokenizer."""
    return _of_config(config).outline(config, with_adapters(encoder, config.adapt))


def reopen(workdir: pathlib.Path, config: Config, source: str, split: str) -> Task:
    """Builds the task of a trained run over one split of a source, for evaluation."""
    return _of_run(workdir).open_task(workdir, config, source, split)


def open_predictor(workdir: pathlib.Path) -> Predictor:
    """Returns what turns texts into a trained run's predictions."""
    with _explained(workdir):
        return _of_run(workdir).open_predictor(workdir)


def open_exporter(workdir: pathlib.Path) -> Exporter:
    """Returns what writes a trained run's parameters for other libraries."""
    with _explained(workdir):
        return _of_run(workdir).open_exporter(workdir)


@contextlib.contextmanager
def _explained(workdir: pathlib.Path) -> Iterator[None]:
    """Says of values in task.json that no task can be made of (wrong kinds, unknown keys) where they stand."""
    try:
        yield
    except (TypeError, AttributeError, KeyError) as error:
        raise UserError(
            f"{workdir / TASK_FILE}: is not a task that this jaxfm knows ({error}). Take it from a backup of the "
            "run, or train again."
        ) from error


def _of_config(config: Config) -> ModuleType:
    if config.objective != "mlm" and (config.task, config.objective) not in OBJECTIVES:
        raise UserError(
            f"config.objective: {config.objective!r} is of task masked_lm, but config.task is {config.task!r}."
        )
    if config.task != "masked_lm" and config.eval.rows != EvalConfig().rows:
        raise UserError(
            f"config.eval.rows: is {config.eval.rows}, but task {config.task} is scored on all rows of a split. "
            f"Leave it at {EvalConfig().rows}."
        )
    return _module(config.task, config.objective)


def _of_run(workdir: pathlib.Path) -> ModuleType:
    values = read_task(workdir)
    if values["task"] not in TASKS:
        raise UserError(
            f"{values.path}: task {values['task']!r} is not one of this jaxfm. {did_you_mean(values['task'], TASKS)}"
        )
    return _module(values["task"], values.get("objective", ""))


def _module(name: str, objective: str) -> ModuleType:
    if name not in TASKS:
        raise UserError(f"config.task: {name!r} is not a task. {did_you_mean(name, TASKS)}")
    return OBJECTIVES.get((name, objective), TASKS[name])

"""Tasks by the name that `config.task` gives."""

from collections.abc import Mapping

import numpy as np

from jaxfm.config import Config
from jaxfm.errors import UserError, did_you_mean
from jaxfm.hub import initial as initials
from jaxfm.tasks import ner
from jaxfm.tasks.task import Task

TASKS = {"ner": ner}


def create(config: Config) -> tuple[Task, Mapping[str, np.ndarray], tuple[str, ...]]:
    """Builds a new run's task from its config.

    Returns the task, its loaded parameters (path -> array; the others start at random) and notes for the log.
    """
    if config.task not in TASKS:
        raise UserError(f"config.task: {config.task!r} is not a task. {did_you_mean(config.task, TASKS)}")
    module = TASKS[config.task]
    initial = initials.resolve(config.model)
    task = module.create(config, initial)
    return task, module.keep_head(task, initial), task.notes

"""Interactions that are learned in seconds, and the config of a recommender over them."""

import pathlib
import random
from typing import Any

from jaxfm.config import Config
from jaxfm.schema import replaced
from jaxfm.tasks.registry import default_config, from_config_dict


def write_interactions(directory: pathlib.Path, users: int = 40, items: int = 12) -> str:
    """Writes users who walk along a ring of items, each from another place; returns the URI."""
    draw = random.Random(0)
    lines = ["user,item,time"]
    for user in range(users):
        start, length = draw.randrange(items), draw.randrange(6, 9)
        lines += [f"user {user},item {(start + step) % items},{user % 10 + 3 * step}" for step in range(length)]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "interactions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"csv:{directory / 'interactions.csv'}"


def recommendation_config(directory: pathlib.Path, **overrides: Any) -> Config:
    """The config of a recommender of two layers; keys are written with __ for a dot."""
    values = default_config("recommendation")
    values.model.init, values.model.preset = "scratch", "bert_tiny"
    values.data.source = write_interactions(directory)
    values.data.row_length = 32
    values.task.history = 6
    values.optim.learning_rate = 3e-3
    values.train.batch_size = 8
    values.train.min_steps = 0
    values.eval.batch_size = 8
    return replaced(from_config_dict(values), {key.replace("__", "."): value for key, value in overrides.items()})

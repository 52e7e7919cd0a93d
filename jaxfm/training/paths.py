"""Parameters by path: what patterns of a config name."""

import fnmatch
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax

from jaxfm.errors import UserError, did_you_mean

TRAINING_ONLY = "training_only"
"""Attribute of a model, and beginning of the paths of its parameters, that only its training has: no part of what a run
stands for. Checkpoints hold them, so that a run resumes; whoever uses the run does not read them."""


def path_name(path: tuple[Any, ...]) -> str:
    """Returns a key path of jax.tree_util as "encoder/layers/ffn/up/kernel"."""
    return "/".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)


def flat(tree: Any) -> dict[str, Any]:
    """Returns path -> leaf of nested dicts."""
    return flax.traverse_util.flatten_dict(tree, sep="/")


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dicts of path -> leaf: what `flat` undoes."""
    return flax.traverse_util.unflatten_dict(dict(leaves), sep="/")


def match_paths(params: Any, patterns: tuple[str, ...], key: str, usual: tuple[str, ...] = ()) -> Any:
    """Returns a tree of bools like `params`: does the parameter's path match one of the fnmatch patterns?

    Args:
      params: nested dicts.
      patterns: of a config.
      key: of the config, for messages.
      usual: patterns that may match nothing: nobody wrote those of a default.

    Raises:
      UserError: a pattern that matches no parameter (a silent typo would change the run).
    """
    paths = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for pattern in patterns:
        if pattern not in usual and not any(fnmatch.fnmatchcase(path, pattern) for path in paths):
            raise UserError(f"{key}: pattern {pattern!r} matches no parameter. {did_you_mean(pattern, paths)}")
    return jax.tree_util.tree_map_with_path(
        lambda path, _: any(fnmatch.fnmatchcase(path_name(path), pattern) for pattern in patterns), params
    )

"""Trains a run some of whose values change on its way: what population-based training has found, once more."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.observe.shown import Report
from jaxfm.programs.given_config import GivenConfig, resolve_config
from jaxfm.programs.stages import Stage, train_stages
from jaxfm.programs.train import train


def train_with_changes(
    config: GivenConfig, changes: Sequence[tuple[int, Mapping[str, Any]]], workdir: str | pathlib.Path
) -> Report:
    """Trains, or goes on with, a run of which some values change in its middle.

    Args:
      config: until the first change, as for `jaxfm.train`.
      changes: (updates done, dotted key -> value from there on), in order; an evaluation must follow each of these
        updates, and the keys must be ones that may change (docs/search.md).
      workdir: the run directory; what comes before the last change lies in its folder stages.

    Returns:
      The content of report.json.

    Raises:
      UserError: as `jaxfm.train`, or a key that cannot change in the middle of a run.
    """
    configs = [resolve_config(config)]
    for _, values in changes:
        configs.append(resolve_config(configs[-1], values))
    stages = [Stage(f"until-{step}", configs[index], _until(step)) for index, (step, _) in enumerate(changes)]
    keys = {key for _, values in changes for key in values}
    return train_stages(stages, configs[-1], files.user_path(workdir, "--workdir"), train, may_change=keys)


def _until(last: int) -> Any:
    def ends(folder: pathlib.Path, step: int, total_steps: int) -> str:
        del folder, total_steps
        return f"at step {last:,}, as asked for" if step >= last else ""

    return ends

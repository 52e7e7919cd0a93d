"""The run directory: whose it is, and whether the run in it is new, half-way or finished."""

import importlib.metadata
import json
import pathlib
import platform
import subprocess
from typing import Any, Literal

import jax

import jaxfm
from jaxfm import files
from jaxfm.config import FREE_ON_RESUME, Config, differences, from_config_dict, to_dict
from jaxfm.errors import UserError
from jaxfm.observe.report import JSON_FILE

CONFIG_FILE = "config.json"
CHECKPOINTS_DIR = "checkpoints"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "tokenizers", "numpy")

Status = Literal["new", "half-way", "finished"]


def status(workdir: pathlib.Path, config: Config) -> Status:
    """Says what there is to do in `workdir`; changes nothing.

    Raises:
      UserError: it is a file, holds something that is no run, or a run of another config.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir}: is a file; name a directory.")
    if not (workdir / CONFIG_FILE).is_file():
        # A half-written config.json of a run killed at its first breath is no obstacle.
        unfinished = set(workdir.glob(f".{CONFIG_FILE}.*.part"))
        if workdir.is_dir() and any(path not in unfinished for path in workdir.iterdir()):
            raise UserError(f"--workdir={workdir}: is not empty and holds no run of jaxfm. Name a new directory.")
        return "new"
    changed = differences(read_config_values(workdir), to_dict(config), ignore=FREE_ON_RESUME)
    if changed:
        raise UserError(
            f"--workdir={workdir}: holds a run of another config ({'; '.join(changed)}). Give the same config to go "
            "on with that run, or another --workdir for a new one."
        )
    return "finished" if (workdir / JSON_FILE).is_file() else "half-way"


def write_config(workdir: pathlib.Path, config: Config) -> None:
    """Writes config.json: the resolved config, and what else tells this run from another."""
    values = {
        "config": to_dict(config),
        "versions": versions(),
        "python": platform.python_version(),
        "device": device_name(),
        "git_commit": _git_commit(),
    }
    files.write_json(workdir / CONFIG_FILE, values)


def read_config(workdir: pathlib.Path) -> Config:
    """Reads the config of a run; UserError when there is none."""
    if not (workdir / CONFIG_FILE).is_file():
        raise UserError(f"--workdir={workdir}: holds no run of jaxfm ({CONFIG_FILE} is not there).")
    return from_config_dict(read_config_values(workdir))


def read_config_values(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the part "config" of config.json."""
    path = workdir / CONFIG_FILE
    try:
        return files.read_json(path)["config"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a config written by jaxfm ({error!r}).") from error


def read_report(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns report.json of a finished run."""
    return files.read_json(workdir / JSON_FILE)


def versions() -> dict[str, str]:
    """Returns the versions of jaxfm and of the packages a result depends on."""
    return {"jaxfm": jaxfm.__version__} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def device_name() -> str:
    """Returns e.g. "4 x TPU v5 lite" or "1 x cpu"."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def _git_commit() -> str | None:
    """Returns the commit of the checkout jaxfm runs from, None when it is an installed package."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None

"""The run directory: whose it is, and whether the run in it is new, half-way or finished."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import pathlib
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jax

import jaxfm
from jaxfm import files
from jaxfm.config import AUTO, AUTO_METRIC, BY_EXAMPLES, FREE_ON_RESUME, Config, ModelConfig
from jaxfm.core.initial import Origin
from jaxfm.errors import UserError
from jaxfm.hub.locate import with_revision
from jaxfm.observe.report import JSON_FILE, read_report_file
from jaxfm.parallel import distributed
from jaxfm.schema import differences, flatten, nested, replaced, to_dict
from jaxfm.tasks import registry
from jaxfm.training.quantised_weights import WEIGHTS_FILE

CONFIG_FILE = "config.json"
CONFIG_VERSION = 2  # of config.json; before it all tasks' keys stood in every config
LOCK_FILE = ".lock"
CHECKPOINTS_DIR = "checkpoints"
AVERAGED_DIR = "averaged"  # the mean of some checkpoints, where it stands for the run
EXTENSION_KINDS = ("task", "loss", "metric")  # what a user registers from outside the package
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "tokenizers", "numpy")

# Network file systems show what another machine wrote with some delay.
_SHARED_SECONDS = 30.0

# Keys that may be left open -> the values that say so; config.json has what was chosen.
_OPEN = {
    "data.row_length": (AUTO,),
    "train.batch_size": (AUTO, BY_EXAMPLES),
    "eval.metric": (AUTO_METRIC,),
}

Status = Literal["new", "half-way", "finished"]


class FinishedRunError(UserError):
    """A finished run, asked to go on by another config: only a new run can, from its weights."""


def status(workdir: pathlib.Path, config: Config) -> Status:
    """Says what there is to do in `workdir`; changes nothing.

    Raises:
      FinishedRunError: it holds a finished run of another config.
      UserError: it is a file, holds something that is no run, or an unfinished run of another config.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir}: is a file; name a directory.")
    files.check_parents(workdir, "--workdir")
    if not (workdir / CONFIG_FILE).is_file():
        # A run directory left by a run killed before config.json was written is reused.
        unfinished = {workdir / LOCK_FILE, *workdir.glob(f".{CONFIG_FILE}.*.part")}
        if workdir.is_dir() and any(path not in unfinished for path in workdir.iterdir()):
            raise UserError(f"--workdir={workdir}: is not empty and holds no run of jaxfm. Name a new directory.")
        return "new"
    changed = differences(read_config_values(workdir), to_dict(config), ignore=FREE_ON_RESUME)
    finished = (workdir / JSON_FILE).is_file()
    if (workdir / WEIGHTS_FILE).is_file() and not finished:
        raise UserError(
            f"--workdir={workdir}: holds rounded weights (jaxfm.quantise), which are not trained further. Start a new "
            f"run from them: --config.model.init=run:{workdir} and another --workdir."
        )
    if changed and finished:
        raise FinishedRunError(
            f"--workdir={workdir}: holds a finished run of another config ({'; '.join(changed)}). Give another "
            f"--workdir for a new run. To train this one's model further, start a new run from its weights: "
            f"--config.model.init=run:{workdir} and another --workdir."
        )
    if changed:
        raise UserError(
            f"--workdir={workdir}: holds a run of another config ({'; '.join(changed)}). Give the same config to go "
            "on with that run, or another --workdir for a new one."
        )
    return "finished" if finished else "half-way"


@contextlib.contextmanager
def hold(workdir: pathlib.Path, config: Config, expected: Status) -> Iterator[None]:
    """Keeps other runs out of `workdir`, in process 0 of a run for all its processes.

    Raises:
      UserError: another run holds it (which one, where, since when); or one has been there since `expected` was found.
    """
    if not distributed.is_main():
        yield
        return
    with files.held(workdir / LOCK_FILE, f"--workdir={workdir}"):
        found = status(workdir, config)
        if found != expected:
            raise UserError(
                f"--workdir={workdir}: another process has been there meanwhile: the run, which was {expected}, is now "
                f"{found}. Give the same command again, or name another directory."
            )
        yield


def with_chosen(workdir: pathlib.Path, config: Config) -> Config:
    """Returns the config with what the run in `workdir`, if there is one, has chosen for keys that are left open."""
    if not _open_keys(config) or not (workdir / CONFIG_FILE).is_file():
        return config
    return with_values(config, flatten(to_dict(read_config(workdir))))


def with_values(config: Config, chosen: Mapping[str, Any]) -> Config:
    """Returns the config with those of the values that are of keys it leaves open ("auto")."""
    return replaced(config, {key: chosen[key] for key in _open_keys(config) if key in chosen})


def _open_keys(config: Config) -> list[str]:
    """Returns the keys whose value stands for one that is chosen at the start of a run."""
    values = flatten(to_dict(config))
    of_task = {each.name: each.metadata for each in dataclasses.fields(config.task)}
    return [
        *(key for key, stands_for_others in _OPEN.items() if values[key] in stands_for_others),
        *(
            f"task.{name}"
            for name, rules in of_task.items()
            if "open" in rules and values[f"task.{name}"] == rules["open"]
        ),
    ]


def identity(workdir: pathlib.Path, config: Config) -> dict[str, Any]:
    """Returns what must be the same on all processes of a run: fact -> JSON value.

    All of the config but `data.cache`, which may be a place of each machine's own; versions, jaxfm's source, and what
    newest checkpoint each finds in the run directory.
    """
    source = hashlib.sha256()
    package = pathlib.Path(jaxfm.__file__).parent
    for path in sorted(package.rglob("*.py")):
        source.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return {
        **{f"config.{key}": value for key, value in flatten(to_dict(config)).items() if key != "data.cache"},
        **{f"the version of {name}": version for name, version in versions().items()},
        "the version of Python": platform.python_version(),
        "jaxfm's code (hash)": source.hexdigest()[:16],
        **{f"the {each['kind']} {each['name']!r} (hash)": each["sha256"][:16] for each in used_extensions(config)},
        "the checkpoint to go on from": newest_checkpoint(workdir),
    }


def newest_checkpoint(workdir: pathlib.Path) -> int | None:
    """Returns the step of the newest checkpoint, which need not be whole; None without any."""
    folder = workdir / CHECKPOINTS_DIR
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return max(steps, default=None)


def where_it_goes_on(workdir: pathlib.Path) -> str:
    """Says what the same command would do after the run has been cut off."""
    step = newest_checkpoint(workdir)
    kept = "There is no checkpoint yet" if step is None else f"The last checkpoint is of step {step}"
    return f"{kept}; the same command {'starts anew' if step is None else 'goes on from there'}."


def check_shared(workdir: pathlib.Path) -> None:
    """Raises UserError where the run directory, which process 0 has just made, is not seen by this process."""
    deadline = time.monotonic() + _SHARED_SECONDS
    while not (workdir / CONFIG_FILE).is_file():
        if time.monotonic() > deadline:
            raise UserError(
                f"--workdir={workdir}: process 0 has written it, but this process ({platform.node()}) does not see it. "
                "Give a directory of a file system that all machines share."
            )
        time.sleep(0.1)


def write_config(workdir: pathlib.Path, config: Config, origin: Origin | None = None) -> None:
    """Writes config.json: the resolved config, where the first weights are from, and what else tells runs apart."""
    values = {
        "version": CONFIG_VERSION,
        "config": to_dict(config),
        "origin": None if origin is None else dataclasses.asdict(origin),
        "extensions": used_extensions(config),
        "versions": versions(),
        "python": platform.python_version(),
        "device": device_name(),
        "git_commit": _git_commit(),
    }
    files.write_json(workdir / CONFIG_FILE, values)


def read_origin(workdir: pathlib.Path) -> Origin | None:
    """Returns where the first weights of a run are from; None for scratch and runs of before this was kept."""
    path = workdir / CONFIG_FILE
    values = files.read_versioned(path, CONFIG_VERSION).get("origin") if path.is_file() else None
    if values is None:
        return None
    kinds = {each.name: type(each.default) for each in dataclasses.fields(Origin)} | {"init": str}
    if not isinstance(values, dict) or {name: type(value) for name, value in values.items()} != kinds:
        raise UserError(f'{path}: its "origin" is not one that jaxfm wrote.')
    return Origin(**values)


def read_made_with(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns what config.json says of how a run was made: "versions", "python", "device", "git_commit"."""
    values = files.read_versioned(workdir / CONFIG_FILE, CONFIG_VERSION)
    return {name: value for name, value in values.items() if name not in ("config", "origin", "extensions")}


def pinned(workdir: pathlib.Path, model: ModelConfig) -> ModelConfig:
    """Returns the model config of the run in `workdir`, hf: URIs at the commits that it began with, if it has begun."""
    origin = read_origin(workdir)
    if origin is None or origin.init != model.init:
        return model
    init = with_revision(model.init, origin.revision)
    return dataclasses.replace(model, init=init, tokenizer=with_revision(model.tokenizer, origin.tokenizer_revision))


def used_extensions(config: Config) -> list[dict[str, str]]:
    """Returns what a run uses from outside the package, as JSON values: its task, loss and metrics, and their files."""
    return [
        {"kind": kind, "name": name, "module": origin.module, "file": origin.file, "sha256": origin.sha256}
        for kind, name, origin in registry.extensions_of(config)
    ]


def check_extensions(workdir: pathlib.Path, config: Config, kinds: Sequence[str] = EXTENSION_KINDS) -> None:
    """Raises UserError unless what the run in `workdir` uses from outside the package is registered, and the same.

    Args:
      workdir: a run directory.
      config: of the run.
      kinds: of what is needed: "task", "loss", "metric".
    """
    present = {(each["kind"], each["name"]): each for each in used_extensions(config)}
    for kind, name, file, digest in _recorded_extensions(workdir):
        if kind not in kinds:
            continue
        what = f"--workdir={workdir}: the run uses the {kind} {name!r}"
        found = present.get((kind, name))
        if found is None:
            raise UserError(f"{what} of {file}, which is not registered. {_how_to_register(file)}")
        if digest and found["sha256"] and digest != found["sha256"]:
            raise UserError(
                f"{what} of {file} as it was (sha256 {digest[:16]}), and {found['file']} is another now "
                f"({found['sha256'][:16]}). Put it back as it was, or start a new --workdir."
            )


def missing_metrics(workdir: pathlib.Path, config: Config) -> str:
    """Returns a sentence about metrics of the run that are not registered now; empty where none is missing."""
    present = {(each["kind"], each["name"]) for each in used_extensions(config)}
    missing = [each for each in _recorded_extensions(workdir) if each[0] == "metric" and each[:2] not in present]
    if not missing:
        return ""
    names = ", ".join(name for _, name, _, _ in missing)
    return f"NOTE: not scored, as not registered now: {names}. {_how_to_register(missing[0][2])}"


def _recorded_extensions(workdir: pathlib.Path) -> list[tuple[str, str, str, str]]:
    """Returns kind, name, file (or module) and sha256 of what a run used; runs of before have nothing recorded."""
    values = files.read_versioned(workdir / CONFIG_FILE, CONFIG_VERSION).get("extensions", [])
    try:
        return [(each["kind"], each["name"], each["file"] or each["module"], each["sha256"]) for each in values]
    except (TypeError, KeyError) as error:
        raise UserError(f'{workdir / CONFIG_FILE}: its "extensions" are not ones that jaxfm wrote.') from error


def _how_to_register(file: str) -> str:
    return f"Give --plugin={file if file.endswith('.py') else 'FILE.py'}, or in Python run what registers it."


def read_config(workdir: pathlib.Path) -> Config:
    """Reads the config of a run; UserError when there is none, or its task is not registered."""
    if not (workdir / CONFIG_FILE).is_file():
        raise UserError(f"--workdir={workdir}: holds no run of jaxfm ({CONFIG_FILE} is not there).")
    for kind, name, file, _ in _recorded_extensions(workdir):
        if kind == "task" and name not in registry.names():
            raise UserError(
                f"--workdir={workdir}: the run is of the task {name!r} of {file}, which is not registered. "
                f"{_how_to_register(file)}"
            )
    values = read_config_values(workdir)
    try:
        return registry.from_config_dict(values)
    except UserError as error:
        raise UserError(f"{workdir / CONFIG_FILE}: {error} It was changed, or another jaxfm wrote it.") from error


def read_config_values(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the part "config" of config.json; that of an older run in today's keys.

    Keys that came later have their default in `jaxfm/config.py` or in the dataclass of the task's keys, which is always
    what runs did before.
    """
    path = workdir / CONFIG_FILE
    values = files.read_versioned(path, CONFIG_VERSION)
    config = values.get("config")
    if not isinstance(config, dict):
        raise UserError(f'{path}: is not a config written by jaxfm (it has no group "config").')
    try:
        # In version 1 "task" was a name.
        return _with_later_keys(registry.upgrade_config(config) if isinstance(config.get("task"), str) else config)
    except UserError as error:
        raise UserError(f"{path}: {error} Another jaxfm wrote it, or it was changed.") from error


def source_of(workdir: pathlib.Path) -> str:
    """Returns `config.data.source` of the run in `workdir`; empty where there is none."""
    if not (workdir / CONFIG_FILE).is_file():
        return ""
    data = read_config_values(workdir).get("data", {})
    return str(data.get("source", "")) if isinstance(data, dict) else ""


def _with_later_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    trainer = {key: value for key, value in flatten(to_dict(Config())).items() if key != "task"}
    task = values.get("task")
    name = task.get("name") if isinstance(task, Mapping) else None
    own = to_dict(registry.definition(name).config_class()) if name in registry.names() else {}
    return nested(trainer | flatten(own, "task.") | flatten(values))


def read_report(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns report.json of a finished run; UserError for one that is cut or was changed."""
    try:
        return read_report_file(workdir / JSON_FILE)
    except UserError as error:
        raise UserError(f"{error} The run itself is whole: jaxfm.evaluate scores it again.") from error


def versions() -> dict[str, str]:
    """Returns the versions of jaxfm and of the packages a result depends on."""
    return {"jaxfm": jaxfm.__version__} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def device_name() -> str:
    """Returns e.g. "16 x TPU v5 lite in 4 processes" or "1 x cpu"."""
    several = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}{several}"


def _git_commit() -> str | None:
    """Returns the commit of the checkout jaxfm runs from, None when it is an installed package."""
    command = ["git", "-C", str(pathlib.Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None

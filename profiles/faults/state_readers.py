"""The readers that take milliseconds: models of task.json, checkpoints, exported programs, half a corpus, flags."""

import contextlib
import functools
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl import flags

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.spec import SPEC_FILE
from jaxfm.data.corpora.documents import Document
from jaxfm.data.corpora.preparation import Preparation, prepare
from jaxfm.errors import UserError
from jaxfm.formats import stablehlo
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import program, usage
from jaxfm.tasks import registry
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.saved_run import open_run
from profiles.faults.hub_readers import write_vocabulary
from profiles.faults.readers import BYTES, JSON, TEXT, Reader, texts
from profiles.faults.run_readers import spec_seeds, write_config_of

_STEP = 3


@functools.cache
def _mesh() -> Any:
    return make_mesh(MeshConfig())


def _read_model(folder: pathlib.Path) -> Any:
    """Opens the run and builds the shapes of its model, as predict and export do before they read weights."""
    write_config_of(folder)
    return open_run(folder).abstract_model(_mesh(), DEFAULT_BUILD)


def _write_checkpoint(folder: pathlib.Path) -> None:
    checkpoints = Checkpoints(folder / "checkpoints")
    meta = {"best": {"step": _STEP, "value": 0.5}, "seconds": 1.5, "fingerprint": "ab"}
    checkpoints.save_params(_STEP, {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}, meta)
    checkpoints.wait()
    checkpoints.close()


@functools.cache
def _checkpoint() -> Mapping[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        _write_checkpoint(folder)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _read_checkpoint(folder: pathlib.Path) -> None:
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    try:
        step = checkpoints.steps()[-1]
        checkpoints.meta(step)
        shapes = {"kernel": jax.ShapeDtypeStruct((4, 3), jnp.float32), "bias": jax.ShapeDtypeStruct((3,), jnp.float32)}
        checkpoints.restore_params(step, shapes)
    finally:
        checkpoints.close()


def _of_checkpoint(name: str) -> Any:
    """Returns the seeds of a file of a checkpoint: what Orbax writes but for the time."""
    return lambda: [re.sub(rb"[0-9]{15,}", b"1700000000000000000", _checkpoint()[name])]


_DOCUMENTS = ("ada met bob", "bob met ada", "a b c d")


class _StoppedError(Exception):
    """Stops a preparation half-way."""


def _prepare(folder: pathlib.Path, stop_after: int = len(_DOCUMENTS)) -> Any:
    """Prepares a corpus, or goes on with one that was stopped before its manifest."""
    settings = Preparation(source="text", row_length=16, deduplicate="none", shard_documents=1)

    def read() -> Iterator[Document]:
        for number, text in enumerate(_DOCUMENTS):
            if number == stop_after:
                raise _StoppedError
            yield Document(text, f"in.txt:{number + 1}")

    return prepare(read, folder / "tokenizer_files", folder / "corpus", settings)


def _go_on(folder: pathlib.Path) -> None:
    """Goes on with it, and puts everything back as it was."""
    try:
        _prepare(folder)
    finally:
        shutil.rmtree(folder / "corpus", ignore_errors=True)
        _write_half(folder)


def _write_half(folder: pathlib.Path) -> None:
    for name, content in _half().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@functools.cache
def _half() -> Mapping[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "tokenizer_files").mkdir()
        write_vocabulary(folder / "tokenizer_files")
        with contextlib.suppress(_StoppedError):
            _prepare(folder, stop_after=2)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _of_half(name: str) -> Any:
    return lambda: [_half()[f"corpus/{name}"]]


_WORDS = (
    "--config=ner:files\n--config.train.epochs=3\n--config.optim.learning_rate=1e-4\n--workdir=out\n",
    "ner\n--data=conll:in\n--config.task.head=crf\n--config.adapt.lora.targets=('query',)\n--workdir\nout\n",
    "--config=classification\n--config.seed=1\n--noconfig.model.scan_layers\n--config.data.holdout=0.1\n",
)


@functools.cache
def _definition() -> usage.Definition:
    found = program.definition_of("train")
    program.define_config_flag()
    flags.DEFINE_string("workdir", None, "")
    return found


def _read_words(folder: pathlib.Path) -> Any:
    """Reads the words of a command line of `jaxfm train`, a word a line, up to its checked config."""
    definition = _definition()
    text = (folder / "words.txt").read_bytes().decode("utf-8", "surrogateescape")
    words = [word for word in text.split("\n") if word and "\0" not in word]  # no system hands on others
    before = sys.argv
    sys.argv = ["train", *words]
    try:
        program.parse(sys.argv, definition)
        return None if flags.FLAGS.config is None else registry.from_config_dict(flags.FLAGS.config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error  # a command line has no file
    finally:
        sys.argv = before
        flags.FLAGS.unparse_flags()


def _write_export(folder: pathlib.Path) -> None:
    """Writes a folder as export --format=stablehlo does, of a program that adds."""
    (folder / stablehlo.DESCRIPTION).write_text(_DESCRIPTION)
    (folder / stablehlo.PROGRAM).write_bytes(_program())
    safetensors.numpy.save_file({"w": np.ones(2, np.float32)}, folder / stablehlo.WEIGHTS)


@functools.cache
def _program() -> bytes:
    weights = {"w": jax.ShapeDtypeStruct((2,), jnp.float32)}
    given = {"tokens": jax.ShapeDtypeStruct((1, 2), jnp.int32)}
    exported = jax.export.export(jax.jit(lambda w, x: {"y": w["w"] + x["tokens"]}))(weights, given)
    return bytes(exported.serialize())


_DESCRIPTION = '{"version": 1, "inputs": ["tokens"], "outputs": ["y"], "labels": ["O"], "max_length": 2}'
_CHECKPOINT_FILES = {
    "checkpoint_meta": "checkpoints/3/meta/metadata",
    "checkpoint_tree": "checkpoints/3/params/_METADATA",
    "checkpoint_sharding": "checkpoints/3/params/_sharding",
    "checkpoint_step": "checkpoints/3/_CHECKPOINT_METADATA",
}
READERS = (
    Reader("task_model", SPEC_FILE, spec_seeds, _read_model, JSON, share=30),
    *(
        Reader(name, file, _of_checkpoint(file), _read_checkpoint, JSON, prepare=_write_checkpoint, share=10)
        for name, file in _CHECKPOINT_FILES.items()
    ),
    Reader(
        "half_settings", "corpus/settings.json", _of_half("settings.json"), _go_on, JSON,
        prepare=_write_half, share=5,
    ),
    Reader(
        "half_record", "corpus/parts/rows-00000.array_record.json", _of_half("parts/rows-00000.array_record.json"),
        _go_on, JSON, prepare=_write_half, share=3,
    ),
    Reader(
        "stablehlo_description", stablehlo.DESCRIPTION, texts(_DESCRIPTION), stablehlo.read, JSON,
        prepare=_write_export, share=10,
    ),
    Reader("stablehlo_program", stablehlo.PROGRAM, lambda: [_program()], stablehlo.read, BYTES,
        prepare=_write_export, share=10,
    ),
    Reader("words", "words.txt", texts(*_WORDS), _read_words, TEXT, share=40),
)  # fmt: skip

"""From the URIs of teachers to their shapes, without their weights."""

import functools
import pathlib
from collections.abc import Callable
from typing import TypeVar

from jaxfm import files
from jaxfm.config import Config, ModelConfig
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.errors import UserError
from jaxfm.training import initial
from jaxfm.training.saved_run import SavedRun, open_run
from jaxfm.training.teachers import KEY, KnownTeacher

T = TypeVar("T")


def find_teachers(config: Config) -> tuple[KnownTeacher, ...]:
    """Returns what `config.distil.teacher` names.

    Raises:
      UserError: a URI of nothing, or of what is no model.
    """
    return tuple(_known(uri) for uri in config.distil.teachers)


def _known(uri: str) -> KnownTeacher:
    if uri == "scratch":
        raise UserError(f"{KEY}: 'scratch' is no trained model. Name run:WORKDIR, hf:OWNER/NAME or dir:PATH.")
    encoder, _ = _named(uri, initial.shape)
    run = open_run(files.expanded(uri.removeprefix(initial.RUN))) if uri.startswith(initial.RUN) else None
    return KnownTeacher(
        uri=uri,
        encoder=encoder,
        spec=None if run is None else run.spec,
        weights=functools.partial(_named, uri, initial.resolve),
        labels_and_tokenizer=functools.partial(_labels_and_tokenizer, uri, run),
    )


def _labels_and_tokenizer(uri: str, run: SavedRun | None) -> tuple[tuple[str, ...], pathlib.Path | None]:
    if run is not None:
        return run.predictor().labels, run.workdir / TOKENIZER_DIR
    first = _named(uri, initial.resolve)
    return first.labels, first.tokenizer


def _named(uri: str, find: Callable[[ModelConfig], T]) -> T:
    """Calls a function of `config.model` for a teacher's URI; what it raises names the key of teachers."""
    try:
        return find(ModelConfig(init=uri))
    except UserError as error:
        raise UserError(str(error).replace("config.model.init", KEY)) from error

"""Where a new run's weights come from, another run included, and those of its teachers."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import TypeVar

from jaxfm import files
from jaxfm.config import Config, MeshConfig, ModelConfig
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import HasLayout, ImageLayout, Initial, SoundLayout
from jaxfm.core.spec import SPEC_FILE
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.errors import UserError
from jaxfm.hub import initial as hub_initial
from jaxfm.hub.tensor_files import check_finite
from jaxfm.hub.vocabulary import fit_vocabulary
from jaxfm.models.adapters import plain_weights
from jaxfm.models.subnets import take_layers
from jaxfm.parallel.mesh import make_mesh
from jaxfm.training.saved_run import SavedRun, open_run
from jaxfm.training.teachers import KEY as TEACHER_KEY
from jaxfm.training.teachers import MASKED_LM_KEY, KnownTeacher
from jaxfm.training.workdir import read_origin

RUN = "run:"
T = TypeVar("T")


def resolve(config: ModelConfig) -> Initial:
    """Finds and reads what `config.model` names: run:WORKDIR here, all else in `jaxfm.hub.initial`.

    Of a run it is the checkpoint that the run itself would report: the best, or the last, or a mean of some; its
    low-rank updates are merged into the weights, and rounded weights are floats again. Of either, the layers that
    `keep_layers` names.

    Raises:
      UserError: as `jaxfm.hub.initial.resolve`, no run or checkpoint at run:WORKDIR, or layers that cannot be kept.
    """
    first = _of_run(config) if config.init.startswith(RUN) else hub_initial.resolve(config)
    if not config.keep_layers:
        return first
    kept = _kept(config, first.encoder)
    return dataclasses.replace(
        first,
        encoder=dataclasses.replace(first.encoder, num_layers=len(kept)),
        params=take_layers(first.params, first.encoder, kept),
        notes=(*first.notes, f"layers kept: {', '.join(map(str, config.keep_layers))} of {first.encoder.num_layers}"),
    )


def of_run(config: ModelConfig, workdir: pathlib.Path) -> ModelConfig:
    """Returns the config with the weights and the tokenizer of a run in place of its own."""
    whole = {"preset": "", "tokenizer": "", "keep_layers": (), **dict.fromkeys(hub_initial.SIZES, 0)}
    return dataclasses.replace(config, init=f"{RUN}{workdir.resolve()}", **whole)


def _kept(config: ModelConfig, encoder: EncoderConfig) -> list[int]:
    """Returns the layers of weights that are kept, counted from 0; UserError where these cannot be kept alone."""
    shown, layers = f"config.model.keep_layers: is {config.keep_layers}, but", config.keep_layers
    if config.init == "scratch":
        raise UserError(
            f"{shown} config.model.init is 'scratch', which has no layers yet. Set config.model.num_layers."
        )
    if list(layers) != sorted(set(layers)) or not 1 <= layers[0] <= layers[-1] <= encoder.num_layers:
        raise UserError(
            f"{shown} must be ascending numbers from 1 to {encoder.num_layers}, the layers of {config.init!r}."
        )
    if encoder.layer_groups:
        raise UserError(f"{shown} the layers of a {encoder.family} encoder share their weights. Leave it empty.")
    if encoder.local_window:
        raise UserError(
            f"{shown} which layers of a {encoder.family} encoder see a window goes by their number. Leave it empty."
        )
    return [layer - 1 for layer in layers]


def _of_run(config: ModelConfig) -> Initial:
    workdir = _workdir(config)
    run = open_run(workdir)
    try:
        restored = run.restore(make_mesh(MeshConfig()), Build())
    except UserError as error:
        raise UserError(f"config.model.init: {error}") from error
    encoder, params = plain_weights(run.spec.encoder, restored.to_host())
    for name, value in params.items():
        check_finite(name, [value], f"config.model.init: {config.init}")
    labels, origin = run.predictor().labels, read_origin(workdir)
    note = f"weights: {config.init}, step {restored.step} ({run.spec.encoder.family})"
    if encoder.reads_patches:
        layout = run.spec.layout if isinstance(run.spec, HasLayout) else None
        encoder = hub_initial.as_asked(encoder, config)
        return Initial(
            encoder, params, labels, None, (note,), origin,
            images=layout if isinstance(layout, ImageLayout) else None,
            sound=layout if isinstance(layout, SoundLayout) else None,
        )  # fmt: skip
    own = workdir / TOKENIZER_DIR
    tokenizer = hub_initial.fitting_tokenizer(config, own)
    encoder, grown, notes = fit_vocabulary(encoder, params, tokenizer, own)
    hub_initial.check_kind(encoder, config, f"config.model.init: {config.init!r}")
    return Initial(
        encoder=hub_initial.as_asked(encoder, config),
        params=grown,
        labels=labels,
        tokenizer=tokenizer,
        notes=(note, *notes),
        origin=origin,
    )


def shape(config: ModelConfig) -> tuple[EncoderConfig, tuple[str, ...]]:
    """Finds the shape alone of what `config.model` names; see `jaxfm.hub.initial.shape`."""
    if config.init.startswith(RUN):
        encoder, _ = plain_weights(open_run(_workdir(config)).spec.encoder, {})
        encoder, notes = hub_initial.as_asked(encoder, config), (f"shape: task.json of {config.init}",)
    else:
        encoder, notes = hub_initial.shape(config)
    if config.keep_layers:
        encoder = dataclasses.replace(encoder, num_layers=len(_kept(config, encoder)))
    return encoder, notes


def _workdir(config: ModelConfig) -> pathlib.Path:
    workdir = files.expanded(config.init.removeprefix(RUN))
    if not (workdir / SPEC_FILE).is_file():
        raise UserError(
            f"config.model.init: {config.init!r}: {workdir} holds no run of jaxfm ({SPEC_FILE} is missing)."
        )
    hub_initial.check_no_preset(config)
    return workdir


def find_teachers(config: Config) -> tuple[KnownTeacher, ...]:
    """Returns what `config.distil.teacher` names, then what `config.augment.masked_lm` does.

    Raises:
      UserError: a URI of nothing, or of what is no model.
    """
    teachers = tuple(_known(uri, TEACHER_KEY) for uri in config.distil.teachers)
    return (*teachers, _known(uri, MASKED_LM_KEY)) if (uri := config.augment.masked_lm) else teachers


def _known(uri: str, key: str) -> KnownTeacher:
    if uri == "scratch":
        raise UserError(f"{key}: 'scratch' is no trained model. Name run:WORKDIR, hf:OWNER/NAME or dir:PATH.")
    encoder, _ = _named(uri, key, shape)
    run = open_run(files.expanded(uri.removeprefix(RUN))) if uri.startswith(RUN) else None
    return KnownTeacher(
        uri=uri,
        encoder=encoder,
        spec=None if run is None else run.spec,
        weights=functools.partial(_named, uri, key, resolve),
        labels_and_tokenizer=functools.partial(_labels_and_tokenizer, uri, key, run),
        key=key,
    )


def _labels_and_tokenizer(uri: str, key: str, run: SavedRun | None) -> tuple[tuple[str, ...], pathlib.Path | None]:
    if run is not None:
        return run.predictor().labels, run.workdir / TOKENIZER_DIR
    first = _named(uri, key, resolve)
    return first.labels, first.tokenizer


def _named(uri: str, key: str, find: Callable[[ModelConfig], T]) -> T:
    """Calls a function of `config.model` for a frozen model's URI; what it raises names the key of that model."""
    try:
        return find(ModelConfig(init=uri))
    except UserError as error:
        raise UserError(str(error).replace("config.model.init", key)) from error

"""Where a new run's weights come from, another run included."""

import pathlib

from jaxfm import files
from jaxfm.config import MeshConfig, ModelConfig
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import HasImageLayout, Initial
from jaxfm.core.spec import SPEC_FILE
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.errors import UserError
from jaxfm.hub import initial as hub_initial
from jaxfm.hub.tensor_files import check_finite
from jaxfm.hub.vocabulary import fit_vocabulary
from jaxfm.models.adapters import plain_weights
from jaxfm.parallel.mesh import make_mesh
from jaxfm.training.saved_run import open_run
from jaxfm.training.workdir import read_origin

RUN = "run:"


def resolve(config: ModelConfig) -> Initial:
    """Finds and reads what `config.model` names: run:WORKDIR here, all else in `jaxfm.hub.initial`.

    Of a run it is the checkpoint that the run itself would report: the best, or the last, or a mean of some; its
    low-rank updates are merged into the weights, and rounded weights are floats again.

    Raises:
      UserError: as `jaxfm.hub.initial.resolve`, or no run or checkpoint at run:WORKDIR.
    """
    if not config.init.startswith(RUN):
        return hub_initial.resolve(config)
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
    if encoder.reads_images:
        layout = run.spec.layout if isinstance(run.spec, HasImageLayout) else None
        encoder = hub_initial.with_dropout(encoder, config)
        return Initial(encoder, params, labels, None, (note,), origin, images=layout)
    own = workdir / TOKENIZER_DIR
    tokenizer = hub_initial.fitting_tokenizer(config, own)
    encoder, grown, notes = fit_vocabulary(encoder, params, tokenizer, own)
    return Initial(
        encoder=hub_initial.with_dropout(encoder, config),
        params=grown,
        labels=labels,
        tokenizer=tokenizer,
        notes=(note, *notes),
        origin=origin,
    )


def shape(config: ModelConfig) -> tuple[EncoderConfig, tuple[str, ...]]:
    """Finds the shape alone of what `config.model` names; see `jaxfm.hub.initial.shape`."""
    if not config.init.startswith(RUN):
        return hub_initial.shape(config)
    encoder, _ = plain_weights(open_run(_workdir(config)).spec.encoder, {})
    return hub_initial.with_dropout(encoder, config), (f"shape: task.json of {config.init}",)


def _workdir(config: ModelConfig) -> pathlib.Path:
    workdir = files.expanded(config.init.removeprefix(RUN))
    if not (workdir / SPEC_FILE).is_file():
        raise UserError(
            f"config.model.init: {config.init!r}: {workdir} holds no run of jaxfm ({SPEC_FILE} is missing)."
        )
    hub_initial.check_no_preset(config)
    return workdir

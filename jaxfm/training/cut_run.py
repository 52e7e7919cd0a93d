"""A smaller model made of a finished run's, as a run directory like any other."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxfm.adapt_config import AdaptConfig
from jaxfm.augment_config import TextAugmentConfig
from jaxfm.config import Config, ExitsConfig, GrowConfig, SupernetConfig
from jaxfm.consolidation_config import ConsolidationConfig
from jaxfm.core.initial import Initial
from jaxfm.distil_config import DistilConfig
from jaxfm.errors import UserError
from jaxfm.hub.initial import SIZES
from jaxfm.models.subnets import Subnet, cut, cut_encoder
from jaxfm.observe.progress import Progress
from jaxfm.parallel.mesh import make_mesh
from jaxfm.privacy_config import PrivacyConfig
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.training import initial
from jaxfm.training.paths import flat
from jaxfm.training.results import VALID, Start
from jaxfm.training.results import write_run as write
from jaxfm.training.saved_run import SavedRun
from jaxfm.training.setup import prepare

__all__ = ["VALID", "Start", "config_from", "start", "write", "write_run"]

_OF_SCRATCH = {"preset": "", "tokenizer": "", **dict.fromkeys(SIZES, 0)}
# What a run of loaded weights, without adapters and by itself, has nothing of.
_ALONE = {
    "adapt": AdaptConfig(),
    "grow": GrowConfig(),
    "supernet": SupernetConfig(),
    "exits": ExitsConfig(),
    "distil": DistilConfig(),
    "augment": TextAugmentConfig(),
    "consolidate": ConsolidationConfig(),
    "privacy": PrivacyConfig(),
    "model.keep_layers": (),
    "optim.mup": 0,
    "train.seeds": 1,
    "train.learning_rates": (),
    "train.weight_decays": (),
    "checkpoint.mirror": "",
}


def config_from(config: Config, workdir: pathlib.Path) -> Config:
    """Returns the config of a run for one model in floats, which starts from the weights of a run directory."""
    model = dataclasses.replace(config.model, init=f"{initial.RUN}{workdir.resolve()}", **_OF_SCRATCH)
    return replaced(dataclasses.replace(config, model=model), _ALONE)


def start(config: Config, first: Initial) -> Start:
    """Reads the data and puts the weights on the devices.

    Raises:
      UserError: the run's data are gone, or are of other classes than the weights.
    """
    task, loaded = registry.create(config, first)
    setup = prepare(config, task, loaded, make_mesh(config.parallel.mesh))
    if missing := sorted(flat(setup.session.abstract.params).keys() - loaded.keys()):
        raise UserError(
            f"{config.model.init}: the data of {config.data.source} ask for another head ({missing[0]}) than the run "
            "has: they have other classes. Name data with those of the run."
        )
    return Start(config, first, task, setup, setup.initial_state().params)


def write_run(run: SavedRun, subnet: Subnet, workdir: pathlib.Path, progress: Progress) -> Mapping[str, Any]:
    """Writes a subnet as a finished run of no update, scored on the run's own data; returns report.json.

    Args:
      run: of the supernet.
      subnet: which one.
      workdir: of the new run; absent or empty. report.json is written last.
      progress: where to show how far it is.

    Raises:
      UserError: the run's data are gone, or its checkpoint is not whole.
    """
    config = config_from(run.config, run.workdir)
    whole = initial.resolve(config.model)
    small = dataclasses.replace(
        whole, encoder=cut_encoder(whole.encoder, subnet), params=cut(whole.params, whole.encoder, subnet)
    )
    return write(start(config, small), workdir, progress)

"""A subnet cut out of the run of a supernet, as a run directory like any other."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxfm.config import Config, SupernetConfig
from jaxfm.hub.initial import SIZES
from jaxfm.models.subnets import Subnet, cut, cut_encoder
from jaxfm.observe.progress import Progress
from jaxfm.observe.wall_clock import WallClock
from jaxfm.observe.writers import MetricsWriter
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks import registry
from jaxfm.training import initial, results
from jaxfm.training import workdir as workdirs
from jaxfm.training.best import Best
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.member import TrainResult
from jaxfm.training.saved_run import SavedRun
from jaxfm.training.setup import prepare

_OF_SCRATCH = {"preset": "", "tokenizer": "", **dict.fromkeys(SIZES, 0)}


def config_from(config: Config, workdir: pathlib.Path) -> Config:
    """Returns the config of a supernet's run for one model, which starts from the weights of a run directory."""
    model = dataclasses.replace(config.model, init=f"{initial.RUN}{workdir.resolve()}", **_OF_SCRATCH)
    return dataclasses.replace(config, model=model, supernet=SupernetConfig())


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
    config, wall_clock = config_from(run.config, run.workdir), WallClock()
    whole = initial.resolve(config.model)
    small = dataclasses.replace(
        whole, encoder=cut_encoder(whole.encoder, subnet), params=cut(whole.params, whole.encoder, subnet)
    )
    task, loaded = registry.create(config, small)
    setup = prepare(config, task, loaded, make_mesh(config.parallel.mesh))
    params = setup.initial_state().params
    workdir.mkdir(parents=True, exist_ok=True)
    workdirs.write_config(workdir, config, small.origin)
    task.save(workdir)
    checkpoints = Checkpoints(workdir / workdirs.CHECKPOINTS_DIR)
    checkpoints.save_params(0, params, {"best": dataclasses.asdict(Best())})
    checkpoints.close()
    valid = task.datasets["valid"]
    with progress.task("scoring the subnet by itself", len(valid)) as advance:
        outputs = setup.evaluate(params, valid, advance)
    with MetricsWriter(workdir, resume_step=None, tensorboard=False) as writer:
        writer.write(0, "valid", task.scorer("valid").metrics(outputs))
    fitted = TrainResult(params, 0, 0, Best(), valid_outputs=outputs)
    return results.finish(config, task, setup, fitted, workdir, progress, wall_clock)

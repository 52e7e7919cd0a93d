"""The batches of a run, how many updates it has, and after which of them the validation split is scored."""

import functools
import math

from jax.sharding import Mesh

from jaxfm.config import Config
from jaxfm.core.batch import Dataset
from jaxfm.data.pipeline import TrainBatches
from jaxfm.parallel import mesh as meshes
from jaxfm.training import private_rows

# Evaluations of a run whose epochs are too short for one each: enough to see a curve, and at most a few minutes' worth
# of checkpoints.
EVALUATIONS = 20
# Updates below which a new head has hardly moved from where it was drawn.
FEW = 100


def train_batches(config: Config, rows: Dataset, mesh: Mesh) -> TrainBatches:
    """Returns the training batches of a run; of each, this host makes the rows that its devices of `mesh` hold."""
    host_rows = functools.partial(meshes.host_rows, mesh)
    if (drawn := private_rows.make_batches(config, rows, mesh, host_rows)) is not None:
        return drawn
    return TrainBatches(
        rows,
        batch_size=config.train.batch_size,
        first_batch_size=config.train.first_batch_size,
        warmup_steps=config.train.batch_warmup_steps,
        seed=config.seed,
        host_rows=host_rows,
    )


def count_updates(config: Config, batches: TrainBatches) -> tuple[int, tuple[str, ...]]:
    """Returns the optimizer updates of a run, and lines for the log where few examples decided them."""
    if config.train.steps:
        return config.train.steps, _few(config.train.steps)
    by_epochs, least = batches.steps_for(config.train.epochs), config.train.min_steps
    if by_epochs >= least:
        return by_epochs, _few(by_epochs)
    updates = f"{by_epochs} update{'s' * (by_epochs != 1)}"
    note = (
        f"updates: {config.train.epochs:g} epochs of so few examples would be {updates}; the run makes {least} "
        f"({batches.epoch_of(least):.1f} epochs), as train.min_steps says"
    )
    return least, (note, *_few(least))


def evaluation_interval(config: Config, batches: TrainBatches, total: int) -> int:
    """Returns the updates between two evaluations; 0: one where each epoch ends."""
    if config.eval.every_steps:
        return config.eval.every_steps
    return -(-total // EVALUATIONS) if batches.epoch_of(total) > EVALUATIONS else 0


def is_evaluation(step: int, config: Config, batches: TrainBatches, total: int) -> bool:
    """Whether the validation split is scored after `step` updates: always after the last."""
    if step == total:
        return True
    if interval := evaluation_interval(config, batches, total):
        return step % interval == 0
    return is_epoch_end(batches, step)


def count_evaluations(config: Config, batches: TrainBatches, total: int) -> int:
    """Returns how often the validation split is scored in `total` updates, if the run does not stop before."""
    if interval := evaluation_interval(config, batches, total):
        return -(-total // interval)
    whole = min(math.floor(batches.epoch_of(total)), total)  # of few rows several epochs end with one batch
    return whole + (not is_epoch_end(batches, total))


def is_epoch_end(batches: TrainBatches, step: int) -> bool:
    """Whether an epoch ends with the batch before `step` updates are done."""
    return math.floor(batches.epoch_of(step)) > math.floor(batches.epoch_of(step - 1))


def _few(total: int) -> tuple[str, ...]:
    if total >= FEW:
        return ()
    return (
        f"WARNING: {total} update{'s' * (total != 1)} in all: a new head needs some hundred. Set more "
        "--config.train.epochs, or --config.train.min_steps=200 with --config.train.steps=0.",
    )

"""DP-SGD for a run: which batches, how much noise, what it adds up to, and what is refused.

The unit is a training row, which is one example, or a window of a long one: `config.data.packed=False`. At each step
every row is taken with probability B / N (`data.poisson_batches`), B being `config.train.batch_size`; gradients are
those of `private_gradients`. Training rows reach the model through their noised sums alone: losses and metrics of
training, which would tell of single rows, are not computed. Validation and test rows are not protected.
"""

# B expected rows of a batch, N rows

import dataclasses
import math
import secrets
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from jaxfm.config import Config
from jaxfm.core.batch import Dataset
from jaxfm.core.objective import Objective
from jaxfm.data.pipeline import HostRows, TrainBatches
from jaxfm.data.poisson_batches import PoissonBatches, capacity_of
from jaxfm.errors import UserError
from jaxfm.observe.tables import Cell, Table
from jaxfm.parallel import mesh as meshes
from jaxfm.training import privacy_accounting as accounting
from jaxfm.training.private_gradients import RowPrivacy

_GUESSED = 10**5  # seeds below are those that people choose


def make_row_privacy(config: Config, objective: Objective) -> RowPrivacy | None:
    """Returns how a session's gradients are made private; None where they are not to be.

    Raises UserError for what single rows or their privacy do not allow, and for a budget whose noise nobody computed.
    """
    asked = config.privacy
    if not asked.clip_norm:
        return None
    check(config, objective)
    if not asked.noise:
        raise UserError(
            "config.privacy.noise: is 0. Here nobody knows the data from which a run computes it of config.privacy."
            "epsilon; give the multiplier itself."
        )
    return RowPrivacy(asked.clip_norm, asked.noise, config.train.batch_size)


def make_batches(config: Config, rows: Dataset, mesh: Mesh, host_rows: HostRows) -> TrainBatches | None:
    """Returns batches that are drawn as privacy needs them; None where the config asks for none.

    Raises UserError for a batch of more rows than there are.
    """
    if not config.privacy.clip_norm:
        return None
    if config.train.batch_size > len(rows):
        raise UserError(
            f"config.train.batch_size: {config.train.batch_size}: private training draws each of the {len(rows)} rows "
            "with a probability of that size divided by their number, which must be at most 1."
        )
    multiple = meshes.batch_shards(mesh) * config.train.accumulate
    return PoissonBatches(
        rows,
        batch_size=config.train.batch_size,
        capacity=capacity_of(config.train.batch_size, len(rows), multiple),
        seed=config.seed,
        host_rows=host_rows,
    )


@dataclasses.dataclass(frozen=True)
class PrivacyOfRun:
    """What the privacy of a run is computed from.

    Attributes:
      clip_norm, noise, delta: of the mechanism.
      rate: q, the probability with which a row is in a step.
      rows: N.
      capacity: the most rows of a step.
    """

    clip_norm: float
    noise: float
    delta: float
    rate: float
    rows: int
    capacity: int

    def spent(self, steps: int) -> dict[str, Any]:
        """Returns what so many updates have spent, as JSON values; "epsilon" is an upper bound."""
        epsilon = accounting.epsilon_of(
            noise=self.noise,
            rate=self.rate,
            rounds=steps,
            delta=self.delta,
            truncation=accounting.Truncation(self.rows, self.capacity),
        )
        facts = {
            "epsilon": epsilon,
            "delta": self.delta,
            "steps": steps,
            "noise": self.noise,
            "clip_norm": self.clip_norm,
        }
        return {**facts, "rate": self.rate, "rows": self.rows, "unit": "row", "neighbours": "one row more or less"}


def resolve(config: Config, batches: TrainBatches, rows: int, total_steps: int) -> tuple[Config, PrivacyOfRun | None]:
    """Returns the config with the noise that keeps its budget, and what is accounted; None without privacy.

    Raises UserError for keys that contradict each other, a delta that promises nothing, a budget that no noise keeps,
    or where dp-accounting is not installed.
    """
    asked = config.privacy
    if not asked.clip_norm:
        return config, None
    assert isinstance(batches, PoissonBatches)
    if bool(config.privacy.epsilon) == bool(config.privacy.noise):
        raise UserError(
            f"config.privacy.epsilon: is {asked.epsilon:g} and config.privacy.noise is {asked.noise:g}; private "
            "training needs one of them: a budget, from which the noise follows, or a noise multiplier."
        )
    if config.privacy.delta >= 1 / rows:
        raise UserError(
            f"config.privacy.delta: {asked.delta:g}: must be below one divided by the number of rows, {1 / rows:.3g}: "
            "giving away one row whole would satisfy it."
        )
    noise = asked.noise
    if not noise:
        # The room of a batch costs less than the tolerance of the search.
        searched = accounting.noise_for(asked.epsilon, rate=batches.rate, rounds=total_steps, delta=asked.delta)
        noise = math.ceil((searched + accounting.TOLERANCE) * 1e4) / 1e4
    accounting.library()
    config = dataclasses.replace(config, privacy=dataclasses.replace(asked, noise=noise))
    return config, PrivacyOfRun(asked.clip_norm, noise, asked.delta, batches.rate, rows, batches.capacity)


def notes(config: Config, privacy: PrivacyOfRun | None, total_steps: int) -> tuple[str, ...]:
    """Returns lines for the log of a private run: what all its steps will have spent, and a seed that is no secret."""
    if privacy is None:
        return ()
    said = (sentence(privacy.spent(total_steps)),)
    if config.seed >= _GUESSED:
        return said
    return (
        *said,
        f"WARNING: noise and batches follow from config.seed={config.seed}, which anyone can guess and take the noise "
        f"away. For a model that others see, draw one and keep it secret: --config.seed={secrets.randbelow(2**31)}",
    )


def sentence(spent: Mapping[str, Any]) -> str:
    """Returns what was spent, in words."""
    return (
        f"differential privacy of training rows: epsilon {spent['epsilon']:.3g} at delta {spent['delta']:g} "
        f"(DP-SGD: {spent['steps']:,} steps, each row in a step with probability {spent['rate']:.3g}, noise multiplier "
        f"{spent['noise']:.4g}, clip_norm {spent['clip_norm']:g}; one row more or less)"
    )


def table(spent: Mapping[str, Any]) -> Table:
    """Returns what was spent, for the report."""
    rows: list[tuple[Cell, ...]] = [
        ("epsilon", f"{spent['epsilon']:.4g}"),
        ("delta", f"{spent['delta']:g}"),
        ("unit", f"a training row: {spent['neighbours']}"),
        ("steps", f"{spent['steps']:,}"),
        ("probability of a row at each step", f"{spent['rate']:.4g}"),
        ("noise multiplier", f"{spent['noise']:.4g}"),
        ("clip_norm", f"{spent['clip_norm']:g}"),
    ]
    return Table("By DP-SGD; validation and test rows are not protected", ("", "value"), rows)


def check_alone(config: Config) -> None:
    """Raises UserError for private training of several runs at once."""
    if config.privacy.clip_norm:
        raise UserError(
            f"config.privacy.clip_norm={config.privacy.clip_norm:g}: is for one run. Each further one of config.train."
            "seeds, .learning_rates or .weight_decays would spend as much again."
        )


def check(config: Config, objective: Objective) -> None:
    """Raises UserError for a budget without a bound, and what a row's gradient or the count of what leaves forbids."""
    if not config.privacy.clip_norm:
        for name, value in (("epsilon", config.privacy.epsilon), ("noise", config.privacy.noise)):
            if value:
                raise UserError(
                    f"config.privacy.{name}: is {value:g}, but training is not private while config.privacy.clip_norm "
                    "is 0. Set the largest norm of a row's gradient, as --config.privacy.clip_norm=0.5."
                )
        return
    rules = (
        (config.data.packed, "config.data.packed=True", "a packed row mixes examples of several people"),
        (objective.whole_batch, f"task {config.task.name}", "its loss compares the rows of a batch"),
        (bool(config.augment.mixup), f"config.augment.mixup={config.augment.mixup:g}", "a mixture is of two rows"),
        (
            bool(config.train.first_batch_size),
            f"config.train.first_batch_size={config.train.first_batch_size}",
            "a row's probability must be the same at each step",
        ),
        (bool(config.grow.layers), "config.grow.layers", "its stages are runs that would each be counted anew"),
        (bool(config.distil.cache), "config.distil.cache", "it keeps a file of the training rows' outputs"),
    )
    for holds, what, why in rules:
        if holds:
            raise UserError(
                f"{what}: cannot be trained with config.privacy.clip_norm={config.privacy.clip_norm:g}: {why}."
            )

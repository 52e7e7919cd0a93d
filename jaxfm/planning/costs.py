"""What a model costs by formula, without compiling, training or any data: for searches with limits."""

import jax
from flax import nnx

from jaxfm.adapt_config import AdaptConfig
from jaxfm.config import Config
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import Objective
from jaxfm.errors import UserError, did_you_mean
from jaxfm.models.subnets import Subnet, cut_encoder, cut_shapes
from jaxfm.parallel.chips import CHIPS, Chip
from jaxfm.parallel.mesh import initialise
from jaxfm.planning.analytic import expected_activations
from jaxfm.training.paths import flat, nested
from jaxfm.training.state import count_parameters
from jaxfm.training.supernet import of_shape
from jaxfm.tuning.costs import BYTES, FLOPS, FORWARD_SECONDS, PARAMETERS, STEP_SECONDS

_BYTES = 4  # of a weight, an f32 number
_ALL_TRAINED = AdaptConfig()
# Times that a number of the weights' size goes between chip and memory in an update of Adam: weights, gradient and both
# moments, each read once and written once.
_MOVED_BY_UPDATE = 8
_WHOLE_MESH = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}


def chip_named(name: str) -> Chip:
    """Returns a chip by its name in topologies ("v5e", "h100"); UserError, naming the nearest, for an unknown one."""
    if name not in CHIPS:
        raise UserError(f"--chip={name}: is not a known chip. {did_you_mean(name, CHIPS)}")
    return CHIPS[name]


def costs(objective: Objective, parameters: int, config: Config, chip: Chip | None = None) -> dict[str, float]:
    """Returns what a model costs: `tuning.costs.COSTS`, without a chip those that need none.

    "flops" are those of the forward pass a token of a row (`models.flops`), head included: a third of those of
    training, where all is trained. "bytes" and "parameters" are of the weights in f32. Seconds are what the chip needs
    at the least: the longer of its operations at the peak rate of bf16, and of the bytes from and to its memory. Of an
    update these are weights, gradients and Adam's moments, and the activations that the backward pass keeps; of a
    forward pass of `eval.batch_size` rows the weights.

    Args:
      objective: the model and its loss.
      parameters: their number, without rows that fill up the vocabulary.
      config: of the run, with numbers for the rows of a batch and their length.
      chip: that seconds are of.
    """
    spec = objective.spec
    forward_of_row = objective.flops_per_row(_ALL_TRAINED) / 3
    found = {
        FLOPS: forward_of_row / spec.row_length,
        BYTES: float(_BYTES * parameters),
        PARAMETERS: float(parameters),
    }
    if chip is None:
        return found
    rows = config.train.batch_size
    compute = rows * objective.flops_per_row(config.adapt)
    kept = expected_activations(config, spec.encoder, _WHOLE_MESH, objective.logits_per_row())
    moved = _BYTES * _MOVED_BY_UPDATE * parameters + 2 * kept * config.train.accumulate
    return found | {
        STEP_SECONDS: max(compute / chip.peak_flops, moved / chip.hbm_bandwidth),
        FORWARD_SECONDS: max(
            config.eval.batch_size * forward_of_row / chip.peak_flops, found[BYTES] / chip.hbm_bandwidth
        ),
    }


def parameters_of(objective: Objective) -> int:
    """Returns the number of a model's parameters, without rows that fill up the vocabulary."""
    shapes = jax.eval_shape(lambda: initialise(lambda: objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0))))
    return count_parameters(shapes, objective.spec.encoder)


class SubnetCosts:
    """What the subnets of a model cost; a formula each, however many there are."""

    def __init__(self, objective: Objective, config: Config, chip: Chip | None):
        """Reads the shapes of the whole model's parameters."""
        shapes = jax.eval_shape(lambda: initialise(lambda: objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0))))
        self._objective, self._config, self._chip = objective, config, chip
        self._shapes = {path: leaf.shape for path, leaf in flat(shapes).items()}

    def __call__(self, subnet: Subnet) -> dict[str, float]:
        """Returns the costs of a subnet, as `costs`."""
        encoder = self._objective.spec.encoder
        shapes = cut_shapes(self._shapes, encoder, subnet)
        arrays = nested({path: jax.ShapeDtypeStruct(shape, "float32") for path, shape in shapes.items()})
        small = of_shape(self._objective, cut_encoder(encoder, subnet))
        return costs(small, count_parameters(arrays, encoder), self._config, self._chip)

"""The optimizers, one a line of `TABLE`: what makes an update of a gradient, and which settings each of them reads.

All of them are chains of optax. What one does to a matrix as a whole (norms, factors, orthogonal updates) it does to
each layer by itself: parameters of layers are stacked, and their first axis is no axis of the matrix.
"""

# L layers, I inputs and O outputs of a matrix

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from jaxfm.errors import UserError
from jaxfm.models.adapters import is_adapter_param
from jaxfm.optim_config import OptimConfig
from jaxfm.training.adaptation import Adaptation, Averaging
from jaxfm.training.paths import flat, nested, path_name
from jaxfm.training.rate_schedules import Schedule

_ADAM_KEYS = ("b1", "b2", "eps")
Transformations = tuple[optax.GradientTransformation, ...]


@dataclasses.dataclass(frozen=True)
class Parts:
    """What optimizers are put together from.

    Attributes:
      optim: of the run.
      adam: Adam's scaling with the config's settings, whose moments wake with their group.
      decay: what gives a direction the factors of paths (`training/mup.py`), and adds the decoupled decay.
      decayed: a tree of bools like the trained parameters: which have decay.
      rate: what multiplies by the rates of groups and of the schedule, and turns the sign.
      schedule: step -> rate.
    """

    optim: OptimConfig
    adam: optax.GradientTransformation
    decay: Transformations
    decayed: Any
    rate: tuple[optax.GradientTransformation, ...]
    schedule: Schedule


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An entry of the table.

    Attributes:
      make: parts -> what, one after the other, turns a (clipped) gradient into what is added to the parameters.
      reads_adam: whether it reads b1, b2 and eps.
      group: its own group of keys in `config.optim`; "" without one.
      wakes: whether groups of parameters may be trained from a later step on (`adapt.unfreeze_every`).
      averages: whether the run stands for an average of the weights that the optimizer keeps.
      scale_free: whether the direction of a parameter does not depend on the size of its gradient (`training/mup.py`).
    """

    make: Callable[[Parts], Transformations]
    reads_adam: bool = True
    group: str = ""
    wakes: bool = True
    averages: bool = False
    scale_free: bool = False


def is_stacked(path: str) -> bool:
    """Whether the first axis of the parameter of that path is that of layers."""
    return "encoder/layers/" in path


def is_matrix(path: str, ndim: int) -> bool:
    """Whether a parameter is a matrix inside a layer: the kernels of its maps, and both factors of a low-rank one."""
    return is_stacked(path) and ndim >= 3 and path.endswith(("/kernel", "/lora/a", "/lora/b"))


def matrix_axes(path: str, ndim: int) -> contrib.MuonDimensionNumbers:
    """Returns which axes of a matrix inside a layer are inputs and which outputs; the first is that of layers.

    Heads are an axis of their own: maps to them have [L, I, heads, head_dim], the map from them the same turned round.
    """
    if path.endswith("/lora/a"):  # [L, inputs ..., rank]
        return contrib.MuonDimensionNumbers(tuple(range(1, ndim - 1)), ndim - 1)
    if path.endswith("/lora/b"):  # [L, rank, outputs ...]
        return contrib.MuonDimensionNumbers(1, tuple(range(2, ndim)))
    from_heads = path.endswith("attention/output/kernel")
    inputs = ndim - 2 if from_heads else 1
    return contrib.MuonDimensionNumbers(tuple(range(1, inputs + 1)), tuple(range(inputs + 1, ndim)))


def by_layer(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns `inner` for the parameters of each layer by themselves, its matrices as [I, O]; for others as they are.

    Its state keeps a number for each layer where `inner` keeps one for a parameter. `inner` must treat every parameter
    by itself.
    """

    def split(tree: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        leaves = flat(tree)
        layers = {path: _as_matrices(path, leaf) for path, leaf in leaves.items() if is_stacked(path)}
        return nested({path: leaf for path, leaf in leaves.items() if path not in layers}), nested(layers)

    def init(params: Any) -> tuple[Any, Any]:
        others, layers = split(params)
        return inner.init(others), jax.vmap(inner.init)(layers) if layers else ()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        (others, layers), (other_params, layer_params) = split(updates), split(params)
        others, of_others = inner.update(others, state[0], other_params)
        of_layers = ()
        if layers:
            layers, of_layers = jax.vmap(inner.update)(layers, state[1], layer_params)
        shapes = {path: leaf.shape for path, leaf in flat(params).items()}
        changed = flat(others) | flat(layers)
        return nested({path: leaf.reshape(shapes[path]) for path, leaf in changed.items()}), (of_others, of_layers)

    return optax.GradientTransformation(init, update)


def _as_matrices(path: str, leaf: Any) -> Any:
    """Returns a stacked parameter as [L, I, O] where it is a matrix; its axes are in that order already."""
    if not is_matrix(path, leaf.ndim):
        return leaf
    inputs = math.prod(leaf.shape[axis] for axis in _tuple(matrix_axes(path, leaf.ndim).reduction_axis))
    return leaf.reshape(leaf.shape[0], inputs, -1)


def _tuple(axes: Any) -> tuple[int, ...]:
    return (axes,) if isinstance(axes, int) else tuple(axes)


def _adamw(parts: Parts) -> Transformations:
    return parts.adam, *parts.decay, *parts.rate


def _sgd(parts: Parts) -> Transformations:
    momentum = (
        optax.trace(parts.optim.sgd.momentum, parts.optim.sgd.nesterov)
        if parts.optim.sgd.momentum
        else optax.identity()
    )
    return momentum, *parts.decay, *parts.rate


def _lamb(parts: Parts) -> Transformations:
    # As the authors' code: what has no decay (biases, norms) has no trust ratio either.
    ratio = _masked(by_layer(optax.scale_by_trust_ratio()), parts.decayed)
    return parts.adam, *parts.decay, ratio, *parts.rate


def _masked(inner: optax.GradientTransformation, mask: Any) -> optax.GradientTransformation:
    """Returns a stateless `inner` for the leaves that `mask` says, the others as they are."""
    kept = {path for path, chosen in flat(mask).items() if chosen}

    def some(tree: Any) -> Any:
        return nested({path: leaf for path, leaf in flat(tree).items() if path in kept})

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        changed, state = inner.update(some(updates), state, some(params))
        return nested(flat(updates) | flat(changed)), state

    return optax.GradientTransformation(lambda params: inner.init(some(params)), update)


def _lion(parts: Parts) -> Transformations:
    return optax.scale_by_lion(parts.optim.lion.b1, parts.optim.lion.b2), *parts.decay, *parts.rate


def _adafactor(parts: Parts) -> Transformations:
    scaled = optax.chain(
        optax.scale_by_factored_rms(decay_rate=parts.optim.adafactor.decay_power),
        optax.clip_by_block_rms(parts.optim.adafactor.clip_rms),
    )
    return by_layer(scaled), *parts.decay, *parts.rate


def _muon(parts: Parts) -> Transformations:

    def axes(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, leaf: matrix_axes(path_name(path), leaf.ndim), tree)

    def scale(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params

        def one(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            longest = max(_as_matrices(path_name(path), leaf).shape[1:])
            return leaf * (parts.optim.muon.rms * math.sqrt(longest))

        return jax.tree_util.tree_map_with_path(one, updates), state

    orthogonal = optax.chain(
        contrib.scale_by_muon(
            ns_steps=parts.optim.muon.iterations,
            beta=parts.optim.muon.momentum,
            nesterov=parts.optim.muon.nesterov,
            weight_dimension_numbers=axes,
        ),
        optax.GradientTransformation(optax.init_empty_state, scale),
    )

    def matrices(tree: Any, *, wanted: bool = True) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: is_matrix(path_name(path), leaf.ndim) is wanted, tree
        )

    others = optax.masked(parts.adam, functools.partial(matrices, wanted=False))
    return optax.masked(orthogonal, matrices), others, *parts.decay, *parts.rate


def _stable_adamw(parts: Parts) -> Transformations:
    """Wortsman et al. 2023, algorithm 2: the rate of a parameter falls where its second moment is out of date."""
    config, decay = parts.optim, optax.with_extra_args_support(optax.chain(*parts.decay))
    adam: Any = parts.adam

    def factor(gradient: jax.Array, second: jax.Array, *, stacked: bool) -> jax.Array:
        axes = tuple(range(1 if stacked else 0, gradient.ndim))
        share = gradient**2 / jnp.maximum(second, config.eps**2)
        return 1.0 / jnp.maximum(1.0, jnp.sqrt(jnp.mean(share, axes, keepdims=True)))

    def update(updates: Any, state: Any, params: Any = None, **told: Any) -> tuple[Any, Any]:
        gradients = updates
        updates, of_adam = adam.update(gradients, state[0], params)
        updates, of_decay = decay.update(updates, state[1], params, **told)
        second = optax.tree.bias_correction(of_adam.nu, config.b2, of_adam.count)
        updates = jax.tree_util.tree_map_with_path(
            lambda path, step, gradient, v: step * factor(gradient, v, stacked=is_stacked(path_name(path))),
            updates,
            gradients,
            second,
        )
        return updates, (of_adam, of_decay)

    scaled = optax.GradientTransformationExtraArgs(lambda params: (adam.init(params), decay.init(params)), update)
    return scaled, *parts.rate


def _schedule_free_adamw(parts: Parts) -> Transformations:
    config = parts.optim
    moment = optax.scale_by_rms(config.b2, config.eps, eps_in_sqrt=False, bias_correction=True)
    free = contrib.schedule_free(
        optax.chain(moment, *parts.decay, *parts.rate),
        lambda count: parts.schedule(count - 1),  # it counts from 1, the schedule from 0
        b1=config.b1,
    )
    return (free,)


TABLE: Mapping[str, Optimizer] = {
    # Loshchilov and Hutter 2019, algorithm 2
    "adamw": Optimizer(_adamw, scale_free=True),
    # Sutskever et al. 2013
    "sgd": Optimizer(_sgd, reads_adam=False, group="sgd"),
    # You et al. 2020, algorithm 2
    "lamb": Optimizer(_lamb),
    # Chen et al. 2023, algorithm 2
    "lion": Optimizer(_lion, reads_adam=False, group="lion", scale_free=True),
    # Shazeer and Stern 2018, algorithms 4 and 5
    "adafactor": Optimizer(_adafactor, reads_adam=False, group="adafactor", wakes=False),
    # Jordan et al. 2024; Liu et al. 2025, section 2.2
    "muon": Optimizer(_muon, group="muon"),
    # Wortsman et al. 2023, algorithm 2
    "stable_adamw": Optimizer(_stable_adamw, wakes=False, scale_free=True),
    # Defazio et al. 2024, section 4
    "schedule_free_adamw": Optimizer(_schedule_free_adamw, wakes=False, averages=True, scale_free=True),
}


@dataclasses.dataclass(frozen=True)
class ScheduleFreeAverage:
    """The average that a schedule-free optimizer evaluates, x = (y - (1 - b1) z) / b1, of what it moves, y and z."""

    b1: float

    def __call__(self, old: Any, new: Any, opt_state: Any, step: jax.Array) -> Any:
        """Returns it after an update: `new` are the y, the state keeps the z."""
        del old, step
        z = optax.tree.get(opt_state, "z")
        return jax.tree.map(lambda y, fast: (y - (1.0 - self.b1) * fast) / self.b1, new, z)


def averaging(config: OptimConfig) -> Averaging | None:
    """Returns the average that the optimizer itself keeps; None: it keeps none."""
    return ScheduleFreeAverage(config.b1) if TABLE[config.name].averages else None


def check(config: OptimConfig, adaptation: Adaptation) -> None:
    """Raises UserError for settings that the optimizer does not have, or that contradict it."""
    entry, defaults = TABLE[config.name], OptimConfig()
    for key in () if entry.reads_adam else _ADAM_KEYS:
        _check_default(config.name, key, getattr(config, key), getattr(defaults, key), readers="Adam's kind alone")
    for name, other in TABLE.items():
        if other.group and other.group != entry.group:
            group, usual = getattr(config, other.group), getattr(defaults, other.group)
            for each in dataclasses.fields(group):
                key = f"{other.group}.{each.name}"
                _check_default(
                    config.name, key, getattr(group, each.name), getattr(usual, each.name), readers=f"name={name!r}"
                )
    if adaptation.unfreeze_steps and not entry.wakes:
        raise UserError(
            f"config.adapt.unfreeze_every: is for optimizers whose moments wake with their layer, and "
            f"config.optim.name={config.name!r} counts its updates once for all. Take adamw, or unfreeze_every=0."
        )
    if entry.averages and adaptation.averaging is not None:
        raise UserError(
            f"config.adapt.ema: config.optim.name={config.name!r} keeps an average of the weights itself. Take ema=0, "
            "or another optimizer."
        )
    if entry.averages and not config.b1:
        raise UserError(
            f"config.optim.b1: 0 leaves config.optim.name={config.name!r} no average. Take a value above 0, as 0.9."
        )


def _check_default(name: str, key: str, value: Any, default: Any, *, readers: str) -> None:
    if value != default:
        raise UserError(
            f"config.optim.{key}: is {value!r}, a setting of {readers}, and config.optim.name={name!r} has no such "
            f"setting. Leave it at its default: --config.optim.{key}={default}"
        )


def notes(config: OptimConfig, adaptation: Adaptation, loaded: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns lines for the log about combinations that are known to hurt.

    Args:
      optim: of the run.
      adaptation: what is trained.
      loaded: path -> the first weights that come from elsewhere.
    """
    found = []
    trained = [path for path in loaded if is_stacked(path) and adaptation.partition.first.get(path, 0) is not None]
    if config.name == "muon" and any(path.endswith("/kernel") and not is_adapter_param(path) for path in trained):
        found.append(
            "WARNING: config.optim.name='muon' trains all of the loaded weights. Weights that Adam trained are known "
            "to get worse by it (arXiv 2605.10468), low-rank updates are not: take config.optim.name=adamw, or "
            "config.adapt.lora.rank"
        )
    if TABLE[config.name].averages and config.schedule != "constant":
        found.append(
            f"WARNING: config.optim.name={config.name!r} is made for a constant rate after the warm-up, and "
            f"config.optim.schedule={config.schedule!r} lets it fall: take config.optim.schedule=constant"
        )
    return tuple(found)

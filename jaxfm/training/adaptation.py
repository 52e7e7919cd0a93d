"""Which weights of a run are trained, from when on and how fast, and which average of them the run stands for.

All of it is static but the step: the frozen part of the parameters has neither gradients nor optimizer state.
"""

# L layers of the encoder, G = L + 2 groups by depth: 0 the embeddings, 1 .. L the layers, L + 1 the head

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.models.adapters import is_adapter_param
from jaxfm.training.paths import flat, match_paths, nested, path_name

_ENCODER, _LAYERS = "encoder/", "encoder/layers/"


@dataclasses.dataclass(frozen=True)
class Partition:
    """Splits parameters, nested dicts, into a trained and a frozen part.

    Attributes:
      first: path -> the first layer that is trained of a parameter stacked over layers, None: nothing of it is.
        Parameters that are not named are trained whole.
    """

    first: Mapping[str, int | None] = dataclasses.field(default_factory=dict)

    def select(self, tree: Any) -> Any:
        """Returns a tree like the parameters without the leaves that are not trained at all."""
        return self._changed(tree, lambda path, leaf: leaf, keep_frozen=False)

    def trained(self, params: Any) -> Any:
        """Returns the trained part of parameters, which may be abstract: frozen leaves left out, frozen layers cut."""

        def part(path: str, leaf: Any) -> Any:
            first = self.first.get(path)
            if not first:
                return leaf
            if isinstance(leaf, jax.ShapeDtypeStruct):  # the axis of layers is never cut along a mesh
                return jax.ShapeDtypeStruct(
                    (leaf.shape[0] - first, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding
                )
            return leaf[first:]

        return self._changed(params, part, keep_frozen=False)

    def join(self, trained: Any, params: Any) -> Any:
        """Returns `params` with its trained part replaced, for a model to read: no gradient reaches the frozen part."""

        def glue(leaf: Any, part: Any, first: int) -> Any:
            return jnp.concatenate([leaf[:first], part])

        return self._replaced(trained, params, glue)

    def put(self, trained: Any, params: Any) -> Any:
        """Returns `params` with its trained part replaced, in place where `params` are donated."""

        def write(leaf: Any, part: Any, first: int) -> Any:
            return jax.lax.dynamic_update_slice_in_dim(leaf, part, first, axis=0)

        return self._replaced(trained, params, write)

    def _replaced(self, trained: Any, params: Any, cut: Callable[[Any, Any, int], Any]) -> Any:
        """`cut` puts together a leaf and the part of it that begins at a layer."""
        if not self.first:
            return trained
        parts = flat(trained)

        def new(path: str, leaf: Any) -> Any:
            first = self.first.get(path, 0)
            if first is None:
                return leaf
            return cut(leaf, parts[path], first) if first else parts[path]

        return self._changed(params, new)

    def _changed(self, tree: Any, change: Callable[[str, Any], Any], *, keep_frozen: bool = True) -> Any:
        if not self.first:
            return tree
        kept = {path: leaf for path, leaf in flat(tree).items() if keep_frozen or self.first.get(path, 0) is not None}
        return nested({path: change(path, leaf) for path, leaf in kept.items()})


# (average, the trained part after an update, the optimizer's state after it, the update from 0) -> the new average.
Averaging = Callable[[Any, Any, Any, jax.Array], Any]


@dataclasses.dataclass(frozen=True)
class MovingAverage:
    """An exponential average of the trained part.

    Attributes:
      decay: the most that is kept of the average by an update.
    """

    decay: float

    def __call__(self, old: Any, new: Any, opt_state: Any, step: jax.Array) -> Any:
        """Returns old d + new (1 - d), d = min(decay, (1 + t) / (10 + t)) after update t (from 0).

        The first steps forget faster, or a short run would still be where it started (as in TensorFlow's
        ExponentialMovingAverage with num_updates).
        """
        del opt_state
        done = step.astype(jnp.float32)
        decay = jnp.minimum(self.decay, (1.0 + done) / (10.0 + done))
        return jax.tree.map(lambda mean, value: mean + (1.0 - decay) * (value - mean), old, new)


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """How a step treats the parameters; without arguments: all are trained alike.

    Attributes:
      partition: what is trained at all.
      rates: of each of the G groups, as a factor of the schedule's.
      unfreeze_steps: step from which each of the G groups is trained.
      averaging: makes the average of the weights that the run stands for; None: it stands for the weights themselves.
    """

    partition: Partition = Partition()
    rates: tuple[float, ...] = ()
    unfreeze_steps: tuple[int, ...] = ()
    averaging: Averaging | None = None

    def by_group(self, values_G: Any, path: str, ndim: int) -> Any:
        """Returns the value of a trained parameter's group; for one stacked over layers an array [layers, 1, 1 ...]."""
        if path.startswith(_LAYERS):
            first = self.partition.first.get(path) or 0
            return values_G[1 + first : -1].reshape(-1, *[1] * (ndim - 1))
        return values_G[0] if path.startswith(_ENCODER) else values_G[-1]

    def over_groups(self, change: Callable[[Any, Any], Any], values_G: Any, trained: Any) -> Any:
        """Applies `change(leaf, value of its group)` to trees like the trained part."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: change(leaf, self.by_group(values_G, path_name(path), leaf.ndim)), trained
        )

    def unfrozen(self, step: jax.Array) -> jax.Array:
        """Returns which groups are trained at `step`: bool [G]."""
        return step >= jnp.asarray(self.unfreeze_steps, jnp.int32)

    def mask(self, grads: Any, step: jax.Array) -> Any:
        """Zeroes the gradients of what is not trained yet."""
        if not self.unfreeze_steps:
            return grads
        return self.over_groups(
            lambda grad, on: jnp.where(on, grad, jnp.zeros((), grad.dtype)), self.unfrozen(step), grads
        )


EVERYTHING = Adaptation()


def make_adaptation(config: AdaptConfig, encoder: EncoderConfig, params: Any, total_steps: int) -> Adaptation:
    """Reads `config.adapt` for (abstract) parameters.

    Raises:
      UserError: settings that contradict each other, that leave nothing to train, or a pattern that matches nothing.
    """
    layers = encoder.layer_stacks
    _check(config, encoder, params)
    partition = _partition(config, params)
    rates = (
        *(config.layer_decay ** (layers + 1 - depth) for depth in range(layers + 1)),
        config.head_rate,
    )
    unfreeze_steps = tuple(config.unfreeze_every * (layers + 1 - depth) for depth in range(layers + 2))
    adaptation = Adaptation(
        partition=partition,
        rates=rates if set(rates) != {1.0} else (),
        unfreeze_steps=unfreeze_steps if config.unfreeze_every else (),
        averaging=MovingAverage(config.ema) if config.ema else None,
    )
    if config.unfreeze_every:
        last = int(
            max(jax.tree.leaves(adaptation.over_groups(_latest, np.asarray(unfreeze_steps), partition.trained(params))))
        )
        if last >= total_steps:
            most = (total_steps - 1) // (last // config.unfreeze_every)
            raise UserError(
                f"config.adapt.unfreeze_every: {config.unfreeze_every} updates a layer, and the last would be trained "
                f"from update {last} on of a run of {total_steps}. "
                + (f"At most {most}, or " if most else f"Train at least {last + 1} updates, or ")
                + "freeze the lower layers for good (config.adapt.freeze_layers, config.adapt.freeze)."
            )
    return adaptation


def _latest(_: Any, unfreeze_steps: np.ndarray) -> int:
    return int(np.max(unfreeze_steps))


def _partition(config: AdaptConfig, params: Any) -> Partition:
    added = config.lora.rank or config.adapter_size or config.prefix_length
    named = match_paths(params, config.freeze, "config.adapt.freeze")
    first: dict[str, int | None] = {}
    layers = {path: leaf.shape[0] for path, leaf in flat(params).items() if path.startswith(_LAYERS)}
    for path, chosen in flat(named).items():
        inside = path.startswith(_ENCODER)
        by_kind = {"all": False, "head": inside, "biases": inside and not path.endswith("/bias")}[config.train]
        if chosen or by_kind or (added and inside and not is_adapter_param(path)):
            first[path] = None
        elif config.freeze_layers and path in layers:
            first[path] = config.freeze_layers if config.freeze_layers < layers[path] else None
    partition = Partition(first)
    if not jax.tree.leaves(partition.select(named)):
        raise UserError("config.adapt: all parameters are frozen, nothing is left to train.")
    return partition


def _check(config: AdaptConfig, encoder: EncoderConfig, params: Any) -> None:
    """Raises UserError for settings that contradict each other or the encoder."""
    if config.freeze_layers > encoder.num_layers:
        raise UserError(
            f"config.adapt.freeze_layers: {config.freeze_layers}, but the encoder has {encoder.num_layers} layers; at "
            f"most {encoder.num_layers}."
        )
    if config.freeze_layers and encoder.layer_groups:
        raise UserError(
            f"config.adapt.freeze_layers: {config.freeze_layers}, but the layers of a {encoder.family} encoder share "
            "their weights, which are trained or not for all of them. Take 0, or "
            "config.adapt.freeze=('encoder/layers/*',)."
        )
    added = {
        "lora.rank": config.lora.rank,
        "adapter_size": config.adapter_size,
        "prefix_length": config.prefix_length,
    }
    for key, value in added.items():
        if value and config.train != "all":
            raise UserError(
                f"config.adapt.{key}: {value} contradicts config.adapt.train={config.train!r}: it trains what it adds "
                "and the head, and nothing else, by itself. Leave train='all', or set the one to 0."
            )
    if config.unfreeze_every and config.train == "head":
        raise UserError(
            f"config.adapt.unfreeze_every: {config.unfreeze_every} contradicts config.adapt.train='head', which never "
            "trains a layer. Set unfreeze_every=0, or train='all'."
        )
    paths = flat(params)
    if config.train == "biases" and not any(p.startswith(_ENCODER) and p.endswith("/bias") for p in paths):
        raise UserError(
            f"config.adapt.train: 'biases', but an encoder of family {encoder.family!r} has none. Take 'head', or "
            "config.adapt.lora.rank."
        )

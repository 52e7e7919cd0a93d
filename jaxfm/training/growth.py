"""Layers that are added in the middle of a run, as `config.grow` says.

A model begins with few layers; copies of these are stacked on top (Gong et al. 2019, "Efficient training of BERT by
progressively stacking"; gradual stacking: Reddi et al. 2023). With `new_layers = "preserving"` what a new layer adds to
the residual stream is zero at first, so that the model is the same function before and after (Net2Net, Chen et al.
2016, for depth; LEMON, Wang et al. 2023). That holds for pre-norm, where a layer is x + f(x): its output projections
begin at zero, or where f ends with a norm, that norm's factors. A post-norm layer is norm(x + f(x)): of f = 0 the norm
is left, and it takes out mean and scale of each token's vector, which are not known after it. So it is no identity, and
no weights of a layer of that form make it one: post-norm encoders can only be stacked.

Old layers keep their moments. New ones begin with first moments of zero and the second moments of the layers that they
copy: with second moments of zero, Adam's bias correction, which counts the run's updates, would make their first
updates several times too large. The last norm of a pre-norm encoder moves to the new last layer with its moments.
"""

# L layers before, M after

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.adapt_config import AdaptConfig
from jaxfm.config import AUTO, Config, GrowConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import Initial
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.writers import METRICS_FILE, read_metrics
from jaxfm.training.history import read_history
from jaxfm.training.optimizers import is_stacked
from jaxfm.training.paths import path_name

MAY_CHANGE = ("grow.layers",)
OPTIMIZERS = ("adamw", "lion", "sgd", "lamb", "stable_adamw", "muon")
"""Optimizers whose state has one leaf a parameter, stacked over layers as the parameter is."""
_FIRST_MOMENTS = ("mu", "trace")
_OUTPUTS = ("attention/output", "ffn/down")
_OUTPUT_NORMS = ("attention_output_norm", "ffn_output_norm")


def check(config: Config, encoder: EncoderConfig, *, loaded: bool) -> None:
    """Raises UserError, naming the key, for a run that cannot grow as `config.grow` says.

    Args:
      config: of the run.
      encoder: what `config.model` names.
      loaded: whether it has weights.
    """
    layers, shares = config.grow.layers, config.grow.at
    shown = f"config.grow.layers: {layers}"
    if len(layers) < 2 or layers[0] < 1 or any(a >= b for a, b in itertools.pairwise(layers)):
        raise UserError(f"{shown}: must be at least two ascending depths, as (3, 6, 12).")
    if shares and len(shares) != len(layers) - 1:
        raise UserError(
            f"config.grow.at: {shares}: must have a share for each depth after the first, {len(layers) - 1}."
        )
    if not all(0 < share < 1 for share in shares) or list(shares) != sorted(shares):
        raise UserError(f"config.grow.at: {shares}: must be ascending shares of a run, between 0 and 1.")
    which, wanted = ("first", layers[0]) if loaded else ("last", layers[-1])
    if wanted != encoder.num_layers:
        source = config.model.init if loaded else f"preset {config.model.preset!r}"
        raise UserError(f"{shown}: the {which} depth must be that of {source}, {encoder.num_layers}.")
    if encoder.layer_groups:
        raise UserError(f"{shown}: the layers of a {encoder.family} encoder share their weights; it cannot grow.")
    if not encoder.pre_norm and config.grow.new_layers == "preserving":
        raise UserError(
            f"config.grow.new_layers: 'preserving', but a post-norm encoder ({encoder.family}) has no layer that "
            "leaves its input as it is. Take 'stacked', or a pre-norm encoder."
        )
    _check_rest(config, shown)


def _check_rest(config: Config, shown: str) -> None:
    """Raises UserError for other parts of a config that a run cannot have that grows."""
    if config.optim.name not in OPTIMIZERS:
        raise UserError(
            f"config.optim.name: {config.optim.name!r} has a state that cannot grow (config.grow.layers). "
            f"{did_you_mean(config.optim.name, OPTIMIZERS)}"
        )
    adapt, plain = config.adapt, AdaptConfig()
    values = {
        "freeze_layers": (adapt.freeze_layers, plain.freeze_layers),
        "unfreeze_every": (adapt.unfreeze_every, plain.unfreeze_every),
        "layer_decay": (adapt.layer_decay, plain.layer_decay),
        "lora.rank": (adapt.lora.rank, plain.lora.rank),
        "quantise.bits": (adapt.quantise.bits, plain.quantise.bits),
        "adapter_size": (adapt.adapter_size, plain.adapter_size),
        "prefix_length": (adapt.prefix_length, plain.prefix_length),
    }
    others = {f"adapt.{key}": pair for key, pair in values.items()} | {
        "eval.patience": (config.eval.patience, 0),
        "checkpoint.mirror": (config.checkpoint.mirror, ""),
    }
    for key, (value, default) in others.items():
        if value != default:
            raise UserError(f"config.{key}: {value!r}: does not go with {shown[7:]}. Leave it at {default!r}.")
    if config.exits.every:
        raise UserError(
            f"config.exits.every: {config.exits.every}: early heads do not go with {shown[7:]}, as their places depend "
            "on the depth. Set 0, and train the grown model further with early heads (config.model.init=run:DIR)."
        )
    if config.train.batch_size == AUTO:
        raise UserError(f"config.train.batch_size: 'auto' would suit the first depth alone ({shown}). Give a number.")
    if jax.process_count() > 1:
        raise UserError(f"{shown}: a run of several processes cannot grow. Start it as one process.")


def check_model(config: Config, params: Any) -> None:
    """Raises UserError where a model that grows has layers of another encoder; `params` may be abstract."""
    if not config.grow.layers:
        return
    paths = (path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params))
    others = [path for path in paths if "/layers/" in path and not path.startswith("encoder/layers/")]
    if others:
        raise UserError(
            f"config.grow.layers: the model has further layers, {others[0]}; a model of one encoder can grow."
        )


def shares(grow: GrowConfig) -> tuple[float, ...]:
    """Returns the shares of all updates from which the depths after the first one hold, at the latest."""
    count = len(grow.layers)
    return grow.at or tuple(stage / count for stage in range(1, count))


def stage_configs(config: Config) -> list[Config]:
    """Returns the configs of the runs that a run consists of: each knows the depths until its own."""
    layers = config.grow.layers
    grown = (dataclasses.replace(config.grow, layers=layers[: count + 1]) for count in range(len(layers)))
    return [dataclasses.replace(config, grow=grow) for grow in grown]


def at_depth(first: Initial, grow: GrowConfig) -> Initial:
    """Returns what a run starts from with the depth that it has; loaded layers stay where it is theirs."""
    if not grow.layers or first.encoder.num_layers == grow.layers[-1]:
        return first
    # The layers of a later stage are in its first checkpoint.
    others = {path: value for path, value in first.params.items() if not is_stacked(path)}
    encoder = dataclasses.replace(first.encoder, num_layers=grow.layers[-1])
    return dataclasses.replace(first, encoder=encoder, params=others)


def reason(grow: GrowConfig, share: float, workdir: pathlib.Path, step: int, total_steps: int) -> str:
    """Returns why layers are added after `step` updates, when the validation split has just been scored; "": not yet.

    Raises UserError where patience is asked for and the task has no validation loss.
    """
    if step >= share * total_steps - 1e-9:
        return f"{share:.0%} of all updates were done"
    if not grow.patience:
        return ""
    turns = read_history(workdir)
    since = turns[-1].step if turns else 0
    scored = {
        line["step"]: line
        for line in read_metrics(workdir / METRICS_FILE)
        if line["split"] == "valid" and since < line["step"] <= step
    }
    if any("loss" not in line for line in scored.values()):
        raise UserError("config.grow.patience: the task has no validation loss. Leave it at 0, and set config.grow.at.")
    losses = [float(line["loss"]) for _, line in sorted(scored.items())]
    if not has_stalled(losses, grow.patience, grow.min_gain):
        return ""
    return f"the validation loss had not fallen by {grow.min_gain:.1%} in {grow.patience} evaluations"


def has_stalled(losses: Sequence[float], patience: int, min_gain: float) -> bool:
    """Whether the last `patience` losses are none that is lower by a share `min_gain` than the lowest one before."""
    lowest, waited = float("inf"), 0
    for loss in losses:
        gained = loss < lowest * (1 - min_gain)
        lowest, waited = (loss, 0) if gained else (lowest, waited + 1)
    return waited >= patience


def grow_state(params: Any, rest: Any, encoder: EncoderConfig, depth: int, new_layers: str) -> tuple[Any, Any]:
    """Returns the arrays of a checkpoint with more layers.

    Args:
      params: nested dicts of arrays; those of layers are [L, ...].
      rest: all else of the checkpoint, the optimizer's state among it.
      encoder: the shape with L layers.
      depth: M.
      new_layers: `config.grow.new_layers`.
    """
    old = encoder.num_layers
    sources = np.arange(depth - old) % old
    keeps = new_layers == "preserving"

    def weights(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        if not is_stacked(name):
            return leaf
        added = leaf[sources]
        if keeps:
            added = _without_effect(name, added, encoder)
        return jnp.concatenate([leaf, _with_last_norm(name, leaf, added)])

    def others(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        if not is_stacked(name):
            return leaf
        if not name.startswith("opt_state/"):  # weights beside an average of them
            return weights(path, leaf)
        added = leaf[sources]
        if any(part in _FIRST_MOMENTS for part in name.split("/")):
            added = jnp.zeros_like(added)
        return jnp.concatenate([leaf, _with_last_norm(name, leaf, added)])

    return jax.tree_util.tree_map_with_path(weights, params), jax.tree_util.tree_map_with_path(others, rest)


def _without_effect(path: str, added: jax.Array, encoder: EncoderConfig) -> jax.Array:
    """Returns the parameter of new layers such that nothing is added to the residual stream."""
    part, _, kind = path.rpartition("/")
    if encoder.norm_placement == "pre_and_post":
        if not part.endswith(_OUTPUT_NORMS):
            return added
        return jnp.full_like(added, -encoder.norm_scale_offset if kind == "scale" else 0.0)
    return jnp.zeros_like(added) if part.endswith(_OUTPUTS) else added


def _with_last_norm(path: str, leaf: jax.Array, added: jax.Array) -> jax.Array:
    """Returns the part of new layers; the last layer's norm is the encoder's own, and so that of the new last layer."""
    return added.at[-1].set(leaf[-1]) if "/next_norm/" in path else added

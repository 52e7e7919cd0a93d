"""Small trained parts beside frozen weights: low-rank updates, bottleneck adapters, prefixes of attention.

Their parameters are stacked like the layers they belong to, and are named by `is_adapter_param`.
"""

# B batch, T tokens, D model, N heads, H head dim, R rank, P prefix, L layers

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.adapt_config import AdaptConfig, LoraConfig, QuantiseConfig
from jaxfm.core.encoder_config import (
    GROUP,
    IN_FLOATS,
    NONE,
    OBSERVED,
    STATIC,
    STORED,
    TRAINED,
    EncoderConfig,
    Quantisation,
)
from jaxfm.errors import UserError, did_you_mean
from jaxfm.models.activations import gelu
from jaxfm.models.products import add_bias, dot_general, tensordot
from jaxfm.models.quantised import BINS, observe, quantised_product
from jaxfm.parallel.mesh import with_axes

_NO_LOW_RANK: dict[str, Any] = {"lora_rank": 0, "lora_alpha": EncoderConfig.lora_alpha, "lora_targets": ()}
# A parameter of a map whose inputs are rounded while it is trained: the binary logarithm of their range.
LOG2_RANGE = "log2_input_range"
_ADDED = re.compile(r"/(lora|prefix|attention_adapter|ffn_adapter)/")


def is_adapter_param(path: str) -> bool:
    """Whether the parameter of that path is a low-rank update, an adapter or a prefix."""
    return _ADDED.search(path) is not None


def is_input_range(path: str) -> bool:
    """Whether the parameter of that path is a learned range of inputs."""
    return path.endswith(f"/{LOG2_RANGE}")


class LowRank(nnx.Module):
    """x A B * alpha / rank (Hu et al. 2021, section 4.1); B starts at zero, so that a new one changes nothing."""

    def __init__(
        self,
        config: EncoderConfig,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        axes: tuple[tuple[str, ...], tuple[str, ...]],
        rngs: nnx.Rngs,
    ):
        """Makes A [*inputs, R], uniform as torch's linear layers and so peft draw it, and B [R, *outputs]."""
        draw = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=tuple(range(len(inputs))))
        rank = config.lora_rank
        self.a = nnx.Param(with_axes(draw, *axes[0], "rank")(rngs.params(), (*inputs, rank), jnp.float32))
        zeros = with_axes(nnx.initializers.zeros_init(), "rank", *axes[1])
        self.b = nnx.Param(zeros(rngs.params(), (rank, *outputs), jnp.float32))
        self.inputs, self.scale = len(inputs), config.lora_alpha / rank

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns what is added to the linear map's output, in the dtype of `x`."""
        low = tensordot(x, self.a[...].astype(x.dtype), self.inputs)
        return tensordot(low * self.scale, self.b[...].astype(x.dtype), 1)


class Linear(nnx.LinearGeneral):
    """A linear map of a layer, with a low-rank update where the encoder's config names it as a target."""

    def __init__(
        self,
        config: EncoderConfig,
        name: str,
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
        *,
        bias: bool,
        kernel_init: nnx.Initializer,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        """Makes kernel and bias; `inputs` and `outputs` are logical axis -> size, `name` that of the map."""
        axes = tuple(inputs), tuple(outputs)
        sizes = tuple(inputs.values()), tuple(outputs.values())
        bias_axes = ("norm" if axis == "embed" else axis for axis in outputs)  # biases of the stream are never cut
        super().__init__(
            *sizes,
            axis=tuple(range(-len(inputs), 0)),
            use_bias=bias,
            dtype=dtype,
            dot_general=dot_general,
            kernel_init=with_axes(kernel_init, *inputs, *outputs),
            bias_init=with_axes(nnx.initializers.zeros_init(), *bias_axes),
            rngs=rngs,
        )
        self.lora = LowRank(config, *sizes, axes, rngs) if name in config.lora_targets else None
        self.quantisation = config.quantisation if config.quantisation.rounds(name) else None
        if self.quantisation is not None:
            self._make_scales(self.quantisation, inputs, outputs)

    def _make_scales(self, quantisation: Quantisation, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        """Makes the parameters that rounding adds; what they are is not drawn but measured, or read."""

        def ones(sizes: Mapping[str, int], dtype: Any = jnp.float32) -> nnx.Param[jax.Array]:
            init = with_axes(nnx.initializers.ones_init(), *sizes)
            return nnx.Param(init(jax.random.key(0), tuple(sizes.values()), dtype))

        static, stored = quantisation.inputs == STATIC, quantisation.form == STORED and quantisation.rounds_inputs
        self.log2_input_range = ones({}) if static and quantisation.form == TRAINED else None
        self.kernel_scale = ones(outputs) if stored else None
        self.input_scale = ones({}) if stored and (static or quantisation.switched) else None
        observed = quantisation.form == OBSERVED
        self.input_largest = ones({}) if observed else None
        self.input_counts = ones({"norm": BINS}) if observed else None
        if quantisation.has_integers:
            self.kernel = ones({**inputs, **outputs}, jnp.int8)

    def _product(self, x: jax.Array) -> jax.Array:
        """Returns the product of `x`, in the compute dtype, and the kernel."""
        count = len(self.in_features)
        if self.quantisation is None:
            return tensordot(x, self.kernel[...].astype(self.dtype), count)
        if self.input_largest is not None and self.input_counts is not None:
            x = observe(x, self.input_largest[...], self.input_counts[...])
        given = {
            "log2_range": self.log2_input_range,
            "kernel_scale": self.kernel_scale,
            "input_scale": self.input_scale,
        }
        present = {name: param[...] for name, param in given.items() if param is not None}
        return quantised_product(x, self.kernel[...], count, self.quantisation, **present)

    def __call__(self, inputs: jax.Array, out_sharding: None = None) -> jax.Array:
        """Applies the map to the last axes of `inputs`."""
        assert out_sharding is None and self.dtype is not None
        y = self._product(inputs.astype(self.dtype))
        if self.bias is not None:
            y = add_bias(y, self.bias[...])
        return y if self.lora is None else y + self.lora(inputs.astype(y.dtype))


class Bottleneck(nnx.Module):
    """An adapter, x + up(gelu(down(x))), after attention or feed-forward (Houlsby et al. 2019, section 2.1).

    Its output is what is added to the residual stream. `up` starts at zero, so that a new adapter changes nothing.
    Unlike in the paper the layer's norms stay frozen.
    """

    def __init__(self, config: EncoderConfig, dtype: jnp.dtype, rngs: nnx.Rngs):
        """Makes both maps, with biases."""

        def linear(inputs: int, outputs: int, axes: tuple[str, str], init: nnx.Initializer) -> nnx.Linear:
            return nnx.Linear(
                inputs,
                outputs,
                dtype=dtype,
                dot_general=dot_general,
                kernel_init=with_axes(init, *axes),
                bias_init=with_axes(nnx.initializers.zeros_init(), "norm" if axes[1] == "embed" else axes[1]),
                rngs=rngs,
            )

        width, size = config.hidden_size, config.adapter_size
        draw = nnx.initializers.truncated_normal(config.initializer_range)
        self.down = linear(width, size, ("embed", "bottleneck"), draw)
        self.up = linear(size, width, ("bottleneck", "embed"), nnx.initializers.zeros_init())

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        """Returns [B, T, D]."""
        return x_BTD + self.up(gelu(self.down(x_BTD)))


class Prefix(nnx.Module):
    """Keys and values that every token of a layer sees beside those of its segment (Li and Liang 2021, section 4).

    Learned directly, without the network that makes them in the paper (as in P-tuning v2, Liu et al. 2022). They have
    no position: rotary encoders do not rotate them, and all segments of a packed row see the same ones.
    """

    def __init__(self, config: EncoderConfig, rngs: nnx.Rngs):
        """Makes keys and values [P, N, H]."""
        shape = (config.prefix_length, config.num_heads, config.head_dim)
        draw = with_axes(nnx.initializers.truncated_normal(config.initializer_range), "prefix", "heads", "head_dim")
        self.keys = nnx.Param(draw(rngs.params(), shape, jnp.float32))
        self.values = nnx.Param(draw(rngs.params(), shape, jnp.float32))

    def __call__(self, dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
        """Returns keys and values."""
        return self.keys[...].astype(dtype), self.values[...].astype(dtype)


def with_adapters(encoder: EncoderConfig, config: AdaptConfig) -> EncoderConfig:
    """Returns the encoder with the parts that `config` adds; adapters and prefixes that it already has stay.

    Raises:
      UserError: a target that is not a linear map of the encoder, weights with adapters of another size, or rounding
        that cannot be trained.
    """
    added: dict[str, int] = {}
    for key in ("adapter_size", "prefix_length"):
        asked, present = getattr(config, key), getattr(encoder, key)
        if asked and present not in (0, asked):
            raise UserError(
                f"config.adapt.{key}: {asked}, but the first weights were trained with {present}. Give that."
            )
        added[key] = asked or present
    return dataclasses.replace(
        encoder,
        **added,
        **_lora(encoder, config.lora),
        quantisation=_trained_rounding(encoder, config.quantise, config),
    )


def _trained_rounding(encoder: EncoderConfig, asked: QuantiseConfig, config: AdaptConfig) -> Quantisation:
    """Returns the rounding that `config.adapt.quantise` trains for.

    Raises UserError where it cannot be trained.
    """
    if not asked.bits:
        return IN_FLOATS
    maps = _maps(encoder)
    for name in asked.keep:
        if name not in maps:
            raise UserError(f"config.adapt.quantise.keep: {name!r} is not a linear map. {did_you_mean(name, maps)}")
    rounded = tuple(name for name in maps if name not in asked.keep)
    if not rounded:
        raise UserError("config.adapt.quantise.keep: names all linear maps, so that nothing is rounded. Set bits=0.")
    if asked.bits == 4 and asked.inputs != NONE:
        raise UserError(
            f"config.adapt.quantise.bits: 4 with inputs={asked.inputs!r}: products of integers have 8 bits. Take "
            "inputs='none', or bits=8."
        )
    if config.lora.rank:
        raise UserError(
            f"config.adapt.lora.rank: {config.lora.rank} contradicts config.adapt.quantise.bits={asked.bits}: what is "
            "rounded is the sum of weights and low-rank update, which LoRA never makes. Train with LoRA first, and for "
            "rounding from that run (config.model.init=run:WORKDIR)."
        )
    if config.train != "all":
        raise UserError(
            f"config.adapt.quantise.bits: {asked.bits} contradicts config.adapt.train={config.train!r}: weights adapt "
            "to their rounding only where they are trained. Take train='all', or round the run afterwards "
            "(jaxfm.quantise)."
        )
    return Quantisation(asked.bits, asked.inputs, GROUP if asked.bits == 4 else 0, rounded)


def _maps(encoder: EncoderConfig) -> tuple[str, ...]:
    """Returns the names of a layer's linear maps."""
    return ("query", "key", "value", "output", "up", "down", *(("gate",) if encoder.gated else ()))


def _lora(encoder: EncoderConfig, lora: LoraConfig) -> dict[str, int | float | tuple[str, ...]]:
    if not lora.rank:
        return {}
    maps = _maps(encoder)
    wrong = [target for target in lora.targets if target not in (*maps, "all")]
    if wrong or not lora.targets:
        found = f"{wrong[0]!r} is not a linear map of a layer" if wrong else "names none"
        hint = did_you_mean(wrong[0] if wrong else "", ("all", *maps))
        raise UserError(f"config.adapt.lora.targets: {found}. {hint}")
    smallest = min(encoder.hidden_size, encoder.ffn_size)
    if lora.rank > smallest:
        raise UserError(
            f"config.adapt.lora.rank: {lora.rank} is more than the rank {smallest} of the weights themselves; at most "
            f"{smallest}."
        )
    targets = maps if "all" in lora.targets else tuple(name for name in maps if name in lora.targets)
    return {"lora_rank": lora.rank, "lora_alpha": lora.alpha, "lora_targets": targets}


def merge_low_rank(
    encoder: EncoderConfig, params: Mapping[str, np.ndarray]
) -> tuple[EncoderConfig, dict[str, np.ndarray]]:
    """Adds the low-rank updates among `params` (path -> array) to their kernels; returns the encoder without them."""
    merged = dict(params)
    for path in [path for path in params if path.endswith("/lora/a")]:
        base = path.removesuffix("/lora/a")
        a_LDR, b_LRD = merged.pop(f"{base}/lora/a"), merged.pop(f"{base}/lora/b")
        layers, rank = len(a_LDR), a_LDR.shape[-1]
        product = a_LDR.reshape(layers, -1, rank).astype(np.float64) @ b_LRD.reshape(layers, rank, -1)
        kernel = merged[f"{base}/kernel"]
        product = product.reshape(kernel.shape) * (encoder.lora_alpha / encoder.lora_rank)
        merged[f"{base}/kernel"] = (kernel + product).astype(kernel.dtype)
    return dataclasses.replace(encoder, **_NO_LOW_RANK), merged


def plain_weights(
    encoder: EncoderConfig, params: Mapping[str, np.ndarray]
) -> tuple[EncoderConfig, dict[str, np.ndarray]]:
    """Returns encoder and weights in floats alone: low-rank updates are merged, integers are scaled.

    Adapters and prefixes, which have no place in the weights, stay.
    """
    encoder, merged = merge_low_rank(encoder, params)
    for path in [path for path in merged if path.endswith("/kernel_scale")]:
        kernel = path.removesuffix("_scale")
        scale, layers = merged[path], len(merged[path])
        if merged[kernel].dtype == np.int8:
            matrices = merged[kernel].reshape(layers, -1, scale[0].size).astype(np.float32)
            merged[kernel] = (matrices * scale.reshape(layers, 1, -1)).reshape(merged[kernel].shape)
    names = ("/kernel_scale", "/input_scale", f"/{LOG2_RANGE}")
    plain = {path: array for path, array in merged.items() if not path.endswith(names)}
    return dataclasses.replace(encoder, quantisation=IN_FLOATS), plain


def without_adapters(encoder: EncoderConfig) -> EncoderConfig:
    """Returns the encoder's shape without anything added."""
    return dataclasses.replace(encoder, **_NO_LOW_RANK, adapter_size=0, prefix_length=0, quantisation=IN_FLOATS)


def is_mergeable(encoder: EncoderConfig) -> bool:
    """Returns whether what an encoder adds to its weights can be merged into them; see `only_mergeable`."""
    return not (encoder.adapter_size or encoder.prefix_length)


def only_mergeable(encoder: EncoderConfig, format: str) -> None:
    """Raises UserError for adapters or prefixes, which cannot be merged into weights."""
    for key in ("adapter_size", "prefix_length"):
        if getattr(encoder, key):
            raise UserError(
                f"--format={format}: the run was trained with config.adapt.{key}={getattr(encoder, key)}, and adapters "
                "and prefixes cannot be merged into weights that other libraries would open. jaxfm.predict and "
                "jaxfm.evaluate use the run as it is; LoRA (config.adapt.lora.rank) can be merged."
            )

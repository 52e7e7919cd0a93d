"""Fused kernels for attention: what each of them can compute, and which one a layer takes.

A kernel computes the same function as `masked_attention` or is not taken: what it lacks is known when the program is
traced, from the device, the shapes and what the layer asks for.
"""

# B batch, T tokens, N heads (1: all of them), H head dim

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from jaxfm.core.build import AttentionConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.parallel import target
from jaxfm.parallel.mesh import drop_indivisible_axes, spec

XLA = "xla"
# A TPU's registers have so many lanes; splash attention works on blocks of as many keys, or a multiple.
_LANES = 128


AUTO = AttentionConfig()


@dataclasses.dataclass(frozen=True)
class AttentionProblem:
    """What a layer asks of attention.

    Attributes:
      platform: that the program is traced for.
      dtype: of queries, keys and values.
      tokens: T.
      head_dim: H.
      one_segment: see `AttentionConfig`.
      reach: tokens that a query sees to each side; 0: its whole segment.
      prefix: keys of a prefix, which every query sees.
      dropout: on the attention weights.
      sequence_parts: into which rows are cut along their tokens.
    """

    platform: str
    dtype: jnp.dtype
    tokens: int
    head_dim: int
    one_segment: bool = False
    window_radius: int = 0
    prefix: bool = False
    dropout: float = 0.0
    sequence_parts: int = 1


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One way to compute attention.

    Attributes:
      platforms: as `target.platform` calls them.
      lacks: why it cannot compute what is needed on these platforms; None: it can.
      compute: (q, k, v [B, T, N, H], segment_ids [B, T], mask [B, 1, T, T] or None, reach) -> [B, T, N, H], on one
        device.
      needs_mask: whether it is to be told as a mask what a query sees, as it cannot tell by segments and reach.
    """

    platforms: tuple[str, ...]
    unsupported_reason: Callable[[AttentionProblem], str | None]
    compute: Callable[..., jax.Array]
    needs_mask: Callable[[AttentionProblem], bool]


def needs(
    encoder: EncoderConfig,
    choice: AttentionConfig,
    dtype: Any,
    tokens: int,
    mesh: Mesh | AbstractMesh,
    *,
    training: bool,
) -> tuple[AttentionProblem, ...]:
    """Returns what the layers of an encoder ask for: those that see whole segments, then the local ones, if any."""
    whole = AttentionProblem(
        platform=target.platform(),
        dtype=jnp.dtype(dtype),
        tokens=tokens,
        head_dim=encoder.head_dim,
        one_segment=choice.one_segment,
        prefix=encoder.prefix_length > 0,
        dropout=encoder.attention_dropout if training else 0.0,
        sequence_parts=mesh.shape.get("sequence", 1),
    )
    window_radius = encoder.local_window // 2 if encoder.global_every > 1 else 0
    return (whole, dataclasses.replace(whole, window_radius=window_radius)) if window_radius else (whole,)


def reasons(need: AttentionProblem) -> dict[str, str | None]:
    """Returns for each kernel why it cannot compute what is needed; None where it can."""
    return {
        name: kernel.unsupported_reason(need)
        if need.platform in kernel.platforms
        else f"does not run on {need.platform}"
        for name, kernel in KERNELS.items()
    }


def choose(choice: AttentionConfig, need: AttentionProblem) -> str:
    """Returns the path to take, a name of KERNELS or "xla", which can compute anything.

    Raises:
      UserError: the path that was asked for cannot compute this.
    """
    found = reasons(need)
    able = [name for name, reason in found.items() if reason is None]
    if choice.path == "auto":
        return able[0] if able else XLA
    if choice.path != XLA and choice.path not in able:
        layers = "layers with a local window" if need.window_radius else "this model"
        raise UserError(
            f"config.model.attention: {choice.path!r} cannot compute the attention of {layers}: {found[choice.path]}. "
            f"Nearest that can: {able[0] if able else XLA!r}; 'auto' takes the best one of each layer."
        )
    return choice.path


def describe(
    choice: AttentionConfig, training: tuple[AttentionProblem, ...], evaluation: tuple[AttentionProblem, ...]
) -> str:
    """Returns one line for the person who runs this: the path of each layer, and why it is no faster one.

    Raises:
      UserError: as `choose`.
    """

    def one(need: AttentionProblem) -> str:
        path, where = choose(choice, need), " in layers with a local window" if need.window_radius else ""
        if choice.path != "auto" or path != XLA:
            return path + where
        missed = [f"{name}: {why}" for name, why in reasons(need).items() if need.platform in KERNELS[name].platforms]
        return f"{path}{where} ({'; '.join(missed) or f'all there is on {need.platform}'})"

    lines = ["; ".join(map(one, asked)) for asked in (training, evaluation)]
    return f"attention: {lines[0]}" + (f". Evaluation: {lines[1]}" if lines[1] != lines[0] else "")


def fused_attention(
    kernel: Kernel,
    q_BTNH: jax.Array,
    k_BTNH: jax.Array,
    v_BTNH: jax.Array,
    segment_ids_BT: jax.Array,
    mask_B1TT: jax.Array | None,
    window_radius: int,
) -> jax.Array:
    """Runs a kernel on every device's own rows and heads; returns [B, T, N, H].

    The partitioner knows nothing of kernels: left to itself it would gather their inputs.
    """
    mesh = jax.sharding.get_abstract_mesh()

    def compute(*arrays: jax.Array | None) -> jax.Array:
        return kernel.compute(*arrays, window_radius)

    if mesh.empty or mesh.size == 1:
        return compute(q_BTNH, k_BTNH, v_BTNH, segment_ids_BT, mask_B1TT)
    place = drop_indivisible_axes(q_BTNH.shape, spec("batch", "keys", "heads", "head_dim"), mesh)
    rows = drop_indivisible_axes(segment_ids_BT.shape, spec("batch", "keys"), mesh)
    squares = drop_indivisible_axes(mask_B1TT.shape, spec("batch"), mesh) if mask_B1TT is not None else None
    on_each = jax.shard_map(compute, in_specs=(place, place, place, rows, squares), out_specs=place, check_vma=False)
    return on_each(q_BTNH, k_BTNH, v_BTNH, segment_ids_BT, mask_B1TT)


def _lacked_by_all(need: AttentionProblem) -> str | None:
    """What no fused kernel here can do."""
    if need.dropout:
        return (
            f"has no dropout on attention weights, here {need.dropout:g} (config.model.attention_dropout=0 would let "
            "it, and is another function)"
        )
    if need.prefix:
        return "has no keys that every segment sees (config.adapt.prefix_length)"
    if need.sequence_parts > 1:
        return f"wants rows whole on a device (config.parallel.mesh.sequence={need.sequence_parts})"
    return None


def _lacked_by_cudnn(need: AttentionProblem) -> str | None:
    capability = target.cuda_capability()
    if capability is None or capability < (8, 0):
        # Its version and the GPU's decide what it can compute, and JAX asks both while it traces.
        return "wants an NVIDIA GPU of compute capability 8.0 or more in the machine that traces the program"
    if need.dtype not in (jnp.bfloat16, jnp.float16):
        return f"computes in bf16 or f16, not in {need.dtype} (config.train.precision)"
    widest = 256 if capability >= (9, 0) else 128
    if need.head_dim % 8 or need.head_dim > widest:
        return f"wants heads of a multiple of 8 and at most {widest} numbers, not {need.head_dim}"
    if _needs_mask_for_cudnn(need) and need.tokens % 2:
        return f"wants rows of an even number of tokens for a mask, not {need.tokens} (config.data.row_length)"
    return _lacked_by_all(need)


def _needs_mask_for_cudnn(need: AttentionProblem) -> bool:
    """It has neither segments nor windows to both sides; the length of a row's one segment it can be told."""
    return need.window_radius > 0 or not need.one_segment


def _cudnn(
    q_BTNH: jax.Array,
    k_BTNH: jax.Array,
    v_BTNH: jax.Array,
    segment_ids_BT: jax.Array,
    mask_B1TT: jax.Array | None,
    window_radius: int,
) -> jax.Array:
    """Flash attention of cuDNN: by a mask, or over rows of one segment each and padding behind it.

    By a mask every block is computed, and 2 T bytes a query read for it; of [B, N, T, T] nothing is held. Without one,
    padding attends to the segment and not to other padding; nobody reads what comes of it.
    """
    del window_radius  # the mask knows
    if mask_B1TT is not None:
        return jax.nn.dot_product_attention(q_BTNH, k_BTNH, v_BTNH, mask=mask_B1TT, implementation="cudnn")
    real_BT = segment_ids_BT > 0
    # A row of nothing but padding has one key: over none, a softmax is NaN, and that times a weight of 0 as well.
    lengths_B = jnp.maximum(jnp.sum(real_BT, axis=1, dtype=jnp.int32), 1)
    # cuDNN does not promise zeros for the gradient of keys that it was told not to read; this makes sure of them.
    k_BTNH, v_BTNH = (jnp.where(real_BT[..., None, None], x_BTNH, 0) for x_BTNH in (k_BTNH, v_BTNH))
    return jax.nn.dot_product_attention(q_BTNH, k_BTNH, v_BTNH, key_value_seq_lengths=lengths_B, implementation="cudnn")


def _lacked_by_splash(need: AttentionProblem) -> str | None:
    if need.dtype not in (jnp.bfloat16, jnp.float32):
        return f"computes in bf16 or f32, not in {need.dtype}"
    if need.tokens % _LANES:
        return f"wants rows of a multiple of {_LANES} tokens, not {need.tokens} (config.data.row_length)"
    return _lacked_by_all(need)


def _splash(
    q_BTNH: jax.Array,
    k_BTNH: jax.Array,
    v_BTNH: jax.Array,
    segment_ids_BT: jax.Array,
    mask_B1TT: jax.Array | None,
    window_radius: int,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Splash attention of JAX's Pallas kernels for TPUs; blocks that lie outside the window are never computed.

    A window is told in places of the row: a segment's tokens are neighbours, so its positions are as far apart.
    """
    # Of no use, and a second to import, anywhere else.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    assert mask_B1TT is None
    tokens, heads = q_BTNH.shape[1:3]
    square = (tokens, tokens)
    mask = masks.LocalMask(square, (window_radius, window_radius), 0) if window_radius else masks.FullMask(square)
    # Small blocks waste least at the edges of a window.
    block = _LANES if window_radius else max(size for size in (_LANES, 2 * _LANES, 4 * _LANES) if tokens % size == 0)
    names = (
        "block_q",
        "block_kv",
        "block_kv_compute",
        "block_q_dkv",
        "block_kv_dkv",
        "block_kv_dkv_compute",
        "block_q_dq",
        "block_kv_dq",
    )
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=kernels.BlockSizes(**dict.fromkeys(names, block)),
        interpret=interpret,
    )
    q_BNTH, k_BNTH, v_BNTH = (jnp.swapaxes(x, 1, 2) for x in (q_BTNH * q_BTNH.shape[-1] ** -0.5, k_BTNH, v_BTNH))
    context_BNTH = jax.vmap(kernel)(q_BNTH, k_BNTH, v_BNTH, kernels.SegmentIds(segment_ids_BT, segment_ids_BT))
    assert isinstance(context_BNTH, jax.Array)
    return jnp.swapaxes(context_BNTH, 1, 2)


# In the order in which "auto" takes them.
KERNELS: Mapping[str, Kernel] = {
    "cudnn": Kernel(("gpu", "cuda"), _lacked_by_cudnn, _cudnn, _needs_mask_for_cudnn),
    "splash": Kernel(("tpu",), _lacked_by_splash, _splash, lambda need: False),
}

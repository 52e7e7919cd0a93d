"""Fused kernels for attention: what each of them can compute, and which one a layer takes.

A kernel computes the same function as `masked_attention` or is not taken: what it does not support is known when the
program is traced, from the device, the shapes and what the layer asks for.
"""

# B batch, T tokens, N heads (1: all of them), H head dim

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from jaxfm.core.build import AttentionConfig, Build
from jaxfm.core.encoder_config import FULL, PREFIX, EncoderConfig
from jaxfm.errors import UserError
from jaxfm.parallel import target
from jaxfm.parallel.mesh import drop_indivisible_axes, spec

XLA = "xla"
# Lanes of a TPU's registers; splash attention works on blocks of this number of keys, or a multiple.
_LANES = 128
_RELATIVE = {"bias": "a bias by relative positions", "disentangled": "products of content and relative positions"}


@dataclasses.dataclass(frozen=True)
class AttentionProblem:
    """What a layer asks of attention.

    Attributes:
      platform: that the program is traced for.
      dtype: of queries, keys and values.
      tokens: T.
      head_dim: H.
      one_segment: see `AttentionConfig`.
      window_radius: tokens that a query sees to each side; 0: its whole segment.
      sight: what of its segment it sees (`EncoderConfig`).
      prefix: whether there are keys of a prefix, which every query sees.
      relative_positions: what is added to the scores for distances (`EncoderConfig`).
      dropout: rate on the attention weights.
      sequence_parts: number of parts that rows are cut into along their tokens.
    """

    platform: str
    dtype: jnp.dtype
    tokens: int
    head_dim: int
    one_segment: bool = False
    window_radius: int = 0
    sight: str = FULL
    prefix: bool = False
    relative_positions: str = "none"
    dropout: float = 0.0
    sequence_parts: int = 1


class KernelInputs(NamedTuple):
    """The arrays that a kernel reads: queries, keys and values, segments, and a mask where it needs one."""

    q_BTNH: jax.Array
    k_BTNH: jax.Array
    v_BTNH: jax.Array
    segment_ids_BT: jax.Array
    mask_B1TT: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One way to compute attention.

    Attributes:
      platforms: as `target.platform` calls them.
      unsupported_reason: why it cannot compute a problem of these platforms; None: it can.
      compute: (inputs, window_radius, causal) -> [B, T, N, H], on one device.
      needs_mask: whether segments, `window_radius` and `causal` do not tell it what a query sees: it needs a mask.
    """

    platforms: tuple[str, ...]
    unsupported_reason: Callable[[AttentionProblem], str | None]
    compute: Callable[[KernelInputs, int, bool], jax.Array]
    needs_mask: Callable[[AttentionProblem], bool]


def attention_problems(
    encoder: EncoderConfig, build: Build, tokens: int, mesh: Mesh | AbstractMesh, *, training: bool
) -> tuple[AttentionProblem, ...]:
    """Returns what the layers of an encoder ask for: those that see whole segments, then the local ones, if any."""
    whole = AttentionProblem(
        platform=target.platform(),
        dtype=build.dtype,
        tokens=tokens,
        head_dim=encoder.head_dim,
        one_segment=build.attention.one_segment,
        sight=encoder.sight,
        prefix=encoder.prefix_length > 0,
        relative_positions=encoder.relative_positions,
        dropout=encoder.attention_dropout if training else 0.0,
        sequence_parts=mesh.shape.get("sequence", 1),
    )
    window_radius = encoder.local_window // 2 if encoder.global_every > 1 else 0
    return (whole, dataclasses.replace(whole, window_radius=window_radius)) if window_radius else (whole,)


def unsupported_reasons(problem: AttentionProblem) -> dict[str, str | None]:
    """Returns for each kernel why it cannot compute the problem; None where it can."""
    return {
        name: kernel.unsupported_reason(problem)
        if problem.platform in kernel.platforms
        else f"does not run on {problem.platform}"
        for name, kernel in KERNELS.items()
    }


def choose(config: AttentionConfig, problem: AttentionProblem) -> str:
    """Returns the path to take, a name of KERNELS or "xla", which can compute anything.

    Raises:
      UserError: the path that was asked for cannot compute this.
    """
    reasons = unsupported_reasons(problem)
    able = [name for name, reason in reasons.items() if reason is None]
    if config.path == "auto":
        return able[0] if able else XLA
    if config.path != XLA and config.path not in able:
        layers = "layers with a local window" if problem.window_radius else "this model"
        raise UserError(
            f"config.model.attention: {config.path!r} cannot compute the attention of {layers}: "
            f"{reasons[config.path]}. Nearest that can: {able[0] if able else XLA!r}; 'auto' takes the best for each "
            "layer."
        )
    return config.path


def describe(encoder: EncoderConfig, build: Build, tokens: int, mesh: Mesh | AbstractMesh) -> str:
    """Returns one line for the user: the path of each layer, in training and evaluation, and why no faster one.

    Args:
      encoder: shape.
      build: how it computes.
      tokens: T.
      mesh: of the run.

    Raises:
      UserError: as `choose`.
    """

    def one(problem: AttentionProblem) -> str:
        path = choose(build.attention, problem)
        where = " in layers with a local window" if problem.window_radius else ""
        if build.attention.path != "auto" or path != XLA:
            return path + where
        reasons = unsupported_reasons(problem).items()
        missed = [f"{name}: {reason}" for name, reason in reasons if problem.platform in KERNELS[name].platforms]
        return f"{path}{where} ({'; '.join(missed) or f'the only path on {problem.platform}'})"

    training, evaluation = (
        "; ".join(map(one, attention_problems(encoder, build, tokens, mesh, training=training)))
        for training in (True, False)
    )
    return f"attention: {training}" + (f". Evaluation: {evaluation}" if evaluation != training else "")


def fused_attention(kernel: Kernel, inputs: KernelInputs, window_radius: int, causal: bool) -> jax.Array:
    """Runs a kernel on every device's own rows and heads; returns [B, T, N, H].

    Without this the partitioner, which cannot cut a kernel, would gather its inputs.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return kernel.compute(inputs, window_radius, causal)
    heads = drop_indivisible_axes(inputs.q_BTNH.shape, spec("batch", "keys", "heads", "head_dim"), mesh)
    rows = drop_indivisible_axes(inputs.segment_ids_BT.shape, spec("batch", "keys"), mesh)
    mask = None if inputs.mask_B1TT is None else drop_indivisible_axes(inputs.mask_B1TT.shape, spec("batch"), mesh)
    on_each = jax.shard_map(
        lambda inputs: kernel.compute(inputs, window_radius, causal),
        in_specs=(KernelInputs(heads, heads, heads, rows, mask),),  # pyright: ignore[reportArgumentType]
        out_specs=heads,
        check_vma=False,
    )
    return on_each(inputs)


def unsupported_by_all(problem: AttentionProblem) -> str | None:
    """Returns why no fused kernel here can compute a problem; None: these reasons do not apply."""
    if problem.dropout:
        return (
            f"has no dropout on attention weights, here {problem.dropout:g} (config.model.attention_dropout=0 allows "
            "it, but trains another function)"
        )
    if problem.prefix:
        return "cannot have keys that every segment sees (config.adapt.prefix_length)"
    if problem.relative_positions != "none":
        return f"adds nothing to the scores of attention, here {_RELATIVE[problem.relative_positions]}"
    if problem.sequence_parts > 1:
        return f"needs each row whole on a device (config.parallel.mesh.sequence={problem.sequence_parts})"
    return None


def _unsupported_by_cudnn(problem: AttentionProblem) -> str | None:
    capability = target.cuda_capability()
    if capability is None or capability < (8, 0):
        # What it can compute depends on its version and the GPU's; JAX asks both while it traces.
        return "needs an NVIDIA GPU of compute capability 8.0 or more in the machine that traces the program"
    if problem.dtype not in (jnp.bfloat16, jnp.float16):
        return f"computes in bf16 or f16, not {problem.dtype} (config.train.precision)"
    widest = 256 if capability >= (9, 0) else 128
    if problem.head_dim % 8 or problem.head_dim > widest:
        return f"needs a head dimension that is a multiple of 8 and at most {widest}, not {problem.head_dim}"
    if _needs_mask_for_cudnn(problem) and problem.tokens % 2:
        return f"needs rows of an even number of tokens for a mask, not {problem.tokens} (config.data.row_length)"
    return unsupported_by_all(problem)


def _needs_mask_for_cudnn(problem: AttentionProblem) -> bool:
    """Of what a query sees it is told only the length of a row's one segment; all else is a mask."""
    return problem.window_radius > 0 or problem.sight != FULL or not problem.one_segment


def _cudnn(inputs: KernelInputs, window_radius: int, causal: bool) -> jax.Array:
    """Flash attention of cuDNN: by a mask, or over rows of one segment each and padding after it.

    By a mask every block is computed, and the mask's 2 T bytes a query are read; no array of [B, N, T, T] is held.
    Without one, padding attends to the segment and not to other padding; its outputs are never read.
    """
    del window_radius, causal  # part of the mask
    q_BTNH, k_BTNH, v_BTNH, segment_ids_BT, mask_B1TT = inputs
    if mask_B1TT is not None:
        return jax.nn.dot_product_attention(q_BTNH, k_BTNH, v_BTNH, mask=mask_B1TT, implementation="cudnn")
    real_BT = segment_ids_BT > 0
    # A row that is all padding has one key: a softmax over no key is NaN, and stays NaN times a weight of 0.
    lengths_B = jnp.maximum(jnp.sum(real_BT, axis=1, dtype=jnp.int32), 1)
    # cuDNN does not promise that the gradient of keys which it does not read is 0; this makes sure of it.
    k_BTNH, v_BTNH = (jnp.where(real_BT[..., None, None], x_BTNH, 0) for x_BTNH in (k_BTNH, v_BTNH))
    return jax.nn.dot_product_attention(
        q_BTNH,
        k_BTNH,
        v_BTNH,
        # What it takes by default, T, but as a function of the rows: where several runs are stacked (`jax.vmap`), JAX
        # reshapes the lengths of queries like those of keys.
        query_seq_lengths=0 * lengths_B + q_BTNH.shape[1],
        key_value_seq_lengths=lengths_B,
        implementation="cudnn",
    )


def _unsupported_by_splash(problem: AttentionProblem) -> str | None:
    if problem.dtype not in (jnp.bfloat16, jnp.float32):
        return f"computes in bf16 or f32, not {problem.dtype}"
    if problem.tokens % _LANES:
        return f"needs rows of a multiple of {_LANES} tokens, not {problem.tokens} (config.data.row_length)"
    if problem.sight == PREFIX:
        return "is not told where a prefix ends, of which tokens see all (EncoderConfig.sight)"
    return unsupported_by_all(problem)


def _splash(inputs: KernelInputs, window_radius: int, causal: bool, *, interpret: bool = False) -> jax.Array:
    """Splash attention of JAX's Pallas kernels for TPUs; blocks that lie outside the window are never computed.

    Its window counts indices in the row, and "after" is one of them too. These differ as positions do, because a
    segment's tokens are neighbours, in order.
    """
    # Imported here: it takes a second, and is of use on TPUs only.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    q_BTNH, k_BTNH, v_BTNH, segment_ids_BT, mask_B1TT = inputs
    assert mask_B1TT is None
    tokens, heads = q_BTNH.shape[1:3]
    square = (tokens, tokens)
    if window_radius:
        mask = masks.LocalMask(square, (window_radius, 0 if causal else window_radius), 0)
    else:
        mask = masks.CausalMask(square) if causal else masks.FullMask(square)
    # Small blocks waste the least work at the edges of a window.
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
    context_BNTH = jax.vmap(kernel)(q_BNTH, k_BNTH, v_BNTH, kernels.SegmentIds(jnp.abs(segment_ids_BT), segment_ids_BT))
    assert isinstance(context_BNTH, jax.Array)
    return jnp.swapaxes(context_BNTH, 1, 2)


# "auto" takes the first that can compute a layer.
KERNELS: Mapping[str, Kernel] = {
    "cudnn": Kernel(("gpu", "cuda"), _unsupported_by_cudnn, _cudnn, _needs_mask_for_cudnn),
    "splash": Kernel(("tpu",), _unsupported_by_splash, _splash, lambda problem: False),
}

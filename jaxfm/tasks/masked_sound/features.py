"""What is clustered of the steps of clips: log-mel frames and how they change, or hidden states of an encoder."""

# B batch, T tokens, K steps of a clip, Q frames of a patch, M mel bands, F features, D model

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import AttentionConfig, Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import SoundLayout
from jaxfm.data.audio.rows import SoundRows
from jaxfm.models.encoder import Encoder
from jaxfm.models.inputs.frames import FrameInputs, log_mel
from jaxfm.models.kernels import XLA
from jaxfm.parallel.mesh import build_abstract, make_mesh

ENCODER = "encoder/"
_AT_ONCE = 32  # rows that are computed together


def mel_features(rows: SoundRows) -> list[np.ndarray]:
    """Returns of each clip f32 [K, 2 M]: the mean of the log-mel frames of each step's patch, less its mean over the
    clip, and how it changes from step to step.

    The mean over a clip is its loudness and its microphone, which are not what is said.
    """
    settings = rows.settings
    compute = jax.jit(lambda samples: log_mel(samples, settings.layout.rate, settings.patches.mels))
    found: list[np.ndarray] = [np.zeros(0)] * len(rows.clips)
    for start, batch in _batches(rows):
        frames_BFM = np.asarray(compute(batch["samples"]))
        for place, (row, tokens) in _steps(rows, batch, start):
            slots_KQ = batch["starts"][row, tokens][:, None] + np.arange(settings.patches.span)
            inside_KQ = slots_KQ < batch["slots"].shape[1]
            slots_KQ = np.minimum(slots_KQ, batch["slots"].shape[1] - 1)
            own_KQ = inside_KQ & (batch["slots"][row, slots_KQ] == batch["segment_ids"][row, tokens[0]])
            weights_KQ1 = (own_KQ / np.maximum(own_KQ.sum(axis=1, keepdims=True), 1))[..., None]
            mel_KM = (frames_BFM[row][slots_KQ] * weights_KQ1).sum(axis=1)
            mel_KM = mel_KM - mel_KM.mean(axis=0)
            change_KM = np.asarray(np.gradient(mel_KM, axis=0) if len(mel_KM) > 1 else np.zeros_like(mel_KM))
            found[place] = np.concatenate([mel_KM, change_KM], axis=1).astype(np.float32)
    return found


def state_features(rows: SoundRows, compute: Callable[[Mapping[str, np.ndarray]], jax.Array]) -> list[np.ndarray]:
    """Returns of each clip f32 [K, D]: the hidden states of its steps; `compute` gives those [B, T, D] of a batch."""
    found: list[np.ndarray] = [np.zeros(0)] * len(rows.clips)
    bands = rows.settings.patches.grid[0]
    for start, batch in _batches(rows):
        states_BTD = np.asarray(compute(batch), np.float32)
        for place, (row, tokens) in _steps(rows, batch, start):
            # Rows of patches lie one after the other; a step's state is the mean over them, as of the model's head.
            columns = len(tokens)
            every = [states_BTD[row, tokens + band * columns] for band in range(bands)]
            found[place] = np.asarray(np.mean(every, axis=0), np.float32)
    return found


def hidden_states(
    encoder: EncoderConfig, layout: SoundLayout, params: Mapping[str, Any], layer: int
) -> Callable[[Mapping[str, np.ndarray]], jax.Array]:
    """Returns what computes the residual stream [B, T, D] after a number of layers, or what all give; without dropout.

    Args:
      encoder: its shape.
      layout: how recordings become frames.
      params: path -> array of all its parameters, under "encoder/".
      layer: after how many layers.
    """
    build = Build(attention=AttentionConfig(XLA))

    def make() -> Encoder:
        rngs = nnx.Rngs(0)
        return Encoder(encoder, build, rngs, FrameInputs(encoder, build.dtype, rngs, layout))

    graphdef, _ = build_abstract(make, make_mesh(MeshConfig(data=1), jax.local_devices()[:1]))
    own = {name.removeprefix(ENCODER): jnp.asarray(np.asarray(value)) for name, value in params.items()}
    state = flax.traverse_util.unflatten_dict(own, sep="/")

    @jax.jit
    def compute(state: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        between = [layer] if layer < encoder.num_layers else []  # after all of them, they are normalised
        return nnx.merge(graphdef, state).states(batch, between)[0].x_BTD

    return functools.partial(compute, state)


def on_tokens(rows: SoundRows, values: list[np.ndarray], fill: int) -> np.ndarray:
    """Returns int32 [N, T]: the value of each clip's steps at the first row of its patches, `fill` elsewhere."""
    laid = np.full((len(rows), rows.row_length), fill, np.int32)
    settings = rows.settings
    for row, members in enumerate(rows.members):
        token = 0
        for example in members.tolist():
            columns = settings.columns(int(rows.frames[example]))
            first = token + settings.patches.prefix
            laid[row, first : first + columns] = values[example]
            token += settings.tokens(columns)
    return laid


def _batches(rows: SoundRows) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yields the number of the first row, and a batch of `_AT_ONCE` rows, of which the last may occur again."""
    for start in range(0, len(rows), _AT_ONCE):
        yield start, rows.take(np.minimum(np.arange(start, start + _AT_ONCE), len(rows) - 1))


def _steps(
    rows: SoundRows, batch: Mapping[str, np.ndarray], start: int
) -> Iterator[tuple[int, tuple[int, np.ndarray]]]:
    """Yields the number of each clip of a batch, its row in it, and the tokens of the first row of its patches."""
    for row, members in enumerate(rows.members[start : start + _AT_ONCE]):
        for segment, example in enumerate(members.tolist(), start=1):
            own = (batch["segment_ids"][row] == segment) & (batch["cells"][row, :, 0] == 0)
            yield example, (row, np.flatnonzero(own))

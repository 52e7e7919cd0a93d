"""Sound before the first layer: log-mel frames of the samples, their patches mapped linearly (Gong et al. 2021, AST).

The frames are those of Kaldi, which transformers' extractor of AST computes on the host; here they are part of the
model, so whoever trains, evaluates or exports it gives samples.
"""

# B batch, N samples of a row, F frames of a row, T tokens, M mel bands, K frequencies, P bands of a patch, Q its frames

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import SoundLayout
from jaxfm.models.dropout import DropoutKey
from jaxfm.models.inputs.inputs import Inputs
from jaxfm.models.inputs.patches import NORMALIZED, PatchInputs

WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.010
"""Kaldi's defaults: what a frame hears, and how far frames are apart."""
_PREEMPHASIS, _LOWEST_HERTZ = 0.97, 20.0
_FLOOR = float(np.finfo(np.float32).eps)  # below which the energy of a band is raised to it


def window_size(rate: int) -> int:
    """Returns the samples of a frame."""
    return round(rate * WINDOW_SECONDS)


def hop_size(rate: int) -> int:
    """Returns how many samples frames are apart."""
    return round(rate * HOP_SECONDS)


def frame_count(samples: int, rate: int) -> int:
    """Returns the frames that lie whole in so many samples; a shorter clip, filled up with silence, has one."""
    return max(1, 1 + (samples - window_size(rate)) // hop_size(rate))


def slot_count(frames: int, rate: int) -> int:
    """Returns how many times `hop_size` samples so many frames take: the last one is longer than a hop."""
    return frames + -(-window_size(rate) // hop_size(rate)) - 1


@functools.lru_cache(maxsize=16)
def mel_filters(rate: int, mels: int) -> np.ndarray:
    """Returns the weights [K, M] of Kaldi's bank: triangles of equal width in mel (1127 ln(1 + f / 700)), from 20 Hz.

    They are computed in f64 and kept as f32. A narrow band at low frequencies may have no frequency: it stays at the
    floor, there as here.
    """
    size = _fft_size(rate)
    least, most = (1127.0 * np.log(1.0 + hertz / 700.0) for hertz in (_LOWEST_HERTZ, rate / 2))
    edges = np.linspace(least, most, mels + 2)
    mel_K1 = 1127.0 * np.log(1.0 + np.arange(size // 2 + 1)[:, None] * (rate / size) / 700.0)
    left, middle, right = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (mel_K1 - left) / (middle - left), (right - mel_K1) / (right - middle)
    filters_KM = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    filters_KM.setflags(write=False)
    return filters_KM


def _fft_size(rate: int) -> int:
    return 1 << (window_size(rate) - 1).bit_length()


@functools.lru_cache(maxsize=16)
def _fourier(rate: int) -> np.ndarray:
    """Returns window times waves, f32 [W, 2 K]: the cosines of all frequencies, then the sines."""
    window, size = window_size(rate), _fft_size(rate)
    turns_WK = np.outer(np.arange(window), np.arange(size // 2 + 1)) % size * (2 * np.pi / size)
    waves = np.concatenate([np.cos(turns_WK), np.sin(turns_WK)], axis=1) * np.hanning(window)[:, None]
    found = waves.astype(np.float32)
    found.setflags(write=False)
    return found


@jax.named_scope("log_mel")
def log_mel(samples_BN: jax.Array, rate: int, mels: int) -> jax.Array:
    """Returns the log-mel frames f32 [B, F, M] of rows of samples, frame f from sample f * hop on; F = N / hop.

    As Kaldi's fbank with a "hanning" window and without dither: the mean of a frame is subtracted, then preemphasis,
    window, power of the spectrum, mel bands and the natural logarithm. Samples are from -1 to 1 and are not scaled.

    Args:
      samples_BN: f32; N is a multiple of `hop_size`. What frames read after the end is 0.
      rate: samples a second.
      mels: M.
    """
    window, hop = window_size(rate), hop_size(rate)
    rows, count = samples_BN.shape
    assert count % hop == 0, "whole hops"
    parts = -(-window // hop)
    padded_BN = jnp.pad(samples_BN, ((0, 0), (0, parts * hop)))
    # Frames overlap: each is some neighbouring hops side by side, cut to the window.
    hops = [padded_BN[:, part * hop : part * hop + count].reshape(rows, -1, hop) for part in range(parts)]
    frames_BFW = jnp.concatenate(hops, axis=-1)[..., :window]
    frames_BFW -= jnp.mean(frames_BFW, axis=-1, keepdims=True)
    before_BFW = jnp.concatenate([frames_BFW[..., :1], frames_BFW[..., :-1]], axis=-1)
    # A product with the waves, not an FFT: GSPMD cannot divide an FFT over devices, and exports need no FFT. It costs
    # 0.4 million operations a frame, a hundredth of what a small encoder takes.
    waves_BFK = jnp.einsum("BFW,WK->BFK", frames_BFW - _PREEMPHASIS * before_BFW, _fourier(rate), precision="highest")
    real_BFK, imaginary_BFK = jnp.split(waves_BFK, 2, axis=-1)
    power_BFK = jnp.square(real_BFK) + jnp.square(imaginary_BFK)
    energy_BFM = jnp.einsum("BFK,KM->BFM", power_BFK, mel_filters(rate, mels), precision="highest")
    return jnp.log(jnp.maximum(energy_BFM, _FLOOR))


def fields(row_length: int, *, slots: int, rate: int) -> BatchSpec:
    """Returns the arrays that `FrameInputs` reads, of rows of `row_length` tokens and `slots` hops of samples.

    "samples" are from -1 to 1, one clip after the other, each at the start of a slot. "slots" say whose they are: k
    where a frame of the row's clip k (from 1) begins, -k where its samples go on and no frame begins, 0 where nothing
    lies. "starts" are the slots in which the patches begin. The others are as of `patches.fields`: rows of "cells"
    are bands of a patch, columns its place in time; "grids" are those of the table of positions, so that a place in
    time means the same in a short clip as in a long one.
    """
    axes = ("tokens",)
    return {
        "samples": Field((slots * hop_size(rate),), np.dtype(np.float32)),
        "slots": Field((slots,)),
        "starts": Field((row_length,), axes=axes),
        "segment_ids": Field((row_length,), axes=axes),
        "positions": Field((row_length,), axes=axes),
        "cells": Field((row_length, 2), fill=-1, axes=axes),
        "grids": Field((row_length, 2), axes=axes),
    }


class FrameInputs(PatchInputs):
    """Maps patches of log-mel frames, puts learned tokens before them, adds positions.

    A batch may have "normalized" patches f32 [B, T, P * Q] (augmentation makes these); else they are made of its
    samples. What a patch reads after the end of its clip is 0 before it is brought to the scale of the weights, as
    transformers' extractor has it.
    """

    def __init__(self, config: EncoderConfig, dtype: Any, rngs: nnx.Rngs, layout: SoundLayout | None = None):
        """Makes the weights; without a `layout` that says a deviation, frames keep the scale that they have."""
        super().__init__(config, dtype, rngs)
        self.layout = layout or SoundLayout()

    def __call__(self, batch: Mapping[str, jax.Array], key: DropoutKey | None = None) -> Inputs:
        """Returns the inputs of the layers; `key` turns dropout on."""
        if NORMALIZED not in batch:
            batch = {**batch, NORMALIZED: self.patches(self.frames(batch), batch)}
        return super().__call__(batch, key)

    @jax.named_scope("frames")
    def frames(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the frames f32 [B, F, M] of a batch's samples on the scale of the weights."""
        frames_BFM = log_mel(batch["samples"], self.layout.rate, self.config.patches.mels)
        return self.normalize(jnp.where(batch["slots"][..., None] > 0, frames_BFM, 0.0))

    def normalize(self, frames: jax.Array) -> jax.Array:
        """Returns log-mel numbers on the scale of the weights."""
        return (frames - self.layout.mean) / (2 * self.layout.std) if self.layout.std else frames

    def patches(self, frames_BFM: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the patch f32 [B, T, P * Q] of each token, row by row: bands, then frames; 0 for tokens without one.

        A patch takes nothing of the row's next clip.
        """
        patches = self.config.patches
        cells_BT2 = batch["cells"]
        columns_BTQ = batch["starts"][..., None] + jnp.arange(patches.span)
        inside_BTQ = columns_BTQ < batch["slots"].shape[1]
        columns_BTQ = jnp.minimum(columns_BTQ, batch["slots"].shape[1] - 1)
        own_BTQ = jax.vmap(lambda slots_F, columns_TQ: slots_F[columns_TQ])(batch["slots"], columns_BTQ)
        own_BTQ = inside_BTQ & (own_BTQ == batch["segment_ids"][..., None])
        bands_BTP = jnp.maximum(cells_BT2[..., :1], 0) * patches.stride[0] + jnp.arange(patches.size)
        found_BTPQ = jax.vmap(lambda frames_FM, f, m: frames_FM[f[:, None, :], m[:, :, None]])(
            frames_BFM, columns_BTQ, bands_BTP
        )
        nothing = self.normalize(jnp.zeros((), jnp.float32))
        found_BTPQ = jnp.where(own_BTQ[..., None, :], found_BTPQ, nothing)
        found_BTPQ = jnp.where(cells_BT2[..., :1, None] >= 0, found_BTPQ, 0.0)
        return found_BTPQ.reshape(*cells_BT2.shape[:2], -1)

"""Random changes of training clips on the device: shifts, noise, and masks of the spectrogram (SpecAugment).

They read rows of clips as they are, packed or not. Everything is a pure function of the batch and a key: the draws of a
clip depend on the key, the number of its row in the batch and its segment alone, so a resumed run draws what an
uninterrupted one draws, on any mesh.
"""

# B batch, N samples of a row, F slots of a row, M mel bands, S segments (clips in a row), K masks

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.models.dropout import DropoutKey, row_keys
from jaxfm.models.inputs.frames import hop_size


@dataclasses.dataclass(frozen=True)
class SoundAugmentation:
    """What is changed at random in training clips. Each part is off at 0.

    Attributes:
      shift: most seconds that a clip is moved by, earlier or later; what comes in is silence.
      noise: most white noise that is added, as a share of the clip's own root mean square.
      time_masks: stretches of frames that are hidden (Park et al. 2019, SpecAugment).
      time_width: most frames of each, and at most half of the clip's.
      frequency_masks: ranges of mel bands that are hidden.
      frequency_width: most bands of each.
    """

    shift: float = 0.0
    noise: float = 0.0
    time_masks: int = 0
    time_width: int = 0
    frequency_masks: int = 0
    frequency_width: int = 0

    @property
    def changes(self) -> bool:
        """Whether anything is changed."""
        times, bands = self.time_masks * self.time_width, self.frequency_masks * self.frequency_width
        return self.shift > 0 or self.noise > 0 or times > 0 or bands > 0


@jax.named_scope("augment_sound")
def augment_samples(
    batch: Mapping[str, jax.Array], augmentation: SoundAugmentation, rate: int, key: DropoutKey, *, segments: int
) -> jax.Array:
    """Returns the samples f32 [B, N] of a batch, each clip shifted and with noise.

    Args:
      batch: the fields "samples" and "slots" of rows of clips.
      augmentation: what to do.
      rate: samples a second.
      key: of the step; with a `RowsKey` these are some rows of a batch, changed as they would be in it.
      segments: the most clips a row, S.
    """
    hop, most = hop_size(rate), round(augmentation.shift * rate)

    def one(samples_N: jax.Array, slots_F: jax.Array, key: jax.Array) -> jax.Array:
        shift_key, share_key, noise_key = jax.random.split(key, 3)
        owner_N = jnp.repeat(jnp.abs(slots_F), hop)
        if most:
            shifts_S = jax.random.randint(shift_key, (segments + 1,), -most, most + 1)
            source_N = jnp.arange(len(samples_N)) - shifts_S[owner_N]
            inside_N = (source_N >= 0) & (source_N < len(samples_N))
            source_N = jnp.clip(source_N, 0, len(samples_N) - 1)
            inside_N &= owner_N[source_N] == owner_N
            samples_N = jnp.where(inside_N, samples_N[source_N], 0.0)
        if augmentation.noise:
            shares_S = jax.random.uniform(share_key, (segments + 1,), maxval=augmentation.noise)
            energy_S = jax.ops.segment_sum(jnp.square(samples_N), owner_N, segments + 1)
            count_S = jax.ops.segment_sum(jnp.ones_like(samples_N), owner_N, segments + 1)
            scale_S = shares_S * jnp.sqrt(energy_S / jnp.maximum(count_S, 1.0))
            noise_N = jax.random.normal(noise_key, samples_N.shape) * scale_S[owner_N]
            samples_N = samples_N + jnp.where(owner_N > 0, noise_N, 0.0)
        return samples_N

    return jax.vmap(one)(batch["samples"], batch["slots"], row_keys(key, len(batch["slots"])))


@jax.named_scope("mask_frames")
def mask_frames(
    frames_BFM: jax.Array,
    slots_BF: jax.Array,
    augmentation: SoundAugmentation,
    key: DropoutKey,
    *,
    segments: int,
) -> jax.Array:
    """Returns frames [B, F, M] on the scale of the weights with masked times and bands set to 0, the mean.

    Args:
      frames_BFM: of rows of clips.
      slots_BF: the field "slots".
      augmentation: what to do.
      key: as of `augment_samples`.
      segments: the most clips a row, S.
    """
    mels = frames_BFM.shape[-1]

    def one(frames_FM: jax.Array, slots_F: jax.Array, key: jax.Array) -> jax.Array:
        time_key, band_key = jax.random.split(key)
        owner_F = jnp.maximum(slots_F, 0)
        same_SF = owner_F[None] == jnp.arange(segments + 1)[:, None]
        count_S, first_S = same_SF.sum(axis=1), jnp.argmax(same_SF, axis=1)
        place_F = jnp.arange(len(slots_F)) - first_S[owner_F]
        most_S = jnp.minimum(augmentation.time_width, count_S // 2)
        hidden_FK = _drawn(time_key, augmentation.time_masks, most_S, count_S)(owner_F, place_F[:, None])
        frames_FM = jnp.where(hidden_FK.any(axis=-1)[:, None], 0.0, frames_FM)
        widest_S = jnp.full(segments + 1, min(augmentation.frequency_width, mels))
        bands = _drawn(band_key, augmentation.frequency_masks, widest_S, jnp.full(segments + 1, mels))
        hidden_MFK = jax.vmap(lambda band: bands(owner_F, band))(jnp.arange(mels))
        return jnp.where(hidden_MFK.any(axis=-1).T, 0.0, frames_FM)

    return jax.vmap(one)(frames_BFM, slots_BF, row_keys(key, len(slots_BF)))


def _drawn(key: jax.Array, masks: int, most_S: jax.Array, size_S: jax.Array):
    """Draws masks of each segment; returns whether places are in them, of owners [F] and places: bool [F, K].

    A mask has 0 to `most_S` places, each number as likely, and begins at any of the places from which it ends by
    `size_S`.
    """
    width_key, start_key = jax.random.split(key)
    shape = (len(most_S), masks)
    width_SK = jnp.floor(jax.random.uniform(width_key, shape) * (most_S + 1)[:, None])
    start_SK = jnp.floor(jax.random.uniform(start_key, shape) * (size_S[:, None] - width_SK + 1))

    def inside(owner_F: jax.Array, place: jax.Array) -> jax.Array:
        start_FK = start_SK[owner_F]
        return (place >= start_FK) & (place < start_FK + width_SK[owner_F])

    return inside

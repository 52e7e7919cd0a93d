"""Rows of clips with the cluster of each step; of held-out ones the same steps are hidden in every evaluation."""

# E clips, K steps of a clip

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxfm.data.audio.rows import SoundRows
from jaxfm.models.span_masks import Draws, hidden_steps
from jaxfm.tasks.masked_sound.features import on_tokens
from jaxfm.tasks.masked_sound.spec import MASKED, MaskedSoundSpec

_SEED = 20210614


def with_clusters(spec: MaskedSoundSpec, rows: SoundRows, clusters: Sequence[np.ndarray]) -> SoundRows:
    """Returns rows with the field "labels": the cluster of each step at its first patch, -1 elsewhere."""
    return rows.with_fields({"labels": on_tokens(rows, list(clusters), -1)}, {"labels": spec.token_field(-1)})


def with_masks(spec: MaskedSoundSpec, rows: SoundRows) -> SoundRows:
    """Returns rows with the field `MASKED`: what is hidden of a clip is a function of its number in the split."""
    steps_E = [spec.settings.columns(frames) for frames in rows.frames.tolist()]
    most = max(steps_E)
    begins_EK, place_E = np.zeros((len(steps_E), most), np.float32), np.zeros(len(steps_E), np.float32)
    for clip in range(len(steps_E)):
        rng = np.random.Generator(np.random.PCG64([_SEED, clip]))
        begins_EK[clip], place_E[clip] = rng.random(most, np.float32), rng.random(dtype=np.float32)
    valid_EK = np.arange(most) < np.asarray(steps_E)[:, None]
    draws = Draws(jnp.asarray(begins_EK)[:, None], jnp.asarray(place_E)[:, None])
    hidden_E1K = hidden_steps(draws, jnp.asarray(valid_EK)[:, None], starts=spec.starts, length=spec.length)
    hidden = [each[:steps].astype(np.int32) for each, steps in zip(np.asarray(hidden_E1K)[:, 0], steps_E, strict=True)]
    return rows.with_fields({MASKED: on_tokens(rows, hidden, 0)}, {MASKED: spec.token_field(0)})

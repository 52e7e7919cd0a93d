"""Clusters of the steps of training clips: fitted, kept beside the weights, and found of other clips."""

# C clusters, F features

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from jaxfm import files
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import SoundLayout
from jaxfm.data.audio.rows import SoundRows
from jaxfm.errors import UserError
from jaxfm.tasks.masked_sound.features import ENCODER, hidden_states, mel_features, state_features
from jaxfm.tasks.masked_sound.kmeans import fit_kmeans, nearest

FILE = "clusters.safetensors"
_CENTRES = "centres"
_ROUNDS, _MOST_POINTS = 50, 200_000


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Centres of features.

    Attributes:
      centres_CF: f32.
      params: of the encoder whose hidden states are clustered, path -> array; empty: log-mel frames are.
    """

    centres_CF: np.ndarray
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def of_rows(self, rows: SoundRows, encoder: EncoderConfig, layout: SoundLayout, layer: int) -> list[np.ndarray]:
        """Returns the cluster of each step of each clip, int64 [K] each."""
        found = features_of(rows, encoder, layout, self.params, layer)
        return [nearest(each, self.centres_CF)[0] for each in found]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes them beside task.json."""
        arrays = {_CENTRES: self.centres_CF, **self.params}
        content = safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
        with files.atomic_write(workdir / FILE, binary=True) as file:
            file.write(content)


def features_of(
    rows: SoundRows, encoder: EncoderConfig, layout: SoundLayout, params: Mapping[str, Any], layer: int
) -> list[np.ndarray]:
    """Returns what is clustered of each clip, f32 [K, F] each: hidden states where there are `params`."""
    if not params:
        return mel_features(rows)
    return state_features(rows, hidden_states(encoder, layout, params, layer))


def fit_clusters(
    rows: SoundRows,
    encoder: EncoderConfig,
    layout: SoundLayout,
    params: Mapping[str, Any],
    *,
    layer: int,
    count: int,
    seed: int,
) -> Clusters:
    """Clusters the steps of training clips.

    Raises UserError where there are fewer different steps than clusters.
    """
    found = np.concatenate(features_of(rows, encoder, layout, params, layer))
    if len(found) > _MOST_POINTS:
        chosen = np.random.Generator(np.random.PCG64(seed)).choice(len(found), _MOST_POINTS, replace=False)
        found = found[np.sort(chosen)]
    different = len(np.unique(found, axis=0))
    if different < count:
        raise UserError(
            f"config.task.clusters.count: is {count}, but the training clips have {different:,} different steps. "
            "Take fewer."
        )
    centres = fit_kmeans(found, count, seed=seed, rounds=_ROUNDS).astype(np.float32)
    return Clusters(centres, {name: np.asarray(value) for name, value in params.items()})


def read_clusters(workdir: pathlib.Path, count: int, of_weights: bool) -> Clusters:
    """Returns what `Clusters.save` wrote.

    Raises UserError for a file that is missing, damaged, or of another run.
    """
    path = workdir / FILE
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read: {error.strerror or error}. Take it from a backup of the run."
        ) from None
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: is damaged ({error}). Take it from a backup of the run.") from None
    centres = arrays.pop(_CENTRES, np.zeros(0))
    whole = centres.ndim == 2 and len(centres) == count and np.isfinite(centres).all()
    if not whole or bool(arrays) != of_weights or not all(name.startswith(ENCODER) for name in arrays):
        raise UserError(f"{path}: is not that of this run. Take it from a backup of the run.")
    return Clusters(centres, arrays)

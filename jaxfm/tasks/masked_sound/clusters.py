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
from jaxfm.data.audio.rows import SoundRows
from jaxfm.errors import UserError
from jaxfm.tasks.masked_sound.features import ENCODER, hidden_states, mel_features, state_features
from jaxfm.tasks.masked_sound.kmeans import fit_kmeans, nearest
from jaxfm.tasks.masked_sound.spec import MaskedSoundSpec

FILE = "clusters.safetensors"
_CENTRES, _MASK_TOKEN = "centres", f"{ENCODER}embeddings/mask_token"
_BACKUP = "Take it from a backup of the run."
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

    def of_rows(self, spec: MaskedSoundSpec, rows: SoundRows) -> list[np.ndarray]:
        """Returns the cluster of each step of each clip, int64 [K] each."""
        return [nearest(each, self.centres_CF)[0] for each in features_of(spec, rows, self.params)]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes them beside task.json."""
        arrays = {_CENTRES: self.centres_CF, **self.params}
        content = safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
        with files.atomic_write(workdir / FILE, binary=True) as file:
            file.write(content)


def features_of(spec: MaskedSoundSpec, rows: SoundRows, params: Mapping[str, Any]) -> list[np.ndarray]:
    """Returns what is clustered of each clip, f32 [K, F] each: hidden states where there are `params`."""
    if not params:
        return mel_features(rows)
    # Weights that nothing was hidden from have no mask token, and nothing is hidden here.
    patches = dataclasses.replace(spec.encoder.patches, mask_token=_MASK_TOKEN in params)
    encoder = dataclasses.replace(spec.encoder, patches=patches)
    return state_features(rows, hidden_states(encoder, spec.layout, params, spec.layer))


def fit_clusters(spec: MaskedSoundSpec, rows: SoundRows, params: Mapping[str, Any], *, seed: int) -> Clusters:
    """Clusters the steps of training clips.

    Args:
      spec: of the new run.
      rows: of the training clips.
      params: path -> array of the encoder whose hidden states are clustered; empty: log-mel frames are.
      seed: of the first centres, and of the steps that are taken where there are very many.

    Raises:
      UserError: there are fewer different steps than clusters.
    """
    count, found = spec.clusters, np.concatenate(features_of(spec, rows, params))
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
        raise UserError(f"{path}: cannot be read: {error.strerror or error}. {_BACKUP}") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"{path}: is damaged ({error}). {_BACKUP}") from None
    centres = arrays.pop(_CENTRES, np.zeros(0))
    whole = centres.ndim == 2 and len(centres) == count and np.isfinite(centres).all()
    if not whole or bool(arrays) != of_weights or not all(name.startswith(ENCODER) for name in arrays):
        raise UserError(f"{path}: is not that of this run. {_BACKUP}")
    return Clusters(centres, arrays)

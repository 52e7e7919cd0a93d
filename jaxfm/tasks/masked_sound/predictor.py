"""A trained model of hidden sound over sound files: how well it predicts each, and the clusters of its steps."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxfm.core.model_card import CardPart
from jaxfm.errors import UserError
from jaxfm.models.inputs.frames import HOP_SECONDS
from jaxfm.tasks.masked_sound.clusters import Clusters
from jaxfm.tasks.masked_sound.objective import MaskedSoundObjective
from jaxfm.tasks.masked_sound.rows import with_clusters, with_masks
from jaxfm.tasks.masked_sound.spec import MaskedSoundSpec
from jaxfm.tasks.sound_predictor import EncodedSounds, SoundPredictor
from jaxfm.tasks.sound_windows import Window, own_steps


@dataclasses.dataclass(frozen=True)
class EncodedClusters(EncodedSounds):
    """Recordings, and the clusters of the steps of each window.

    Attributes:
      clusters: int64 [K] of each window.
    """

    clusters: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class MaskedSoundPredictor(SoundPredictor):
    """Sound files in, clusters out (implements Predictor of core.task and core.reads_files.ReadsFiles)."""

    spec: MaskedSoundSpec
    clusters: Clusters

    labels = ()

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See MaskedSoundObjective.outputs."""
        return MaskedSoundObjective(self.spec).outputs(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedClusters:
        """Makes rows of {"audio": StoredClip}; one that cannot be decoded is a UserError that names it."""
        encoded, spec = super().encode(records), self.spec
        found = self.clusters.of_rows(spec, encoded.rows)
        rows = with_masks(spec, with_clusters(spec, encoded.rows, found))
        return EncodedClusters(encoded.names, encoded.windows, rows, tuple(found))

    def decode(self, encoded: EncodedClusters, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns "audio" (its name), "loss", "accuracy" and "hidden" of hidden steps, and "clusters" of all steps.

        A recording that is longer than the model reads has of each window the clusters of the steps that it answers
        for; hidden steps are counted in all windows.
        """
        row, segment = encoded.rows.example_locations.T
        loss, right, hidden = (outputs[name][row, segment] for name in ("loss", "right", "hidden"))
        results, first = [], 0
        for name, windows in zip(encoded.names, encoded.windows, strict=True):
            own = slice(first, first + len(windows))
            count = max(int(hidden[own].sum()), 1)
            clusters = [
                encoded.clusters[number][self._own(encoded, number, window, windows[-1].end)]
                for number, window in enumerate(windows, start=first)
            ]
            first += len(windows)
            results.append(
                {
                    "audio": name,
                    "loss": round(float(loss[own].sum()) / count, 4),
                    "accuracy": round(float(right[own].sum()) / count, 4),
                    "hidden": int(hidden[own].sum()),
                    "clusters": np.concatenate(clusters).tolist(),
                }
            )
        return results

    def _own(self, encoded: EncodedClusters, number: int, window: Window, end: int) -> np.ndarray:
        return own_steps(self.spec.settings, int(encoded.rows.frames[number]), window, end).steps_K

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the file's name, and how well hidden steps were predicted."""
        step = self.spec.encoder.patches.stride[1] * HOP_SECONDS
        return [
            result["audio"],
            f"  {len(result['clusters'])} steps of {1000 * step:.0f} ms; of {result['hidden']} hidden ones "
            f"{result['accuracy']:.0%} found, loss {result['loss']:.3f}",
        ]

    def hf_problem(self) -> str:
        """Returns why `write_hf` refuses."""
        return (
            "transformers has no class of an AST that predicts clusters. Train a classifier from this run "
            "(config.model.init=run:DIR) and export that."
        )

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Raises UserError as `hf_problem` says."""
        del folder, params
        raise UserError(self.hf_problem())

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        spec = self.spec
        does = f"An encoder of sound, trained to predict which of {spec.clusters} clusters hidden steps are of."
        code = 'import jaxfm\n\njaxfm.train("speech_recognition", "OUT", overrides={"model.init": "run:DIRECTORY"})'
        seconds = spec.settings.most_samples / spec.layout.rate
        reads = f"It reads {seconds:.2f} seconds at {spec.layout.rate:,} samples a second; fine-tune it before use."
        return CardPart("Masked sound", "feature-extraction", does, code, reads)

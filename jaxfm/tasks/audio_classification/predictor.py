"""A trained classifier over sound files, and the classifier in transformers' form."""

# B batch, S segments (clips in a row), C classes, W windows

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.core.model_card import CardPart
from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import probabilities
from jaxfm.hub.config_json import hf_config, missing_class
from jaxfm.hub.feature_extractors import sound_model_problem, write_feature_extractor
from jaxfm.hub.weights import write_tensors
from jaxfm.hub.whole_heads import with_whole_heads
from jaxfm.models.inputs.frames import hop_size
from jaxfm.models.inputs.patches import position_table
from jaxfm.tasks.audio_classification.spec import AudioClassifierSpec
from jaxfm.tasks.class_targets import predicted_targets
from jaxfm.tasks.segment_scorer import per_segment
from jaxfm.tasks.sound_predictor import EncodedSounds, SoundPredictor

HEAD = "sound_classes"
_CARD_LABELS = 50  # that the model card names
_SHOWN = 3  # likeliest classes that are printed
_PROBLEM_TYPES = {"single": "single_label_classification", "multi": "multi_label_classification"}
_POSITIONS = "encoder/embeddings/position/embedding"


@dataclasses.dataclass(frozen=True)
class AudioClassifierPredictor(SoundPredictor):
    """Sound files in, classes out (implements Predictor of core.task and core.reads_files.ReadsFiles).

    Attributes:
      spec: of the classifier.
      calibration: that the run fitted.
    """

    spec: AudioClassifierSpec
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.spec.labels

    def decode(self, encoded: EncodedSounds, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns "audio" (its name) with "label", "score" and all "scores", or with "labels" and "scores".

        Scores are probabilities, calibrated on the validation split of the run where it had one. Those of a recording
        that is longer than the model reads are the mean over its frames, each by the window that answers for it; what
        these windows say stands in "parts", with "start" and "end" in seconds.
        """
        spec = self.spec
        found_WC = probabilities(per_segment(encoded.rows, outputs["outputs"]), self.calibration, spec.kind)
        hop = hop_size(spec.layout.rate) / spec.layout.rate
        results, first = [], 0
        for name, windows in zip(encoded.names, encoded.windows, strict=True):
            own_WC = found_WC[first : first + len(windows)]
            first += len(windows)
            frames_W = np.asarray([window.end - window.start for window in windows], np.float64)
            whole = self._said(frames_W @ own_WC / frames_W.sum())
            parts = [
                {"start": round(window.start * hop, 3), "end": round(window.end * hop, 3), **self._said(one_C)}
                for window, one_C in zip(windows, own_WC, strict=True)
            ]
            results.append({"audio": name, **whole, **({"parts": parts} if len(windows) > 1 else {})})
        return results

    def _said(self, shares_C: np.ndarray) -> dict[str, Any]:
        spec = self.spec
        (said,) = predicted_targets(spec.kind, spec.labels, spec.threshold, shares_C[None])
        scores = {label: round(float(share), 4) for label, share in zip(spec.labels, shares_C, strict=True)}
        found = {"label": said, "score": scores[said]} if spec.kind == "single" else {"labels": list(said)}
        return {**found, "scores": scores}

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the file's name, the likeliest classes, or the labels that hold, then the parts of a long one."""
        ranked = sorted(result["scores"].items(), key=lambda entry: -entry[1])
        if "label" in result:
            shown = ranked[:_SHOWN]
        else:
            shown = [(label, score) for label, score in ranked if label in result["labels"]]
        parts = [
            f"  {part['start']:8.2f} to {part['end']:8.2f} s  "
            + (part["label"] if "label" in part else ", ".join(part["labels"]) or "(no label)")
            for part in result.get("parts", ())
        ]
        return [result["audio"], *([f"  {score:.3f}  {label}" for label, score in shown] or ["  (no label)"]), *parts]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        spec = self.spec
        if problem := missing_class(spec.encoder, HEAD) or sound_model_problem(spec.layout, spec.encoder.patches):
            return problem
        if spec.pooling != "tokens":
            return (
                "--format=hf: transformers' class judges by its learned tokens, but this run was "
                f"trained with config.task.pooling={spec.pooling}."
            )
        return ""

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what transformers' audio-classification pipeline opens; UserError as `hf_problem` says."""
        if problem := self.hf_problem():
            raise UserError(problem)
        spec, layout = self.spec, self.spec.layout
        table = position_table(spec.encoder, params.get(_POSITIONS), spec.encoder.patches.grid)
        encoder, params = with_whole_heads(spec.encoder, {**params, _POSITIONS: table})
        config = hf_config(encoder, head=HEAD, pad_token_id=None, labels=self.labels)
        more = {"max_length": layout.frames, "problem_type": _PROBLEM_TYPES[spec.kind]}
        files.write_json(folder / "config.json", {**config, **more})
        write_tensors(folder / "model.safetensors", encoder, HEAD, params)
        write_feature_extractor(folder, layout, encoder.patches.mels)

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        names = ", ".join(f"`{name}`" for name in self.labels[:_CARD_LABELS])
        more = f" and {len(self.labels) - _CARD_LABELS:,} more" if len(self.labels) > _CARD_LABELS else ""
        single = self.spec.kind == "single"
        does = f"Puts clips of sound into one of the classes {names}{more}."
        if not single:
            does = f"Says which of these labels clips of sound have: {names}{more}."
        code = (
            "from transformers import pipeline\n\n"
            'classify = pipeline("audio-classification", model="DIRECTORY"'
            + ("" if single else ', function_to_apply="sigmoid"')
            + ')\nclassify("sound.wav")'
        )
        seconds = self.spec.settings.most_samples / self.spec.layout.rate
        reads = f"It reads {seconds:.2f} seconds at {self.spec.layout.rate:,} samples a second."
        scores = "Scores of transformers are the model's own probabilities; those of jaxfm are calibrated."
        return CardPart("Audio classification", "audio-classification", does, code, f"{scores} {reads}")

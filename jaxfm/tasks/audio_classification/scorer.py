"""Scores of a split of labelled clips; see jaxfm.evaluation.classes for what is counted."""

# C classes, E clips

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm.data.audio.examples import SoundExample
from jaxfm.data.audio.rows import SoundRows
from jaxfm.observe.examples import SHOWN, View, WrongExample
from jaxfm.tasks.audio_classification.spec import NAME, AudioClassifierSpec
from jaxfm.tasks.segment_scorer import SegmentClassScorer, wrong_facts


@dataclasses.dataclass(frozen=True)
class AudioClassifierScorer(SegmentClassScorer):
    """A split's clips and their rows (implements jaxfm.core.task.Scorer)."""

    spec: AudioClassifierSpec
    examples: tuple[SoundExample, ...]
    rows: SoundRows

    task = NAME
    medium = "audio"

    def name_of(self, example: SoundExample) -> str:
        """See `SegmentClassScorer`."""
        return example.clip.origin

    def worst(self, found_EC: np.ndarray, loss_E: np.ndarray) -> tuple[tuple[WrongExample, ...], Mapping[str, Any]]:
        """See `SegmentClassScorer`; there are no plots."""
        shown: list[WrongExample] = []
        for index in np.argsort(-loss_E, kind="stable").tolist():
            facts = wrong_facts(self.spec, self.examples[index], found_EC[index])
            if facts and len(shown) < SHOWN:
                example = self.examples[index]
                told = (*facts, ("loss", float(loss_E[index])))
                shown.append(WrongExample(example.origin, (View("recording", example.clip.origin),), told))
        return tuple(shown), {}

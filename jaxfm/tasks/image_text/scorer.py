"""Scores of images and texts by their vectors: retrieval both ways, and classes that training never named."""

# E pairs, C classes, V vectors, R rounds

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation, Units
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.images.examples import ImageExample
from jaxfm.observe.examples import SHOWN, View, WrongExample
from jaxfm.observe.tables import Table
from jaxfm.tasks.image_text.rows import PairRows
from jaxfm.tasks.image_text.spec import NUMBERS, ImageTextSpec, probabilities

_CUTOFFS = (1, 5, 10)
_AT_ONCE = 1024  # images whose similarities to all texts are in memory
WAYS = ("text_of_image", "image_of_text")
ZERO_SHOT = "zero_shot_accuracy"


def directions(spec: ImageTextSpec) -> Mapping[str, bool]:
    """Returns the metrics that may choose a checkpoint -> is more better?"""
    names = ["recall@1", *(f"{way}_recall@{cutoff}" for way in WAYS for cutoff in _CUTOFFS)]
    return dict.fromkeys((*names, *((ZERO_SHOT,) if spec.labels else ())), True)


@dataclasses.dataclass(frozen=True)
class ImageTextScorer:
    """A split of pairs (implements jaxfm.core.task.Scorer)."""

    spec: ImageTextSpec
    examples: tuple[ImageExample, ...]
    rows: PairRows

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Share of the images whose text is among the k most similar ones, and the reverse; zero-shot accuracy."""
        return self._bootstrap_data(outputs).metrics(np.arange(len(self.examples)))

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Warns of vectors that are all the same."""
        for name in ("images", "texts"):
            vectors = outputs[name][: len(self.examples)]
            if len(vectors) > 1 and float(vectors.std(axis=0).max()) < 1e-6:
                return (f"all {name} have the same vector: the model has collapsed (a lower learning rate?)",)
        return ()

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Nothing to fit."""
        del outputs
        return {}

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns scores beside chance, and what was found for each image."""
        del calibration
        data = self._bootstrap_data(outputs)
        metrics = data.metrics(np.arange(data.count))
        count = len(self.examples)
        table = Table(
            f"Retrieval among {count:,} pairs",
            ("way", *(f"recall@{cutoff}" for cutoff in _CUTOFFS)),
            [
                *((way.replace("_", " "), *(metrics[f"{way}_recall@{cutoff}"] for cutoff in _CUTOFFS)) for way in WAYS),
                ("chance", *(min(cutoff / max(count, 1), 1.0) for cutoff in _CUTOFFS)),
            ],
        )
        zero_shot = ()
        if self.spec.labels:
            chance = 1 / len(self.spec.labels)
            zero_shot = (
                Table(
                    f"Zero-shot classes, {self.spec.label_prompt!r}",
                    ("classes", "accuracy", "chance"),
                    [(len(self.spec.labels), metrics[ZERO_SHOT], chance)],
                ),
            )
        best, ranks = self._best(outputs), data.units["rank text_of_image"]
        return Evaluation(
            metrics=metrics,
            scores=metrics,
            tables=(table, *zero_shot),
            predictions=self._records(best, ranks),
            bootstrap_data=data,
            wrong=tuple(
                WrongExample(
                    self.examples[index].origin,
                    (View("text", self.examples[index].text), View("taken for", self.examples[int(best[index])].text)),
                    (("image", self.examples[index].image.origin), ("rank of the text", float(ranks[index]))),
                )
                for index in np.argsort(-ranks, kind="stable")[:SHOWN].tolist()
                if ranks[index] > 1
            ),
        )

    def _vectors(self, outputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the vectors of images [E, V], of texts [E, V] and of classes [C, V]."""
        count = len(self.examples)
        return outputs["images"][:count], outputs["texts"][:count], outputs["texts"][count:]

    def _best(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the pair [E] whose text is most similar to each image."""
        images_EV, texts_EV, _ = self._vectors(outputs)
        parts = [
            (images_EV[first : first + _AT_ONCE] @ texts_EV.T).argmax(axis=1)
            for first in range(0, len(images_EV), _AT_ONCE)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _bootstrap_data(self, outputs: Mapping[str, np.ndarray]) -> BootstrapData:
        """Returns the metrics as a function of pairs, each found among all pairs of the split."""
        images_EV, texts_EV, classes_CV = self._vectors(outputs)
        images_E, texts_E = self.rows.texts[NUMBERS][: len(self.examples)].T
        units = {
            "rank text_of_image": ranks(images_EV, texts_EV, texts_E),
            "rank image_of_text": ranks(texts_EV, images_EV, images_E),
        }
        if self.spec.labels:
            scale = float(outputs["scale"][0]) if len(outputs["scale"]) else 1.0
            found = probabilities(images_EV @ classes_CV.T, scale).argmax(axis=-1)
            gold = [self.spec.labels.index(example.labels[0]) for example in self.examples]
            units["zero_shot"] = (found == np.asarray(gold)).astype(np.float64)
        identity = [(example.origin, example.text) for example in self.examples]
        return BootstrapData("pairs", units, _shares, identity)

    def _records(self, best_E: np.ndarray, ranks_E: np.ndarray) -> Iterator[dict[str, Any]]:
        """Yields one record a pair: the image, its text, the text that was most similar, and its own text's rank."""
        for example, best, rank in zip(self.examples, best_E.tolist(), ranks_E.tolist(), strict=True):
            yield {
                "origin": example.origin,
                "image": example.image.origin,
                "text": example.text,
                "predicted": self.examples[best].text,
                "correct": rank == 1,
                "rank": int(rank),
            }


def ranks(queries_EV: np.ndarray, others_EV: np.ndarray, numbers_E: np.ndarray) -> np.ndarray:
    """Returns the rank, from 1, of each query's own among the others, float64 [E].

    Others with the number of the own one are right as well and not counted; ones as similar as it are before it, so
    that a model that tells nothing apart finds nothing.
    """
    found = np.zeros(len(queries_EV))
    for first in range(0, len(queries_EV), _AT_ONCE):
        index = np.arange(first, min(first + _AT_ONCE, len(queries_EV)))
        similarities = queries_EV[index] @ others_EV.T
        own = similarities[np.arange(len(index)), index][:, None]
        wrong = numbers_E[None, :] != numbers_E[index][:, None]
        found[index] = 1 + ((similarities >= own) & wrong).sum(axis=1)
    return found


def _shares(units: Units, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
    total_R = np.maximum(weight_RN.sum(axis=1), 1e-12)
    found = {
        f"{way}_recall@{cutoff}": weight_RN @ (units[f"rank {way}"] <= cutoff) / total_R
        for way in WAYS
        for cutoff in _CUTOFFS
    }
    metrics = {"recall@1": sum(found[f"{way}_recall@1"] for way in WAYS) / len(WAYS), **found}
    if "zero_shot" in units:
        metrics[ZERO_SHOT] = weight_RN @ units["zero_shot"] / total_R
    return metrics

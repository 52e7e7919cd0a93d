"""Scores of a tagged split: entities as conlleval and seqeval define them, tokens as in scikit-learn's report."""

# N rows, T tokens, C classes, S sentences, W words

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation, own_metrics_table
from jaxfm.core.extensions import own_metrics
from jaxfm.core.task import NOT_CALIBRATED
from jaxfm.data.records.sources import TaggedSentence
from jaxfm.data.text.resplit import count_cut, found_entities, gold_entities
from jaxfm.evaluation import calibration as calibration_lib
from jaxfm.evaluation import ensembles, entities
from jaxfm.observe import plots
from jaxfm.tasks.ner.decoding import class_probabilities, read_words, tags_of
from jaxfm.tasks.ner.errors import worst_sentences
from jaxfm.tasks.ner.spec import NAME, NerSpec
from jaxfm.tasks.windowed_rows import WindowedRows

DIRECTIONS = {"f1": True, "precision": True, "recall": True, "macro_f1": True, "accuracy": True, "loss": False}


@dataclasses.dataclass(frozen=True)
class _Tags:
    """What a model says of a split, and what is counted of it.

    Attributes:
      predicted: tags of each sentence.
      classes: [W] the same as classes, of all words.
      counts: [S, 3 K] entities right, found and in the data, by type (`entities.count_spans`).
      spans: the same summed.
      tokens: scores of the words.
      logits: [W, C] of all words, of which a softmax is probabilities.
      losses: [W] what is minimised of each word.
    """

    predicted: list[list[str]]
    classes: np.ndarray
    counts: np.ndarray
    spans: entities.EntityScores
    tokens: entities.TokenScores
    logits: np.ndarray
    losses: np.ndarray

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers that may choose a checkpoint."""
        return {
            "f1": self.spans.f1,
            "precision": self.spans.precision,
            "recall": self.spans.recall,
            "macro_f1": self.spans.macro["f1"],
            "accuracy": self.tokens.accuracy,
            "loss": float(self.losses.sum(dtype=np.float64) / max(len(self.losses), 1)),
        }


@dataclasses.dataclass(frozen=True)
class NerScorer:
    """A split's sentences and their rows.

    Implements Scorer and ComparesModels of jaxfm.core.task, CountsErrors and ReadsTokens of jaxfm.core.exits.

    Attributes:
      spec: of the tagger.
      sentences: with their tags.
      encoded: their packed rows.
    """

    spec: NerSpec
    sentences: tuple[TaggedSentence, ...]
    encoded: WindowedRows

    @property
    def labels(self) -> tuple[str, ...]:
        """Tag of each class."""
        return self.spec.labels

    def metrics(self, outputs: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Entity scores, accuracy over words and the mean cross-entropy of a word."""
        tags = self._tags(outputs)
        return tags.metrics | self._own_metrics(tags)

    def warnings(self, outputs: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        """Returns none."""
        del outputs
        return ()

    def calibrate(self, outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Fits a temperature to the words, where that helps on sentences held out."""
        logits = np.concatenate(read_words(self.spec, self.encoded, outputs).logits)
        counts = self.encoded.word_counts
        sentence = np.repeat(np.arange(len(counts)), counts)
        return calibration_lib.fit_calibration(logits, self._gold(), groups=sentence)

    def report(
        self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float] = NOT_CALIBRATED
    ) -> Evaluation:
        """Returns scores, tables, plots and predictions; the loss is that of logits as they are."""
        sentences, tags = self.sentences, self._tags(outputs)
        metrics, own = tags.metrics, self._own_metrics(tags)
        assessed = calibration_lib.assess(tags.logits, self._gold(), calibration)
        ends = np.cumsum(self.encoded.word_counts)[:-1]
        probabilities = class_probabilities(tags.logits, tags.classes, calibration)
        per_type = tags.spans.per_type
        return Evaluation(
            metrics=metrics | own,
            scores=tags.spans.to_dict()
            | own
            | {"loss": metrics["loss"], "tokens": tags.tokens.to_dict(), "calibration": assessed.detail}
            | ({"entities_cut_by_words": count_cut(sentences)} if any(each.marked for each in sentences) else {}),
            tables=(
                entities.entity_table(tags.spans),
                entities.token_table(tags.tokens),
                assessed.table,
                *own_metrics_table(own),
            ),
            predictions=_records(sentences, tags.predicted, np.split(probabilities, ends)),
            warnings=_nothing_found(tags),
            bootstrap_data=self._bootstrap_data(tags, ends),
            plots=dict(assessed.plots)
            | ({"per_type": lambda path: plots.plot_per_type(per_type, path)} if per_type else {}),
            wrong=worst_sentences(sentences, tags.predicted, tags.losses),
        )

    def disagreement(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
        """See core.task.ComparesModels; words are compared, each by itself."""
        of_models = [np.concatenate(read_words(self.spec, self.encoded, each).logits) for each in outputs]
        return ensembles.disagreement(of_models, "single")

    def error_shares(self, outputs: Mapping[str, np.ndarray], calibration: Mapping[str, float]) -> np.ndarray:
        """See core.exits.CountsErrors: the share of the words of each sentence whose tag is wrong."""
        del calibration
        classes = read_words(self.spec, self.encoded, outputs).decode(self.spec.decoding)
        ends = np.cumsum(self.encoded.word_counts)[:-1]
        pairs = zip(classes, np.split(self._gold(), ends), strict=True)
        return np.asarray([(found_W != gold_W).mean() if len(gold_W) else 0.0 for found_W, gold_W in pairs])

    @property
    def read_tokens(self) -> np.ndarray:
        """See core.exits.ReadsTokens."""
        return self.encoded.read_tokens

    def _own_metrics(self, tags: _Tags) -> dict[str, float]:
        """Returns the registered metrics."""
        return own_metrics(NAME, [list(sentence.tags) for sentence in self.sentences], tags.predicted)

    def _tags(self, outputs: Mapping[str, np.ndarray]) -> _Tags:
        words = read_words(self.spec, self.encoded, outputs)
        classes = words.decode(self.spec.decoding)
        predicted = tags_of(self.labels, classes)
        kinds = sorted({label[2:] for label in self.labels if label != "O"})
        found = [found_entities(sentence, tags) for sentence, tags in zip(self.sentences, predicted, strict=True)]
        counts = entities.count_spans([gold_entities(sentence) for sentence in self.sentences], found, kinds)
        return _Tags(
            predicted=predicted,
            classes=np.concatenate(classes),
            counts=counts,
            spans=entities.sum_entities(kinds, counts),
            tokens=entities.score_tokens([list(sentence.tags) for sentence in self.sentences], predicted),
            logits=np.concatenate(words.logits),
            losses=words.losses(self._gold()),
        )

    def _bootstrap_data(self, tags: _Tags, ends: np.ndarray) -> BootstrapData:
        gold = [list(sentence.tags) for sentence in self.sentences]
        right = [sum(map(str.__eq__, *pair)) for pair in zip(gold, tags.predicted, strict=True)]
        right_SC, found_SC, gold_SC = np.split(tags.counts, 3, axis=-1)
        return BootstrapData(
            sampling_unit="sentences",
            units={
                "entities": tags.counts,
                "words": np.asarray(self.encoded.word_counts, np.float64),
                "right": np.asarray(right, np.float64),
                "loss": np.asarray([words.sum() for words in np.split(tags.losses, ends)]),
            },
            computed=entities.tagging_metrics,
            identity=[
                sentence.marked[:2] if sentence.marked else (sentence.words, sentence.tags)
                for sentence in self.sentences
            ],
            classes=tuple(sorted(self.labels)),
            less_is_better=("loss",),
            prior=entities.tagging_prior(tags.counts.shape[1] // 3),
            right=((right_SC == found_SC) & (right_SC == gold_SC)).all(axis=-1),
        )

    def _gold(self) -> np.ndarray:
        """Returns the class of each word [W], all sentences one after the other."""
        index = {label: number for number, label in enumerate(self.labels)}
        return np.asarray([index[tag] for sentence in self.sentences for tag in sentence.tags], np.int64)


def _nothing_found(tags: _Tags) -> tuple[str, ...]:
    """Says so where the model is no better than the tag O for every word."""
    _, found, gold = (int(count) for count in tags.counts.sum(axis=0).reshape(3, -1).sum(axis=-1))
    if tags.spans.f1 > 0 or not gold:
        return ()
    return (
        f"the model finds {'nothing' if not found else 'no entity as it is marked'}: F1 {tags.spans.f1:.4f}, as if it "
        f"always answered O ({gold:,} entities in the data, {found:,} found). Train longer (--config.train.min_steps, "
        "--config.train.epochs), or look at the data: python -m jaxfm.check.",
    )


def _records(
    sentences: Sequence[TaggedSentence], predicted: Sequence[Sequence[str]], probabilities: Sequence[np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Yields one record a sentence: words, both tag rows, entities found, missed and invented.

    These start and end at words, end exclusive, or where the source gives a text and characters, at characters.
    """
    for sentence, tags, scores in zip(sentences, predicted, probabilities, strict=True):
        gold, found = set(gold_entities(sentence)), set(found_entities(sentence, tags))

        def described(spans: set[Any], sentence: TaggedSentence = sentence) -> list[dict[str, Any]]:
            marked, words = sentence.marked, sentence.words
            return [
                {"type": k, "start": a, "end": b, "text": marked.text[a:b] if marked else " ".join(words[a:b])}
                for a, b, k in sorted(spans)
            ]

        yield {
            "origin": sentence.origin,
            "correct": gold == found,
            **({"text": sentence.marked.text} if sentence.marked else {}),
            "words": list(sentence.words),
            "gold": list(sentence.tags),
            "predicted": list(tags),
            "probabilities": [round(float(score), 4) for score in scores],
            "right": described(gold & found),
            "missed": described(gold - found),
            "invented": described(found - gold),
        }

"""What a tagger says of the words of sentences: one tag a word, and how sure it is.

Training, evaluation and prediction all decode here, so they agree.
"""

# N rows, W words, C classes

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

from jaxfm.data.text.tagging import allowed_tags
from jaxfm.evaluation import calibration as calibration_lib
from jaxfm.models.attention import MASKED
from jaxfm.tasks.ner.chains import ChainScores, chain_losses, constrained, log_marginals, viterbi
from jaxfm.tasks.ner.spec import VITERBI, NerSpec
from jaxfm.tasks.windowed_rows import WindowedRows

# In place of the logarithm of 0: at any temperature of a calibration (at most 100) it still is a probability of 0.
_IMPOSSIBLE = -1e5


@dataclasses.dataclass(frozen=True, eq=False)
class WordScores:
    """What a model says of the words of sentences, each sentence whole, however many windows it was cut into.

    Attributes:
      labels: tag of each class.
      scores: [W, C] of each sentence: logits of the words.
      chain: what a CRF adds to them; None: each word is scored by itself.
    """

    labels: tuple[str, ...]
    scores: list[np.ndarray]
    chain: ChainScores | None = None

    @functools.cached_property
    def logits(self) -> list[np.ndarray]:
        """[W, C] of each sentence: a softmax of them is the probability of each tag of the word.

        Of a CRF they are the logarithms of the tags' probabilities given the whole sentence.
        """
        if self.chain is None:
            return self.scores
        return [np.maximum(each, _IMPOSSIBLE) for each in log_marginals(self.scores, self.chain)]

    def decode(self, decoding: str) -> list[np.ndarray]:
        """Returns the class [W] of the words of each sentence; a CRF has one way, Viterbi's."""
        if self.chain is not None:
            return viterbi(self.scores, self.chain)
        if decoding == VITERBI:
            return constrained(self.scores, allowed_tags(self.labels))
        return [logits_WC.argmax(axis=-1) for logits_WC in self.scores]

    def losses(self, gold_W: np.ndarray) -> np.ndarray:
        """Returns what is minimised, nats [W] of all words; of a CRF only the sum over a sentence means something."""
        if self.chain is None:
            return calibration_lib.losses(np.concatenate(self.scores), gold_W, {})
        ends = np.cumsum([len(each) for each in self.scores])[:-1]
        return np.concatenate(chain_losses(self.scores, np.split(gold_W, ends), self.chain))


def read_words(spec: NerSpec, encoded: WindowedRows, outputs: Mapping[str, np.ndarray]) -> WordScores:
    """Returns the words' scores of the outputs of all rows; see `NerSpec.outputs`."""
    scores = encoded.per_word(outputs["logits"])
    if "transitions" not in outputs or not len(outputs["transitions"]):
        return WordScores(spec.labels, scores)
    transitions = np.asarray(outputs["transitions"][0], np.float64)
    start_C, end_C, *pairs_CC = np.where(transitions <= MASKED, -np.inf, transitions)
    return WordScores(spec.labels, scores, ChainScores(start_C, end_C, np.stack(pairs_CC)))


def class_probabilities(logits_WC: np.ndarray, classes_W: np.ndarray, calibration: Mapping[str, float]) -> np.ndarray:
    """Returns the calibrated probability [W] of each word's class, whether or not it is the word's likeliest."""
    probabilities_WC = calibration_lib.probabilities(logits_WC, calibration)
    return np.take_along_axis(probabilities_WC, classes_W[:, None], axis=-1)[:, 0]


def tags_of(labels: tuple[str, ...], classes: Sequence[np.ndarray]) -> list[list[str]]:
    """Returns the tags of the words of each sentence."""
    return [[labels[index] for index in classes_W] for classes_W in classes]

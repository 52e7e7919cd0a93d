"""Packed rows through a program that reads one text a row, and its outputs back where the packed rows have them."""

# B batch, T tokens, S segments, N texts

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.formats.inference import IDS, MASK, TYPES, logits_of
from jaxfm.models.attention import MASKED
from jaxfm.models.electra import ReplacedTokenModel
from jaxfm.models.embedder import Embedder
from jaxfm.models.heads import MaskedLM, SequenceClassifier
from jaxfm.models.prompted import PromptedClassifier

# Inputs by name, int64 [N, T] -> outputs by name, [N, ...].
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
# Padding included; enough for full products, few enough for the scores of a large vocabulary.
_TOKENS_AT_ONCE = 4096


class StandIn:
    """Takes a model's place in a task's `outputs`, and has a program compute its logits.

    A task so scores a program as it scores a model, with the same targets, masks and metrics.
    """

    def __init__(self, model: Any, run: Run, vocabulary: int):
        """`model` computes what the program does not: a generator. `vocabulary`: rows of the padded word embedding."""
        self._model, self._run, self._vocabulary = model, run, vocabulary

    def __call__(self, batch: Mapping[str, jax.Array], *, key: None = None) -> np.ndarray:
        """Returns the logits of a classifier, [B, T, C] of tokens, [B, S, C] of texts, or vectors [B, S, E]."""
        if isinstance(self._model, PromptedClassifier):
            return np.asarray(self._model.of_vocabulary(jnp.asarray(of_tokens(self._run, batch)), batch))
        if isinstance(self._model, SequenceClassifier | Embedder):
            return of_texts(self._run, batch, self._model.segments)
        return of_tokens(self._run, batch)

    def hidden(self, batch: Mapping[str, jax.Array], key: None = None) -> Any:
        """Returns what `logits` takes: of a masked LM the logits themselves, which the program computes."""
        if not isinstance(self._model, MaskedLM):
            return self._model.hidden(batch)
        logits_BTV = of_tokens(self._run, batch)
        more = self._vocabulary - logits_BTV.shape[-1]
        return np.pad(logits_BTV, [(0, 0), (0, 0), (0, more)], constant_values=MASKED)

    def logits(self, hidden: Any) -> Any:
        """Returns the logits at some tokens of `hidden`."""
        return hidden if isinstance(self._model, MaskedLM) else self._model.logits(hidden)

    def replaced(self, batch: Mapping[str, jax.Array], key: None = None) -> np.ndarray:
        """Returns the logits [B, T] of each token being a replacement."""
        assert isinstance(self._model, ReplacedTokenModel)
        return of_tokens(self._run, batch)


def of_tokens(run: Run, batch: Mapping[str, Any]) -> np.ndarray:
    """Returns logits [B, T, ...]; 0 at padding."""
    result: np.ndarray | None = None
    for places, found in _computed(run, batch):
        for (row, _, tokens), logits in zip(places, found, strict=True):
            if result is None:
                result = np.zeros((*np.shape(batch["tokens"]), *logits.shape[1:]), np.float32)
            result[row, tokens] = logits[: len(tokens)]
    assert result is not None, "no text"
    return result


def of_texts(run: Run, batch: Mapping[str, Any], segments: int) -> np.ndarray:
    """Returns logits [B, S, C]; 0 where a row has no such segment."""
    result: np.ndarray | None = None
    for places, found in _computed(run, batch):
        for (row, segment, _), logits in zip(places, found, strict=True):
            if result is None:
                result = np.zeros((len(batch["tokens"]), segments, *logits.shape), np.float32)
            result[row, segment - 1] = logits
    assert result is not None, "no text"
    return result


_Place = tuple[int, int, np.ndarray]


def _computed(run: Run, batch: Mapping[str, Any]) -> list[tuple[list[_Place], np.ndarray]]:
    """Runs the texts of a batch in groups of like length; returns row, segment and tokens of each, and the logits."""
    arrays = {name: np.asarray(batch[name]) for name in ("tokens", "segment_ids", "type_ids") if name in batch}
    segments_BT = arrays["segment_ids"]
    places: list[_Place] = [
        (row, segment, np.flatnonzero(segments_BT[row] == segment))
        for row in range(len(segments_BT))
        for segment in range(1, segments_BT[row].max() + 1)
    ]
    places.sort(key=lambda place: len(place[2]))
    results = []
    while places:
        longest = len(places[-1][2])
        group = places[-max(1, _TOKENS_AT_ONCE // longest) :]
        del places[-len(group) :]
        inputs = {name: np.zeros((len(group), longest), np.int64) for name in (IDS, MASK, TYPES)}
        for number, (row, _, tokens) in enumerate(group):
            inputs[IDS][number, : len(tokens)] = arrays["tokens"][row, tokens]
            inputs[MASK][number, : len(tokens)] = 1
            if "type_ids" in arrays:
                inputs[TYPES][number, : len(tokens)] = arrays["type_ids"][row, tokens]
        results.append((group, logits_of(run(inputs))))
    return results

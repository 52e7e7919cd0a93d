"""What the similarity of two texts is due to: both in one row, so that it is a number of that row."""

# N pairs, S segments (texts in a row), E embedding

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.explained import Explained, Target
from jaxfm.data.text.packing import PackedRows
from jaxfm.tasks.embedding.spec import EmbeddingSpec
from jaxfm.tasks.explaining import baseline_token, token_places
from jaxfm.tasks.text_groups.encoding import DOCUMENT, QUERY

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FIELDS = {"text": QUERY, "pair": DOCUMENT}
"""Field of a record -> what the text is to the model."""


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedPairs:
    """Pairs of texts, a row each, whose segments are the first text and the second.

    Attributes:
      texts: of each pair.
      rows: what is computed.
      encodings: of the tokenizers library, of both texts of each pair.
    """

    texts: tuple[dict[str, str], ...]
    rows: PackedRows
    encodings: tuple[tuple[Any, Any], ...]


def encode_pairs(
    spec: EmbeddingSpec, tokenizer: "PreTrainedTokenizerFast", records: Sequence[Mapping[str, Any]]
) -> EncodedPairs:
    """Puts both texts of each record into a row."""
    texts = tuple({field: str(record[field]) for field in FIELDS} for record in records)
    sides = []
    for field, role in FIELDS.items():
        reading = spec.reading(role)
        batch = tokenizer(
            [reading.prompt + each[field] for each in texts], truncation=True, max_length=reading.length, verbose=False
        )
        sides.append(batch.encodings or ())
    encodings = tuple(zip(*sides, strict=True))
    longest = max((len(first.ids) + len(second.ids) for first, second in encodings), default=1)
    shape = (len(texts), max(8, 1 << (longest - 1).bit_length()))  # few programs
    pad_id = tokenizer.pad_token_id
    assert isinstance(pad_id, int), "see check_tokenizer"
    tokens, segments, positions = np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    locations = []
    for row, both in enumerate(encodings):
        start = 0
        for segment, encoding in enumerate(both):
            where = (row, slice(start, start + len(encoding.ids)))
            tokens[where], segments[where], positions[where] = encoding.ids, segment + 1, np.arange(len(encoding.ids))
            locations.append((row, segment, start))
            start += len(encoding.ids)
    labels = np.full((len(texts), spec.segments), -1, np.int32)
    places = np.asarray(locations, np.int32).reshape(-1, 3)
    rows = PackedRows(tokens, segments, positions, None, labels, False, places, pad_id)
    return EncodedPairs(texts, rows, encodings)


def similarities(vectors_NSE: jax.Array) -> jax.Array:
    """Returns the product of the first and the second vector of each row, f32 [N, 1]."""
    return jnp.sum(vectors_NSE[:, 0] * vectors_NSE[:, 1], axis=-1, keepdims=True)


def explained_similarities(
    spec: EmbeddingSpec, tokenizer: "PreTrainedTokenizerFast", encoded: EncodedPairs, vectors_NSE: np.ndarray
) -> list[Explained]:
    """Returns the similarity of each pair as a target; the prompts are none of their words."""
    baseline, explained = baseline_token(tokenizer), []
    scores_N = np.asarray(similarities(jnp.asarray(vectors_NSE)))[:, 0] if len(encoded.texts) else np.zeros(0)
    for row, (texts, score, both) in enumerate(zip(encoded.texts, scores_N.tolist(), encoded.encodings, strict=True)):
        tokens, start = [], 0
        for (field, role), encoding in zip(FIELDS.items(), both, strict=True):
            prompt = len(spec.reading(role).prompt)
            for token in token_places(encoding, (field,), row, start):
                if token.end > prompt:
                    tokens.append(token._replace(start=max(token.start - prompt, 0), end=token.end - prompt))
            start += len(encoding.ids)
        read = np.arange(start)
        target = Target(
            {"similarity": spec.similarity},
            np.asarray([[row, 0]]),
            np.ones(1),
            np.stack([np.full(start, row), read], axis=-1),
        )
        targets = (target,) if all(text.strip() for text in texts.values()) else ()
        result = {**texts, "score": round(score, 4)}
        explained.append(Explained(result, texts, targets, tuple(tokens), baseline, judged=False))
    return explained

"""A model of a vector a token beside its weights, and its config keys."""

# B batch, T tokens, P numbers of a vector, N texts

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.config import AUTO
from jaxfm.core.batch import BatchSpec
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.token_embedder import TokenEmbedder
from jaxfm.schema import field
from jaxfm.tasks.text_groups.config import AUTO_PROMPT, SimilarityLossConfig, TextGroupsConfig
from jaxfm.tasks.text_groups.encoding import EXPANSIONS, QUERY, EncodedTexts, TextReading, batch_fields

NAME = "late_interaction"
_AUTO = {"auto": AUTO}
SIMILARITY = "maxsim"


@dataclasses.dataclass(frozen=True)
class LateInteractionLossConfig(SimilarityLossConfig):
    """What is minimised. MaxSim is a sum over a query's tokens, so it needs no temperature to tell texts apart."""

    temperature: float = field(
        1.0,
        "similarities are divided by it (not by triplet and cosine)",
        above=0.0,
        adjustable="unless learned_temperature",
    )


@dataclasses.dataclass(frozen=True)
class LateInteractionConfig(TextGroupsConfig):
    """Texts to a vector a token, compared by MaxSim."""

    name: str = field(NAME, "the task", choices=(NAME,))
    dimension: int = field(
        AUTO,
        "numbers of a token's vector; auto: as the first weights have, else 128",
        words=_AUTO,
        at_least=1,
        open=AUTO,
    )
    query_prompt: str = field(
        AUTO_PROMPT,
        "put before each anchor (query); auto: as the first weights were trained (PyLate's files or those of "
        "sentence-transformers 6), else '[Q] '; empty: nothing",
        open=AUTO_PROMPT,
    )
    document_prompt: str = field(
        AUTO_PROMPT, "put before each other text (document); auto: likewise, else '[D] '", open=AUTO_PROMPT
    )
    query_length: int = field(
        AUTO,
        "tokens of a query that are read, the prompt and special ones included; auto: as the first weights were "
        "trained, else 32",
        words=_AUTO,
        at_least=2,
        open=AUTO,
    )
    document_length: int = field(
        AUTO, "the same of a document; auto: likewise, else 180", words=_AUTO, at_least=2, open=AUTO
    )
    query_expansion: str = field(
        "auto",
        "mask tokens that fill a query up to query_length and are compared like its own tokens: attended (its own "
        "tokens see them), unattended (they do not: ColBERT as published, PyLate's default), none; auto: as the first "
        "weights were trained, else none",
        choices=("auto", *EXPANSIONS),
        open="auto",
    )
    skipped_tokens: str = field(
        "auto",
        "tokens of documents that are not compared, with spaces between them; punctuation: those of ASCII; none; auto: "
        "as the first weights were trained, else none",
        open="auto",
    )
    loss: LateInteractionLossConfig = dataclasses.field(default_factory=LateInteractionLossConfig)


@dataclasses.dataclass(frozen=True)
class LateInteractionSpec:
    """All that a trained model of a vector a token is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      kind: "pairs", "scored" or "teacher".
      encoder: shape of the encoder.
      dimension: numbers of a vector, P.
      query_prompt: put before a query.
      document_prompt: put before a document.
      query_length: tokens of a query that are read.
      document_length: tokens of a document that are read.
      row_length: tokens a packed row.
      texts: most texts of a group, K.
      groups: most groups of a training row, G.
      positives: most texts that are known to fit an anchor, beside its own positive; 0: none is known.
      learned_scale: what the trained scale of similarities started from; 0: it is fixed.
      query_expansion: what fills a query up to its length: "none", or "attended" or "unattended" mask tokens.
      skipped: tokens of documents that are not compared.
    """

    kind: str
    encoder: EncoderConfig
    dimension: int
    query_prompt: str
    document_prompt: str
    query_length: int
    document_length: int
    row_length: int
    texts: int
    groups: int
    positives: int
    learned_scale: float = 0.0
    query_expansion: str = "none"
    skipped: tuple[int, ...] = ()

    @property
    def segments(self) -> int:
        """Most texts of a row, S."""
        return self.groups * self.texts

    def reading(self, role: str) -> TextReading:
        """Returns how a text of a role is read."""
        if role == QUERY:
            return TextReading(self.query_prompt, self.query_length, self.query_expansion)
        return TextReading(self.document_prompt, self.document_length)

    def compared(self, tokens_BT: jax.Array) -> jax.Array:
        """Returns which tokens are compared where they are of a document, bool [B, T]."""
        return ~jnp.isin(tokens_BT, jnp.asarray(self.skipped, jnp.int32))

    def batch_spec(self) -> BatchSpec:
        """Packed groups of texts."""
        return batch_fields(self)

    def make_model(self, build: Build, rngs: nnx.Rngs) -> TokenEmbedder:
        """Builds the encoder and the linear map after it."""
        return TokenEmbedder(
            self.encoder, build, rngs, dimension=self.dimension, learned_scale=self.learned_scale
        )  # fmt: skip

    def outputs(self, model: TokenEmbedder, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns vectors, f32 [B, T, P]."""
        return {"vectors": model(batch)}


def token_vectors(
    spec: LateInteractionSpec, encoded: EncodedTexts, outputs: Mapping[str, np.ndarray], queries: int
) -> list[np.ndarray]:
    """Returns the vectors [L, P] of the tokens of each text, in the order the texts were given.

    The first `queries` of them are queries; of the others, documents, the tokens that are skipped are left out.
    """
    rows = encoded.rows
    compared = ~np.isin(rows.tokens, np.asarray(spec.skipped, np.int32))
    found = []
    for number, (row, segment, *_) in enumerate(rows.example_locations.tolist()):
        own_T = np.abs(rows.segment_ids[row]) == segment + 1
        # By their places: the row of a single short text is computed without the padding after it.
        places = np.flatnonzero(own_T if number < queries else own_T & compared[row])
        found.append(outputs["vectors"][row][places])
    return found

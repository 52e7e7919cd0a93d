"""A model of a vector a token beside its weights, and its config keys."""

# B batch, T tokens, P numbers of a vector, N texts

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx

from jaxfm.core.batch import BatchSpec
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.token_embedder import TokenEmbedder
from jaxfm.schema import field
from jaxfm.tasks.text_groups.config import SimilarityLossConfig, TextGroupsConfig
from jaxfm.tasks.text_groups.encoding import QUERY, EncodedTexts, batch_fields

NAME = "late_interaction"
SIMILARITY = "maxsim"


@dataclasses.dataclass(frozen=True)
class LateInteractionLossConfig(SimilarityLossConfig):
    """What is minimised. MaxSim is a sum over a query's tokens, so it needs no temperature to tell texts apart."""

    temperature: float = field(1.0, "similarities are divided by it (not by triplet and cosine)", above=0.0)


@dataclasses.dataclass(frozen=True)
class LateInteractionConfig(TextGroupsConfig):
    """Texts to a vector a token, compared by MaxSim."""

    name: str = field(NAME, "the task", choices=(NAME,))
    dimension: int = field(128, "numbers of a token's vector", at_least=1)
    query_prompt: str = field("[Q] ", "put before each anchor (query)")
    document_prompt: str = field("[D] ", "put before each other text (document)")
    query_length: int = field(32, "tokens of a query that are read, the prompt and special ones included", at_least=2)
    document_length: int = field(180, "the same of a document", at_least=2)
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

    @property
    def segments(self) -> int:
        """Most texts of a row, S."""
        return self.groups * self.texts

    def prompt(self, role: str) -> str:
        """Returns what is put before a text of a role."""
        return self.query_prompt if role == QUERY else self.document_prompt

    def length(self, role: str) -> int:
        """Returns the tokens of a text of a role that are read."""
        return self.query_length if role == QUERY else self.document_length

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


def token_vectors(encoded: EncodedTexts, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Returns the vectors [L, P] of the tokens of each text, in the order the texts were given."""
    rows = encoded.rows
    return [
        outputs["vectors"][row][rows.segment_ids[row] == segment + 1]
        for row, segment, *_ in rows.example_locations.tolist()
    ]

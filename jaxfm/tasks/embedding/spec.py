"""A model of vectors beside its weights, and its config keys."""

# B batch, S segments (texts in a row), K texts a group, G groups a row, E embedding

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
from flax import nnx

from jaxfm.core.batch import BatchSpec
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.embedder import POOLINGS, Embedder
from jaxfm.schema import field
from jaxfm.tasks.text_groups.config import AUTO_PROMPT, SimilarityLossConfig, TextGroupsConfig
from jaxfm.tasks.text_groups.encoding import QUERY, TextReading, batch_fields

if TYPE_CHECKING:
    pass

NAME = "embedding"


@dataclasses.dataclass(frozen=True)
class EmbeddingConfig(TextGroupsConfig):
    """Texts to vectors: what they are learned from, and what a vector is."""

    name: str = field(NAME, "the task", choices=(NAME,))
    pooling: str = field(
        "auto",
        "the vector of a text: the mean over its tokens, that of its first (cls) or last token; auto: as the first "
        "weights were trained (modules.json of sentence-transformers), else the mean",
        choices=("auto", *POOLINGS),
        open="auto",
    )
    normalize: bool = field(True, "vectors have length 1, so that similarity is their cosine; False: dot product")
    dimension: int = field(
        0,
        "a linear map to vectors of so many numbers; 0: that of the first weights if they have one, else vectors are "
        "as wide as the encoder",
        at_least=0,
        open=0,
    )
    query_prompt: str = field(
        AUTO_PROMPT,
        "put before each anchor (query); auto: what the first weights were trained with; empty: nothing",
        open=AUTO_PROMPT,
    )
    document_prompt: str = field(
        AUTO_PROMPT, "put before each other text (document); auto, empty: likewise", open=AUTO_PROMPT
    )
    matryoshka: tuple[int, ...] = field(
        (), "the loss is the sum over vectors and their first n numbers, for each n (Kusupati et al. 2022)"
    )
    loss: SimilarityLossConfig = dataclasses.field(default_factory=SimilarityLossConfig)


@dataclasses.dataclass(frozen=True)
class EmbeddingSpec:
    """All that a trained model of vectors is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      kind: "pairs", "scored" or "teacher" (`EmbeddingConfig.kind`).
      encoder: shape of the encoder.
      pooling: "mean", "cls" or "last".
      normalize: vectors have length 1.
      projected: numbers of a vector after a linear map; 0: there is none.
      query_prompt: put before a query.
      document_prompt: put before a document.
      row_length: tokens a packed row.
      window: longest text in tokens; longer ones are cut.
      texts: most texts of a group, K.
      groups: most groups of a training row, G.
      positives: most texts that are known to fit an anchor, beside its own positive; 0: none is known.
      learned_scale: what the trained scale of similarities started from; 0: it is fixed.
      matryoshka: sizes of the prefixes that were trained to be vectors.
    """

    kind: str
    encoder: EncoderConfig
    pooling: str
    normalize: bool
    projected: int
    query_prompt: str
    document_prompt: str
    row_length: int
    window: int
    texts: int
    groups: int
    positives: int
    learned_scale: float
    matryoshka: tuple[int, ...] = ()

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return self.projected or self.encoder.hidden_size

    @property
    def similarity(self) -> str:
        """How vectors are compared: "cosine" where they have length 1, else "dot"."""
        return "cosine" if self.normalize else "dot"

    @property
    def segments(self) -> int:
        """Most texts of a row, S."""
        return self.groups * self.texts

    def reading(self, role: str) -> TextReading:
        """Returns how a text of a role is read; both have one length."""
        return TextReading(self.query_prompt if role == QUERY else self.document_prompt, self.window)

    def batch_spec(self) -> BatchSpec:
        """Packed groups of texts."""
        return batch_fields(self)

    def make_model(self, build: Build, rngs: nnx.Rngs) -> Embedder:
        """Builds the encoder, and what follows it."""
        return Embedder(
            self.encoder,
            build,
            rngs,
            pooling=self.pooling,
            segments=self.segments,
            normalize=self.normalize,
            dimension=self.projected,
            learned_scale=self.learned_scale,
        )

    def outputs(self, model: Embedder, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns vectors, f32 [B, S, E]."""
        return {"vectors": model(batch)}

"""What a model of vectors minimises."""

# B batch, S segments, n groups of the batch, K texts a group, J = K - 1, E embedding

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.dropout import DropoutKey
from jaxfm.models.embedder import Embedder
from jaxfm.models.vectors import normalized
from jaxfm.parallel.mesh import constrain
from jaxfm.tasks.embedding.spec import EmbeddingSpec
from jaxfm.tasks.text_groups.similarity_loss import SimilarityLoss


@dataclasses.dataclass(frozen=True)
class EmbeddingObjective:
    """A model of vectors and its loss (implements jaxfm.core.objective.WholeBatchObjective)."""

    spec: EmbeddingSpec
    similarity_loss: SimilarityLoss

    whole_batch = True

    def loss(self, model: Embedder, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """The loss of the similarities of all texts of the batch, over all devices and hosts."""
        return self.compare(model, self.embed(model, batch, context.key), batch, context)

    def embed(self, model: Embedder, batch: Mapping[str, jax.Array], key: DropoutKey) -> jax.Array:
        """Returns the vectors of a batch's texts [B, S, E]."""
        return model(batch, key=key)

    def compare(
        self, model: Embedder, embedded: jax.Array, batch: Mapping[str, jax.Array], context: LossContext
    ) -> Loss:
        """Returns the loss, with prefixes of vectors the sum of their losses; metrics are those of whole vectors."""
        del context
        scale = model.scale(self.similarity_loss.scale)
        vectors_nKE = embedded.reshape(-1, self.spec.texts, embedded.shape[-1])
        found = self.similarity_loss(similarities(vectors_nKE), batch, scale)
        for size in self.spec.matryoshka:
            if size < vectors_nKE.shape[-1]:
                prefix = vectors_nKE[..., :size]
                prefix = normalized(prefix) if self.spec.normalize else prefix
                found = found._replace(
                    total=found.total + self.similarity_loss(similarities(prefix), batch, scale).total
                )
        return found

    def fixed_tokens(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns False for all [B, T]: targets are about texts as a whole."""
        return jnp.zeros(batch["tokens"].shape, bool)

    def mixup_problem(self) -> str:
        """Returns why texts that are compared cannot be mixed."""
        return "the loss compares all texts of a batch with each other"

    def outputs(self, model: Embedder, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns vectors; see `outputs` of the spec."""
        return self.spec.outputs(model, batch)

    def logits_per_row(self) -> float:
        """Numbers of the vectors of a row."""
        return self.spec.segments * self.spec.dimension

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder and of the projection; similarities of a batch are a small part of it."""
        spec = self.spec
        head = spec.segments * flops.dense_flops(spec.encoder.hidden_size, spec.projected) if spec.projected else 0.0
        return flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt) + head


def similarities(vectors_nKE: jax.Array) -> jax.Array:
    """Returns the dot product of each anchor with each other text of the batch, f32 [n, n, J]."""
    anchors_nE = constrain(vectors_nKE[:, 0], "batch", "features")
    # Every device compares its anchors with the texts of all devices.
    others_mJE = constrain(vectors_nKE[:, 1:], "compared", "segments", "features")
    return jnp.einsum("nE,mJE->nmJ", anchors_nE, others_mJE, precision="highest")

"""What a model of a vector a token minimises: the losses of vectors, over MaxSim."""

# B batch, T tokens, P numbers of a vector

import dataclasses
from collections.abc import Mapping

import jax

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.dropout import DropoutKey
from jaxfm.models.token_embedder import TokenEmbedder
from jaxfm.tasks.late_interaction.maxsim import similarities
from jaxfm.tasks.late_interaction.spec import LateInteractionSpec
from jaxfm.tasks.text_groups.similarity_loss import SimilarityLoss


@dataclasses.dataclass(frozen=True)
class LateInteractionObjective:
    """A model of a vector a token and its loss (implements jaxfm.core.objective.WholeBatchObjective)."""

    spec: LateInteractionSpec
    similarity_loss: SimilarityLoss

    whole_batch = True

    def loss(self, model: TokenEmbedder, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """The loss of the similarities of all texts of the batch, over all devices and hosts."""
        return self.compare(model, self.embed(model, batch, context.key), batch, context)

    def embed(self, model: TokenEmbedder, batch: Mapping[str, jax.Array], key: DropoutKey) -> jax.Array:
        """Returns the vectors of a batch's tokens [B, T, P]."""
        return model(batch, key=key)

    def compare(
        self, model: TokenEmbedder, embedded: jax.Array, batch: Mapping[str, jax.Array], context: LossContext
    ) -> Loss:
        """Returns the loss of MaxSim of each anchor with all texts of the batch."""
        del context
        spec = self.spec
        found = similarities(
            embedded,
            batch["segment_ids"],
            spec.compared(batch["tokens"]),
            groups=spec.groups,
            texts=spec.texts,
            query_length=spec.query_length,
        )
        return self.similarity_loss(found, batch, model.scale(self.similarity_loss.scale))

    def outputs(self, model: TokenEmbedder, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns vectors; see `outputs` of the spec."""
        return self.spec.outputs(model, batch)

    def logits_per_row(self) -> float:
        """Numbers of the vectors of a row, and products of its queries' tokens with those of a row of documents."""
        spec = self.spec
        return spec.row_length * (spec.dimension + spec.groups * spec.query_length)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder and of the map; MaxSim depends on the batch and is left out."""
        spec = self.spec
        head = spec.row_length * flops.dense_flops(spec.encoder.hidden_size, spec.dimension)
        return flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt) + head

"""What a task over groups of texts minimises: a loss over the similarities of a batch."""

# n groups of the batch, K texts a group, J = K - 1

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.config import Config
from jaxfm.core.objective import Loss
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.metrics import Sums, weighted
from jaxfm.tasks.text_groups import losses
from jaxfm.tasks.text_groups.config import LOSSES


@dataclasses.dataclass(frozen=True)
class SimilarityLoss:
    """A loss over the similarities of a batch, whatever they are of.

    Attributes:
      function: "infonce", "triplet", "cosent", "cosine", "margin_mse" or "kl".
      scale: that similarities are multiplied with.
      symmetric: of infonce.
      margin: of triplet.
      score_range: of cosine.
    """

    function: str
    scale: float = 20.0
    symmetric: bool = False
    margin: float = 0.3
    score_range: float = 1.0

    def __call__(self, similarities_nnJ: jax.Array, batch: Mapping[str, jax.Array], scale: jax.Array) -> Loss:
        """Returns the loss of the similarities of each anchor to each other text [n, J] of a batch."""
        texts_nK = batch["texts"].reshape(-1, batch["texts"].shape[-1])
        own_nJ = jnp.diagonal(similarities_nnJ, axis1=0, axis2=1).T
        valid_n = (texts_nK[:, 0] != losses.ABSENT).astype(jnp.float32)
        sums: Sums = {}
        if self.function == "infonce":
            known = batch.get("positives")
            known = None if known is None else known.reshape(len(texts_nK), -1)
            loss, weight, sums = losses.info_nce(similarities_nnJ, texts_nK, known, scale, self.symmetric)
            return Loss(loss.sum(), weight.sum(), sums)
        if self.function == "triplet":
            loss, weight = losses.triplet(own_nJ, texts_nK, self.margin)
            return Loss(loss.sum(), weight.sum(), {"violations": weighted(jnp.sum(loss > 0), weight.sum())})
        scores_nJ = batch["scores"].reshape(len(texts_nK), -1)
        if self.function == "cosent":
            # One number for the whole batch, which counts as often as there are pairs: the mean is that number.
            return Loss(
                losses.cosent(own_nJ[:, 0], scores_nJ[:, 0], valid_n, scale) * valid_n.sum(), valid_n.sum(), sums
            )
        if self.function == "cosine":
            loss = jnp.square(own_nJ[:, 0] - scores_nJ[:, 0] / self.score_range) * valid_n
            return Loss(loss.sum(), valid_n.sum(), sums)
        function = losses.margin_mse if self.function == "margin_mse" else losses.divergence
        loss, weight = function(own_nJ, scores_nJ, texts_nK, scale)
        return Loss(loss.sum(), weight.sum(), sums)


def similarity_loss(config: Config) -> SimilarityLoss:
    """Reads `config.task.loss` for the kind of data; UserError for one that the kind is not for."""
    kind, loss = config.task.kind, config.task.loss
    function = LOSSES[kind][0] if loss.function == "auto" else loss.function
    if function not in LOSSES[kind]:
        fitting = [name for name, losses in LOSSES.items() if function in losses]
        raise UserError(
            f"config.task.loss.function: {function!r} is not for config.task.kind={kind} (it is for "
            f"{' and '.join(fitting)}). {did_you_mean(function, LOSSES[kind])}"
        )
    if loss.symmetric and function != "infonce":
        raise UserError(f"config.task.loss.symmetric: is of infonce alone, but the loss is {function}.")
    if loss.learned_temperature and function in ("triplet", "cosine"):
        raise UserError(f"config.task.loss.learned_temperature: {function} has no temperature.")
    return SimilarityLoss(function, 1.0 / loss.temperature, loss.symmetric, loss.margin, loss.score_range)

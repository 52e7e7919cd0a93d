"""What replaced-token detection minimises (ELECTRA, Clark et al. 2020).

A small generator predicts masked tokens, as in masked LM; what it samples replaces them, and the encoder says of every
token whether it is the original. The encoder learns from all tokens, not from the masked ones alone.
"""

# B batch, T tokens, P predictions a row, V vocabulary

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.data.text.mask_vocabulary import MaskVocabulary
from jaxfm.models import flops
from jaxfm.models.electra import ReplacedTokenModel
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.mask_shares import mask_sums
from jaxfm.tasks.masked_predictions import predict, token_losses
from jaxfm.tasks.masks import Masks, head_flops, total_loss, vocabulary_logits
from jaxfm.tasks.replaced_token.spec import ReplacedTokenSpec

# What a held-out row's samples are drawn with never changes, so that runs are scored on like replacements.
_EVALUATION_SEED = 20200323


@dataclasses.dataclass(frozen=True)
class ReplacedTokenObjective:
    """A generator and a discriminator (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      vocabulary: which tokens can be masked.
      z_loss: weight of the squared log-partition of the generator.
    """

    spec: ReplacedTokenSpec
    vocabulary: MaskVocabulary
    z_loss: float = 0.0

    whole_batch = False

    @property
    def masks(self) -> Masks:
        """How tokens are masked for the generator."""
        return Masks(self.spec, self.vocabulary)

    def loss(self, model: ReplacedTokenModel, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """The generator's summed loss, plus the discriminator's times weight and share of masked tokens; see below.

        The weight is M, the masked tokens. The paper minimises (section 2) the generator's mean over those plus 50
        times the discriminator's mean over all N tokens: times M that is its sum times 50 M / N. Here the share that is
        asked for, `config.task.ratio`, stands for M / N, which it is on average: a constant, so that sums over
        micro-batches and hosts stay exact.
        """
        mask_key, sample_key, generator_key, detector_key = jax.random.split(context.key, 4)
        masked = self.masks.apply(batch, mask_key, context.progress)
        predicted = predict(model, masked, self.masks.limit(batch, self.spec.masking.unit), generator_key)
        sampled_BP = sample(sample_key, predicted["logits"], self.vocabulary.maskable)
        tokens_BT = put(masked, predicted, sampled_BP)
        logits_BT = model.replaced({**batch, "tokens": tokens_BT}, key=detector_key)
        generated = token_losses(predicted)
        detected = self._detected(logits_BT, tokens_BT, batch["tokens"], batch["segment_ids"])
        weight, total = generated["weight"].sum(), {name: value.sum() for name, value in detected.items()}
        # Without a masked token the weight is 0, and nothing is replaced.
        discriminator = self.discriminator_factor(context.progress) * jnp.where(weight > 0, total["loss"], 0.0)
        metrics = {
            "generator_loss": weighted(generated["loss"].sum(), weight),
            "generator_accuracy": weighted((generated["right"] * generated["weight"]).sum(), weight),
            "discriminator_loss": weighted(total["loss"], total["tokens"]),
            "discriminator_accuracy": weighted(total["right"], total["tokens"]),
            "precision": weighted(total["found"], total["flagged"]),
            "recall": weighted(total["found"], total["replaced"]),
            **mask_sums(batch, masked["labels"]),
        }
        return Loss(total_loss(generated, self.z_loss) + discriminator, weight, metrics)

    def outputs(self, model: ReplacedTokenModel, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns what masked LM does, "sampled" and "suspicion" (its probability) there [B, P], and sums a row [B].

        Samples are drawn with the row's own key: the same whatever the batch, the mesh and the run.
        """
        predicted = predict(model, batch, self.masks.limit(batch, *self.spec.units))
        generated = token_losses(predicted)

        def sample_row(row_1: jax.Array, logits_PV: jax.Array) -> jax.Array:
            row_key = jax.random.fold_in(jax.random.key(_EVALUATION_SEED), row_1[0])
            return sample(row_key, logits_PV, self.vocabulary.maskable)

        sampled_BP = jax.vmap(sample_row)(batch["row"], predicted["logits"])
        tokens_BT = put(batch, predicted, sampled_BP)
        original_BT = put(batch, predicted, predicted["target"])
        logits_BT = model.replaced({**batch, "tokens": tokens_BT})
        detected = self._detected(logits_BT, tokens_BT, original_BT, batch["segment_ids"])
        return {
            **{name: generated[name] for name in ("place", "target", "predicted", "loss")},
            "sampled": sampled_BP,
            "suspicion": jax.nn.sigmoid(jnp.take_along_axis(logits_BT, predicted["place"], axis=1)),
            **{f"row_{name}": value_BT.sum(axis=1) for name, value_BT in detected.items()},
        }

    def logits_per_row(self) -> float:
        """Those of the generator: a number an entry of the vocabulary and masked token."""
        return vocabulary_logits(self.spec)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder and its detector, which scores every token, and of the generator's layers and head."""
        spec = self.spec
        generator = sum(flops.layer_flops(spec.encoder, spec.row_length)[: spec.generator_layers])
        detector = flops.detector_flops(spec.encoder, adapt)
        encoder = flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt)
        return encoder + spec.row_length * (generator + head_flops(spec, adapt) + detector)

    def discriminator_factor(self, progress: jax.Array | float) -> jax.Array | float:
        """Returns what the discriminator's summed loss is multiplied by at `progress` of a run; see `loss`."""
        return self.spec.discriminator_weight * self.masks.ratio(progress)

    def _detected(
        self, logits_BT: jax.Array, tokens_BT: jax.Array, original_BT: jax.Array, segment_ids_BT: jax.Array
    ) -> dict[str, jax.Array]:
        """Returns arrays [B, T] to sum, over the tokens that can be masked: neither special ones nor padding.

        A sample that is the original counts as the original (section 2).
        """
        weight_BT = (jnp.asarray(self.vocabulary.maskable)[original_BT] & (segment_ids_BT > 0)).astype(jnp.float32)
        replaced_BT, flagged_BT = tokens_BT != original_BT, logits_BT > 0
        return {
            "tokens": weight_BT,
            "loss": jax.nn.softplus(jnp.where(replaced_BT, -logits_BT, logits_BT)) * weight_BT,
            "right": (replaced_BT == flagged_BT) * weight_BT,
            "replaced": replaced_BT * weight_BT,
            "flagged": flagged_BT * weight_BT,
            "found": (replaced_BT & flagged_BT) * weight_BT,
        }


def sample(key: jax.Array, logits: jax.Array, maskable: np.ndarray) -> jax.Array:
    """Draws a token from each distribution [..., V], int32 [...]; no gradient passes.

    Special tokens, and rows of the vocabulary that no token has, are never drawn: text has neither.
    """
    possible = jnp.where(jnp.asarray(maskable), jax.lax.stop_gradient(logits), -jnp.inf)
    return jax.random.categorical(key, possible).astype(jnp.int32)


def put(batch: Mapping[str, jax.Array], predicted: Mapping[str, jax.Array], tokens_BP: jax.Array) -> jax.Array:
    """Returns the batch's tokens [B, T] with `tokens_BP` at the positions that have a target."""
    old_BP = jnp.take_along_axis(batch["tokens"], predicted["place"], axis=1)
    new_BP = jnp.where(predicted["target"] >= 0, tokens_BP, old_BP)
    return jnp.put_along_axis(batch["tokens"], predicted["place"], new_BP, axis=1, inplace=False)

"""What a model that writes targets minimises, and what is computed of held-out pairs."""

# B batch, T tokens, S segments (examples in a row), P target places of a row

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.heads import MaskedLM
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.draws import row_keys
from jaxfm.tasks.held_out import outputs_by_role
from jaxfm.tasks.masked_predictions import masked_token_losses
from jaxfm.tasks.seq2seq.diffusion import fill_targets
from jaxfm.tasks.seq2seq.encoding import Tokens
from jaxfm.tasks.seq2seq.prefix import continue_prefixes
from jaxfm.tasks.seq2seq.spec import DIFFUSION, Seq2SeqSpec
from jaxfm.tasks.unmasking import LEAST_SHARE, draw_shares, mask_targets
from jaxfm.tasks.written import Written, per_segment

# Mask shares at which the loss of a held-out pair is measured: one in each quarter from 0 to 1.
_SHARES = 4


@dataclasses.dataclass(frozen=True)
class Seq2SeqObjective:
    """A model that writes, and its loss (implements jaxfm.core.objective.Objective).

    Attributes:
      spec: what is trained.
      tokens: the special tokens.
      logits_chunk: target places of a row whose scores are in memory at once; 0: all.
    """

    spec: Seq2SeqSpec
    tokens: Tokens
    logits_chunk: int = 0

    whole_batch = False

    def loss(self, model: MaskedLM, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Cross-entropy of target tokens, closing separators included, summed; its weight is their number.

        Diffusion: of the tokens masked at this step, times 1 / share, the share drawn anew for each pair: a bound of
        the log-likelihood of the target (Nie et al. 2025, equation 3). Prefix: of each token given those before it.
        """
        count = (batch["labels"] >= 0).sum().astype(jnp.float32)
        if self.spec.way != DIFFUSION:
            found = masked_token_losses(model, batch, self.spec.targets, context.key, chunk=self.logits_chunk)
            right = weighted((found["right"] * found["weight"]).sum(), count)
            return Loss(found["loss"].sum(), count, {"accuracy": right})
        share_key, mask_key, dropout_key = jax.random.split(context.key, 3)
        shares_BS = draw_shares(share_key, len(batch["tokens"]), self.spec.segments)
        masked, weight_BT = mask_targets(mask_key, batch, shares_BS, self.tokens.mask)
        found = masked_token_losses(model, masked, self.spec.targets, dropout_key, chunk=self.logits_chunk)
        weight_BP = jnp.take_along_axis(weight_BT, found["place"], axis=1)
        masks = found["weight"].sum()
        metrics = {
            "accuracy": weighted((found["right"] * found["weight"]).sum(), masks),
            "masked_share": weighted(masks, count),
        }
        return Loss((found["loss"] * weight_BP).sum(), count, metrics)

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns of each segment what the rows of `held_out.HeldOut` are for, see `outputs_by_role`."""
        spec = self.spec
        write, scored = functools.partial(self.write, model), functools.partial(self.scored, model)
        return outputs_by_role(batch, spec.segments, spec.lengths.most, scored, write)

    def scored(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns sums over the target tokens of each segment, f32 [B, S]: "loss", "right", their "weight", "count".

        Diffusion: means over masks at four shares, one drawn in each quarter by a hash of the row, so always the same;
        a masked token has weight 1 / share, which also multiplies its loss and whether it is predicted right.
        """
        spec = self.spec
        limit = min(spec.segments * spec.lengths.most, batch["tokens"].shape[1])
        segment_BT = jnp.where(batch["labels"] >= 0, batch["segment_ids"] - 1, -1)
        count_BS = per_segment(segment_BT, jnp.ones_like(segment_BT), spec.segments, jnp.sum, 0).astype(jnp.float32)

        def sums(rows: Mapping[str, jax.Array], weight_BT: jax.Array) -> dict[str, jax.Array]:
            found = masked_token_losses(model, rows, limit, chunk=self.logits_chunk)
            weight_BP = jnp.take_along_axis(weight_BT, found["place"], axis=1) * found["weight"]
            at_BP = jnp.take_along_axis(segment_BT, found["place"], axis=1)
            each = {"loss": found["loss"] * weight_BP, "right": found["right"] * weight_BP, "weight": weight_BP}
            return {name: per_segment(at_BP, x_BP, spec.segments, jnp.sum, 0) for name, x_BP in each.items()}

        if spec.way != DIFFUSION:
            return {**sums(batch, jnp.ones(segment_BT.shape, jnp.float32)), "count": count_BS}
        keys_B = row_keys(batch, 0)

        def at_share(number: jax.Array) -> dict[str, jax.Array]:
            shares_BS = jax.vmap(lambda key: jax.random.uniform(key, (spec.segments,)))(keys_B)
            shares_BS = jnp.maximum((number + shares_BS) / _SHARES, LEAST_SHARE)
            masks_B = jax.vmap(lambda key: jax.random.fold_in(key, number + 1))(keys_B)
            return sums(*_masked_by_row(masks_B, batch, shares_BS, self.tokens.mask))

        found = lax.map(at_share, jnp.arange(_SHARES))
        return {name: x_KBS.mean(axis=0) for name, x_KBS in found.items()} | {"count": count_BS}

    def write(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> Written:
        """Writes the targets of rows of `encoding.blank_rows`, as the spec says."""
        spec, tokens = self.spec, self.tokens
        never = (tokens.opening, tokens.padding, tokens.mask)
        shape = {"segments": spec.segments, "most": spec.lengths.most, "separator": tokens.separator}
        if spec.way == DIFFUSION:
            return fill_targets(model, batch, spec.unmasking, never=never, **shape)
        return continue_prefixes(model, batch, spec.decoding, never=never, types=spec.has_types, **shape)

    def logits_per_row(self) -> float:
        """A number an entry of the vocabulary and target token."""
        return float(self.logits_chunk or self.spec.targets) * self.spec.encoder.vocab_size

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the encoder, and of the head at the target places."""
        spec = self.spec
        encoder = flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt)
        return encoder + spec.targets * flops.vocabulary_head_flops(spec.encoder, adapt)


def _masked_by_row(
    keys_B: jax.Array, batch: Mapping[str, jax.Array], shares_BS: jax.Array, mask_id: int
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Masks as `mask_targets`, each row by its own key."""

    def one(
        key: jax.Array, row: Mapping[str, jax.Array], shares_S: jax.Array
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        masked, weight_BT = mask_targets(key, {name: x[None] for name, x in row.items()}, shares_S[None], mask_id)
        return {name: x[0] for name, x in masked.items()}, weight_BT[0]

    return jax.vmap(one)(keys_B, dict(batch), shares_BS)

"""Which codes a training step masks, and how an image is made: masks that are filled, the surest codes first."""

# B batch, T tokens, S segments (images in a row), P cells of a row, C cells a chunk, D model, V vocabulary, G cells

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.tasks.image_generation.rows import NUMBER
from jaxfm.tasks.image_generation.spec import ImageGenerationSpec, ImageUnmaskingConfig
from jaxfm.tasks.unmasking import Places, Proposal, draw_shares, likeliest, unmask, with_masks
from jaxfm.tasks.written import Written, gather_written, per_segment

_ORDER = 1  # of the keys of a cell: what the order is drawn by


def mask_codes(
    key: jax.Array, batch: Mapping[str, jax.Array], spec: ImageGenerationSpec
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Masks codes of each image; returns the batch, whose labels are -1 where nothing is masked, and what is masked.

    The probability is the cosine of a number drawn from U(0, 1) for each image (Chang et al. 2022, section 3.1 and
    table 3), so that many codes are masked more often than few. One code of each image is masked in any case.
    """
    share_key, mask_key = jax.random.split(key)
    labels_BT = batch["labels"]
    drawn_BS = draw_shares(share_key, len(labels_BT), spec.segments)
    segment_BT = jnp.where(labels_BT >= 0, batch["segment_ids"] - 1, -1)
    noise_BT = jax.random.uniform(mask_key, labels_BT.shape)
    least_BS = per_segment(segment_BT, noise_BT, spec.segments, jnp.min, 2)
    bound_BS = jnp.maximum(jnp.cos(jnp.pi / 2 * drawn_BS), jnp.nextafter(least_BS, 2.0))
    bound_BT = jnp.take_along_axis(bound_BS, jnp.maximum(segment_BT, 0), axis=1)
    masked_BT = (labels_BT >= 0) & (noise_BT < bound_BT)
    return with_masks(batch, masked_BT, spec.mask), masked_BT


def drop_classes(
    key: jax.Array, batch: Mapping[str, jax.Array], spec: ImageGenerationSpec, share: float
) -> dict[str, jax.Array]:
    """Returns the batch in which the class of a share of the images, drawn for each, is not told."""
    drop_BS = jax.random.uniform(key, (len(batch["tokens"]), spec.segments)) < share
    drop_BT = jnp.take_along_axis(drop_BS, jnp.maximum(batch["segment_ids"] - 1, 0), axis=1)
    return {**batch, "tokens": jnp.where(_is_class(batch) & drop_BT, spec.no_class, batch["tokens"])}


def open_after(cells: int, steps: int) -> np.ndarray:
    """Returns how many of an image's cells are open after each pass, int32 [steps]: a cosine, in the last pass 0."""
    shares = np.cos(np.pi / 2 * np.arange(1, steps + 1) / steps)
    found = np.floor(shares * cells).astype(np.int32)
    found[-1] = 0
    return found


def make_images(
    model: Any, batch: Mapping[str, jax.Array], spec: ImageGenerationSpec, unmasking: ImageUnmaskingConfig
) -> Written:
    """Fills the cells of rows of `rows.blank_rows`; returns the codes of each image and their mean log-probability.

    Each pass draws a code for every open cell and keeps those of the greatest log-probability, to which noise is added
    that grows less from pass to pass, so that as many are open as `open_after` says, or one fewer than before (Chang et
    al. 2022, section 3.2, and their code). What is drawn depends on the seed, the class and the image's number among
    those of its class, not on what else is in a row or a batch.
    """
    at = Places.of(batch, spec.segments * spec.cells)
    steps, guidance = unmasking.steps, unmasking.guidance
    keys_BS = _image_keys(batch, spec, unmasking.seed)
    never = jnp.arange(spec.mask, spec.tokens)
    open_S = jnp.asarray(open_after(spec.cells, steps))
    untold = {**batch, "tokens": jnp.where(_is_class(batch), spec.no_class, batch["tokens"])}

    def logits(hidden: Any) -> jax.Array:
        told_BCD, untold_BCD = hidden
        told_BCV = model.logits(told_BCD)
        if untold_BCD is None:
            return told_BCV
        return told_BCV + guidance * (told_BCV - model.logits(untold_BCD))

    def propose(step: jax.Array, tokens_BP: jax.Array, masked_BP: jax.Array) -> Proposal:
        told_BPD = at.hidden(model.hidden(at.filled(batch, tokens_BP, masked_BP)))
        untold_BPD = at.hidden(model.hidden(at.filled(untold, tokens_BP, masked_BP))) if guidance else None
        keys_BP = at.keys(keys_BS, step)
        drawn = keys_BP if unmasking.temperature else None
        tokens_BP, log_BP = likeliest(logits, (told_BPD, untold_BPD), never, unmasking.temperature, drawn)
        if not unmasking.order_noise:
            return Proposal(tokens_BP, log_BP, log_BP)
        gumbel = jax.vmap(jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, _ORDER))))
        scale = unmasking.order_noise * (1.0 - (step + 1) / steps)
        return Proposal(tokens_BP, log_BP, log_BP + scale * gumbel(keys_BP))

    def count(step: jax.Array, left_BS: jax.Array) -> jax.Array:
        return jnp.maximum(left_BS - open_S[step], 1)

    there_BS = per_segment(at.segment_BP, jnp.ones_like(at.segment_BP), spec.segments, jnp.max, 0)
    tokens_BP, log_BP = unmask(
        at, at.there, spec.mask, steps=steps, segments=spec.segments, propose=propose, count=count
    )
    length_BS = there_BS * spec.cells
    return gather_written(
        at.segment_BP, at.slot_BP, tokens_BP, log_BP, length_BS, segments=spec.segments, most=spec.cells
    )


def _is_class(batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns which tokens, bool [B, T], say a class."""
    return (batch["positions"] == 0) & (batch["segment_ids"] > 0)


def _image_keys(batch: Mapping[str, jax.Array], spec: ImageGenerationSpec, seed: int) -> jax.Array:
    """Returns a key for each image [B, S], of its class and its number."""
    segment_BT = jnp.where(_is_class(batch), batch["segment_ids"] - 1, -1)
    class_BS, number_BS = (
        per_segment(segment_BT, batch[name], spec.segments, jnp.max, 0) for name in ("tokens", NUMBER)
    )
    key = jax.random.key(seed, impl="threefry2x32")
    return jax.vmap(jax.vmap(lambda kind, number: jax.random.fold_in(jax.random.fold_in(key, kind), number)))(
        class_BS, number_BS
    )

"""A prefix language model writes targets: what goes on from each source of packed rows."""

# B batch, S segments (examples in a row), M places of a target

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxfm.decoding_config import BEAM
from jaxfm.models.generation import generate
from jaxfm.models.heads import MaskedLM
from jaxfm.tasks.seq2seq.spec import TargetDecoding
from jaxfm.tasks.written import NOTHING, Written


def continue_prefixes(
    model: MaskedLM,
    batch: Mapping[str, jax.Array],
    decoding: TargetDecoding,
    *,
    segments: int,
    most: int,
    separator: int,
    never: tuple[int, ...],
    types: bool,
) -> Written:
    """Writes the targets of rows of sources (`encoding.blank_rows`), a token after the other.

    Args:
      model: whose sight is that of a prefix.
      batch: rows.
      decoding: how tokens are chosen; at most `most` tokens are written.
      segments: S.
      most: M, places of the longest target, its separator included.
      separator: token that ends a target.
      never: tokens that are not written.
      types: whether tokens of a target have a type of their own.
    """
    limit = min(decoding.max_tokens, most)
    settings = dataclasses.replace(decoding, max_tokens=limit)  # `check_decoding` has seen that min_tokens fit
    found = generate(
        model,
        batch,
        settings,
        end_id=separator,
        segments=segments,
        forbidden=frozenset(never),
        type_id=int(types),
    )
    written_BSM = jnp.arange(limit) < found.lengths[..., None]
    tokens_BSM = jnp.where(written_BSM, found.tokens, NOTHING)
    tokens_BSM = jnp.pad(tokens_BSM, ((0, 0), (0, 0), (0, most - limit)), constant_values=NOTHING)
    # Of beams the score is divided already.
    tokens_BS = 1 if settings.method == BEAM else jnp.minimum(found.lengths + 1, limit)
    return Written(tokens_BSM, found.scores / tokens_BS)

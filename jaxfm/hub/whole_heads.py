"""Encoders with fewer heads than their width has room for, as transformers opens them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families.registry import family
from jaxfm.models.subnets import pad_heads


def with_whole_heads(encoder: EncoderConfig, params: Mapping[str, Any]) -> tuple[EncoderConfig, Mapping[str, Any]]:
    """Returns an encoder whose heads are as wide as transformers takes them to be, and its arrays (path -> array).

    Where config.json has no width of heads, it is hidden_size / num_heads: an encoder with fewer heads of that width (a
    subnet) is filled up with heads of zeros, which change nothing of what it computes.

    Raises:
      UserError: no number of such heads gives hidden_size.
    """
    width = encoder.head_dim
    if encoder.num_heads * width == encoder.hidden_size or "head_dim" in family(encoder.family).write_config(encoder):
        return encoder, params
    count, rest = divmod(encoder.hidden_size, width)
    if rest or count < encoder.num_heads or encoder.kv_heads != encoder.num_heads:
        raise UserError(
            f"transformers' {encoder.family} has heads of {encoder.hidden_size} / {encoder.num_heads} numbers, "
            f"and these have {width}. jaxfm.predict, evaluate and --format=stablehlo use the run as it is."
        )
    return dataclasses.replace(encoder, num_heads=count, head_size=0), pad_heads(params, encoder, count)

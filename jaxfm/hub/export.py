"""A trained model as a Hugging Face directory: config.json, weights and tokenizer."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm import files
from jaxfm.core.encoder_config import CAUSAL, EncoderConfig
from jaxfm.hub.config_json import hf_config
from jaxfm.hub.weights import write_tensors
from jaxfm.hub.whole_heads import with_whole_heads

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def write_model(
    folder: pathlib.Path,
    encoder: EncoderConfig,
    *,
    head: str,
    params: Mapping[str, np.ndarray],
    tokenizer: "PreTrainedTokenizerFast",
    labels: tuple[str, ...] = (),
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes what transformers' AutoModel class of the head, and AutoTokenizer, open.

    Args:
      folder: where to; it exists.
      encoder: low-rank updates that it names must be merged into `params`.
      head: kind of the head in `params` (`families.models.KINDS`).
      params: path -> array of every parameter of encoder and head.
      tokenizer: with a padding token.
      labels: class names of the head, in the order of their numbers.
      extra: further values of config.json.

    Raises:
      UserError: transformers has no class for that encoder and head.
    """
    pad = tokenizer.pad_token_id
    assert isinstance(pad, int), "see check_tokenizer"
    special = _special_tokens(tokenizer) if encoder.sight == CAUSAL else {}
    more = {**special, **(extra or {})}
    write_token_model(folder, encoder, head=head, params=params, padding=pad, labels=labels, extra=more)
    tokenizer.save_pretrained(folder)


def write_token_model(
    folder: pathlib.Path,
    encoder: EncoderConfig,
    *,
    head: str,
    params: Mapping[str, np.ndarray],
    padding: int,
    labels: tuple[str, ...] = (),
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes what transformers' AutoModel class of the head opens, of tokens that no tokenizer makes: codes of images.

    `padding` is the number of the padding token; other arguments and errors are as of `write_model`.
    """
    encoder, params = with_whole_heads(encoder, params)
    config = hf_config(encoder, head=head, pad_token_id=padding, labels=labels)
    files.write_json(folder / "config.json", {**config, **(extra or {})})
    write_tensors(folder / "model.safetensors", encoder, head, params)


def _special_tokens(tokenizer: "PreTrainedTokenizerFast") -> dict[str, int]:
    """Returns the numbers of the tokens that texts begin and end with: what is written starts and stops at them."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    last = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    found = {"bos": first, "eos": last, "cls": tokenizer.cls_token_id, "sep": tokenizer.sep_token_id}
    return {f"{name}_token_id": number for name, number in found.items() if isinstance(number, int)}

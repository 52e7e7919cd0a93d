"""Texts that a causal language model is to go on with: their rows, and what was written as text again."""

# B rows, S segments (prompts in a row), M new tokens

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SEGMENTS = 8
"""Prompts of a row at most."""


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Texts to go on with, and their packed rows, none of which has an end.

    Attributes:
      texts: as they are given back.
      cut: of each, whether only its last tokens are read.
      rows: the prompts, at most SEGMENTS a row.
    """

    texts: tuple[str, ...]
    cut: tuple[bool, ...]
    rows: PackedRows


def encode_prompts(
    tokenizer: "PreTrainedTokenizerFast", texts: Sequence[str], positions: int, new_tokens: int
) -> Prompts:
    """Tokenizes and packs prompts, after which `new_tokens` more fit into `positions` tokens.

    Each begins with the token that texts begin with in training. Of a longer one the last tokens are read.

    Raises:
      UserError: new tokens alone fill all positions.
    """
    longest = positions - new_tokens - 1
    if longest < 1:
        raise UserError(
            f"max_tokens: {new_tokens} new tokens leave no room for a prompt in the {positions} tokens that the model "
            f"sees. Take at most {positions - 2}."
        )
    opening, pad_id = tokenizer.cls_token_id, tokenizer.pad_token_id
    assert isinstance(opening, int) and isinstance(pad_id, int), "see check_tokenizer"
    found = tokenizer(list(texts) or [""], add_special_tokens=False, verbose=False)["input_ids"][: len(texts)]
    tokens = [np.asarray([opening, *ids[-longest:]], np.int32) for ids in found]
    # Few row lengths, so that few programs are compiled.
    length = 2 ** math.ceil(math.log2(max([8, *map(len, tokens)])))
    labels = [np.full(len(each), -1, np.int32) for each in tokens]
    rows = build_rows(tokens, labels, length, pad_id, None, max_segments=SEGMENTS)
    return Prompts(tuple(texts), tuple(len(ids) > longest for ids in found), rows)


def decode_continuations(
    tokenizer: "PreTrainedTokenizerFast",
    prompts: Prompts,
    tokens_BSM: np.ndarray,
    lengths_BS: np.ndarray,
    scores_BS: np.ndarray,
) -> list[dict[str, Any]]:
    """Returns {"text", "written", "score"} of each prompt, and "truncated": true of those that are cut.

    Args:
      tokenizer: of the model.
      prompts: what was continued.
      tokens_BSM: new tokens of each segment of `prompts.rows`.
      lengths_BS: how many of them count; the token that ends a text is none of them.
      scores_BS: of what was written.
    """
    results = []
    for text, cut, (row, segment, _) in zip(
        prompts.texts, prompts.cut, prompts.rows.example_locations.tolist(), strict=True
    ):
        new = tokens_BSM[row, segment, : lengths_BS[row, segment]].tolist()
        written = tokenizer.decode(new, skip_special_tokens=True)
        score = round(float(scores_BS[row, segment]), 4)
        results.append({"text": text, "written": written, "score": score, **({"truncated": True} if cut else {})})
    return results

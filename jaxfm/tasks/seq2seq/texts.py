"""Tokens that were written, as text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def text_of(tokenizer: "PreTrainedTokenizerFast", tokens: Sequence[int]) -> str:
    """Returns the text of tokens, special ones left out, with single spaces."""
    # WordPiece sets every sign apart, and the space before a full stop is not of the text. Others keep all spaces.
    clean = type(tokenizer.backend_tokenizer.model).__name__ == "WordPiece"
    text = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=clean)
    return " ".join(str(text).split())

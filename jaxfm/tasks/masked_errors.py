"""Held-out rows whose masked tokens are predicted worst, as text with the predictions at their places."""

# N rows, P masked positions a row, T tokens

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxfm.data.text.tokenization import marks_continuing_pieces
from jaxfm.observe.examples import SHOWN, Mark, Status, View, WrongExample

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TokenMark(NamedTuple):
    """What is said of the token at a position of a row."""

    position: int
    label: str
    status: Status


def worst_rows(loss_N: np.ndarray, wrong_N: np.ndarray) -> list[int]:
    """Returns the rows that have something wrong, that of the largest loss first, at most `SHOWN`."""
    order = np.argsort(-np.nan_to_num(loss_N), kind="stable")
    return order[wrong_N[order]][:SHOWN].tolist()


def show_row(
    tokenizer: "PreTrainedTokenizerFast",
    tokens_T: np.ndarray,
    marks: Sequence[TokenMark],
    origin: str,
    facts: tuple[tuple[str, str | float], ...],
) -> WrongExample:
    """Returns a row's tokens as text, without special tokens, with marks at the characters of their tokens."""
    pieces = tokenizer.convert_ids_to_tokens(tokens_T.tolist())
    special = {token for token in tokenizer.all_special_ids if token != tokenizer.mask_token_id}
    continues = marks_continuing_pieces(tokenizer)
    by_position = {mark.position: mark for mark in marks}
    text, placed = "", []
    for position, (token, piece) in enumerate(zip(tokens_T.tolist(), pieces, strict=True)):
        if token in special:
            continue
        shown, glued = _readable(tokenizer, str(piece), continues=continues)
        text += "" if glued or not text else " "
        if (mark := by_position.get(position)) is not None:
            placed.append(Mark(len(text), len(text) + len(shown), mark.label, mark.status))
        text += shown
    return WrongExample(origin, (View("text", text, tuple(placed)),), facts)


def _readable(tokenizer: "PreTrainedTokenizerFast", piece: str, *, continues: bool) -> tuple[str, bool]:
    """Returns a piece as people read it, and whether it belongs to the piece before it."""
    if continues:
        return piece.removeprefix("##"), piece.startswith("##")
    # Byte-level and SentencePiece vocabularies mark the start of a word instead.
    return tokenizer.convert_tokens_to_string([piece]).strip() or piece, piece[:1] not in ("Ġ", "▁")

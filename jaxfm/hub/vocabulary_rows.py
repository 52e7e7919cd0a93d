"""The rows of a vocabulary that are kept, of weights whose tokenizer has lost entries."""

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np

from jaxfm.core.encoder_config import EncoderConfig, has_padded_rows
from jaxfm.core.initial import HostArray
from jaxfm.errors import UserError

_TABLE = "encoder/embeddings/word/embedding"


def check_words(params: Mapping[str, HostArray], where: pathlib.Path) -> None:
    """Raises UserError where a model predicts entries of its vocabulary, by rows that each of them has."""
    if others := [path for path in params if has_padded_rows(path) and path != _TABLE]:
        raise UserError(
            f"{where}: the model predicts entries of its vocabulary ({others[0]}), so that none is unused. Cut the "
            "vocabulary of a model that is fine-tuned for a task."
        )


def with_rows(
    encoder: EncoderConfig, params: Mapping[str, HostArray], kept: np.ndarray, where: pathlib.Path
) -> tuple[EncoderConfig, dict[str, HostArray]]:
    """Returns the encoder and its parameters (path -> array) with the rows of these entries, in their order.

    Raises:
      UserError: as `check_words`, or the first rows, by whose number positions are counted, are among those that would
        move.
    """
    check_words(params, where)
    offset = encoder.position_offset
    if kept[:offset].tolist() != list(range(offset)):
        raise UserError(
            f"{where}: positions of this encoder are counted from the number of its padding token, {offset - 1}, which "
            "would change. Leave out --vocabulary."
        )
    masks = encoder.token_dropout_id
    small = dataclasses.replace(
        encoder,
        vocab_size=len(kept),
        token_dropout_id=int(np.searchsorted(kept, masks)) if masks >= 0 else masks,
    )
    rows = np.asarray(params[_TABLE])[kept]
    padding = np.zeros((small.padded_vocab_size - len(rows), rows.shape[1]), rows.dtype)
    return small, {**params, _TABLE: np.concatenate([rows, padding])}

"""What fine-tuning tasks share: defaults of their configs, the row length that suits their examples, the tokenizer."""

# E examples

import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm.config import AUTO, BY_EXAMPLES, Config
from jaxfm.core.initial import Initial
from jaxfm.data.text.tokenization import check_tokenizer, load_tokenizer
from jaxfm.errors import UserError
from jaxfm.schema import replaced

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Keys whose default for fine-tuning is not that of `jaxfm/config.py`. Mosbach et al. 2021 and Zhang et al. 2021: with
# few examples three passes are too few updates, and more of them do no harm where the best checkpoint is kept.
# profiles/small_data.py compares these defaults with a search. A validation split of a few examples moves in jumps, so
# patience is a third of the 20 evaluations of a run.
DEFAULTS: Mapping[str, Any] = types.MappingProxyType(
    {
        "data.row_length": AUTO,
        "train.batch_size": BY_EXAMPLES,
        "train.min_steps": 200,
        "eval.patience": 7,
    }
)
# Of "auto" row lengths: splash attention on TPUs wants whole registers of 128, and rows cut along a sequence axis equal
# parts. Shorter rows would gain little: at 128 tokens attention is a twentieth of the work of a small encoder's layer.
SHORTEST_ROWS = 128
_COVERED = 0.99  # share of the training examples that fit whole: one overlong text does not make all rows long
_DOCUMENT = 512  # tokens of a window that is filled with its neighbours, as Devlin et al. 2019 and later NER work


def with_row_length(config: Config, lengths_E: np.ndarray, max_positions: int, *, whole: bool = False) -> Config:
    """Returns the config with a number in place of `data.row_length=auto`.

    Args:
      config: of the run.
      lengths_E: tokens of each training example, special ones included.
      max_positions: of the encoder.
      whole: windows are filled up with the document around them, so that lengths do not matter.
    """
    if config.data.row_length != AUTO:
        return config
    needed = _DOCUMENT if whole else int(np.quantile(lengths_E, _COVERED, method="higher")) if len(lengths_E) else 1
    needed = max(min(needed, max_positions), config.data.window)
    return replaced(config, {"data.row_length": -(-needed // SHORTEST_ROWS) * SHORTEST_ROWS})


def assumed_shapes(config: Config) -> Config:
    """Returns the config with usual numbers where a run chooses them from its data: for plans and timings without any.

    Rows of 128 tokens, four of which hold the 16 examples of an update.
    """
    config = with_row_length(config, np.zeros(0), SHORTEST_ROWS)
    if config.train.batch_size == BY_EXAMPLES:
        config = replaced(config, {"train.batch_size": max(config.train.batch_examples // 4, 1)})
    return config


def open_tokenizer(initial: Initial, *, needs_ends: bool = True) -> "PreTrainedTokenizerFast":
    """Returns the tokenizer of what a run starts from; UserError where there is none, or not one of the encoder.

    `needs_ends`: as `check_tokenizer`.
    """
    if initial.tokenizer is None:
        raise UserError("config.model.tokenizer: 'scratch' needs dir:PATH (or package:, hf:) of a tokenizer.")
    tokenizer = load_tokenizer(initial.tokenizer)
    check_tokenizer(tokenizer, initial.encoder, initial.tokenizer, needs_ends=needs_ends)
    return tokenizer

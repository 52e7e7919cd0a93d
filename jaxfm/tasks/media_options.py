"""What tasks on images and on sound have in common: defaults, and how long their rows are."""

import types
from collections.abc import Mapping
from typing import Any

from jaxfm.config import AUTO, Config
from jaxfm.errors import UserError

# Keys whose default is not that of `jaxfm/config.py`: an image, or a recording, fills its row, and small models, which
# nothing was taught before, need long training with strong decay (Steiner et al. 2022, section 3).
DEFAULTS: Mapping[str, Any] = types.MappingProxyType(
    {
        "data.row_length": AUTO,
        "data.packed": False,
        "train.batch_size": 64,
        "train.epochs": 30.0,
        "optim.learning_rate": 1e-3,
        "optim.schedule": "cosine",
        "optim.weight_decay": 0.05,
    }
)
_PACKED_ROWS = 256  # tokens of rows that several of them share, unless data.row_length says otherwise
_ROW_MULTIPLE = 128


def row_length(config: Config, most: int, one: str) -> int:
    """Returns the tokens of a row: of the largest example, or where examples share rows as the config says.

    Args:
      config: of the run.
      most: tokens of the largest example.
      one: what an example is, with its article.

    Raises:
      UserError: the config's rows are too short.
    """
    given, packed = config.data.row_length, config.data.packed
    if given == AUTO:
        return max(-(-most // _ROW_MULTIPLE) * _ROW_MULTIPLE, _PACKED_ROWS) if packed else most
    if given < most:
        raise UserError(
            f"config.data.row_length: is {given}, but {one} has up to {most} tokens. Take auto, or at least {most}."
        )
    return given

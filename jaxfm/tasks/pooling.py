"""How the vector of a text may be read, by what its tokens see."""

from jaxfm.core.encoder_config import FULL, EncoderConfig
from jaxfm.errors import UserError


def check_pooling(encoder: EncoderConfig, pooling: str) -> None:
    """Raises UserError where a text's vector is that of its first token, which sees no other."""
    if pooling == "cls" and encoder.sight != FULL:
        raise UserError(
            "config.task.pooling: is 'cls', but the first token of an encoder whose sight is "
            f"{encoder.sight!r} sees no other. Take mean, or config.model.sight={FULL}."
        )

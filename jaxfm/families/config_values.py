"""Values of a config.json: each of the right kind and in its range, or a message that names its key."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from jaxfm.core.encoder_config import LARGEST, EncoderConfig
from jaxfm.errors import UserError

# Field of EncoderConfig -> the key that most families have for it.
SIZES: Mapping[str, str] = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "ffn_size": "intermediate_size",
}
# The same of encoders that read no text.
IMAGE_SIZES: Mapping[str, str] = {field: key for field, key in SIZES.items() if field != "vocab_size"}
# transformers' name of an activation -> ours. The approximations of gelu by tanh differ in how they are written only.
ACTIVATION_NAMES: Mapping[str, str] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
_SHOWN = 80  # characters of a value in a message
_REQUIRED = object()


@dataclasses.dataclass(frozen=True)
class ConfigValues:
    """The parsed file and its path, for messages.

    The keys of its methods are those of config.json, their fields those of EncoderConfig. Every method raises
    UserError with path, key, value and rule where the value breaks the rule.
    """

    values: Mapping[str, Any]
    where: str

    @property
    def family(self) -> str:
        """The model_type."""
        return self.values["model_type"]

    def error(self, key: str, rule: str) -> UserError:
        """Returns the error for a key whose value breaks a rule."""
        return UserError(f"{self.where}: {key} is {shown(self.values.get(key))}; {rule}")

    def integer(self, field: str, key: str, default: Any = _REQUIRED, *, least: int = 1) -> int:
        """Returns an integer of at least `least` and at most LARGEST of the field."""
        value = self._get(key, default)
        if not is_integer(value) or not least <= value <= LARGEST[field]:
            rule = f"it must be an integer from {least} to {LARGEST[field]:,}"
            raise self.error(key, f"{rule}{_as_integer(value, least, LARGEST[field])}.")
        return value

    def number(self, key: str, default: Any, *, rule: str, holds: Callable[[float], bool]) -> float:
        """Returns a finite number for which a rule holds."""
        value = self._get(key, default)
        if not is_number(value) or not holds(value):
            raise self.error(key, f"it must be {rule}.")
        return float(value)

    def probability(self, key: str, default: float) -> float:
        """Returns a dropout rate."""
        return self.number(key, default, rule="a number from 0 to below 1", holds=lambda value: 0 <= value < 1)

    def positive(self, key: str, default: float) -> float:
        """Returns a small positive number, above 0 and at most 1: an epsilon or a standard deviation."""
        return self.number(key, default, rule="a number above 0 and at most 1", holds=lambda value: 0 < value <= 1)

    def boolean(self, key: str, default: bool) -> bool:
        """Returns true or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "it must be true or false.")
        return value

    def word(self, key: str, default: str, *, of: Collection[str]) -> str:
        """Returns one of the words `of`."""
        value = self._get(key, default)
        if not isinstance(value, str) or value not in of:
            raise self.error(key, f"it must be one of {', '.join(map(repr, of))}.")
        return value

    def activation(self, key: str, default: str) -> str:
        """Returns the activation that a name of transformers stands for."""
        value = self._get(key, default)
        if not isinstance(value, str) or value not in ACTIVATION_NAMES:
            raise self.error(key, f"the activations computed here are {', '.join(ACTIVATION_NAMES)}.")
        return ACTIVATION_NAMES[value]

    def side(self, field: str, key: str, default: Any = _REQUIRED) -> int:
        """Returns the side of a square, which may be written as [height, width]."""
        value = self._get(key, default)
        sides: list[Any] = value if isinstance(value, list) and len(value) == 2 else [value, value]
        side: Any = sides[0]
        if side != sides[1] or not is_integer(side) or not 1 <= side <= LARGEST[field]:
            raise self.error(
                key, f"it must be an integer from 1 to {LARGEST[field]:,}: the side of a square in pixels."
            )
        return side

    def rope_theta(self, key: str, default: float, given: Any = None) -> float:
        """Returns the base of rotary frequencies: `given`, else the value of the key."""
        theta = self._get(key, default) if given is None else given
        if not is_number(theta) or not 0 < theta <= 1e12:
            raise UserError(f"{self.where}: {key} is {shown(theta)}; it must be a positive number, at most 1e12.")
        return float(theta)

    def require(self, **required: Any) -> None:
        """Refuses values with which transformers computes another function than the encoder here."""
        for key, value in required.items():
            if self.values.get(key, value) != value:
                raise self.error(key, f"the {self.family} encoder here computes {value!r}.")

    def sizes(self, keys: Mapping[str, str] = SIZES) -> dict[str, Any]:
        """Returns the family and the fields of SIZES, as arguments of EncoderConfig; `keys` is field -> key."""
        width, heads = (self.integer(field, keys[field]) for field in ("hidden_size", "num_heads"))
        if width % heads:
            names = keys["hidden_size"], keys["num_heads"]
            raise UserError(f"{self.where}: {names[0]} {width} is not a multiple of {names[1]} {heads}.")
        return {"family": self.family, **{field: self.integer(field, key) for field, key in keys.items()}}

    def rotary_sizes(self) -> dict[str, Any]:
        """Returns `sizes` of an encoder with rotary positions, whose heads have an even width."""
        sizes = self.sizes()
        if sizes["hidden_size"] // sizes["num_heads"] % 2:
            raise UserError(
                f"{self.where}: hidden_size / num_attention_heads must be even: rotary positions turn pairs."
            )
        return sizes

    def _get(self, key: str, default: Any) -> Any:
        if key in self.values:
            return self.values[key]
        if default is _REQUIRED:
            raise UserError(f"{self.where}: the key {key!r} is missing.")
        return default


def written_activation(name: str) -> str:
    """Returns transformers' name of an activation of ours."""
    return next(theirs for theirs, ours in ACTIVATION_NAMES.items() if ours == name)


def written_sizes(encoder: EncoderConfig, keys: Mapping[str, str] = SIZES) -> dict[str, Any]:
    """Returns the values that `ConfigValues.sizes` reads; `keys` is field -> key."""
    return {key: getattr(encoder, field) for field, key in keys.items()}


def shown(value: Any) -> str:
    """Returns a value as JSON writes it, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=repr) if not isinstance(value, str) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number; integers beyond those that a float holds are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_integer(value: Any) -> bool:
    """Whether a JSON value is an integer, not true or false."""
    return isinstance(value, int) and not isinstance(value, bool)


def _as_integer(value: Any, least: int, most: int) -> str:
    """Names the integer that is probably meant; "" if none is."""
    try:
        meant = float(value) if isinstance(value, str | float) else math.nan
    except ValueError:
        return ""
    return f" (write {int(meant)})" if meant.is_integer() and least <= meant <= most else ""

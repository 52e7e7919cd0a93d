"""Keys and bounds of values; messages for whole files are in tests/hub/test_config_json.py."""

from typing import Any

import pytest

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families.config_values import LARGEST, SIZES, ConfigValues, shown, written_sizes

OTHER = {"vocab_size": "words", "hidden_size": "dim", "num_layers": "n_layers", "num_heads": "n_heads", "ffn_size": "f"}
SHAPE = EncoderConfig(family="x", vocab_size=11, hidden_size=6, num_layers=3, num_heads=2, ffn_size=10)


@pytest.mark.parametrize("keys", [SIZES, OTHER], ids=["usual", "other"])
def test_sizes_are_read_as_they_are_written(keys: dict[str, str]) -> None:
    values = written_sizes(SHAPE, keys)
    assert set(values) == set(keys.values())
    read = ConfigValues(values | {"model_type": "x"}, "c.json").sizes(keys)
    assert read == {"family": "x", "vocab_size": 11, "hidden_size": 6, "num_layers": 3, "num_heads": 2, "ffn_size": 10}


def test_a_message_names_the_key_of_the_file() -> None:
    values = written_sizes(SHAPE, OTHER) | {"model_type": "x", "n_heads": 4}
    with pytest.raises(UserError, match=r"^c\.json: dim 6 is not a multiple of n_heads 4\.$"):
        ConfigValues(values, "c.json").sizes(OTHER)


def test_every_size_has_a_bound() -> None:
    assert set(SIZES) <= set(LARGEST)


@pytest.mark.parametrize(
    ("value", "text"), [("a", "'a'"), (None, "null"), ([1, True], "[1, true]"), ("x" * 100, "'" + "x" * 79 + " ...")]
)
def test_values_are_shown_as_json(value: Any, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize("value", [16, [16, 16]])
def test_the_side_of_a_square(value: object) -> None:
    assert (
        ConfigValues({"model_type": "vit", "patch_size": value}, "config.json").side("patch_size", "patch_size") == 16
    )


@pytest.mark.parametrize("value", [[16, 14], 0, "16", True, [16], None, 10**7])
def test_what_is_not_the_side_of_a_square(value: object) -> None:
    with pytest.raises(UserError, match="the side of a square in pixels"):
        ConfigValues({"model_type": "vit", "patch_size": value}, "config.json").side("patch_size", "patch_size")

"""config.json of RoBERTa, and of XLM-RoBERTa, which shares all but the name."""

from typing import Any

import pytest

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.hub.config_json import encoder_config, hf_config

SHAPE = EncoderConfig(
    family="roberta", vocab_size=11, hidden_size=6, num_layers=3, num_heads=2, ffn_size=10, max_positions=7
)


def config(**changes: Any) -> dict[str, Any]:
    return hf_config(SHAPE, head="token_classes", pad_token_id=1, labels=("O", "B-X")) | changes


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
@pytest.mark.parametrize("pad", [None, "1", -1])
def test_the_number_of_the_padding_is_needed(pad: Any, family: str) -> None:
    values = config(model_type=family, pad_token_id=pad)
    with pytest.raises(UserError, match=rf"^here/config.json: pad_token_id is .*; {family} counts positions from"):
        encoder_config(values, "here/config.json")
    bert = config(model_type="bert", pad_token_id=None)
    assert encoder_config(bert, "config.json").position_offset == 0  # BERT does not count so


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta"])
def test_positions_start_after_those_of_padding(family: str) -> None:
    values = config(model_type=family, pad_token_id=1, max_position_embeddings=514)
    read = encoder_config(values, "config.json")
    assert (read.family, read.position_offset, read.max_positions) == (family, 2, 512)
    assert hf_config(read, pad_token_id=1, labels=())["max_position_embeddings"] == 514
    bert = config(model_type="bert", max_position_embeddings=512)
    assert encoder_config(bert, "config.json").position_offset == 0

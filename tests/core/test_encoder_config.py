import dataclasses
import json
import pathlib

import pytest

from jaxfm.core.encoder_config import EncoderConfig, has_padded_rows
from jaxfm.core.spec import read_spec_values


@pytest.mark.parametrize(("entries", "rows"), [(1, 128), (128, 128), (129, 256), (30522, 30592)])
def test_the_vocabulary_is_padded_to_a_multiple_of_128(entries: int, rows: int) -> None:
    assert EncoderConfig(vocab_size=entries).padded_vocab_size == rows


def test_which_parameters_have_padded_rows() -> None:
    assert has_padded_rows("encoder/embeddings/word/embedding") and has_padded_rows("generator/decoder/bias")
    assert not has_padded_rows("encoder/embeddings/type/embedding") and not has_padded_rows("head/bias")


@pytest.mark.parametrize("ffn", ["gelu", "geglu"])
@pytest.mark.parametrize("biases", [True, False])
def test_a_task_json_of_version_2_is_read_under_the_names_of_today(
    ffn: str, biases: bool, tmp_path: pathlib.Path
) -> None:
    older = {"family": "modernbert", "hidden_size": 64, "num_heads": 4, "ffn": ffn, "linear_bias": biases}
    (tmp_path / "task.json").write_text(json.dumps({"version": 2, "task": "ner", "encoder": older}))
    read = EncoderConfig(**read_spec_values(tmp_path)["encoder"])
    assert (read.activation, read.gated) == ("gelu", ffn == "geglu")
    assert (read.attention_bias, read.ffn_bias, read.head_bias) == (biases,) * 3
    assert read.hidden_size == 64 and read.norm_bias


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(AssertionError, match="multiple of num_heads"):
        dataclasses.replace(EncoderConfig(), num_heads=7)

import dataclasses

import pytest

from jaxfm.core.encoder_config import EncoderConfig, has_padded_rows


@pytest.mark.parametrize(("entries", "rows"), [(1, 128), (128, 128), (129, 256), (30522, 30592)])
def test_the_vocabulary_is_padded_to_a_multiple_of_128(entries: int, rows: int) -> None:
    assert EncoderConfig(vocab_size=entries).padded_vocab_size == rows


def test_which_parameters_have_padded_rows() -> None:
    assert has_padded_rows("encoder/embeddings/word/embedding") and has_padded_rows("generator/decoder/bias")
    assert not has_padded_rows("encoder/embeddings/type/embedding") and not has_padded_rows("head/bias")


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(AssertionError, match="multiple of num_heads"):
        dataclasses.replace(EncoderConfig(), num_heads=7)

import pathlib

import numpy as np
import pytest
import safetensors.numpy
from transformers import AutoTokenizer

from jaxfm import files
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.hub.export import write_model
from jaxfm.hub.weights import read_checkpoint
from tests import tiny

LABELS = ("O", "B-X", "I-X")


def test_a_folder_holds_config_weights_and_tokenizer(tmp_path: pathlib.Path) -> None:
    tiny.write_tokenizer(tmp_path / "tokens")
    tokenizer = load_tokenizer(tmp_path / "tokens")
    params = tiny.random_params(tiny.ENCODER, len(LABELS), seed=1)
    output = tmp_path / "output"
    output.mkdir()
    write_model(
        output, tiny.ENCODER, head="token_classes", params=params, tokenizer=tokenizer, labels=LABELS,
        extra={"problem_type": "x"},
    )  # fmt: skip
    values = files.read_json(output / "config.json")
    assert values["architectures"] == ["BertForTokenClassification"] and values["problem_type"] == "x"
    assert values["id2label"] == {"0": "O", "1": "B-X", "2": "I-X"} and values["pad_token_id"] == 0
    assert AutoTokenizer.from_pretrained(output).get_vocab() == tokenizer.get_vocab()
    words = safetensors.numpy.load_file(output / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert words.shape == (96, 32)
    read = read_checkpoint(output)
    assert (read.encoder, read.heads, read.labels) == (tiny.ENCODER, ("token_classes",), LABELS)
    for name, value in params.items():
        np.testing.assert_array_equal(read.params[name], value, err_msg=name)


def test_the_head_that_is_named_is_the_one_that_is_written(tmp_path: pathlib.Path) -> None:
    tiny.write_tokenizer(tmp_path)
    tokenizer, params = load_tokenizer(tmp_path), tiny.random_params(tiny.ENCODER, len(LABELS), seed=1)
    with pytest.raises(AssertionError, match=r"not the parameters of vocabulary: \['decoder/bias', 'head/bias'"):
        write_model(tmp_path, tiny.ENCODER, head="vocabulary", params=params, tokenizer=tokenizer)
    wrong = params | {"head/kernel": np.zeros((32, 4), np.float32)}
    with pytest.raises(AssertionError, match=r"head/kernel: has shape \(32, 4\), not \(32, 3\)"):
        write_model(tmp_path, tiny.ENCODER, head="token_classes", params=wrong, tokenizer=tokenizer)


def test_an_encoder_without_tables_is_refused_before_anything_is_written(tmp_path: pathlib.Path) -> None:
    tiny.write_tokenizer(tmp_path / "tokens")
    output = tmp_path / "output"
    output.mkdir()
    with pytest.raises(UserError, match="an encoder of family 'xlm-roberta-xl' cannot be written for transformers"):
        write_model(
            output, preset("xlmr_xl"), head="vocabulary", params={}, tokenizer=load_tokenizer(tmp_path / "tokens")
        )
    assert not list(output.iterdir())

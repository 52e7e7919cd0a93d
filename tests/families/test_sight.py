"""Encoders whose tokens see only those before them: which weights have that, how it is changed, what is refused."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm import files
from jaxfm.config import ModelConfig
from jaxfm.core.encoder_config import CAUSAL, FULL, PREFIX, EncoderConfig
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.families.models import parameter_shapes
from jaxfm.families.registry import FAMILIES, preset, with_sight
from jaxfm.hub.config_json import encoder_config, hf_config, missing_class
from jaxfm.hub.export import write_model
from jaxfm.hub.initial import resolve
from jaxfm.hub.weights import read_checkpoint
from jaxfm.tasks.pooling import check_pooling
from tests import tiny


def shape(name: str, sight: str, tokens: int = 90) -> EncoderConfig:
    sizes = {"hidden_size": 16, "num_heads": 2, "ffn_size": 24, "num_layers": 4, "max_positions": 40}
    return with_sight(dataclasses.replace(preset(name), vocab_size=tokens, **sizes), sight)


def write(folder: pathlib.Path, encoder: EncoderConfig) -> dict[str, np.ndarray]:
    """Writes an encoder with a vocabulary head; returns its parameters."""
    tokenizer = load_tokenizer(pathlib.Path(tiny.write_tokenizer(folder / "tokens").removeprefix("dir:")))
    encoder = dataclasses.replace(encoder, vocab_size=len(tokenizer))
    draw = np.random.default_rng(0)
    params = {
        path: draw.normal(size=size).astype(np.float32)
        for path, size in parameter_shapes(encoder, "vocabulary", 1).items()
    }
    for path, value in params.items():
        if path.endswith(("word/embedding", "decoder/bias")):
            value[encoder.vocab_size :] = 0
    write_model(folder, encoder, head="vocabulary", params=params, tokenizer=tokenizer)
    return params


@pytest.mark.parametrize(
    ("name", "family", "architecture"),
    [
        ("bert_tiny", "bert", "BertLMHeadModel"),
        ("modern_tiny", "modernbert-decoder", "ModernBertDecoderForCausalLM"),
    ],
)
def test_a_causal_encoder_goes_out_under_the_class_that_computes_it_and_comes_back(
    name: str, family: str, architecture: str, tmp_path: pathlib.Path
) -> None:
    encoder = shape(name, CAUSAL)
    assert encoder.family == family and with_sight(encoder, FULL).family == preset(name).family
    params = write(tmp_path, encoder)
    values = files.read_json(tmp_path / "config.json")
    assert values["architectures"] == [architecture] and values["model_type"] == family
    tokenizer = load_tokenizer(tmp_path)
    assert values["eos_token_id"] == tokenizer.sep_token_id and values["bos_token_id"] == tokenizer.cls_token_id
    read = read_checkpoint(tmp_path)
    assert read.encoder == dataclasses.replace(encoder, vocab_size=len(tokenizer)) and read.heads == ("vocabulary",)
    for path, value in params.items():
        np.testing.assert_array_equal(read.params[path], value, err_msg=path)
    assert FAMILIES[family].kind_of(architecture) == "vocabulary"


def test_weights_of_one_sided_sight_are_taken_as_what_the_config_says(tmp_path: pathlib.Path) -> None:
    write(tmp_path, shape("modern_tiny", CAUSAL))
    found = ModelConfig(init=f"dir:{tmp_path}")
    with pytest.raises(UserError, match=r"tokens that see only those before them.* config\.model\.sight=full to train"):
        resolve(found)
    decoder = resolve(dataclasses.replace(found, sight=CAUSAL)).encoder
    assert (decoder.sight, decoder.family) == (CAUSAL, "modernbert-decoder")
    encoder = resolve(dataclasses.replace(found, sight=FULL)).encoder
    assert (encoder.sight, encoder.family, encoder.local_window) == (FULL, "modernbert", decoder.local_window)


def test_windows_are_counted_as_each_class_does() -> None:
    values = {
        "model_type": "modernbert-decoder", "vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 4,
        "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 40, "local_attention": 8,
    }  # fmt: skip
    decoder = encoder_config(values, "here/config.json")
    assert decoder.local_window == 6  # three tokens before, and none after
    written = hf_config(decoder, head="vocabulary", pad_token_id=0, labels=())
    assert written["local_attention"] == 8 and "bos_token_id" not in written
    with pytest.raises(UserError, match="local_attention is 2; it must be at least 4"):
        encoder_config({**values, "local_attention": 2}, "here/config.json")


@pytest.mark.parametrize(
    ("family", "sight"), [("mpnet", CAUSAL), ("deberta-v2", CAUSAL), ("bert", PREFIX), ("modernbert", CAUSAL)]
)
def test_a_sight_that_no_class_computes_is_not_written(family: str, sight: str) -> None:
    encoder = dataclasses.replace(shape("bert_tiny", FULL), family=family, sight=sight)
    assert f"compute no encoder whose sight is '{sight}'" in missing_class(encoder, "vocabulary")


def test_images_have_no_order(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"config\.model\.sight: is 'causal', but patches of images have no order"):
        resolve(ModelConfig(init="scratch", preset="vit_nano", sight=CAUSAL))


def test_a_first_token_that_sees_no_other_is_no_vector_of_a_text() -> None:
    check_pooling(shape("bert_tiny", FULL), "cls")
    check_pooling(shape("bert_tiny", CAUSAL), "mean")
    with pytest.raises(UserError, match=r"config\.task\.pooling: is 'cls'.*Take mean, or config\.model\.sight=full"):
        check_pooling(shape("bert_tiny", CAUSAL), "cls")


def test_older_task_files_say_it_otherwise() -> None:
    from jaxfm.core.encoder_config import upgraded

    values: dict[str, Any] = {"causal": True, "hidden_size": 8}
    assert upgraded(values) == {"sight": CAUSAL, "hidden_size": 8} and upgraded({"causal": False}) == {"sight": FULL}

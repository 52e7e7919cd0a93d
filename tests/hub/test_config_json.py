"""config.json of weights: what each family means, and that anything else is one message that names the key."""

import dataclasses
import itertools
import json
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families.registry import FAMILIES
from jaxfm.hub.config_json import encoder_config, hf_config, labels_of
from tests.families import test_modernbert

SHAPE = EncoderConfig(
    family="bert",
    vocab_size=11,
    hidden_size=6,
    num_layers=3,
    num_heads=2,
    ffn_size=10,
    max_positions=7,
    type_vocab_size=3,
)


def config(**changes: Any) -> dict[str, Any]:
    return hf_config(SHAPE, head="token_classes", pad_token_id=0, labels=("O", "B-X")) | changes


def message(values: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        encoder_config(values, "here/config.json")
    assert str(caught.value).startswith("here/config.json: ")
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_hidden_layers": 1.0}, "num_hidden_layers is 1.0; it must be an integer from 1 to 1,000 (write 1)."),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be an integer from 1 to 1,000."),
        ({"num_hidden_layers": -2}, "num_hidden_layers is -2; it must be an integer from 1"),
        ({"num_hidden_layers": True}, "num_hidden_layers is true; it must be an integer from 1"),
        ({"num_hidden_layers": None}, "num_hidden_layers is null; it must be an integer from 1"),
        ({"num_hidden_layers": [3]}, "num_hidden_layers is [3]; it must be an integer from 1"),
        ({"hidden_size": "32", "num_attention_heads": "2"}, "hidden_size is '32'; it must be an integer from 1 to"),
        ({"hidden_size": "32"}, "(write 32)."),
        ({"num_attention_heads": "two"}, "num_attention_heads is 'two'; it must be an integer from 1 to 1,000."),
        ({"vocab_size": 10**400}, "vocab_size is 1000"),
        ({"vocab_size": 0}, "vocab_size is 0; it must be an integer from 1 to 10,000,000."),
        ({"intermediate_size": 2.5}, "intermediate_size is 2.5; it must be an integer from 1 to 1,000,000."),
        ({"max_position_embeddings": 10**12}, "max_position_embeddings is 1000000000000; it must be"),
        ({"type_vocab_size": 0}, "type_vocab_size is 0; it must be an integer from 1"),
        ({"hidden_dropout_prob": 2.0}, "hidden_dropout_prob is 2.0; it must be a number from 0 to below 1."),
        ({"hidden_dropout_prob": None}, "hidden_dropout_prob is null; it must be a number from 0 to below 1."),
        ({"hidden_dropout_prob": "0.1"}, "hidden_dropout_prob is '0.1'; it must be a number from 0 to below 1."),
        ({"attention_probs_dropout_prob": 1}, "attention_probs_dropout_prob is 1; it must be a number from 0 to below"),
        ({"attention_probs_dropout_prob": False}, "attention_probs_dropout_prob is false; it must be a number"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0; it must be a number above 0 and at most 1."),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is NaN; it must be a number above 0"),
        ({"initializer_range": float("inf")}, "initializer_range is Infinity; it must be a number above 0"),
        ({"id2label": ["O", "B-PER"]}, 'id2label is ["O", "B-PER"]; it must be an object from the numbers'),
        ({"id2label": {"O": 0, "B-PER": 1}}, "This is label2id: names and numbers are exchanged."),
        ({"id2label": {"0": "O", "1": "B", "3": "I"}}, "without gaps: '2' is not among its 3 keys."),
        ({"id2label": {"1": "O", "2": "B"}}, "without gaps: '0' is not among its 2 keys."),
        ({"id2label": {"0": "O", "1": None}}, "the name of class 1 must be text, not null."),
        ({"id2label": {"0": "O", "1": ["B"]}}, 'the name of class 1 must be text, not ["B"].'),
        ({"id2label": "O"}, "id2label is 'O'; it must be an object"),
        (
            {"model_type": "deberta"},
            "'deberta' is not supported. The families there are: albert, audio-spectrogram-transformer, bert",
        ),
        (
            {"model_type": "mbart"},
            "'mbart' is not supported. The families there are: albert, audio-spectrogram-transformer, bert",
        ),
        ({"model_type": ["bert"]}, 'model_type ["bert"] is not supported. The families there are: albert'),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_kind_or_outside_its_range(change: dict[str, Any], words: str) -> None:
    assert words in message(config(**change))


def test_labels() -> None:
    assert labels_of({}, "") == labels_of({"id2label": None}, "") == labels_of({"id2label": {}}, "") == ()
    names = {str(number): f"L{number}" for number in (10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)}
    assert labels_of({"id2label": names}, "") == tuple(f"L{number}" for number in range(11))
    assert labels_of({"id2label": {"0": 4, "1": "x"}}, "") == ("4", "x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "robertta"}, "model_type 'robertta' is not supported. Did you mean 'roberta'?"),
        ({"model_type": None}, "model_type null is not supported."),
        ({"model_type": "llama"}, "The families there are: albert, audio-spectrogram-transformer, bert, "),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; the activations computed here are gelu, "),
        ({"hidden_act": ["gelu"]}, 'hidden_act is ["gelu"]; the activations'),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"model_type": "mpnet", "is_decoder": True}, "is_decoder is true"),
        ({"add_cross_attention": True}, "add_cross_attention is true"),
        (
            {"model_type": "esm", "position_embedding_type": []},
            "position_embedding_type is []; it must be one of 'rotary', 'absolute'.",
        ),
        ({"num_attention_heads": 4}, "hidden_size 6 is not a multiple of num_attention_heads 4."),
    ],
    ids=str,
)
def test_a_config_of_another_function(change: dict[str, Any], words: str) -> None:
    assert words in message(config(**change))


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"])
def test_a_missing_key(key: str) -> None:
    values = config()
    del values[key]
    with pytest.raises(UserError, match=f"^here/config.json: the key '{key}' is missing"):
        encoder_config(values, "here/config.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([0, 1, 2, "gelu"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["0", "1", "full_attention", "rope_theta"]), inner, max_size=3)
    ),
    max_leaves=5,
)


def starts() -> list[dict[str, Any]]:
    """A right config of every family."""
    shapes = [next(iter(family.presets.values()), None) for family in FAMILIES.values()]
    written = [hf_config(shape, pad_token_id=0, labels=()) for shape in shapes if shape is not None]
    electra = dataclasses.replace(SHAPE, family="electra")
    return [
        config(),
        config(model_type="roberta", pad_token_id=1),
        hf_config(electra, pad_token_id=0, labels=()),
        test_modernbert.config(),
        *written,
    ]


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """A right config with some values replaced, some keys missing and some foreign ones."""
    values = dict(draw(st.sampled_from(starts())))
    keys = st.sampled_from([*values, "embedding_size", "rope_scaling", "position_embedding_type", "is_decoder"])
    for key, value in draw(st.dictionaries(keys, JSON, min_size=1, max_size=3)).items():
        values[key] = value
    for key in draw(st.sets(st.sampled_from(sorted(values)), max_size=1)):
        del values[key]
    return values


@hypothesis.given(mutated())
@hypothesis.settings(deadline=None, max_examples=200)
def test_any_config_is_a_right_one_or_a_message_that_names_its_key(values: dict[str, Any]) -> None:
    values = json.loads(json.dumps(values))
    try:
        found = encoder_config(values, "here/config.json")
    except UserError as error:
        text = str(error)
        assert text.startswith("here/config.json: ") and len(text) < 600
        keys = {
            *values,
            *itertools.chain(*starts()),
            "model_type",
            "hidden_size",
            "global_rope_theta",
            "local_rope_theta",
            "embedding_size",
        }
        assert any(key in text for key in keys) or "is missing" in text
        return
    assert found.hidden_size % found.num_heads == 0 and 0 <= found.dropout < 1 and 0 <= found.attention_dropout < 1
    numbers = (found.num_layers, found.num_heads, found.ffn_size, found.max_positions)
    assert found.reads_images == (found.vocab_size == 0)
    assert all(type(number) is int and number >= 1 for number in numbers)
    # What is read is what jaxfm would write.
    written = hf_config(found, pad_token_id=max(found.position_offset - 1, 0), labels=())
    assert encoder_config(written, "again") == found

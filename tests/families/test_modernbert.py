"""config.json of ModernBERT, of transformers 5 and before."""

import dataclasses
from typing import Any

import pytest

from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.hub.config_json import encoder_config, hf_config

MODERN = dataclasses.replace(
    preset("modern_base"), vocab_size=11, hidden_size=8, num_layers=7, num_heads=2, ffn_size=10, max_positions=9
)


def config(**changes: Any) -> dict[str, Any]:
    return hf_config(MODERN, head="vocabulary", pad_token_id=0, labels=()) | changes


def test_config_of_modernbert_old_and_new() -> None:
    assert encoder_config(config(), "config.json") == MODERN
    new = {
        name: value for name, value in config().items() if not name.startswith("glob") and name != "local_rope_theta"
    }
    old = {name: value for name, value in config().items() if name not in ("layer_types", "rope_parameters")}
    none = {name: value for name, value in new.items() if name in old}
    for values in (new, old, none, none | {"position_embedding_type": "absolute", "rope_scaling": None}):
        assert encoder_config(values, "config.json") == MODERN
    own = dataclasses.replace(MODERN, global_rope_theta=7.0, local_rope_theta=5.0, global_every=2, local_window=4)
    changes = {"global_rope_theta": 7, "local_rope_theta": 5.0, "global_attn_every_n_layers": 2, "local_attention": 4}
    assert encoder_config(old | changes, "config.json") == own
    every_layer = encoder_config(config(layer_types=["full_attention"] * 7), "config.json")
    assert (every_layer.local_window, every_layer.global_every) == (0, 1)
    written = hf_config(every_layer, pad_token_id=0, labels=())
    assert encoder_config(written, "config.json") == every_layer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_activation": "mish"}, "hidden_activation is 'mish'; the activations computed here are gelu, "),
        ({"classifier_activation": 1}, "classifier_activation is 1"),
        ({"decoder_bias": 0}, "decoder_bias is 0; it must be true or false."),
        ({"attention_bias": "yes"}, "attention_bias is 'yes'"),
        ({"num_attention_heads": 8}, "must be even"),
        ({"layer_types": ["sliding_attention"] * 7}, 'layer_types is ["sliding_attention"'),
        ({"layer_types": ["full_attention"] * 6}, "of 7 layers"),
        ({"layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"] * 3}, "every n-th"),
        ({"layer_types": None, "global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0"),
        ({"local_attention": 0}, "local_attention is 0"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "no rope_scaling"),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, "takes rope_parameters of"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "only rope_type 'default'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4, "factor": 2.0}}}, "only rope_type 'default'"),
        ({"rope_parameters": None, "local_rope_theta": None}, "local_rope_theta is null"),
    ],
    ids=str,
)  # fmt: skip
def test_a_modernbert_of_another_function(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        encoder_config(config(**change), "here/config.json")
    assert str(caught.value).startswith("here/config.json: ") and words in str(caught.value)

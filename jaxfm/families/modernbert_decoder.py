"""ModernBERT with causal sight, as the decoders of Ettin (Weller et al. 2025) have it: read, trained, written.

Queries, keys and values are three matrices in its checkpoints. Its window counts the token itself, so that it reaches
one token less far back than ModernBERT's of the same number.
"""

import dataclasses
from typing import Any

from jaxfm.core.encoder_config import CAUSAL, FULL, EncoderConfig
from jaxfm.families import modernbert
from jaxfm.families.config_values import ConfigValues
from jaxfm.families.family import Family, vocabulary_head
from jaxfm.families.tensors import OTHER_HEADS, Tensor, linear, norm

_ENCODER: dict[str, Tensor] = {
    **modernbert.ENCODER,
    **linear("layers/attention/query", "layers.{}.attn.q_proj"),
    **linear("layers/attention/key", "layers.{}.attn.k_proj"),
    **linear("layers/attention/value", "layers.{}.attn.v_proj"),
}
_TRANSFORM: dict[str, Tensor] = {**linear("transform/dense", "lm_head.dense"), **norm("transform/norm", "lm_head.norm")}
# Of `local_attention`: half of it, the token itself left out, is seen to the left (masking_utils of transformers).
_ITSELF = 2
_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


def _read_config(values: ConfigValues) -> EncoderConfig:
    """Reads config.json; defaults are those of transformers' ModernBertDecoderConfig."""
    found = modernbert.read_config(values)
    if found.local_window and found.local_window < 2 * _ITSELF:
        raise values.error("local_attention", f"it must be at least {2 * _ITSELF}: a token sees itself and one before.")
    window = found.local_window - _ITSELF if found.local_window else 0
    return dataclasses.replace(found, sight=CAUSAL, local_window=window)


def _write_config(encoder: EncoderConfig) -> dict[str, Any]:
    """Returns the encoder's values of config.json."""
    window = encoder.local_window + _ITSELF if encoder.local_window else 0
    values = modernbert.write_config(dataclasses.replace(encoder, sight=FULL, local_window=window))
    # This class takes no null for them; `hub.export` writes those of the tokenizer.
    return {key: value for key, value in values.items() if key not in _SPECIAL_TOKENS}


FAMILY = Family(
    name="modernbert-decoder",
    architecture="ModernBertDecoder",
    prefix="model.",
    encoder=_ENCODER,
    heads={
        "vocabulary": vocabulary_head(
            _TRANSFORM, weight="decoder.weight", bias="decoder.bias", suffix="ForCausalLM", causal_suffix="ForCausalLM"
        )
    },
    known_extras=("head.*", *OTHER_HEADS),
    read_config=_read_config,
    write_config=_write_config,
    sights=(CAUSAL,),
    causal_of=modernbert.FAMILY.name,
)

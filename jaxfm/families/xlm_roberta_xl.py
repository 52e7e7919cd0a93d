"""XLM-RoBERTa XL (Goyal et al. 2021): a shape alone, for plans and for training from scratch.

Theirs does not normalise the embeddings, so that its weights do not fit here: it has no tables and is never exported.
"""

from jaxfm.core.encoder_config import EncoderConfig

PRESETS = {
    "xlmr_xl": EncoderConfig(
        family="xlm-roberta-xl",
        vocab_size=250880,
        hidden_size=2560,
        num_layers=36,
        num_heads=32,
        ffn_size=10240,
        position_offset=2,
        type_vocab_size=1,
        norm_eps=1e-5,
        norm_placement="pre",
    ),
}

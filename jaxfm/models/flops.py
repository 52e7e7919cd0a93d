"""Floating-point operations that training needs, by formula: what model FLOPs utilisation (MFU) is a share of."""

# D model, F ffn, T tokens a row, V vocabulary, L layers

import fnmatch

from jaxfm.config import AdaptConfig, Config
from jaxfm.core.encoder_config import EncoderConfig


def flops_per_token(config: Config, encoder: EncoderConfig, classes: int = 0) -> float:
    """Returns the operations of forward and backward pass a token: 6 a weight that meets it, 12 D a key that it sees.

    Of a BERT that is 72 L D^2 + 12 L D T + 6 r (D V + D^2), r the share of the tokens that are guessed: recomputation,
    embeddings (looked up), norms, padding, dropout and the optimizer do not count (Chowdhery et al. 2022, appendix B).
    Nor does what frozen layers save: gradients of their weights and, below the lowest that is trained, the backward
    pass. What adapters, low-rank updates and prefixes add is too little to count, and layers that wake up later count
    as trained.

    Args:
      config: row length, what is hidden, the objective, what is trained.
      encoder: shape.
      classes: of a token classifier.
    """
    per_layer = layer_flops(encoder, config.data.row_length, config.adapt)
    total = sum(per_layer)
    width = encoder.hidden_size
    if config.task != "masked_lm":
        return total + 6 * width * (classes + (width if encoder.classifier_transform else 0))
    ratio = config.mask.ratio
    if config.mask.final_ratio is not None:
        ratio = (ratio + config.mask.final_ratio) / 2
    head = 6 * ratio * (width * encoder.vocab_size + width**2)
    if config.objective == "rtd":
        # The generator's layers come before its head; the discriminator's dense layer sees every token.
        layers = max(1, round(config.mask.generator_depth * encoder.num_layers))
        return total + sum(layer_flops(encoder, config.data.row_length)[:layers]) + head + 6 * width**2
    return total + head


def layer_flops(encoder: EncoderConfig, row_length: int, adapt: AdaptConfig | None = None) -> list[float]:
    """Returns the same of each layer; without `adapt` all of them are trained."""
    adapt = AdaptConfig() if adapt is None else adapt
    width, inner = encoder.hidden_size, encoder.ffn_size
    weights = 4 * width**2 + (3 if encoder.ffn == "geglu" else 2) * width * inner
    added = bool(adapt.lora.rank or adapt.adapter_size or adapt.prefix_length)
    # Whether kernels have gradients where a layer is not frozen, and which layers gradients pass through.
    kernels = adapt.train == "all" and not added
    reached = adapt.freeze_layers if added or adapt.train != "all" or _embeddings_frozen(adapt) else 0
    reached = encoder.num_layers if adapt.train == "head" else reached
    total = []
    for layer, keys in enumerate(_keys(encoder, row_length)):
        backward, own = layer >= reached, kernels and layer >= adapt.freeze_layers
        total.append(weights * (2.0 + 2 * backward + 2 * own) + width * keys * (4 + 8 * backward))
    return total


def _embeddings_frozen(adapt: AdaptConfig) -> bool:
    return any(fnmatch.fnmatchcase("encoder/embeddings/word/embedding", pattern) for pattern in adapt.freeze)


def _keys(encoder: EncoderConfig, row_length: int) -> list[int]:
    """Returns how many keys a token of each layer sees."""
    local = min(row_length, encoder.local_window + 1) if encoder.local_window else row_length
    return [local if layer % encoder.global_every else row_length for layer in range(encoder.num_layers)]

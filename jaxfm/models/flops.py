"""Floating-point operations that training needs, by formula: what model FLOPs utilisation (MFU) is a share of.

An objective sums the pieces below. They count 2 operations for each weight that a token meets in the forward pass, 2
for the gradient of its input and 2 for that of the weight, and 12 D for each key that a token sees. Recomputation,
embeddings (a lookup), norms, padding, dropout and the optimizer do not count (Chowdhery et al. 2022, appendix B). Nor
does what freezing saves: gradients of frozen weights, and the backward pass below the lowest trained layer. Adapters,
low-rank updates and prefixes add too little to count. Layers that are unfrozen later count as trained, and so do all
weights of a head, whatever `config.adapt.freeze` says.
"""

# D model, F ffn, T tokens a row, V vocabulary, L layers

import fnmatch

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.encoder_config import CAUSAL, EncoderConfig

_ALL_TRAINED = AdaptConfig()


def dense_flops(inputs: int, outputs: int, *, trained: bool = True, input_gradient: bool = True) -> float:
    """Returns the operations of a matrix of weights [inputs, outputs] for each vector that it multiplies.

    Args:
      inputs: its rows.
      outputs: its columns.
      trained: it has a gradient.
      input_gradient: the vectors have one.
    """
    return 2.0 * (1 + trained + input_gradient) * inputs * outputs


def layer_flops(encoder: EncoderConfig, row_length: int, adapt: AdaptConfig = _ALL_TRAINED) -> list[float]:
    """Returns the operations of each layer a token of rows of `row_length` tokens."""
    width, attended = encoder.hidden_size, encoder.num_heads * encoder.head_dim
    maps = 2 * attended + 2 * encoder.kv_heads * encoder.head_dim
    projections = 3 if encoder.gated else 2
    reached, trains_kernels = _first_with_backward(encoder, adapt), adapt.train == "all" and not _adds(adapt)
    total = []
    for layer, keys in enumerate(_keys(encoder, row_length)):
        passes = {
            "trained": trains_kernels and layer >= adapt.freeze_layers,
            "input_gradient": layer >= reached,
        }
        weights = dense_flops(width, maps, **passes) + dense_flops(width, projections * encoder.ffn_size, **passes)
        # Each term of disentangled attention is one more product of query and key.
        products = 2 + len(encoder.relative_terms)
        total.append(weights + attended * keys * products * (2 + 4 * passes["input_gradient"]))
    return total


def encoder_flops_per_row(encoder: EncoderConfig, row_length: int, adapt: AdaptConfig = _ALL_TRAINED) -> float:
    """Returns the operations of the layers a row; of a BERT that is T (72 L D^2 + 12 L D T)."""
    return row_length * sum(layer_flops(encoder, row_length, adapt))


def patch_flops_per_row(encoder: EncoderConfig, row_length: int, adapt: AdaptConfig = _ALL_TRAINED) -> float:
    """Returns the operations of the map of patches a row: 4 T P^2 C D if it is trained, pixels having no gradient."""
    trained = _first_with_backward(encoder, adapt) == 0 and adapt.train == "all" and not _adds(adapt)
    return row_length * dense_flops(encoder.patches.values, encoder.hidden_size, trained=trained, input_gradient=False)


def vocabulary_head_flops(encoder: EncoderConfig, adapt: AdaptConfig = _ALL_TRAINED) -> float:
    """Returns the operations of a `models.heads.MaskedLM`'s head a predicted token; 6 (D^2 + D V) if all is trained.

    The decoder is the word embedding, and so trained where that is.
    """
    table = adapt.train == "all" and not _adds(adapt) and not _embeddings_frozen(adapt)
    width, narrow = encoder.hidden_size, encoder.embedding_width
    transform = dense_flops(width, narrow, input_gradient=_has_backward(encoder, adapt))
    transform = transform if encoder.vocabulary_transform else 0.0
    return transform + dense_flops(narrow, encoder.vocab_size, trained=table or not encoder.tied_decoder)


def token_head_flops(encoder: EncoderConfig, classes: int, adapt: AdaptConfig = _ALL_TRAINED) -> float:
    """Returns the operations of a `models.heads.TokenClassifier`'s head a token; 6 D C if all is trained."""
    return _classifier_flops(encoder, classes, encoder.classifier_transform, adapt)


def sequence_head_flops(
    encoder: EncoderConfig, outputs: int, pooling: str, adapt: AdaptConfig = _ALL_TRAINED, *, linear: bool = False
) -> float:
    """Returns the operations of a `models.heads.SequenceClassifier`'s head an example.

    With the dense layer that `pooling` "cls" puts before the outputs, unless it is `linear`, that is 6 (D^2 + D C) if
    all is trained.
    """
    dense = (encoder.classifier_transform or pooling == "cls" or encoder.pooler_on_mean) and not linear
    return _classifier_flops(encoder, outputs, dense, adapt)


def prompted_head_flops(encoder: EncoderConfig, words: int, adapt: AdaptConfig = _ALL_TRAINED) -> float:
    """Returns the operations of a `models.prompted.PromptedClassifier`'s head an example, of `words` label words.

    With the transform of the masked-LM head that is 6 (D^2 + D W) if all is trained.
    """
    table = adapt.train == "all" and not _adds(adapt) and not _embeddings_frozen(adapt)
    width, narrow = encoder.hidden_size, encoder.embedding_width
    transform = dense_flops(width, narrow, input_gradient=_has_backward(encoder, adapt))
    transform = transform if encoder.vocabulary_transform else 0.0
    return transform + dense_flops(narrow, words, trained=table or not encoder.tied_decoder)


def pair_head_flops(encoder: EncoderConfig, outputs: int, adapt: AdaptConfig = _ALL_TRAINED) -> float:
    """Returns the operations of a `models.heads.PairClassifier`'s head a pair; 6 (2 D^2 + D C) if all is trained."""
    width = encoder.hidden_size
    dense = dense_flops(2 * width, width, input_gradient=_has_backward(encoder, adapt))
    return dense + dense_flops(width, outputs)


def attention_pool_flops(encoder: EncoderConfig, row_length: int, adapt: AdaptConfig = _ALL_TRAINED) -> float:
    """Returns the operations of a `models.attention_pool.AttentionPool` an image of `row_length` tokens.

    Those are 12 T D^2 for keys and values, 6 (D^2 + 2 D F) after the attention, and 12 D a token for the probe.
    """
    width, reached = encoder.hidden_size, _has_backward(encoder, adapt)
    keys = row_length * dense_flops(width, 2 * width, input_gradient=reached)
    return keys + dense_flops(width, width) + 2 * dense_flops(width, encoder.ffn_size) + 12.0 * width * row_length


def detector_flops(encoder: EncoderConfig, adapt: AdaptConfig = _ALL_TRAINED) -> float:
    """Returns the operations of a `models.electra.Detector` a token, its last layer (D weights) not counted."""
    return dense_flops(encoder.hidden_size, encoder.hidden_size, input_gradient=_has_backward(encoder, adapt))


def _classifier_flops(encoder: EncoderConfig, outputs: int, dense: bool, adapt: AdaptConfig) -> float:
    width, below = encoder.hidden_size, _has_backward(encoder, adapt)
    if not dense:
        return dense_flops(width, outputs, input_gradient=below)
    return dense_flops(width, width, input_gradient=below) + dense_flops(width, outputs)


def _adds(adapt: AdaptConfig) -> bool:
    """Whether what is trained of the encoder is what `adapt` adds to it."""
    return bool(adapt.lora.rank or adapt.adapter_size or adapt.prefix_length)


def _first_with_backward(encoder: EncoderConfig, adapt: AdaptConfig) -> int:
    """Returns the lowest layer whose input has a gradient."""
    if adapt.train == "head":
        return encoder.num_layers
    return adapt.freeze_layers if _adds(adapt) or adapt.train != "all" or _embeddings_frozen(adapt) else 0


def _has_backward(encoder: EncoderConfig, adapt: AdaptConfig) -> bool:
    """Whether the encoder's output has a gradient."""
    return _first_with_backward(encoder, adapt) < encoder.num_layers


def _embeddings_frozen(adapt: AdaptConfig) -> bool:
    return any(fnmatch.fnmatchcase("encoder/embeddings/word/embedding", pattern) for pattern in adapt.freeze)


def _keys(encoder: EncoderConfig, row_length: int) -> list[int]:
    """Returns the number of keys that a token of each layer sees, in the mean."""
    if encoder.sight == CAUSAL:
        row_length = (row_length + 1) // 2
    local = min(row_length, encoder.local_window + 1) if encoder.local_window else row_length
    every, first = encoder.global_every, encoder.global_first
    return [row_length if layer % every == first else local for layer in range(encoder.num_layers)]

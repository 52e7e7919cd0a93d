"""muP: rates found at a small width hold at larger ones (Yang et al. 2022, "Tensor Programs V", arXiv 2203.03466).

A model of hidden_size D is drawn and updated so that it behaves like one of hidden_size `optim.mup` under the standard
parametrisation. With m = D / optim.mup, and Adam (table 8, moved by the equivalence under which tables 3, 8 and
9 agree, so that no factor is left in the model):

| a parameter's axes | deviation when drawn | factor of the rate |
|---|---|---|
| in and out grow with the width (hidden) | m^-1/2 | 1 / m |
| in alone (output) | 1 / m | 1 / m |
| out alone, or a vector (input) | 1 | 1 |

A word embedding that is also the decoder is of the input kind, and the logits need a factor 1 / m. It is put into scale
and bias of the norm directly before the decoder: drawn times 1 / m, and rate times 1 / m. To Adam, whose updates do not
depend on the size of gradients, this is the same as the factor. So models remain ordinary ones.

Factors multiply Adam's direction before the decoupled decay is added: decay times rate is the same at all widths, as in
the authors' MuAdamW. Attention keeps the scale 1 / sqrt(head_dim): head_dim is the same at all widths, heads grow.
"""

# m width over base width. Sizes of axes: D model, N heads, K heads of keys and values, H head dim, F ffn, E embedding.

import dataclasses
import fnmatch
import math
from collections.abc import Mapping
from typing import Any

import jax

from jaxfm.adapt_config import AdaptConfig
from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.training import optimizers
from jaxfm.training.paths import path_name

KEY = "config.optim.mup"


@dataclasses.dataclass(frozen=True)
class Factors:
    """Factors by path; a parameter that is not named has the factor 1.

    Attributes:
      init: of a freshly drawn parameter.
      rate: of the optimizer's direction, before decay is added.
    """

    init: Mapping[str, float] = dataclasses.field(default_factory=dict)
    rate: Mapping[str, float] = dataclasses.field(default_factory=dict)


STANDARD = Factors()

# Pattern of a path -> axes in, axes out. "?" is a size that does not grow with the width, "nD" a multiple of D.
_Axes = tuple[tuple[str, ...], tuple[str, ...]]
_STACKS: Mapping[str, _Axes] = {
    "layers/attention/query/kernel": (("D",), ("N", "H")),
    "layers/attention/key/kernel": (("D",), ("K", "H")),
    "layers/attention/value/kernel": (("D",), ("K", "H")),
    "layers/attention/position_query/kernel": (("D",), ("N", "H")),
    "layers/attention/position_key/kernel": (("D",), ("N", "H")),
    "layers/attention/output/kernel": (("N", "H"), ("D",)),
    "layers/ffn/up/kernel": (("D",), ("F",)),
    "layers/ffn/gate/kernel": (("D",), ("F",)),
    "layers/ffn/down/kernel": (("F",), ("D",)),
    "common/relative/embedding": (("?",), ("?",)),  # [R, D] or [R, N]: a table either way
}
_MATRICES: Mapping[str, _Axes] = {
    **{f"{stack}/{path}": axes for stack in ("encoder", "generator") for path, axes in _STACKS.items()},
    "encoder/embeddings/projection/kernel": (("E",), ("D",)),
    "encoder/embeddings/kernel": (("?", "?", "?"), ("D",)),
    "transform/dense/kernel": (("D",), ("D",)),
    "generator/transform/dense/kernel": (("D",), ("D",)),
    "pooler/kernel": (("D",), ("D",)),
    "dense/kernel": (("nD",), ("D",)),
    "detector/dense/kernel": (("D",), ("D",)),
    "head/kernel": (("nD",), ("?",)),
    "spans/kernel": (("D",), ("?",)),
    "detector/head/kernel": (("D",), ("?",)),
}
# Vectors, tables that are looked up, and scores of a chain of classes: drawn and updated alike at all widths.
_INPUTS = (
    *("*norm/scale", "*norm/bias"),
    *(f"{stack}/layers/*/bias" for stack in ("encoder", "generator")),
    *(f"{stack}/layers/{part}_scale/scale" for stack in ("encoder", "generator") for part in ("attention", "ffn")),
    *(f"encoder/embeddings/{table}/embedding" for table in ("word", "position", "type")),
    *(
        f"encoder/embeddings/{token}"
        for token in ("class_token", "distillation_token", "registers", "detection_tokens", "mask_token")
    ),
    *(f"{part}bias" for part in ("encoder/embeddings/", "encoder/embeddings/projection/", "decoder/")),
    *(f"{layer}/bias" for layer in ("transform/dense", "pooler", "dense", "head", "spans", "detector/*")),
    *("generator/transform/dense/bias", "generator/decoder/bias", "chain/start", "chain/end", "chain/pairs"),
)
# A decoder with its own table [V, E] multiplies the vectors by its rows: E is the axis in.
_DECODERS = ("decoder/embedding", "generator/decoder/embedding")
# What lies below it is a second model with a head of its own, over the embeddings of the first.
_GENERATOR = "generator/"


def check_optimizer(name: str) -> None:
    """Raises UserError for an optimizer that the rules do not hold for."""
    known = [each for each, entry in optimizers.TABLE.items() if entry.scale_free]
    if name not in known:
        raise UserError(
            f"config.optim.name: {name!r}, but {KEY} holds only for optimizers whose update does not depend on the "
            f"size of the gradient: {', '.join(known)}. Take adamw, or {KEY}=0."
        )


def check_fresh(base: int, loaded: Mapping[str, Any]) -> None:
    """Raises UserError where a run with `optim.mup` = `base` starts from the weights `loaded`."""
    if base and loaded:
        raise UserError(
            f"{KEY}: {base}, but the run starts from weights that are loaded (config.model.init). muP decides how "
            f"weights are drawn and holds from there on. Take {KEY}=0, or config.model.init=scratch."
        )


def make_factors(config: Config, encoder: EncoderConfig, params: Any) -> Factors:
    """Returns the factors of all (abstract) parameters of a model that `config` is to train; none without optim.mup.

    Raises:
      UserError: a base width that no model of this shape has, settings that the rules do not hold for, or a parameter
        that no rule knows.
    """
    base = config.optim.mup
    if not base:
        return STANDARD
    check_optimizer(config.optim.name)
    _check_adaptation(base, config.adapt)
    _check_shape(base, encoder)
    multiple = encoder.hidden_size / base
    leaves = {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    found = {path: _factors(path, shape, base, encoder) for path, shape in leaves.items()}
    if unknown := sorted(path for path, factors in found.items() if factors is None):
        some = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise UserError(
            f"{KEY}: {base}, but muP knows no rule for {some}. It knows encoders with a decoder of the vocabulary as "
            f"wide as the encoder, or with linear classes of tokens, spans, texts or images. Take {KEY}=0."
        )
    known = {path: factors for path, factors in found.items() if factors is not None}
    known |= dict.fromkeys(_before_tied_decoder(base, encoder, leaves), (1 / multiple, 1 / multiple))
    return Factors(
        init={path: init for path, (init, _) in known.items() if init != 1.0},
        rate={path: rate for path, (_, rate) in known.items() if rate != 1.0},
    )


def _factors(path: str, shape: tuple[int, ...], base: int, encoder: EncoderConfig) -> tuple[float, float] | None:
    """Returns a parameter's factors when drawn and of its rate; None where no rule knows its path and shape."""
    multiple = encoder.hidden_size / base
    if path in _DECODERS:
        return (1 / multiple, 1 / multiple) if encoder.embedding_width == encoder.hidden_size else None
    if path not in _MATRICES:
        return (1.0, 1.0) if any(fnmatch.fnmatchcase(path, pattern) for pattern in _INPUTS) else None
    inputs, outputs = _MATRICES[path]
    own = shape[1:] if "/layers/" in path else shape  # layers are stacked
    if not _fits(own, (*inputs, *outputs), encoder):
        return None
    grows_in, grows_out = (any(axis in ("D", "nD", "N", "K", "F") for axis in axes) for axes in (inputs, outputs))
    if grows_in and grows_out:
        drawn_by_size = encoder.initializer == "xavier" and "/layers/" in path
        return (1.0 if drawn_by_size else multiple**-0.5), 1 / multiple
    if grows_in:
        return 1 / multiple, 1 / multiple
    if path == "encoder/embeddings/kernel" and encoder.initializer == "xavier":
        # Drawn with variance 2 / (inputs + outputs); at the base width there are fewer outputs.
        values = math.prod(own[:-1])
        return math.sqrt((values + encoder.hidden_size) / (values + base)), 1.0
    return 1.0, 1.0


def _fits(shape: tuple[int, ...], axes: tuple[str, ...], encoder: EncoderConfig) -> bool:
    width = encoder.hidden_size
    sizes = {
        "D": width,
        "N": encoder.num_heads,
        "K": encoder.kv_heads,
        "H": encoder.head_dim,
        "F": encoder.ffn_size,
        "E": encoder.embedding_width,
    }

    def fits(size: int, axis: str) -> bool:
        return size % width == 0 if axis == "nD" else axis == "?" or size == sizes[axis]

    return len(shape) == len(axes) and all(fits(size, axis) for size, axis in zip(shape, axes, strict=True))


def _before_tied_decoder(base: int, encoder: EncoderConfig, leaves: Mapping[str, Any]) -> list[str]:
    """Returns the paths of the norms directly before decoders that are the word embedding.

    Raises UserError for a model whose outputs have no factor: no rule of its head was tested.
    """
    found: list[str] = []
    of_generator = [path for path in leaves if path.startswith(_GENERATOR)]
    for paths in ([path for path in leaves if path not in of_generator], of_generator):
        if not paths or any(path in _DECODERS or _is_output(path) for path in paths):
            continue
        norms = [path for path in paths if path.removeprefix(_GENERATOR).startswith("transform/norm/")]
        if not norms or not encoder.tied_decoder:
            raise UserError(
                f"{KEY}: {base}, but the model has neither an output layer that muP knows nor a norm directly before "
                f"the word embedding that scores the vocabulary, which would carry its factor. Take {KEY}=0."
            )
        found += norms
    return found


def _is_output(path: str) -> bool:
    return path in _MATRICES and _MATRICES[path][1] == ("?",) and _MATRICES[path][0] in (("D",), ("nD",))


def _check_adaptation(base: int, config: AdaptConfig) -> None:
    added = {
        "lora.rank": config.lora.rank,
        "adapter_size": config.adapter_size,
        "prefix_length": config.prefix_length,
    }
    for key, value in added.items():
        if value:
            raise UserError(
                f"{KEY}: {base} contradicts config.adapt.{key}={value}: muP has rules for models that are trained "
                f"whole from random weights, none for what adapters add. Take {KEY}=0, or config.adapt.{key}=0."
            )


def _check_shape(base: int, encoder: EncoderConfig) -> None:
    """Raises UserError for shapes without a model of the base width, or whose function changes with the width."""
    width = encoder.hidden_size
    # Heads, keys' heads and ffn grow as the width does, by whole numbers.
    unit = width // math.gcd(width, encoder.num_heads, encoder.kv_heads, encoder.ffn_size)
    if base % unit:
        nearest = max(round(base / unit), 1) * unit
        raise UserError(
            f"{KEY}: {base}, but a model like this one (hidden_size {width}, {encoder.num_heads} heads of "
            f"{encoder.head_dim}, {encoder.kv_heads} of keys and values, ffn_size {encoder.ffn_size}) has no model of "
            f"that width beside it: heads must keep their width and all sizes their ratios, so it must be a multiple "
            f"of {unit}. The nearest is {nearest}."
        )
    if encoder.initializer not in ("normal", "xavier"):
        raise UserError(f"{KEY}: {base}, but muP does not know how initializer {encoder.initializer!r} draws.")
    if encoder.embedding_scale != 1.0 or encoder.norm_scale_offset != 0.0:
        raise UserError(
            f"{KEY}: {base}, but muP knows no rule for an encoder of family {encoder.family!r}, which scales its "
            f"embeddings by its width, or keeps scales of norms as a distance from 1. Take {KEY}=0."
        )

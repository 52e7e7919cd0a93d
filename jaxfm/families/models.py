"""The model that a checkpoint's tensors fill, by kind of head; the only source of their shapes."""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
from flax import nnx

from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.towers import TowersConfig
from jaxfm.models.adapters import without_adapters
from jaxfm.models.detector import Detector
from jaxfm.models.electra import ReplacedTokenModel
from jaxfm.models.heads import MaskedLM, SequenceClassifier, SpanClassifier, TokenClassifier
from jaxfm.models.image_classifier import ImageClassifier
from jaxfm.models.sound_classifier import SoundClassifier
from jaxfm.models.two_towers import TwoTowers
from jaxfm.parallel.mesh import initialise

# Kind of head -> the model that has it over an encoder, with a number of classes where the head has classes.
KINDS: Mapping[str, Callable[[EncoderConfig, int], nnx.Module]] = {
    "token_classes": lambda encoder, count: TokenClassifier(encoder, count, DEFAULT_BUILD, nnx.Rngs(0)),
    "sequence_classes": lambda encoder, count: SequenceClassifier(
        encoder, count, DEFAULT_BUILD, nnx.Rngs(0), segments=1
    ),
    "image_classes": lambda encoder, count: ImageClassifier(
        encoder, count, DEFAULT_BUILD, nnx.Rngs(0), pooling=encoder.patches.pooling, segments=1
    ),
    "objects": lambda encoder, count: Detector(encoder, count, DEFAULT_BUILD, nnx.Rngs(0), segments=1),
    "sound_classes": lambda encoder, count: SoundClassifier(
        encoder, count, DEFAULT_BUILD, nnx.Rngs(0), pooling="tokens", segments=1
    ),
    "spans": lambda encoder, _: SpanClassifier(encoder, DEFAULT_BUILD, nnx.Rngs(0)),
    "vocabulary": lambda encoder, _: MaskedLM(encoder, DEFAULT_BUILD, nnx.Rngs(0)),
    "replaced_tokens": lambda encoder, _: ReplacedTokenModel(encoder, 1, DEFAULT_BUILD, nnx.Rngs(0)),
    # The dense layer of "sequence_classes", which pretrained encoders may bring along without classes.
    "pooler": lambda encoder, _: SequenceClassifier(encoder, 1, DEFAULT_BUILD, nnx.Rngs(0), segments=1),
}
# Parameters of those models that no checkpoint of that kind holds.
_LEFT_OUT = {"replaced_tokens": "generator/", "pooler": "head/"}


@functools.lru_cache(maxsize=64)
def parameter_shapes(encoder: EncoderConfig, kind: str, num_classes: int = 1) -> Mapping[str, tuple[int, ...]]:
    """Returns path -> shape of encoder and head, as training has them: layers stacked, the vocabulary padded.

    Args:
      encoder: low-rank updates, adapters and prefixes are left out.
      kind: one of KINDS.
      num_classes: of heads that have classes.
    """
    model = functools.partial(KINDS[kind], without_adapters(encoder), num_classes)
    nested = jax.eval_shape(lambda: initialise(model))
    flat: dict[str, Any] = dict(flax.traverse_util.flatten_dict(nested, sep="/"))
    left_out = _LEFT_OUT.get(kind)
    kept = {path: leaf.shape for path, leaf in flat.items() if not left_out or not path.startswith(left_out)}
    return types.MappingProxyType(kept)


@functools.lru_cache(maxsize=16)
def tower_shapes(towers: TowersConfig) -> Mapping[str, tuple[int, ...]]:
    """Returns path -> shape of two towers and of all beside them, as `parameter_shapes` does."""
    plain = dataclasses.replace(towers, image=without_adapters(towers.image), text=without_adapters(towers.text))
    nested = jax.eval_shape(lambda: initialise(lambda: TwoTowers(plain, DEFAULT_BUILD, nnx.Rngs(0))))
    flat: dict[str, Any] = dict(flax.traverse_util.flatten_dict(nested, sep="/"))
    return types.MappingProxyType({path: leaf.shape for path, leaf in flat.items()})


def encoder_shapes(encoder: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Returns the part of `parameter_shapes` that is the encoder's."""
    shapes = parameter_shapes(encoder, "token_classes")
    return {path: shape for path, shape in shapes.items() if path.startswith("encoder/")}

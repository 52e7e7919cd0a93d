"""What a trained model computes for others: one text a row, ids and a mask in, logits out."""

# B batch, T tokens, S segments, C classes, V vocabulary

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import AttentionConfig, Build
from jaxfm.core.encoder_config import EncoderConfig, has_padded_rows
from jaxfm.errors import UserError
from jaxfm.families.models import KINDS, parameter_shapes
from jaxfm.hub.weights import Checkpoint
from jaxfm.models.electra import ReplacedTokenModel
from jaxfm.models.embedder import Embedder
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import MaskedLM, PairClassifier, SequenceClassifier, SpanClassifier, TokenClassifier
from jaxfm.models.kernels import XLA
from jaxfm.parallel.mesh import build_abstract, make_mesh

# Names of transformers' ONNX exports, and so of its readers.
IDS, MASK, TYPES, LOGITS = "input_ids", "attention_mask", "token_type_ids", "logits"
STARTS, ENDS = "start_logits", "end_logits"
VECTORS = "sentence_embedding"  # as optimum names it
OF_TEXTS = "vectors"  # kind of a head that gives them; transformers has no class for it
BATCH, SEQUENCE = "batch_size", "sequence_length"
# Models that have outputs -> kind of their head (`families.models.KINDS`).
_KINDS: Mapping[type, str] = {
    TokenClassifier: "token_classes",
    SequenceClassifier: "sequence_classes",
    SpanClassifier: "spans",
    MaskedLM: "vocabulary",
    ReplacedTokenModel: "replaced_tokens",
    Embedder: OF_TEXTS,
}
HEADS = tuple(_KINDS.values())
# Parameters of models here that no output needs.
_UNREAD = "generator/"


@functools.singledispatch
def outputs_of(model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns what transformers' class with that head returns, under its names, for rows of one text each.

    A new head is one more function registered here.

    Raises:
      UserError: a model that other libraries have no form of.
    """
    raise UserError(f"a {type(model).__name__} is no model of text that has a form for other libraries.")


@outputs_of.register
def _(model: TokenClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {LOGITS: model(batch)}


@outputs_of.register
def _(model: SequenceClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {LOGITS: model(batch)[:, 0]}


@outputs_of.register
def _(model: SpanClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    logits_BT2 = model(batch)
    return {STARTS: logits_BT2[..., 0], ENDS: logits_BT2[..., 1]}


@outputs_of.register
def _(model: Embedder, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {VECTORS: model(batch)[:, 0]}


@outputs_of.register
def _(model: PairClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {LOGITS: model(batch)[:, 0]}


@outputs_of.register
def _(model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {LOGITS: model.logits(model.hidden(batch))}


@outputs_of.register
def _(model: ReplacedTokenModel, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return {LOGITS: model.replaced(batch)}


def logits_of(outputs: Mapping[str, Any]) -> np.ndarray:
    """Returns the logits as models here have them: those of starts and ends together, [B, T, 2]; or vectors [B, E]."""
    if VECTORS in outputs:
        return np.asarray(outputs[VECTORS])
    if STARTS in outputs:
        return np.stack([np.asarray(outputs[STARTS]), np.asarray(outputs[ENDS])], axis=-1)
    return np.asarray(outputs[LOGITS])


@dataclasses.dataclass(frozen=True, eq=False)
class Inference:
    """A function of ids and mask, and its parameters.

    Attributes:
      graphdef: of the model.
      params: nested dicts of arrays on the host, without what pads the vocabulary.
      encoder: its shape.
      kind: of its head (`families.models.KINDS`); "" for an encoder alone.
    """

    graphdef: nnx.GraphDef[Any]
    params: dict[str, Any]
    encoder: EncoderConfig
    kind: str

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays [B, T] that it reads: types where the family tells two texts of a pair by them."""
        return (IDS, MASK, TYPES) if self.encoder.type_vocab_size > 1 else (IDS, MASK)

    def __call__(self, params: Any, inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns the outputs by name, as `outputs_of`. Pure: to be traced with any `params` of these shapes.

        Args:
          params: as the attribute.
          inputs: `inputs` by name, int32 [B, T]; the mask is 1 at the tokens of the text and 0 at padding, which may
            stand on either side.
        """
        return outputs_of(nnx.merge(self.graphdef, params), batch_of(inputs))

    def states(self, params: Any, inputs: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the encoder's last hidden states [B, T, D]."""
        model: Any = nnx.merge(self.graphdef, params)
        return model.encoder(batch_of(inputs))


def batch_of(inputs: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the arrays that models here read: the one segment of a row is its mask, whose ones positions count."""
    mask_BT = inputs[MASK].astype(jnp.int32)
    positions_BT = jnp.maximum(jnp.cumsum(mask_BT, axis=-1) - 1, 0)
    batch = {"tokens": inputs[IDS].astype(jnp.int32), "segment_ids": mask_BT, "positions": positions_BT}
    return batch | ({"type_ids": inputs[TYPES].astype(jnp.int32)} if TYPES in inputs else {})


def make_inference(
    make_model: Callable[[Build, nnx.Rngs], nnx.Module], encoder: EncoderConfig, params: Mapping[str, np.ndarray]
) -> Inference:
    """Builds the function of a model.

    Args:
      make_model: builds it; one example a row where it tells examples apart.
      encoder: its shape; low-rank updates are merged into `params`.
      params: path -> array of every parameter; a generator, which no output needs, may be absent.
    """
    # Kernels of accelerators have no form outside of JAX; all paths compute the same.
    build = Build(attention=AttentionConfig(XLA))
    mesh = make_mesh(MeshConfig(data=1), jax.local_devices(backend="cpu")[:1])
    graphdef, abstract = build_abstract(lambda: make_model(build, nnx.Rngs(0)), mesh)
    shapes: dict[str, Any] = dict(flax.traverse_util.flatten_dict(abstract, sep="/"))
    absent = {path for path in shapes if path not in params}
    assert set(params) <= set(shapes) and all(path.startswith(_UNREAD) for path in absent), sorted(absent)
    # Of no memory: one zero that repeats.
    whole = {**params, **{path: np.broadcast_to(np.float32(0), shapes[path].shape) for path in absent}}
    cut = {
        path: _in_f32(array[: encoder.vocab_size] if has_padded_rows(path) else array) for path, array in whole.items()
    }
    model = type(nnx.merge(graphdef, abstract))
    kind = next((_KINDS[each] for each in model.__mro__ if each in _KINDS), "")
    return Inference(graphdef, flax.traverse_util.unflatten_dict(cut, sep="/"), encoder, kind)


def _in_f32(array: np.ndarray) -> np.ndarray:
    """Returns an array in f32; integers of rounded weights as they are."""
    return np.asarray(array, array.dtype if array.dtype == np.int8 else np.float32)


def inference_of(checkpoint: Checkpoint, kind: str) -> Inference:
    """Returns what a Hugging Face checkpoint computes with one of its heads; "": its encoder alone, for `states`."""
    heads = (kind,) if kind else ()
    wanted = ("encoder/", *({path for head in heads for path in parameter_shapes(checkpoint.encoder, head, 1)}))
    params = {path: np.asarray(array) for path, array in checkpoint.params.items() if path.startswith(wanted)}
    if not kind:
        return make_inference(lambda build, rngs: _Bare(checkpoint.encoder, build, rngs), checkpoint.encoder, params)
    count = max(len(checkpoint.labels), 1)
    return make_inference(lambda build, rngs: KINDS[kind](checkpoint.encoder, count), checkpoint.encoder, params)


class _Bare(nnx.Module):
    """An encoder under the name that models give it."""

    def __init__(self, config: EncoderConfig, build: Build, rngs: nnx.Rngs):
        self.encoder = Encoder(config, build, rngs)

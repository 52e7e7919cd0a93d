"""A classifier of related entities beside its weights, its config keys, and pairs to packed rows."""

# B batch, T tokens, S segments (pairs in a row), C classes, E pairs

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.records.relation_forms import Entity
from jaxfm.data.records.relations import RelationExample
from jaxfm.data.text.markers import MarkedPair, Markers, mark_pair, plain_pieces
from jaxfm.data.text.packing import PackedRows, build_rows, text_fields
from jaxfm.errors import UserError, did_you_mean
from jaxfm.models.heads import PairClassifier, SequenceClassifier
from jaxfm.schema import field
from jaxfm.tasks.losses import LossConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME = "relations"
TYPED, PLAIN, NONE = "typed", "plain", "none"
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class RelationsConfig:
    """Relations between two entities of a text: how these are marked, and which class says that there is none."""

    name: str = field(NAME, "the task", choices=(NAME,))
    markers: str = field(
        AUTO,
        "new tokens around head and tail: typed ([E1:PER]), plain ([E1]); none: the text alone, judged by its first "
        "token; auto: typed where the entities have types, else plain",
        choices=(AUTO, TYPED, PLAIN, NONE),
    )
    negative: str = field(
        AUTO,
        "class of pairs that are not related, left out of the scores; auto: Other, no_relation and the like, where "
        "there is one; empty: every class is a relation",
    )
    unrelated: bool = field(
        False,
        "pairs of entities that a record with entities and relations does not name are examples of the negative class, "
        "where their types are related somewhere in train; False: they are left out",
    )
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)


@dataclasses.dataclass(frozen=True)
class RelationSpec:
    """All that a trained classifier of pairs is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      labels: name of each class, direction included: "Cause-Effect(e2,e1)".
      negative: the class of pairs that are not related; "": there is none.
      encoder: shape of the encoder.
      markers: "typed", "plain" or "none".
      head_types: types of heads seen in training, in the order of `head_starts`; empty where none were given.
      tail_types: the same of tails.
      head_starts: tokens that mark where a head begins, one for each of `head_types` (typed), or one (plain).
      tail_starts: the same of tails.
      pair_heads: types of heads of pairs that were related in training, with `pair_tails`; empty where none were given.
      pair_tails: the type of the tail of each of these.
      head_first: in training the head always came first in the text, so that only the class says the direction.
      row_length: tokens a packed row.
      window: longest example in tokens; of a longer text what surrounds the pair is read.
      segments: most pairs a row, S.
    """

    labels: tuple[str, ...]
    negative: str
    encoder: EncoderConfig
    markers: str
    head_types: tuple[str, ...]
    tail_types: tuple[str, ...]
    head_starts: tuple[int, ...]
    tail_starts: tuple[int, ...]
    pair_heads: tuple[str, ...]
    pair_tails: tuple[str, ...]
    head_first: bool
    row_length: int
    window: int
    segments: int

    def batch_spec(self) -> BatchSpec:
        """Packed text and the class of each pair of a row, -1 where a row has no such segment."""
        return text_fields(self.row_length) | {"labels": Field((self.segments,), fill=-1)}

    def make_model(self, build: Build, rngs: nnx.Rngs) -> PairClassifier | SequenceClassifier:
        """Builds encoder and head."""
        if self.markers == NONE:
            return SequenceClassifier(self.encoder, len(self.labels), build, rngs, segments=self.segments)
        return PairClassifier(
            self.encoder,
            len(self.labels),
            build,
            rngs,
            head_starts=self.head_starts,
            tail_starts=self.tail_starts,
            segments=self.segments,
        )

    def outputs(
        self, model: PairClassifier | SequenceClassifier, batch: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """Returns logits f32 [B, S, C]."""
        return {"outputs": model(batch)}


def marker_names(markers: str, head_types: Sequence[str], tail_types: Sequence[str]) -> list[str]:
    """Returns the tokens that mark entities: where heads start, where they end, then the same of tails."""
    if markers == NONE:
        return []
    sides = (("E1", head_types), ("E2", tail_types))
    kinds = [(side, [f":{kind}" for kind in types] if markers == TYPED else [""]) for side, types in sides]
    return [f"[{end}{side}{kind}]" for side, names in kinds for end in ("", "/") for kind in names]


@dataclasses.dataclass(frozen=True)
class EncodedPairs:
    """Pairs as packed rows.

    Attributes:
      rows: what is computed.
      cut: bool [E], of which pairs a part of the text is not read.
      row_of: int [E], which of the encoded pairs each is; -1: its entities are too far apart to be read.
      needed: int [E], the tokens that a pair needs at least.
    """

    rows: PackedRows
    cut: np.ndarray
    row_of: np.ndarray
    needed: np.ndarray

    def per_pair(self, values_NSC: np.ndarray) -> np.ndarray:
        """Returns the value [E, ...] of each pair, in the order they were given; NaN for those too far apart."""
        found = np.full((len(self.row_of), *values_NSC.shape[2:]), np.nan, np.float32)
        locations = self.rows.example_locations
        fits = self.row_of >= 0
        chosen = locations[self.row_of[fits]]
        found[fits] = values_NSC[chosen[:, 0], chosen[:, 1]]
        return found


def mark_all(
    spec: RelationSpec, tokenizer: "PreTrainedTokenizerFast", pairs: Sequence[RelationExample]
) -> list[MarkedPair]:
    """Returns each pair as pieces with its markers; every text is tokenized once.

    Args:
      spec: says which markers there are.
      tokenizer: of the run, with the markers among its tokens.
      pairs: in any order.

    Raises:
      UserError: an entity without a type, or of one that training did not see, where markers have types.
    """
    texts = list(dict.fromkeys(pair.text for pair in pairs))
    pieces = dict(zip(texts, plain_pieces(tokenizer, texts), strict=True))
    names = marker_names(spec.markers, spec.head_types, spec.tail_types)
    ids = dict(zip(names, map(int, tokenizer.convert_tokens_to_ids(names)), strict=True))  # type: ignore[arg-type]
    return [
        mark_pair(
            pair.text,
            pieces[pair.text],
            pair.head[:2],
            pair.tail[:2],
            _markers(spec, ids, pair),
        )
        for pair in pairs
    ]


def encode(
    spec: RelationSpec,
    tokenizer: "PreTrainedTokenizerFast",
    marked: Sequence[MarkedPair],
    targets: np.ndarray | None = None,
    seed: int | None = None,
) -> EncodedPairs:
    """Packs marked pairs, each a segment of its own; with a seed they are shuffled before (training).

    Args:
      spec: says how long rows are.
      tokenizer: of the run.
      marked: from `mark_all`; those that do not fit the window have no row.
      targets: class numbers [E]; None: not known.
      seed: of the order.
    """
    cls_id, sep_id, pad_id = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    assert isinstance(cls_id, int) and isinstance(sep_id, int) and isinstance(pad_id, int), "see check_tokenizer"
    windows = [each.within(spec.window, cls_id, sep_id) for each in marked]
    fits = np.asarray([each is not None for each in windows], bool)
    classes = np.full(len(marked), -1, np.int32) if targets is None else np.asarray(targets, np.int32)
    ids = [each for each in windows if each is not None]
    rows = build_rows(ids, classes[fits], spec.row_length, pad_id, seed, max_segments=spec.segments)
    return EncodedPairs(
        rows,
        cut=np.asarray([each.length > spec.window for each in marked], bool),
        row_of=np.where(fits, np.cumsum(fits) - 1, -1),
        needed=np.asarray([each.needed for each in marked], np.int64),
    )


def _markers(spec: RelationSpec, ids: Mapping[str, int], pair: RelationExample) -> Markers | None:
    if spec.markers == NONE:
        return None
    found = []
    for side, entity, types in (("E1", pair.head, spec.head_types), ("E2", pair.tail, spec.tail_types)):
        kind = ""
        if spec.markers == TYPED:
            _check_type(pair, entity, types, "head" if side == "E1" else "tail")
            kind = f":{entity.type}"
        found += [ids[f"[{side}{kind}]"], ids[f"[/{side}{kind}]"]]
    return Markers(*found)


def _check_type(pair: RelationExample, entity: Entity, types: Sequence[str], side: str) -> None:
    if entity.type in types:
        return
    named = f"the {side} {pair.text[entity.start : entity.end]!r}"
    if not entity.type:
        raise UserError(
            f"{pair.origin}: {named} has no type, but the markers of this model have types (task.markers=typed). Give "
            f"its type, one of {', '.join(types)}, or train with config.task.markers=plain."
        )
    raise UserError(
        f"{pair.origin}: {named} is of the type {entity.type!r}, which no {side} had in training. "
        f"{did_you_mean(entity.type, types)}"
    )

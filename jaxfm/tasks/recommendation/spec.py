"""A recommender beside its weights, and its config keys."""

import dataclasses

from flax import nnx

from jaxfm.core.batch import BatchSpec
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.records.histories import LEAVE_ONE_OUT, SPLITS
from jaxfm.data.text.packing import text_fields
from jaxfm.models.heads import MaskedLM
from jaxfm.schema import field

NAME = "recommendation"
MASKED, CAUSAL_METHOD = METHODS = ("masked", "causal")
# The vocabulary: padding, the place of an item that is asked for, and the items.
PAD, MASK, FIRST_ITEM = 0, 1, 2
_MOST_USERS = 32  # whose next items are predicted in one row


@dataclasses.dataclass(frozen=True)
class RecommendationLossConfig:
    """What a prediction costs."""

    kind: str = field(
        "softmax",
        "cross-entropy over the whole catalogue, or over some drawn items with calibration (gbce: Petrov and Macdonald "
        "2023; for catalogues whose scores do not fit into memory)",
        choices=("softmax", "gbce"),
    )
    negatives: int = field(256, "gbce: items drawn a row and step that were not taken", at_least=1, at_most=1_000_000)
    calibration: float = field(
        0.75, "gbce: 0 is plain binary cross-entropy, 1 undoes all of the bias of drawing", at_least=0.0, at_most=1.0
    )


@dataclasses.dataclass(frozen=True)
class RecommendationConfig:
    """Recommendation: the next items of users."""

    name: str = field(NAME, "the task", choices=(NAME,))
    method: str = field(
        "causal",
        "each item is predicted from those before it (causal: SASRec, Kang and McAuley 2018), or hidden items from all "
        "others (masked: BERT4Rec, Sun et al. 2019)",
        choices=METHODS,
    )
    history: int = field(50, "most items of a history that are read, the last ones", at_least=2, at_most=100_000)
    user_column: str = field("", "column of the user; empty: the one with a usual name")
    item_column: str = field("", "column of the item; empty: the one with a usual name")
    time_column: str = field(
        "", "column of the time, a number or a date, that orders a history; empty: the one with a usual name"
    )
    split: str = field(
        LEAVE_ONE_OUT,
        "what is held out: the last two items of each user (leave_one_out), or what lies after a time (time)",
        choices=SPLITS,
    )
    held_out: float = field(
        0.1, "split=time: share of all interactions that are of test, and of valid", above=0.0, below=0.5
    )
    least_per_user: int = field(5, "users of fewer interactions are left out (with least_per_item: k-core)", at_least=0)
    least_per_item: int = field(5, "items of fewer interactions are left out", at_least=0)
    repeats: bool = field(False, "whether a user may take an item again: else what was taken is never recommended")
    mask_ratio: float = field(0.2, "masked: share of the items that are hidden", above=0.0, at_most=0.9)
    last_share: float = field(
        0.2,
        "masked: share of the histories of which the last item alone is hidden, as when items are recommended",
        at_least=0.0,
        at_most=1.0,
    )
    loss: RecommendationLossConfig = dataclasses.field(default_factory=RecommendationLossConfig)
    logits_chunk: int = field(
        0,
        "places of a row whose scores of the whole catalogue are in memory at once; the backward pass computes them "
        "again; 0: all of them, and nothing twice",
        at_least=0,
    )
    eval_users: int = field(
        10_000, "most users of valid that are scored while training, evenly spread; 0: all", at_least=0
    )
    top: int = field(10, "items that a prediction lists", at_least=1, at_most=1_000)
    separator: str = field("|", "what stands between the items of a history that is given to predict")


@dataclasses.dataclass(frozen=True)
class RecommendationSpec:
    """An encoder of histories whose vocabulary is the catalogue (implements jaxfm.core.spec.Spec).

    Attributes:
      encoder: shape of the encoder; of the causal method its sight is causal.
      row_length: items a packed row.
      method: "masked" or "causal".
      history: most items of a history that are read.
      repeats: whether what a user took may be recommended.
      top: items that a prediction lists.
      separator: between the items of a history in a text.
      packed: whether several histories share a row.
    """

    encoder: EncoderConfig
    row_length: int
    method: str
    history: int
    repeats: bool
    top: int
    separator: str
    packed: bool = True

    @property
    def items(self) -> int:
        """Items of the catalogue."""
        return self.encoder.vocab_size - FIRST_ITEM

    @property
    def users_per_row(self) -> int:
        """Most users whose next items are predicted in one row."""
        return max(min(_MOST_USERS, self.row_length // 4), 1) if self.packed else 1

    def batch_spec(self) -> BatchSpec:
        """Packed histories; targets, and what is hidden, are found on the device."""
        return text_fields(self.row_length, PAD)

    def make_model(self, build: Build, rngs: nnx.Rngs) -> MaskedLM:
        """Builds encoder and head: an item is scored by its own embedding."""
        return MaskedLM(self.encoder, build, rngs)

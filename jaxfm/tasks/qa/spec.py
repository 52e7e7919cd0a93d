"""A reader of contexts beside its weights, its config keys, and questions to packed rows."""

# B batch, T tokens, S segments (windows in a row), E questions, W windows

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from flax import nnx

from jaxfm.core.batch import BatchSpec, Field
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.records.question_answers import Answer
from jaxfm.data.text.packing import PackedRows, build_rows, text_fields
from jaxfm.data.text.question_windows import QuestionWindows, make_question_windows
from jaxfm.models.heads import SpanClassifier
from jaxfm.schema import field

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME = "qa"
# What a row keeps of a window: places in the window of the answer's first and last token (0, the first token: it has
# none), of the first token of its context, and of the one after its last.
START, END, CONTEXT, CONTEXT_END = range(4)
_TARGETS = 4
NO_ANSWER = 0


@dataclasses.dataclass(frozen=True)
class QaConfig:
    """Extractive question answering: how a context is read, and what may be an answer."""

    name: str = field(NAME, "the task", choices=(NAME,))
    overlap: int = field(
        128, "tokens shared by neighbouring windows of a context that fits no window (Devlin et al. 2019)", at_least=0
    )
    max_question: int = field(64, "tokens of a question that are read; the rest is cut, and counted", at_least=1)
    max_answer: int = field(
        30, "tokens of the longest answer; longer ones are trained on, but never given", at_least=1, at_most=512
    )


@dataclasses.dataclass(frozen=True)
class QaSpec:
    """All that a trained reader is beside its weights (implements jaxfm.core.spec.Spec).

    Attributes:
      encoder: shape of the encoder.
      row_length: tokens a packed row.
      window: longest window in tokens.
      overlap: tokens shared by neighbouring windows of one context.
      max_question: tokens of a question that are read.
      max_answer: tokens of the longest answer that is given.
      segments: most windows a row, S.
      no_answer: whether training had questions without an answer, so that nothing may be the answer.
    """

    encoder: EncoderConfig
    row_length: int
    window: int
    overlap: int
    max_question: int
    max_answer: int
    segments: int
    no_answer: bool

    @property
    def has_types(self) -> bool:
        """Whether the tokens of a context have a type of their own."""
        return self.encoder.type_vocab_size > 1

    def batch_spec(self) -> BatchSpec:
        """Packed text and, of each window of a row, START, END, CONTEXT and CONTEXT_END."""
        labels = Field((self.segments, _TARGETS), fill=-1)
        return text_fields(self.row_length, types=self.has_types) | {"labels": labels}

    def make_model(self, build: Build, rngs: nnx.Rngs) -> SpanClassifier:
        """Builds encoder and head."""
        return SpanClassifier(self.encoder, build, rngs)

    def outputs(self, model: SpanClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns logits of starts and ends, "spans" f32 [B, T, 2]."""
        return {"spans": model(batch)}


@dataclasses.dataclass(frozen=True)
class EncodedQuestions:
    """Questions as windows in packed rows.

    Attributes:
      windows: of the questions.
      rows: what is computed.
      windows_of: [E + 1] the windows of question e are `windows_of[e]` to `windows_of[e + 1]`, end exclusive.
    """

    windows: QuestionWindows
    rows: PackedRows
    windows_of: np.ndarray

    def per_window(self, values_NT: np.ndarray, window: int) -> np.ndarray:
        """Returns the values [L + 1, ...] of a window's first token and of its context, from an array [N, T, ...]."""
        row, _, start = self.rows.example_locations[window]
        first, size = int(self.windows.first[window]), int(self.windows.size[window])
        places = np.concatenate([[0], np.arange(first, first + size)]) + start
        return values_NT[row, places]


def tokenize(spec: QaSpec, tokenizer: "PreTrainedTokenizerFast", pairs: Sequence[tuple[str, str]]) -> QuestionWindows:
    """Cuts questions and their contexts into windows."""
    return make_question_windows(
        tokenizer,
        [question for question, _ in pairs],
        [context for _, context in pairs],
        max_length=spec.window,
        overlap=spec.overlap,
        max_question=spec.max_question,
    )


def encode(
    spec: QaSpec,
    tokenizer: "PreTrainedTokenizerFast",
    windows: QuestionWindows,
    answers: Sequence[Answer | None] | None = None,
    seed: int | None = None,
) -> EncodedQuestions:
    """Packs windows; with a seed they are shuffled before packing (training).

    Args:
      spec: says how long rows may be, and how many windows they hold.
      tokenizer: of the weights.
      windows: as from `tokenize`.
      answers: what is learned of each question, None where it has no answer; None for all: not known.
      seed: of the order.
    """
    pad_id = tokenizer.pad_token_id
    assert isinstance(pad_id, int), "see check_tokenizer"
    types = windows.types if spec.has_types else None
    targets = _targets(windows, answers)
    rows = build_rows(
        windows.tokens, targets, spec.row_length, pad_id, seed, max_segments=spec.segments, type_ids=types
    )
    return EncodedQuestions(windows, rows, np.searchsorted(windows.question, np.arange(len(windows.contexts) + 1)))


def token_span(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """Returns the first and the last token with some of the characters from `start` to `end`; None: there are none.

    `offsets`: of the tokens, in characters, [n, 2].
    """
    inside = np.flatnonzero((offsets[:, 1] > start) & (offsets[:, 0] < end) & (offsets[:, 0] < offsets[:, 1]))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def _targets(windows: QuestionWindows, answers: Sequence[Answer | None] | None) -> np.ndarray:
    """Returns START, END, CONTEXT, CONTEXT_END [W, 4] of each window.

    A window that does not hold the whole answer has none, as in the code of Devlin et al. 2019.
    """
    targets = np.zeros((len(windows.tokens), _TARGETS), np.int32)
    targets[:, CONTEXT] = windows.first
    targets[:, CONTEXT_END] = windows.first + windows.size
    if answers is None:
        return targets
    spans = [
        answer and token_span(context.offsets, answer.start, answer.end)
        for answer, context in zip(answers, windows.contexts, strict=True)
    ]
    for window, question in enumerate(windows.question.tolist()):
        span = spans[question]
        if span:
            first, last = (int(place - windows.start[window]) for place in span)
            if first >= 0 and last < windows.size[window]:
                targets[window, [START, END]] = np.asarray([first, last]) + windows.first[window]
    return targets

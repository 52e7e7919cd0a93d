"""What the start and the end of answers are due to."""

# B batch, S segments (windows in a row), T tokens, N rows

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.explained import PROBABILITIES, SCORES, Explained, Target, TokenPlace
from jaxfm.data.text.question_windows import PairTemplate, pair_template, span_owner
from jaxfm.data.text.tokenization import encode_with_offsets
from jaxfm.models.attention import MASKED
from jaxfm.tasks.explaining import baseline_token, piece_places
from jaxfm.tasks.qa.decoding import read
from jaxfm.tasks.qa.spec import CONTEXT, CONTEXT_END, EncodedQuestions, QaSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SIDES = ("start", "end")


def token_probabilities(logits_BT2: jax.Array, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns "scores", the logits [B, T, 2], and "probabilities" of each token to be start or end of its window.

    A window chooses among the tokens of its context and its first token, as in training.
    """
    positions_BT, segments_BT, labels = batch["positions"], batch["segment_ids"], batch["labels"]
    own_BST = segments_BT[:, None, :] == jnp.arange(1, labels.shape[1] + 1)[None, :, None]
    place_B1T = positions_BT[:, None, :]
    inside_BST = (place_B1T >= labels[..., CONTEXT, None]) & (place_B1T < labels[..., CONTEXT_END, None])
    own_BST &= inside_BST | (place_B1T == 0)
    scores_BST2 = jnp.where(own_BST[..., None], logits_BT2[:, None], MASKED)
    shares_BST2 = jnp.where(own_BST[..., None], jax.nn.softmax(scores_BST2, axis=2), 0.0)
    return {SCORES: logits_BT2, PROBABILITIES: shares_BST2.sum(axis=1)}


def explained_answers(
    spec: QaSpec,
    tokenizer: "PreTrainedTokenizerFast",
    questions: Sequence[str],
    contexts: Sequence[str],
    asked: Sequence[int],
    encoded: EncodedQuestions,
    results: Sequence[Mapping[str, Any]],
    outputs: Mapping[str, np.ndarray],
) -> list[Explained]:
    """Returns start and end of each question's answer as targets; of having none those of a window's first token.

    Args:
      spec: of the reader.
      tokenizer: of the run.
      questions: all of them.
      contexts: of each.
      asked: the questions that have windows, in their order.
      encoded: these windows.
      results: of all questions.
      outputs: of the rows.
    """
    baseline = baseline_token(tokenizer)
    texts = [{"text": question, "pair": context} for question, context in zip(questions, contexts, strict=True)]
    explained = [Explained(result, each, (), (), baseline) for each, result in zip(texts, results, strict=True)]
    if not asked:
        return explained
    windows, template = encoded.windows, pair_template(tokenizer)
    pieces = encode_with_offsets(tokenizer, [questions[number] for number in asked])
    for index, (number, reading) in enumerate(zip(asked, read(spec, encoded, outputs["spans"]), strict=True)):
        of = range(encoded.windows_of[index], encoded.windows_of[index + 1])
        tokens: list[TokenPlace] = []
        for window in of:
            row, _, start = encoded.rows.example_locations[window].tolist()
            tokens += _window_tokens(encoded, window, texts[number], pieces[index].offsets, template, row, start)
        answer = results[number]
        if answer["answer"] is None:
            sums = [float(encoded.per_window(outputs["spans"], window)[0].sum()) for window in of]
            window, places = of[int(np.argmin(sums))], (0, 0)
        else:
            first, more = divmod(int(reading.scores.argmax()), reading.scores.shape[1])
            span = (first, first + more)
            window = of[span_owner(windows.start[of].tolist(), windows.size[of].tolist(), *span)]
            start_place, end_place = (int(token - windows.start[window] + windows.first[window]) for token in span)
            places = (start_place, end_place)
        row, _, start = encoded.rows.example_locations[window].tolist()
        targets = []
        for side, (name, place) in enumerate(zip(SIDES, places, strict=True)):
            what = {"answer": answer["answer"], "side": name}
            where = np.asarray([[row, start + place, side]])
            targets.append(Target(what, where, np.ones(1), where[:, :2]))
        explained[number] = Explained(answer, texts[number], tuple(targets), tuple(tokens), baseline)
    return explained


def _window_tokens(
    encoded: EncodedQuestions,
    window: int,
    texts: Mapping[str, str],
    question: np.ndarray,
    template: PairTemplate,
    row: int,
    start: int,
) -> list[TokenPlace]:
    """Returns the pieces of the question and of the context that a window has; `question`: offsets of the former."""
    windows = encoded.windows
    first, at, size = (int(values[window]) for values in (windows.first, windows.start, windows.size))
    context = windows.contexts[int(windows.question[window])]
    before = len(template.before)
    asked = question[: first - before - len(template.between)]
    return [
        *piece_places(texts["text"], asked, "text", row, start + before),
        *piece_places(texts["pair"], context.offsets[at : at + size], "pair", row, start + first),
    ]

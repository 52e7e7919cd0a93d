"""What the likeliest word at a mask is due to."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm.core.explained import Explained, Target, TokenPlace
from jaxfm.data.text.packing import PackedRows
from jaxfm.data.text.tokenization import encode_with_offsets
from jaxfm.tasks.explaining import baseline_token, piece_places

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def explained_masks(
    tokenizer: "PreTrainedTokenizerFast",
    texts: Sequence[str],
    window: int,
    masks: Sequence[tuple[int, int]],
    rows: PackedRows,
    results: Sequence[Mapping[str, Any]],
    outputs: Mapping[str, np.ndarray],
) -> list[Explained]:
    """Returns the likeliest token of each mask as a target; other masks of a text are no words of it.

    Args:
      tokenizer: of the run.
      texts: all of them.
      window: tokens that the model sees around a mask.
      masks: (text, place in its window) of each, in order; each is an example of `rows`.
      rows: of the masks' windows.
      results: of the texts.
      outputs: of the rows: "place" [N, P] and "tokens" [N, P, K].
    """
    mask_id, pieces = tokenizer.mask_token_id, encode_with_offsets(tokenizer, texts)
    targets: list[list[Target]] = [[] for _ in texts]
    tokens: list[list[TokenPlace]] = [[] for _ in texts]
    for (text, place), (row, _, start) in zip(masks, rows.example_locations.tolist(), strict=True):
        ids, offsets = np.asarray(pieces[text].ids), pieces[text].offsets.copy()
        offsets[ids == mask_id] = 0  # stands for no characters
        at = int(np.flatnonzero(ids == mask_id)[len(targets[text])])
        first = at + 1 - place
        tokens[text] += piece_places(texts[text], offsets[first : first + window], "text", row, start + 1)
        (index,) = np.flatnonzero(outputs["place"][row] == start + place)[:1]
        best = int(outputs["tokens"][row, index, 0])
        mask = results[text]["masks"][len(targets[text])]
        of = {"start": mask["start"], "end": mask["end"], "token": mask["candidates"][0]["token"]}
        others = {each["token"]: each["score"] for each in mask["candidates"][1:]}
        where = np.asarray([[row, int(index), best]])
        targets[text].append(Target(of, where, np.ones(1), np.asarray([[row, start + place]]), others))
    baseline = baseline_token(tokenizer)
    return [
        Explained(result, {"text": text}, tuple(own), tuple(words), baseline)
        for text, result, own, words in zip(texts, results, targets, tokens, strict=True)
    ]

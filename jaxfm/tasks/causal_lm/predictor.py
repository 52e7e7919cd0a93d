"""A trained causal language model: says how likely texts are, token by token, and goes out in transformers' form."""

# B batch, T tokens

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.model_card import CardPart
from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.export import write_model
from jaxfm.models.heads import MaskedLM
from jaxfm.tasks.causal_lm.spec import CausalLMSpec
from jaxfm.tasks.causal_lm.writer import CausalLMWriter, make_writer
from jaxfm.tasks.next_tokens import next_token_losses

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHOWN = 5
_CHUNK = 64  # positions of a row whose scores of the vocabulary are in memory at once


@dataclasses.dataclass(frozen=True)
class ScoredTexts:
    """Texts as tokens, and the packed rows of their windows.

    Attributes:
      texts: as they are given back.
      tokens: pieces of each text.
      offsets: of each piece, in characters.
      window: tokens of a text that the model sees at once.
      parts: (text, first token, tokens that are scored, index of the first of these in the window) of each window.
      rows: the windows.
    """

    texts: tuple[str, ...]
    tokens: tuple[list[str], ...]
    offsets: tuple[list[tuple[int, int]], ...]
    window: int
    parts: tuple[tuple[int, int, int, int], ...]
    rows: PackedRows


@dataclasses.dataclass(frozen=True)
class CausalLMPredictor:
    """Texts in, log-probabilities of their tokens out (implements core.task.Predictor, core.writing.WritesTexts)."""

    spec: CausalLMSpec
    tokenizer: "PreTrainedTokenizerFast"

    # The head's classes are the vocabulary.
    labels = ()
    records_at_once = 512
    takes_words = False
    splitters = ()
    pairs = False
    record_fields = ()

    def with_splitter(self, splitter: str) -> "CausalLMPredictor":
        """Never called: a text is read as a whole."""
        raise AssertionError(splitter)

    def with_writing(self, decoding: Mapping[str, str], controls: Mapping[str, str]) -> CausalLMWriter:
        """Returns what goes on with texts instead; UserError for a setting that there is not, and for any control."""
        return make_writer(self, self.tokenizer, self.window + 1, decoding, controls)

    @property
    def window(self) -> int:
        """Tokens of a text that the model sees at once: what its training rows held beside the opening token."""
        return min(self.spec.row_length, self.spec.encoder.max_positions) - 1

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "log_probability" [B, T] of each token given those before it in its segment; 0 at the first."""
        loss_BT = next_token_losses(model, batch, chunk=_CHUNK)["loss"]
        return {"log_probability": -jnp.pad(loss_BT[:, :-1], ((0, 0), (1, 0)))}

    def encode(self, records: Sequence[Mapping[str, Any]]) -> ScoredTexts:
        """Tokenizes and packs; of a text longer than the window each token is scored after half a window at least."""
        texts = tuple(str(record["text"]) for record in records)
        pad_id = self.tokenizer.pad_token_id
        assert isinstance(pad_id, int), "see check_tokenizer"
        found = self.tokenizer(
            list(texts) or [""], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids = found["input_ids"][: len(texts)]
        parts, tokens = [], []
        for number, own in enumerate(ids):
            for first, begin, end in _parts(len(own), self.window):
                parts.append((number, begin, end - begin, begin - first))
                tokens.append(np.asarray([*self.opening, *own[first:end]], np.int32))
        # Few row lengths, so that few programs are compiled.
        length = max([8, *map(len, tokens)])
        labels = [np.full(len(window), -1, np.int32) for window in tokens]
        rows = build_rows(tokens, labels, 2 ** math.ceil(math.log2(length)), pad_id, None)
        pieces = tuple(list(self.tokenizer.convert_ids_to_tokens(own)) for own in ids)
        return ScoredTexts(texts, pieces, tuple(found["offset_mapping"]), self.window, tuple(parts), rows)

    @property
    def opening(self) -> tuple[int, ...]:
        """What every text starts with, as in training: nothing is said of how likely it is."""
        opening = self.tokenizer.cls_token_id
        assert isinstance(opening, int), "see check_tokenizer"
        return (opening,)

    def decode(self, encoded: ScoredTexts, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns one result a text.

        {"text", "log_probability": of the whole text (nats), "perplexity": of a token, "bits_per_byte": of its UTF-8,
        "tokens": [{"token", "start", "end", "log_probability"}]}. A blank text has no tokens and no perplexity. A text
        that is longer than what the model sees at once has "window", that number of tokens.
        """
        scores = [np.zeros(len(tokens)) for tokens in encoded.tokens]
        for (text, begin, count, at), (row, _, start) in zip(
            encoded.parts, encoded.rows.example_locations.tolist(), strict=True
        ):
            where = start + len(self.opening) + at
            scores[text][begin : begin + count] = outputs["log_probability"][row, where : where + count]
        results = []
        for text, tokens, offsets, own in zip(encoded.texts, encoded.tokens, encoded.offsets, scores, strict=False):
            total, count = float(own.sum()), len(own)
            listed = zip(tokens, offsets, own.tolist(), strict=True)
            result = {
                "text": text,
                "log_probability": round(total, 4),
                "perplexity": math.exp(min(-total / count, 700.0)) if count else None,
                "bits_per_byte": round(-total / math.log(2) / len(text.encode()), 4) if count else None,
                "tokens": [
                    {"token": token, "start": start, "end": end, "log_probability": round(score, 4)}
                    for token, (start, end), score in listed
                ],
            }
            results.append(result | ({"window": encoded.window} if count > encoded.window else {}))
        return results

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the text, its perplexity, and its least likely tokens."""
        if not result["tokens"]:
            return [result["text"], "  (no tokens)"]
        rare = sorted(result["tokens"], key=lambda token: token["log_probability"])[:SHOWN]
        found = [
            f"  log-probability {result['log_probability']:,.2f}, perplexity {result['perplexity']:,.2f} over "
            f"{len(result['tokens'])} tokens, {result['bits_per_byte']:.3f} bits per byte",
            "  least likely: " + "  ".join(f"{token['token']} {token['log_probability']:.2f}" for token in rare),
        ]
        if "window" in result:
            found.append(f"  (the model sees {result['window']:,} tokens at once)")
        return [result["text"], *found]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        return missing_class(self.spec.encoder, "vocabulary")

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForCausalLM and AutoTokenizer open."""
        opening, closing = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        # What generation in transformers starts and ends with; some classes take no config without them.
        tokens = {f"{name}_token_id": opening for name in ("bos", "cls")}
        tokens |= {f"{name}_token_id": closing for name in ("eos", "sep")}
        write_model(folder, self.spec.encoder, head="vocabulary", params=params, tokenizer=self.tokenizer, extra=tokens)

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        code = (
            "import torch\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")\n'
            'model = AutoModelForCausalLM.from_pretrained("DIRECTORY")\n'
            'ids = tokenizer("Paris is the capital of", return_tensors="pt").input_ids[:, :-1]\n'
            "print(tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax()))"
        )
        details = "As a start for other tasks in jaxfm, every token seeing the whole text: "
        details += "`--config.model.init=dir:DIRECTORY --config.model.sight=full`."
        return CardPart("Causal language model", "text-generation", "Says how likely texts are.", code, details)


def _parts(count: int, window: int) -> list[tuple[int, int, int]]:
    """Returns (first token, first that is scored, end) of the windows of a text of `count` tokens.

    Each token is scored once; those after the first window have half a window before them at least.
    """
    if not count:
        return []
    parts = [(0, 0, min(count, window))]
    step = max(window // 2, 1)
    while (done := parts[-1][2]) < count:
        end = min(done + step, count)
        parts.append((end - window, done, end))
    return parts

"""A trained masked-LM: fills masks in texts, says how likely a text is, and goes out in transformers' form."""

# B batch, T tokens, P places a row, K candidates, V vocabulary

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.explained import Explained
from jaxfm.core.model_card import CardPart
from jaxfm.data.text.masking import target_places
from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.errors import UserError
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.export import write_model
from jaxfm.models.heads import MaskedLM
from jaxfm.tasks.explaining import explained_arrays
from jaxfm.tasks.masked_lm.explaining import explained_masks
from jaxfm.tasks.masked_lm.spec import MaskedLMSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CANDIDATES = 5
# Each masked position is its own example in a row; a row holds at most this many, so that their predictions have a
# fixed index in the output.
_POSITIONS = 16
# Tokens of a text without a mask that are scored at most: each is a window of its own.
MAX_SCORED_TOKENS = 2048


@dataclasses.dataclass(frozen=True)
class MaskedPosition:
    """One token of a text to predict.

    Attributes:
      text: number of the text.
      start: where it begins in the text, in characters; end likewise, exclusive.
      target: the token that stands there; None where the text itself has the mask.
      place: its index among the window's tokens.
    """

    text: int
    start: int
    end: int
    target: int | None
    place: int


@dataclasses.dataclass(frozen=True)
class MaskedPositions:
    """Texts with the positions to predict in them, and the packed rows of these.

    Attributes:
      texts: as they are given back.
      lengths: tokens of each text.
      window: tokens that the model sees at once, special ones left out.
      positions: of all texts, in order.
      rows: the positions' windows.
    """

    texts: tuple[str, ...]
    lengths: tuple[int, ...]
    window: int
    positions: tuple[MaskedPosition, ...]
    rows: PackedRows


@dataclasses.dataclass(frozen=True)
class FillMask:
    """Texts in, predictions of masked tokens out (implements Predictor and ExplainsResults of core.task)."""

    spec: MaskedLMSpec
    tokenizer: "PreTrainedTokenizerFast"

    # A masked-LM's head has no classes.
    labels = ()
    # A text without a mask becomes as many examples as it has tokens, up to MAX_SCORED_TOKENS of 512 tokens: 20 MB.
    records_at_once = 16
    takes_words = False
    splitters = ()
    pairs = False

    def with_splitter(self, splitter: str) -> "FillMask":
        """Never called: a text is read as a whole."""
        raise AssertionError(splitter)

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "place" [B, P], log-probability of the label there [B, P], best tokens and their log-p [B, P, K]."""
        limit = min(_POSITIONS, batch["tokens"].shape[1])
        places_BP, targets_BP = target_places(batch["labels"], limit)
        hidden_BPD = jnp.take_along_axis(model.hidden(batch), places_BP[..., None], axis=1)
        log_probs_BPV = jax.nn.log_softmax(model.logits(hidden_BPD)[..., : len(self.tokenizer)])
        picked_BP1 = jnp.take_along_axis(log_probs_BPV, jnp.maximum(targets_BP, 0)[..., None], axis=-1)
        best_BPK, tokens_BPK = jax.lax.top_k(log_probs_BPV, min(CANDIDATES, log_probs_BPV.shape[-1]))
        return {
            "place": places_BP.astype(jnp.int32),
            "log_probability": picked_BP1[..., 0],
            "best": best_BPK,
            "tokens": tokens_BPK.astype(jnp.int32),
        }

    def encode(self, records: Sequence[Mapping[str, Any]]) -> MaskedPositions:
        """Asks for the masks of each text; in a text without one, for each of its tokens in turn.

        A text longer than the encoder's positions is seen through a window around the token in question; without a mask
        its first MAX_SCORED_TOKENS tokens are scored. "[MASK]" is taken as the mask whatever the tokenizer
        calls its own; "text" of the results then has the tokenizer's.
        """
        texts = tuple(str(record["text"]).replace("[MASK]", str(self.tokenizer.mask_token)) for record in records)
        mask_id, pad_id = self.tokenizer.mask_token_id, self.tokenizer.pad_token_id
        assert isinstance(mask_id, int) and isinstance(pad_id, int), "see check_tokenizer"
        opening, closing = ([getattr(self.tokenizer, name)] for name in ("cls_token_id", "sep_token_id"))
        longest = min(self.spec.encoder.max_positions, 512) - 2
        encoded = self.tokenizer(
            list(texts) or [""], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        positions, tokens, labels = [], [], []
        for number in range(len(texts)):
            ids, offsets = np.asarray(encoded["input_ids"][number], np.int32), encoded["offset_mapping"][number]
            given = np.flatnonzero(ids == mask_id)
            for at in (given if len(given) else np.arange(min(len(ids), MAX_SCORED_TOKENS))).tolist():
                first = min(max(at - longest // 2, 0), max(len(ids) - longest, 0))
                window = np.asarray([*opening, *ids[first : first + longest].tolist(), *closing], np.int32)
                place = at - first + 1
                window[place] = mask_id
                label = np.full(len(window), -1, np.int32)
                label[place] = ids[at]
                target = None if len(given) else int(ids[at])
                start, end = offsets[at]
                positions.append(MaskedPosition(number, start, end, target, place))
                tokens.append(window)
                labels.append(label)
        # Few row lengths, so that few programs are compiled.
        length = max([8, *map(len, tokens)])
        rows = build_rows(tokens, labels, 2 ** math.ceil(math.log2(length)), pad_id, None, max_segments=_POSITIONS)
        lengths = tuple(len(ids) for ids in encoded["input_ids"][: len(texts)])
        return MaskedPositions(texts, lengths, longest, tuple(positions), rows)

    def decode(self, encoded: MaskedPositions, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns one result a text.

        With masks: {"text", "masks": [{"start", "end", "candidates": [{"token", "score"}]}]}, scores are probabilities.
        Without: {"text", "pseudo_perplexity", "tokens": [{"token", "start", "end", "log_probability"}]}, the
        exponential of the mean negative log-probability of each token given all others (Salazar et al. 2020,
        equation 4). Of a longer text only the first MAX_SCORED_TOKENS tokens are scored: it has "cut": true. A text
        that is longer than what the model sees at once has "window", the number of tokens that it sees around each.
        """
        results: list[dict[str, Any]] = [{"text": text} for text in encoded.texts]
        name = self.tokenizer.convert_ids_to_tokens
        for position, (row, _, start) in zip(encoded.positions, encoded.rows.example_locations.tolist(), strict=True):
            (at,) = np.flatnonzero(outputs["place"][row] == start + position.place)[:1]
            result, where = results[position.text], {"start": position.start, "end": position.end}
            if position.target is None:
                candidates = [
                    {"token": token, "score": round(math.exp(score), 6)}
                    for token, score in zip(
                        name(outputs["tokens"][row, at].tolist()), outputs["best"][row, at].tolist(), strict=True
                    )
                ]
                result.setdefault("masks", []).append({**where, "candidates": candidates})
            else:
                score = round(float(outputs["log_probability"][row, at]), 4)
                token = {"token": name(position.target), **where, "log_probability": score}
                result.setdefault("tokens", []).append(token)
        for result in results:
            if "masks" not in result:
                scores = [token["log_probability"] for token in result.setdefault("tokens", [])]
                perplexity = math.exp(min(-sum(scores) / len(scores), 700.0)) if scores else None
                result["pseudo_perplexity"] = perplexity
        for result, length in zip(results, encoded.lengths, strict=True):
            if length > encoded.window:
                result["window"] = encoded.window
            if "masks" not in result and length > MAX_SCORED_TOKENS:
                result["cut"] = True
        return results

    explains_pairs = False

    def explain_problem(self) -> str:
        """Returns "": all masks can be explained."""
        return ""

    def encode_explained(self, records: Sequence[Mapping[str, Any]]) -> MaskedPositions:
        """Asks for the masks of each text; UserError for a text without one, unless it is blank."""
        encoded = self.encode(records)
        if missing := [each.text for each in encoded.positions if each.target is not None]:
            raise UserError(
                f"{encoded.texts[missing[0]][:60]!r}: has no mask. Write {self.tokenizer.mask_token} where a word is "
                "to be explained."
            )
        return encoded

    def explained_outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See core.task.ExplainsResults: arrays [B, P, V], P as in `outputs`."""
        places_BP, _ = target_places(batch["labels"], min(_POSITIONS, batch["tokens"].shape[1]))
        hidden_BPD = jnp.take_along_axis(model.hidden(batch), places_BP[..., None], axis=1)
        return explained_arrays(model.logits(hidden_BPD)[..., : len(self.tokenizer)], "softmax")

    def explained(self, encoded: MaskedPositions, outputs: Mapping[str, np.ndarray]) -> list[Explained]:
        """Returns what the likeliest token of each mask is due to."""
        masks = [(each.text, each.place) for each in encoded.positions]
        results = self.decode(encoded, outputs)
        more = (encoded.window, masks, encoded.rows, results, outputs)
        return explained_masks(self.tokenizer, encoded.texts, *more)

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the text, then its masks' candidates or its pseudo-perplexity and least likely tokens."""
        if "masks" in result:
            found = [
                f"  {mask['start']:>5}-{mask['end']:<5} "
                + "  ".join(f"{candidate['token']} {candidate['score']:.3f}" for candidate in mask["candidates"])
                for mask in result["masks"]
            ]
        elif result["tokens"]:
            rare = sorted(result["tokens"], key=lambda token: token["log_probability"])[:CANDIDATES]
            found = [
                f"  pseudo-perplexity {result['pseudo_perplexity']:,.2f} over {len(result['tokens'])} tokens",
                "  least likely: " + "  ".join(f"{token['token']} {token['log_probability']:.2f}" for token in rare),
            ]
        else:
            found = ["  (no tokens)"]
        if result.get("cut"):
            found.append(f"  (the text is longer: its first {MAX_SCORED_TOKENS:,} tokens are scored)")
        if "window" in result:
            found.append(f"  (the model sees {result['window']:,} tokens at once: those around each)")
        return [result["text"], *found]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        return missing_class(self.spec.encoder, "vocabulary")

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForMaskedLM and AutoTokenizer open."""
        write_model(folder, self.spec.encoder, head="vocabulary", params=params, tokenizer=self.tokenizer)

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        mask = self.tokenizer.mask_token
        code = (
            "from transformers import pipeline\n\n"
            f'fill = pipeline("fill-mask", model="DIRECTORY")\nfill("Paris is the capital of {mask}.")'
        )
        details = 'As a start for other tasks: `AutoModel.from_pretrained("DIRECTORY")`, or in jaxfm '
        details += "`--config.model.init=dir:DIRECTORY`."
        return CardPart("Masked language model", "fill-mask", "Fills masks in texts.", code, details)

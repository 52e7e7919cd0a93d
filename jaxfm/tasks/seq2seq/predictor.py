"""A trained writer over sources: texts out, and the model in transformers' form."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfm.core.model_card import CardPart
from jaxfm.data.text.packing import PackedRows
from jaxfm.errors import UserError
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.export import write_model
from jaxfm.models.heads import MaskedLM
from jaxfm.tasks.asked_decoding import ROOT, with_asked
from jaxfm.tasks.held_out import written_tokens
from jaxfm.tasks.seq2seq.encoding import EncodedPairs, Tokens, blank_rows, encoded_pairs, pieces
from jaxfm.tasks.seq2seq.objective import Seq2SeqObjective
from jaxfm.tasks.seq2seq.spec import DIFFUSION, Seq2SeqSpec, check_decoding
from jaxfm.tasks.seq2seq.texts import text_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class EncodedSources:
    """Sources as rows with blank targets; blank sources have none.

    Attributes:
      texts: as they are given back.
      asked: numbers of the texts that are not blank.
      encoded: these as tokens.
      rows: what is computed.
    """

    texts: tuple[str, ...]
    asked: tuple[int, ...]
    encoded: EncodedPairs
    rows: PackedRows


@dataclasses.dataclass(frozen=True)
class Seq2SeqPredictor:
    """Sources in, texts out (implements core.task.Predictor and core.writing.WritesTexts).

    Attributes:
      spec: of the model; its decoding is how texts are written.
      tokenizer: of the run.
      controls: what is asked of every text that asks for nothing else.
    """

    spec: Seq2SeqSpec
    tokenizer: "PreTrainedTokenizerFast"
    controls: Mapping[str, str] = dataclasses.field(default_factory=dict)

    records_at_once = 256
    takes_words = False
    splitters = ()
    pairs = False
    labels = ()

    @property
    def record_fields(self) -> tuple[str, ...]:
        """Fields of a record that say how to write."""
        return self.spec.controls.names

    def with_splitter(self, splitter: str) -> "Seq2SeqPredictor":
        """Never called: a text is read as a whole."""
        raise AssertionError(splitter)

    def with_writing(self, decoding: Mapping[str, str], controls: Mapping[str, str]) -> "Seq2SeqPredictor":
        """Returns the same that writes otherwise; UserError for an unknown key or a value that it cannot have."""
        group = "unmasking" if self.spec.way == DIFFUSION else "decoding"
        spec = dataclasses.replace(self.spec, **{group: with_asked(getattr(self.spec, group), decoding)})
        check_decoding(spec.decoding, spec.lengths.most, ROOT)
        return dataclasses.replace(self, spec=spec, controls=self.spec.controls.checked(controls, "--control"))

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "written" int32 [B, S, M] and "score" f32 [B, S]."""
        written = Seq2SeqObjective(self.spec, Tokens.of(self.tokenizer)).write(model, batch)
        return {"written": written.tokens_BSM, "score": written.score_BS}

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedSources:
        """Packs sources with the controls of their records and the places of what is written."""
        texts = tuple(str(record["text"]) for record in records)
        asked = tuple(number for number, text in enumerate(texts) if text.strip())
        controls = self.spec.controls
        sources = []
        for number in asked:
            own = {name: records[number][name] for name in controls.names if records[number].get(name) is not None}
            given = {**self.controls, **controls.checked(own, records[number].get("origin", "a record"))}
            sources.append(controls.written(" ".join(texts[number].split()), given))
        encoded = encoded_pairs(self.spec, pieces(self.tokenizer, sources))
        return EncodedSources(texts, asked, encoded, blank_rows(self.spec, Tokens.of(self.tokenizer), encoded.sources))

    def decode(self, encoded: EncodedSources, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns {"text", "written", "score"} for each source.

        "score" is the log-probability of a token on average. "truncated": true says that the end of the source was not
        read.
        """
        results: list[dict[str, Any]] = [{"text": text, "written": None, "score": None} for text in encoded.texts]
        if not encoded.asked:
            return results
        written = written_tokens(encoded.rows, outputs["written"])
        places = encoded.rows.example_locations.tolist()
        for at, number in enumerate(encoded.asked):
            row, segment, _ = places[at]
            results[number] |= {
                "written": text_of(self.tokenizer, written[at]),
                "score": round(float(outputs["score"][row, segment]), 4),
                **({"truncated": True} if encoded.encoded.cut[at] else {}),
            }
        return results

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the source, then what is written for it."""
        if not result["written"]:
            return [result["text"], "  (nothing)"]
        cut = ["  (the source is longer: its end was not read)"] if result.get("truncated") else []
        return [result["text"], f"  {result['written']}", *cut]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        if self.spec.way != DIFFUSION:
            return (
                "transformers has no class of a prefix language model over an encoder. Predict with jaxfm, or start "
                "another run from this one: --config.model.init=run:WORKDIR --config.model.sight=full."
            )
        return missing_class(self.spec.encoder, "vocabulary")

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForMaskedLM and AutoTokenizer open; UserError as `hf_problem` says."""
        if problem := self.hf_problem():
            raise UserError(problem)
        write_model(folder, self.spec.encoder, head="vocabulary", params=params, tokenizer=self.tokenizer)

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        rule = self.spec.lengths
        code = (
            "import torch\nfrom transformers import AutoModelForMaskedLM, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")\n'
            'model = AutoModelForMaskedLM.from_pretrained("DIRECTORY").eval()\n'
            'source = tokenizer("A source.")["input_ids"]\n'
            f"places = min(int({rule.ratio} * (len(source) - 2)) + {rule.extra} + 1, {rule.most})\n"
            "tokens = torch.tensor([source + [tokenizer.mask_token_id] * places])\n"
            "for _ in range(places):  # fill the surest mask, one after the other\n"
            "    masked = tokens[0] == tokenizer.mask_token_id\n"
            "    with torch.no_grad():\n        sure, best = model(tokens).logits[0].softmax(-1).max(-1)\n"
            "    at = torch.where(masked, sure, -1.0).argmax()\n    tokens[0, at] = best[at]\n"
            "print(tokenizer.decode(tokens[0, len(source) :], skip_special_tokens=True))"
        )
        details = (
            "The target stands after the source and its separator, in masks that are filled one after the other; "
            "separators fill what it does not need. In jaxfm the length is decided first, and several masks may be "
            "filled in one pass. Tokens of the target have token type 1 where the encoder has types."
        )
        return CardPart(
            "Sequence to sequence by masked diffusion",
            "",
            "Writes a text for a text by filling masks.",
            code,
            details,
        )

"""A trained discriminator: says of each token of a text how likely it is a replacement, and goes out as ELECTRA."""

# B batch, T tokens

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfm.core.model_card import CardPart
from jaxfm.data.text.packing import PackedRows, build_rows
from jaxfm.data.text.windows import make_windows
from jaxfm.errors import UserError
from jaxfm.families.registry import classes_with, discriminator_family, presets
from jaxfm.hub.export import write_model
from jaxfm.models.electra import ReplacedTokenModel
from jaxfm.tasks.replaced_token.spec import ReplacedTokenSpec
from jaxfm.tasks.windowed_rows import WindowedRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHOWN = 5
_OVERLAP, _LONGEST = 32, 512


@dataclasses.dataclass(frozen=True)
class TokenizedTexts:
    """Texts as tokens with their offsets, and the packed rows of those tokens."""

    texts: tuple[str, ...]
    tokens: tuple[list[str], ...]
    offsets: tuple[list[tuple[int, int]], ...]
    encoded: WindowedRows

    @property
    def rows(self) -> PackedRows:
        """The rows to compute."""
        return self.encoded.rows


@dataclasses.dataclass(frozen=True)
class ReplacedTokenPredictor:
    """Texts in, probabilities of replacement out (implements jaxfm.core.task.Predictor)."""

    spec: ReplacedTokenSpec
    tokenizer: "PreTrainedTokenizerFast"

    # The detector's one class has no name.
    labels = ()
    records_at_once = 2048
    takes_words = False
    splitters = ()
    pairs = False

    def with_splitter(self, splitter: str) -> "ReplacedTokenPredictor":
        """Never called: a text is read as a whole."""
        raise AssertionError(splitter)

    def outputs(self, model: ReplacedTokenModel, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns each token's "probability" of being a replacement [B, T]."""
        return {"probability": jax.nn.sigmoid(model.replaced(batch))}

    def encode(self, records: Sequence[Mapping[str, Any]]) -> TokenizedTexts:
        """Tokenizes and packs; of a text longer than the encoder's positions every token is read in one window."""
        texts = tuple(str(record["text"]) for record in records)
        opening, closing, pad = (getattr(self.tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad"))
        found = self.tokenizer(
            list(texts) or [""], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        ids, offsets = found["input_ids"][: len(texts)], found["offset_mapping"][: len(texts)]
        longest = min(self.spec.encoder.max_positions, _LONGEST)
        windows = make_windows(
            [[[token] for token in tokens] for tokens in ids],
            None,
            cls_id=opening,
            sep_id=closing,
            max_length=longest,
            overlap=min(_OVERLAP, (longest - 2) // 2),
            context="sentence",
            documents=None,
        )
        # Few row lengths, so that few programs are compiled.
        length = max([8, *map(len, windows.tokens)])
        rows = build_rows(windows.tokens, windows.labels, 2 ** math.ceil(math.log2(length)), pad, None)
        encoded = WindowedRows(windows, rows, tuple(map(len, ids)))
        tokens = tuple(list(self.tokenizer.convert_ids_to_tokens(numbers)) for numbers in ids)
        return TokenizedTexts(texts, tokens, tuple(offsets), encoded)

    def decode(self, encoded: TokenizedTexts, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns {"text", "tokens": [{"token", "start", "end", "probability"}]} for each text, offsets in characters.

        The probability is that of the token not being what stood there. A text that is longer than what the model sees
        at once has "window", that number of tokens.
        """
        nothing = np.zeros((0, encoded.rows.row_length), np.float32)  # of blank texts alone
        probabilities = encoded.encoded.per_word(outputs["probability"] if len(encoded.rows) else nothing)
        seen = min(self.spec.encoder.max_positions, _LONGEST) - 2
        return [
            {
                "text": text,
                "tokens": [
                    {"token": token, "start": start, "end": end, "probability": round(float(probability), 4)}
                    for token, (start, end), probability in zip(tokens, offsets, values, strict=True)
                ],
                **({"window": seen} if len(tokens) > seen else {}),
            }
            for text, tokens, offsets, values in zip(
                encoded.texts, encoded.tokens, encoded.offsets, probabilities, strict=True
            )
        ]

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the text, then its most suspicious tokens: characters, probability, token."""
        worst = sorted(result["tokens"], key=lambda token: -token["probability"])[:SHOWN]
        found = [
            f"  {token['start']:>5}-{token['end']:<5} {token['probability']:.3f}  {token['token']}" for token in worst
        ]
        if "window" in result:
            found.append(f"  (the model sees {result['window']:,} tokens at once)")
        return [result["text"], *(found or ["  (no tokens)"])]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where the encoder's family has a class of this kind."""
        if discriminator_family(self.spec.encoder.family):
            return ""
        able = [name for name, shape in presets().items() if discriminator_family(shape.family)]
        return (
            f"transformers has no class for replaced-token detection with a {self.spec.encoder.family} encoder, "
            f"only {', '.join(classes_with('replaced_tokens'))} for encoders like the presets {', '.join(able)}. "
            "Fine-tune from this run with --config.model.init=run:WORKDIR, and export that one."
        )

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes encoder and detector as AutoModelForPreTraining opens them (transformers' ElectraForPreTraining).

        Raises UserError as `hf_problem` says.
        """
        if problem := self.hf_problem():
            raise UserError(problem)
        family = discriminator_family(self.spec.encoder.family)
        encoder = dataclasses.replace(self.spec.encoder, family=family)
        own = {name: value for name, value in params.items() if name.startswith(("encoder/", "detector/"))}
        write_model(folder, encoder, head="replaced_tokens", params=own, tokenizer=self.tokenizer)

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        code = (
            "from transformers import AutoModelForPreTraining, AutoTokenizer\n\n"
            'model = AutoModelForPreTraining.from_pretrained("DIRECTORY")\n'
            'tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")\n'
            'model(**tokenizer("A text.", return_tensors="pt")).logits  # above 0: the token was replaced'
        )
        details = 'As a start for other tasks: `AutoModel.from_pretrained("DIRECTORY")`, or in jaxfm '
        details += "`--config.model.init=dir:DIRECTORY`."
        summary = "Says of each token of a text whether it was replaced (an ELECTRA discriminator)."
        return CardPart("Replaced-token detection", "", summary, code, details)

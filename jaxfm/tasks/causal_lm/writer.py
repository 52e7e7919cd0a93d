"""A trained causal language model that goes on with texts."""

# B batch, S segments (prompts in a row), M new tokens

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.spec import Spec
from jaxfm.core.task import Predictor
from jaxfm.decoding_config import BEAM, Decoding
from jaxfm.errors import UserError
from jaxfm.models.generation import generate
from jaxfm.models.heads import MaskedLM
from jaxfm.tasks.asked_decoding import ROOT, with_asked
from jaxfm.tasks.causal_lm.prompts import SEGMENTS, Prompts, decode_continuations, encode_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclasses.dataclass(frozen=True)
class CausalLMWriter:
    """Texts in, what goes on from them out (implements core.task.Predictor, core.writing.WritesTexts).

    Attributes:
      scores: the predictor of the same model, which says how likely texts are.
      tokenizer: of the run.
      positions: tokens that the model sees at once.
      decoding: how tokens are chosen.
    """

    scores: Predictor
    tokenizer: "PreTrainedTokenizerFast"
    positions: int
    decoding: Decoding

    labels = ()
    records_at_once = 256
    takes_words = False
    splitters = ()
    pairs = False
    record_fields = ()

    @property
    def spec(self) -> Spec:
        """What the model is beside its weights."""
        return self.scores.spec

    def with_splitter(self, splitter: str) -> "CausalLMWriter":
        """Never called: a text is read as a whole."""
        raise AssertionError(splitter)

    def with_writing(self, decoding: Mapping[str, str], controls: Mapping[str, str]) -> "CausalLMWriter":
        """Returns one that writes otherwise.

        Raises UserError for a setting that there is not, a value that it cannot have, and for any control.
        """
        return make_writer(self.scores, self.tokenizer, self.positions, decoding, controls)

    def outputs(self, model: MaskedLM, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns "written" int32 [B, S, M], "length" int32 [B, S] and "score" f32 [B, S]."""
        end = self.tokenizer.sep_token_id
        assert isinstance(end, int), "see check_tokenizer"
        special = {int(token) for token in self.tokenizer.all_special_ids} - {end}
        unused = range(len(self.tokenizer), self.spec.encoder.vocab_size)
        settings = self.decoding
        found = generate(model, batch, settings, end_id=end, segments=SEGMENTS, forbidden={*special, *unused})
        # Of beams the score is divided already.
        tokens_BS = jnp.clip(found.lengths + 1, 1, settings.max_tokens)
        score_BS = found.scores if settings.method == BEAM else found.scores / tokens_BS
        return {"written": found.tokens, "length": found.lengths, "score": score_BS}

    def encode(self, records: Sequence[Mapping[str, Any]]) -> Prompts:
        """Tokenizes and packs texts to go on with; UserError where the new tokens leave no room for any."""
        texts = [str(record["text"]) for record in records]
        return encode_prompts(self.tokenizer, texts, self.positions, self.decoding.max_tokens)

    def decode(self, encoded: Prompts, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns {"text", "written", "score"} of each text.

        "score" is the log-probability of a token on average; of beams over tokens^length_penalty. "truncated": true
        says that only the end of the text was read.
        """
        if not encoded.texts:
            return []
        return decode_continuations(
            self.tokenizer, encoded, outputs["written"], outputs["length"], scores_BS=outputs["score"]
        )

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the text, and what goes on from it."""
        if not result["written"]:
            return [result["text"], "  (ends here)"]
        return [result["text"], f"  ... {result['written']}"]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        return self.scores.hf_problem()

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForCausalLM and AutoTokenizer open."""
        self.scores.write_hf(folder, params)


def make_writer(
    scores: Predictor,
    tokenizer: "PreTrainedTokenizerFast",
    positions: int,
    decoding: Mapping[str, str],
    controls: Mapping[str, str],
) -> CausalLMWriter:
    """Returns what writes by the settings asked for; where none is of max_tokens, up to half of `positions`.

    Raises:
      UserError: an unknown setting, a value that it cannot have, two that do not fit, or a control.
    """
    if controls:
        raise UserError(f"--control={next(iter(controls))}: this model was not trained with controls.")
    settings = with_asked(Decoding(max_tokens=max(1, min(Decoding.max_tokens, positions // 2))), decoding)
    settings.check(ROOT)
    return CausalLMWriter(scores, tokenizer, positions, settings)

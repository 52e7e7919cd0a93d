"""A trained reader over questions and contexts: answers with offsets, and the reader in transformers' form."""

# B batch, T tokens

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfm.core.explained import Explained
from jaxfm.core.model_card import CardPart
from jaxfm.data.text.packing import PackedRows
from jaxfm.errors import UserError
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.export import write_model
from jaxfm.models.heads import SpanClassifier
from jaxfm.tasks.qa.decoding import Reading, Span, read
from jaxfm.tasks.qa.explaining import explained_answers, token_probabilities
from jaxfm.tasks.qa.scorer import is_unanswered
from jaxfm.tasks.qa.spec import EncodedQuestions, QaSpec, encode, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_ANSWERS = 5  # that a result lists
_CANDIDATES = 50  # spans among which as many different texts are looked for


@dataclasses.dataclass(frozen=True)
class EncodedRecords:
    """Questions with their contexts, and the packed rows of their windows; a blank one of either has none."""

    questions: tuple[str, ...]
    contexts: tuple[str, ...]
    asked: tuple[int, ...]
    encoded: EncodedQuestions

    @property
    def rows(self) -> PackedRows:
        """The rows to compute."""
        return self.encoded.rows


@dataclasses.dataclass(frozen=True)
class QaPredictor:
    """Questions and contexts in, answers out (implements Predictor and ExplainsResults of core.task).

    Attributes:
      spec: of the reader.
      tokenizer: of the run.
      calibration: that the run fitted.
    """

    spec: QaSpec
    tokenizer: "PreTrainedTokenizerFast"
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)

    records_at_once = 512
    takes_words = False
    splitters = ()
    pairs = True
    labels = ()

    def with_splitter(self, splitter: str) -> "QaPredictor":
        """Never called: a text is read as a whole."""
        raise AssertionError(splitter)

    def outputs(self, model: SpanClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See QaSpec.outputs."""
        return self.spec.outputs(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedRecords:
        """Packs {"text": question, "pair": context}; UserError for a question without a context."""
        for record in records:
            if "pair" not in record:
                raise UserError(
                    f"{record['text'][:60]!r}: this model answers questions about a context: give it too "
                    '(--context=FILE, --pair="TEXT", or "context" in JSON lines).'
                )
        questions, contexts = ([str(record[name]) for record in records] for name in ("text", "pair"))
        asked = [
            number for number, texts in enumerate(zip(questions, contexts, strict=True)) if all(map(str.strip, texts))
        ]
        windows = tokenize(self.spec, self.tokenizer, [(questions[number], contexts[number]) for number in asked])
        encoded = encode(self.spec, self.tokenizer, windows)
        return EncodedRecords(tuple(questions), tuple(contexts), tuple(asked), encoded)

    def decode(self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns {"text", "answer", "start", "end", "score", "answers"} for each question.

        "answer" is the stretch of the context from "start" to "end" (characters, end exclusive), or None where the
        context seems to have no answer, or question or context are blank. The score is its probability, calibrated on
        the validation split of the run where it had one; "answers" are the likeliest ones of different texts, with
        theirs, and "no_answer" is the probability of having none, where the model knows of such questions. "cut": true
        says that the end of the question was not read.
        """
        results: list[dict[str, Any]] = [
            {"text": question, "answer": None, "score": None, "answers": []} for question in encoded.questions
        ]
        if not encoded.asked:
            return results
        readings = read(self.spec, encoded.encoded, outputs["spans"])
        for number, reading, cut in zip(encoded.asked, readings, encoded.encoded.windows.cut, strict=True):
            results[number] |= self._answers(encoded.contexts[number], reading) | ({"cut": True} if cut else {})
        return results

    def _answers(self, context: str, reading: Reading) -> dict[str, Any]:
        temperature = self.calibration.get("temperature", 1.0)
        (log_total,) = reading.log_total([temperature])

        def probability(score: float) -> float:
            return round(float(np.exp(score / temperature - log_total)), 4)

        def described(span: Span) -> dict[str, Any]:
            text = context[span.start : span.end]
            return {"text": text, "start": span.start, "end": span.end, "score": probability(span.score)}

        different: dict[str, dict[str, Any]] = {}
        for span in reading.best(_CANDIDATES):
            different.setdefault(context[span.start : span.end], described(span))
        listed = list(different.values())[:_ANSWERS]
        none = {"no_answer": probability(reading.nothing)} if self.spec.no_answer else {}
        if is_unanswered(self.spec, reading.margin(), self.calibration):
            return {"answer": None, "score": none.get("no_answer"), **none, "answers": listed}
        best = listed[0]
        found = {"answer": best["text"], "start": best["start"], "end": best["end"], "score": best["score"]}
        return {**found, **none, "answers": listed}

    explains_pairs = True

    def explain_problem(self) -> str:
        """Returns "": all answers can be explained."""
        return ""

    def encode_explained(self, records: Sequence[Mapping[str, Any]]) -> EncodedRecords:
        """See `encode`."""
        return self.encode(records)

    def explained_outputs(self, model: SpanClassifier, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See core.task.ExplainsResults: arrays [B, T, 2]."""
        return token_probabilities(model(batch), batch)

    def explained(self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray]) -> list[Explained]:
        """Returns what the start and the end of each answer are due to."""
        results = self.decode(encoded, outputs)
        asked = (encoded.questions, encoded.contexts, encoded.asked)
        return explained_answers(self.spec, self.tokenizer, *asked, encoded.encoded, results, outputs)

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the question, then the answer with characters and score, and the next likely ones."""
        shown = [
            f"  {each['start']:>5}-{each['end']:<5} {each['score']:.3f}  {each['text']}" for each in result["answers"]
        ]
        if result["answer"] is None:
            sure = "" if result["score"] is None else f" {result['score']:.3f}"
            return [result["text"], f"  (no answer){sure}", *shown[:2]]
        return [result["text"], *shown[:3]]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        return missing_class(self.spec.encoder, "spans")

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForQuestionAnswering and AutoTokenizer open; UserError as `hf_problem` says."""
        if problem := self.hf_problem():
            raise UserError(problem)
        write_model(folder, self.spec.encoder, head="spans", params=params, tokenizer=self.tokenizer)

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        code = (
            "import torch\nfrom transformers import AutoModelForQuestionAnswering, AutoTokenizer\n\n"
            'tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")\n'
            'model = AutoModelForQuestionAnswering.from_pretrained("DIRECTORY").eval()\n'
            'question, context = "Who met Ada?", "Charles met Ada in London."\n'
            'inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)\n'
            'offsets = inputs.pop("offset_mapping")[0]\n'
            "with torch.no_grad():\n    found = model(**inputs)\n"
            "first, last = found.start_logits.argmax(), found.end_logits.argmax()\n"
            "print(context[offsets[first][0] : offsets[last][1]])"
        )
        none = " It may find that the context has no answer (first token)." if self.spec.no_answer else ""
        details = (
            f"It was trained on windows of {self.spec.window} tokens; longer contexts are to be read in overlapping "
            f"ones. Answers have at most {self.spec.max_answer} tokens.{none}"
        )
        return CardPart(
            "Extractive question answering",
            "question-answering",
            "Answers a question by a stretch of a given context.",
            code,
            details,
        )

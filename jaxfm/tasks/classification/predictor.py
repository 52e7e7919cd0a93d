"""A trained classifier over raw texts and pairs: classes or numbers, and the classifier in transformers' form."""

# B batch, T tokens, S segments (examples in a row), C classes, E examples

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.explained import Explained
from jaxfm.core.model_card import CardPart
from jaxfm.data.text.packing import PackedRows
from jaxfm.errors import UserError
from jaxfm.evaluation import ensembles
from jaxfm.evaluation.calibration import probabilities
from jaxfm.families.registry import family
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.export import write_model
from jaxfm.tasks.classification.explaining import PROBABILITY, explained_examples
from jaxfm.tasks.classification.exporting import other_form_card, other_form_problem, other_model, write_beside
from jaxfm.tasks.classification.spec import ClassifierSpec, EncodedExamples, encode
from jaxfm.tasks.explaining import explained_arrays

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# transformers' name of what jaxfm's `config.task.kind` names.
_CARD_LABELS = 50  # that the model card names
_PROBLEM_TYPES = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}


@dataclasses.dataclass(frozen=True)
class EncodedRecords:
    """Records and the packed rows of their texts."""

    records: tuple[dict[str, str], ...]
    examples: EncodedExamples

    @property
    def rows(self) -> PackedRows:
        """The rows to compute."""
        return self.examples.rows


@dataclasses.dataclass(frozen=True)
class ClassifierPredictor:
    """Texts in, classes or numbers out (implements Predictor and more of core.task).

    That is ScoresPairs, ExplainsResults, GivesProbabilities and AveragesModels.

    Attributes:
      spec: of the classifier.
      tokenizer: of the run.
      calibration: that the run fitted.
    """

    spec: ClassifierSpec
    tokenizer: "PreTrainedTokenizerFast"
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)

    records_at_once = 4096
    takes_words = False
    splitters = ()

    @property
    def pairs(self) -> bool:
        """Whether a record has two texts."""
        return self.spec.pairs

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.spec.labels

    def with_splitter(self, splitter: str) -> "ClassifierPredictor":
        """Never called: a text is read as a whole."""
        raise AssertionError(splitter)

    def outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See ClassifierSpec.outputs."""
        return self.spec.outputs(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedRecords:
        """Packs {"text": ...}, or {"text": ..., "pair": ...} where the model judges pairs.

        Raises:
          UserError: a second text that is missing, or that the model has no use for.
        """
        kept = tuple({name: str(record[name]) for name in ("text", "pair") if name in record} for record in records)
        for record in kept:
            if ("pair" in record) != self.spec.pairs:
                rule = (
                    'judges pairs: give the second text too (--pair, a tab between them, or "pair" in JSON lines)'
                    if self.spec.pairs
                    else "judges single texts: leave the second one out"
                )
                raise UserError(f"{record['text'][:60]!r}: this model {rule}.")
        texts = [(record["text"], record.get("pair")) for record in kept]
        return EncodedRecords(kept, encode(self.spec, self.tokenizer, texts))

    def decode(self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns the record with "label", "score" and all "scores", with "labels" and "scores", or with "value".

        A record without text (blank) has none: its label, score and value are None, its labels and scores empty.
        "truncated": true says that the end of the text (or texts) was not read, as it did not fit the model's window.
        Scores are probabilities, calibrated on the validation split of the run where it had one. Of an ensemble there
        is a "spread" too: the standard deviation over its models of the "score" or "value", or of each of the "scores".
        """
        outputs_EC = encoded.examples.per_example(outputs["outputs"])
        results = self._decoded(encoded, outputs_EC)
        if ensembles.SPREAD not in outputs:
            return results
        spread_EC = encoded.examples.per_example(outputs[ensembles.SPREAD])
        for index, result in enumerate(results):
            if not any(text.strip() for text in encoded.records[index].values()):
                continue
            row = [round(float(value), 4) for value in spread_EC[index]]
            best = int(np.argmax(outputs_EC[index]))
            several = dict(zip(self.labels, row, strict=True)) if self.spec.kind == "multi" else row[best]
            result[ensembles.SPREAD] = several
        return results

    def _decoded(self, encoded: EncodedRecords, outputs_EC: np.ndarray) -> list[dict[str, Any]]:
        """Returns results by what the model says of each example."""
        blank = [not any(text.strip() for text in record.values()) for record in encoded.records]
        records = [
            {**record, **({"truncated": True} if is_cut else {})}
            for record, is_cut in zip(encoded.records, encoded.examples.cut, strict=True)
        ]
        if self.spec.kind == "regression":
            return [
                {**record, "value": None if empty else round(float(value), 4)}
                for record, value, empty in zip(records, outputs_EC[:, 0], blank, strict=True)
            ]
        results = []
        found = probabilities(outputs_EC, self.calibration, self.spec.kind)
        for record, row, empty in zip(records, found, blank, strict=True):
            if empty:
                nothing = {"label": None, "score": None} if self.spec.kind == "single" else {"labels": []}
                results.append({**record, **nothing, "scores": {}})
                continue
            scores = {label: round(float(score), 4) for label, score in zip(self.labels, row, strict=True)}
            if self.spec.kind == "single":
                best = int(np.argmax(row))
                found = {"label": self.labels[best], "score": scores[self.labels[best]]}
            else:
                found = {
                    "labels": [label for label, p in zip(self.labels, row, strict=True) if p >= self.spec.threshold]
                }
            results.append({**record, **found, "scores": scores})
        return results

    of_words = False

    @property
    def probability(self) -> str:
        """What makes probabilities of logits; "" of numbers."""
        return {"single": "softmax", "multi": "sigmoid"}.get(self.spec.kind, "")

    def features(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See core.task.GivesProbabilities: features [B, S, D]."""
        features_BSD = model.features(batch if self.spec.prompt.pattern else model.encoder.encode(batch))
        return {"outputs": model.head(features_BSD).astype(jnp.float32), "features": features_BSD.astype(jnp.float32)}

    def unit_probabilities(
        self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray], *, calibrated: bool = True
    ) -> list[np.ndarray]:
        """Returns the probabilities [1, C] of each record's classes or labels."""
        outputs_EC = encoded.examples.per_example(outputs["outputs"])
        return list(probabilities(outputs_EC, self.calibration if calibrated else {}, self.spec.kind)[:, None])

    def unit_features(self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns what the last layer reads of each record [1, D]."""
        return list(encoded.examples.per_example(outputs["features"])[:, None])

    def average_problem(self) -> str:
        """Returns "": classes, labels and numbers can be averaged."""
        return ""

    def calibrated(self, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """See core.task.AveragesModels."""
        return {**outputs, "outputs": ensembles.scaled(outputs["outputs"], self.calibration)}

    def mean_outputs(self, outputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """See core.task.AveragesModels."""
        mean, spread = ensembles.mean_logits([each["outputs"] for each in outputs], self.spec.kind)
        return {**outputs[0], "outputs": mean, ensembles.SPREAD: spread}

    def uncalibrated(self) -> "ClassifierPredictor":
        """See core.task.AveragesModels."""
        return dataclasses.replace(self, calibration={})

    @property
    def explains_pairs(self) -> bool:
        """Whether a record has two texts."""
        return self.spec.pairs

    def explain_problem(self) -> str:
        """Returns why results of prompts are not explained: words of the pattern are none of the text; "" of others."""
        if self.spec.prompt.pattern:
            return "reads texts in a pattern (task.prompt.pattern), whose words are not those of a text"
        return ""

    def encode_explained(self, records: Sequence[Mapping[str, Any]]) -> EncodedRecords:
        """See `encode`."""
        return self.encode(records)

    def explained_outputs(self, model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """See core.task.ExplainsResults: arrays [B, S, C]."""
        return explained_arrays(model(batch), PROBABILITY[self.spec.kind])

    def explained(self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray]) -> list[Explained]:
        """Returns what the likeliest class, each label that holds, or the number is due to."""
        outputs_EC = encoded.examples.per_example(outputs["outputs"])
        results = self.decode(encoded, outputs)
        return explained_examples(
            self.spec, self.tokenizer, encoded.records, encoded.examples, results, outputs_EC, self.calibration
        )

    def pair_score_problem(self) -> str:
        """Returns why a pair has no one score: its model has one number, or two classes, of which the last is yes."""
        if not self.spec.pairs:
            return "judges single texts; a score of two texts needs a model of pairs."
        if self.spec.kind == "regression" or (self.spec.kind == "single" and len(self.labels) == 2):
            return ""
        return (
            f"its pairs have {len(self.labels)} classes or labels ({', '.join(self.labels[:4])} ...); a score needs "
            "two classes (config.task.kind=single), the last of which is yes, or a number (regression)."
        )

    def pair_scores(self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the number, or the probability of the last class, of each record, f64 [E]."""
        outputs_EC = encoded.examples.per_example(outputs["outputs"]).astype(np.float64)
        if self.spec.kind == "regression":
            return outputs_EC[:, 0]
        return probabilities(outputs_EC, self.calibration, self.spec.kind)[:, -1]

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the text or texts, then what was found: likeliest classes, the labels that hold, or the number."""
        texts = [result["text"], *([result["pair"]] if "pair" in result else [])]
        if not any(text.strip() for text in texts):
            return [*texts, "  (no text)"]
        if result.get("truncated"):
            texts.append(f"  (longer than the {self.spec.window} tokens the model reads: its end is left out)")
        if "value" in result:
            return [*texts, f"  {self.labels[0]} {result['value']:.3f}"]
        ranked = sorted(result["scores"].items(), key=lambda entry: -entry[1])
        if "label" in result:
            shown = ranked[:3]
        else:
            shown = [(label, score) for label, score in ranked if label in result["labels"]]
        return [*texts, *([f"  {score:.3f}  {label}" for label, score in shown] or ["  (no label)"])]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not.

        A mean over tokens is one reason: transformers' class of most families has the first token's vector only.
        """
        spec = self.spec
        if (problem := other_form_problem(spec)) is not None:
            return problem
        if problem := missing_class(spec.encoder, "sequence_classes"):
            return problem
        if spec.pooling != "mean" or family(spec.encoder.family).heads["sequence_classes"].pooling_key:
            return ""
        return (
            f"--format=hf: transformers' ForSequenceClassification of family {spec.encoder.family!r} reads the "
            "first token's vector, but this run was trained with config.task.pooling=mean. Train with "
            "pooling=cls to export, or use jaxfm.predict."
        )

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForSequenceClassification and AutoTokenizer open; UserError as `hf_problem` says.

        Of linear heads and prompts see `exporting.write_beside`.
        """
        if problem := self.hf_problem():
            raise UserError(problem)
        spec = self.spec
        if other_form_problem(spec) is not None:
            write_model(folder, spec.encoder, tokenizer=self.tokenizer, **other_model(spec, params))
            write_beside(folder, spec, params, self.tokenizer)
            return
        head = family(spec.encoder.family).heads["sequence_classes"]
        pooling = {head.pooling_key: head.poolings[spec.pooling]} if head.pooling_key else {}
        extra = {"problem_type": _PROBLEM_TYPES[spec.kind]} | pooling
        write_model(
            folder,
            spec.encoder,
            head="sequence_classes",
            params=params,
            tokenizer=self.tokenizer,
            labels=spec.labels,
            extra=extra,
        )

    def card(self) -> CardPart:
        """Returns the task's part of the model card."""
        kind, names = self.spec.kind, ", ".join(f"`{name}`" for name in self.labels[:_CARD_LABELS])
        more = f" and {len(self.labels) - _CARD_LABELS:,} more" if len(self.labels) > _CARD_LABELS else ""
        what = "pairs of texts" if self.spec.pairs else "texts"
        does = {
            "single": f"Puts {what} into one of the classes {names}{more}.",
            "multi": f"Says which of these labels {what} have: {names}{more}.",
            "regression": f"Gives {what} a number.",
        }
        scores = {
            "single": "Scores of transformers are the model's own probabilities; those of jaxfm are calibrated.",
            "multi": f"A label holds from a probability of {self.spec.threshold:g} on (jaxfm's are calibrated).",
            "regression": "The number is the one logit as it is: `function_to_apply` must be `none`.",
        }
        given = '{"text": "A text.", "text_pair": "Another."}' if self.spec.pairs else '"A text."'
        options = {"single": "", "multi": ", top_k=None", "regression": ', function_to_apply="none"'}
        code = (
            "from transformers import pipeline\n\n"
            f'classify = pipeline("text-classification", model="DIRECTORY"{options[kind]})\nclassify({given})'
        )
        reads = f"It was trained on at most {self.spec.window} tokens of a text; longer ones were cut."
        title = "Text regression" if kind == "regression" else "Text classification"
        card = CardPart(title, "text-classification", does[kind], code, f"{scores[kind]} {reads}")
        return (
            card if other_form_problem(self.spec) is None else other_form_card(self.spec, self.tokenizer, card, reads)
        )

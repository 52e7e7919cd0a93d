"""A trained classifier of related entities over raw texts: a pair's relation, or all triples of a text's entities."""

# B batch, T tokens, S segments (pairs in a row), C classes, E pairs

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxfm.core.model_card import CardPart
from jaxfm.data.records.relation_forms import ENTITY_FIELDS, Entity, mark, read_related
from jaxfm.data.records.relations import RelationExample
from jaxfm.data.text.packing import PackedRows
from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import probabilities
from jaxfm.evaluation.relations import split_direction
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.export import write_model
from jaxfm.models.heads import PairClassifier, SequenceClassifier
from jaxfm.tasks.relations.candidates import Candidates, candidates_of, type_problem
from jaxfm.tasks.relations.scorer import entity_record
from jaxfm.tasks.relations.spec import NONE, EncodedPairs, RelationSpec, encode, mark_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SHOWN = 3  # classes of a pair in the terminal
_CARD_LABELS = 50  # that the model card names


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked of a record.

    Attributes:
      text: of the record, without markers.
      pairs: which of all encoded pairs are the record's.
      entities: of a record that has entities; None: the record is one pair.
      candidates: how its pairs were found; None where the record names them.
    """

    text: str
    pairs: range
    entities: list[Any] | None = None
    candidates: Candidates | None = None


@dataclasses.dataclass(frozen=True)
class EncodedRecords:
    """Records, their pairs, and the packed rows of these; `shifts` says where in its record's text a pair's begins."""

    asked: tuple[Asked, ...]
    pairs: tuple[RelationExample, ...]
    shifts: tuple[int, ...]
    encoded: EncodedPairs

    @property
    def rows(self) -> PackedRows:
        """The rows to compute."""
        return self.encoded.rows


@dataclasses.dataclass(frozen=True)
class RelationPredictor:
    """Texts with entities in, relations out (implements jaxfm.core.task.Predictor and ReadsEntities).

    Attributes:
      spec: of the classifier.
      tokenizer: of the run.
      calibration: that the run fitted.
    """

    spec: RelationSpec
    tokenizer: "PreTrainedTokenizerFast"
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)

    records_at_once = 512
    takes_words = False
    splitters = ()
    pairs = False
    record_fields = ENTITY_FIELDS

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class."""
        return self.spec.labels

    def with_splitter(self, splitter: str) -> "RelationPredictor":
        """Never called: a text is read as a whole."""
        raise AssertionError(splitter)

    def entity_problem(self, types: Sequence[str]) -> str:
        """Returns why no two entities of these types can be related; "" where some can."""
        return type_problem(self.spec, types)

    def outputs(
        self, model: PairClassifier | SequenceClassifier, batch: Mapping[str, jax.Array]
    ) -> dict[str, jax.Array]:
        """See RelationSpec.outputs."""
        return self.spec.outputs(model, batch)

    def encode(self, records: Sequence[Mapping[str, Any]]) -> EncodedRecords:
        """Finds the pairs of each record and packs them.

        A record is one pair (a text with <e1> and <e2> marked, or with "head" and "tail"), or a text with "entities":
        with "relations" the pairs that these name, else those of `candidates_of`. A blank text has no pair.

        Raises:
          UserError: a record of no form, offsets outside the text, a type that training did not see.
        """
        asked: list[Asked] = []
        pairs: list[RelationExample] = []
        shifts: list[int] = []
        for record in records:
            found = self._asked(record, len(pairs))
            asked.append(found[0])
            pairs += found[1]
            shifts += found[2]
        encoded = encode(self.spec, self.tokenizer, mark_all(self.spec, self.tokenizer, pairs))
        return EncodedRecords(tuple(asked), tuple(pairs), tuple(shifts), encoded)

    def _asked(self, record: Mapping[str, Any], before: int) -> tuple[Asked, list[RelationExample], list[int]]:
        """Returns what a record asks, its pairs, and where the text of each begins in that of the record."""
        origin, text = record.get("origin", "a record"), str(record["text"])
        if not text.strip():
            entities = [] if record.get("entities") is not None else None
            return Asked(text, range(before, before), entities), [], []
        related = read_related({**record, "text": text}, origin)
        if not related.whole:
            ((head, tail, _),) = related.pairs
            example = RelationExample(related.text, head, tail, None, origin)
            return Asked(related.text, range(before, before + 1)), [example], [0]
        if record.get("relations") is None:
            found = candidates_of(self.spec, related.text, related.entities, origin)
            chosen = found.pairs, found.shifts, found
        else:
            named = [RelationExample(related.text, head, tail, None, origin) for head, tail, _ in related.pairs]
            chosen = named, [0] * len(named), None
        pairs, shifts, how = chosen
        entities = list(record["entities"])
        return Asked(related.text, range(before, before + len(pairs)), entities, how), list(pairs), list(shifts)

    def decode(self, encoded: EncodedRecords, outputs: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns one result a record.

        Of one pair: {"text", "head", "tail", "label", "score", "scores"}, the text without markers. Of entities:
        {"text", "entities", "triples": [{"subject", "relation", "object", "label", "score"}], "pairs": how many were
        judged}; a triple goes in the direction that its class says, and pairs of the negative class are none. Offsets
        count characters of the text. "truncated": true says that the text was read around the pair only. A pair whose
        entities are too far apart to be read has the label None; of entities, "too_far" is the number of such pairs,
        and "unrelated_types" that of pairs whose types were never related in training. Scores are probabilities,
        calibrated on the validation split of the run where it had one.
        """
        if len(encoded.rows):
            logits_EC = encoded.encoded.per_pair(outputs["outputs"])
        else:  # no pair in any text
            logits_EC = np.full((len(encoded.pairs), len(self.labels)), np.nan, np.float32)
        found_EC = probabilities(logits_EC, self.calibration)
        return [
            self._pair_result(encoded, asked, found_EC)
            if asked.entities is None
            else self._triples_result(encoded, asked, found_EC)
            for asked in encoded.asked
        ]

    def _pair_result(self, encoded: EncodedRecords, asked: Asked, found_EC: np.ndarray) -> dict[str, Any]:
        if not asked.pairs:
            return {"text": asked.text, "label": None, "score": None, "scores": {}}
        (number,) = asked.pairs
        pair, row = encoded.pairs[number], found_EC[number]
        result = {side: entity_record(pair.text, entity) for side, entity in (("head", pair.head), ("tail", pair.tail))}
        result = {"text": asked.text, **result}
        if encoded.encoded.cut[number]:
            result["truncated"] = True
        if encoded.encoded.row_of[number] < 0:
            return result | {"label": None, "score": None, "scores": {}}
        scores = {label: round(float(score), 4) for label, score in zip(self.labels, row, strict=True)}
        best = self.labels[int(np.argmax(row))]
        return result | {"label": best, "score": scores[best], "scores": scores}

    def _triples_result(self, encoded: EncodedRecords, asked: Asked, found_EC: np.ndarray) -> dict[str, Any]:
        triples, far = [], 0
        for number in asked.pairs:
            if encoded.encoded.row_of[number] < 0:
                far += 1
                continue
            best = int(np.argmax(found_EC[number]))
            label = self.labels[best]
            if label == self.spec.negative:
                continue
            pair, shift = encoded.pairs[number], encoded.shifts[number]
            sides = [
                entity_record(asked.text, each._replace(start=each.start + shift, end=each.end + shift))
                for each in (pair.head, pair.tail)
            ]
            relation, swapped = split_direction(label)
            subject, other = reversed(sides) if swapped else sides
            score = round(float(found_EC[number, best]), 4)
            triples.append({"subject": subject, "relation": relation, "object": other, "label": label, "score": score})
        triples.sort(key=lambda each: (each["subject"]["start"], each["object"]["start"], each["relation"]))
        left_out = asked.candidates.unrelated_types if asked.candidates else 0
        return {
            "text": asked.text,
            "entities": asked.entities,
            "triples": triples,
            "pairs": len(asked.pairs) - far,
            **({"too_far": far} if far else {}),
            **({"unrelated_types": left_out} if left_out else {}),
        }

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns the text, then a line a triple, or the likeliest classes of a pair."""
        text = result["text"]
        if not text.strip():
            return [text, "  (no text)"]
        if "triples" in result:
            found = [_line(triple) for triple in result["triples"]]
            return [text, *(found or [_nothing(result)]), *_left_out(result)]
        if "head" not in result:
            return [text, "  (no pair)"]
        head, tail = (_entity_of(result[side]) for side in ("head", "tail"))
        shown = [mark(text, head, tail)]
        if result["label"] is None:
            return [*shown, f"  (the entities are farther apart than the {self.spec.window} tokens the model reads)"]
        if result.get("truncated"):
            shown.append(f"  (longer than the {self.spec.window} tokens the model reads: only what is around the pair)")
        ranked = sorted(result["scores"].items(), key=lambda entry: -entry[1])
        return [*shown, *(f"  {score:.3f}  {label}" for label, score in ranked[:_SHOWN])]

    def hf_problem(self) -> str:
        """Returns why `write_hf` would refuse; "" where it would not."""
        if self.spec.markers == NONE:
            return missing_class(self.spec.encoder, "sequence_classes")
        return (
            "--format=hf, peft or onnx: transformers has no class that reads the vectors at the markers of two "
            "entities, as a run with config.task.markers=typed or plain does. Use jaxfm.predict or --format=stablehlo, "
            "or train with config.task.markers=none, which is exported as ForSequenceClassification."
        )

    def write_hf(self, folder: pathlib.Path, params: Mapping[str, np.ndarray]) -> None:
        """Writes what AutoModelForSequenceClassification and AutoTokenizer open; UserError as `hf_problem` says."""
        if problem := self.hf_problem():
            raise UserError(problem)
        write_model(
            folder,
            self.spec.encoder,
            head="sequence_classes",
            params=params,
            tokenizer=self.tokenizer,
            labels=self.spec.labels,
            extra={"problem_type": "single_label_classification"},
        )

    def card(self) -> CardPart:
        """Returns the task's part of the model card, which a run without markers has alone."""
        names = ", ".join(f"`{name}`" for name in self.labels[:_CARD_LABELS])
        more = f" and {len(self.labels) - _CARD_LABELS:,} more" if len(self.labels) > _CARD_LABELS else ""
        code = (
            "from transformers import pipeline\n\n"
            'relate = pipeline("text-classification", model="DIRECTORY")\nrelate("A text about two things.")'
        )
        return CardPart(
            "Relation of two entities",
            "text-classification",
            f"Says which relation two entities of a text have, without being told which entities: {names}{more}.",
            code,
            "Scores of transformers are the model's own probabilities; those of jaxfm are calibrated. It reads at most "
            f"{self.spec.window} tokens of a text; in training longer ones were read around their two entities.",
        )


def _entity_of(value: Mapping[str, Any]) -> Entity:
    return Entity(value["start"], value["end"], value.get("type", ""))


def _line(triple: Mapping[str, Any]) -> str:
    """Returns a triple as a line: score, subject, relation, object, with types and characters."""
    sides = []
    for side in (triple["subject"], triple["object"]):
        kind = f"{side['type']} " if "type" in side else ""
        sides.append(f"{side['text']} ({kind}{side['start']}-{side['end']})")
    return f"  {triple['score']:.3f}  {sides[0]}  {triple['relation']}  {sides[1]}"


def _nothing(result: Mapping[str, Any]) -> str:
    """Returns why there is no triple."""
    if not result["entities"]:
        return "  (no entities)"
    count = result["pairs"]
    return f"  (no relation: {count:,} pairs of entities judged)" if count else "  (no pair of entities to judge)"


def _left_out(result: Mapping[str, Any]) -> list[str]:
    """Returns a line that says which pairs were not judged; none where all were."""
    said = []
    if count := result.get("unrelated_types"):
        said.append(f"{count:,} pairs of types that were never related in training")
    if count := result.get("too_far"):
        said.append(f"{count:,} pairs too far apart to be read")
    return [f"  (not judged: {', '.join(said)})"] if said else []

"""Unlabelled records to the files that labelling tools import, with what a model says of them as pre-annotations.

What comes back labelled is read as any source is: `jsonl:` (docs/howto/labelling_tools.md).
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

from jaxfm.data.records.near_texts import record_text

CONTROL, TEXT, PAIR = "label", "text", "pair"
"""Label Studio's names of the labels and of the texts, in its configuration and in its results."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A record that is to be labelled.

    Attributes:
      record: its text ("text", "tokens" or both, "pair"), with "id" where it has one.
      result: what a predictor says of it: "label", "labels" or "entities", and the text that these are of.
      rank: from 1.
      score: by which it was chosen; None where nothing but chance chose it.
      origin: where it was read.
    """

    record: Mapping[str, Any]
    result: Mapping[str, Any]
    rank: int
    score: float | None
    origin: str

    @property
    def text(self) -> str:
        """The text that the places of entities are of."""
        return self.result["text"] if "text" in self.result else record_text(self.record)

    @property
    def facts(self) -> dict[str, Any]:
        """Returns what stands beside the text in every form."""
        named = {"id": self.record["id"]} if "id" in self.record else {}
        return {**named, "rank": self.rank, "score": self.score, "origin": self.origin}


@dataclasses.dataclass(frozen=True)
class Labels:
    """What is labelled.

    Attributes:
      names: of classes, or types of entities.
      of_words: whether parts of a text are labelled.
      several: whether a text may have several classes.
    """

    names: tuple[str, ...]
    of_words: bool = False
    several: bool = False


def predicted_classes(result: Mapping[str, Any]) -> list[str]:
    """Returns the classes that a result names."""
    if "labels" in result:
        return list(result["labels"])
    return [] if result.get("label") is None else [result["label"]]


def lines(chosen: Sequence[Chosen], labels: Labels) -> str:
    """Returns JSON lines: the record, "rank", "score", "origin" and, under "prediction", what the model says.

    There is no "label": a prediction must not be read as one.
    """
    del labels
    rows = []
    for each in chosen:
        said = {name: each.result[name] for name in ("label", "labels", "scores", "entities") if name in each.result}
        given = {name: each.record[name] for name in ("text", "pair", "tokens") if name in each.record}
        rows.append({**given, **each.facts, "prediction": said})
    return _json_lines(rows)


def doccano(chosen: Sequence[Chosen], labels: Labels) -> str:
    """Returns JSON lines that doccano imports: "text", and as "label" the classes or [start, end, type] of entities."""
    rows = []
    for each in chosen:
        if labels.of_words:
            said: list[Any] = [[one["start"], one["end"], one["type"]] for one in each.result["entities"]]
        else:
            said = predicted_classes(each.result)
        rows.append({"text": each.text, "label": said, **each.facts})
    return _json_lines(rows)


def label_studio(chosen: Sequence[Chosen], labels: Labels) -> str:
    """Returns an array of Label Studio's tasks with a prediction each, for the configuration `label_studio_config`."""
    tasks = []
    for each in chosen:
        pair = {PAIR: each.record["pair"]} if each.record.get("pair") else {}
        results, sure = _results(each, labels)
        prediction: dict[str, Any] = {"model_version": "jaxfm", "result": results}
        prediction |= {} if sure is None else {"score": sure}
        tasks.append({"data": {TEXT: each.text, **pair, **each.facts}, "predictions": [prediction]})
    return json.dumps(tasks, ensure_ascii=False, indent=1) + "\n"


def _results(each: Chosen, labels: Labels) -> tuple[list[dict[str, Any]], float | None]:
    """Returns the results of a prediction, and how sure the model is: of entities the least of their scores."""
    common = {"from_name": CONTROL, "to_name": TEXT}
    if not labels.of_words:
        classes, scores = predicted_classes(each.result), each.result.get("scores") or {}
        sure = [scores[name] for name in classes if name in scores]
        results = [{**common, "type": "choices", "value": {"choices": classes}}] if classes else []
        return results, min(sure, default=None)
    entities = each.result["entities"]
    found = [
        {
            **common,
            "type": "labels",
            "value": {"start": one["start"], "end": one["end"], "text": one["text"], "labels": [one["type"]]},
        }
        for one in entities
    ]
    return found, min((one["score"] for one in entities), default=None)


def label_studio_config(labels: Labels, *, pairs: bool) -> str:
    """Returns Label Studio's labelling configuration (XML) for tasks of `label_studio`."""
    texts = [f'  <Text name="{name}" value="${name}"/>' for name in (TEXT, *((PAIR,) if pairs else ()))]
    if labels.of_words:
        choices = [f"    <Label value={quoteattr(name)}/>" for name in labels.names]
        block = [f'  <Labels name="{CONTROL}" toName="{TEXT}">', *choices, "  </Labels>"]
    else:
        kind = "multiple" if labels.several else "single"
        choices = [f"    <Choice value={quoteattr(name)}/>" for name in labels.names]
        block = [f'  <Choices name="{CONTROL}" toName="{TEXT}" choice="{kind}">', *choices, "  </Choices>"]
    return "\n".join(["<View>", *block, *texts, "</View>"]) + "\n"


def _json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


Write = Callable[[Sequence[Chosen], Labels], str]
WRITERS: Mapping[str, Write] = {"jsonl": lines, "doccano": doccano, "label_studio": label_studio}
ENDINGS: Mapping[str, tuple[str, ...]] = {
    "jsonl": (".jsonl",),
    "doccano": (".jsonl",),
    "label_studio": (".json",),
}
"""Endings of the files that a form may have: the readers of these tools, and of jaxfm, go by them."""

"""A model that answers at once, or when it is let."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfm.core.batch import Units
from jaxfm.errors import UserError


class FakeModel:
    """Its result is the text and how many requests were computed with it; `held` keeps it from answering."""

    task, labels, step = "fake", ("A", "B"), 3
    pairs = reads_images = False
    reads_texts = explains = embeds_texts = True

    def __init__(self) -> None:
        self.portions: list[list[int]] = []
        self.units = Units()
        self.held = threading.Event()
        self.held.set()
        self.begun = threading.Event()

    def record(self, value: Any, origin: str) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not isinstance(value.get("text"), str):
            raise UserError(f"{origin}: must be text.")
        return {"text": value["text"], "origin": origin}

    def answer_all(self, requests: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[dict[str, Any]]]:
        self.begun.set()
        assert self.held.wait(20)
        texts = [[record["text"] for record in request] for request in requests]
        if any("wrong" in text for request in texts for text in request):
            raise UserError("this model cannot read it.")
        if any("fault" in text for request in texts for text in request):
            raise ZeroDivisionError("secret of the inside")
        self.portions.append([len(request) for request in requests])
        self.units = Units(self.units.computed + 32, self.units.useful + sum(map(len, texts)))
        return [[{"text": text, **({"truncated": True} if "long" in text else {})} for text in each] for each in texts]

    def explain(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"result": {"text": record["text"]}, "targets": [{"label": "A"}]}

    def rank(self, query: str, texts: Sequence[str]) -> list[dict[str, Any]]:
        return [{"index": number, "text": text, "score": 0.5} for number, text in enumerate(texts)]

    def warm(self, rows: int) -> Iterator[str]:
        yield f"compiling {rows}"

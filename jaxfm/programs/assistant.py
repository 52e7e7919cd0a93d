"""An assistant of customers: what is meant, by a run; a stored answer that fits; or the hand-over to a person."""

# N answers

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from jaxfm.data.records.conversations import Conversation, conversation_of, last_request
from jaxfm.data.records.dialogues import DialogueOptions, context_of

ANSWER, HAND_OVER = "answer", "hand_over"
UNSURE, FOR_A_PERSON, NO_ANSWER = "unsure what is meant", "an intent for a person", "no stored answer fits"
REASONS = (UNSURE, FOR_A_PERSON, NO_ANSWER)
INTENT = "intent"  # column of the stored answers
SHOWN = 3
INTENT_THRESHOLD = 0.5


class Intents(Protocol):
    """Says what is meant; `jaxfm.Model` does."""

    @property
    def workdir(self) -> str | os.PathLike[str]:
        """Its run directory."""
        ...

    def __call__(self, texts: Any) -> Any:
        """Returns {"label", "score"} of each of a list of texts."""
        ...


class Answers(Protocol):
    """Finds stored answers; `jaxfm.SearchIndex` does."""

    @property
    def count(self) -> int:
        """Number of stored answers, N."""
        ...

    def search(self, queries: Any, top: int | None = None, among: Sequence[int] | None = None) -> Any:
        """Returns the best `top` of each of a list of queries, or of those that go by `among`."""
        ...


@dataclasses.dataclass(frozen=True)
class Rules:
    """When a person answers.

    Attributes:
      threshold: score of the best stored answer from which on it is given.
      intent_threshold: probability of the intent from which on it counts.
      hand_over: intents that are never answered.
    """

    threshold: float
    intent_threshold: float = INTENT_THRESHOLD
    hand_over: frozenset[str] = frozenset()

    def about_intent(self, intent: str, probability: float) -> str | None:
        """Returns why a request of this intent is handed over whatever the answers are; None where it is not."""
        if probability < self.intent_threshold:
            return UNSURE
        return FOR_A_PERSON if intent in self.hand_over else None


@dataclasses.dataclass(frozen=True)
class Contexts:
    """How the turns so far become a text.

    Attributes:
      intents: for the run of intents.
      queries: for the search.
    """

    intents: DialogueOptions
    queries: DialogueOptions


class Assistant:
    """Answers the last turn of a user, or hands it over. `open_assistant` makes one.

    Attributes:
      rules: when a person answers.
      knows_intents: whether a run says what is meant.
      match: the column of the stored answers by which `jaxfm.assist --evaluate` says which are right; "": their text.
    """

    def __init__(
        self,
        index: Answers,
        rules: Rules,
        contexts: Contexts,
        intents: Intents | None = None,
        intent_of_N: Sequence[str | None] = (),
        *,
        responder: str = "",
        match: str = "",
        top: int = SHOWN,
    ):
        """`intent_of_N`: of each stored answer, None for one that suits all; `top`: candidates that a reply shows."""
        self.rules, self.knows_intents, self.match, self.responder = rules, intents is not None, match, responder
        self._index, self._contexts, self._intents, self._top = index, contexts, intents, top
        self._intent_of_N = intent_of_N

    def __repr__(self) -> str:
        what = f"intents by {str(self._intents.workdir)!r}" if self._intents else "no intents"
        return f"<jaxfm.Assistant: {self._index.count:,} stored answers, {what}>"

    def reply(self, turns: Any) -> dict[str, Any]:
        """Returns what to do about the user's last turn of a dialogue.

        {"action": "answer" or "hand_over", "reason": why it is handed over (None for an answer), "intent",
        "probability" (both None without a run of intents), "answer": what to say (None where it is handed over), "id",
        "score": of the best stored answer (None where none was found), "candidates": the best ones, {"rank", "score",
        "id", "text", "answer", ...}, for the person; "truncated": true where the intent was judged by less than the
        text, as that did not fit.}

        Args:
          turns: the dialogue so far, the user's turn last: texts, or {"speaker", "text"} and the like; or a record that
            has them as "turns". Turns of the responder that follow the user's last one are left out.

        Raises UserError for what is not a dialogue, and for one without a turn of a user.
        """
        return self.replies([turns])[0]

    def replies(self, dialogues: Iterable[Any]) -> list[dict[str, Any]]:
        """Returns `reply` of each of several dialogues, which are computed together."""
        read = [
            each if isinstance(each, Conversation) else conversation_of(each, f"dialogue {number}")
            for number, each in enumerate(dialogues, start=1)
        ]
        return self.answer_requests([last_request(each, self.responder) for each in read])

    def answer_requests(self, requests: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """Returns `reply` of each request: the texts of all turns so far, the user's last."""
        meant = self._meant(requests)
        reasons = [
            None if found is None else self.rules.about_intent(found["label"], found["score"]) for found in meant
        ]
        # An intent that is not sure does not narrow the search, whose candidates are then for the person.
        narrowed = [
            None if found is None or reason == UNSURE else str(found["label"])
            for found, reason in zip(meant, reasons, strict=True)
        ]
        candidates = self._candidates(requests, narrowed)
        return [
            self._reply(found, reason, best) for found, reason, best in zip(meant, reasons, candidates, strict=True)
        ]

    def retrieve(self, requests: Sequence[Sequence[str]]) -> list[dict[str, Any] | None]:
        """Returns the best of all stored answers to each request, whatever is meant; None where none is found."""
        found = self._index.search([context_of(turns, self._contexts.queries) for turns in requests], 1)
        return [each[0] if each else None for each in found]

    def _meant(self, requests: Sequence[Sequence[str]]) -> list[Mapping[str, Any] | None]:
        if self._intents is None:
            return [None] * len(requests)
        return list(self._intents([context_of(turns, self._contexts.intents) for turns in requests]))

    def _candidates(
        self, requests: Sequence[Sequence[str]], narrowed: Sequence[str | None]
    ) -> list[list[dict[str, Any]]]:
        """Returns the best stored answers of each request: those of its intent or of none, or of all (None)."""
        found: list[list[dict[str, Any]]] = [[] for _ in requests]
        for intent in dict.fromkeys(narrowed):
            places = [place for place, each in enumerate(narrowed) if each == intent]
            queries = [context_of(requests[place], self._contexts.queries) for place in places]
            among = None
            if intent is not None and any(each is not None for each in self._intent_of_N):
                among = [number for number, each in enumerate(self._intent_of_N) if each in (None, intent)]
            count = self._index.count if among is None else len(among)
            if count:
                for place, best in zip(
                    places, self._index.search(queries, min(self._top, count), among=among), strict=True
                ):
                    found[place] = best
        return found

    def _reply(
        self, meant: Mapping[str, Any] | None, reason: str | None, candidates: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        best = candidates[0] if candidates else None
        if reason is None and (best is None or best["score"] < self.rules.threshold):
            reason = NO_ANSWER
        answered = best is not None and reason is None
        return {
            "action": ANSWER if answered else HAND_OVER,
            "reason": reason,
            "intent": None if meant is None else meant["label"],
            "probability": None if meant is None else meant["score"],
            "answer": best["answer"] if answered and best else None,
            "id": None if best is None else best["id"],
            "score": None if best is None else best["score"],
            "candidates": list(candidates),
            **({"truncated": True} if meant is not None and meant.get("truncated") else {}),
        }

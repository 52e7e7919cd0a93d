"""An assistant of customers: what is meant, by a run; a stored answer that fits; or the hand-over to a person."""

# N answers

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.records.conversations import Conversation, conversation_of, last_request
from jaxfm.data.records.corpus_texts import OWN_COLUMNS, Corpus, corpus_file, corpus_in_memory
from jaxfm.data.records.dialogues import DialogueOptions, context_of
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.progress import Progress
from jaxfm.programs.model import Model
from jaxfm.programs.search_index import CANDIDATES, NO_THRESHOLD, SearchIndex, calibrated_threshold, open_index
from jaxfm.training.ensemble import open_members

ANSWER, HAND_OVER = "answer", "hand_over"
UNSURE, FOR_A_PERSON, NO_ANSWER = "unsure what is meant", "an intent for a person", "no stored answer fits"
REASONS = (UNSURE, FOR_A_PERSON, NO_ANSWER)
INTENT = "intent"  # column of the stored answers
SHOWN = 3
INTENT_THRESHOLD = 0.5


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
        index: SearchIndex,
        rules: Rules,
        contexts: Contexts,
        intents: Model | None = None,
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


def open_assistant(
    intents: str | os.PathLike[str] | None = None,
    answers: str | os.PathLike[str] | Iterable[Any] | None = None,
    retriever: str | os.PathLike[str] | None = None,
    *,
    bm25: bool = False,
    index: str | os.PathLike[str] | None = None,
    rerank: str | os.PathLike[str] | None = None,
    candidates: int = CANDIDATES,
    threshold: float | None = None,
    intent_threshold: float | None = None,
    hand_over: Sequence[str] = (),
    context_turns: int = 0,
    query_turns: int | None = None,
    separator: str | None = None,
    responder: str = "",
    match: str = "",
    columns: Mapping[str, str] | None = None,
    stop_words: str = "none",
    top: int = SHOWN,
    progress: Progress | None = None,
) -> Assistant:
    """Opens an assistant: stored answers, what finds them, and a run that says what users mean.

    Args:
      intents: a classification run of texts, one class each; None: what is meant is not asked.
      answers: a file with "answer" and "question" or "text" (what is searched), perhaps "id" and "intent"; or records.
      retriever: a run whose vectors find answers; None with `bm25`.
      bm25: find them by shared words.
      index: a directory that keeps the vectors of the answers.
      rerank: a run on pairs of texts that scores the first `candidates` again.
      candidates: see `rerank`.
      threshold: score of an answer from which on it is given; None: as the run that scores calibrated it.
      intent_threshold: probability from which on an intent counts, 0 to 1; None: 0.5.
      hand_over: intents that a person answers.
      context_turns: turns before the user's that the run of intents reads too.
      query_turns: the same of the search; None: as `context_turns`.
      separator: between turns; None: what a run was trained with, its tokenizer's separator, or a space for BM25.
      responder: the speaker who answers; "": the usual names (system, assistant, agent ...).
      match: a column of the answers, for `jaxfm.assist --evaluate`.
      columns: `text_column` of the answers.
      stop_words: of BM25, "none" or "en".
      top: candidates that a reply shows.
      progress: where to show how far it is.

    Raises:
      UserError: no answers, or no column "answer"; an intent that the run does not know; a run of another kind; a
        threshold out of range, or none where no run has calibrated one.
    """
    _check_numbers(intents, intent_threshold, hand_over, context_turns, query_turns, top)
    if bm25 == (retriever is not None):
        raise UserError("give one of --retriever=RUN, whose vectors find answers, and --bm25, which goes by words.")
    if threshold is None and (threshold := calibrated_threshold(retriever, rerank)) is None:
        raise UserError(NO_THRESHOLD)
    progress = progress or Progress(None, quiet=True)
    corpus = _corpus(answers, match, columns, progress)
    model = None if intents is None else _open_intents(intents)
    _check_known(hand_over, model)
    intent_of_N = _stored_intents(corpus, model, match)
    options = {"bm25": bm25, "rerank": rerank, "candidates": candidates, "stop_words": stop_words}
    with _as_flags(("--workdir", "--retriever"), *_CORPUS_FLAGS):
        found = open_index(retriever, corpus, index, answers=True, progress=progress, **options)
    _check_range(threshold, found)
    rules = Rules(threshold, INTENT_THRESHOLD if intent_threshold is None else intent_threshold, frozenset(hand_over))
    before = (context_turns, context_turns if query_turns is None else query_turns)
    contexts = Contexts(_context(before[0], intents, separator), _context(before[1], retriever, separator))
    return Assistant(found, rules, contexts, model, intent_of_N, responder=responder, match=match, top=top)


_CORPUS_FLAGS = (
    ("--corpus", "--answers"),
    ("--answer needs a", "there must be a"),
    (", which --answer needs of every record", ""),
)


@contextlib.contextmanager
def _as_flags(*names: tuple[str, str]) -> Iterator[None]:
    """Says of bad input what this program calls it."""
    try:
        yield
    except UserError as error:
        text = str(error)
        for other, own in names:
            text = text.replace(other, own)
        raise UserError(text) from None


def _check_numbers(
    intents: Any,
    intent_threshold: float | None,
    hand_over: Sequence[str],
    context_turns: int,
    query_turns: int | None,
    top: int,
) -> None:
    if intents is None:
        for flag, given in (("intent_threshold", intent_threshold is not None), ("hand_over", bool(hand_over))):
            if given:
                raise UserError(f"--{flag}: is of --intents=RUN, which is not given.")
    if intent_threshold is not None and not 0 <= intent_threshold <= 1:
        raise UserError(f"--intent_threshold={intent_threshold:g}: must be from 0 to 1, a probability.")
    for name, number, least in (("context_turns", context_turns, 0), ("query_turns", query_turns, 0), ("top", top, 1)):
        if number is not None and number < least:
            raise UserError(f"--{name}={number}: must be at least {least}.")


def _corpus(answers: Any, match: str, columns: Mapping[str, str] | None, progress: Progress) -> Corpus:
    if answers is None:
        raise UserError("--answers is missing: a file of stored answers, with a column 'answer'.")
    if match in OWN_COLUMNS:
        raise UserError(f"--match={match}: is a column that has a role of its own; name another one, or leave it out.")
    fields = tuple(dict.fromkeys((INTENT, *([match] if match else []))))
    with _as_flags(*_CORPUS_FLAGS):
        if isinstance(answers, str | os.PathLike):
            path = files.user_path(answers, "--answers")
            return corpus_file(path, answers=True, columns=columns, fields=fields, note=progress.say)
        return corpus_in_memory(answers, answers=True, fields=fields)


def _open_intents(workdir: str | os.PathLike[str]) -> Model:
    with _as_flags(("--workdir", "--intents")):
        model = Model(files.user_path(workdir, "--intents"))
    rule = "it must be a run of classification of texts, one class each"
    if not model.labels or model.pairs or not model.reads_texts or model.reads_files:
        what = "judges pairs of texts" if model.pairs else f"is a run of the task {model.task}"
        raise UserError(f"--intents={workdir}: {what}; {rule}.")
    if not isinstance(model("a text").get("label"), str):
        raise UserError(f"--intents={workdir}: its results have no label; {rule}.")
    return model


def _check_range(threshold: float, index: SearchIndex) -> None:
    least, most = index.score_range
    if not least <= threshold <= most:  # NaN is not either
        raise UserError(f"--threshold={threshold:g}: must be from {least:g} to {most:g}, as these scores are.")


def _check_known(hand_over: Sequence[str], model: Model | None) -> None:
    for intent in hand_over:
        assert model is not None
        if intent not in model.labels:
            hint = did_you_mean(intent, model.labels)
            raise UserError(f"--hand_over={intent}: the run of --intents has no such intent. {hint}")


def _stored_intents(corpus: Corpus, model: Model | None, match: str) -> list[str | None]:
    """Returns the intent of each stored answer; of all None without a run. Raises UserError for an unknown intent."""
    found: list[str | None] = []
    matched = not match
    with _as_flags(*_CORPUS_FLAGS):
        for each in corpus:
            intent = each.fields.get(INTENT)
            matched = matched or match in each.fields
            if model is None or intent is None or intent == "":
                found.append(None)
                continue
            if not isinstance(intent, str | int):
                raise UserError(f"{each.origin}: {INTENT!r} is {intent!r:.60}, but must be the name of one intent.")
            if str(intent) not in model.labels:
                hint = did_you_mean(str(intent), model.labels)
                raise UserError(f"{each.origin}: the run of --intents has no intent {str(intent)!r}. {hint}")
            found.append(str(intent))
    if not matched:
        raise UserError(f"--match={match}: no stored answer of {corpus.name} has this column.")
    return found


def _context(before: int, workdir: str | os.PathLike[str] | None, separator: str | None) -> DialogueOptions:
    """Returns how a user's turn and so many before it become a text, for a run or (None) for BM25."""
    if separator is None and before:
        separator = " " if workdir is None else _separator(files.user_path(workdir, "--workdir"))
    return DialogueOptions(before + 1, separator or "")


def _separator(workdir: pathlib.Path) -> str:
    """Returns what stands between two turns where a run was trained on dialogues, or else as its tokenizer has it."""
    run = open_members(workdir)[0]
    tokenizer = load_tokenizer(run.workdir / TOKENIZER_DIR)
    return getattr(run.config.task, "context_separator", "") or f" {tokenizer.sep_token or tokenizer.eos_token or ''} "

"""Answers customers, or hands them over to a person: `python -m jaxfm.assist --intents=RUN --answers=FILE ...`.

The turns of one dialogue are arguments, in order, the user's last. --input=FILE.jsonl answers the last turn of the user
in each of many dialogues. --evaluate=SOURCE answers every turn of users in dialogues as they were, and compares it with
what followed: how much is answered, how much of that rightly, beside retrieval alone.

A request is handed over where the run of --intents is less sure than --intent_threshold of what is meant, where that is
an intent of --hand_over, or where no stored answer has a score of --threshold. Stored answers that have an "intent" are
given for that intent alone.
"""

import contextlib
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.records.conversations import read_conversations
from jaxfm.data.records.corpus_texts import OWN_COLUMNS, Corpus, corpus_file, corpus_in_memory
from jaxfm.data.records.dialogues import DialogueOptions
from jaxfm.data.text.bm25 import STOP_WORDS
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.progress import Progress
from jaxfm.programs import plugins, program
from jaxfm.programs.assist_evaluation import evaluate_assistant
from jaxfm.programs.assistant import ANSWER, INTENT, INTENT_THRESHOLD, SHOWN, Assistant, Contexts, Rules
from jaxfm.programs.model import Model
from jaxfm.programs.search_index import CANDIDATES, NO_THRESHOLD, SearchIndex, calibrated_threshold, open_index
from jaxfm.training.ensemble import open_members

USAGE = (
    "usage: python -m jaxfm.assist [--intents=RUN] --answers=FILE (--retriever=RUN | --bm25) --threshold=SCORE "
    '("TURN" ... | --input=FILE.jsonl --output=FILE.jsonl | --evaluate=SOURCE [--output=DIR])'
)
COLUMNS = ("text_column",)
_PORTION = 1024  # dialogues at a time


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
    fields = (INTENT, match) if match not in ("", INTENT) else (INTENT,)
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


def assist_file(assistant: Assistant, source: str | pathlib.Path, output: str | pathlib.Path) -> int:
    """Writes a line of JSON for each dialogue of a .jsonl file, whole or not at all; returns their number.

    A line is what `Assistant.reply` gives; the "id" (or "dialogue_id") of a dialogue is kept as "dialogue_id".

    Raises UserError: a dialogue that cannot be read or has no turn of a user (file:line), an output that cannot be
    written.
    """
    path, output = files.user_path(source, "--input"), files.output_file(output, "--output")
    if path.is_file() and output.exists() and os.path.samefile(path, output):
        raise UserError(f"--output={output}: is the input itself. Name another file.")
    progress = Progress(None, quiet=files.is_stream(output))
    waiting, count = read_conversations(os.fspath(source), "train", "--input"), 0
    with progress, progress.task("answering (dialogues)", None) as advance, files.atomic_write(output) as file:
        while portion := list(itertools.islice(waiting, _PORTION)):
            for each, reply in zip(portion, assistant.replies(portion), strict=True):
                named = {} if each.id is None else {"dialogue_id": each.id}
                file.write(json.dumps(named | reply, ensure_ascii=False) + "\n")
            count += len(portion)
            advance(len(portion))
    return count


def lines(reply: Mapping[str, Any]) -> list[str]:
    """Returns a reply as lines for a person."""
    about = [] if reply["intent"] is None else [f"intent: {reply['intent']} ({reply['probability']:.4f})"]
    if reply["action"] == ANSWER:
        shown = [*reply["answer"].splitlines(), f"  ({reply['score']:.4f}  {reply['id']})"]
    else:
        shown = [f"to a person: {reply['reason']}"]
        shown += [
            f"  {each['rank']:>2}  {each['score']:.4f}  {each['id']}  {' '.join(each['answer'].split())}"
            for each in reply["candidates"]
        ]
    return about + shown


def _check_modes(texts: Sequence[str], source: str | None, evaluate: str | None, output: str | None) -> None:
    if [bool(texts), source is not None, evaluate is not None].count(True) != 1:
        raise UserError(f"give one of: the turns of a dialogue, --input, --evaluate.\n{USAGE}")
    if source is not None and not output:
        raise UserError(f"--output is missing: the file to write.\n{USAGE}")
    if texts and output:
        raise UserError(f"--output: is of --input or --evaluate, neither of which is given.\n{USAGE}")
    if evaluate is not None and output:
        files.output_directory(output, "--output")  # before a minute of work


def main(texts: Sequence[str]) -> None:
    """The program."""
    values = flags.FLAGS
    _check_modes(texts, values.input, values.evaluate, values.output)
    if values.match and values.evaluate is None:
        raise UserError("--match: is of --evaluate, which is not given.")
    if values.stop_words != "none" and not values.bm25:
        raise UserError("--stop_words: is of --bm25, which is not given.")
    to_stream = values.input is not None and files.is_stream(files.output_file(values.output, "--output"))
    with Progress(None, quiet=to_stream) as progress:
        assistant = open_assistant(
            values.intents,
            values.answers,
            values.retriever,
            bm25=values.bm25,
            index=values.index,
            rerank=values.rerank,
            candidates=values.candidates,
            threshold=values.threshold,
            intent_threshold=values.intent_threshold,
            hand_over=values.hand_over,
            context_turns=values.context_turns,
            query_turns=values.query_turns,
            separator=values.separator,
            responder=values.responder,
            match=values.match,
            columns=program.given_columns(COLUMNS),
            stop_words=values.stop_words,
            top=values.top,
            progress=progress,
        )
        report = None
        if values.evaluate is not None:
            report = evaluate_assistant(assistant, values.evaluate, split=values.split, progress=progress)
            for table in report.tables:
                progress.table(table)
    if report is not None:
        if values.output:
            report.write(values.output)
            print(f"written: {values.output}/report.md, report.json, assist.png")
    elif values.input is not None:
        count = assist_file(assistant, values.input, values.output)
        print(f"written: {values.output} ({count:,} lines)", file=sys.stderr if to_stream else sys.stdout)
    else:
        print("\n".join(lines(assistant.reply(texts))))


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("intents", None, "A classification run that says what a user means; none: this is not asked.")
    flags.DEFINE_string("answers", None, 'Stored answers: a table with "answer", and "question" or "text"; "intent".')
    flags.DEFINE_string("retriever", None, "A run whose task gives vectors of texts, which find answers.")
    flags.DEFINE_bool("bm25", False, "Find answers by the words that they share with the request, without a run.")
    flags.DEFINE_enum("stop_words", "none", list(STOP_WORDS), "Words that BM25 leaves out: none, or English ones (en).")
    flags.DEFINE_string("index", None, "A directory that keeps the vectors of the stored answers.")
    flags.DEFINE_string("rerank", None, "A run on pairs of texts (two classes, or a number) that scores again.")
    flags.DEFINE_integer("candidates", CANDIDATES, "Answers a request that --rerank scores.")
    flags.DEFINE_float("threshold", None, "Score from which on there is an answer. As calibrated, if not given.")
    flags.DEFINE_float(
        "intent_threshold", None, f"Probability from which on an intent counts; {INTENT_THRESHOLD} if not given."
    )
    flags.DEFINE_list("hand_over", [], "Intents that a person answers: A,B.")
    flags.DEFINE_integer("context_turns", 0, "Turns before the user's that are read with it.")
    flags.DEFINE_integer("query_turns", None, "The same of the search; as --context_turns if not given.")
    flags.DEFINE_string("separator", None, "Between turns; the separator of a run's tokenizer if not given.")
    flags.DEFINE_string("responder", "", "The speaker who answers; system, assistant, agent and such if not given.")
    flags.DEFINE_integer("top", SHOWN, "Stored answers that are shown with a hand-over.")
    flags.DEFINE_string("input", None, "Dialogues: .jsonl, also with .gz; the user's last turn of each is answered.")
    flags.DEFINE_string("output", None, "JSON lines to write (- is the standard output); of --evaluate a directory.")
    flags.DEFINE_string("evaluate", None, "Dialogues to compare with: dialogue:DIR, or a .jsonl file.")
    flags.DEFINE_string("split", "test", "The split of dialogue:DIR that --evaluate reads.")
    flags.DEFINE_string("match", "", "A column of answers and turns that is equal where an answer is right.")
    program.define_column_flags(COLUMNS)
    program.run(main, USAGE, takes_arguments=True)

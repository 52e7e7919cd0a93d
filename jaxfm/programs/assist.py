"""Answers customers, or hands them over to a person: `python -m jaxfm.assist --intents=RUN --answers=FILE ...`.

The turns of one dialogue are arguments, in order, the user's last. --input=FILE.jsonl answers the last turn of the user
in each of many dialogues. --evaluate=SOURCE answers every turn of users in dialogues as they were, and compares it with
what followed: how much is answered, how much of that rightly, beside retrieval alone.

A request is handed over where the run of --intents is less sure than --intent_threshold of what is meant, where that is
an intent of --hand_over, or where no stored answer has a score of --threshold. Stored answers that have an "intent" are
given for that intent alone.
"""

import itertools
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.data.records.conversations import read_conversations
from jaxfm.data.text.bm25 import STOP_WORDS
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs import plugins, program
from jaxfm.programs.assist_evaluation import evaluate_assistant
from jaxfm.programs.assistant import ANSWER, INTENT_THRESHOLD, SHOWN, Assistant, open_assistant
from jaxfm.programs.search_index import CANDIDATES

USAGE = (
    "usage: python -m jaxfm.assist [--intents=RUN] --answers=FILE (--retriever=RUN | --bm25) --threshold=SCORE "
    '("TURN" ... | --input=FILE.jsonl --output=FILE.jsonl | --evaluate=SOURCE [--output=DIR])'
)
COLUMNS = ("text_column",)
_PORTION = 1024  # dialogues at a time


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

"""Finds texts of a corpus: `python -m jaxfm.retrieve --workdir=RUN --corpus=FILE "query"`, or a file of queries.

The corpus is a file of texts (.txt, a text a line; .jsonl, .csv, .tsv, .parquet with "text", and "id" and "title" where
it has them). --index=DIR keeps its vectors, so that the next call embeds the query alone and needs no --corpus; a call
that was stopped goes on. An index of another run or another corpus is refused.

With --answer the corpus has a column "answer" beside "question" or "text": the answer of the best text is printed, or
"no answer" where its score is below --threshold.
"""

import itertools
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

from absl import flags

from jaxfm import files
from jaxfm.data.records import source_unlabelled
from jaxfm.data.records.source_unlabelled import Wanted
from jaxfm.data.text.bm25 import STOP_WORDS
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs import plugins, program
from jaxfm.programs.search_index import CANDIDATES, NO_THRESHOLD, TOP, SearchIndex, calibrated_threshold, open_index

USAGE = (
    "usage: python -m jaxfm.retrieve (--workdir=RUN | --bm25) --corpus=FILE [--index=DIR] "
    '("QUERY" ... | --input=FILE --output=FILE.jsonl) [--top=10] [--rerank=RUN] [--answer --threshold=SCORE]'
)
COLUMNS = ("text_column",)
_QUERIES = 1024  # at a time: each time the corpus is read from start to end
_WIDTH = 100  # characters of a text that are printed


@overload
def retrieve(
    workdir: str | os.PathLike[str] | None, queries: str, corpus: Any = None, *, top: int | None = None, **options: Any
) -> list[dict[str, Any]]: ...


@overload
def retrieve(
    workdir: str | os.PathLike[str] | None,
    queries: Iterable[str],
    corpus: Any = None,
    *,
    top: int | None = None,
    **options: Any,
) -> list[list[dict[str, Any]]]: ...


def retrieve(
    workdir: str | os.PathLike[str] | None, queries: Any, corpus: Any = None, *, top: int | None = None, **options: Any
) -> Any:
    """Returns the best texts of a query, or of each of several; to ask again and again, keep an `open_index`.

    Args:
      workdir: a run whose task gives vectors; None with bm25=True.
      queries: one, or a list of them.
      corpus: a file, or a list of texts or records; see `open_index`, which has the further options too.
      top: texts a query; see `SearchIndex.search`.
      **options: of `open_index`.
    """
    return open_index(workdir, corpus, **options).search(queries, top)


def retrieve_file(
    index: SearchIndex,
    source: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    top: int | None = None,
    answer: bool = False,
) -> int:
    """Writes a line of JSON for each query of a file, whole or not at all; returns their number.

    {"query", "results": [{"rank", "score", "id", "text"}, ...]}, with `answer` {"query", "answer", "score", "id",
    "text"}; an "id" of the query is kept as "query_id". Queries are read as texts for prediction, in bounded memory.

    Raises UserError: a query that is blank or cannot be read (file:line), an output that cannot be written.
    """
    source, output = files.user_path(source, "--input"), files.output_file(output, "--output")
    source_unlabelled.form_of(source)
    if output.exists() and os.path.samefile(source, output):
        raise UserError(f"--output={output}: is the input itself. Name another file.")
    index.check_top(top)
    progress = Progress(None, quiet=files.is_stream(output))
    count = 0
    with progress, progress.task(f"searching for {source.name} (queries)", None) as advance:
        with files.atomic_write(output) as file:
            records = source_unlabelled.read_unlabelled(source, Wanted(), progress.say)
            for result in _results(index, records, top, answer):
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
                count += 1
                advance(1)
    return count


def _results(
    index: SearchIndex, records: Iterable[Mapping[str, Any]], top: int | None, answer: bool
) -> Iterator[dict[str, Any]]:
    waiting = iter(records)
    while portion := list(itertools.islice(waiting, _QUERIES)):
        for record in portion:
            if not record["text"].strip():
                raise UserError(f"{record['origin']}: is blank; there is nothing to search for.")
        queries = [record["text"] for record in portion]
        found = index.answer(queries) if answer else index.search(queries, top)
        for record, each in zip(portion, found, strict=True):
            named = {"query_id": record["id"]} if "id" in record else {}
            yield named | (each if isinstance(each, dict) else {"query": record["text"], "results": each})


def lines(query: str, found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the texts found for a query as lines for a person."""
    if not found:
        return [query, "  (nothing found: no text has a word of it)"]
    width = max(len(str(each["id"])) for each in found)
    return [
        query,
        *(f"  {each['rank']:>2}  {each['score']:.4f}  {str(each['id']):<{width}}  {_short(each)}" for each in found),
    ]


def _short(text: Mapping[str, Any]) -> str:
    shown = " ".join(f"{text['title']}: {text['text']}".split() if text.get("title") else text["text"].split())
    return shown if len(shown) <= _WIDTH else f"{shown[: _WIDTH - 1]}…"


def answer_lines(result: Mapping[str, Any]) -> list[str]:
    """Returns an answer as lines for a person."""
    if result["id"] is None:
        return [result["query"], "  no answer (no text has a word of it)"]
    near = f"{result['score']:.4f}  {result['id']}  {_short(result)}"
    if result["answer"] is None:
        return [result["query"], f"  no answer (the nearest: {near})"]
    return [result["query"], *(f"  {line}" for line in result["answer"].splitlines()), f"  ({near})"]


def main(texts: Sequence[str]) -> None:
    """The program."""
    values = flags.FLAGS
    if bool(texts) == bool(values.input) or bool(values.input) != bool(values.output):
        raise UserError(f"give either queries, or both --input and --output.\n{USAGE}")
    if values.threshold is not None and not values.answer:
        raise UserError("--threshold: is of --answer, which is not given.")
    if values.stop_words != "none" and not values.bm25:
        raise UserError("--stop_words: is of --bm25, which is not given.")
    if values.answer and values.threshold is None and calibrated_threshold(values.workdir, values.rerank) is None:
        raise UserError(NO_THRESHOLD)  # before a corpus is embedded
    progress = Progress(
        None, quiet=bool(values.output) and files.is_stream(files.output_file(values.output, "--output"))
    )
    with progress:
        index = open_index(
            values.workdir,
            values.corpus,
            values.index,
            bm25=values.bm25,
            approximate=values.approximate,
            rerank=values.rerank,
            candidates=values.candidates,
            answers=values.answer,
            threshold=values.threshold,
            columns=program.given_columns(COLUMNS),
            stop_words=values.stop_words,
            progress=progress,
        )
    if values.input:
        count = retrieve_file(index, values.input, values.output, top=values.top, answer=values.answer)
        to = sys.stderr if files.is_stream(files.output_file(values.output, "--output")) else sys.stdout
        print(f"written: {values.output} ({count:,} lines)", file=to)
    elif values.answer:
        for result in index.answer(texts):
            print("\n".join(answer_lines(result)))
    else:
        for query, found in zip(texts, index.search(texts, values.top), strict=True):
            print("\n".join(lines(query, found)))


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("workdir", None, "A run whose task gives vectors of texts.")
    flags.DEFINE_bool("bm25", False, "Rank by the words that query and text share, without a run.")
    flags.DEFINE_enum("stop_words", "none", list(STOP_WORDS), "Words that BM25 leaves out: none, or English ones (en).")
    flags.DEFINE_string("corpus", None, "The texts to search in: a file; not needed with a finished --index.")
    flags.DEFINE_string("index", None, "A directory that keeps the vectors of the corpus.")
    flags.DEFINE_bool("approximate", False, "Find candidates by a graph, kept in --index: for millions of texts.")
    flags.DEFINE_string(
        "rerank", None, "A run on pairs of texts (two classes, or a number) that scores candidates again."
    )
    flags.DEFINE_integer("candidates", CANDIDATES, "Texts a query that --rerank scores.")
    flags.DEFINE_integer("top", None, f"Texts a query; {TOP}, or all of a smaller corpus, if not given.", lower_bound=1)
    flags.DEFINE_bool("answer", False, "Print the stored answer of the best text, or that there is none.")
    flags.DEFINE_float(
        "threshold", None, "Score from which on there is an answer. As the run calibrated it, if not given."
    )
    flags.DEFINE_string(
        "input", None, f"Queries: {', '.join(source_unlabelled.endings())}; also with .gz but .parquet."
    )
    flags.DEFINE_string("output", None, "JSON lines to write; - is the standard output.")
    program.define_column_flags(COLUMNS)
    program.run(main, USAGE, takes_arguments=True)

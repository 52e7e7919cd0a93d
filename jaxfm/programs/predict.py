"""Uses a trained model: `python -m jaxfm.predict --workdir=runs/ner "Ada met Charles in London." [more texts ...]`,
or a file, in bounded memory: `--input=FILE --output=OUT.jsonl`. Where a model judges pairs of texts, the second one is
--pair="TEXT", follows a tab, has a column, or is a file: `--context=FILE "Who met Ada?" [more questions ...]`. Where it
relates entities, --entities=DIR is a run that finds them.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from absl import flags

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.batch import Dataset
from jaxfm.core.build import Build
from jaxfm.core.task import EmbedsTexts, FindsEntities, Predictor, ReadsEntities, ScoresPairs
from jaxfm.data.records import source_unlabelled
from jaxfm.data.records.examples import PAIR_COLUMNS
from jaxfm.data.records.source_unlabelled import Wanted
from jaxfm.errors import UserError, did_you_mean
from jaxfm.formats import vector_files
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import plugins, program, vector_output
from jaxfm.training.evaluation import Evaluator, bucket
from jaxfm.training.saved_run import open_run
from jaxfm.training.session import compute_dtype

USAGE = (
    'usage: python -m jaxfm.predict --workdir=DIR ("TEXT" ... | --input=FILE --output=FILE.jsonl) '
    '[--pair="TEXT" | --context=FILE] [--entities=DIR]\n'
    "  [--vectors=float32|int8|binary] [--role=query|document]  with --output=FILE.npy or FILE.parquet"
)
RUN_WORDS = "run"
_SINGLE = "this model judges single texts: leave the second one out."
_LISTED = 12  # labels in a repr
COLUMNS = ("text_column", "pair_column", "words_column")

Text = str | tuple[str, str] | Mapping[str, Any]
"""A text, a pair of texts, or a record: {"text": ...}, also with "pair", with "tokens" (words) beside it or alone, and
with the entities that a model relates ("head" and "tail", or "entities").
"""


class Model:
    """A trained run, loaded: call it with texts as often as you like, also from several threads.

    Attributes:
      workdir: the run directory.
      task: name of its task.
      labels: class names of its head, empty where the head has none.
      step: whose checkpoint it is.
    """

    def __init__(self, workdir: str | pathlib.Path, words: str = RUN_WORDS, entities: str | pathlib.Path | None = None):
        """Restores the run's chosen checkpoint; UserError when there is none. `words`, `entities`: the program's flags.

        `entities` is a run that finds the entities of each text, for a model that relates entities.
        """
        self.workdir = files.user_path(workdir, "--workdir")
        with libraries_quieted():
            run = open_run(self.workdir)
            predictor, self._finder = run.predictor(), None
            if entities is not None:
                self._finder = _finder(predictor, entities, words)
            self._predictor = predictor if entities is not None else _split_by(predictor, words)
            config = run.config
            self._mesh = make_mesh(MeshConfig())
            self._restored = run.restore(self._mesh, Build(compute_dtype(config.train.precision)))
        self._run = run
        self.task, self.labels = config.task.name, self._predictor.labels
        self.step = self._restored.step
        self._batch_size = config.eval.batch_size
        self._trained = {name: getattr(config.data, name) for name in (*COLUMNS, "label_column")}
        # One compiled function a batch size: small calls must not pay for a large batch.
        self._evaluators: dict[int, Evaluator] = {}
        # Tokenizers are not safe to call from two threads at once: they set their truncation anew at each call.
        self._one_at_a_time = threading.Lock()

    def __repr__(self) -> str:
        more = f" and {len(self.labels) - _LISTED} more" if len(self.labels) > _LISTED else ""
        listed = f"{', '.join(self.labels[:_LISTED])}{more}" if self.labels else "none"
        return f"<jaxfm.Model: {self.task}, labels: {listed}; step {self.step} of {str(self.workdir)!r}>"

    @property
    def pairs(self) -> bool:
        """Whether it judges pairs of texts."""
        return self._predictor.pairs

    @property
    def wanted(self) -> Wanted:
        """What it reads."""
        if self._finder is not None:
            return self._finder.wanted
        fields = self._predictor.record_fields if isinstance(self._predictor, ReadsEntities) else ()
        return Wanted(self._predictor.pairs, self._predictor.takes_words, trained=self._trained, fields=fields)

    @overload
    def __call__(self, texts: str | Mapping[str, Any]) -> dict[str, Any]: ...

    @overload
    def __call__(self, texts: Iterable[Text]) -> list[dict[str, Any]]: ...

    def __call__(self, texts: Text | Iterable[Text]) -> dict[str, Any] | list[dict[str, Any]]:
        """Returns the result of one text (a str or a record), or a list of one result each of several.

        Several are any iterable: a list, a tuple, a generator, a NumPy array, a pandas Series, a column of a data set.
        A pair of texts, (text, pair), stands in a list: [("A text.", "Another.")].
        NER: {"text", "entities": [{"type", "text", "start", "end", "score"}]}; classification: {"text", "label", ...}.
        Relations: {"text", "head", "tail", "label", "score", "scores"}, of entities {"text", "entities", "triples"}.

        Raises:
          UserError: what is no text ("text 3: ..."), a pair where the model judges single texts or the other way round.
        """
        if getattr(texts, "shape", None) == ():  # one text as a NumPy array without axes
            texts = texts.item()  # type: ignore[union-attr]
        if isinstance(texts, str | Mapping):
            return next(self.stream([self._record(texts, "the text")]))
        if isinstance(texts, bytes) or hasattr(texts, "columns") or not isinstance(texts, Iterable):
            raise UserError(f"a {type(texts).__name__} is neither a text nor a list of texts (such as one column).")
        return list(self.stream(self._record(text, f"text {number}") for number, text in enumerate(texts, start=1)))

    def stream(self, records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yields one result a record ({"text": ...}, or with "pair"), in order, as many at a time as the task says.

        An "id" of a record is copied to its result.
        """
        iterator = iter(records)
        while chunk := list(itertools.islice(iterator, self._predictor.records_at_once)):
            for record, result in zip(chunk, self._predict(chunk), strict=True):
                named = {"id": record["id"]} if "id" in record else {}
                yield named | result

    @property
    def records_at_once(self) -> int:
        """Records that are computed together."""
        return self._predictor.records_at_once

    @property
    def embeds(self) -> EmbedsTexts:
        """How it makes vectors of texts; UserError where it makes none."""
        if not isinstance(self._predictor, EmbedsTexts):
            raise UserError(f"{self.workdir}: is a run of the task {self.task}, which makes no vectors of texts.")
        return self._predictor

    def embed(self, texts: Iterable[str], role: str = "") -> np.ndarray:
        """Returns the vectors of texts, f32 [N, D]; for more texts than fit into memory see `embed_stream`.

        `role` is "query" or "document" (the default): texts of the two may have different prompts.

        Raises:
          UserError: a model that makes no vectors, an unknown role, what is not a text.
        """
        if isinstance(texts, str):
            raise UserError("embed: is given one text; give a list of texts.")
        parts = list(self.embed_stream(texts, role))
        return np.concatenate(parts) if parts else np.zeros((0, self.embeds.dimension), np.float32)

    def embed_stream(self, texts: Iterable[str], role: str = "") -> Iterator[np.ndarray]:
        """Yields the vectors of texts in portions, f32 [n, D], in order."""
        embeds, iterator = self.embeds, iter(texts)
        role = role or embeds.roles[-1]
        if role not in embeds.roles:
            raise UserError(f"role: {role!r}. {did_you_mean(role, embeds.roles)}")
        number = 0
        while chunk := list(itertools.islice(iterator, self._predictor.records_at_once)):
            for text in chunk:
                number += 1
                if not isinstance(text, str):
                    raise UserError(f"text {number}: is of type {type(text).__name__}, but must be text.")
            with self._one_at_a_time:
                encoded = embeds.embedding_rows([str(text) for text in chunk], role)
                yield embeds.vectors(encoded, self._outputs(encoded.rows))

    def pair_scores(self, pairs: Iterable[tuple[str, str]]) -> np.ndarray:
        """Returns how well the two texts of each pair go together, f64 [N], the higher the better.

        Of a regression that is its number, of two classes the probability of the last one. Raises UserError for a model
        whose pairs have no one score.
        """
        if not isinstance(self._predictor, ScoresPairs):
            raise UserError(f"{self.workdir}: is a run of the task {self.task}, which does not score pairs of texts.")
        if problem := self._predictor.pair_score_problem():
            raise UserError(f"{self.workdir}: {problem}")
        parts, iterator = [np.zeros(0)], iter(pairs)
        while chunk := list(itertools.islice(iterator, self._predictor.records_at_once)):
            with self._one_at_a_time:
                encoded = self._predictor.encode([{"text": text, "pair": pair} for text, pair in chunk])
                parts.append(self._predictor.pair_scores(encoded, self._outputs(encoded.rows)))
        return np.concatenate(parts)

    def fingerprint(self) -> str:
        """Returns a hash of the weights, the spec and the tokenizer: of all that a vector of a text depends on."""
        return self._run.fingerprint(self._restored)

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns a result as lines for a person."""
        return self._predictor.lines(result)

    def _record(self, text: Any, origin: str) -> dict[str, Any]:
        if isinstance(text, Mapping):
            wanted = ("text", "pair", "tokens", "id", *self.wanted.fields)
            record = {name: text[name] for name in wanted if name in text}
            if self.pairs and "text" not in record:
                both = next((both for both in PAIR_COLUMNS if set(both) <= set(text)), ())
                record |= {name: text[column] for name, column in zip(("text", "pair"), both, strict=False)}
        elif isinstance(text, tuple | list) and len(text) == 2:
            record = {"text": text[0], "pair": text[1]}
        else:
            record = {"text": text}
        # NumPy's strings are strings, but not ones that everybody writes as JSON.
        record = {name: str(value) if isinstance(value, str) else value for name, value in record.items()}
        return source_unlabelled.check_record({**record, "origin": origin}, self.wanted)

    def _predict(self, chunk: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        if self._finder is not None:
            found = self._finder._predict(chunk)
            chunk = [
                {"origin": record.get("origin", "a record"), "text": result["text"], "entities": result["entities"]}
                for record, result in zip(chunk, found, strict=True)
            ]
        with self._one_at_a_time:
            encoded = self._predictor.encode(chunk)
            return self._predictor.decode(encoded, self._outputs(encoded.rows))

    def _outputs(self, rows: Dataset) -> Mapping[str, np.ndarray]:
        size = bucket(self._batch_size, len(rows), self._mesh)
        if size not in self._evaluators:
            self._evaluators[size] = Evaluator(self._predictor.outputs, self._restored.graphdef, self._mesh, size)
        return self._evaluators[size](self._restored.params, rows)


def load(workdir: str | pathlib.Path, *, entities: str | pathlib.Path | None = None) -> Model:
    """Returns a trained run, to call with one text or many; UserError when there is none.

    `entities` is a run that finds the entities of each text, for a model that relates entities.
    """
    return Model(workdir, entities=entities)


@overload
def predict(
    workdir: str | pathlib.Path, texts: str | Mapping[str, Any], *, entities: str | pathlib.Path | None = None
) -> dict[str, Any]: ...


@overload
def predict(
    workdir: str | pathlib.Path, texts: Iterable[Text], *, entities: str | pathlib.Path | None = None
) -> list[dict[str, Any]]: ...


def predict(
    workdir: str | pathlib.Path, texts: Text | Iterable[Text], *, entities: str | pathlib.Path | None = None
) -> dict[str, Any] | list[dict[str, Any]]:
    """Returns the result of a text, or one result each of several, as `Model`; to call again and again, keep one."""
    return Model(workdir, entities=entities)(texts)


def predict_file(
    workdir: str | pathlib.Path,
    source: str | pathlib.Path,
    output: str | pathlib.Path,
    progress: Progress | None = None,
    columns: Mapping[str, str] | None = None,
    words: str = RUN_WORDS,
    context: str | None = None,
    entities: str | pathlib.Path | None = None,
    vectors: str = "",
    role: str = "",
) -> int:
    """Writes one JSON result a record of `source` to `output`, whole or not at all; returns the number of records.

    An output of vectors (.npy, .parquet) has the vector of each text instead.

    Args:
      workdir: a run directory.
      source: .txt (a text a line), .jsonl, .json, .csv, .tsv, .parquet or .conll, each with .gz or without; see
        `jaxfm.data.records.source_unlabelled.read_unlabelled`.
      output: JSON lines, in the order of the input; an empty line of .txt gives a result without findings. A field "id"
        of the input is kept.
      progress: where to show how far it is.
      columns: `text_column`, `pair_column`, `words_column`: the fields to read, where they are not the usual ones.
      words: see `--words`.
      context: the second text of every record, of which `source` then has the first alone.
      entities: see `--entities`.
      vectors: see `--vectors`.
      role: see `--role`.

    Raises:
      UserError: a record that cannot be read (file:line), no run or checkpoint, an output that cannot be written or
        that another process is writing, vectors of a model that makes none.
    """
    source, output = files.user_path(source, "--input"), files.output_file(output, "--output")
    source_unlabelled.form_of(source)
    if output.exists() and os.path.samefile(source, output):
        raise UserError(f"--output={output}: is the input itself. Name another file.")
    form = vector_output.form_of(output, vectors, role)
    model = Model(workdir, words, entities)
    if form:
        vector_files.check_output(output, form, model.embeds.dimension)
    if context is not None and not model.pairs:
        raise UserError(f"--context: {_SINGLE}")
    pairs, second = model.pairs and context is None, {} if context is None else {"pair": context}
    wanted = dataclasses.replace(model.wanted, pairs=pairs, given=dict(columns or {}))
    progress = progress or Progress(None, quiet=files.is_stream(output))
    count = cut = 0
    with progress, progress.task(f"predicting {source.name} (records)", None) as advance, _alone(output):
        if form:
            return vector_output.write_vectors(
                lambda texts: model.embed(texts, role),
                source_unlabelled.read_unlabelled(source, wanted, progress.say),
                output,
                model.embeds.dimension,
                form,
                at_once=model.records_at_once,
                progress=progress,
                advance=advance,
            )
        with files.atomic_write(output) as file:
            records = source_unlabelled.read_unlabelled(source, wanted, progress.say)
            for result in model.stream({**record, **second} for record in records):
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
                count += 1
                advance(1)
                cut += "truncated" in result
        if cut:
            progress.say(f'NOTE: {cut:,} of {count:,} texts are longer than the model reads ("truncated": true)')
    return count


def _finder(predictor: Predictor, entities: str | pathlib.Path, words: str) -> Model:
    """Opens the run that finds entities for another; UserError where the two do not go together."""
    if not isinstance(predictor, ReadsEntities):
        raise UserError(f"--entities={entities}: the model of --workdir does not relate entities: leave out the flag.")
    finder = Model(files.user_path(entities, "--entities"), words)
    found = finder._predictor
    if not isinstance(found, FindsEntities):
        raise UserError(
            f"--entities={entities}: is a run of the task {finder.task}, which finds no entities. Name a run that does."
        )
    if problem := predictor.entity_problem(found.entity_types):
        raise UserError(f"--entities={entities}: {problem}")
    return finder


def _split_by(predictor: Predictor, words: str) -> Predictor:
    """Returns the predictor with the asked way to split raw text into words; UserError where it has no such way."""
    if words == RUN_WORDS:
        return predictor
    if not predictor.splitters:
        raise UserError(
            f"--words={words}: only a model that reads a text word by word (named entities) has such a rule."
        )
    if words not in predictor.splitters:
        raise UserError(f"--words={words}: {did_you_mean(words, predictor.splitters)}")
    return predictor.with_splitter(words)


def _alone(output: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Keeps other processes from writing a file at the same time."""
    if files.is_stream(output):
        return contextlib.nullcontext()
    return files.held(files.lock_beside(output), f"--output={output}")


def _argument(text: str, name: str) -> str:
    """Returns an argument. Raises UserError where its bytes are not UTF-8, which Python hands on as half characters."""
    try:
        os.fsencode(text).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}: byte 0x{error.object[error.start]:02X} at position {error.start + 1} is not UTF-8 "
            f"({error.reason}). Write the text in a UTF-8 file and give --input."
        ) from None
    except UnicodeEncodeError:  # not from the command line; `check_record` says what is wrong
        pass
    return text


def read_context(path: str) -> str:
    """Returns the text of a file. Raises UserError for one that is absent, is not UTF-8, or has no text."""
    file = files.user_path(path, "--context")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"--context={path}: cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"--context={path}: byte 0x{error.object[error.start]:02X} at position {error.start + 1} is not UTF-8. "
            "Convert the file, for instance: iconv -f LATIN1 -t UTF-8."
        ) from None
    if not text.strip():
        raise UserError(f"--context={path}: has no text.")
    return text


def main(texts: Sequence[str]) -> None:
    """The program."""
    values = flags.FLAGS
    if not values.workdir:
        raise UserError(f"--workdir is missing.\n{USAGE}")
    if bool(texts) == bool(values.input) or bool(values.input) != bool(values.output):
        raise UserError(f"give either texts, or both --input and --output.\n{USAGE}")
    if values.pair is not None and values.context is not None:
        raise UserError(f"--pair, --context: are both the second text; give one.\n{USAGE}")
    context = None if values.context is None else read_context(values.context)
    if values.input:
        if values.pair is not None:
            raise UserError(
                f"--pair: belongs to a text of the command line; in a file the second text has a column.\n{USAGE}"
            )
        columns = program.given_columns(COLUMNS)
        count = predict_file(
            values.workdir,
            values.input,
            values.output,
            columns=columns,
            words=values.words,
            context=context,
            entities=values.entities,
            vectors=values.vectors,
            role=values.role,
        )
        to = sys.stderr if files.is_stream(files.output_file(values.output, "--output")) else sys.stdout
        what = "vectors" if values.output.endswith(vector_files.ENDINGS) else "lines"
        print(f"written: {values.output} ({count:,} {what})", file=to)
        return
    for flag in ("vectors", "role"):
        if values[flag].value:
            raise UserError(f"--{flag}: belongs to --input and --output.\n{USAGE}")
    if values.pair is not None and len(texts) != 1:
        raise UserError(f"--pair: belongs to one text, but there are {len(texts)}.\n{USAGE}")
    texts = [_argument(text, f"text {number}") for number, text in enumerate(texts, start=1)]
    pair = {} if values.pair is None else {"pair": _argument(values.pair, "--pair")}
    pair = pair if context is None else {"pair": context}
    model = Model(values.workdir, values.words, values.entities)
    records = []
    for number, text in enumerate(texts, start=1):
        origin = f"text {number}"
        by_tab = model.pairs and not pair
        if by_tab and text.strip() and text.count("\t") != 1:
            raise UserError(
                f'{origin}: this model judges pairs of texts: give the second one as --pair="TEXT" or '
                "--context=FILE, or both in one argument with a tab between them."
            )
        record = source_unlabelled.split_pair(text, origin) if by_tab else {"text": text, "origin": origin, **pair}
        records.append(source_unlabelled.check_record(record, model.wanted))
    for result in model.stream(records):
        print("\n".join(model.lines(result)))


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("workdir", None, "A run directory.")
    flags.DEFINE_string("input", None, f"Texts: {', '.join(source_unlabelled.endings())}; also with .gz but .parquet.")
    flags.DEFINE_string(
        "output",
        None,
        "JSON lines to write; - is the standard output. Where the model makes vectors: also FILE.npy or FILE.parquet.",
    )
    flags.DEFINE_string(
        "vectors",
        "",
        "Numbers of an output of vectors: float32 (if empty), int8 (256 steps of each number's range, which is written "
        "beside them) or binary (a bit a number), both as sentence-transformers has them.",
    )
    flags.DEFINE_string(
        "role", "", "What the texts are to a model that makes vectors: query or document (if empty); prompts differ."
    )
    flags.DEFINE_string(
        "words",
        RUN_WORDS,
        "Words of a text: run (as in the run's training) or transformers (as its pipeline has them).",
    )
    flags.DEFINE_string("pair", None, "The second text, for a model that judges pairs.")
    flags.DEFINE_string("context", None, "A file whose whole text is the second one of every text given.")
    flags.DEFINE_string("entities", None, "A run that finds the entities of each text, for a model that relates them.")
    program.define_column_flags(COLUMNS)
    program.run(main, USAGE, takes_arguments=True)

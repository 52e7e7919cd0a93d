"""Uses a trained model: `python -m jaxfm.predict --workdir=runs/ner "Ada met Charles in London." [more texts ...]`,
or a file, in bounded memory: `--input=FILE --output=OUT.jsonl`. Where a model judges pairs of texts, the second one is
--pair="TEXT", follows a tab, has a column, or is a file: `--context=FILE "Who met Ada?" [more questions ...]`. Where it
relates entities, --entities=DIR is a run that finds them. Where it reads images, these are files and folders:
`--workdir=runs/photos cat.png photos/`; likewise where it reads sound: `clip.wav clips/`. Where it makes images, these
are names of classes: `--workdir=runs/made --pictures=made.png 0 1 2`.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

from absl import flags

from jaxfm import files
from jaxfm.core.task import DrawsPictures
from jaxfm.data.records import source_unlabelled
from jaxfm.data.records.source_unlabelled import Wanted
from jaxfm.errors import UserError
from jaxfm.formats import vector_files
from jaxfm.observe.image_sheets import Tile, draw_sheet
from jaxfm.observe.progress import Progress
from jaxfm.programs import image_input, model_options, plugins, program, vector_output
from jaxfm.programs.model import COLUMNS, RUN_WORDS, Model, Text

USAGE = (
    'usage: python -m jaxfm.predict --workdir=DIR ("TEXT" ... | --input=FILE --output=FILE.jsonl) '
    '[--pair="TEXT" | --context=FILE] [--entities=DIR]\n'
    "  [--vectors=float32|int8|binary] [--role=query|document]  with --output=FILE.npy or FILE.parquet\n"
    "  [--exit=CONFIDENCE | --no_exit] [--stats]  of a model with early heads\n"
    "  [--labels=A,B,...]  of a model that compares inputs with any labels\n"
    "  [--decoding=NAME=VALUE ...] [--control=NAME=VALUE ...]  of a model that writes texts\n"
    "  of images, sound: (FILE|FOLDER ... | --input=FOLDER|TABLE --output=FILE.jsonl)\n"
    "  of a model that makes images: (CLASS ... | --input=FILE --output=FILE.jsonl)\n"
    "  [--pictures=FILE.png]"
)
AUDIO_COLUMN = "audio_column"
_MOST_PICTURES = 24  # inputs of a sheet
_MOST_COLUMNS = 12
_SINGLE = "this model judges single texts: leave the second one out."


@overload
def predict(
    workdir: str | pathlib.Path,
    texts: str | Mapping[str, Any],
    *,
    entities: str | pathlib.Path | None = None,
    labels: Sequence[str] = (),
) -> dict[str, Any]: ...


@overload
def predict(
    workdir: str | pathlib.Path,
    texts: Iterable[Text],
    *,
    entities: str | pathlib.Path | None = None,
    labels: Sequence[str] = (),
) -> list[dict[str, Any]]: ...


def predict(
    workdir: str | pathlib.Path,
    texts: Text | Iterable[Text],
    *,
    entities: str | pathlib.Path | None = None,
    labels: Sequence[str] = (),
) -> dict[str, Any] | list[dict[str, Any]]:
    """Returns the result of a text, or one result each of several, as `Model`; to call again and again, keep one."""
    return Model(workdir, entities=entities, labels=labels)(texts)


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
    labels: Sequence[str] = (),
    exit: float | str | None = None,
    writing: model_options.Writing = model_options.AS_TRAINED,
) -> int:
    """Writes one JSON result a record of `source` to `output`, whole or not at all; returns the number of records.

    An output of vectors (.npy, .parquet) has the vector of each text instead.

    Args:
      workdir: a run directory.
      source: .txt (a text a line), .jsonl, .json, .csv, .tsv, .parquet or .conll, each with .gz or without; see
        `jaxfm.data.records.source_unlabelled.read_unlabelled`. Of images: a folder, or a table of paths or bytes.
      output: JSON lines, in the order of the input; an empty line of .txt gives a result without findings. A field "id"
        of the input is kept.
      progress: where to show how far it is.
      columns: `text_column`, `pair_column`, `words_column`, `image_column`: the fields to read instead of the usual.
      words: see `--words`.
      context: the second text of every record, of which `source` then has the first alone.
      entities: see `--entities`.
      vectors: see `--vectors`.
      role: see `--role`.
      labels: see `--labels`.
      exit: of a model with early heads, the confidence from which a text leaves, "never", or None: the run's own.
      writing: of a model that writes texts, see `--decoding` and `--control`.

    Raises:
      UserError: a record that cannot be read (file:line), no run or checkpoint, an output that cannot be written or
        that another process is writing, vectors of a model that makes none.
    """
    source, output = _paths(source, output)
    form = vector_output.form_of(output, vectors, role)
    model = Model(workdir, words, entities, labels, exit=exit, writing=writing)
    if source.is_dir() and not (model.reads_images or model.reads_files):
        raise UserError(f"--input={source}: is a directory; name a file. This model reads texts, not images.")
    if form:
        vector_files.check_output(output, form, model.embeds.dimension)
    if context is not None and not model.pairs:
        raise UserError(f"--context: {_SINGLE}")
    given, second = dict(columns or {}), {} if context is None else {"pair": context}
    read = {name: given[name] for name in given if name in COLUMNS}
    wanted = dataclasses.replace(model.wanted, pairs=model.pairs and context is None, given=read)
    progress = progress or Progress(None, quiet=files.is_stream(output))
    count = cut = 0
    with progress, progress.task(f"predicting {source.name} (records)", None) as advance, _alone(output):
        records = _records(model, source, wanted, given, progress)
        if form:
            return vector_output.write_vectors(
                model.embed_images if model.reads_images else lambda texts: model.embed(texts, role),
                records,
                output,
                model.embeds.dimension,
                form,
                at_once=model.records_at_once,
                progress=progress,
                advance=advance,
            )
        with files.atomic_write(output) as file:
            for result in model.stream({**record, **second} for record in records):
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
                count += 1
                advance(1)
                cut += "truncated" in result
        for note in _notes(model, count, cut):
            progress.say(note)
    return count


def _paths(source: str | pathlib.Path, output: str | pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the files that are read and written; UserError for a source of no known form, and for one file twice."""
    source, output = files.user_path(source, "--input"), files.output_file(output, "--output")
    if not source.is_dir():
        source_unlabelled.form_of(source)
    if output.exists() and os.path.samefile(source, output):
        raise UserError(f"--output={output}: is the input itself. Name another file.")
    return source, output


def _notes(model: Model, count: int, cut: int) -> list[str]:
    """Returns what to say of `count` inputs, `cut` of them not read to their end."""
    longer = f'NOTE: {cut:,} of {count:,} texts are longer than the model reads ("truncated": true)'
    return [*filter(None, (exit_summary(model),)), *((longer,) if cut else ())]


def exit_summary(model: Model) -> str:
    """Returns how many layers the inputs of a model with early heads took; "" for a model without."""
    if model.layers is None:
        return model.exit_note
    layers = model.layers
    return f"{model.exit_note}; {layers.examples:,} took {layers.average:.2f} of {layers.of} layers on average"


def _exit_asked() -> float | str | None:
    """Returns what --exit and --no_exit say; UserError for what is no number, and for both."""
    values = flags.FLAGS
    if values.exit is None or values.no_exit:
        if values.exit is not None:
            raise UserError(f"--exit, --no_exit: contradict each other; give one.\n{USAGE}")
        return "never" if values.no_exit else None
    try:
        return float(values.exit)
    except ValueError:
        return values.exit


def _writing_asked() -> model_options.Writing:
    """Returns what --decoding and --control say."""
    values, named = flags.FLAGS, model_options.named_values
    return model_options.Writing(named("--decoding", values.decoding), named("--control", values.control))


def _records(
    model: Model, source: pathlib.Path, wanted: Wanted, given: Mapping[str, str], progress: Progress
) -> Iterable[Mapping[str, Any]]:
    """Returns the records of an input: images, or other files, where the model reads these, else texts."""
    if model.reads_files:
        return model.reads_files.input_records(source, f"--input={source}", given.get(AUDIO_COLUMN, ""))
    if model.reads_images:
        return image_input.read_images_of(source, given.get(image_input.COLUMN, ""))
    return source_unlabelled.read_unlabelled(source, wanted, progress.say)


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
    labels = values.labels.split(",") if values.labels else ()
    if values.input:
        if values.pictures:
            raise UserError(f"--pictures: belongs to images of the command line.\n{USAGE}")
        if values.pair is not None:
            raise UserError(
                f"--pair: belongs to a text of the command line; in a file the second text has a column.\n{USAGE}"
            )
        columns = program.given_columns((*COLUMNS, image_input.COLUMN, AUDIO_COLUMN))
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
            labels=labels,
            exit=_exit_asked(),
            writing=_writing_asked(),
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
    model = Model(values.workdir, values.words, values.entities, labels, exit=_exit_asked(), writing=_writing_asked())
    if model.reads_files:
        if pair or values.pictures:
            raise UserError(f"--pair, --context, --pictures: the model of --workdir reads files alone.\n{USAGE}")
        records = [record for word in texts for record in model.reads_files.input_records(pathlib.Path(word), word, "")]
        for result in model.stream(records):
            print("\n".join(model.lines(result)))
        return
    if model.reads_images:
        if pair:
            raise UserError(f"--pair, --context: {_SINGLE}")
        _with_pictures(model, image_input.argument_records(texts, texts=model.reads_texts), values.pictures)
        return
    if values.pictures and not isinstance(model.predictor, DrawsPictures):
        raise UserError(f"--pictures: the model of --workdir reads texts.\n{USAGE}")
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
    if values.pictures:
        _with_pictures(model, records, values.pictures)
        return
    for result in model.stream(records):
        print("\n".join(model.lines(result)))
    if values.stats:
        print(exit_summary(model) or "all inputs take all layers: the model has no early heads")


def _with_pictures(model: Model, records: Sequence[Mapping[str, Any]], pictures: str | None) -> None:
    """Prints what a model says of records and, with a file for it, draws what it makes of them."""
    sheet = None if pictures is None else files.output_file(pictures, "--pictures")
    for result in model.stream(records):
        print("\n".join(model.lines(result)))
    if sheet is None:
        return
    shown, what = records[:_MOST_PICTURES], "images" if model.reads_images else "inputs"
    made = list(model.pictures(shown))
    tiles = [Tile(pixels, (heading,)) for each in made for heading, pixels in each.items()]
    if not tiles:
        raise UserError("--pictures: there is nothing to draw.")
    # The pictures of an input stand in one row, where they are not too many.
    wide = max(map(len, made))
    columns = wide if 4 <= wide <= _MOST_COLUMNS else 6
    draw_sheet(tiles, sheet, title=f"What {model.workdir.name} makes of {len(shown)} {what}", columns=columns)
    left = f" (the first {_MOST_PICTURES} of {len(records):,} {what})" if len(records) > _MOST_PICTURES else ""
    print(f"written: {sheet}{left}")


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("workdir", None, "A run directory, or a folder of several runs: an ensemble.")
    flags.DEFINE_string(
        "input",
        None,
        f"Texts: {', '.join(source_unlabelled.endings())}; also with .gz but .parquet. Images: a folder or a table.",
    )
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
    flags.DEFINE_string(
        "labels",
        "",
        "Classes that inputs are compared with (zero-shot), with commas between them; NAME: TEXT to describe one.",
    )
    flags.DEFINE_string(
        "pictures",
        None,
        "PNG file of what the model makes of images: what it attends to, or hidden patches predicted; or of the images "
        "that it makes of classes.",
    )
    flags.DEFINE_string(
        "exit",
        None,
        "Of a model with early heads: the confidence, from 0 to 1, from which a text leaves at one of them; the run's "
        "own (exits.json), if not given.",
    )
    flags.DEFINE_bool("no_exit", False, "Whether every text takes all layers, of a model with early heads too.")
    flags.DEFINE_bool("stats", False, "Whether to say at the end how many layers texts took on average.")
    flags.DEFINE_multi_string(
        "decoding", [], "NAME=VALUE: how a model that writes texts chooses tokens (task.decoding of the keys): steps=8."
    )
    flags.DEFINE_multi_string(
        "control", [], "NAME=VALUE: what is asked of the texts that a model writes, such as length=short."
    )
    flags.DEFINE_string("pair", None, "The second text, for a model that judges pairs.")
    flags.DEFINE_string("context", None, "A file whose whole text is the second one of every text given.")
    flags.DEFINE_string("entities", None, "A run that finds the entities of each text, for a model that relates them.")
    program.define_column_flags((*COLUMNS, image_input.COLUMN, AUDIO_COLUMN))
    program.run(main, USAGE, takes_arguments=True)

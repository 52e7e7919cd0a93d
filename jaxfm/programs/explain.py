"""Says which words a result is due to: `python -m jaxfm.explain --workdir=runs/a "A text." [more texts ...]`, of a file
(--input=FILE) or of labelled data (--split=valid --limit=100).

Each word, or patch of an image, has a share of the number that the model gives to a part of its result: the logit of a
class, of an entity's tags, of an answer's start and end. --output=DIR has all of it as JSON lines, as a page and as a
picture. --faithfulness says whether the words of each method matter more to the model than random ones.
"""

import dataclasses
import itertools
import json
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from jaxfm import files
from jaxfm.core.explained import PROBABILITIES, SCORES
from jaxfm.data.records import source_unlabelled
from jaxfm.data.records.splits import require_split
from jaxfm.errors import UserError
from jaxfm.observe.highlights import Highlight, Passage, Word, draw, on_terminal, to_html, word_table
from jaxfm.observe.progress import Progress
from jaxfm.programs import explain_examples, image_input, plugins, program
from jaxfm.programs import explain_faithfulness as faithfulness
from jaxfm.programs.explanations import Explanation
from jaxfm.programs.model import COLUMNS, Model, Text
from jaxfm.training.attribution import INTEGRATED, METHODS, STEPS, Shares
from jaxfm.training.saved_run import open_run

USAGE = (
    'usage: python -m jaxfm.explain --workdir=DIR ("TEXT" ... | IMAGE ... | --input=FILE | --split=NAME)\n'
    '  [--pair="TEXT"] [--limit=N] [--method=NAME] [--of=score|probability] [--output=DIR]'
)
OF: Mapping[str, str] = {"score": SCORES, "probability": PROBABILITIES}
LINES_FILE, PAGE_FILE, PICTURE_FILE = "explanations.jsonl", "explanations.html", "explanations.png"
_PRINTED = 8  # records
_MOST_ON_PAGE = 500  # records: a page that a browser opens


@dataclasses.dataclass(frozen=True)
class Completeness:
    """How far shares of integrated gradients are from the differences that words make.

    Attributes:
      targets: that were explained.
      mean: mean of what is missing, of the mean difference.
      worst: the largest that is missing of one target, in the unit of the number.
    """

    targets: int
    mean: float
    worst: float

    @classmethod
    def of(cls, found: Sequence[Shares]) -> "Completeness":
        """Measures it; 0 without targets."""
        missing = np.abs([each.missing for each in found] or [0.0])
        made = np.abs([each.number - each.without for each in found] or [0.0]).mean()
        return cls(len(found), float(missing.mean() / max(made, 1e-12)), float(missing.max()))

    @property
    def line(self) -> str:
        """For a person."""
        return (
            f"completeness error: {self.mean:.3%} of what the words make, at most {self.worst:.2g} "
            f"({self.targets:,} {'part' if self.targets == 1 else 'parts'} of results)"
        )


def explain(
    workdir: str | pathlib.Path,
    texts: Text | Iterable[Text],
    *,
    method: str = INTEGRATED,
    of: str = "score",
    steps: int = STEPS,
) -> list[dict[str, Any]]:
    """Returns {"result", "targets"} of each text: which words each part of its result is due to.

    A target has what it is of the result, its "number", the number "without" words (each in its place a token that
    means nothing), and "words" with a "share" each. Texts are computed together; `Model.explain` is for one at a time.

    Args:
      workdir: a run directory.
      texts: as `jaxfm.predict` takes them.
      method: integrated_gradients, gradient_x_input, smoothgrad, occlusion or rollout.
      of: "score" (what the head gives, a logit or its logarithm) or "probability".
      steps: of integrated gradients.

    Raises:
      UserError: a model whose results are not explained, an unknown method, what is not a text.
    """
    _check(method, of, steps)
    model = Model(workdir, precision="f32")
    several = [texts] if isinstance(texts, str | Mapping) or image_input.is_one_image(texts) else texts
    records = [model.record(text, f"text {number}", explained=True) for number, text in enumerate(several, start=1)]
    return [found.to_dict() for found in model.explainer(records, method, OF[of], steps)]


def split_records(
    workdir: str | pathlib.Path, split: str, source: str | None = None, limit: int = 0, seed: int = 0
) -> list[dict[str, Any]]:
    """Returns the labelled examples of a split as records for the run's predictor, in the order of the source.

    Args:
      workdir: a run directory.
      split: train, valid or test, or another usual name.
      source: of the data; the run's own if not given.
      limit: this many of them at most, drawn by the seed; 0: all.
      seed: of the draw.

    Raises UserError for a task whose examples are no input of its model.
    """
    opened = open_run(files.user_path(workdir, "--workdir"))
    records = explain_examples.labelled_task(opened, split, source).labelled_records(require_split(split))  # type: ignore[attr-defined]
    return [records[number] for number in explain_examples.drawn(len(records), limit, seed)]


def highlights(found: Explanation, of: str) -> list[Highlight]:
    """Returns each part of a result with the texts, or the image, that it is due to."""
    explained, shown = found.explained, []
    unit = of if explained.judged else "number"
    keys = list(explained.words())
    for each in found.shares:
        what = dict(each.target.of)
        if "start" in what and "end" in what and "text" in explained.texts:
            field = what.pop("field", "text")
            start, end = what.pop("start"), what.pop("end")
            what = {**what, "text": explained.texts[field][start:end]}
        title = ", ".join(f"{name} {value}" for name, value in what.items())
        facts = f"{unit} {each.number:.4f}, without {each.without:.4f}"
        passages = tuple(
            Passage(
                name,
                text,
                tuple(
                    sorted(
                        Word(start, end, share)
                        for (field, start, end), share in zip(keys, each.shares.tolist(), strict=True)
                        if field == name
                    )
                ),
            )
            for name, text in explained.texts.items()
        )
        if explained.picture is None:
            shown.append(Highlight(title, facts, passages))
        else:
            picture = explained.picture
            shown.append(Highlight(title, facts, (), picture.pixels, each.shares.reshape(picture.grid)))
    return shown


def main(texts: Sequence[str]) -> None:
    """The program."""
    values = flags.FLAGS
    if not values.workdir:
        raise UserError(f"--workdir is missing.\n{USAGE}")
    if sum(map(bool, (texts, values.input, values.split))) != 1:
        raise UserError(f"give one of: texts, --input, --split.\n{USAGE}")
    if values.pair is not None and len(texts) != 1:
        raise UserError(f"--pair: belongs to one text of the command line.\n{USAGE}")
    methods = values.method or (METHODS if values.faithfulness else [INTEGRATED])
    for method in methods:
        _check(method, values.of, values.steps)
    if len(methods) > 1 and not values.faithfulness:
        raise UserError(f"--method: {', '.join(methods)}: several are compared by --faithfulness; else give one.")
    output = None if values.output is None else files.output_directory(values.output, "--output")
    with Progress(None) as progress:
        if values.examples:
            _examples(texts, output, progress)
            return
        model = Model(values.workdir, precision="f32")
        for method in methods:
            model.explainer.check(method)
        records = list(_records(model, texts, progress))
        if values.faithfulness:
            _faithfulness(model, records, methods, output, progress)
        else:
            _explained(model, records, methods[0], output, progress)


def _check(method: str, of: str, steps: int) -> None:
    """Raises UserError for names and numbers that mean nothing."""
    if method not in METHODS:
        raise UserError(f"method: {method!r} is none of {', '.join(METHODS)}.")
    if of not in OF:
        raise UserError(f"of: {of!r} is none of {', '.join(OF)}.")
    if not 1 <= steps <= 1024:
        raise UserError(f"steps: {steps} must be from 1 to 1024.")


def _records(model: Model, texts: Sequence[str], progress: Progress) -> Iterator[Mapping[str, Any]]:
    """Yields what the command line asks for, as many as --limit says."""
    values = flags.FLAGS
    limit = values.limit or None
    if values.split:
        yield from split_records(values.workdir, values.split, values.source, values.limit, values.seed)
    elif values.input:
        source = files.user_path(values.input, "--input")
        if model.reads_images:
            yield from itertools.islice(image_input.read_images_of(source), limit)
            return
        given = program.given_columns(COLUMNS)
        wanted = dataclasses.replace(model.wanted_explained, given=given)
        yield from itertools.islice(source_unlabelled.read_unlabelled(source, wanted, progress.say), limit)
    elif model.reads_images:
        yield from image_input.argument_records(list(texts), texts=model.reads_texts)
    else:
        for number, text in enumerate(texts, start=1):
            given: Any = (text, values.pair) if values.pair is not None else text
            if values.pair is None and model.wanted_explained.pairs:
                record = source_unlabelled.split_pair(text, f"text {number}")
                given = (record["text"], record["pair"])
            yield model.record(given, f"text {number}", explained=True)


def _explained(
    model: Model, records: Sequence[Mapping[str, Any]], method: str, output: pathlib.Path | None, progress: Progress
) -> None:
    """Explains records, shows the first and writes all."""
    values = flags.FLAGS
    shown: list[tuple[str, list[Highlight]]] = []
    every: list[Shares] = []
    lines: list[str] = []
    began = time.monotonic()
    with progress.task("explaining (records)", len(records)) as advance:
        for record, found in zip(records, model.explainer(records, method, OF[values.of], values.steps), strict=True):
            parts = highlights(found, values.of)
            every += found.shares
            named = {name: record[name] for name in ("id", "origin", "gold") if name in record and values.split}
            named |= {"id": record["id"]} if "id" in record else {}
            lines.append(json.dumps(named | found.to_dict(), ensure_ascii=False))
            if len(shown) < _MOST_ON_PAGE:
                shown.append((str(record.get("origin", record.get("id", ""))), parts))
            advance(1)
    seconds = time.monotonic() - began
    for _, parts in shown[:_PRINTED]:
        _print(parts, progress)
    notes = [
        f"{method} of {values.workdir}, step {model.step}: shares of the {values.of} of each part of a result",
        f"{len(records):,} records, {len(every):,} parts of results, {seconds:.1f} s, compiling included",
    ]
    if method == INTEGRATED:
        notes.append(Completeness.of(every).line)
    if len(records) > len(shown[:_PRINTED]):
        progress.say(f"({len(records) - _PRINTED:,} more records)")
    for note in notes:
        progress.say(note)
    if output is None:
        return
    output.mkdir(parents=True, exist_ok=True)
    if len(records) > len(shown):
        notes.append(f"the first {len(shown):,} of {len(records):,} records; {LINES_FILE} has all")
    files.write_text(output / LINES_FILE, "".join(f"{line}\n" for line in lines))
    title = f"What the results of {pathlib.Path(values.workdir).name} are due to"
    files.write_text(output / PAGE_FILE, to_html(title, notes, shown))
    parts = [part for _, each in shown for part in each]
    if parts:
        draw(parts, output / PICTURE_FILE, title=title)
    progress.say(f"written: {output} ({LINES_FILE}, {PAGE_FILE}{f', {PICTURE_FILE}' if parts else ''})")


def _examples(texts: Sequence[str], output: pathlib.Path | None, progress: Progress) -> None:
    """Names training examples, shows and writes what was found."""
    values = flags.FLAGS
    if values.faithfulness:
        raise UserError(f"--examples, --faithfulness: give one of them.\n{USAGE}")
    if values.examples == explain_examples.INFLUENCE:
        if not values.split:
            raise UserError(
                "--examples=influence: compares losses, so it needs examples with labels: give --split=valid. "
                "--examples=neighbours takes any text."
            )
        limit = values.limit or _PRINTED
        if limit > explain_examples.MOST_ASKED:
            raise UserError(f"--limit: --examples=influence takes {explain_examples.MOST_ASKED} examples at most.")
        more = {"source": values.source, "limit": limit, "top": values.top, "seed": values.seed, "progress": progress}
        found = explain_examples.by_influence(values.workdir, values.split, **more)
    else:
        model = Model(values.workdir, precision="f32")
        asked = list(_records(model, texts, progress))
        train = split_records(values.workdir, "train")
        found = explain_examples.neighbours(model.explainer, train, asked, values.top)
    for table in explain_examples.tables(found[:_PRINTED]):
        progress.table(table)
    if output is not None:
        title = f"Training examples of {pathlib.Path(values.workdir).name} by {values.examples}"
        explain_examples.write(found, output, title)
        progress.say(f"written: {output} ({explain_examples.LINES_FILE}, {explain_examples.MARKDOWN_FILE})")


def _faithfulness(
    model: Model,
    records: Sequence[Mapping[str, Any]],
    methods: Sequence[str],
    output: pathlib.Path | None,
    progress: Progress,
) -> None:
    """Measures methods against random orders, shows and writes what was found."""
    values = flags.FLAGS
    if values.of != "score":
        raise UserError(
            "--of: --faithfulness explains scores and measures what probabilities lose; leave out the flag."
        )
    with progress.task("faithfulness (records)", len(records)) as advance:
        more = {"orders": values.orders, "steps": values.steps, "seed": values.seed, "advance": advance}
        report = faithfulness.faithfulness(model.explainer, records, methods, **more)
    for table in report.tables:
        progress.table(table)
    progress.say(f"\n{faithfulness.HOW_TO_READ}")
    if report.missing is not None:
        progress.say(f"completeness error of integrated gradients: {report.missing:.3%} of what the words make")
    if output is not None:
        faithfulness.write(report, output, pathlib.Path(values.workdir).name)
        names = (faithfulness.JSON_FILE, faithfulness.MARKDOWN_FILE, faithfulness.PICTURE_FILE)
        progress.say(f"written: {output} ({', '.join(names)})")


def _print(parts: Sequence[Highlight], progress: Progress) -> None:
    """Shows a record: in colours on a terminal, as tables in a file."""
    if not parts:
        progress.say("(nothing in its result to explain)\n")
    for part in parts:
        if progress.width is not None and part.passages:
            progress.say(f"{part.title}   {part.facts}")
            progress.coloured(on_terminal(part))
            progress.say("")
        elif part.passages:
            progress.table(word_table(part))
            progress.say(f"{part.facts}\n")
        else:
            progress.say(f"{part.title}   {part.facts}   (--output=DIR has the picture)")


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("workdir", None, "A run directory.")
    flags.DEFINE_string("input", None, f"Texts: {', '.join(source_unlabelled.endings())}. Images: a folder or a table.")
    flags.DEFINE_string("split", None, "Labelled data instead: train, valid or test of the run's source.")
    flags.DEFINE_string("source", None, "Of --split: a URI as config.data.source; the run's own if not given.")
    flags.DEFINE_integer("limit", 0, "At most this many records; of a split they are drawn by --seed. 0: all.", 0)
    flags.DEFINE_integer("seed", 0, "Of draws.", 0)
    flags.DEFINE_string("pair", None, "The second text, for a model of pairs.")
    flags.DEFINE_list(
        "method",
        [],
        f"How shares are found: {', '.join(METHODS)}. The first if not given; all with --faithfulness.",
    )
    flags.DEFINE_enum("of", "score", list(OF), "The number that is shared out: score (a logit) or probability.")
    flags.DEFINE_integer("steps", STEPS, "Of integrated gradients.")
    flags.DEFINE_bool("faithfulness", False, "Compare the methods with random orders of words.")
    flags.DEFINE_integer("orders", faithfulness.ORDERS, "Random orders of --faithfulness.", 1)
    flags.DEFINE_enum("examples", None, explain_examples.WAYS, "Training examples instead: by influence, or nearest.")
    flags.DEFINE_integer("top", explain_examples.TOP, "Training examples that --examples names, each way.", 1)
    flags.DEFINE_string("output", None, "Folder for JSON lines, a page and a picture.")
    program.define_column_flags(COLUMNS)
    program.run(main, USAGE, takes_arguments=True)

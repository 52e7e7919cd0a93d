"""Chooses the next texts to label: `python -m jaxfm.select --workdir=RUN --input=FILE --count=100 --output=next.jsonl`.

Active learning: of unlabelled texts those whose labels a run would learn most from, by how unsure it is of them
(--by=entropy, margin, least_confidence, mnlp), how far they differ (diversity), both (badge), or how far the members of
an ensemble disagree (bald, vote_entropy). Texts of the run's data are never chosen, nor near-identical ones twice. The
output is for a labelling tool, with the run's predictions to correct: --format=jsonl, doccano or label_studio.
"""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from jaxfm import files
from jaxfm.core.task import FindsEntities, GivesProbabilities
from jaxfm.data.records import annotation_tasks
from jaxfm.data.records.annotation_tasks import Chosen, Labels, predicted_classes
from jaxfm.data.records.near_texts import NearTexts, record_text
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation import acquisition
from jaxfm.evaluation.acquisition import MEAN, OVER
from jaxfm.evaluation.batch_selection import (
    Accept,
    OuterProducts,
    Points,
    Vectors,
    greatest,
    k_center_greedy,
    k_means_plus_plus,
)
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.tables import Table
from jaxfm.programs import plugins, program
from jaxfm.programs.model import COLUMNS, Text
from jaxfm.programs.unlabelled_pool import Given, Pool, read_pool
from jaxfm.training.pool_outputs import PoolModel, Seen

USAGE = (
    "usage: python -m jaxfm.select --workdir=DIR (--input=FILE | --source=URI [--split=train])\n"
    "  --output=FILE [--count=100] [--by=entropy] [--over=mean|max] [--seed=0]\n"
    "  [--format=jsonl|doccano|label_studio] [--pool=N] [--exclude=FILE,...]\n"
    "  [--labelled=URI]"
)
BADGE, DIVERSITY, RANDOM = "badge", "diversity", "random"
BY = (*acquisition.ONE_MODEL, BADGE, DIVERSITY, RANDOM, *acquisition.SEVERAL_MODELS)
COUNT = 100
_MOST_NUMBERS = 1 << 31  # of the vectors of a pool: 8 GiB
_SHOWN = 70  # characters of a text


@dataclasses.dataclass(frozen=True)
class _Asked:
    """How records are chosen."""

    count: int
    by: str
    over: str
    seed: int


def select(
    workdir: str | pathlib.Path,
    texts: Iterable[Text] | None = None,
    *,
    input: str | os.PathLike[str] | None = None,
    source: str | None = None,
    split: str = "train",
    count: int = COUNT,
    by: str = "entropy",
    over: str = MEAN,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    format: str = "jsonl",
    pool: int = 0,
    exclude: Sequence[str | pathlib.Path] = (),
    labelled: str | None = None,
    columns: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Chooses the unlabelled records that are to be labelled next, the most wanted first.

    Args:
      workdir: a run directory, or a folder of runs: an ensemble.
      texts: unlabelled texts, pairs of texts or records; or else `input` or `source`.
      input: a file of them: .txt, .jsonl, .csv and so on, as `jaxfm.predict` reads it.
      source: the URI of a source, whose labels are not read.
      split: of the source.
      count: how many are chosen.
      by: "entropy", "margin", "least_confidence", "mnlp" (of words), "badge", "diversity", "random"; of an ensemble
        "bald" and "vote_entropy".
      over: "mean" or "max", how the numbers of a text's words (or of its labels) become one.
      seed: of what is drawn.
      output: a file to write, which must not be there yet; None: none.
      format: of it: "jsonl", "doccano" or "label_studio" (with FILE.xml, the labelling configuration, beside it).
      pool: most records that are looked at, drawn by the seed; 0: all.
      exclude: files of texts that are not chosen: those out for labelling, for instance.
      labelled: source of the labelled examples, which are never chosen, in place of the run's own.
      columns: `text_column`, `pair_column`, `words_column` of `input`, where they are not the usual ones.
      progress: where to show how far it is.

    Returns:
      A dict each: the record's text, "rank" from 1, "score", "origin", and "prediction": what the run says of it.

    Raises:
      UserError: an unknown way or form, a count that is 0 or above the pool, an output that is there already, a task
        without probabilities, a way that the run cannot be asked by, and as readers.
    """
    _check(by, over, count, format)
    path = None if output is None else _new_output(output, format)
    shown = progress or Progress(None, quiet=True)
    with libraries_quieted():
        model = PoolModel(files.user_path(workdir, "--workdir"))
        _check_model(model, by, over)
        labels = _labels(model)
        if format == "doccano" and model.predictor.pairs:
            raise UserError("--format=doccano: shows one text a record, and the run judges pairs: take label_studio.")
        given = Given(input, source, texts, split, dict(columns or {}))
        found = read_pool(
            given, model.run, model.predictor, labelled=labelled, exclude=exclude, limit=pool, seed=seed, progress=shown
        )
        shown.say(found.note())
        if count > len(found.records):
            raise UserError(f"--count={count}: is more than the {len(found.records):,} unlabelled records of the pool.")
        asked = _Asked(count, by, over, seed)
        chosen = _chosen(model, found, asked, shown)
    if len(chosen) < count:
        shown.say(
            f"NOTE: {len(chosen):,} are chosen, not {count:,}: all others are near-identical to one of these "
            "(5 characters in a row: 80 % of them are shared)."
        )
    if path is not None:
        _write(path, chosen, labels, format, pairs=model.predictor.pairs)
    for table in tables(chosen, model.gives.of_words):
        shown.table(table)
    return [
        {name: each.record[name] for name in ("text", "pair", "tokens") if name in each.record}
        | {**each.facts, "prediction": dict(each.result)}
        for each in chosen
    ]


def _check(by: str, over: str, count: int, format: str) -> None:
    for flag, value, known in (("by", by, BY), ("over", over, OVER), ("format", format, annotation_tasks.WRITERS)):
        if value not in known:
            raise UserError(f"--{flag}={value}: is not one of {', '.join(known)}. {did_you_mean(value, known)}")
    if count < 1:
        raise UserError(f"--count={count}: must be at least 1.")


def _check_model(model: PoolModel, by: str, over: str) -> None:
    if by in acquisition.SEVERAL_MODELS and not model.is_ensemble:
        raise UserError(
            f"--by={by}: is how far several models disagree, and --workdir={model.workdir} is one run. Name a folder "
            "of runs (jaxfm seeds), or take entropy."
        )
    if by in (BADGE, DIVERSITY) and model.is_ensemble:
        raise UserError(
            f"--by={by}: reads what the last layer of one model reads, and --workdir={model.workdir} is an ensemble. "
            f"Name one of its runs, as {model.run.workdir}, or take bald."
        )
    if by == "mnlp" and not model.gives.of_words:
        raise UserError("--by=mnlp: is of words, and the run says one thing of a whole text: take least_confidence.")
    if by == "mnlp" and over != MEAN:
        raise UserError(f"--over={over}: MNLP is the mean over words; leave the flag out, or take least_confidence.")


def _new_output(output: str | os.PathLike[str], format: str) -> pathlib.Path:
    """Returns the file to write; UserError for one that is there, and for an ending that is not of the form."""
    path = files.output_file(output, "--output")
    endings = annotation_tasks.ENDINGS[format]
    if files.is_stream(path):
        return path
    if path.suffix not in endings:
        raise UserError(f"--output={path}: of --format={format} the name must end in {' or '.join(endings)}.")
    for each in (path, *((path.with_suffix(".xml"),) if format == "label_studio" else ())):
        if each.exists():
            raise UserError(f"--output={each}: is there already, perhaps out for labelling. Name another file.")
    return path


def _labels(model: PoolModel) -> Labels:
    predictor = model.predictor
    if model.gives.of_words:
        assert isinstance(predictor, FindsEntities)
        return Labels(tuple(predictor.entity_types), of_words=True)
    return Labels(predictor.labels, several=model.gives.probability == "sigmoid")


def _chosen(model: PoolModel, pool: Pool, asked: _Asked, progress: Progress) -> list[Chosen]:
    needs_features = asked.by in (BADGE, DIVERSITY)
    numbers, points, results = [], _Points(asked.by, model.gives), []
    with progress.task("looking at unlabelled records", len(pool.records)) as advance:
        for seen in model.see(pool.records, features=needs_features):
            results.append(seen.result)
            numbers.append(_score(seen, asked, model.gives.probability))
            if needs_features:
                points.add(seen, len(pool.records))
            advance(1)
    near = NearTexts()

    def accept(number: int) -> bool:
        return near.add(record_text(pool.records[number]))

    order, scores = _order(asked, np.asarray(numbers), points, model, pool, accept)
    return [
        Chosen(
            pool.records[number],
            results[number],
            rank,
            None if score is None else float(f"{score:.6g}"),
            str(pool.records[number]["origin"]),
        )
        for rank, (number, score) in enumerate(zip(order, scores, strict=True), start=1)
    ]


def _score(seen: Seen, asked: _Asked, probability: str) -> float:
    """Returns a record's number of uncertainty or disagreement; 0 where others choose."""
    if asked.by in acquisition.ONE_MODEL:
        values_U = acquisition.ONE_MODEL[asked.by](acquisition.as_classes(seen.probabilities, probability))
    elif asked.by in acquisition.SEVERAL_MODELS:
        assert seen.members is not None
        members = np.stack([acquisition.as_classes(each, probability) for each in seen.members])
        values_U = acquisition.SEVERAL_MODELS[asked.by](members)
    else:
        return 0.0
    return acquisition.over_units(values_U, asked.over)


class _Points:
    """What records are as points: gradients of the last layer (badge), or what it reads (diversity)."""

    def __init__(self, by: str, gives: GivesProbabilities):
        self._by, self._gives = by, gives
        self._vectors: list[np.ndarray] = []
        self._residuals: list[np.ndarray] = []

    def add(self, seen: Seen, total: int) -> None:
        """Adds a record, one of `total`; UserError where the vectors of so many would not fit into memory."""
        assert seen.features is not None and seen.logit_probabilities is not None
        if self._by == DIVERSITY:
            vector = seen.features.mean(axis=0) if len(seen.features) else np.zeros(seen.features.shape[1], np.float32)
        else:
            residuals_UC = acquisition.residuals(seen.logit_probabilities, self._gives.probability)
            if self._gives.of_words:
                vector = acquisition.mean_gradient(residuals_UC, seen.features)
            else:  # one outer product, whose parts are enough
                self._residuals.append(residuals_UC[0])
                vector = seen.features[0]
        if not self._vectors and vector.size * total > _MOST_NUMBERS:
            raise UserError(
                f"--by={self._by}: the vectors of {total:,} records ({vector.size:,} numbers each) need "
                f"{4 * vector.size * total / 2**30:,.0f} GiB. Look at fewer, drawn by chance: "
                f"--pool={max(_MOST_NUMBERS // vector.size, 1)}."
            )
        self._vectors.append(vector.astype(np.float32))

    def points(self) -> Points:
        """Returns them."""
        values = np.stack(self._vectors)
        return OuterProducts(np.stack(self._residuals), values) if self._residuals else Vectors(values)


def _order(
    asked: _Asked, numbers: np.ndarray, points: _Points, model: PoolModel, pool: Pool, accept: Accept
) -> tuple[list[int], list[float] | list[None]]:
    """Returns the numbers of the records that are chosen, in order, and their scores."""
    generator = np.random.default_rng(asked.seed)
    if asked.by == RANDOM:
        order, _ = greatest(-generator.permutation(len(numbers)).astype(np.float64), asked.count, accept)
        return order, [None] * len(order)
    if asked.by == BADGE:
        return k_means_plus_plus(points.points(), asked.count, generator, accept)
    if asked.by == DIVERSITY:
        before = _Points(DIVERSITY, model.gives)
        for seen in model.see(pool.labelled, features=True):
            before.add(seen, len(pool.labelled))
        vectors, labelled = points.points(), before.points()
        assert isinstance(vectors, Vectors) and isinstance(labelled, Vectors)
        return k_center_greedy(vectors, asked.count, labelled.values, accept)
    return greatest(numbers, asked.count, accept)


def _write(path: pathlib.Path, chosen: Sequence[Chosen], labels: Labels, format: str, *, pairs: bool) -> None:
    if format == "label_studio" and not files.is_stream(path):
        files.write_text(path.with_suffix(".xml"), annotation_tasks.label_studio_config(labels, pairs=pairs))
    files.write_text(path, annotation_tasks.WRITERS[format](chosen, labels))


def tables(chosen: Sequence[Chosen], of_words: bool) -> tuple[Table, ...]:
    """Returns the first records that are chosen, and the classes that the run predicts of all."""
    counts: collections.Counter[str] = collections.Counter()
    for each in chosen:
        named = [one["type"] for one in each.result["entities"]] if of_words else predicted_classes(each.result)
        counts.update(named or ["(none)"])
    rows = []
    for each in chosen[:10]:
        line = " ".join(record_text(each.record).split())
        rows.append((each.rank, each.score, line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"))
    what = "Entities that the run finds in them" if of_words else "Classes that the run predicts of them"
    return (
        Table(f"Chosen: {len(chosen):,}", ("rank", "score", "text"), rows),
        Table(what, ("type" if of_words else "class", "number"), counts.most_common()),
    )


def main() -> None:
    """The program."""
    values = flags.FLAGS
    for name in ("workdir", "output"):
        if not values[name].value:
            raise UserError(f"--{name} is missing.\n{USAGE}")
    to_stream = files.is_stream(files.output_file(values.output, "--output"))
    with Progress(None, quiet=to_stream) as progress:
        chosen = select(
            values.workdir,
            input=values.input,
            source=values.source,
            split=values.split,
            count=values.count,
            by=values.by,
            over=values.over,
            seed=values.seed,
            output=values.output,
            format=values.format,
            pool=values.pool,
            exclude=values.exclude,
            labelled=values.labelled,
            columns=program.given_columns(COLUMNS),
            progress=progress,
        )
    if not to_stream:
        print(f"written: {values.output} ({len(chosen):,} records)")


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("workdir", None, "A run directory, or a folder of several runs: an ensemble.")
    flags.DEFINE_string("input", None, "A file of unlabelled texts, as jaxfm predict reads it.")
    flags.DEFINE_string("source", None, "A source whose labels are not read, in place of --input.")
    flags.DEFINE_string("split", "train", "The split of --source.")
    flags.DEFINE_integer("count", COUNT, "How many records are chosen.")
    flags.DEFINE_string("by", "entropy", f"How they are chosen: {', '.join(BY)}.")
    flags.DEFINE_string("over", MEAN, "How the numbers of a text's words, or labels, become one: mean or max.")
    flags.DEFINE_integer("seed", 0, "Of what is drawn.")
    flags.DEFINE_string("output", None, "The file to write, which must not be there yet; - is the standard output.")
    flags.DEFINE_string(
        "format", "jsonl", "Of the output: jsonl, doccano or label_studio (FILE.xml, its configuration, too)."
    )
    flags.DEFINE_integer("pool", 0, "Most records that are looked at, drawn by the seed; 0: all.")
    flags.DEFINE_list("exclude", [], "Files of texts that are not chosen, as those that are out for labelling.")
    flags.DEFINE_string("labelled", None, "A source of the labelled examples; the run's own if not given.")
    program.define_column_flags(COLUMNS)
    program.run(main, USAGE)

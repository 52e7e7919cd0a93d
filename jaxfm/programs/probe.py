"""Probes a run's frozen vectors: `python -m jaxfm.probe --workdir=RUN --source=csv:DIR [--split=test]`.

A logistic regression on the vectors of labelled texts, fitted to train and scored on the split, and k-means of the
split's vectors with a cluster for each label. A second run, --beside=RUN, stands beside it, with the paired difference.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags
from rich.console import Group, RenderableType

from jaxfm import files
from jaxfm.data.records.examples import Example
from jaxfm.errors import UserError
from jaxfm.evaluation import bootstrap, probes
from jaxfm.evaluation.bootstrap import CONFIDENCE, Comparison, Interval
from jaxfm.evaluation.probes import METRICS, Probe, Spread
from jaxfm.observe.progress import Progress
from jaxfm.observe.tables import Cell, Table, to_html, to_rich
from jaxfm.observe.writers import to_json
from jaxfm.programs import plugins, program
from jaxfm.programs.model import Model
from jaxfm.programs.probe_layers import probe_layers
from jaxfm.programs.probe_texts import COLUMNS, read_labelled

USAGE = (
    "usage: python -m jaxfm.probe --workdir=RUN --source=URI [--split=test] [--beside=RUN] [--role=query|document] "
    "[--output=FILE.json]\n  [--layers=all] [--config.data.text_column=NAME, label_column]"
)
_MAJORITY = "the most frequent label"


@dataclasses.dataclass(frozen=True)
class Probed:
    """What was found in the vectors of one run.

    Attributes:
      name: of the run directory.
      probe: the logistic regression.
      clusters: metric -> mean and deviation over seeds.
    """

    name: str
    probe: Probe
    clusters: Mapping[str, Spread]


@dataclasses.dataclass(frozen=True, repr=False)
class ProbeReport:
    """Probes of one run or two; a notebook shows its tables.

    Attributes:
      source: URI of the texts.
      split: that was scored.
      train_texts: texts that the regression was fitted to.
      texts: texts of the split.
      labels: of the split, the number of clusters.
      runs: one or two.
      majority: scores of answering the most frequent label of train.
      comparison: second run less first; None for one run.
      notes: lines for a person.
    """

    source: str
    split: str
    train_texts: int
    texts: int
    labels: int
    runs: tuple[Probed, ...]
    majority: Probe
    comparison: Comparison | None = None
    notes: tuple[str, ...] = ()

    @property
    def tables(self) -> tuple[Table, ...]:
        """For people: the regression, the clusters and, of two runs, their difference."""
        named = [(each.name, each.probe.intervals) for each in self.runs] + [(_MAJORITY, self.majority.intervals)]
        rows: list[tuple[Cell, ...]] = [
            (name, *(value for metric in METRICS for value in _cells(found[metric]))) for name, found in named
        ]
        title = f"Logistic regression: {self.train_texts:,} texts of train, {self.texts:,} of {self.split}"
        clusters: list[tuple[Cell, ...]] = [
            (each.name, *(value for found in each.clusters.values() for value in (found.mean, found.deviation)))
            for each in self.runs
        ]
        sure = f"{CONFIDENCE:.0%} interval"
        tables = (
            Table(title, ("vectors of", "accuracy", sure, "macro F1", f"{sure} "), rows),
            Table(
                f"k-means: {self.texts:,} texts of {self.split} in {self.labels} clusters, {probes.SEEDS} seeds",
                ("vectors of", "V-measure", "deviation", "adjusted Rand", "deviation "),
                clusters,
            ),
        )
        return tables + (bootstrap.comparison_tables(self.comparison, self.split) if self.comparison else ())

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON values."""
        named = {"source": self.source, "split": self.split, "train_texts": self.train_texts, "texts": self.texts}
        found: dict[str, Any] = {**named, "labels": self.labels, "confidence": CONFIDENCE, "seeds": probes.SEEDS}
        found["runs"] = [
            {
                "workdir": each.name,
                **_values(each.probe),
                "strength": each.probe.strength,
                "clusters": {name: dataclasses.asdict(spread) for name, spread in each.clusters.items()},
            }
            for each in self.runs
        ]
        found["majority"] = _values(self.majority)
        return found | ({"comparison": self.comparison.to_dict()} if self.comparison else {})

    def __repr__(self) -> str:
        found = (f"{each.name}: accuracy={each.probe.intervals['accuracy'].value:.4f}" for each in self.runs)
        return f"ProbeReport({', '.join(found)})"

    def __rich__(self) -> RenderableType:
        return Group(*map(to_rich, self.tables))

    def _repr_html_(self) -> str:
        return "".join(map(to_html, self.tables))


def probe(
    workdir: str | pathlib.Path,
    source: str,
    split: str = "test",
    *,
    beside: str | pathlib.Path | None = None,
    role: str = "",
    columns: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> ProbeReport:
    """Says how much of the labels of texts is in a run's vectors, which are not trained further.

    Args:
      workdir: a run whose task gives vectors of texts.
      source: URI of texts with one label each, with the splits train and `split`.
      split: that is scored; not train.
      beside: a second such run.
      role: whose prompt and length the texts get, "query" or "document"; by default document.
      columns: `text_column`, `label_column`: where they are not the usual ones.
      progress: where to show how far it is.

    Raises:
      UserError: a run without vectors, a source without train or the split, pairs of texts, one label alone, no label
        that two texts share, fewer different vectors than labels, the package scikit-learn is absent.
    """
    probes.check_library()
    texts, split, notes = read_labelled(source, split, columns or {})
    gold = [str(example.target) for example in texts[split]]
    known = [str(example.target) for example in texts["train"]]
    identity = [(example.text, example.target) for example in texts[split]]
    progress = progress or Progress(None, quiet=True)
    runs = []
    for each in [workdir] if beside is None else [workdir, beside]:
        model = Model(each)
        vectors = {name: _embedded(model, texts[name], role, progress) for name in ("train", split)}
        try:
            with progress.task("k-means", None):
                clusters = probes.cluster(vectors[split], gold)
        except ValueError as error:
            raise UserError(f"{model.workdir}: gives the texts of {split} {error}: nothing to cluster.") from None
        with progress.task("logistic regression", None):
            found = probes.fit_probe(vectors["train"], known, vectors[split], gold, identity=identity)
        runs.append(Probed(str(each), found, clusters))
        if not found.converged:
            notes.append(f"NOTE: the regression on the vectors of {each} stopped before its optimum.")
    comparison = None
    if len(runs) == 2:
        both = bootstrap.compare(runs[0].probe.data, runs[1].probe.data, (runs[0].name, runs[1].name))
        kept = {name: both.differences[name] for name in METRICS}
        comparison = dataclasses.replace(both, differences=kept)
    majority = probes.fit_majority(known, gold, identity=identity)
    sizes = (len(known), len(gold), len(set(gold)))
    return ProbeReport(source, split, *sizes, tuple(runs), majority, comparison, tuple(notes))


def _embedded(model: Model, examples: Sequence[Example], role: str, progress: Progress) -> np.ndarray:
    """Returns the vectors of texts, f32 [N, D]."""
    parts = []
    with progress.task(f"vectors of {model.workdir} (texts)", len(examples)) as advance:
        for part in model.embed_stream((example.text for example in examples), role):
            parts.append(part)
            advance(len(part))
    vectors_ND = np.concatenate(parts)
    finite_N = np.isfinite(vectors_ND).all(axis=-1)
    if not finite_N.all():
        origin = examples[int(np.argmin(finite_N))].origin
        raise UserError(f"{model.workdir}: the vector of {origin} has a number that is not finite.")
    return vectors_ND


def _cells(found: Interval) -> tuple[Cell, Cell]:
    return found.value, f"{found.low:.4f} to {found.high:.4f}"


def _values(found: Probe) -> dict[str, Any]:
    return {name: {"value": each.value, "interval": [each.low, each.high]} for name, each in found.intervals.items()}


def main() -> None:
    """The program."""
    values = flags.FLAGS
    for name in ("workdir", "source"):
        if not values[name].value:
            raise UserError(f"--{name} is missing.\n{USAGE}")
    output = None if values.output is None else files.output_file(values.output, "--output")
    if values.layers:
        _layers(output)
        return
    with Progress(None, quiet=output is not None and files.is_stream(output)) as progress:
        found = probe(
            values.workdir,
            values.source,
            values.split,
            beside=values.beside,
            role=values.role,
            columns=program.given_columns(COLUMNS),
            progress=progress,
        )
        for note in found.notes:
            progress.say(note)
        for table in found.tables:
            progress.table(table)
        if found.comparison is not None:
            progress.say(f"\n{bootstrap.HOW_TO_READ}")
    if output is not None:
        files.write_json(output, to_json(found.to_dict()))


def _layers(output: pathlib.Path | None) -> None:
    """Probes every layer, shows and writes what was found."""
    values = flags.FLAGS
    for name in ("beside", "role"):
        if values[name].value:
            raise UserError(f"--{name}, --layers: give one of them.")
    with Progress(None, quiet=output is not None and files.is_stream(output)) as progress:
        columns = program.given_columns(COLUMNS)
        found = probe_layers(values.workdir, values.source, values.split, columns=columns, progress=progress)
        for note in found.notes:
            progress.say(note)
        progress.table(found.table)
        if output is None:
            return
        files.write_json(output, to_json(found.to_dict()))
        if files.is_stream(output):
            return
        picture = output.with_suffix(".png")
        found.draw(picture)
        progress.say(f"written: {output}, {picture}")


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("workdir", None, "A run whose task gives vectors of texts.")
    flags.DEFINE_string("beside", None, "A second such run, which stands beside the first.")
    flags.DEFINE_string("source", None, "Texts with one label each, with a split train: a URI as config.data.source.")
    flags.DEFINE_alias("data", "source")
    flags.DEFINE_string("split", "test", "The split that is scored, or another usual name of it (dev, testb ...).")
    flags.DEFINE_string("role", "", "Whose prompt the texts get: query or document; document, if not given.")
    flags.DEFINE_enum("layers", None, ["all"], "Probe the vectors after each layer, of a run of any task over texts.")
    flags.DEFINE_string("output", None, "A JSON file for what was found.")
    program.define_column_flags(COLUMNS)
    program.run(main, USAGE)

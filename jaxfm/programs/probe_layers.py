"""`jaxfm probe --layers=all`: how much of texts' labels a linear probe finds after each layer of a run's encoder.

A vector is the mean over a text's words of the hidden states (Tenney et al. 2019 probe words alike; Alain and Bengio
2016 every layer). Of a run of any task over single texts.
"""

# L layers, N texts, D model

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxfm.errors import UserError
from jaxfm.evaluation import probes
from jaxfm.evaluation.bootstrap import CONFIDENCE
from jaxfm.evaluation.probes import METRICS, Probe
from jaxfm.observe.plots import plot_lines
from jaxfm.observe.progress import Progress
from jaxfm.observe.tables import Table
from jaxfm.programs.model import Model
from jaxfm.programs.probe_texts import read_labelled

INPUTS = "what the first layer reads"


@dataclasses.dataclass(frozen=True)
class LayersReport:
    """Probes of the layers of one run.

    Attributes:
      workdir: of the run.
      source: URI of the texts.
      split: that was scored.
      train_texts: texts that the regressions were fitted to.
      texts: texts of the split.
      layers: of what the first layer reads, then after each layer.
      majority: scores of answering the most frequent label of train.
      notes: lines for a person.
    """

    workdir: str
    source: str
    split: str
    train_texts: int
    texts: int
    layers: tuple[Probe, ...]
    majority: Probe
    notes: tuple[str, ...]

    @property
    def table(self) -> Table:
        """For people: a line a layer."""
        sure = f"{CONFIDENCE:.0%} interval"
        named = [("the most frequent label", self.majority), (INPUTS, self.layers[0])]
        named += [(f"after layer {number}", each) for number, each in enumerate(self.layers[1:], start=1)]
        rows = []
        for name, each in named:
            cells: list[Any] = [name]
            for metric in METRICS:
                found = each.intervals[metric]
                cells += [found.value, f"{found.low:.4f} to {found.high:.4f}"]
            rows.append(cells)
        title = f"Logistic regression: {self.train_texts:,} texts of train, {self.texts:,} of {self.split}"
        return Table(title, ("vectors", METRICS[0], sure, METRICS[1], f"{sure} "), rows)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON values."""

        def values(each: Probe) -> dict[str, Any]:
            found = {
                name: {"value": interval.value, "interval": [interval.low, interval.high]}
                for name, interval in each.intervals.items()
            }
            return {**found, "strength": each.strength}

        named = {"workdir": self.workdir, "source": self.source, "split": self.split}
        named |= {"train_texts": self.train_texts, "texts": self.texts, "confidence": CONFIDENCE}
        return {**named, "layers": [values(each) for each in self.layers], "majority": values(self.majority)}

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draws the metrics by layer as a PNG file."""
        series = {
            metric.replace("_", " "): [(layer, each.intervals[metric].value) for layer, each in enumerate(self.layers)]
            for metric in METRICS
        }
        level = ("accuracy of the most frequent label", self.majority.intervals[METRICS[0]].value)
        title = f"A linear probe after each layer of {pathlib.Path(self.workdir).name}"
        plot_lines(series, path, title=title, x_label=f"layer (0: {INPUTS})", y_label=self.split, level=level)


def probe_layers(
    workdir: str | pathlib.Path,
    source: str,
    split: str = "test",
    *,
    columns: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> LayersReport:
    """Fits a logistic regression to the vectors after each layer.

    Args:
      workdir: a run whose results are explained (`jaxfm.explain`), of single texts.
      source: URI of texts with one label each, with the splits train and `split`.
      split: that is scored; not train.
      columns: `text_column`, `label_column`: where they are not the usual ones.
      progress: where to show how far it is.

    Raises:
      UserError: as `probe`, and a run of pairs of texts, of images or of another task.
    """
    probes.check_library()
    progress = progress or Progress(None, quiet=True)
    texts, split, notes = read_labelled(source, split, columns or {})
    model = Model(workdir, precision="f32")
    if model.wanted_explained.pairs or model.reads_images:
        raise UserError(f"{model.workdir}: --layers=all probes texts, but this run reads pairs of texts, or images.")
    vectors = {}
    for name, examples in texts.items():
        with progress.task(f"vectors of {name} (texts)", len(examples)) as advance:
            records = [model.record(example.text, example.origin) for example in examples]
            vectors[name] = model.explainer.layer_vectors(records)
            advance(len(records))
    known, gold = ([str(example.target) for example in texts[name]] for name in ("train", split))
    identity = [(example.text, example.target) for example in texts[split]]
    found = []
    with progress.task("logistic regressions (layers)", len(vectors[split])) as advance:
        for train_ND, test_ND in zip(vectors["train"], vectors[split], strict=True):
            found.append(probes.fit_probe(train_ND, known, test_ND, gold, identity=identity))
            advance(1)
    if stopped := [str(layer) for layer, each in enumerate(found) if not each.converged]:
        notes.append(f"NOTE: the regressions of layers {', '.join(stopped)} stopped before their optimum.")
    majority = probes.fit_majority(known, gold, identity=identity)
    sizes = (len(known), len(gold))
    return LayersReport(str(workdir), source, split, *sizes, tuple(found), majority, tuple(notes))

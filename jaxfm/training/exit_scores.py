"""Scores of a run with early heads: its threshold, chosen on the validation split, and what leaving early costs."""

# E examples, H heads

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.config import Config
from jaxfm.core.batch import Dataset
from jaxfm.core.evaluation import Evaluation
from jaxfm.core.exits import CountsErrors, LeavesEarly, ReadsTokens
from jaxfm.core.task import Scorer, Task
from jaxfm.data.text.packing import PackedRows
from jaxfm.evaluation import exits
from jaxfm.evaluation.exits import THRESHOLDS, ExitRule, Places
from jaxfm.models.exits import compute
from jaxfm.observe.exit_plots import plot_exits
from jaxfm.observe.tables import Table
from jaxfm.parallel import distributed
from jaxfm.training.evaluation import Evaluator
from jaxfm.training.setup import Setup

_POINTS = 16  # of a curve, at most and the ends apart: each is a whole scoring of the split

# Layers below a head -> its outputs of all rows; the whole model's last.
HeadOutputs = Mapping[int, Mapping[str, np.ndarray]]


def heads_of(spec: Any) -> tuple[int, ...]:
    """Returns the numbers of layers below each head, the whole model's last; empty for a model without early heads."""
    if not isinstance(spec, LeavesEarly) or not spec.exits:
        return ()
    return (*spec.exits, spec.encoder.num_layers)  # type: ignore[attr-defined]


class HeadEvaluator:
    """Computes the outputs of all heads of a model for packed rows, by one pass through the layers."""

    def __init__(self, spec: Any, graphdef: nnx.GraphDef[Any], mesh: Mesh, batch_size: int):
        """Closes over the model; `batch_size` as of `Evaluator`."""
        self._heads = heads_of(spec)

        def outputs(model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            of_heads = compute(model, spec.exits, batch)
            return {
                f"{count}/{name}": value
                for count, head in of_heads.items()
                for name, value in spec.outputs(head, batch).items()
            }

        self._evaluate = Evaluator(outputs, graphdef, mesh, batch_size)

    def __call__(self, params: Any, rows: Dataset, advance: Callable[[int], None] | None = None) -> HeadOutputs:
        """Returns the outputs of each head; `advance` is told of each batch of rows done."""
        found = self._evaluate(params, rows, advance)
        split = {tuple(name.split("/", 1)): value for name, value in found.items()}
        return {head: {name: value for (of, name), value in split.items() if of == str(head)} for head in self._heads}


@dataclasses.dataclass(frozen=True)
class SplitExits:
    """A split, as all heads of a model see it.

    Attributes:
      spec: of the model.
      scorer: of the split.
      places: of its examples.
      outputs: of the heads.
      calibration: of the last head.
    """

    spec: Any
    scorer: Scorer
    places: Places
    outputs: HeadOutputs
    calibration: Mapping[str, float]

    @classmethod
    def of(
        cls, spec: Any, scorer: Scorer, rows: Dataset, outputs: HeadOutputs, calibration: Mapping[str, float]
    ) -> "SplitExits":
        """Finds the examples of a split's rows."""
        assert isinstance(rows, PackedRows), "early heads are of packed rows"
        return cls(spec, scorer, places_of(rows, scorer), outputs, calibration)

    def fit(self, config: Config) -> ExitRule:
        """Chooses temperatures and threshold by this split, as `config.exits` says."""
        most, certainty, heads = config.exits.max_loss, config.exits.certainty, tuple(self.outputs)
        found = {head: self.scorer.calibrate(outputs).get("temperature", 1.0) for head, outputs in self.outputs.items()}
        rule = ExitRule(heads, tuple(found.values()), None, "", most, certainty, 0)
        whole_E = self._errors(self.outputs[heads[-1]])
        confidences = self.confidences(rule)

        def lost(threshold: float) -> np.ndarray:
            outputs = self.mixed(rule, exits.leaving(confidences, heads[-1], threshold))
            return np.maximum(self._errors(outputs) - whole_E, 0.0)

        threshold, why = exits.choose_threshold(lost, most, certainty)
        return dataclasses.replace(rule, threshold=threshold, why=why, examples=len(whole_E))

    def confidences(self, rule: ExitRule) -> dict[int, np.ndarray]:
        """Returns layers below each early head -> how sure it is of each example [E]."""
        form, temperatures = self.spec.exit_form, rule.temperature_of
        return {
            head: exits.confidence(form, self.outputs[head][form.output], self.places, temperatures[head])
            for head in rule.layers[:-1]
        }

    def mixed(self, rule: ExitRule, left_E: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the outputs where each example left after so many layers."""
        return exits.mixed(self.spec.exit_form, self.outputs, left_E, self.places, rule.temperature_of)

    def _errors(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        assert isinstance(self.scorer, CountsErrors), "a task with early heads says what is wrong"
        return self.scorer.error_shares(outputs, self.calibration)

    def at(self, rule: ExitRule, left_E: np.ndarray, metric: str) -> dict[str, Any]:
        """Returns what is scored, and lost, where examples leave after so many layers."""
        outputs = self.mixed(rule, left_E)
        lost_E = np.maximum(self._errors(outputs) - self._errors(self.outputs[rule.layers[-1]]), 0.0)
        return {
            "average_layers": float(left_E.mean()) if len(left_E) else float("nan"),
            "score": float(self.scorer.metrics(outputs).get(metric, float("nan"))),
            "lost": float(lost_E.mean()) if len(lost_E) else float("nan"),
        }

    def described(self, rule: ExitRule, metric: str) -> dict[str, Any]:
        """Returns what leaving early gives on this split: by the rule, by other thresholds, and head by head."""
        confidences, layers = self.confidences(rule), rule.layers[-1]
        left_E = exits.leaving(confidences, layers, rule.threshold)
        curve = [
            {"threshold": threshold, **self.at(rule, exits.leaving(confidences, layers, threshold), metric)}
            for threshold in _spread(confidences, layers)
        ]
        return {
            "threshold": rule.threshold,
            **({"why": rule.why} if rule.why else {}),
            "metric": metric,
            **self.at(rule, left_E, metric),
            "score_of_all_layers": float(self.scorer.metrics(self.outputs[layers]).get(metric, float("nan"))),
            "layers": layers,
            "max_loss": rule.max_loss,
            "certainty": rule.certainty,
            "heads": [
                {
                    "layers": head,
                    "score": float(self.scorer.metrics(self.outputs[head]).get(metric, float("nan"))),
                    "temperature": rule.temperature_of[head],
                    "share": float((left_E == head).mean()) if len(left_E) else float("nan"),
                }
                for head in rule.layers
            ],
            "curve": curve,
        }


class RunExits:
    """Adds to the evaluations of a run what leaving early gives; the validation split, which is first, decides when.

    Attributes:
      rule: when examples leave.
    """

    def __init__(
        self,
        config: Config,
        task: Task,
        evaluator: HeadEvaluator,
        params: Any,
        rule: ExitRule | None,
        workdir: pathlib.Path,
    ):
        """`rule` is that of exits.json; None: it is chosen, and written there, by the first split."""
        self._config, self._task, self._evaluator, self._params = config, task, evaluator, params
        self.rule, self._workdir = rule, workdir

    def added(self, evaluation: Evaluation, split: str, scorer: Scorer, calibration: Mapping[str, float]) -> Evaluation:
        """Returns the evaluation of a split with what leaving early gives there."""
        rows = self._task.datasets[split]
        outputs = self._evaluator(self._params, rows)
        spec = self._task.objective.spec
        found = SplitExits.of(spec, scorer, rows, outputs, calibration)
        chooses = self.rule is None
        if self.rule is None:
            heads = heads_of(spec)
            self.rule = found.fit(self._config) if split == "valid" else ExitRule(heads, (1.0,) * len(heads))
        described = found.described(self.rule, self._config.eval.metric)
        if chooses and distributed.is_main():
            exits.write_rule(self._workdir, self.rule, described["curve"])
        return with_exits(evaluation, described, split)


def heads_of_run(config: Config, task: Task, setup: Setup, params: Any, workdir: pathlib.Path) -> RunExits | None:
    """Returns what scores all heads of a run that has ended; None where it has no early ones."""
    spec = task.objective.spec
    if not heads_of(spec):
        return None
    session = setup.session
    evaluator = HeadEvaluator(spec, session.graphdef, session.mesh, config.eval.batch_size)
    return RunExits(config, task, evaluator, params, None, workdir)


def _spread(confidences: Mapping[int, np.ndarray], layers: int) -> list[float | None]:
    """Returns thresholds from None, by which no example leaves, to 0, evenly over the layers that examples take."""
    found, last, first = list[float | None]([None]), float(layers), min(confidences)
    for threshold in THRESHOLDS[:-1] if len(confidences[first]) else ():
        mean = float(exits.leaving(confidences, layers, threshold).mean())
        if last - mean >= (layers - first) / _POINTS:
            found.append(threshold)
            last = mean
    return [*found, THRESHOLDS[-1]]


def places_of(rows: PackedRows, reader: Any) -> Places:
    """Returns where the examples of rows lie; `reader` may be a `ReadsTokens`."""
    read = reader.read_tokens if isinstance(reader, ReadsTokens) else None
    return Places(rows.example_locations, rows.segment_ids, read)


def with_exits(evaluation: Evaluation, found: Mapping[str, Any], split: str) -> Evaluation:
    """Adds what `SplitExits.described` says: tables, a plot, and "exits" among the scores."""
    chosen = None if found["threshold"] is None else (found["average_layers"], found["score"])
    curve = [(each["average_layers"], each["score"]) for each in found["curve"]]
    heads = {each["layers"]: each["score"] for each in found["heads"]}

    def draw(path: pathlib.Path) -> None:
        plot_exits(curve, heads, chosen, path, metric=found["metric"], split=split)

    return dataclasses.replace(
        evaluation,
        scores={**evaluation.scores, "exits": dict(found)},
        tables=(*evaluation.tables, _curve_table(found), _head_table(found)),
        plots={**evaluation.plots, "exits": draw},
    )


def headline(found: Mapping[str, Any]) -> str:
    """Returns the score with early exit and the layers that it takes."""
    if found["threshold"] is None:
        return f"no example leaves early: {found['why']}"
    return (
        f"{found['metric']} {found['score']:.4f} by {found['average_layers']:.2f} of {found['layers']} "
        f"layers on average (by all: {found['score_of_all_layers']:.4f})"
    )


def _curve_table(found: Mapping[str, Any]) -> Table:
    metric = found["metric"]
    columns = ("confidence from which an example leaves", "layers on average", metric, "lost")
    rows = [
        ("never" if each["threshold"] is None else f"{each['threshold']:.6f}", *_shown(each)) for each in found["curve"]
    ]
    threshold = "never" if found["threshold"] is None else f"{found['threshold']:.6f}"
    rows.append((f"{threshold} (the run's)", *_shown(found)))
    formats = {"layers on average": ".2f", "lost": ".2%"}
    return Table(f"Early exit: {headline(found)}", columns, rows, footer=1, formats=formats)


def _shown(values: Mapping[str, Any]) -> tuple[float, float, float]:
    return values["average_layers"], values["score"], values["lost"]


def _head_table(found: Mapping[str, Any]) -> Table:
    columns = ("head after layer", f"{found['metric']} where all leave there", "temperature", "examples that leave")
    rows = [(each["layers"], each["score"], each["temperature"], each["share"]) for each in found["heads"]]
    return Table("Heads", columns, rows, formats={"examples that leave": ".1%", "temperature": ".3f"})

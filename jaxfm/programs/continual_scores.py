"""Scores of a stream's runs on the test data of every stage, and what is said of them together."""

import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.core.build import Build
from jaxfm.core.grown_head import can_grow, listed
from jaxfm.errors import UserError
from jaxfm.evaluation import continual as measures_lib
from jaxfm.observe import continual_plots
from jaxfm.observe.tables import Cell, Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.continual_work import METHODS, Work
from jaxfm.tasks import registry
from jaxfm.training import workdir as workdirs
from jaxfm.training.evaluation import Evaluator, whole_batches
from jaxfm.training.saved_run import available_mesh, open_run
from jaxfm.training.session import compute_dtype, scans_layers

JSON_FILE, MARKDOWN_FILE, PLOTS = "continual.json", "continual.md", "plots"


def untrained_scores(work: Work, metric: str) -> list[float]:
    """Returns the score on each stage's test data before any training.

    Raises UserError for a stage without the split that is scored.
    """
    found = []
    for index, stage in enumerate(work.stages):
        splits, split = workdirs.read_report(work.untrained(index))["splits"], work.options.split
        if split not in splits:
            raise UserError(
                f"--split={split}: the stage {stage.name!r} has no such split ({stage.config.data.source}); it has "
                f"{', '.join(splits) or 'none but train'}."
            )
        found.append(_number(splits[split].get(metric)))
    return found


def labels_of(work: Work) -> list[tuple[str, ...]]:
    """Returns the labels of each stage's own data; empty tuples where the task has none."""
    runs = [open_run(work.untrained(index)) for index in range(len(work.stages))]
    return [tuple(getattr(run.spec, "labels", ())) for run in runs]


def check_labels(work: Work, methods: Sequence[str]) -> None:
    """Raises UserError where stages have other labels than one before, and heads of the task cannot grow."""
    chained = [name for name in methods if name != "joint" and not METHODS[name].own_run]
    config, labels = work.stages[0].config, labels_of(work)
    if not chained or can_grow(registry.definition(config.task.name), config):
        return
    for stage, before, now in zip(work.stages[1:], labels[:-1], labels[1:], strict=True):
        if set(before) != set(now):
            gone = [name for name in before if name not in now]
            what = f"lacks {listed(gone)}" if gone else f"brings {listed([n for n in now if n not in before])}"
            raise UserError(
                f"--stream: the stage {stage.name!r} {what} of the labels, and heads of this config of the task "
                f"{config.task.name!r} cannot grow (core.grown_head.GrowsHead). Give all stages the same labels."
            )


def scores_after(work: Work, method: str, index: int, metric: str, labels: Sequence[Sequence[str]]) -> list[float]:
    """Returns the score on each stage's test data after a stage; NaN where the model knows not all labels of a stage.

    They are kept beside the run and read again by the next call.
    """
    path = work.beside(method, index, "scores.json")
    if path.is_file():
        kept = files.read_object(path)
        if kept.get("metric") == metric and len(kept["scores"]) == len(work.stages):
            return [_number(value) for value in kept["scores"]]
    if METHODS[method].own_run:
        before = scores_after(work, method, index - 1, metric, labels)[:index] if index else []
        after = [math.nan] * (len(work.stages) - index - 1)
        found = [*before, *_score(work, work.run(method, index), [index], metric), *after]
    else:
        run = work.run(method, index)
        known = set(getattr(open_run(run).spec, "labels", ()))
        scored = [each for each in range(len(work.stages)) if each <= index or set(labels[each]) <= known]
        values = dict(zip(scored, _score(work, run, scored, metric), strict=True))
        found = [values.get(each, math.nan) for each in range(len(work.stages))]
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, to_json({"metric": metric, "scores": found}))
    return found


def _score(work: Work, workdir: pathlib.Path, stages: Sequence[int], metric: str) -> list[float]:
    """Returns the scores of a run on the test data of some stages."""
    run = open_run(workdir)
    mesh, _ = available_mesh(run.config)
    build = Build(compute_dtype(run.config.train.precision), scans_layers(run.config.model.scan_layers))
    restored, found = run.restore(mesh, build), list[float]()
    for each in stages:
        config = work.stages[each].config
        task = run.task(config.data.source, work.options.split, config)
        rows = task.datasets[work.options.split]
        size = whole_batches(run.config.eval.batch_size, len(rows), mesh)
        evaluator = Evaluator(task.objective.outputs, restored.graphdef, mesh, size)
        with work.progress.task(f"scoring {work.stages[each].name}", len(rows)) as advance:
            outputs = evaluator(restored.params, rows, advance)
        found.append(_number(task.scorer(work.options.split).metrics(outputs).get(metric)))
    return found


def gather(
    stages: Sequence[str],
    metric: str,
    split: str,
    matrices: Mapping[str, Mapping[int, np.ndarray]],
    untrained: Mapping[int, Sequence[float]],
    runs: Mapping[str, Mapping[int, Sequence[pathlib.Path]]],
) -> dict[str, Any]:
    """Returns the content of continual.json.

    Args:
      stages: their names.
      metric: that is scored.
      split: that it is scored on.
      matrices: method -> seed -> R.
      untrained: seed -> score of each stage before training.
      runs: method -> seed -> run directory of each stage.
    """
    methods = {}
    for method, of_seeds in matrices.items():
        by_seed = {seed: measures_lib.measures(matrix, untrained[seed]) for seed, matrix in of_seeds.items()}
        methods[method] = {
            "doc": METHODS[method].doc,
            "mean_matrix": _plain(np.mean(list(of_seeds.values()), axis=0)),
            "measures": {
                name: _statistics([values[name] for values in by_seed.values()]) for name in measures_lib.MEASURES
            },
            "seeds": {
                str(seed): {
                    "matrix": _plain(matrix),
                    "measures": {name: _none(value) for name, value in by_seed[seed].items()},
                    "runs": [str(path) for path in runs[method][seed]],
                }
                for seed, matrix in of_seeds.items()
            },
        }
    return to_json(
        {
            "version": 1,
            "metric": metric,
            "split": split,
            "stages": list(stages),
            "untrained": {str(seed): list(map(_none, values)) for seed, values in untrained.items()},
            "methods": methods,
        }
    )


def write(folder: pathlib.Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Writes continual.json, continual.md and the plots of what `gather` gave."""
    plots = folder / PLOTS
    plots.mkdir(exist_ok=True)
    name = str(found["metric"]).replace("_", " ")
    matrices = {method: values["mean_matrix"] for method, values in found["methods"].items()}
    continual_plots.plot_matrices(matrices, found["stages"], plots / "matrices.png", y_label=name)
    curves = {method: averages(matrix) for method, matrix in matrices.items()}
    continual_plots.plot_averages(curves, found["stages"], plots / "average.png", y_label=f"mean {name} so far")
    continual_plots.plot_stages(matrices, found["stages"], plots / "stages.png", y_label=name)
    pictures = "".join(f"![{file}](plots/{file})\n\n" for file in ("average.png", "stages.png", "matrices.png"))
    parts = [f"## {table.title}\n\n{to_markdown(table)}" for table in tables(found)]
    text = f"# Learning in stages\n\n{headline(found)}.\n\n" + "\n".join(parts) + f"\n{pictures}"
    files.write_text(folder / MARKDOWN_FILE, text)
    files.write_json(folder / JSON_FILE, {**found, "asked": to_json(asked)})


def averages(matrix: Sequence[Sequence[float | None]]) -> list[float]:
    """Returns the mean score of all stages so far after each stage."""
    whole_TT = np.asarray([[_number(value) for value in row] for row in matrix])
    return [measures_lib.average_score(whole_TT, index) for index in range(len(whole_TT))]


def headline(found: Mapping[str, Any]) -> str:
    """Returns which method has the best average, and which of those that see one stage at a time."""
    values = {name: method["measures"][measures_lib.AVERAGE]["mean"] for name, method in found["methods"].items()}
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        return f"{found['metric']} is not defined for any method"
    best = max(known, key=lambda name: known[name])
    seeds = len(found["untrained"])
    over = f", mean of {seeds} seeds" if seeds > 1 else ""
    return (
        f"average {found['metric']} on {found['split']} after {len(found['stages'])} stages: best is {best}, "
        f"{known[best]:.4f}{over}"
    )


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Returns the measures of all methods, and the matrix of each."""
    rows: list[tuple[Cell, ...]] = []
    for name, method in found["methods"].items():
        cells: list[Cell] = []
        for measure in measures_lib.MEASURES:
            values = method["measures"][measure]
            cells.append(values["mean"])
            if len(found["untrained"]) > 1:
                cells.append(values["sd"])
        rows.append((name, *cells))
    columns = ["method"]
    for measure in measures_lib.MEASURES:
        columns += [measure.replace("_", " ")] + (
            [f"sd of {measure.replace('_', ' ')}"] if len(found["untrained"]) > 1 else []
        )
    made = [Table(f"Measures of {found['metric']} on {found['split']}", columns, rows)]
    stages = found["stages"]
    for name, method in found["methods"].items():
        matrix = [(stage, *row) for stage, row in zip(stages, method["mean_matrix"], strict=True)]
        made.append(Table(f"{name}: score on each stage's data", ("after", *stages), matrix))
    return made


def _statistics(values: Sequence[float]) -> dict[str, Any]:
    defined = [value for value in values if not math.isnan(value)]
    whole = len(defined) == len(values)
    return {
        "values": [_none(value) for value in values],
        "mean": statistics.fmean(values) if whole else None,
        "sd": statistics.stdev(values) if whole and len(values) > 1 else None,
    }


def _plain(matrix_TT: np.ndarray) -> list[list[float | None]]:
    """Returns nested lists, None for NaN."""
    return [[_none(value) for value in row] for row in matrix_TT]


def _none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)

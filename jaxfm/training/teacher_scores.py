"""Scores of the teachers of a run, on the splits that the run itself is scored on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxfm.config import Config
from jaxfm.core.task import Evaluation, Task
from jaxfm.errors import UserError
from jaxfm.observe.tables import Cell, Table
from jaxfm.training.distillation import DistilledObjective
from jaxfm.training.evaluation import Evaluator
from jaxfm.training.session import run_build
from jaxfm.training.setup import Setup
from jaxfm.training.teachers import Teacher, load, open_teachers


def score_teachers(
    config: Config, task: Task, setup: Setup, evaluations: Mapping[str, Evaluation]
) -> dict[str, Any] | None:
    """Returns what teachers and student reach, for the report; None: the run has no teacher.

    "teachers" are {"uri", "parameters", "splits": {split: {metric: number}}, "retained": {split: share}}: the student's
    metric that chose its checkpoint, as a share of the teacher's, where more is better. Without "splits" the teacher
    gives no outputs of this task, and "why" says so.
    """
    objective = setup.session.objective
    if not isinstance(objective, DistilledObjective):
        return None
    own = {split: evaluation.metrics for split, evaluation in evaluations.items()}
    found = []
    for number, uri in enumerate(config.distil.teachers):
        facts: dict[str, Any] = {"uri": uri, "parameters": objective.teachers[number].parameters}
        theirs, labels = (getattr(each, "labels", ()) for each in (objective.teachers[number].spec, objective.spec))
        if len(theirs) < len(labels):
            found.append({**facts, "why": f"it knows {len(theirs)} of the {len(labels)} classes"})
            continue
        try:
            teacher, params = _with_outputs(config, task, setup, objective, number)
        except UserError as error:
            found.append({**facts, "why": str(error)})
            continue
        splits = _scores(config, task, setup, teacher, params)
        del params
        metric = config.eval.metric
        more = task.directions[metric]
        retained = {
            split: own[split][metric] / values[metric]
            for split, values in splits.items()
            if more and values.get(metric, 0.0) > 0 and metric in own[split]
        }
        found.append({**facts, "splits": splits, "retained": retained})
    return {"metric": config.eval.metric, "teachers": found}


def _with_outputs(
    config: Config, task: Task, setup: Setup, objective: DistilledObjective, number: int
) -> tuple[Teacher, Any]:
    """Returns a teacher that gives outputs of the task, and its parameters; UserError where it gives none."""
    teacher, mesh = objective.teachers[number], setup.session.mesh
    labels = getattr(objective.spec, "labels", ())
    if teacher.objective is None:  # the run reads its layers alone
        one = dataclasses.replace(config, distil=dataclasses.replace(config.distil, soft=1.0))
        build, _ = run_build(config, task.objective, mesh)
        (teacher,) = open_teachers(one, objective.inner, [teacher.known], build, mesh)
        return teacher, load(teacher, labels)
    constants = setup.session.teacher_constants
    return teacher, constants[number] if constants else load(teacher, labels)


def _scores(config: Config, task: Task, setup: Setup, teacher: Teacher, params: Any) -> dict[str, dict[str, float]]:
    own: Any = teacher.objective
    evaluate = Evaluator(own.outputs, teacher.graphdef, setup.session.mesh, config.eval.batch_size)
    return {
        split: dict(task.scorer(split).metrics(evaluate(params, rows)))
        for split, rows in task.datasets.items()
        if split != "train"
    }


def teacher_tables(scores: Mapping[str, Any] | None, evaluations: Mapping[str, Evaluation]) -> dict[str, list[Table]]:
    """Returns a heading and a table of what `score_teachers` found; nothing without teachers."""
    if scores is None:
        return {}
    rows: list[tuple[Cell, ...]] = []
    for teacher in scores["teachers"]:
        if "splits" not in teacher:
            rows.append((teacher["uri"], "", teacher["why"], None, None, None))
        for split, values in teacher.get("splits", {}).items():
            own = evaluations[split].metrics
            chosen = scores["metric"]
            for name in sorted(set(values) & set(own), key=lambda name: (name != chosen, list(values).index(name))):
                share = teacher["retained"].get(split) if name == chosen else None
                rows.append((teacher["uri"], split, name.replace("_", " "), values[name], own[name], share))
    table = Table(
        "What the student keeps",
        ("teacher", "split", "metric", "of the teacher", "of the student", "retained"),
        rows,
        formats={"of the teacher": ".4f", "of the student": ".4f", "retained": ".1%"},
    )
    return {"Teacher and student": [table]}

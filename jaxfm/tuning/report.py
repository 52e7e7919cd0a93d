"""What a search leaves: search.json, search.md, plots, and the best trial's config as a file that trains as it is."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe import population_plots, search_plots
from jaxfm.observe.search_plots import Scale, Shown
from jaxfm.observe.tables import Cell, Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.training.config_file import changing_source, config_source
from jaxfm.tuning.costs import FLOPS, PARAMETERS
from jaxfm.tuning.optuna_sampling import importances
from jaxfm.tuning.population import Population, Segment, ancestry
from jaxfm.tuning.space import with_params
from jaxfm.tuning.trials import Trial, best, loss, pareto_front
from jaxfm.tuning.worker import FORMATS, Search, shown

JSON_FILE, MARKDOWN_FILE, BEST_FILE, PLOTS_DIR = "search.json", "search.md", "best.py", "plots"
REPEAT_FILE = "repeat_best.py"
MOST_ROWS = 10
"""Trials in the table of the best; search.json has all."""
_STATES = {"waiting": "stands at a rung", "running": "not finished"}


def gather(search: Search, trials: Sequence[Trial], *, has_ended: bool = False) -> dict[str, Any]:
    """Returns search.json.

    "trials" has of each: number, state, params (key -> value), score (of the metric, the last one known), values (of
    the objectives, where it is finished), costs (of its model, where they are asked for), steps, total_steps, seconds,
    rung_scores, error and workdir; of a population "taken_over" too: rung, trial, step and params from there on.
    "best" is the number of the best trial, the first objective's; "front" the numbers of the Pareto front; "costs"
    those that are shown, "most" the limits; "importance" key -> share: once the search has ended, and not of a
    population, whose values change on the way.
    """
    varied = [] if isinstance(search.pruner, Population) or not has_ended else trials
    first = best(trials, search.more_is_better[0])
    return {
        "task": search.config.task.name,
        "metric": search.config.eval.metric,
        "objectives": dict(zip(search.objectives, search.more_is_better, strict=True)),
        "sampler": search.sampler,
        "pruner": search.pruner.name,
        "rungs": list(search.pruner.rungs),
        "costs": _shown_costs(search),
        "most": dict(search.limits),
        "total": search.total,
        "best": None if first is None else first.number,
        "front": [each.number for each in pareto_front(trials, search.more_is_better)],
        "importance": importances(search.space, varied, search.more_is_better[0]),
        "trials": [_described(search, each) for each in trials],
    }


def write_progress(search: Search, trials: Sequence[Trial], *, has_ended: bool = False) -> dict[str, Any]:
    """Writes search.json as far as it is known, and returns it."""
    found = gather(search, trials, has_ended=has_ended)
    files.write_json(search.folder / JSON_FILE, to_json(found))
    return found


def write_all(search: Search, trials: Sequence[Trial]) -> dict[str, Any]:
    """Writes search.json, search.md, the plots and best.py of a search that has ended; returns search.json.

    The best of a population may have had several values of a key; then repeat_best.py stands in place of best.py.

    Raises:
      UserError: no trial was finished; the message has the first one's error.
    """
    found = write_progress(search, trials, has_ended=True)
    if found["best"] is None:
        failed = [each for each in trials if each.state == "failed"]
        why = f" The first one, trial {failed[0].number}: {failed[0].error}" if failed else ""
        raise UserError(f"--workdir={search.folder}: all {len(trials)} trials of the search failed.{why}")
    chosen = next(each for each in trials if each.number == found["best"])
    line = ancestry({each.number: each for each in trials}, chosen.number)
    _write_best(search, chosen, line)
    _draw(search, trials, found)
    if isinstance(search.pruner, Population):
        _draw_schedules(search, trials, line)
    files.write_text(search.folder / MARKDOWN_FILE, to_text(search, found, line))
    return found


def _write_best(search: Search, chosen: Trial, line: Sequence[Segment]) -> None:
    """Writes the best trial's config or, where it changed on the way, a program that trains it again."""
    changes = [(each.step, search.values_of(each.params)) for each in line[1:]]
    first = dataclasses.replace(chosen, params=line[0].params, generations=())
    name, other = (REPEAT_FILE, BEST_FILE) if changes else (BEST_FILE, REPEAT_FILE)
    (search.folder / other).unlink(missing_ok=True)
    files.write_text(search.folder / name, config_file(search, first, changes))


def headline(found: Mapping[str, Any]) -> str:
    """Returns the best trial with its values."""
    trial = next(each for each in found["trials"] if each["number"] == found["best"])
    counts = {state: sum(each["state"] == state for each in found["trials"]) for state in ("finished", "failed")}
    early = len(found["trials"]) - sum(counts.values())
    parts = [f"{counts['finished']} finished", *([f"{early} ended before"] if early else [])]
    parts += [f"{counts['failed']} failed"] if counts["failed"] else []
    named = ", ".join(
        f"{name} {shown(name, value)}" for name, value in zip(found["objectives"], trial["values"], strict=True)
    )
    return f"best of {len(found['trials'])} trials ({', '.join(parts)}): trial {trial['number']}, valid {named}"


def best_table(found: Mapping[str, Any]) -> Table:
    """Returns the best trials, of several objectives those of the Pareto front first."""
    more = next(iter(found["objectives"].values()))

    def rank(trial: Mapping[str, Any]) -> tuple[bool, bool, float]:
        is_finished = trial["state"] == "finished"
        score = trial["values"][0] if is_finished else trial["score"]
        in_front = len(found["objectives"]) == 1 or trial["number"] in found["front"]
        return not is_finished, not in_front, loss(math.nan if score is None else score, more)

    ranked = sorted((each for each in found["trials"] if each["state"] != "failed"), key=rank)[:MOST_ROWS]
    keys = list(ranked[0]["params"]) if ranked else []
    costs = [name for name in found["costs"] if name not in found["objectives"]]
    rows: list[tuple[Cell, ...]] = []
    formats = {name: FORMATS[name] for name in (*found["objectives"], *costs) if name in FORMATS}
    for trial in ranked:
        values = trial["values"] or [trial["score"], *[None] * (len(found["objectives"]) - 1)]
        state = _STATES.get(trial["state"], trial["state"])
        rows.append(
            (
                str(trial["number"]),
                *values,
                *(trial["costs"].get(name) for name in costs),
                *(_short(trial["params"][key]) for key in keys),
                state,
                f"{trial['steps']:,}",
            )
        )
    return Table(
        "The best trials", ("trial", *found["objectives"], *costs, *keys, "state", "updates"), rows, formats=formats
    )


def importance_table(found: Mapping[str, Any]) -> Table:
    """Returns how much each key mattered."""
    rows = [(key, value) for key, value in found["importance"].items()]
    return Table("Importance of each key", ("key", "share"), rows, formats={"share": ".0%"})


def to_text(search: Search, found: Mapping[str, Any], line: Sequence[Segment] = ()) -> str:
    """Returns search.md; `line` is by which values the best trial's weights were trained."""
    parts = [f"# {found['task']}: {search.folder.name}", f"**{headline(found)}**"]
    model = next(search.folder / each["workdir"] for each in found["trials"] if each["number"] == found["best"])
    how = (
        f"The best trial is the run in `{model}`, whose values changed on the way. No single config gives it; "
        f"`python {search.folder / REPEAT_FILE} DIR` trains it again, with the same result."
        if len(line) > 1
        else f"The best config is a file that trains as it is: `python -m jaxfm.train "
        f"--config={search.folder / BEST_FILE} --workdir=...`; the trained model is in `{model}`."
    )
    parts += [
        how,
        "The best of many trials is chosen by its score on the validation split, which is therefore above what other "
        "data will give. Compare test scores, of several seeds.",
    ]
    table = best_table(found)
    parts += [f"## {table.title}", to_markdown(table).strip()]
    if found["importance"]:
        parts += [
            "## Importance of each key",
            "PED-ANOVA: how far the best tenth of the trials lie together in a key, as a share of all keys. It is "
            "rough for few trials.",
            to_markdown(importance_table(found)).strip(),
        ]
    if isinstance(search.pruner, Population):
        parts += ["## Where the best weights come from", to_markdown(_line_table(search, line)).strip()]
        parts += ["## Who took over whom", to_markdown(takeover_table(found)).strip()]
    failed = [each for each in found["trials"] if each["state"] == "failed"]
    if failed:
        lines = "\n".join(f"- trial {each['number']}: {' '.join(each['error'].split())}" for each in failed)
        parts += ["## Trials that failed", lines]
    names = ("scores", "slices", "parallel", *(["front"] if len(found["objectives"]) == 2 else []))
    names = (*names, *(["schedules"] if isinstance(search.pruner, Population) else []))
    pictures = [f"![{name}]({PLOTS_DIR}/{name}.png)" for name in names]
    return "\n\n".join([*parts, "## Plots", *pictures]) + "\n"


def _line_table(search: Search, line: Sequence[Segment]) -> Table:
    """Returns by which values the best trial's weights were trained."""
    keys = [each.key for each in search.space]
    rows: list[tuple[Cell, ...]] = []
    for each in line:
        values = search.values_of(each.params)
        rows.append((f"{each.step:,}", str(each.number), *(_short(values[key]) for key in keys)))
    return Table("Where the best weights come from", ("from update", "as trial", *keys), rows)


def takeover_table(found: Mapping[str, Any]) -> Table:
    """Returns which trial of a population took over which one, and by which values it went on."""
    rows: list[tuple[Cell, ...]] = []
    for trial in found["trials"]:
        for each in trial["taken_over"]:
            values = [_short(value) for value in each["params"].values()]
            rows.append((f"{each['step']:,}", str(trial["number"]), str(each["trial"]), *values))
    rows.sort(key=lambda row: int(str(row[0]).replace(",", "")))
    keys = list(found["trials"][0]["params"])
    return Table("Who took over whom", ("after update", "trial", "took over", *keys), rows)


def config_file(search: Search, trial: Trial, changes: Sequence[tuple[int, Mapping[str, Any]]] = ()) -> str:
    """Returns the config of a trial as a Python file, which has what differs from the defaults of its task.

    With `changes`, (updates done, key -> value from there on), it is a program that trains a run with these.
    """
    scores = ", ".join(
        f"{name} {shown(name, value)}" for name, value in zip(search.objectives, trial.values, strict=True)
    )
    best = f"trial {trial.number}, the best of a search: {scores} on valid"
    config = with_params(search.config, search.values(trial))
    if changes:
        return changing_source(config, f"Trains {best}; its values change on the way.", changes)
    return config_source(config, f"The config of {best}.")


def _shown_costs(search: Search) -> list[str]:
    """Returns the costs that tables show: those with a limit, else operations and size."""
    if search.cost_model is None:
        return []
    return list(search.limits) or [FLOPS, PARAMETERS]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else search_plots.as_text(value)


def _described(search: Search, trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "params": search.values(trial),
        "score": trial.curve[-1][1] if trial.curve else None,
        "values": list(trial.values),
        "costs": dict(trial.costs),
        "steps": trial.steps,
        "total_steps": trial.total_steps,
        "seconds": trial.seconds,
        "rung_scores": list(trial.rung_scores),
        "error": trial.error,
        "workdir": str(search.current_workdir(trial).relative_to(search.folder)),
        "taken_over": [
            {"rung": each.level, "trial": each.parent, "step": each.step, "params": search.values_of(each.params)}
            for each in trial.generations
        ],
    }


def _draw_schedules(search: Search, trials: Sequence[Trial], line: Sequence[Segment]) -> None:
    """Draws the values of each trial of a population over its updates."""
    lives = {}
    for each in trials:
        if each.params:
            parts = [(0, each.params), *((one.step, one.params) for one in each.generations)]
            lives[each.number] = [(step, [*search.values_of(params).values()]) for step, params in parts]
    best = [(each.step, [*search.values_of(each.params).values()]) for each in line]
    ends = {each.number: each.steps for each in trials}
    path = search.folder / PLOTS_DIR / "schedules.png"
    population_plots.plot_schedules(lives, best, ends, _scales(search), path)


def _scales(search: Search) -> list[Scale]:
    return [
        Scale(one.key, [search_plots.as_text(value) for value in one.choices] if one.choices else None, one.log)
        for one in search.space
    ]


def _draw(search: Search, trials: Sequence[Trial], found: Mapping[str, Any]) -> None:
    """Draws the plots; the score is that of the first objective, of a trial that is not finished of the metric."""
    first, more = search.objectives[0], search.more_is_better[0]
    drawn = []
    for each in trials:
        score = each.values[0] if each.values else each.curve[-1][1] if each.curve else math.nan
        comparable = bool(each.values) or first == search.config.eval.metric
        if each.params and each.state != "failed" and comparable and math.isfinite(score):
            values = search.values(each)
            drawn.append(Shown(each.number, [values[one.key] for one in search.space], score, each.state == "finished"))
    scales, folder = _scales(search), search.folder / PLOTS_DIR
    search_plots.plot_scores(drawn, folder / "scores.png", metric=first, more_is_better=more)
    search_plots.plot_slices(drawn, scales, folder / "slices.png", metric=first)
    search_plots.plot_parallel(drawn, scales, folder / "parallel.png", metric=first, more_is_better=more)
    if len(search.objectives) == 2:
        points = [(each.number, each.values[0], each.values[1]) for each in trials if each.values]
        names = (search.objectives[0], search.objectives[1])
        search_plots.plot_front(points, found["front"], folder / "front.png", names=names)

"""What a search leaves: search.json, search.md, plots, and the best trial's config as a file that trains as it is."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe import search_plots
from jaxfm.observe.search_plots import Scale, Shown
from jaxfm.observe.tables import Cell, Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.training.config_file import config_source
from jaxfm.tuning.costs import FLOPS, PARAMETERS
from jaxfm.tuning.optuna_sampling import importances
from jaxfm.tuning.space import with_params
from jaxfm.tuning.trials import Trial, best, loss, pareto_front
from jaxfm.tuning.worker import FORMATS, Search, shown

JSON_FILE, MARKDOWN_FILE, BEST_FILE, PLOTS_DIR = "search.json", "search.md", "best.py", "plots"
MOST_ROWS = 10
"""Trials in the table of the best; search.json has all."""
_STATES = {"waiting": "stands at a rung", "running": "not finished"}


def gather(search: Search, trials: Sequence[Trial]) -> dict[str, Any]:
    """Returns search.json.

    "trials" has of each: number, state, params (key -> value), score (of the metric, the last one known), values (of
    the objectives, where it is finished), costs (of its model, where they are asked for), steps, total_steps, seconds,
    rung_scores, error and workdir. "best" is the number of the best trial, the first objective's; "front" the numbers
    of the Pareto front; "importance" key -> share; "costs" those that are shown, "most" the limits.
    """
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
        "importance": importances(search.space, trials, search.more_is_better[0]),
        "trials": [_described(search, each) for each in trials],
    }


def write_progress(search: Search, trials: Sequence[Trial]) -> dict[str, Any]:
    """Writes search.json as far as it is known, and returns it."""
    found = gather(search, trials)
    files.write_json(search.folder / JSON_FILE, to_json(found))
    return found


def write_all(search: Search, trials: Sequence[Trial]) -> dict[str, Any]:
    """Writes search.json, search.md, the plots and best.py of a search that has ended; returns search.json.

    Raises:
      UserError: no trial was finished; the message has the first one's error.
    """
    found = write_progress(search, trials)
    if found["best"] is None:
        failed = [each for each in trials if each.state == "failed"]
        why = f" The first one, trial {failed[0].number}: {failed[0].error}" if failed else ""
        raise UserError(f"--workdir={search.folder}: all {len(trials)} trials of the search failed.{why}")
    chosen = next(each for each in trials if each.number == found["best"])
    files.write_text(search.folder / BEST_FILE, config_file(search, chosen))
    _draw(search, trials, found)
    files.write_text(search.folder / MARKDOWN_FILE, to_text(search, found))
    return found


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


def to_text(search: Search, found: Mapping[str, Any]) -> str:
    """Returns search.md."""
    parts = [f"# {found['task']}: {search.folder.name}", f"**{headline(found)}**"]
    parts += [
        f"The best config is a file that trains as it is: `python -m jaxfm.train --config={search.folder / BEST_FILE} "
        f"--workdir=...`; the trained model is in `{search.workdir(found['best'])}`.",
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
    failed = [each for each in found["trials"] if each["state"] == "failed"]
    if failed:
        lines = "\n".join(f"- trial {each['number']}: {' '.join(each['error'].split())}" for each in failed)
        parts += ["## Trials that failed", lines]
    names = ("scores", "slices", "parallel", *(["front"] if len(found["objectives"]) == 2 else []))
    pictures = [f"![{name}]({PLOTS_DIR}/{name}.png)" for name in names]
    return "\n\n".join([*parts, "## Plots", *pictures]) + "\n"


def config_file(search: Search, trial: Trial) -> str:
    """Returns the config of a trial as a Python file, which has what differs from the defaults of its task."""
    scores = ", ".join(
        f"{name} {shown(name, value)}" for name, value in zip(search.objectives, trial.values, strict=True)
    )
    return config_source(
        with_params(search.config, search.values(trial)),
        f"The config of trial {trial.number}, the best of a search: {scores} on valid.",
    )


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
        "workdir": str(search.workdir(trial.number).relative_to(search.folder)),
    }


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
    scales = [
        Scale(one.key, [search_plots.as_text(value) for value in one.choices] if one.choices else None, one.log)
        for one in search.space
    ]
    folder = search.folder / PLOTS_DIR
    search_plots.plot_scores(drawn, folder / "scores.png", metric=first, more_is_better=more)
    search_plots.plot_slices(drawn, scales, folder / "slices.png", metric=first)
    search_plots.plot_parallel(drawn, scales, folder / "parallel.png", metric=first, more_is_better=more)
    if len(search.objectives) == 2:
        points = [(each.number, each.values[0], each.values[1]) for each in trials if each.values]
        names = (search.objectives[0], search.objectives[1])
        search_plots.plot_front(points, found["front"], folder / "front.png", names=names)

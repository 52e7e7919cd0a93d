"""The same run from several seeds: `python -m jaxfm.seeds --config=FILE --seeds=0,1,2 --workdir=runs/x`.

Each seed has a run directory of its own, runs/x/seed0 and so on; the same command again goes on where it was stopped. A
table with every seed, the mean and the standard deviation of each metric is printed, and written to seeds.md and
seeds.json.
"""

import dataclasses
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.observe.summary import MOST_METRICS, metrics_of, number
from jaxfm.observe.tables import Cell, Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.parallel import distributed
from jaxfm.programs import program
from jaxfm.programs.given_config import GivenConfig, resolve_config
from jaxfm.programs.train import train
from jaxfm.training import workdir as workdirs

USAGE = (
    "usage: python -m jaxfm.seeds CONFIG --seeds=0,1,2 --workdir=DIR [--data=URI] [--config.KEY=VALUE ...]\n"
    "  CONFIG: a name (ner, ner:files, mlm:continue) or --config=FILE.py[:variant]"
)
JSON_FILE, MARKDOWN_FILE = "seeds.json", "seeds.md"


def seeds(config: GivenConfig, workdir: str | pathlib.Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Trains a run for each seed, one after the other, or goes on with those that are not finished.

    Args:
      config: of all runs, as for `train`; its `seed` is not read.
      workdir: a folder for the run directories seedN, seeds.md and seeds.json; made if need be.
      seeds: at least one, each once.

    Returns:
      The content of seeds.json: "seeds", "metric", "runs" (seed -> run directory), "splits" (split -> metric ->
      "values" in the order of the seeds, "mean" and "sd" over n - 1, None where a value is missing).

    Raises:
      UserError: seeds that are negative or given twice, a folder that is a run itself, a run in it of another config;
        and as `train`. The runs that are finished by then stay.
      Preempted: stopped by a signal, after saving.
    """
    config = resolve_config(config)
    workdir = files.user_path(workdir, "--workdir")
    configs = {seed: dataclasses.replace(config, seed=seed) for seed in _checked(seeds)}
    folders = {seed: workdir / f"seed{seed}" for seed in configs}
    if (workdir / workdirs.CONFIG_FILE).is_file():
        raise UserError(f"--workdir={workdir}: holds a run itself. Name a folder for the runs of all seeds.")
    for seed, folder in folders.items():  # before hours go into the first of them
        workdirs.status(folder, workdirs.with_chosen(folder, configs[seed]))
    progress = Progress(None, quiet=not distributed.is_main())
    reports = {}
    for index, (seed, folder) in enumerate(folders.items(), start=1):
        progress.say(f"\nseed {seed} ({index} of {len(folders)}): {folder}")
        reports[seed] = train(configs[seed], folder)
    found = _gathered(config, folders, reports)
    if distributed.is_main():
        files.write_text(workdir / MARKDOWN_FILE, _to_text(workdir, found))
        files.write_json(workdir / JSON_FILE, to_json(found))
    progress.headline(f"\n{_headline(found)}")
    for table in _tables(found, MOST_METRICS):
        progress.table(table)
    return found


def _checked(seeds: Sequence[int]) -> list[int]:
    listed = ",".join(map(str, seeds))
    if not seeds:
        raise UserError("--seeds: is empty; give at least one, as 0,1,2.")
    if any(type(seed) is not int or seed < 0 for seed in seeds):
        raise UserError(f"--seeds={listed}: must be whole numbers from 0, as 0,1,2.")
    twice = sorted({seed for seed in seeds if list(seeds).count(seed) > 1})
    if twice:
        raise UserError(f"--seeds={listed}: {twice[0]} is given twice; a seed again is the same run again.")
    return list(seeds)


def _gathered(
    config: Config, folders: Mapping[int, pathlib.Path], reports: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns seeds.json: the metrics of all splits that every run was scored on."""
    runs, first = list(reports.values()), next(iter(folders.values()))  # config.eval.metric may have been "auto"
    splits: dict[str, dict[str, Any]] = {}
    for split in (name for name in runs[0]["splits"] if all(name in report["splits"] for report in runs)):
        scores = [report["splits"][split] for report in runs]
        names = dict.fromkeys(name for each in scores for name in metrics_of(each))
        splits[split] = {name: _statistics([number(each.get(name)) for each in scores]) for name in names}
    return {
        "task": config.task.name,
        "metric": workdirs.read_config(first).eval.metric,
        "seeds": list(reports),
        "runs": {str(seed): str(folder) for seed, folder in folders.items()},
        "splits": splits,
    }


def _statistics(values: Sequence[float]) -> dict[str, Any]:
    """Returns the values, NaN as None, with their mean and standard deviation, None where one of them is missing."""
    defined = [value for value in values if value == value]
    whole = len(defined) == len(values)
    return {
        "values": [value if value == value else None for value in values],
        "mean": statistics.fmean(values) if whole else None,
        "sd": statistics.stdev(values) if whole and len(values) > 1 else None,
    }


def _headline(found: Mapping[str, Any]) -> str:
    """Returns the mean of the metric that chose, with its standard deviation."""
    splits, metric, count = found["splits"], found["metric"], len(found["seeds"])
    split = "test" if "test" in splits else next(iter(splits), "")
    scores = splits.get(split, {}).get(metric)
    if scores is None or scores["mean"] is None:
        return f"{count} runs; {metric} is not defined for all of them"
    spread = "" if scores["sd"] is None else f" (standard deviation {scores['sd']:.4f})"
    return f"{split} {metric.replace('_', ' ')} {scores['mean']:.4f}, the mean of {count} seeds{spread}"


def _tables(found: Mapping[str, Any], most: int | None = None) -> list[Table]:
    """Returns a table for each split: a row a seed, then mean and standard deviation; `most` metrics at the most."""
    tables = []
    for split, scores in found["splits"].items():
        names = sorted(scores, key=lambda name: name != found["metric"])[:most]  # stable: the others as they were
        rows: list[tuple[Cell, ...]] = [
            (str(seed), *(scores[name]["values"][index] for name in names)) for index, seed in enumerate(found["seeds"])
        ]
        rows += [(what, *(scores[name][what] for name in names)) for what in ("mean", "sd")]
        tables.append(Table(split, ("seed", *(name.replace("_", " ") for name in names)), rows, footer=2))
    return tables


def _to_text(workdir: pathlib.Path, found: Mapping[str, Any]) -> str:
    parts = [f"# {found['task']}: {workdir.name}", f"**{_headline(found)}**"]
    for table in _tables(found):
        parts += [f"## {table.title}", to_markdown(table).strip()]
    runs = "\n".join(f"- seed {seed}: [{folder}](seed{seed}/report.md)" for seed, folder in found["runs"].items())
    return "\n\n".join([*parts, "## Runs", runs]) + "\n"


def main() -> None:
    """The program."""
    values = flags.FLAGS
    for name in ("config", "workdir", "seeds"):
        if not getattr(values, name):
            raise UserError(f"--{name} is missing.\n{USAGE}")
    if any(word.lstrip("-").partition("=")[0] == "config.seed" for word in sys.argv[1:]):
        raise UserError(f"--config.seed: --seeds says which seeds the runs have.\n{USAGE}")
    try:
        chosen = [int(word) for word in values.seeds]
    except ValueError:
        raise UserError(f"--seeds={','.join(values.seeds)}: must be whole numbers, as 0,1,2.") from None
    program.join()
    program.say_shipped_config()
    seeds(values.config, values.workdir, chosen)
    if distributed.is_main():
        print(f"runs finished; table: {pathlib.Path(values.workdir) / MARKDOWN_FILE}")


def run() -> None:
    """Defines the flags and runs the program."""
    program.define_config_flag()
    flags.DEFINE_string("workdir", None, "The folder for all runs; the same one again resumes.")
    flags.DEFINE_list("seeds", [], "The seeds, with commas between them.")
    program.define_process_flags()
    program.run(main, USAGE)

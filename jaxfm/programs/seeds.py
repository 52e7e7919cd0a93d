"""The same run from several seeds: `python -m jaxfm.seeds --config=FILE --seeds=0,1,2 --workdir=runs/x`.

Each seed has a run directory of its own, runs/x/seed0 and so on; the same command again goes on where it was stopped. A
table with every seed, the mean and the standard deviation of each metric is printed, and written to seeds.md and
seeds.json.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.evaluation import many_runs
from jaxfm.observe.progress import Progress
from jaxfm.observe.summary import MOST_METRICS
from jaxfm.parallel import distributed
from jaxfm.programs import program
from jaxfm.programs.given_config import GivenConfig, resolve_config
from jaxfm.programs.train import train
from jaxfm.training import grid
from jaxfm.training import workdir as workdirs

USAGE = (
    "usage: python -m jaxfm.seeds CONFIG --seeds=0,1,2 --workdir=DIR [--data=URI] [--config.KEY=VALUE ...]\n"
    "  CONFIG: a name (ner, ner:files, mlm:continue) or --config=FILE.py[:variant]"
)


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
    if grid.asks_for_several(config):
        raise UserError(
            "config.train.seeds, learning_rates, weight_decays: train several runs in one program (jaxfm.train); "
            "jaxfm.seeds trains those of --seeds one after the other. Leave these keys as they are by default."
        )
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
    metric = workdirs.read_config(next(iter(folders.values()))).eval.metric  # config.eval.metric may have been "auto"
    finished = [many_runs.FinishedRun(seed, folder, reports[seed]) for seed, folder in folders.items()]
    found = many_runs.gather(config.task.name, metric, finished)
    if distributed.is_main():
        many_runs.write(workdir, found)
    progress.headline(f"\n{many_runs.headline(found)}")
    for table in many_runs.tables(found, MOST_METRICS):
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
        print(f"runs finished; table: {pathlib.Path(values.workdir) / many_runs.MARKDOWN_FILE}")


def run() -> None:
    """Defines the flags and runs the program."""
    program.define_config_flag()
    flags.DEFINE_string("workdir", None, "The folder for all runs; the same one again resumes.")
    flags.DEFINE_list("seeds", [], "The seeds, with commas between them.")
    program.define_process_flags()
    program.run(main, USAGE)

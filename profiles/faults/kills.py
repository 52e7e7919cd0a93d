"""Kills runs at moments drawn at random, gives the same command again, and compares the end with an unbroken twin.

    python -m profiles.faults.kills --kills=300 --output=profiles/results/faults_kills.json

Half the kills are SIGKILL, half SIGTERM. Half of the moments are drawn over the whole length of the command, from its
first import to its end; the others are a moment after something began: a save, an evaluation, the report. Every run is
killed some times and then left to end. It must then be its twin: the hash of every array of the last checkpoint
(parameters, optimizer, key, open sums), metrics.jsonl but for speeds, task.json, predictions, calibration and report
but for times. `prepare` is killed too; its corpus must be the twin's, byte for byte.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rich

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.report import JSON_FILE
from jaxfm.observe.tables import Table
from jaxfm.observe.writers import METRICS_FILE, read_metrics
from jaxfm.programs.program import EXIT_PREEMPTED
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.workdir import AVERAGED_DIR, CHECKPOINTS_DIR, CONFIG_FILE, LOCK_FILE
from profiles import command_line
from profiles.faults import small_runs
from profiles.faults.small_runs import SAVE_STEPS, made_by

PREPARE = "prepare"
# Seconds after which a run that was asked to stop, or one that was left alone, counts as hanging.
STOP_SECONDS, END_SECONDS = 120.0, 900.0
# How a command ends by a signal: at once, or after a save (docs/architecture.md, exit codes).
_CODES = {signal.SIGKILL: (-signal.SIGKILL,), signal.SIGTERM: (-signal.SIGTERM, 128 + signal.SIGTERM, EXIT_PREEMPTED)}
# What says nothing of a run's result: clocks, memory, paths.
_OF_TIME = re.compile(
    r"second|goodput|time|speed|mfu|memory|_mib|workdir|command|device|version|git_commit|date|created|found_finished"
)


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill: `delay` seconds after `begun` first says yes, or after the start where it is None."""

    name: str
    delay: float
    begun: Callable[[pathlib.Path], bool] | None = None


# What can be seen of a run from outside -> how to see it.
BEGINNINGS: dict[str, Callable[[pathlib.Path], bool]] = {
    "first files": lambda workdir: workdir.is_dir(),
    "first update": lambda workdir: _has_line(workdir, "train"),
    "a save": lambda workdir: any((workdir / CHECKPOINTS_DIR).glob("*tmp*")),
    "an evaluation": lambda workdir: _has_line(workdir, "valid"),
    "the mean": lambda workdir: (workdir / AVERAGED_DIR).exists(),
    "the report": lambda workdir: (workdir / "predictions").is_dir(),
}


def _has_line(workdir: pathlib.Path, split: str) -> bool:
    try:
        return f'"split": "{split}"' in (workdir / METRICS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return False


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
      case: the run's name.
      signal: by which it was killed.
      moment: what the moment was drawn by.
      where: what the run directory shows of where the run was.
      code: exit code.
      lost: updates that were in the log and had to be done again; None where the run had not begun to train.
    """

    case: str
    signal: str
    moment: str
    where: str
    code: int
    lost: int | None = None


@dataclasses.dataclass
class Trial:
    """What came of one run that was killed some times: its kills, and what was wrong ("": nothing)."""

    kills: list[Kill]
    wrong: str = ""


@dataclasses.dataclass(frozen=True)
class Case:
    """A command over a directory, and how two of its results are compared.

    Attributes:
      name: of the case.
      command: directory -> command.
      differences: (directory, twin) -> what differs.
      twin: the directory that an unbroken command wrote.
      seconds: that it took.
    """

    name: str
    command: Callable[[pathlib.Path], list[str]]
    differences: Callable[[pathlib.Path, pathlib.Path], list[str]]
    twin: pathlib.Path
    seconds: float


def make_case(name: str, folder: pathlib.Path) -> Case:
    """Runs the unbroken twin of a case over the data in `folder`. Raises RuntimeError where that fails."""
    twin = folder / f"twin_{name}"

    def command(output: pathlib.Path) -> list[str]:
        if name == PREPARE:
            return small_runs.prepare_command(folder, output)
        return small_runs.BY_NAME[name].command(folder, output)

    if name in small_runs.BY_NAME:  # what is compiled is kept: twice, so that the second time is that of a resumed run
        _run(command(folder / f"first_{name}"))
        shutil.rmtree(folder / f"first_{name}")
    start = time.monotonic()
    _run(command(twin))
    differences = corpus_differences if name == PREPARE else run_differences
    return Case(name, command, differences, twin, time.monotonic() - start)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=END_SECONDS)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)}: ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )


def trial(case: Case, folder: pathlib.Path, kills: int, seed: int) -> Trial:
    """Kills a run up to `kills` times, lets it end, and compares it with its twin."""
    draw, output, result = random.Random(f"{case.name} {seed}"), folder / f"{case.name}_{seed}", Trial([])
    for number in itertools.count():
        number_of_signal = draw.choice(list(_CODES))
        moment = _moment(draw, case) if number < kills else None
        said = folder / f"{case.name}_{seed}_{number}.log"
        code = attempt(case.command(output), output, moment, number_of_signal, said)
        if result.kills:
            result.kills[-1] = dataclasses.replace(result.kills[-1], lost=_lost(said, result.kills[-1]))
        if code == 0:
            break
        if moment is None or code not in _CODES[number_of_signal]:
            tail = said.read_text(encoding="utf-8", errors="replace")[-3000:]
            result.wrong = f"attempt {number + 1} ended with {code}, not by its signal:\n{tail}"
            return result
        where = _where(output)
        result.kills.append(Kill(case.name, number_of_signal.name, moment.name, where, code, _last_step(output)))
    wrong = case.differences(output, case.twin)
    if (output / LOCK_FILE).exists():
        wrong.append("the lock file is still there")
    result.wrong = "; ".join(wrong)
    if not wrong:
        shutil.rmtree(output)
    return result


def _moment(draw: random.Random, case: Case) -> Moment:
    # Only one of the runs has a mean of checkpoints: in the others that moment never comes.
    begins = [name for name in BEGINNINGS if name != "the mean" or case.name == "ner"]
    name = draw.choice([None] * len(begins) + begins)
    if name is None or case.name == PREPARE:
        return Moment("any", draw.uniform(0, case.seconds))
    return Moment(name, draw.choice((0.0, draw.uniform(0, 0.05), draw.uniform(0, 1.0))), BEGINNINGS[name])


def attempt(
    command: Sequence[str], output: pathlib.Path, moment: Moment | None, number: signal.Signals, said: pathlib.Path
) -> int:
    """Runs the command and kills it at the moment (None: never); returns its exit code, -SIGXCPU where it hangs."""
    with said.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            if moment is not None:
                _wait_until(moment, output, process)
                process.send_signal(number)
            return process.wait(END_SECONDS if moment is None else STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return -signal.SIGXCPU
        finally:
            process.kill()
            process.wait()


def _wait_until(moment: Moment, output: pathlib.Path, process: subprocess.Popen[bytes]) -> None:
    while moment.begun is not None and not moment.begun(output) and process.poll() is None:
        time.sleep(0.002)
    end = time.monotonic() + moment.delay
    while time.monotonic() < end and process.poll() is None:
        time.sleep(min(0.01, max(end - time.monotonic(), 0)))


def _where(workdir: pathlib.Path) -> str:
    """Says where a killed run was, by what lies in its directory; for the table."""
    seen = {
        "after the report": (workdir / JSON_FILE).exists(),
        "in the report": (workdir / "predictions").is_dir(),
        "in the mean": (workdir / AVERAGED_DIR).exists(),
        "in a save": any((workdir / CHECKPOINTS_DIR).glob("*tmp*")),
        "in training": (workdir / METRICS_FILE).exists(),
        "compiling": (workdir / CONFIG_FILE).exists(),
    }
    return next((name for name, found in seen.items() if found), "starting")


def _last_step(workdir: pathlib.Path) -> int | None:
    """Returns the last update in the log, whose last line may be cut; None without one."""
    try:
        text = (workdir / METRICS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return max(map(int, re.findall(r'^\{"step": (\d+),', text, re.MULTILINE)), default=None)


def _lost(said: pathlib.Path, kill: Kill) -> int | None:
    """Returns the updates that are done again after a kill, whose `lost` is the last update in the log till now."""
    text = said.read_text(encoding="utf-8", errors="replace")
    resumed = re.search(r"resuming after step (\d+)", text)
    if kill.lost is None or (resumed is None and "step 1/" not in text):
        return None  # killed before it trained, or killed again before it had opened the checkpoint, or finished
    return max(kill.lost - (int(resumed[1]) if resumed else 0), 0)


def corpus_differences(output: pathlib.Path, twin: pathlib.Path) -> list[str]:
    """Returns what differs between two prepared corpora: in their files, and in the report but for times."""
    with_times = (".verified.json", "report.json", "report.md")
    names = [_relative(path, twin) for path in twin.rglob("*") if path.is_file() and path.name not in with_times]
    ours, theirs = (_without_times(files.read_json(folder / "report.json")) for folder in (output, twin))
    reports = [] if ours == theirs else [_first_difference(ours, theirs, "report")]
    return _file_differences(output, twin, names) + reports


def run_differences(output: pathlib.Path, twin: pathlib.Path) -> list[str]:
    """Returns what differs between two finished runs: the last state, metrics, predictions, report but for times."""
    wrong = []
    names = [
        path for pattern in ("predictions/*.jsonl", "task.json", "calibration.json") for path in twin.glob(pattern)
    ]
    wrong += _file_differences(output, twin, [_relative(path, twin) for path in names])
    pairs: dict[str, Callable[[pathlib.Path], Any]] = {
        "checkpoints": _array_hashes,
        "metrics": lambda workdir: _without_times(list(read_metrics(workdir / METRICS_FILE))),
        "report": lambda workdir: _without_times(files.read_json(workdir / JSON_FILE)),
    }
    for name, read in pairs.items():
        ours, theirs = read(output), read(twin)
        if ours != theirs:
            wrong.append(f"{name}: {_first_difference(ours, theirs, name)}")
    return wrong


def _relative(path: pathlib.Path, folder: pathlib.Path) -> str:
    return path.relative_to(folder).as_posix()


def _file_differences(output: pathlib.Path, twin: pathlib.Path, names: Sequence[str]) -> list[str]:
    return [
        f"{name} is {'another' if (output / name).is_file() else 'missing'}"
        for name in names
        if not (output / name).is_file() or (output / name).read_bytes() != (twin / name).read_bytes()
    ]


def _array_hashes(workdir: pathlib.Path) -> dict[int, Any]:
    """Returns step -> the hashes of all arrays of its checkpoint, and what else it remembers but times."""
    checkpoints = Checkpoints(workdir / CHECKPOINTS_DIR, read_only=True)
    try:
        return {step: _without_times(checkpoints.meta(step)) for step in checkpoints.steps()[-1:]}
    finally:
        checkpoints.close()


def _without_times(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_times(each) for key, each in value.items() if not _OF_TIME.search(str(key))}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


def _first_difference(ours: Any, theirs: Any, where: str) -> str:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping) and ours.keys() == theirs.keys():
        key = next(key for key in ours if ours[key] != theirs[key])
        return _first_difference(ours[key], theirs[key], f"{where}/{key}")
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        index = next(index for index, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        return _first_difference(ours[index], theirs[index], f"{where}/{index}")
    return f"{where} is {str(ours)[:200]}, of the twin {str(theirs)[:200]}"


def run_trials(
    folder: pathlib.Path, cases: Sequence[str], kills: int, *, seed: int, most: int, jobs: int
) -> tuple[list[Trial], list[Case]]:
    """Kills runs of all cases in turns until there were `kills` kills; at most `most` of one run. Shows each trial."""
    folder.mkdir(parents=True, exist_ok=True)
    small_runs.write_all(folder)
    made = [make_case(name, folder) for name in cases]
    for case in made:
        print(f"{case.name}: the unbroken command took {case.seconds:.1f} s", flush=True)
    trials: list[Trial] = []
    draw, numbers = random.Random(seed), itertools.count()

    def next_trial() -> Trial | None:
        number = next(numbers)
        done = sum(len(each.kills) for each in trials)
        if done >= kills:
            return None
        result = trial(made[number % len(made)], folder, draw.randint(1, most), seed * 100_000 + number)
        trials.append(result)
        case = made[number % len(made)].name
        done = sum(len(each.kills) for each in trials)
        print(f"{done} of {kills} kills; {case}: {len(result.kills)} times: {result.wrong or 'the twin'}", flush=True)
        return result

    def until_done() -> None:
        while next_trial() is not None:
            pass

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(until_done) for _ in range(jobs)]:
            future.result()
    return trials, made


def summary(trials: Sequence[Trial]) -> dict[str, Any]:
    """Returns the counts of all trials as JSON values."""
    kills = [kill for each in trials for kill in each.kills]
    lost = [kill.lost for kill in kills if kill.lost is not None]

    def counted(name: str) -> dict[str, int]:
        return dict(sorted(collections.Counter(str(getattr(kill, name)) for kill in kills).items()))

    return {
        "kills": len(kills),
        "runs": len(trials),
        "runs_unlike_their_twin": sum(bool(each.wrong) for each in trials),
        "save_interval_updates": SAVE_STEPS,
        "updates_lost": {
            "most": max(lost, default=0),
            "mean": sum(lost) / max(len(lost), 1),
            "kills_that_cost_more_than_the_interval": sum(each > SAVE_STEPS for each in lost),
            "known_of": len(lost),
        },
        "by_case": counted("case"),
        "by_signal": counted("signal"),
        "by_moment": counted("moment"),
        "by_where": counted("where"),
        "wrong": [each.wrong for each in trials if each.wrong],
    }


def table(counts: Mapping[str, Any]) -> Table:
    """Returns the counts as a table: what was killed, by what, and where."""
    rows = [
        [name, value, number] for name in ("by_case", "by_signal", "by_where") for value, number in counts[name].items()
    ]
    return Table(f"{counts['kills']} kills of {counts['runs']} runs", ["", "", "kills"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line.make_parser(__doc__)
    names = (*small_runs.BY_NAME, PREPARE)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--most", type=int, default=8, help="kills of one run")
    parser.add_argument("--cases", default=",".join(names))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    cases = arguments.cases.split(",")
    if unknown := set(cases) - set(names):
        raise UserError(f"--cases: {sorted(unknown)[0]!r} is none of {', '.join(names)}.")
    for name in ("kills", "most", "jobs"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name}={getattr(arguments, name)}: must be at least 1.")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="jaxfm-kills-"))
    start = time.monotonic()
    with libraries_quieted():
        trials, made = run_trials(
            folder, cases, arguments.kills, seed=arguments.seed, most=arguments.most, jobs=arguments.jobs
        )
    counts = summary(trials)
    facts = {"seed": arguments.seed, "seconds": round(time.monotonic() - start)}
    twins = {case.name: round(case.seconds, 1) for case in made}
    files.write_json(arguments.output, made_by(argv, __file__) | counts | facts | {"seconds_of_the_unbroken": twins})
    rich.print(table(counts))
    print(json.dumps({name: counts[name] for name in ("kills", "runs", "runs_unlike_their_twin", "updates_lost")}))
    if counts["wrong"]:
        raise SystemExit(f"{len(counts['wrong'])} runs are not their twins; what they left: {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    command_line.run(main)

"""Faults of one process of a run of several: do the others end in the stated time, and do they say which it was?

    python -m profiles.faults.processes --output=profiles/results/faults_processes.json

Each run is a small one on CPU processes of this machine, with a folder for each process as if it were a machine of its
own. One process is killed, stopped (SIGSTOP, and continued when the others have ended), slow, asked to stop, fails, or
is started with another config, version of a library or data. The table has the exit codes, the seconds until the last
of the others ended, from the fault on, beside the stated time, and whether each of them named the process. Runs
that the output has as stated already are not made again.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import rich

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_rich
from jaxfm.parallel.watch import TICK_SECONDS
from profiles import command_line
from profiles.faults import small_runs
from profiles.faults.faulty_training import MARK
from profiles.quality import machine, shown_command

STEP = 8  # the update at which the fault comes: there is a checkpoint before it
SLOW_SECONDS = 15.0
# After which a run that should have ended counts as hanging, and that a busy machine may take beside the stated time.
END_SECONDS, ROOM_SECONDS = 240.0, 10.0
# What is computed is of no account here, and code that is made fast costs more than slow code does.
_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
_KEYS = {
    "eval.every_steps": 20,
    "train.steps": 30,
    "adapt.average_best": 0,
    "log.stall_factor": 5,
    "log.stall_seconds": 1,
}


@dataclasses.dataclass(frozen=True)
class Fault:
    """A fault of one process.

    Attributes:
      name: of the fault; that of `faulty_training` without what comes after a comma.
      code: exit code of the other processes.
      says: what each of them must say, a pattern in which {who} is the process; empty: nothing.
      stated: what is promised of the time from the fault on: "heartbeat", "at once", "the save", "before update 1" or
        "the run goes on".
      first: process 0 has the fault, else the last one.
      own: what the process itself must say at its end; empty: nothing.
      main_says: process 0 alone says it, for all.
    """

    name: str
    code: int
    says: str
    stated: str
    first: bool = False
    own: str = ""
    main_says: bool = False


_LOST = (
    r"^process {who} \([^)]*\) has not been heard of for [\d.]+ s: it was killed or stopped, or its machine is gone\."
)
_DIFFERS = r"error: the processes of this run do not agree: {fact} is \S+ on process {{who}} \("
_PAUSE = r"[Tt]his process, {who} \([^)]*\), stood still for \d+ s: it was stopped, or its machine was\."
_GONE = r"^process 0, the coordinator at [\d.:]+, is gone: it was killed"
_SILENT = r"^process 0, the coordinator at [\d.:]+, has not answered for [\d.]+ s: it was stopped, or its machine hangs"
_WAITS = r"\n  other processes: .*process {who} \([^)]*\): the next batch \(wait for data\), \d"
FAULTS = (
    Fault("killed", 69, _LOST, "heartbeat"),
    Fault("killed, process 0", 69, _GONE, "at once", first=True),
    Fault("stopped", 69, _LOST, "heartbeat", own=_PAUSE),
    Fault("stopped, process 0", 69, _SILENT, "heartbeat", first=True, own=_PAUSE),
    Fault("slow", 0, _WAITS, "the run goes on"),
    Fault("asked to stop", 75, r"stopped by SIGTERM after saving step \d+", "the save", main_says=True),
    Fault("fails", 69, r"^process {who} \([^)]*\) failed: ZeroDivisionError: made on purpose\.", "at once"),
    Fault("other config", 2, _DIFFERS.format(fact=r"config\.seed"), "before update 1"),
    Fault("other version", 2, _DIFFERS.format(fact="the version of optax"), "before update 1"),
    Fault("other data", 2, _DIFFERS.format(fact="the training data's fingerprint"), "before update 1"),
)
BY_NAME = {fault.name: fault for fault in FAULTS}


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended: exit code (None: it hung), time, and what it said."""

    code: int | None
    at: float
    text: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one run.

    Attributes:
      fault: its name.
      processes: of the run.
      who: the process with the fault.
      codes: exit codes by process; None for one that hung.
      stated_seconds: from the fault to the end of the others; None where no time is promised.
      seconds: from the fault, or else from the start of the processes, to the end of the last of the others.
      named: other process -> whether it said which one it was and what.
      own: the last line of the process with the fault.
      wrong: what is not as it should be; empty: nothing.
    """

    fault: str
    processes: int
    who: int
    codes: list[int | None]
    stated_seconds: float | None
    seconds: float
    named: dict[int, bool]
    own: str
    wrong: str


def run(fault: Fault, count: int, data: pathlib.Path, heartbeat: float) -> Outcome:
    """Runs `count` processes, one of them with the fault; `data` is what `small_runs.write_all` wrote."""
    who = 0 if fault.first else count - 1
    with tempfile.TemporaryDirectory(prefix="jaxfm-processes-") as name:
        folder = pathlib.Path(name)
        began = time.time()
        with _started(fault, who, count, data, folder, heartbeat) as children:
            ended = _wait(children, folder, who)
    return _judged(fault, who, ended, began, heartbeat)


@contextlib.contextmanager
def _started(
    fault: Fault, who: int, count: int, data: pathlib.Path, folder: pathlib.Path, heartbeat: float
) -> Iterator[list["subprocess.Popen[bytes]"]]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    children: list[subprocess.Popen[bytes]] = []
    with contextlib.ExitStack() as stack:
        for process in range(count):
            own = folder / str(process)
            shutil.copytree(data, own / "data")
            kind = fault.name.partition(",")[0] if process == who else ""
            command = small_runs.BY_NAME["ner"].command(pathlib.Path("data"), folder / "run")
            command[command.index("jaxfm.train")] = "profiles.faults.faulty_training"
            command += [f"--config.{key}={value}" for key, value in _KEYS.items()]
            command += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}", f"--process_id={process}"]
            command += [f"--heartbeat_timeout={heartbeat}", f"--start_timeout={END_SECONDS}"]
            if kind == "other config":
                command.append("--config.seed=5")
            if kind == "other data":
                _change(own / "data")
            log = stack.enter_context((folder / f"{process}.log").open("wb"))
            environment = _environment(data, kind if not kind.startswith("other") or kind == "other version" else "")
            children.append(subprocess.Popen(command, cwd=own, env=environment, stdout=log, stderr=subprocess.STDOUT))
        try:
            yield children
        finally:
            for child in children:
                child.kill()
                child.wait()


def _environment(data: pathlib.Path, kind: str) -> dict[str, str]:
    root = str(pathlib.Path(__file__).resolve().parents[2])
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("FAULT")},
        "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "XLA_FLAGS": _FLAGS,
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(data.parent / "compiled"),
        **({"FAULT": kind, "FAULT_STEP": str(STEP), "FAULT_SECONDS": str(SLOW_SECONDS)} if kind else {}),
    }


def _change(data: pathlib.Path) -> None:
    """Exchanges a word of the training data for another that is known."""
    path = data / "tagged" / "train.conll"
    first, second = small_runs.PERSONS[:2]
    path.write_text(path.read_text(encoding="utf-8").replace(first, second, 1), encoding="utf-8")


def _wait(children: Sequence["subprocess.Popen[bytes]"], folder: pathlib.Path, who: int) -> list[Ended]:
    """Waits for the others and then for the one with the fault, which is continued before."""
    ended: dict[int, tuple[int | None, float]] = {}

    def until(processes: set[int], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not processes <= set(ended) and time.monotonic() < deadline:
            for process, child in enumerate(children):
                if process not in ended and child.poll() is not None:
                    ended[process] = (child.returncode, time.time())
            time.sleep(0.02)

    until(set(range(len(children))) - {who}, END_SECONDS)
    if who not in ended:
        children[who].send_signal(signal.SIGCONT)
        until({who}, 60.0)
    return [
        Ended(*ended.get(process, (None, time.time())), (folder / f"{process}.log").read_text(errors="replace"))
        for process in range(len(children))
    ]


def _judged(fault: Fault, who: int, ended: Sequence[Ended], began: float, heartbeat: float) -> Outcome:
    """Says what came of a run, and what of it is not as it should be."""
    others = {process: each for process, each in enumerate(ended) if process != who}
    moment = re.search(rf"^{MARK}([\d.]+)$", ended[who].text, re.MULTILINE)
    seconds = max(each.at for each in others.values()) - (float(moment[1]) if moment else began)
    speakers = {0: ended[0]} if fault.main_says else others
    named = {process: _said(fault.says, who, each) for process, each in speakers.items()}
    # Counted in checks of a second: the last one before the fault, and one more.
    stated = {"heartbeat": heartbeat + 2 * TICK_SECONDS, "at once": 2 * TICK_SECONDS}.get(fault.stated)
    wrong = []
    if codes := {process: each.code for process, each in others.items() if each.code != fault.code}:
        wrong.append(f"exit codes {codes}, not {fault.code}")
    if silent := [process for process, found in named.items() if not found]:
        wrong.append(f"not named by {silent}: {ended[silent[0]].text[-2000:]}")
    if stated is not None and seconds > stated + ROOM_SECONDS:
        wrong.append(f"ended after {seconds:.1f} s, stated are {stated:.1f}")
    if not moment and not fault.name.startswith("other"):
        wrong.append(f"the fault never came: {ended[who].text[-2000:]}")
    if fault.own and not (_said(fault.own, who, ended[who]) and ended[who].code == fault.code):
        wrong.append(f"the process itself ended with {ended[who].code}: {ended[who].text[-2000:]}")
    return Outcome(
        fault.name,
        len(ended),
        who,
        [each.code for each in ended],
        stated,
        round(seconds, 1),
        named,
        (ended[who].text.strip().splitlines() or [""])[-1],
        "; ".join(wrong),
    )


def _said(pattern: str, who: int, ended: Ended) -> bool:
    return re.search(pattern.replace("{who}", str(who)), ended.text, re.MULTILINE) is not None


def table(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    """Returns a row for each run."""
    rows = [
        (
            each["fault"],
            each["processes"],
            each["who"],
            ", ".join("hung" if code is None else str(code) for code in each["codes"]),
            BY_NAME[each["fault"]].stated if each["stated_seconds"] is None else f"{each['stated_seconds']:g} s",
            each["seconds"],
            f"{sum(each['named'].values())} of {len(each['named'])}",
            "wrong" if each["wrong"] else "",
        )
        for each in outcomes
    ]
    columns = ("fault", "processes", "of", "exit codes", "stated", "seconds", "named by", "")
    return Table("Faults of one process", columns, rows, formats={"seconds": ".1f"})


def _command() -> str:
    return shown_command(sys.argv).replace("profiles.processes", "profiles.faults.processes", 1)


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the faults, writes the JSON and prints a table."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--processes", default="2,4", help="of each run")
    parser.add_argument("--faults", default=",".join(name for name in BY_NAME if "," not in name), help="by name")
    parser.add_argument("--heartbeat", type=float, default=5.0, help="seconds, as --heartbeat_timeout")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file of results")
    arguments = command_line.parse_own(parser, argv)
    counts, names = command_line.integers("--processes", arguments.processes.split(",")), arguments.faults.split(",")
    if unknown := [name for name in names if name not in BY_NAME]:
        raise UserError(f"--faults: {unknown[0]!r} is none of {', '.join(BY_NAME)}.")
    if min(counts) < 2:
        raise UserError(f"--processes={arguments.processes}: must be at least 2.")
    chosen = [fault for fault in FAULTS if fault.name.partition(",")[0] in names]
    known = files.read_object(arguments.output).get("runs", []) if arguments.output.is_file() else []
    outcomes: list[dict[str, Any]] = [each for each in known if not each["wrong"]]
    made = {(each["fault"], each["processes"]) for each in outcomes}
    with tempfile.TemporaryDirectory(prefix="jaxfm-processes-") as folder:
        data = pathlib.Path(folder) / "data"
        small_runs.write_all(data)
        for count in counts:
            for fault in chosen:
                if (fault.name, count) in made:
                    continue
                outcome = run(fault, count, data, arguments.heartbeat)
                outcomes.append(dataclasses.asdict(outcome))
                outcomes.sort(key=lambda each: (each["processes"], list(BY_NAME).index(each["fault"])))
                print(f"{count} processes, {fault.name}: {outcome.wrong or 'as stated'}", flush=True)
                facts = {"command": _command(), **machine(), "heartbeat_seconds": arguments.heartbeat}
                files.write_json(arguments.output, facts | {"runs": outcomes})
    rich.print(to_rich(table(outcomes)))
    if wrong := sum(bool(each["wrong"]) for each in outcomes):
        raise SystemExit(f"{wrong} of {len(outcomes)} runs are not as stated")


if __name__ == "__main__":
    command_line.run(main)

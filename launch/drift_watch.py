#!/usr/bin/env python3
"""Compares new data with those of a run, and trains again where that is due: launch/drift_watch.py --run=DIR --runs=DIR
-- FLAGS OF jaxfm.drift -- FLAGS OF jaxfm.train

First `python -m jaxfm.drift --workdir=RUN` with the flags after the first --. Where it ends with 3 (train again), then
`python -m jaxfm.train` with the flags after the second -- into RUNS/TIME, beginning with the weights of the run unless
the flags name others (--config.model.init). A training that was stopped is gone on with by the next call, before
anything else. --run may be a link to a run; with --switch it is set to the new run once that is trained, so that the
next call is about that one. Without --switch a run is trained again once: after that the exit code is 4, until --run is
another one. One call at a time: a second one ends with 0 at once.

Exit code: that of jaxfm.drift (0 nothing, 4 look, 2 a mistake of yours), 3 to train again where no flags of a training
are given, that of the training where there was one. Standard library only.
"""

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import local  # pyright: ignore[reportMissingImports]  # beside this script, and so on its path

AGAIN, LOOK, USER_MISTAKE = 3, 4, 2  # see jaxfm/programs/program.py
STATE, LOCK = "again.json", "watch.lock"
_INIT = "--config.model.init"


class Watch:
    """What is watched, and what is done then."""

    def __init__(self, options: argparse.Namespace, drift: Sequence[str], train: Sequence[str]):
        """Takes the flags of the command line."""
        self.link = options.run
        self.run = options.run.resolve()  # not the link: it may be set to another run meanwhile
        self.runs, self.switches, self.python = options.runs, options.switch, options.python
        self.drift, self.train = list(drift), list(train)
        self.folder = self.run / "drift"

    @property
    def ask(self) -> list[str]:
        """The command that compares."""
        return [self.python, "-m", "jaxfm.drift", f"--workdir={self.run}", *self.drift]

    def again(self, workdir: pathlib.Path) -> list[str]:
        """Returns the command that trains."""
        given = any(re.match(rf"{_INIT}(=|$)", flag) for flag in self.train)
        init = [] if given else [f"{_INIT}=run:{self.run}"]
        return [self.python, "-m", "jaxfm.train", *self.train, *init, f"--workdir={workdir}"]

    def __call__(self) -> int:
        """Does what is due; returns the exit code."""
        before = self._read()
        if before is not None and not before["done"]:
            print(f"drift_watch.py: going on with {before['run']}", flush=True)
            return self._train(pathlib.Path(before["run"]))
        code = call(self.ask)
        if code != AGAIN or not self.train:
            return code
        if before is not None:
            print(
                f"drift_watch.py: {self.run} has been trained again already, as {before['run']}. Look at that one, and "
                "name it by --run.",
                flush=True,
            )
            return LOOK
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        return self._train(self.runs / stamp)

    def _train(self, workdir: pathlib.Path) -> int:
        if not self.train:
            print("drift_watch.py: a training was begun, but no flags of one are given after --.", file=sys.stderr)
            return USER_MISTAKE
        self._write(workdir, done=False)
        code = call(self.again(workdir))
        if code == USER_MISTAKE:  # the same command would end so again; with other flags it is another training
            (self.folder / STATE).unlink()
        if code == 0:
            self._write(workdir, done=True)
            print(f"drift_watch.py: trained again: {workdir}", flush=True)
            if self.switches:
                switch(self.link, workdir.resolve())
        return code

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / STATE
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(values["run"], str) and isinstance(values["done"], bool):
                return values
        except (ValueError, KeyError, TypeError):
            pass
        raise local.MistakeError(f"{path}: is not a file of this script. Delete it to begin anew.")

    def _write(self, workdir: pathlib.Path, *, done: bool) -> None:
        path = self.folder / STATE
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps({"run": str(workdir), "done": done}), encoding="utf-8")
        os.replace(part, path)


def switch(link: pathlib.Path, target: pathlib.Path) -> None:
    """Sets a link to another directory in one step: nobody finds it missing."""
    new = link.with_name(f".{link.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    new.symlink_to(target)
    os.replace(new, link)


def call(command: Sequence[str]) -> int:
    """Runs a command and returns its exit code; SIGTERM and Ctrl-C are passed on, so that a training saves itself."""
    child = subprocess.Popen(command)

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def alone(folder: pathlib.Path) -> Iterator[bool]:
    """Yields whether no other call is at work; the lock goes with this process, however that ends."""
    folder.mkdir(exist_ok=True)
    with open(folder / LOCK, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def parse(arguments: Sequence[str]) -> Watch:
    """Reads the command line. Raises local.MistakeError."""
    own, *rest = parts(arguments)
    parser = local.make_parser(
        "launch/drift_watch.py",
        "Compares new data with those of a run, and trains again where that is due.",
        "launch/drift_watch.py --run=DIR [options] -- flags of jaxfm.drift [-- flags of jaxfm.train]",
    )
    parser.add_argument("--run", type=pathlib.Path, required=True, help="a run directory, or a link to one")
    parser.add_argument("--runs", type=pathlib.Path, help="where new runs are made: RUNS/TIME")
    parser.add_argument("--switch", action="store_true", help="set the link --run to the new run once it is trained")
    parser.add_argument("--python", default=sys.executable, help="the interpreter (default: the one that runs this)")
    options = parser.parse_args(own)
    if len(rest) > 2:
        raise local.MistakeError("--: stands twice at most, before the flags of jaxfm.drift and of jaxfm.train")
    drift, train = (rest + [[], []])[:2]
    check(options, drift, train)
    if not (options.run / "config.json").is_file():
        raise local.MistakeError(f"--run={options.run}: holds no run of jaxfm")
    return Watch(options, drift, train)


def check(options: argparse.Namespace, drift: Sequence[str], train: Sequence[str]) -> None:
    """Raises local.MistakeError for flags that do not go together; `options` has `run`, `runs` and `switch`."""
    if not any(re.match("--data=.", flag) for flag in drift):
        raise local.MistakeError("the flags of jaxfm.drift, after --, need --data=FILE or --data=URI")
    for name, flags in (("jaxfm.drift", drift), ("jaxfm.train", train)):
        if any(re.match("--workdir(=|$)", flag) for flag in flags):
            raise local.MistakeError(
                f"--workdir: is not one of the flags of {name} here; it is said by --run and --runs"
            )
    if train and not options.runs:
        raise local.MistakeError("--runs: is missing, the folder in which new runs are made")
    if options.switch and not train:
        raise local.MistakeError("--switch: sets --run to a new run, and no flags of a training are given")


def parts(arguments: Sequence[str]) -> list[list[str]]:
    """Returns the words before the first --, and those after each."""
    found: list[list[str]] = [[]]
    for word in arguments:
        if word == "--":
            found.append([])
        else:
            found[-1].append(word)
    return found


def main(arguments: Sequence[str]) -> int:
    """Runs the script; returns its exit code."""
    try:
        watch = parse(arguments)
        if watch.switches and not watch.link.is_symlink():
            raise local.MistakeError(f"--switch: --run={watch.link} is not a link (ln -s RUN {watch.link})")
        with alone(watch.folder) as free:
            if not free:
                print(f"drift_watch.py: another call is at work on {watch.run}")
                return 0
            return watch()
    except local.MistakeError as error:
        print(f"drift_watch.py: {error}\nRun launch/drift_watch.py --help for the usage.", file=sys.stderr)
        return USER_MISTAKE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

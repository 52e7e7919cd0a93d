"""Seconds from starting a run to the end of its first step: with empty caches, and again with what that start left.

  python -m profiles.start --config=configs/ner.py --output=FILE.json [--config.KEY=VALUE ...]

Runs `jaxfm.train` in a separate process, in a new folder each time, with a cache folder that is empty the first time,
and ends it when it has printed that step 1 is done. The files that the run reads are in the system's cache if they fit.
"""

import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

from jaxfm import files
from jaxfm.errors import UserError
from profiles import command_line
from profiles.quality import machine, shown_command

MARK = "step 1/"


def seconds_until(mark: str, command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Starts a process, waits for the first line with `mark`, and ends it; returns the seconds until that line.

    Raises:
      UserError: the process ended without that line; the message has its last lines.
    """
    start, lines = time.perf_counter(), []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(environment)
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if mark in line:
                found = time.perf_counter() - start
                process.kill()
                return found
            lines.append(line)
    raise UserError(f"{shlex.join(command)} ended without {mark!r}:\n{''.join(lines[-5:])}")


def measure(command: Sequence[str], repeats: int) -> dict[str, list[float]]:
    """Returns seconds to the first step: of one start with empty caches, of `repeats` after it."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"XDG_CACHE_HOME": folder, "PYTHONUNBUFFERED": "1"}
        seconds = [
            round(seconds_until(MARK, [*command, f"--workdir={folder}/run{number}"], environment), 2)
            for number in range(1 + repeats)
        ]
    return {"empty caches": seconds[:1], "again": seconds[1:]}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes the JSON and prints a table."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--config", required=True, help="as of jaxfm.train")
    parser.add_argument("--repeats", type=int, default=3, help="starts with the caches that the first one left")
    parser.add_argument("--output", required=True, help="JSON file of results")
    arguments, changes = command_line.parse(parser, argv)
    if arguments.repeats < 1:
        raise UserError(f"--repeats={arguments.repeats}: must be at least 1.")
    settings = ["--config.log.every_steps=1", *changes]
    command = [sys.executable, "-m", "jaxfm.train", f"--config={arguments.config}", *settings]
    found = measure(command, arguments.repeats)
    files.write_json(arguments.output, {"command": shown_command(sys.argv), **machine(), "seconds": found})
    print("| caches | seconds to the first step: median (least to most) |\n|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f}) |")


if __name__ == "__main__":
    command_line.run(main)

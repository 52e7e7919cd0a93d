"""Gives hostile files to every reader of jaxfm, and keeps those that end in anything but a value or a clear error.

  python -m profiles.faults.fuzz --inputs=2000000 --seed=0 --output=profiles/results/faults_fuzz.json

An input is a valid file with some bytes or values changed (`profiles/faults/mutations.py`), a function of the seed,
the reader and its number alone, so that the same command finds the same. A reader (`readers.py`) may return a value or
raise `UserError` with the file in its message. A find is anything else: another exception, a warning, more than 5
seconds of processor time, runaway memory, the end of the process. Finds are written to --finds=DIR, made shorter, and
the program ends with code 1. Several processes work; files lie in memory (/dev/shm) where the system has that.
"""

import os
import pathlib
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.tables import Table, to_markdown
from profiles import command_line
from profiles.faults import trial
from profiles.faults.pool import Fuzz
from profiles.faults.readers import Reader, table
from profiles.quality import machine

_KEPT = 3  # inputs of the same fault


def counts_of(readers: Sequence[Reader], inputs: int) -> dict[str, int]:
    """Returns how many of all inputs each reader gets, by its share, at least one."""
    total = sum(reader.share for reader in readers)
    found = {reader.name: max(inputs * reader.share // total, 1) for reader in readers}
    largest = max(found, key=lambda name: found[name])
    found[largest] += max(inputs - sum(found.values()), 0)
    return found


def write_finds(fuzz: Fuzz, seed: int, folder: pathlib.Path) -> list[dict[str, Any]]:
    """Writes the inputs of finds, shortened, to DIR/READER/NAME; returns what the report says of each fault."""
    found = []
    for name, tally in sorted(fuzz.tallies.items()):
        for index, (signature, numbers) in enumerate(sorted(tally.finds.items())):
            kept = []
            for number in sorted(numbers)[:_KEPT]:
                data = trial.input_of(table()[name], seed, number)
                data = fuzz.shortened(name, data, signature) if number == min(numbers) else data
                path = folder / name / f"{index}_{number}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                kept.append(str(path.relative_to(folder)))
            found.append({"reader": name, "fault": signature, "inputs": len(numbers), "kept": kept})
            found[-1]["detail"] = tally.details[signature]
    return found


def report_of(fuzz: Fuzz, finds: Sequence[Mapping[str, Any]], seed: int, seconds: float) -> dict[str, Any]:
    """Returns what the JSON file says."""
    readers = {
        name: {
            "inputs": tally.inputs,
            "read": tally.read,
            "told": tally.told,
            "finds": tally.found,
            "inputs_per_second": round(tally.inputs / tally.seconds, 1) if tally.seconds else None,
        }
        for name, tally in sorted(fuzz.tallies.items())
    }
    return {
        "command": shlex.join(["python", "-m", "profiles.faults.fuzz", *sys.argv[1:]]),
        **machine(),
        "seed": seed,
        "inputs": sum(each["inputs"] for each in readers.values()),
        "finds": sum(each["finds"] for each in readers.values()),
        "seconds": round(seconds, 1),
        "peak_process_mib": round(fuzz.peak),
        "readers": readers,
        "faults": list(finds),
    }


def _chosen(names: Sequence[str]) -> list[Reader]:
    for name in names:
        if name not in table():
            raise UserError(f"--reader: {name!r} is not one of them. {did_you_mean(name, table())}")
    return [table()[name] for name in names or table()]


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--inputs", default="100000", metavar="N", help="of all readers together")
    parser.add_argument("--seed", default="0", metavar="N")
    parser.add_argument("--reader", action="append", default=[], metavar="NAME", help="again for more; else all")
    parser.add_argument("--processes", default=str(os.cpu_count() or 1), metavar="N")
    parser.add_argument("--finds", default="finds", metavar="DIR", help="where inputs of finds are written")
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON")
    arguments = command_line.parse_own(parser, argv)
    inputs, seed, processes = (
        command_line.integers(f"--{name}", [getattr(arguments, name)])[0] for name in ("inputs", "seed", "processes")
    )
    if inputs < 1 or processes < 1:
        raise UserError(f"--inputs={inputs} --processes={processes}: must be at least 1.")
    counts = counts_of(_chosen(arguments.reader), inputs)
    memory = pathlib.Path("/dev/shm")
    begun = shown = time.monotonic()
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as root:
        fuzz = Fuzz(seed, processes, pathlib.Path(root))
        try:
            for done in fuzz.run(counts):
                if time.monotonic() - shown > 5:
                    shown = time.monotonic()
                    found = sum(tally.found for tally in fuzz.tallies.values())
                    rate = done / (shown - begun)
                    print(
                        f"{done:,} of {sum(counts.values()):,} inputs, {rate:,.0f} a second, {found:,} finds",
                        flush=True,
                    )
            seconds = time.monotonic() - begun
            finds = write_finds(fuzz, seed, pathlib.Path(arguments.finds))
        finally:
            fuzz.close()
    report = report_of(fuzz, finds, seed, seconds)
    files.write_json(arguments.output, report)
    columns = ("inputs", "read", "told", "finds", "inputs_per_second")
    rows = [(name, *(each[column] for column in columns)) for name, each in report["readers"].items()]
    print(to_markdown(Table(f"{report['inputs']:,} inputs", ["reader", *columns], rows)))
    for fault in finds:
        print(f"{fault['reader']}: {fault['fault']} ({fault['inputs']:,} inputs, the first in {fault['kept'][0]})")
    sys.exit(1 if finds else 0)


if __name__ == "__main__":
    command_line.run(main)

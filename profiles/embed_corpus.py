"""Vectors of a large corpus: texts a second beside sentence-transformers, and memory against the number of texts.

  python -m profiles.embed_corpus --run=runs/embedding --words=../shared/data/snli-subset/train.tsv \
      --sizes=100000,1000000 --beside=20000 --output=profiles/results/embed_corpus.json

Texts are runs of 4 to 16 words drawn from the file --words. For each size `python -m jaxfm.predict` embeds them all in
a process of its own, whose resident memory is looked at ten times a second: its largest value of each quarter of the
time is shown, beside what texts and vectors take on disk. Then, in --turns turns, jaxfm (in one process, as a program
would) and profiles/st_encode.py embed the first --beside texts with the same weights, exported; programs are compiled,
and caches filled, before the clock starts.
"""

import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from profiles import command_line, quality

REFERENCE = pathlib.Path(__file__).with_name("st_encode.py")
_SAMPLE_SECONDS = 0.1
_QUARTERS = 4


def write_texts(words: Sequence[str], count: int, path: pathlib.Path) -> None:
    """Writes `count` texts, a line each; the first of a larger file are those of a smaller one."""
    draw = random.Random(0)
    with files.atomic_write(path) as file:
        for _ in range(count):
            file.write(" ".join(draw.choices(words, k=draw.randint(4, 16))) + "\n")


def quarters(samples: Sequence[float]) -> list[float]:
    """Returns the largest sample of each quarter of the time; UserError where there are fewer than four."""
    if len(samples) < _QUARTERS:
        raise UserError("The program ended before its memory could be looked at: take more texts.")
    return [max(part.tolist()) for part in np.array_split(np.asarray(samples), _QUARTERS)]


def embedded(run: pathlib.Path, texts: pathlib.Path, count: int, vectors: pathlib.Path) -> dict[str, Any]:
    """Embeds a file with the program; returns seconds, texts a second and memory in MiB."""
    command = [sys.executable, "-m", "jaxfm.predict", f"--workdir={run}", f"--input={texts}", f"--output={vectors}"]
    begun = time.monotonic()
    samples = []
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            try:
                samples.append(psutil.Process(process.pid).memory_info().rss / 2**20)
            except psutil.NoSuchProcess:  # it ended amid the sample
                break
            time.sleep(_SAMPLE_SECONDS)
        if process.wait():
            errors.seek(0)
            raise UserError(f"{' '.join(command)}: exit code {process.returncode}: {errors.read()[-500:].strip()}")
    seconds = time.monotonic() - begun
    found = np.load(vectors, mmap_mode="r")
    assert len(found) == count, f"{len(found)} vectors of {count} texts"
    return {
        "texts": count,
        "seconds": round(seconds, 1),
        "texts_per_s": round(count / seconds, 1),
        "resident_mib_of_quarters": [round(each) for each in quarters(samples)],
        "texts_mib": round(texts.stat().st_size / 2**20, 1),
        "vectors_mib": round(vectors.stat().st_size / 2**20, 1),
    }


def beside(
    run: pathlib.Path, texts: pathlib.Path, count: int, turns: int, workdir: pathlib.Path, precision: str
) -> dict[str, Any]:
    """Returns texts a second of both programs, in turns, and the largest difference of their vectors."""
    exported = workdir / "exported"
    if not exported.exists():
        export(run, exported)
    lines = texts.read_text(encoding="utf-8").splitlines()[:count]
    some = workdir / "some.txt"
    files.write_text(some, "".join(f"{line}\n" for line in lines))
    model = Model(run, precision=precision)
    ours = model.embed(lines)
    rates: dict[str, list[float]] = {"jaxfm": [], "reference": []}
    for _ in range(turns):
        begun = time.perf_counter()
        model.embed(lines)
        rates["jaxfm"].append(round(count / (time.perf_counter() - begun), 1))
        command = [str(REFERENCE), str(exported), str(some), str(workdir / "theirs.npy")]
        rates["reference"].append(quality.last_json(quality.watched_run(command))["texts_per_s"])
    theirs = np.load(workdir / "theirs.npy")
    ratios = [one / other for one, other in zip(rates["jaxfm"], rates["reference"], strict=True)]
    return {
        "texts": count,
        "precision": precision or "of the run",
        "texts_per_s": rates,
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(each, 3) for each in ratios],
        "largest_difference": float(np.abs(ours - theirs).max()),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--run", type=pathlib.Path, required=True, help="a run that gives vectors")
    parser.add_argument("--words", type=pathlib.Path, required=True, help="a text file")
    parser.add_argument("--sizes", default="100000,1000000", help="texts; empty: only --beside")
    parser.add_argument("--beside", type=int, default=20000, help="texts of the comparison; 0: none")
    parser.add_argument("--precision", default="", choices=("", "f32", "bf16"), help="of jaxfm in the comparison")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--workdir", type=pathlib.Path, default=None)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    if not arguments.words.is_file():
        raise UserError(f"--words={arguments.words}: no such file.")
    sizes = command_line.integers("--sizes", arguments.sizes.split(",")) if arguments.sizes else []
    workdir = arguments.workdir or pathlib.Path(f"runs/quality/{arguments.output.stem}")
    vocabulary = sorted(set(arguments.words.read_text(encoding="utf-8").split()))
    result: dict[str, Any] = {"command": quality.shown_command(sys.argv), **quality.machine(), "corpora": []}
    for size in sizes:
        texts = workdir / f"{size}.txt"
        write_texts(vocabulary, size, texts)
        result["corpora"].append(embedded(arguments.run, texts, size, workdir / f"{size}.npy"))
        print(result["corpora"][-1], flush=True)
    if arguments.beside:
        texts = workdir / "beside.txt"
        write_texts(vocabulary, arguments.beside, texts)
        result["beside"] = beside(arguments.run, texts, arguments.beside, arguments.turns, workdir, arguments.precision)
    files.write_json(arguments.output, result)
    rows = [
        (f"{each['texts']:,}", each["texts_per_s"], *each["resident_mib_of_quarters"], each["vectors_mib"])
        for each in result["corpora"]
    ]
    titles = ("texts", "texts/s", *(f"MiB, quarter {number}" for number in range(1, _QUARTERS + 1)), "vectors MiB")
    print(to_markdown(Table("Vectors of a corpus", titles, rows)))
    if arguments.beside:
        print({name: value for name, value in result["beside"].items()})


if __name__ == "__main__":
    command_line.run(main)

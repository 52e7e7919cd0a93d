"""What an export keeps of a run and how fast it is: entity F1, size, sentences a second of each format on the CPU.

  python -m profiles.export_formats --source=conll:../shared/data/wikigold \
      --output=profiles/results/export_wikigold.json

Trains configs/ner.py:files on the source into --workdir (a finished run is taken as it is), exports it as hf and as
onnx with int8, and scores the test split by jaxfm, by transformers + torch, and by onnxruntime, all on the same windows
and with the same scorer. Speed: the test sentences, tokenized before, as transformers' tokenizer pads them, in batches
of 1 and 16, by each program in turns (A B C A B C), on --threads threads; given is the median over the turns. "loaded"
in the result says that the machine had other work when the script started.
"""

import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.formats import onnx_files
from jaxfm.formats.inference import LOGITS, TYPES
from jaxfm.formats.quantisation import ALL, WIDENING, quantise, score
from jaxfm.formats.single_rows import Run
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.train import train
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training.saved_run import open_run
from profiles import command_line, quality

JAXFM, TORCH, ONNX = "jaxfm", "transformers + torch, f32", "onnxruntime, f32"
INT8 = {"onnxruntime, int8": ALL, "onnxruntime, int8 but narrowing products": WIDENING}
BATCHES = (1, 16)
SPLIT = "test"


def trained(source: str, workdir: pathlib.Path, changes: Sequence[str]) -> None:
    """Trains the shipped recipe for files into `workdir`, or resumes it; a finished run stays as it is."""
    from configs.ner import get_config

    values = get_config("files").to_dict()
    for word in changes:
        key, _, value = word.removeprefix("--config.").partition("=")
        *groups, name = key.split(".")
        group: Any = values
        for part in groups:
            group = group[part]
        group[name] = type(group[name])(value)
    values["data"]["source"] = source
    train(from_config_dict(values), workdir)


def torch_program(folder: pathlib.Path, threads: int) -> Run:
    """Returns the program that transformers opens."""
    import torch
    from transformers import AutoModelForTokenClassification

    torch.set_num_threads(threads)
    model: Any = AutoModelForTokenClassification.from_pretrained(folder).eval()

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # A family without types has none in its class either.
        typed = getattr(model.config, "type_vocab_size", 0) > 1
        given = {name: torch.from_numpy(array) for name, array in inputs.items() if typed or name != TYPES}
        with torch.inference_mode():
            return {LOGITS: model(**given).logits.numpy()}

    return run


def exported(workdir: pathlib.Path, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes hf, onnx and both files in 8 bits; returns the file with the weights of each program."""
    hf, onnx = folder / "hf", folder / "onnx"
    for format, target in (("hf", hf), ("onnx", onnx)):
        if not target.exists():
            export(workdir, target, format)
    model = onnx / onnx_files.FOLDER / onnx_files.MODEL
    found = {TORCH: hf / "model.safetensors", ONNX: model}
    for number, (name, extent) in enumerate(INT8.items()):
        found[name] = folder / f"int8_{number}.onnx"
        quantise(model, found[name], extent)
    return found


def scores(workdir: pathlib.Path, programs: Mapping[str, Run]) -> dict[str, float]:
    """Returns entity F1 of the test split in percent: of the run itself, and of each program in its place."""
    run = open_run(workdir)
    restored = run.restore(make_mesh(MeshConfig()), Build())
    model: Any = nnx.merge(restored.graphdef, restored.params)
    task = run.task(run.config.data.source, SPLIT)
    found = {JAXFM: evaluate(workdir, SPLIT).metrics["f1"]}
    for name, program in programs.items():
        found[name] = score(task, SPLIT, model, program, run.spec.encoder.padded_vocab_size)["f1"]
    return {name: round(100 * value, 2) for name, value in found.items()}


def batches(texts: Sequence[str], tokenizer: Any, size: int) -> list[dict[str, np.ndarray]]:
    """Returns the inputs of texts in their order, each batch padded to its longest."""
    parts = [list(texts[first : first + size]) for first in range(0, len(texts), size)]
    return [
        {
            name: array.astype(np.int64)
            for name, array in tokenizer(part, padding=True, truncation=True, return_tensors="np").items()
        }
        for part in parts
    ]


def speeds(programs: Mapping[str, Run], texts: Sequence[str], tokenizer: Any, turns: int) -> dict[str, dict[str, Any]]:
    """Returns sentences a second of each program and size of batch: the median over the turns, and every turn."""
    found: dict[str, dict[str, Any]] = {name: {} for name in programs}
    for size in BATCHES:
        inputs = batches(texts, tokenizer, size)
        rates: dict[str, list[float]] = {name: [] for name in programs}
        for turn in range(turns + 1):
            for name, program in programs.items():
                start = time.perf_counter()
                for batch in inputs:
                    program(batch)
                if turn:  # the first one warms up
                    rates[name].append(round(len(texts) / (time.perf_counter() - start), 1))
        for name, values in rates.items():
            found[name][f"batch_{size}"] = {"median": statistics.median(values), "turns": values}
    return found


def table(result: Mapping[str, Any]) -> Table:
    """Lays out the programs: score, size, sentences a second."""
    rows = [
        (
            name,
            entry["f1"],
            entry.get("megabytes"),
            *(entry["sentences_per_second"][f"batch_{size}"]["median"] if "megabytes" in entry else None
              for size in BATCHES),
        )
        for name, entry in result["programs"].items()
    ]  # fmt: skip
    columns = ("program", "F1", "MB", *(f"sentences/s, batch {size}" for size in BATCHES))
    return Table(
        "Exports", columns, rows, formats=dict.fromkeys(columns[1:3], ".1f") | dict.fromkeys(columns[3:], ".0f")
    )


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/export_formats"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--sentences", type=int, default=0, help="of which speed is measured, the first; 0: all")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments, changes = command_line.parse(parser, None)
    if arguments.turns < 1:
        raise UserError(f"--turns={arguments.turns}: must be at least 1.")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads spin else, which beside other work is slow
    load = os.getloadavg()[0]
    onnx_files.require_onnx("profiles.export_formats")
    trained(arguments.source, arguments.workdir / "run", changes)
    paths = exported(arguments.workdir / "run", arguments.workdir)
    programs: dict[str, Run] = {
        name: torch_program(path.parent, arguments.threads)
        if name == TORCH
        else onnx_files.Session(path, arguments.threads)
        for name, path in paths.items()
    }
    run = open_run(arguments.workdir / "run")
    found = scores(run.workdir, programs)
    texts = [
        " ".join(json.loads(line)["words"])
        for line in (run.workdir / "predictions" / f"{SPLIT}.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    texts = texts[: arguments.sentences or None]
    rates = speeds(programs, texts, load_tokenizer(paths[TORCH].parent), arguments.turns)
    result = {
        "command": quality.shown_command(sys.argv),
        **quality.machine(),
        "onnxruntime": __import__("onnxruntime").__version__,
        "loaded": load > 0.5,
        "load_before": round(load, 2),
        "threads": arguments.threads,
        "sentences": len(texts),
        "programs": {
            name: {"f1": value}
            | ({"megabytes": round(paths[name].stat().st_size / 1e6, 1), "sentences_per_second": rates[name]}
               if name in paths else {})
            for name, value in found.items()
        },
    }  # fmt: skip
    files.write_json(arguments.output, result)
    print(to_markdown(table(result)))


if __name__ == "__main__":
    command_line.run(main)

"""What rounded weights cost and give: score, size, sentences a second of every form, in jaxfm, onnxruntime and torch.

  python -m profiles.quantisation --source=tsv:../shared/data/sst2 --limit=4000 --seeds=0,1,2 \
      --output=profiles/results/quantisation_sst2.json
  python -m profiles.quantisation --source=tsv:../shared/data/trec --config.data.holdout=0.1 --seeds=0,1,2 \
      --output=profiles/results/quantisation_trec.json
  python -m profiles.quantisation --source=conll:../shared/data/wnut17 --seeds=0,1,2 \
      --output=profiles/results/quantisation_wnut17.json

For each seed a run of configs/classification.py:files (configs/ner.py:files where the source is conll) is trained, and
another one from it for --trained-epochs with rounded weights; finished runs in --workdir are taken as they are. Each is
rounded in every way by jaxfm.quantise, whatever it loses. "torch" is transformers with torch's dynamic int8. Scores are
of the test split, or of the validation split where there is none. Speed: that split's texts, the first --sentences of
them, 16 at a time, by each program in turns, on --threads threads (jaxfm: all), tokenization included in jaxfm alone;
given is the median over the turns.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

import jaxfm
from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.formats import onnx_files
from jaxfm.formats.inference import LOGITS, TYPES
from jaxfm.formats.quantisation import ALL, quantise, score
from jaxfm.formats.single_rows import Run
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training.saved_run import open_run
from profiles import command_line, quality

# Form -> what jaxfm.quantise is asked for, and whether onnxruntime has it.
FORMS: Mapping[str, tuple[dict[str, Any], bool]] = {
    "static, minmax": ({"method": "static", "calibration": "minmax"}, True),
    "static, percentile": ({"method": "static", "calibration": "percentile"}, False),
    "static, entropy": ({"method": "static", "calibration": "entropy"}, False),
    "dynamic": ({"method": "dynamic"}, False),
    "weights, 8 bits": ({"method": "weights"}, True),
    "weights, 4 bits": ({"method": "weights", "bits": 4}, True),
}
FLOATS, TRAINED = "floats", "static, trained"
BATCH = 16


def config_of(source: str, seed: int, changes: Sequence[str], folder: pathlib.Path, limit: int) -> Any:
    """Returns the config of a seed's run in floats."""
    from configs import classification, ner
    from profiles.classification_quality import data_set, read_from, write_data

    words = [word.removeprefix("--config.").partition("=") for word in changes]
    given: dict[str, str] = {key: text for key, _, text in words}
    if source.startswith("conll:"):
        values: Any = ner.get_config("files")
        values.data.source = source
    else:
        values = classification.get_config("files")
        data = dataclasses.replace(data_set(source), holdout=float(given.pop("data.holdout", 0)))
        examples = write_data(source, limit, folder / "data", data)
        read_from(values, folder / "data", data, pairs=examples[0].pair is not None)
    config = from_config_dict(values)
    kinds = {key: type(_value(config, key)) for key in given}
    return replaced(config, {**{key: kinds[key](text) for key, text in given.items()}, "seed": seed})


def _value(config: Any, key: str) -> Any:
    for part in key.split("."):
        if not hasattr(config, part):
            raise UserError(f"--config.{key}: there is no such key.")
        config = getattr(config, part)
    return config


def torch_int8(folder: pathlib.Path, threads: int) -> Run:
    """Returns the program of transformers' class with torch's dynamic int8."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    (name,) = files.read_json(folder / "config.json")["architectures"]
    plain: Any = getattr(transformers, name).from_pretrained(folder).eval()
    model: Any = torch.ao.quantization.quantize_dynamic(plain, {torch.nn.Linear}, dtype=torch.qint8)

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        typed = getattr(plain.config, "type_vocab_size", 0) > 1
        given = {name: torch.from_numpy(array) for name, array in inputs.items() if typed or name != TYPES}
        with torch.inference_mode():
            return {LOGITS: model(**given).logits.numpy()}

    return run


def runs_of(config: Any, folder: pathlib.Path, epochs: float) -> dict[str, pathlib.Path]:
    """Trains what is not finished; returns form -> run directory, and (form, onnx) -> file under "onnx: form"."""
    found = {FLOATS: folder / "floats"}
    train(config, found[FLOATS])
    changes: dict[str, Any] = {"model.init": f"run:{found[FLOATS]}", "adapt.quantise.bits": 8}
    if not config.train.steps:
        changes["train.epochs"] = epochs
    rounded = replaced(config, changes)
    train(rounded, folder / "trained_floats")
    every = {**FORMS, TRAINED: ({"method": "static"}, True)}
    for number, (form, (asked, in_onnx)) in enumerate(every.items()):
        source = folder / "trained_floats" if form == TRAINED else found[FLOATS]
        for format, is_made in (("run", True), ("onnx", in_onnx)):
            target = folder / f"form_{number}_{format}"
            if is_made and not target.exists():
                jaxfm.quantise(source, target, **asked, max_loss=1e9, format=format, sensitivity=False)
            if is_made:
                found[form if format == "run" else f"onnx: {form}"] = target
    for format in ("hf", "onnx"):
        if not (folder / format).exists():
            jaxfm.export(found[FLOATS], folder / format, format)
    dynamic = folder / "dynamic.onnx"
    if not dynamic.exists():
        quantise(folder / "onnx" / onnx_files.FOLDER / onnx_files.MODEL, dynamic, ALL)
    return found | {"hf": folder / "hf", "onnx: floats": folder / "onnx", "onnx: dynamic (its own)": dynamic}


def programs_of(paths: Mapping[str, pathlib.Path], threads: int) -> dict[str, Run]:
    """Returns the programs of onnxruntime and torch."""
    found: dict[str, Run] = {}
    for name, path in paths.items():
        if name.startswith("onnx: "):
            file = path if path.is_file() else path / onnx_files.FOLDER / onnx_files.MODEL
            found[name] = onnx_files.Session(file, threads)
    return found | {"torch: dynamic": torch_int8(paths["hf"], threads)}


def size_of(path: pathlib.Path) -> float:
    """Returns the megabytes of the weights: a file, or those of a directory that are larger than its tokenizer."""
    if path.is_file():
        return path.stat().st_size / 1e6
    names = ("*.safetensors", "onnx/*", "checkpoints/**/*")
    return sum(each.stat().st_size for name in names for each in path.glob(name) if each.is_file()) / 1e6


def speeds(calls: Mapping[str, Callable[[], Any]], count: int, turns: int) -> dict[str, float]:
    """Returns sentences a second of each call: the median over the turns, which the calls take one after another."""
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:  # the first one compiles
                rates[name].append(count / (time.perf_counter() - start))
    return {name: round(statistics.median(values), 1) for name, values in rates.items()}


def measured(paths: Mapping[str, pathlib.Path], arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns score, megabytes and sentences a second of each program of one seed."""
    run = open_run(paths[FLOATS])
    split = "test" if "test" in files.read_json(paths[FLOATS] / "report.json")["splits"] else "valid"
    metric, task = run.config.eval.metric, run.task(run.config.data.source, split)
    restored = run.restore(make_mesh(MeshConfig()), Build())
    model: Any = nnx.merge(restored.graphdef, restored.params)
    programs = programs_of(paths, arguments.threads)
    own = {name: path for name, path in paths.items() if not name.startswith("onnx: ") and name != "hf"}
    found = {name: {"score": jaxfm.evaluate(path, split).metrics[metric]} for name, path in own.items()}
    vocabulary = run.spec.encoder.padded_vocab_size
    found |= {name: {"score": score(task, split, model, each, vocabulary)[metric]} for name, each in programs.items()}
    lines = (paths[FLOATS] / "predictions" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[: arguments.sentences or None]]
    texts = [row["text"] if "text" in row else " ".join(row["words"]) for row in rows]
    tokenizer: Any = load_tokenizer(paths["hf"])
    inputs = [
        {name: array.astype(np.int64) for name, array in encoded.items()}
        for first in range(0, len(texts), BATCH)
        for encoded in [tokenizer(texts[first : first + BATCH], padding=True, truncation=True, return_tensors="np")]
    ]
    parts = [texts[first : first + BATCH] for first in range(0, len(texts), BATCH)]
    calls: dict[str, Callable[[], Any]] = {}
    for name, path in own.items():
        loaded = jaxfm.load(path)
        calls[name] = lambda loaded=loaded: [loaded(part) for part in parts]
    for name, program in programs.items():
        calls[name] = lambda program=program: [program(batch) for batch in inputs]
    rates = speeds(calls, len(texts), arguments.turns)
    return {
        name: {
            "score": round(100 * values["score"], 2),
            **({} if name.startswith("torch") else {"megabytes": round(size_of(paths[name]), 1)}),
            "sentences_per_second": rates[name],
        }
        for name, values in found.items()
    }


def table(result: Mapping[str, Any]) -> Table:
    """Lays out the programs: mean score over the seeds and its spread, size, speed of the first seed."""
    first, *_ = result["seeds"].values()
    rows = []
    for name, values in first.items():
        scores = [each[name]["score"] for each in result["seeds"].values()]
        spread = statistics.stdev(scores) if len(scores) > 1 else None
        rows.append((name, statistics.mean(scores), spread, values.get("megabytes"), values["sentences_per_second"]))
    columns = ("program", "score", "sd", "MB", "sentences/s")
    return Table("Rounded weights", columns, rows, formats=dict.fromkeys(columns[1:4], ".1f") | {columns[4]: ".0f"})


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--workdir", type=pathlib.Path, help="runs/quantisation/NAME of --output, if not given")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--limit", type=int, default=0, help="training examples of classification; 0: all")
    parser.add_argument("--trained-epochs", type=float, default=1.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=200)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments, changes = command_line.parse(parser, None)
    if arguments.turns < 1:
        raise UserError(f"--turns={arguments.turns}: must be at least 1.")
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads spin else, which beside other work is slow
    load = os.getloadavg()[0]
    onnx_files.require_onnx("profiles.quantisation")
    home = arguments.workdir or pathlib.Path("runs/quantisation") / arguments.output.stem
    found: dict[str, Any] = {}
    for seed in seeds:
        folder = home / f"seed_{seed}"
        config = config_of(arguments.source, seed, changes, folder, arguments.limit)
        found[str(seed)] = measured(runs_of(config, folder, arguments.trained_epochs), arguments)
        result = {
            "command": quality.shown_command(sys.argv),
            **quality.machine(),
            "onnxruntime": __import__("onnxruntime").__version__,
            "torch": __import__("torch").__version__,
            "load_before": round(load, 2),
            "threads": arguments.threads,
            "seeds": found,
        }
        files.write_json(arguments.output, result)
    print(to_markdown(table(result)))


if __name__ == "__main__":
    command_line.run(main)

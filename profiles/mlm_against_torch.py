"""Masked-LM training steps of jaxfm and of transformers + torch on this machine's device, in turns: tokens/s and ratio.

  python -m profiles.mlm_against_torch --config=configs/mlm.py:bert_base --config.data.row_length=128 \
      --config.train.batch_size=256 --output=FILE.json [--turns=2] [--torch="--no-compile"] [--config.KEY=VALUE ...]

Each turn is a separate process, so that each program has the whole device: `profiles.throughput` on full rows, then
`profiles/hf_mlm.py` on the same number of rows of a model of the same shape, A B A B. jaxfm's masks are drawn in its
step, torch's once before. Medians of all timed steps; the spread of the ratio is that of turns. Needs torch.
"""

import json
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.hub.config_json import hf_config
from jaxfm.training import initial
from profiles import command_line
from profiles.quality import last_json, machine, shown_command
from profiles.steps import read_config

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(command: Sequence[str]) -> str:
    """Runs a command from the repository's root; returns what it printed."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def jaxfm_turn(file: str, changes: Sequence[str], options: Sequence[str], folder: pathlib.Path) -> dict[str, Any]:
    """Runs one turn of jaxfm; returns its record."""
    output = folder / "jaxfm.json"
    run(["-m", "profiles.throughput", f"--config={file}", f"--output={output}", *options, *changes])
    result = files.read_json(output)
    (point,) = result["points"]
    if "error" in point:
        raise UserError(f"{file}: {point['error']}; give a smaller --config.train.batch_size.")
    return {"device": result["device_kind"], **point}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, writes the JSON, prints rates and ratio."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--torch", default="", help="more options of profiles/hf_mlm.py")
    parser.add_argument("--output", required=True)
    arguments, changes = command_line.parse(parser, argv)
    config = read_config(arguments.config, changes)
    encoder, _ = initial.shape(config.model)
    length, rows = config.data.row_length, config.train.batch_size
    timing = [f"--steps={arguments.steps}", f"--warm-up={arguments.warm_up}"]
    turns: dict[str, list[dict[str, Any]]] = {"jaxfm": [], "torch": []}
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder)
        files.write_json(model / "config.json", hf_config(encoder, head="vocabulary", pad_token_id=0, labels=()))
        reference = ["profiles/hf_mlm.py", folder, f"--batch={rows}", f"--row-length={length}"]
        for _ in range(arguments.turns):
            turns["jaxfm"].append(jaxfm_turn(arguments.config, changes, timing, model))
            turns["torch"].append(last_json(run([*reference, *timing, *shlex.split(arguments.torch)])))
    tokens = rows * length
    ours = [turn["tokens_per_second"] for turn in turns["jaxfm"]]
    theirs = [tokens / statistics.median(turn["seconds"]) for turn in turns["torch"]]
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    result = {
        "command": shown_command(sys.argv),
        **machine(),
        "tokens_per_second": {"jaxfm": statistics.median(ours), "torch": statistics.median(theirs)},
        "ratio": statistics.median(ours) / statistics.median(theirs),
        "ratio_of_turns": [min(ratios), max(ratios)],
        "turns": turns,
    }
    files.write_json(arguments.output, result)
    print(json.dumps({key: result[key] for key in ("tokens_per_second", "ratio", "ratio_of_turns")}))


if __name__ == "__main__":
    command_line.run(main)

"""Masked-LM pretraining speed of jaxfm and of transformers' BertForMaskedLM on the same batches, in turns: tokens/s.

  python -m profiles.mlm_speed --source=text:DIR --preset=bert_mini --output=profiles/results/mlm_speed.json

Every step of both sees the same packed rows; transformers gets each packed example as a sequence of its own (it knows
no packing), padded to the longest. A token is a piece or a special token, never padding. A turn is some steps of each
program, one after the other, in f32 and in bf16 (jaxfm's own; torch.autocast); rates are of the median step, without
data and masks drawn on the host (transformers) and with masks drawn in the step (jaxfm). Needs torch.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.data.pipeline import TrainBatches
from jaxfm.parallel.host_memory import keep_freed_memory
from profiles.mlm_convergence import TorchPretraining, make_config
from profiles.quality import machine, shown_command
from profiles.steps import TimedStep, Work

BATCHES = 4
STEPS = 1000  # of schedules, which need a number


class TimedTorch:
    """A torch trainer, its batches, and the seconds of each update."""

    def __init__(self, pretraining: TorchPretraining, batches: list[dict[str, np.ndarray]]):
        """Draws the masks of each batch once: they are not timed."""
        self.pretraining = pretraining
        self.batches = [pretraining.batch(rows) for rows in batches]
        self.seconds: list[float] = []

    def run(self, steps: int) -> None:
        """Times some updates."""
        for index in range(steps):
            start = time.perf_counter()
            self.pretraining.step(self.batches[index % len(self.batches)])
            self.seconds.append(time.perf_counter() - start)


def summary(seconds: list[float], tokens: float, warm_up: int) -> dict[str, Any]:
    """Returns the rate of the median step, and those of the slower and of the faster quarter."""
    slow, middle, fast = statistics.quantiles((tokens / s for s in seconds[warm_up:]), n=4)
    return {"tokens_per_second": round(middle), "quartiles": [round(slow), round(fast)], "steps": len(seconds)}


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, help="text:DIR with train and valid files")
    parser.add_argument("--preset", default="bert_mini")
    parser.add_argument("--batch", type=int, default=16, help="rows of 128 tokens an update")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8, help="updates of each program a turn")
    parser.add_argument("--cache", default="", help="where prepared text is kept")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    keep_freed_memory()
    settings = argparse.Namespace(**vars(arguments), seed=0, learning_rate=1e-3, epochs=1.0)
    config = make_config(settings)
    work = Work.of_data(config)
    stream = TrainBatches(work.rows, batch_size=config.train.batch_size, seed=config.seed)
    rows = [stream.batch(index) for index in range(BATCHES)]
    programs: dict[str, TimedStep | TimedTorch] = {}
    for precision in ("f32", "bf16"):
        train = dataclasses.replace(config.train, precision=precision, steps=STEPS)
        ours = TimedStep(dataclasses.replace(config, train=train), work, batches=BATCHES)
        theirs = TorchPretraining(config, work.objective, STEPS, bf16=precision == "bf16")
        programs |= {f"jaxfm {precision}": ours, f"transformers {precision}": TimedTorch(theirs, rows)}
    for turn in range(arguments.turns):
        for name, program in programs.items():
            program.run(arguments.steps)
            print(
                f"turn {turn}: {name} {1e3 * statistics.median(program.seconds[-arguments.steps :]):.0f} ms", flush=True
            )
    tokens = work.rows.useful_share * config.train.batch_size * config.data.row_length
    rates = {name: summary(program.seconds, tokens, arguments.steps) for name, program in programs.items()}
    base = rates["transformers f32"]["tokens_per_second"]
    result = {
        "command": shown_command(sys.argv),
        **machine(),
        "settings": {"preset": arguments.preset, "rows": arguments.batch, "row_length": config.data.row_length},
        "useful_tokens_per_step": round(tokens),
        "programs": rates,
        "against_transformers_f32": {name: round(rate["tokens_per_second"] / base, 2) for name, rate in rates.items()},
    }
    files.write_json(arguments.output, result)
    print(json.dumps(result["against_transformers_f32"]))


if __name__ == "__main__":
    main()

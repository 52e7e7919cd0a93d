"""Uses a trained model: `python -m jaxfm.predict --workdir=runs/ner "Ada met Charles in London." [more texts ...]`,
or a line at a time, in bounded memory: `--input=FILE --output=OUT.jsonl`.
"""

import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from jaxfm import files, program
from jaxfm.config import MeshConfig
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks import registry
from jaxfm.training import workdir as workdirs
from jaxfm.training.evaluation import Evaluator, whole_batches
from jaxfm.training.restore import restore_params
from jaxfm.training.setup import compute_dtype

USAGE = 'usage: python -m jaxfm.predict --workdir=DIR ("TEXT" ... | --input=FILE --output=FILE.jsonl)'


class Model:
    """A trained run, loaded: call it with texts as often as you like."""

    def __init__(self, workdir: str | pathlib.Path):
        """Restores the run's chosen checkpoint; UserError when there is none."""
        workdir = pathlib.Path(workdir)
        self._predictor = registry.open_predictor(workdir)
        config = workdirs.read_config(workdir)
        self._mesh = make_mesh(MeshConfig())
        dtype = compute_dtype(config.train.precision)
        self._graphdef, self._params, self.step = restore_params(
            workdir, lambda rngs: self._predictor.make_model(rngs, dtype=dtype), self._mesh
        )
        self._batch_size = config.eval.batch_size
        # One compiled function a batch size: small calls must not pay for a large batch.
        self._evaluators: dict[int, Evaluator] = {}

    def __call__(self, texts: Iterable[str]) -> list[dict[str, Any]]:
        """Returns one result a text; for NER {"text", "entities": [{"type", "text", "start", "end", "score"}]}."""
        return list(self.stream({"text": text} for text in texts))

    def stream(self, records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yields one result a record ({"text": ...}), in order, holding as many at a time as the predictor says."""
        iterator = iter(records)
        while chunk := list(itertools.islice(iterator, self._predictor.records_at_once)):
            yield from self._predict(chunk)

    def lines(self, result: Mapping[str, Any]) -> list[str]:
        """Returns a result as lines for a person."""
        return self._predictor.lines(result)

    def _predict(self, chunk: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        encoded = self._predictor.encode(chunk)
        size = whole_batches(self._batch_size, max(len(encoded.rows), 1), self._mesh)
        if size not in self._evaluators:
            self._evaluators[size] = Evaluator(self._predictor.outputs, self._graphdef, self._mesh, size)
        return self._predictor.decode(encoded, self._evaluators[size](self._params, encoded.rows))


def predict(workdir: str | pathlib.Path, texts: Iterable[str]) -> list[dict[str, Any]]:
    """Returns one result a text with the model of a run; to call again and again, keep a `Model`."""
    return Model(workdir)(texts)


def predict_file(
    workdir: str | pathlib.Path,
    source: str | pathlib.Path,
    output: str | pathlib.Path,
    progress: Progress | None = None,
) -> int:
    """Writes one JSON result a line of `source` to `output`, whole or not at all; returns the number of lines.

    Args:
      workdir: a run directory.
      source: a text a line, or, where its name ends in .jsonl, an object with "text" a line. UTF-8.
      output: JSON lines, in the order of the input; an empty line gives a result without findings.
      progress: where to show how far it is.

    Raises:
      UserError: a line that cannot be read (file:line), no run or checkpoint.
    """
    source = pathlib.Path(source)
    if not source.is_file():
        raise UserError(f"--input={source}: there is no such file.")
    model = Model(workdir)
    progress = progress or Progress(0)
    count = 0
    with progress, progress.task(f"reading {source.name} (bytes)", source.stat().st_size) as advance:
        with files.atomic_write(output) as file:
            for result in model.stream(_read(source, advance)):
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
                count += 1
    return count


def _read(source: pathlib.Path, advance: Any) -> Iterator[dict[str, str]]:
    with source.open("rb") as file:
        for number, line in enumerate(file, start=1):
            advance(len(line))
            try:
                text = line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{source}:{number}: byte {error.start + 1} is not UTF-8.") from error
            yield _record(text, f"{source}:{number}") if source.suffix == ".jsonl" else {"text": text}


def _record(line: str, origin: str) -> dict[str, str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{origin}: is not JSON ({error.msg} at character {error.pos + 1}).") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        there = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise UserError(f'{origin}: needs an object with a string "text" (found: {there or "nothing"}).')
    return {"text": record["text"]}


def main(texts: Sequence[str]) -> None:
    """The program."""
    values = flags.FLAGS
    if values.workdir is None:
        raise UserError(f"--workdir is missing.\n{USAGE}")
    if bool(texts) == bool(values.input) or bool(values.input) != bool(values.output):
        raise UserError(f"give either texts, or both --input and --output.\n{USAGE}")
    if values.input:
        count = predict_file(values.workdir, values.input, values.output)
        print(f"written: {values.output} ({count:,} lines)")
        return
    model = Model(values.workdir)
    for result in model(texts):
        print("\n".join(model.lines(result)))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "A run directory.")
    flags.DEFINE_string("input", None, "A text a line, or .jsonl with a field text.")
    flags.DEFINE_string("output", None, "JSON lines to write.")
    program.run(main, USAGE, takes_arguments=True)

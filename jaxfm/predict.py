"""Uses a trained model: `python -m jaxfm.predict --workdir=runs/ner "Ada met Charles in London." [more texts ...]`,
or a line at a time, in bounded memory: `--input=FILE --output=OUT.jsonl`. Where a model judges pairs of texts, the
second one follows behind a tab, or as --pair.
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
from jaxfm.tasks.tagger import WORDS, with_words
from jaxfm.tasks.task import Predictor
from jaxfm.training import workdir as workdirs
from jaxfm.training.evaluation import Evaluator, whole_batches
from jaxfm.training.restore import restore_params
from jaxfm.training.setup import compute_dtype

USAGE = 'usage: python -m jaxfm.predict --workdir=DIR ("TEXT" ... [--pair="TEXT"] | --input=FILE --output=FILE.jsonl)'


class Model:
    """A trained run, loaded: call it with texts as often as you like."""

    def __init__(self, workdir: str | pathlib.Path, words: str = "run"):
        """Restores the run's chosen checkpoint; UserError when there is none. `words`: see `--words`."""
        workdir = pathlib.Path(workdir)
        self._predictor: Predictor = with_words(registry.open_predictor(workdir), words)
        config = workdirs.read_config(workdir)
        self._mesh = make_mesh(MeshConfig())
        dtype = compute_dtype(config.train.precision)
        self._graphdef, self._params, self.step = restore_params(
            workdir, lambda rngs: self._predictor.make_model(rngs, dtype=dtype), self._mesh
        )
        self._batch_size = config.eval.batch_size
        # One compiled function a batch size: small calls must not pay for a large batch.
        self._evaluators: dict[int, Evaluator] = {}

    @property
    def pairs(self) -> bool:
        """Whether it judges pairs of texts."""
        return self._predictor.pairs

    def __call__(self, texts: Iterable[str | tuple[str, str]]) -> list[dict[str, Any]]:
        """Returns one result a text, or a pair of texts where the model judges pairs.

        NER: {"text", "entities": [{"type", "text", "start", "end", "score"}]}; classification: {"text", "label", ...}.
        """
        return list(
            self.stream(
                {"text": text} if isinstance(text, str) else {"text": text[0], "pair": text[1]} for text in texts
            )
        )

    def stream(self, records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yields one result a record ({"text": ...} or with "pair"), in order, as many at a time as the task says."""
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


def predict(workdir: str | pathlib.Path, texts: Iterable[str | tuple[str, str]]) -> list[dict[str, Any]]:
    """Returns one result a text with the model of a run; to call again and again, keep a `Model`."""
    return Model(workdir)(texts)


def predict_file(
    workdir: str | pathlib.Path,
    source: str | pathlib.Path,
    output: str | pathlib.Path,
    progress: Progress | None = None,
    words: str = "run",
) -> int:
    """Writes one JSON result a line of `source` to `output`, whole or not at all; returns the number of lines.

    Args:
      workdir: a run directory.
      source: a text a line (a pair of texts: a tab between them), or, where its name ends in .jsonl, an object with
        "text" (and "pair") a line. UTF-8.
      output: JSON lines, in the order of the input; an empty line gives a result without findings.
      progress: where to show how far it is.
      words: see `--words`.

    Raises:
      UserError: a line that cannot be read (file:line), no run or checkpoint.
    """
    source = pathlib.Path(source)
    if not source.is_file():
        raise UserError(f"--input={source}: there is no such file.")
    model = Model(workdir, words)
    progress = progress or Progress(0)
    count = cut = 0
    with progress, progress.task(f"reading {source.name} (bytes)", source.stat().st_size) as advance:
        with files.atomic_write(output) as file:
            for result in model.stream(_read(source, advance, pairs=model.pairs)):
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
                count += 1
                cut += "truncated" in result
        if cut:
            progress.say(f'NOTE: {cut:,} of {count:,} texts are longer than the model reads ("truncated": true)')
    return count


def _read(source: pathlib.Path, advance: Any, *, pairs: bool) -> Iterator[dict[str, str]]:
    with source.open("rb") as file:
        for number, line in enumerate(file, start=1):
            advance(len(line))
            try:
                text = line.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise UserError(f"{source}:{number}: byte {error.start + 1} is not UTF-8.") from error
            origin = f"{source}:{number}"
            yield _record(text, origin) if source.suffix == ".jsonl" else _line(text, origin, pairs=pairs)


def _line(line: str, origin: str, *, pairs: bool) -> dict[str, str]:
    """Returns the record of a line of text, cut at its tab where pairs are meant."""
    if not pairs:
        return {"text": line}
    texts = line.split("\t")
    if len(texts) != 2:
        raise UserError(f"{origin}: has {len(texts) - 1} tabs; this model judges pairs of texts, one tab between them.")
    return {"text": texts[0], "pair": texts[1]}


def _record(line: str, origin: str) -> dict[str, str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{origin}: is not JSON ({error.msg} at character {error.pos + 1}).") from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        there = ", ".join(record) if isinstance(record, dict) else type(record).__name__
        raise UserError(f'{origin}: needs an object with a string "text" (found: {there or "nothing"}).')
    if not isinstance(record.get("pair", ""), str):
        raise UserError(f'{origin}: "pair" must be a string.')
    return {name: record[name] for name in ("text", "pair") if name in record}


def main(texts: Sequence[str]) -> None:
    """The program."""
    values = flags.FLAGS
    if values.workdir is None:
        raise UserError(f"--workdir is missing.\n{USAGE}")
    if bool(texts) == bool(values.input) or bool(values.input) != bool(values.output):
        raise UserError(f"give either texts, or both --input and --output.\n{USAGE}")
    if values.input:
        count = predict_file(values.workdir, values.input, values.output, words=values.words)
        print(f"written: {values.output} ({count:,} lines)")
        return
    if values.pair is not None and len(texts) != 1:
        raise UserError(f"--pair: belongs to one text, but there are {len(texts)}.\n{USAGE}")
    model = Model(values.workdir, values.words)
    records = [
        _line(text, f"text {number}", pairs=model.pairs and values.pair is None)
        for number, text in enumerate(texts, start=1)
    ]
    for result in model.stream(record | ({} if values.pair is None else {"pair": values.pair}) for record in records):
        print("\n".join(model.lines(result)))


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "A run directory.")
    flags.DEFINE_string("input", None, "A text a line, or .jsonl with a field text.")
    flags.DEFINE_string("output", None, "JSON lines to write.")
    flags.DEFINE_enum(
        "words",
        WORDS[0],
        WORDS,
        "NER: words of a text as in the run's training, or as transformers' pipeline has them.",
    )
    flags.DEFINE_string("pair", None, "The second text, for a model that judges pairs.")
    program.run(main, USAGE, takes_arguments=True)

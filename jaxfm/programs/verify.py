"""Compares two models on real sentences: `python -m jaxfm.verify A B [--input=FILE.txt] [--tolerance=1e-4]`.

Each is a run directory, a directory of transformers, ONNX or StableHLO, an .onnx file, or a URI (run:, dir:, hf:,
package:). The exit code is 1 where states or logits differ by more than --tolerance.
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import flags

import jaxfm.data
from jaxfm import files
from jaxfm.data.records.source_unlabelled import Wanted, read_unlabelled
from jaxfm.errors import UserError
from jaxfm.formats.comparison import Comparison, compare
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.writers import to_json
from jaxfm.programs import plugins, program
from jaxfm.programs.verify_sides import open_side

USAGE = "usage: python -m jaxfm.verify A B [--input=FILE] [--tolerance=1e-4] [--output=FILE.json]"
TOLERANCE = 1e-4
EXIT_DIFFERENT = 1
_SENTENCES = pathlib.Path(jaxfm.data.__file__).parent / "sentences.txt"


def verify(a: str, b: str, texts: Sequence[str] | None = None) -> Comparison:
    """Compares two models on texts: states, logits and predictions.

    Args:
      a: what `verify_sides.open_side` opens.
      b: the other one.
      texts: single texts; None: twenty sentences that come with jaxfm.

    Raises:
      UserError: one of them cannot be opened, or they have nothing to compare; no text.
    """
    texts = sentences() if texts is None else [text for text in texts if text.strip()]
    if not texts:
        raise UserError("--input: has no text.")
    with libraries_quieted():
        return compare(open_side(a), open_side(b), texts)


def sentences() -> list[str]:
    """Returns the sentences that come with jaxfm: twenty, mostly English, with names, numbers, code and marks."""
    return _SENTENCES.read_text(encoding="utf-8").splitlines()


def main(arguments: list[str]) -> None:
    """The program."""
    values = flags.FLAGS
    if len(arguments) != 2:
        raise UserError(f"{len(arguments)} models are named, but two are compared.\n{USAGE}")
    if not values.tolerance >= 0:
        raise UserError(f"--tolerance={values.tolerance}: must be 0 or more.")
    output = None if values.output is None else files.output_file(values.output, "--output")
    texts = None
    if values.input is not None:
        records = read_unlabelled(files.user_path(values.input, "--input"), Wanted())
        texts = [str(record["text"]) for record in records]
    found = verify(arguments[0], arguments[1], texts)
    progress = Progress(None)
    progress.table(found.table(f"{arguments[0]} | {arguments[1]}"))
    for line in report(found, values.tolerance):
        print(line)
    if output is not None:
        asked = {"a": arguments[0], "b": arguments[1], "tolerance": values.tolerance}
        files.write_json(output, to_json(asked | {"within": found.within(values.tolerance)} | _dict(found)))
    if not found.within(values.tolerance):
        sys.exit(EXIT_DIFFERENT)


def report(found: Comparison, tolerance: float) -> list[str]:
    """Returns what there is to say beside the table."""
    lines = [f"NOTE: {note}" for note in found.notes]
    if found.predictions:
        lines.append(f"predictions: {found.agreeing:,} of {found.predictions:,} {found.unit} agree")
    lines += [f"  {line}" for line in found.differing]
    within = found.within(tolerance)
    return [*lines, f"{'equal' if within else 'DIFFERENT'}: --tolerance={tolerance:g}"]


def _dict(found: Comparison) -> dict[str, object]:
    differences = [vars(each) for each in found.differences]
    names = ("agreeing", "predictions", "unit", "differing", "notes")
    return {"differences": differences, **{name: getattr(found, name) for name in names}}


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("input", None, "Texts to compare on; without it the sentences that come with jaxfm.")
    flags.DEFINE_string("output", None, "A JSON file for the result.")
    flags.DEFINE_float("tolerance", TOLERANCE, "Largest difference of states and logits that counts as equal.")
    program.run(main, USAGE, takes_arguments=True)

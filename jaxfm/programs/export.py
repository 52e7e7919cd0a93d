"""Writes a trained model for others: `python -m jaxfm.export --workdir=runs/ner --format=hf --output=DIR`."""

import pathlib
import shutil

from absl import flags

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.errors import UserError, did_you_mean
from jaxfm.hub import peft
from jaxfm.models.adapters import merge_low_rank, only_mergeable
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import plugins, program
from jaxfm.training.saved_run import open_run
from jaxfm.training.workdir import read_origin

USAGE = "usage: python -m jaxfm.export --workdir=DIR --output=DIR [--format=hf|peft]"
FORMATS = ("hf", "peft")


def export(workdir: str | pathlib.Path, output: str | pathlib.Path, format: str = "hf") -> pathlib.Path:
    """Writes the run's chosen checkpoint as a Hugging Face directory; whole or not at all. Returns its path.

    "hf" has low-rank updates merged into the weights; "peft" has these and the head alone, for the run's first weights.

    Raises:
      UserError: an unknown format, no run or checkpoint, an output that is there already, adapters or prefixes, which
        no other library would know; for peft, a run without low-rank updates or of first weights that others cannot
        open.
    """
    if format not in FORMATS:
        raise UserError(f"--format={format}: {did_you_mean(format, FORMATS)}")
    with libraries_quieted():
        return _export(files.user_path(workdir, "--workdir"), files.output_directory(output, "--output"), format)


def _export(workdir: pathlib.Path, output: pathlib.Path, format: str) -> pathlib.Path:
    run = open_run(workdir)
    encoder, predictor = run.spec.encoder, run.predictor()
    only_mergeable(encoder, format)
    base = peft.base_model(encoder, run.config.model.init, read_origin(workdir)) if format == "peft" else ("", "")
    with_adapters = run.restore(make_mesh(MeshConfig()), Build()).to_host()
    _, merged = merge_low_rank(encoder, with_adapters)
    with files.held(files.lock_beside(output), f"--output={output}"), files.atomic_directory(output) as folder:
        files.output_directory(output, "--output")  # another process may have been here
        if format == "hf":
            predictor.write_hf(folder, merged)
        else:
            whole = folder / ".merged"
            whole.mkdir()
            predictor.write_hf(whole, merged)
            peft.write_adapter(folder, whole, encoder, with_adapters, base)
            shutil.rmtree(whole)
    return output


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.workdir or not values.output:
        raise UserError(f"--{'output' if values.workdir else 'workdir'} is missing.\n{USAGE}")
    print(f"written: {export(values.workdir, values.output, values.format)}")


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("workdir", None, "A run directory.")
    flags.DEFINE_string("output", None, "The directory to write.")
    flags.DEFINE_string(
        "format", "hf", "hf: what transformers' from_pretrained opens; peft: LoRA for the library peft."
    )
    program.run(main, USAGE)

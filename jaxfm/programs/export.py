"""Writes a trained model for others: `python -m jaxfm.export --workdir=runs/ner --format=hf --output=DIR`."""

import pathlib
import shutil

from absl import flags

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.errors import UserError, did_you_mean
from jaxfm.hub import peft
from jaxfm.hub.tensor_writing import SHARD_SIZE, parse_size, split
from jaxfm.models.adapters import merge_low_rank, only_mergeable
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import plugins, program
from jaxfm.programs.model_card import CARD_FILE, check_license, model_card
from jaxfm.training.saved_run import open_run
from jaxfm.training.workdir import read_origin

USAGE = (
    "usage: python -m jaxfm.export --workdir=DIR --output=DIR [--format=hf|peft]\n"
    "  [--shard_size=50GB] [--license=NAME]"
)
FORMATS = ("hf", "peft")


def export(
    workdir: str | pathlib.Path,
    output: str | pathlib.Path,
    format: str = "hf",
    *,
    shard_size: str = SHARD_SIZE,
    license: str = "",
) -> pathlib.Path:
    """Writes the run's chosen checkpoint as a Hugging Face directory; whole or not at all. Returns its path.

    "hf" has low-rank updates merged into the weights; "peft" has these and the head alone, for the run's first weights.

    Args:
      workdir: the run directory.
      output: the directory to write.
      format: "hf" or "peft".
      shard_size: of "hf", the most that one file of weights holds ("5GB"); as transformers' `max_shard_size`.
      license: the Hugging Face hub's name of a licence, for the model card.

    Raises:
      UserError: an unknown format, no run or checkpoint, an output that is there already, adapters or prefixes, which
        no other library would know; for peft, a run without low-rank updates or of first weights that others cannot
        open.
    """
    if format not in FORMATS:
        raise UserError(f"--format={format}: {did_you_mean(format, FORMATS)}")
    size = parse_size("--shard_size", shard_size)
    check_license(license)
    with libraries_quieted():
        folder = files.output_directory(output, "--output")
        return _export(files.user_path(workdir, "--workdir"), folder, format, size, license)


def _export(workdir: pathlib.Path, output: pathlib.Path, format: str, size: int, license: str) -> pathlib.Path:
    run = open_run(workdir)
    encoder, predictor = run.spec.encoder, run.predictor()
    only_mergeable(encoder, format)
    base = peft.base_model(encoder, run.config.model.init, read_origin(workdir)) if format == "peft" else ("", "")
    restored = run.restore(make_mesh(MeshConfig()), Build())
    with_adapters = restored.to_host()
    _, merged = merge_low_rank(encoder, with_adapters)
    with files.held(files.lock_beside(output), f"--output={output}"), files.atomic_directory(output) as folder:
        files.output_directory(output, "--output")  # another process may have been here
        if format == "hf":
            predictor.write_hf(folder, merged)
            split(folder, size)
        else:
            whole = folder / ".merged"
            whole.mkdir()
            predictor.write_hf(whole, merged)
            peft.write_adapter(folder, whole, encoder, with_adapters, base)
            shutil.rmtree(whole)
        card = model_card(run, predictor, step=restored.step, license=license, adapter=format == "peft")
        files.write_text(folder / CARD_FILE, card)
    return output


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.workdir or not values.output:
        raise UserError(f"--{'output' if values.workdir else 'workdir'} is missing.\n{USAGE}")
    options = {"shard_size": values.shard_size, "license": values.license}
    print(f"written: {export(values.workdir, values.output, values.format, **options)}")


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("workdir", None, "A run directory.")
    flags.DEFINE_string("output", None, "The directory to write.")
    flags.DEFINE_string(
        "format", "hf", "hf: what transformers' from_pretrained opens; peft: LoRA for the library peft."
    )
    flags.DEFINE_string("shard_size", SHARD_SIZE, "hf: the most that one file of weights holds, in KB, MB, GB or TB.")
    flags.DEFINE_string("license", "", "For the model card: the hub's name of a licence, such as apache-2.0.")
    program.run(main, USAGE)

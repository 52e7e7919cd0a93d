"""Writes a trained model for others: `python -m jaxfm.export --workdir=runs/ner --format=hf --output=DIR`.

--push=hf:OWNER/NAME then puts the directory into a repository of the Hugging Face hub, model card included. The token
is that of HF_TOKEN or of `hf auth login`.

--format=onnx --quantize=int8 also writes the weights in 8 bits, unless these lose more than --max_loss on the
validation split.
"""

import pathlib
import shutil

from absl import flags

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.errors import UserError, did_you_mean
from jaxfm.formats.onnx_files import require_onnx
from jaxfm.formats.quantisation import INT8
from jaxfm.hub import peft
from jaxfm.hub.push import check_push, push_folder
from jaxfm.hub.tensor_writing import SHARD_SIZE, parse_size, split
from jaxfm.models.adapters import only_mergeable, plain_weights
from jaxfm.models.exits import without_exits
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import plugins, program
from jaxfm.programs.export_formats import Quantisation, check_rounded, write_onnx_folder, write_stablehlo_folder
from jaxfm.programs.model_card import CARD_FILE, check_license, model_card
from jaxfm.training.exit_scores import heads_of
from jaxfm.training.quantised_weights import WEIGHTS_FILE
from jaxfm.training.saved_run import open_run
from jaxfm.training.workdir import read_origin

USAGE = (
    "usage: python -m jaxfm.export --workdir=DIR --output=DIR [--format=hf|peft|onnx|stablehlo]\n"
    "  [--shard_size=50GB] [--license=NAME] [--quantize=int8 [--max_loss=0.01] [--source=URI]]\n"
    "  [--push=hf:OWNER/NAME [--public]]"
)
FORMATS = ("hf", "peft", "onnx", "stablehlo")
MAX_LOSS = 0.01
# Those with a model card: they are opened by libraries that the hub knows.
_WITH_CARD = ("hf", "peft")


def export(
    workdir: str | pathlib.Path,
    output: str | pathlib.Path,
    format: str = "hf",
    *,
    shard_size: str = SHARD_SIZE,
    license: str = "",
    quantize: str | None = None,
    max_loss: float = MAX_LOSS,
    source: str | None = None,
) -> pathlib.Path:
    """Writes the run's chosen checkpoint as a directory for other libraries; whole or not at all. Returns its path.

    "hf" has low-rank updates merged into the weights; "peft" has these and the head alone, for the run's first weights.
    "onnx" and "stablehlo" are programs that run without jaxfm, with any number of texts of any length. Of a model with
    early heads all formats have the last one alone, after all layers.

    Args:
      workdir: a run directory.
      output: the directory to write.
      format: "hf", "peft", "onnx" or "stablehlo".
      shard_size: of "hf", the most that one file of weights holds ("5GB"); as transformers' `max_shard_size`.
      license: the Hugging Face hub's name of a licence, for the model card.
      quantize: "int8": onnx has a second file with weights in 8 bits.
      max_loss: what that file may lose on the validation split, in units of the metric that chose the checkpoint.
      source: data with that split, where they are no longer the run's own.

    Raises:
      UserError: an unknown format, no run or checkpoint, an output that is there already, adapters or prefixes, which
        no other library would know; for peft, a run without low-rank updates or of first weights that others cannot
        open; a quantised file that loses more than `max_loss`.
    """
    if format not in FORMATS:
        raise UserError(f"--format={format}: {did_you_mean(format, FORMATS)}")
    size = parse_size("--shard_size", shard_size)
    check_license(license)
    if quantize is not None and quantize != INT8:
        raise UserError(f"--quantize={quantize}: {did_you_mean(quantize, (INT8,))}")
    if quantize is not None and format != "onnx":
        raise UserError(f"--quantize={quantize}: is for --format=onnx, not --format={format}.")
    if not max_loss >= 0:
        raise UserError(f"--max_loss={max_loss}: must be 0 or more, in units of the run's metric (0.01: one point).")
    if format == "onnx":
        require_onnx("--format=onnx")
    folder, quantisation = files.output_directory(output, "--output"), None
    if quantize is not None:
        quantisation = Quantisation(max_loss, source)
    with libraries_quieted():
        return _export(files.user_path(workdir, "--workdir"), folder, format, size, license, quantisation)


def _export(
    workdir: pathlib.Path,
    output: pathlib.Path,
    format: str,
    size: int,
    license: str,
    quantisation: Quantisation | None,
) -> pathlib.Path:
    run = open_run(workdir)
    encoder, predictor = run.spec.encoder, run.predictor()
    only_mergeable(encoder, format)
    check_rounded(encoder, format)
    if quantisation is not None and (workdir / WEIGHTS_FILE).is_file():
        raise UserError(
            f"--quantize={INT8}: the weights of {workdir} are rounded already (jaxfm.quantise), and the file is made "
            "of them. Leave out the flag."
        )
    base = peft.base_model(encoder, run.config.model.init, read_origin(workdir)) if format == "peft" else ("", "")
    restored = run.restore(make_mesh(MeshConfig()), Build())
    with_adapters = without_exits(restored.to_host())
    _, merged = plain_weights(encoder, with_adapters)
    with files.held(files.lock_beside(output), f"--output={output}"), files.atomic_directory(output) as folder:
        files.output_directory(output, "--output")  # another process may have been here
        if format == "hf":
            predictor.write_hf(folder, merged)
            split(folder, size)
        elif format == "onnx":
            write_onnx_folder(folder, run, restored, merged, quantisation)
        elif format == "stablehlo":
            write_stablehlo_folder(folder, run, merged)
        else:
            whole = folder / ".merged"
            whole.mkdir()
            predictor.write_hf(whole, merged)
            peft.write_adapter(folder, whole, encoder, with_adapters, base)
            shutil.rmtree(whole)
        if format in _WITH_CARD:
            card = model_card(run, predictor, step=restored.step, license=license, adapter=format == "peft")
            files.write_text(folder / CARD_FILE, card)
    return output


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.workdir or not values.output:
        raise UserError(f"--{'output' if values.workdir else 'workdir'} is missing.\n{USAGE}")
    if values.public and not values.push:
        raise UserError("--public: is of --push, which is not given.")
    repository = check_push(values.push) if values.push else ""
    output = export(
        values.workdir,
        values.output,
        values.format,
        shard_size=values.shard_size,
        license=values.license,
        quantize=values.quantize,
        max_loss=values.max_loss,
        source=values.source,
    )
    print(f"written: {output}")
    if heads_of(open_run(files.user_path(values.workdir, "--workdir")).spec):
        print("NOTE: early heads are not exported: what was written computes all layers (docs/early_exit.md)")
    if repository:
        address = push_folder(output, repository, public=values.public, message=f"Exported by jaxfm as {values.format}")
        print(f"pushed: {address}")


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("workdir", None, "A run directory.")
    flags.DEFINE_string("output", None, "The directory to write.")
    flags.DEFINE_string(
        "format",
        "hf",
        "hf: what transformers' from_pretrained opens; peft: LoRA for the library peft; onnx: for onnxruntime, optimum "
        "and transformers.js; stablehlo: for JAX without jaxfm.",
    )
    flags.DEFINE_string("shard_size", SHARD_SIZE, "hf: the most that one file of weights holds, in KB, MB, GB or TB.")
    flags.DEFINE_string("license", "", "For the model card: the hub's name of a licence, such as apache-2.0.")
    flags.DEFINE_string("quantize", None, "onnx: int8 adds a file with weights in 8 bits, scored before it is written.")
    flags.DEFINE_float(
        "max_loss", MAX_LOSS, "Most that 8 bits may lose on the validation split, in units of the run's metric."
    )
    flags.DEFINE_string("source", None, "Data with the validation split, for --quantize; the run's own if not given.")
    flags.DEFINE_string(
        "push", None, "hf:OWNER/NAME: a repository of the Hugging Face hub that gets the directory too."
    )
    flags.DEFINE_bool("public", False, "Whether a repository that --push makes is public.")
    program.run(main, USAGE)

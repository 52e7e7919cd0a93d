"""Rounds a run's weights to integers, if it keeps its score: `python -m jaxfm.quantise --workdir=runs/a --output=DIR`.

The output is a run directory again: evaluate, predict, serve, verify and export take it. With --format=onnx it is a
folder for onnxruntime. What rounding costs is measured on the validation split before anything is written; where it
costs more than --max_loss nothing is, and the message names the parts that --keep would leave in floats.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import DYNAMIC, GROUP, NONE, STATIC, WEIGHT_BITS, Quantisation
from jaxfm.core.evaluation import Evaluation
from jaxfm.core.task import Task
from jaxfm.errors import UserError, did_you_mean
from jaxfm.formats.onnx_files import FOLDER, require_onnx
from jaxfm.formats.quantisation import Gate
from jaxfm.models.adapters import only_mergeable, plain_weights
from jaxfm.observe.plots import plot_bars
from jaxfm.observe.progress import Progress
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import plugins, program
from jaxfm.programs.export import MAX_LOSS
from jaxfm.programs.export_formats import SPLIT, check_rounded, write_onnx_folder
from jaxfm.programs.quantised_run import (
    Sensitivity,
    Source,
    check_same,
    open_source,
    ranges_of,
    scored,
    sensitivities,
    trained_for,
    write_run,
    write_scores,
)
from jaxfm.training.quantised_weights import (
    REPORT_FILE,
    WEIGHTS_FILE,
    Rounded,
    kept_units,
    maps_of,
    round_params,
    units_of,
)
from jaxfm.training.range_choice import MINMAX, RULES
from jaxfm.training.saved_run import SavedRun, open_run

USAGE = (
    "usage: python -m jaxfm.quantise --workdir=DIR --output=DIR [--format=run|onnx]\n"
    "  [--method=static|dynamic|weights] [--bits=8|4] [--keep=PATTERN,...]\n"
    "  [--calibration=minmax|percentile|entropy] [--max_loss=0.01] [--source=URI]\n"
    "  [--nosensitivity]"
)
FORMATS = ("run", "onnx")
METHODS: Mapping[str, str] = {"static": STATIC, "dynamic": DYNAMIC, "weights": NONE}
MARKDOWN_FILE, PLOT_FILE = "quantisation.md", "plots/quantisation.png"
_NAMED = 5  # units in a message


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What is asked for, checked."""

    method: str
    quantisation: Quantisation
    calibration: str
    keep: tuple[str, ...]
    max_loss: float
    source: str
    format: str
    sensitivity: bool

    @property
    def form(self) -> str:
        return f"int{self.quantisation.weights}"


def quantise(
    workdir: str | pathlib.Path,
    output: str | pathlib.Path,
    *,
    method: str | None = None,
    bits: int | None = None,
    calibration: str | None = None,
    keep: Sequence[str] = (),
    max_loss: float = MAX_LOSS,
    source: str | None = None,
    format: str = "run",
    sensitivity: bool = True,
    progress: Progress | None = None,
) -> pathlib.Path:
    """Writes a run with rounded weights, whole or not at all. Returns its path.

    Args:
      workdir: a run directory.
      output: the directory to write.
      method: "static": weights and inputs of products have 8 bits, inputs with ranges measured before; "dynamic": each
        token's inputs have its own range; "weights": inputs stay in floats. By default what the run was trained for, or
        "static".
      bits: of weights: 8, or with "weights" 4.
      calibration: how ranges are chosen: "minmax", "percentile" (99.999 of 100 values) or "entropy". By default those
        that training learned, or "minmax".
      keep: patterns of parts that stay in floats: "layers/3/ffn/down", "layers/0/*", "*/down", "embeddings/word".
      max_loss: what may be lost on the validation split, in units of the metric that chose the checkpoint.
      source: data with that split, where they are no longer the run's own.
      format: "run" or "onnx".
      sensitivity: whether the report says what each part changes when it alone is rounded.
      progress: where to show how far it is.

    Raises:
      UserError: a run that cannot be quantised, no validation split, a word that is not known, an output that is there
        already, or a loss above `max_loss`.
    """
    _check_words(method, bits, calibration, max_loss, format)
    folder = files.output_directory(output, "--output")
    if format == "onnx":
        require_onnx("--format=onnx")
    run = open_run(files.user_path(workdir, "--workdir"))
    asked = _asked(run, method, bits, calibration, tuple(keep), max_loss, source, format, sensitivity)
    with libraries_quieted(), progress or Progress(None) as shown:
        opened = open_source(run)
        if format == "onnx":
            only_mergeable(opened.spec.encoder, "onnx")
        with files.held(files.lock_beside(folder), f"--output={folder}"), files.atomic_directory(folder) as made:
            files.output_directory(folder, "--output")  # another process may have been here
            _quantise(opened, asked, made, shown)
    return folder


def _check_words(method: str | None, bits: int | None, calibration: str | None, max_loss: float, format: str) -> None:
    for flag, word, words in (
        ("method", method, METHODS),
        ("calibration", calibration, RULES),
        ("format", format, FORMATS),
    ):
        if word is not None and word not in words:
            raise UserError(f"--{flag}={word}: {did_you_mean(word, words)}")
    if bits is not None and bits not in WEIGHT_BITS:
        raise UserError(f"--bits={bits}: weights have {' or '.join(map(str, WEIGHT_BITS))} bits.")
    if not max_loss >= 0:
        raise UserError(f"--max_loss={max_loss}: must be 0 or more, in units of the run's metric (0.01: one point).")


def _asked(
    run: SavedRun,
    method: str | None,
    bits: int | None,
    calibration: str | None,
    keep: tuple[str, ...],
    max_loss: float,
    source: str | None,
    format: str,
    sensitivity: bool,
) -> _Asked:
    trained = trained_for(run)
    usual = "static" if trained is None else {inputs: name for name, inputs in METHODS.items()}[trained.inputs]
    method = method or usual
    bits = bits or (8 if trained is None or method != usual else trained.weights)
    if bits != 8 and method != "weights":
        raise UserError(f"--bits={bits}: products of integers have 8 (--method={method}). Take --method=weights.")
    if calibration is not None and method != "static":
        raise UserError(f"--calibration={calibration}: is of --method=static; {method} has no ranges to choose.")
    quantisation = Quantisation(bits, METHODS[method], GROUP if bits == 4 else 0)
    check_same(run, quantisation)
    check_rounded(
        dataclasses.replace(run.spec.encoder, quantisation=dataclasses.replace(quantisation, form="stored")), format
    )
    rule = calibration or ("" if trained is not None else MINMAX)
    return _Asked(method, quantisation, rule, keep, max_loss, source or run.config.data.source, format, sensitivity)


def _task(run: SavedRun, source: str) -> Task:
    try:
        task = run.task(source, SPLIT)
    except UserError as error:
        raise UserError(
            f"--workdir={run.workdir}: what rounding costs is measured on the run's validation split, which is not to "
            f"be had: {error} Name data with that split by --source."
        ) from error
    if not len(task.datasets[SPLIT]):
        raise UserError(f"--source={source}: its validation split is empty. Name data with one by --source.")
    return task


def _quantise(opened: Source, asked: _Asked, folder: pathlib.Path, progress: Progress) -> None:
    run, task = opened.run, _task(opened.run, asked.source)
    metric = run.config.eval.metric
    before = _scores_of_run(opened, task, asked)
    if metric not in before[SPLIT].metrics:
        raise UserError(
            f"--max_loss: the run's metric {metric} cannot be computed on {SPLIT} of {asked.source}, so that nothing "
            "says what rounding costs. Name other data by --source."
        )
    units = units_of(opened.params)
    trained = trained_for(run)
    kept = kept_units(units, asked.keep, "--keep")
    if trained is not None:
        names = [name for name in maps_of(opened.params) if name.split("/")[-1] not in trained.maps]
        kept |= {unit for unit in units for name in names if unit.endswith(f"/{name}")}
    if len(kept) == len(units):
        raise UserError(f"--keep={','.join(asked.keep)}: leaves all in floats, nothing to round.")
    ranges = ranges_of(opened, task, SPLIT, asked.quantisation, asked.calibration)
    rounded = round_params(opened.params, asked.quantisation, kept, ranges)
    spec, params = opened.stored(rounded, asked.quantisation)
    graphdef, on_devices = opened.model(spec, params)
    after = {SPLIT: scored(opened, task, SPLIT, graphdef, on_devices, refit=True)}
    better = dict(task.directions).get(metric, False)
    gate = Gate(
        SPLIT, metric, better, float(before[SPLIT].metrics[metric]), float(after[SPLIT].metrics[metric]),
        asked.max_loss, f"{asked.method}, computed by jaxfm", asked.form,
    )  # fmt: skip
    progress.say(str(gate))
    found: tuple[list[Sensitivity], list[Sensitivity]] = ([], [])
    if asked.sensitivity or not gate.passes:
        found = _sensitivities(opened, task, metric, rounded, asked, progress, len(units) - len(kept))
    if not gate.passes:
        raise UserError(_refusal(gate, found[0], asked))
    for split, evaluation in before.items():
        if split != SPLIT:
            other = run.task(asked.source, split)
            after[split] = scored(opened, other, split, graphdef, on_devices)
            assert evaluation.metrics
    _write(opened, asked, folder, spec, rounded, gate, before, after, found, progress)


def _sensitivities(
    opened: Source,
    task: Task,
    metric: str,
    rounded: Mapping[str, Rounded],
    asked: _Asked,
    progress: Progress,
    units: int,
) -> tuple[list[Sensitivity], list[Sensitivity]]:
    layers = opened.spec.encoder.layer_stacks + 1
    with progress.task("rounding one part at a time", units + layers) as advance:
        return sensitivities(opened, task, SPLIT, metric, rounded, asked.quantisation, advance)


def _scores_of_run(opened: Source, task: Task, asked: _Asked) -> dict[str, Evaluation]:
    """Returns the evaluations of the run as it is, on the validation split and on the test split where there is one."""
    run = opened.run
    restored = run.restore(opened.mesh, opened.build)
    found = {SPLIT: scored(opened, task, SPLIT, restored.graphdef, restored.params)}
    try:
        other = run.task(asked.source, "test")
    except UserError:  # it has none, which training did not mind either
        return found
    return found | {"test": scored(opened, other, "test", restored.graphdef, restored.params)}


def _refusal(gate: Gate, units: Sequence[Sensitivity], asked: _Asked) -> str:
    worst = sorted(units, key=lambda each: -each.error)[:_NAMED]
    named = ", ".join(f"{each.part} ({each.error:.3f})" for each in worst)
    keep = ",".join([*asked.keep, *(each.part for each in worst)])
    is_gentlest = asked.method == "weights" and asked.quantisation.weights == 8
    gentler = "" if is_gentlest else "take the gentler --method=weights --bits=8, "
    return (
        f"--max_loss={gate.max_loss:g}: refused, nothing is written: {gate}. Rounded alone, these parts change the "
        f"hidden states most (relative error): {named}. Leave them in floats (--keep='{keep}'), {gentler}accept more "
        "with --max_loss, or train for rounded weights (config.adapt.quantise.bits)."
    )


def _write(
    opened: Source,
    asked: _Asked,
    folder: pathlib.Path,
    spec: Any,
    rounded: Mapping[str, Rounded],
    gate: Gate,
    before: Mapping[str, Evaluation],
    after: Mapping[str, Evaluation],
    found: tuple[list[Sensitivity], list[Sensitivity]],
    progress: Progress,
) -> None:
    is_run = asked.format == "run"
    home = folder if is_run else folder / ".run"
    home.mkdir(exist_ok=True)
    run, digest = write_run(home, opened, spec, rounded)
    of_units, of_layers = found
    metric = gate.metric
    facts: dict[str, Any] = {
        "version": 1,
        "method": asked.method,
        "bits": asked.quantisation.weights,
        "group": asked.quantisation.group,
        "calibration": asked.calibration or "learned",
        "keep": list(asked.keep),
        "made_of": {"workdir": str(opened.run.workdir), "step": opened.step},
        "gate": gate.to_dict() | {"source": asked.source},
        "scores": {
            split: {"before": float(each.metrics[metric]), "after": float(after[split].metrics[metric])}
            for split, each in before.items()
        },
        "bytes": {
            "floats": int(sum(array.nbytes for array in opened.params.values())),
            "rounded": (home / WEIGHTS_FILE).stat().st_size,
        },
        "units": [dataclasses.asdict(each) for each in of_units],
        "layers": [dataclasses.asdict(each) for each in of_layers],
        "sha256": digest,
    }
    if asked.method != "static":
        del facts["calibration"]
    files.write_json(home / REPORT_FILE, to_json(facts))
    if not is_run:
        _write_onnx(folder, run, facts)
    tables = _tables(facts, metric)
    files.write_text(folder / MARKDOWN_FILE, "\n".join(f"## {each.title}\n\n{to_markdown(each)}" for each in tables))
    if of_units:
        plot_bars(
            {each.part: each.error for each in of_units},
            folder / PLOT_FILE,
            title=f"Rounded alone ({asked.form}, {asked.method})",
            x_label="relative change of the last hidden states",
        )
    for table in tables[:2]:
        progress.table(table)
    if is_run:
        named = {name: facts[name] for name in ("method", "bits", "keep", "bytes", "scores", "made_of")}
        write_scores(folder, opened, after, named)


def _write_onnx(folder: pathlib.Path, run: SavedRun, facts: dict[str, Any]) -> None:
    """Writes the folder for onnxruntime of the run in folder/.run, which is removed; facts become those of the file."""
    restored = run.restore(make_mesh(MeshConfig()), Build())
    _, merged = plain_weights(run.spec.encoder, restored.to_host())
    write_onnx_folder(folder, run, restored, merged, None)
    shutil.rmtree(run.workdir)
    gate = files.read_object(folder / REPORT_FILE)
    facts["gate"] |= gate
    # The test split was scored by jaxfm, not by this file.
    facts["scores"] = {SPLIT: {"before": gate["before"], "after": gate["after"]}}
    facts["bytes"]["rounded"] = sum(path.stat().st_size for path in (folder / FOLDER).iterdir())
    del facts["sha256"]
    files.write_json(folder / REPORT_FILE, to_json(facts))


def _tables(facts: Mapping[str, Any], metric: str) -> list[Table]:
    sizes = facts["bytes"]
    scores = Table(
        "Rounded weights",
        ("", "floats", f"int{facts['bits']}, {facts['method']}"),
        [
            ["MB", sizes["floats"] / 1e6, sizes["rounded"] / 1e6],
            *([f"{metric} on {split}", each["before"], each["after"]] for split, each in facts["scores"].items()),
        ],
    )
    layers = Table(
        "One layer rounded, all else in floats",
        ("layer", "error of hidden states", f"{metric} on {SPLIT}"),
        [[each["part"], each["error"], each["score"]] for each in facts["layers"]],
    )
    units = Table(
        "One part rounded, all else in floats",
        ("part", "error of hidden states"),
        [[each["part"], each["error"]] for each in sorted(facts["units"], key=lambda each: -each["error"])],
    )
    return [scores, layers, units] if facts["units"] else [scores]


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.workdir or not values.output:
        raise UserError(f"--{'output' if values.workdir else 'workdir'} is missing.\n{USAGE}")
    output = quantise(
        values.workdir,
        values.output,
        method=values.method,
        bits=values.bits,
        calibration=values.calibration,
        keep=values.keep,
        max_loss=values.max_loss,
        source=values.source,
        format=values.format,
        sensitivity=values.sensitivity,
    )
    print(f"written: {output}; report: {output / MARKDOWN_FILE}")


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("workdir", None, "A run directory.")
    flags.DEFINE_string("output", None, "The directory to write.")
    flags.DEFINE_string("format", "run", "run: a run directory again; onnx: a folder for onnxruntime.")
    flags.DEFINE_string(
        "method",
        None,
        "static: weights and inputs in 8 bits, ranges of inputs measured before; dynamic: by each token's own range; "
        "weights: inputs stay in floats. That which the run was trained for, or static, if not given.",
    )
    flags.DEFINE_integer("bits", None, "Of weights: 8, or 4 with --method=weights; 8 if not given.")
    flags.DEFINE_list("keep", [], "Patterns of parts that stay in floats: layers/3/ffn/down, */down, embeddings/word.")
    flags.DEFINE_string(
        "calibration", None, "Of static: ranges by minmax, percentile (99.999) or entropy; minmax if not given."
    )
    flags.DEFINE_float(
        "max_loss", MAX_LOSS, "Most that may be lost on the validation split, in units of the run's metric."
    )
    flags.DEFINE_string("source", None, "Data with the validation split; the run's own if not given.")
    flags.DEFINE_bool("sensitivity", True, "Whether the report says what each part changes, rounded alone.")
    program.run(main, USAGE)

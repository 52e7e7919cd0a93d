"""The quantised forms of a run: made, scored, and one part of them at a time."""

import dataclasses
import itertools
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm import files
from jaxfm.core.batch import axes_of
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import NONE, STATIC, TRAINED, Quantisation
from jaxfm.core.evaluation import Evaluation
from jaxfm.core.spec import Spec, write_spec
from jaxfm.core.task import Task
from jaxfm.data.pipeline import eval_batches
from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import read_calibration, write_calibration
from jaxfm.models.adapters import plain_weights
from jaxfm.observe.report import HTML_FILE, JSON_FILE, MARKDOWN_FILE
from jaxfm.observe.summary import result_of
from jaxfm.observe.writers import to_json
from jaxfm.parallel.mesh import host_rows, shard_batch
from jaxfm.training import workdir as workdirs
from jaxfm.training.evaluation import Evaluator, whole_batches
from jaxfm.training.exit_scores import heads_of
from jaxfm.training.input_ranges import input_ranges, with_quantisation
from jaxfm.training.loading import put
from jaxfm.training.paths import flat, nested
from jaxfm.training.quantised_weights import (
    LAYERS,
    TABLE_UNIT,
    WEIGHTS_FILE,
    Rounded,
    as_stored,
    maps_of,
    only_units,
    stored_params,
    units_of,
    write_weights,
)
from jaxfm.training.results import with_intervals
from jaxfm.training.saved_run import SavedRun, available_mesh
from jaxfm.training.session import compute_dtype, scans_layers

# Rows of the validation split: for ranges, and for changes of hidden states.
_MEASURED_ROWS, _COMPARED_ROWS = 64, 32
# What a written run does not have of the one that it was made of: its weights, its log, its pictures.
_LEFT_BEHIND = (
    workdirs.CHECKPOINTS_DIR, workdirs.AVERAGED_DIR, workdirs.LOCK_FILE, JSON_FILE, MARKDOWN_FILE, HTML_FILE,
    "metrics.jsonl", "spent.json", "predictions", "plots", "skipped", "profile", "events.*", "replay*",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A run to quantise, and the data to score it on.

    Attributes:
      run: in floats, or trained for rounded weights.
      spec: of its model in floats.
      params: path -> array of that model, on the host.
      learned: path of a map -> range of its inputs, where training learned it.
      mesh: of the devices.
      build: how models compute.
      step: whose checkpoint it is.
    """

    run: SavedRun
    spec: Spec
    params: Mapping[str, np.ndarray]
    learned: Mapping[str, np.ndarray]
    mesh: Mesh
    build: Build
    step: int

    def model(self, spec: Spec, params: Mapping[str, np.ndarray]) -> tuple[nnx.GraphDef[Any], Any]:
        """Returns structure and parameters, on the devices, of a model with these values."""
        graphdef, abstract = dataclasses.replace(self.run, spec=spec).abstract_model(self.mesh, self.build)
        shapes = flat(abstract)
        assert shapes.keys() == params.keys(), sorted(shapes.keys() ^ params.keys())
        return graphdef, nested({path: put(params[path], shape) for path, shape in shapes.items()})

    def stored(self, rounded: Mapping[str, Rounded], quantisation: Quantisation, *, switched: bool = False) -> Any:
        """Returns spec and parameters (path -> array) of a model whose weights are `rounded`."""
        encoder = as_stored(self.spec.encoder, quantisation, rounded, switched=switched)
        found = stored_params(self.params, rounded, encoder.quantisation)
        return with_quantisation(self.spec, encoder.quantisation), found


def open_source(run: SavedRun) -> Source:
    """Restores a run that can be quantised.

    Raises:
      UserError: it is quantised already, has early heads, or layers outside of its encoder.
    """
    if (run.workdir / WEIGHTS_FILE).is_file():
        raise UserError(f"--workdir={run.workdir}: its weights are rounded already. Name the run that it was made of.")
    if heads_of(run.spec):
        raise UserError(
            f"--workdir={run.workdir}: has early heads (config.exits.every), whose threshold holds for weights in "
            "floats. Train a run without them, or export this one: --format=onnx --quantize=int8 rounds all layers."
        )
    mesh, _ = available_mesh(run.config)
    config = run.config
    build = Build(compute_dtype(config.train.precision), scans_layers(config.model.scan_layers))
    restored = run.restore(mesh, build)
    found = restored.to_host()
    others = sorted({path.split("/layers/")[0] for path in found if "/layers/" in path and LAYERS not in path})
    if others or not hasattr(run.spec, "encoder") or "encoder" not in {f.name for f in _fields(run.spec)}:
        raise UserError(
            f"--workdir={run.workdir}: the task {config.task.name} trains several encoders at once "
            f"({', '.join(['encoder', *others])}), and the weights of one encoder are what can be rounded. "
            "Export the run in floats."
        )
    encoder, params = plain_weights(run.spec.encoder, found)
    changed: Any = run.spec
    learned = {
        path.removesuffix("/log2_input_range"): np.exp2(np.asarray(array, np.float32))
        for path, array in found.items()
        if path.endswith("/log2_input_range")
    }
    return Source(run, dataclasses.replace(changed, encoder=encoder), params, learned, mesh, build, restored.step)


def _fields(spec: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(spec) if dataclasses.is_dataclass(spec) else ()


def measured_ranges(source: Source, task: Task, split: str, rule: str) -> dict[str, np.ndarray]:
    """Returns the range of each map's inputs on rows of a split."""
    rows = task.datasets[split]
    size = whole_batches(source.run.config.eval.batch_size, min(len(rows), _MEASURED_ROWS), source.mesh)

    def batches() -> Iterable[Mapping[str, Any]]:
        found = eval_batches(rows, size, lambda count: host_rows(source.mesh, count))
        return itertools.islice(found, max(_MEASURED_ROWS // size, 1))

    _, params = source.model(source.spec, source.params)
    maps = tuple(sorted({name.split("/")[-1] for name in maps_of(source.params)}))
    return input_ranges(source.spec, params, batches, source.mesh, maps, rule)


def scored(source: Source, task: Task, split: str, graphdef: Any, params: Any, *, refit: bool = False) -> Evaluation:
    """Returns the evaluation of a model on a split, and with `refit` what calibrates its probabilities, fitted to it.

    The calibration is under "refitted" among the scores.
    """
    rows = task.datasets[split]
    size = whole_batches(source.run.config.eval.batch_size, len(rows), source.mesh)
    outputs = Evaluator(task.objective.outputs, graphdef, source.mesh, size)(params, rows)
    scorer = task.scorer(split)
    calibration = scorer.calibrate(outputs) if refit else read_calibration(source.run.workdir)
    found = with_intervals(scorer.report(outputs, calibration))
    return dataclasses.replace(found, scores={**found.scores, "refitted": calibration}) if refit else found


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What rounding one part alone changes.

    Attributes:
      part: a unit, or a layer ("layers/3").
      error: root mean square of the change of the last hidden states, over that of these states.
      score: the run's metric on the validation split; None where it was not computed.
    """

    part: str
    error: float
    score: float | None = None


def sensitivities(
    source: Source,
    task: Task,
    split: str,
    metric: str,
    rounded: Mapping[str, Rounded],
    quantisation: Quantisation,
    advance: Any = None,
) -> tuple[list[Sensitivity], list[Sensitivity]]:
    """Rounds one unit at a time, all else in floats, and then one layer at a time, which is scored.

    One program computes all of them: which layers are rounded is told by their scales.
    """
    units = [unit for unit in units_of(source.params) if _is_rounded(unit, rounded)]
    rows = task.datasets[split]
    size = whole_batches(_COMPARED_ROWS, min(len(rows), _COMPARED_ROWS), source.mesh)
    batch = next(iter(eval_batches(rows, size, lambda count: host_rows(source.mesh, count))))
    spec, whole = source.stored(rounded, quantisation, switched=True)
    graphdef, shapes = dataclasses.replace(source.run, spec=spec).abstract_model(source.mesh, source.build)
    by_path, on_devices = flat(shapes), {}
    batch = shard_batch(batch, axes_of(rows.spec), source.mesh)

    @jax.jit
    def states(params: Any) -> jax.Array:
        found = nnx.merge(graphdef, params).encoder.encode(batch)  # type: ignore[attr-defined]
        is_token = (found.segment_ids_BT != 0)[..., None]
        return jnp.where(is_token, found.x_BTD.astype(jnp.float32), 0.0)

    def params_with(some: Iterable[str]) -> Any:
        part = only_units(rounded, frozenset(some), source.params)
        values = stored_params(source.params, part, spec.encoder.quantisation)
        # What does not differ from what the devices have is not sent again.
        for path, array in values.items():
            if path not in on_devices or on_devices[path][0] is not array:
                known = on_devices.get(path)
                if known is None or not np.array_equal(known[0], array):
                    on_devices[path] = (array, put(array, by_path[path]))
        return nested({path: on_devices[path][1] for path in by_path})

    assert whole.keys() == by_path.keys()
    with jax.set_mesh(source.mesh):
        of_floats = np.asarray(states(params_with(())))
        scale = float(np.sqrt(np.mean(of_floats**2))) or 1.0

        def error(some: Iterable[str]) -> float:
            changed = np.asarray(states(params_with(some)))
            return float(np.sqrt(np.mean((changed - of_floats) ** 2))) / scale

        of_units = []
        for unit in units:
            of_units.append(Sensitivity(unit, error([unit])))
            if advance is not None:
                advance(1)
    parts: dict[str, list[str]] = {}
    for unit in units:
        parts.setdefault(unit if unit == TABLE_UNIT else "/".join(unit.split("/")[:2]), []).append(unit)
    of_layers = []
    for part, some in parts.items():
        with jax.set_mesh(source.mesh):
            changed = error(some)
        found = scored(source, task, split, graphdef, params_with(some))
        of_layers.append(Sensitivity(part, changed, float(found.metrics[metric])))
        if advance is not None:
            advance(1)
    return of_units, of_layers


def _is_rounded(unit: str, rounded: Mapping[str, Rounded]) -> bool:
    return bool(only_units(rounded, frozenset({unit}), None))


def write_run(folder: pathlib.Path, source: Source, spec: Spec, rounded: Mapping[str, Rounded]) -> tuple[SavedRun, str]:
    """Writes an ordinary run directory but for its report; returns the run, and the sha256 of its weights."""
    run = source.run
    shutil.copytree(run.workdir, folder, ignore=shutil.ignore_patterns(*_LEFT_BEHIND), dirs_exist_ok=True)
    write_spec(folder, run.config.task.name, spec)
    digest = write_weights(folder / WEIGHTS_FILE, source.params, rounded, source.step)
    return dataclasses.replace(run, workdir=folder, spec=spec), digest


def write_scores(folder: pathlib.Path, source: Source, splits: Mapping[str, Evaluation], facts: Any) -> None:
    """Writes calibration.json and, last, report.json: that of the first run, if it has one, with these scores."""
    if (fitted := splits["valid"].scores.get("refitted")) is not None:
        write_calibration(folder, fitted)
    path = source.run.workdir / JSON_FILE
    if not path.is_file():  # the run has not ended, or its report was removed
        return
    before = files.read_object(path)
    scores = {
        split: {**each.metrics, **{name: value for name, value in each.scores.items() if name != "refitted"}}
        for split, each in splits.items()
    }
    result = result_of(scores, source.run.config.eval.metric)
    report = {
        **before,
        "result": None if result is None else to_json(dataclasses.asdict(result)),
        "splits": scores,
        "quantisation": facts,
    }
    files.write_json(folder / JSON_FILE, to_json(report))


def trained_for(run: SavedRun) -> Quantisation | None:
    """Returns the rounding that a run was trained for; None where it was trained in floats."""
    found = run.spec.encoder.quantisation
    return found if found.weights and found.form == TRAINED else None


def check_same(run: SavedRun, asked: Quantisation) -> None:
    """Raises UserError where a run was trained for another rounding than the one asked for."""
    found = trained_for(run)
    if found is None:
        return
    words = {STATIC: "static", NONE: "weights"}
    pairs = (("method", words.get(found.inputs, found.inputs), words.get(asked.inputs, asked.inputs)),)
    for name, trained, given in (*pairs, ("bits", found.weights, asked.weights)):
        if trained != given:
            raise UserError(
                f"--{name}={given}: the run was trained for {name} {trained} (config.adapt.quantise). Leave out the "
                f"flag, or give --{name}={trained}."
            )


def ranges_of(source: Source, task: Task, split: str, quantisation: Quantisation, rule: str) -> Mapping[str, Any]:
    """Returns the ranges of inputs that the quantisation needs: those that were learned, measured ones, or none."""
    if quantisation.inputs != STATIC:
        return {}
    return source.learned if source.learned and not rule else measured_ranges(source, task, split, rule)

"""A run and the smaller models in it: measured, chosen within a budget, and cut out."""

# S stacks of weights

import contextlib
import dataclasses
import functools
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import Initial
from jaxfm.errors import UserError
from jaxfm.models.pruning import Importance, Kept, best_within, keep, neuron_sizes, prune, pruned_encoder, share_kept
from jaxfm.models.subnets import LAYERS, Selected, Subnet
from jaxfm.observe.progress import Progress
from jaxfm.observe.report import HTML_FILE, MARKDOWN_FILE
from jaxfm.parallel.mesh import batch_shards, build_abstract
from jaxfm.planning.costs import SubnetCosts, costs, parameters_of
from jaxfm.planning.targets import FLOPS, LATENCY, SIZE, Target
from jaxfm.training import cut_run, initial, latency, part_importance
from jaxfm.training import workdir as workdirs
from jaxfm.training.cut_run import VALID, Start
from jaxfm.training.evaluation import Evaluator, whole_batches
from jaxfm.training.loading import put
from jaxfm.training.paths import flat, nested
from jaxfm.training.quantised_weights import WEIGHTS_FILE
from jaxfm.training.saved_run import SavedRun, available_mesh
from jaxfm.training.session import compute_dtype, scans_layers
from jaxfm.training.supernet import of_shape
from jaxfm.tuning.costs import BYTES, PARAMETERS
from jaxfm.tuning.trials import loss

MOST_SCORED = 6
"""Choices, each of another number of layers, that are scored on the validation split."""
_UNFINISHED = ".unfinished"
_LATENCY_ROUNDS = 6
_CLOSE = 0.95  # of a target: nearer to it, another measurement says nothing


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """What may be kept of a model.

    Attributes:
      kept: of each layer.
      importance: the part of all importance that is of it.
      flops: of the forward pass, as a share of the first model's.
      size: bytes of the weights, likewise.
      latency: seconds of a forward pass, likewise; None where it was not measured.
      score: of the run's metric on the validation split, before any training; None where it was not scored.
    """

    kept: Kept
    importance: float
    flops: float
    size: float
    latency: float | None = None
    score: float | None = None

    def to_json(self, encoder: EncoderConfig) -> dict[str, Any]:
        """Returns JSON values."""
        shape = self.kept.shape._asdict()
        named = {name: getattr(self, name) for name in ("importance", "flops", "size", "latency", "score")}
        return {**shape, **named, "kept": self.kept.to_json(encoder)}


def open_whole(run: SavedRun, source: str | None) -> Start:
    """Opens a run as what smaller models are made of, in floats, with its data.

    Raises:
      UserError: rounded weights, several encoders, adapters, no validation split, data that are gone.
    """
    where = f"--workdir={run.workdir}"
    if (run.workdir / WEIGHTS_FILE).is_file():
        raise UserError(f"{where}: its weights are rounded. Prune the run that it was made of, and round that.")
    encoder = getattr(run.spec, "encoder", None)
    if encoder is not None and (encoder.adapter_size or encoder.prefix_length):
        raise UserError(
            f"{where}: has adapters or prefixes beside its layers, which cannot be cut with them. Only LoRA is merged."
        )
    config = cut_run.config_from(run.config, run.workdir)
    if source:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=source))
    first = initial.resolve(config.model)
    paths = list(first.params)
    others = sorted({path.split("/layers/")[0] for path in paths if "/layers/" in path and not path.startswith(LAYERS)})
    if others or not any(path.startswith(LAYERS) for path in paths):
        raise UserError(
            f"{where}: the task {config.task.name} trains several encoders at once "
            f"({', '.join(['encoder', *others])}), and the layers of one are what can be pruned."
        )
    try:
        whole = cut_run.start(config, first)
    except UserError as error:
        raise UserError(f"{where}: cannot be opened with its data: {error}") from error
    if not len(whole.task.datasets.get(VALID, ())):
        raise UserError(f"{where}: its data have no validation split, by which choices are compared. Give --source.")
    return whole


class Measured:
    """A model that others are compared with: its costs, its scores, and how long it takes.

    Attributes:
      whole: the model.
      metric: by which models are compared.
      more_is_better: of the metric.
      outputs: of the validation split.
      score: of the metric on the validation split.
      flops: of the forward pass a token.
      size: bytes of the weights.
    """

    def __init__(self, whole: Start, progress: Progress):
        """Scores the model."""
        self.whole, self.metric = whole, whole.config.eval.metric
        self.more_is_better = bool(whole.task.directions[self.metric])
        rows = whole.task.datasets[VALID]
        with progress.task("scoring the model as it is", len(rows)) as advance:
            self.outputs = whole.setup.evaluate(whole.params, rows, advance)
        self.score = score_of(whole, self.outputs)
        if not np.isfinite(self.score):
            raise UserError(
                f"--workdir: the run's metric {self.metric} cannot be computed on {VALID}, so that nothing says what "
                "pruning costs. Name other data by --source."
            )
        encoder = whole.task.objective.spec.encoder
        of_shape_costs = SubnetCosts(whole.task.objective, whole.config, None)
        found = of_shape_costs(Subnet(encoder.num_layers, encoder.num_heads, encoder.ffn_size))
        self.flops, self.size = found[FLOPS], found[BYTES]

    @functools.cached_property
    def forward(self) -> Callable[[], Any]:
        """A forward pass of one batch of the validation split."""
        return forward_of(self.whole, self.whole.first.encoder, self.whole.params)

    def lost(self, score: float) -> float:
        """Returns how much worse a score is than this model's."""
        return self.score - score if self.more_is_better else score - self.score


def score_of(begun: Start, outputs: Any, split: str = VALID) -> float:
    """Returns the run's metric of a model's outputs."""
    return float(begun.task.scorer(split).metrics(outputs).get(begun.config.eval.metric, float("nan")))


def forward_of(begun: Start, encoder: EncoderConfig, params: Any) -> Callable[[], Any]:
    """Returns a forward pass of one evaluation batch by a model of that shape with these parameters."""
    mesh, objective = begun.setup.session.mesh, of_shape(begun.task.objective, encoder)
    graphdef, _ = build_abstract(lambda: objective.spec.make_model(build_of(begun.config), nnx.Rngs(0)), mesh)
    rows = begun.task.datasets[VALID]
    return latency.forward_pass(objective.outputs, graphdef, params, rows, mesh, begun.config.eval.batch_size)


def build_of(config: Config) -> Build:
    """Returns how the models of a run compute."""
    return Build(compute_dtype(config.train.precision), scans_layers(config.model.scan_layers))


class PartChoice:
    """The search for what is kept of a model, within a budget of another (or the same) one.

    Attributes:
      whole: the model that is pruned.
      importance: of its parts.
      scored: choices that were scored, in that order.
    """

    def __init__(self, whole: Start, base: Measured, importance: Importance, parts: Sequence[str]):
        """Prepares one program for all choices."""
        self.whole, self.importance, self.scored = whole, importance, list[Choice]()
        self._base, self._parts = base, parts
        self._encoder = whole.first.encoder
        self._costs = functools.cache(SubnetCosts(whole.task.objective, whole.config, None))
        spec, outputs = whole.task.objective.spec, whole.task.objective.outputs
        mesh, self._rows = whole.setup.session.mesh, whole.task.datasets[VALID]
        build = build_of(whole.config)
        graphdef, _ = build_abstract(
            lambda: Selected(spec.make_model(build, nnx.Rngs(0)), self._encoder, by_layer=True), mesh
        )
        size = whole_batches(whole.config.eval.batch_size, len(self._rows), mesh)
        self._evaluate = Evaluator(lambda model, batch: outputs(model.subnet(), batch), graphdef, mesh, size)

    def best(self, targets: Sequence[Target], progress: Progress) -> Choice:
        """Returns the choice within all targets that scores best of those that keep the most importance.

        Raises:
          UserError: nothing is within them; the message says what comes nearest.
        """
        limit = next((each for each in targets if each.name == LATENCY), None)
        if limit is None:
            found = self._within(targets)
            if not found:
                raise UserError(f"--target={','.join(map(str, targets))}: {self._smallest()}")
            return self._best_scored(found, progress)
        others = [each for each in targets if each.name != LATENCY]
        for found in self._by_latency(limit, others, progress):
            if choice := self._best_scored(found, progress, limit.limit):
                return choice
        raise UserError(f"--target={','.join(map(str, targets))}: {self._smallest(measured=True)}")

    def _within(self, targets: Sequence[Target]) -> list[Choice]:
        limits = {each.name: each.share_of(self._base.size if each.name == SIZE else 1.0) for each in targets}
        encoder = self._encoder

        def is_within(shape: Subnet) -> bool:
            shares = self._shares(shape)
            return all(shares[name] <= limit for name, limit in limits.items())

        return [
            Choice(kept, share_kept(encoder, self.importance, kept), **self._shares(kept.shape))
            for kept in best_within(encoder, self.importance, self._parts, is_within)
        ]

    def _shares(self, shape: Subnet) -> dict[str, float]:
        found = self._costs(shape)
        return {FLOPS: found[FLOPS] / self._base.flops, SIZE: found[BYTES] / self._base.size}

    def _by_latency(self, limit: Target, others: Sequence[Target], progress: Progress) -> "list[list[Choice]]":
        """Returns choices by falling budgets of operations, from the largest whose first one is fast enough.

        Latency falls with operations, but not as fast: each budget is set by what the one before was measured at.
        """
        low, high, budget = 0.0, 1.0, limit.limit
        tried: list[tuple[float, list[Choice]]] = []
        with progress.task("measuring latency", _LATENCY_ROUNDS) as advance:
            for _ in range(_LATENCY_ROUNDS):
                found = self._within([*others, Target(FLOPS, budget)])
                advance(1)
                if not found:
                    low = max(low, budget)
                    if high - low < 0.01:
                        break
                    budget = (low + high) / 2
                    continue
                share = self.latency_of(found[0].kept)
                if share <= limit.limit:
                    tried.append((budget, found))
                    low = max(low, budget)
                    if share >= _CLOSE * limit.limit:
                        break
                else:
                    high = min(high, budget)
                nearer = budget * limit.limit / share
                budget = nearer if low < nearer < high else (low + high) / 2
        return [found for _, found in sorted(tried, key=lambda each: -each[0])]

    def latency_of(self, kept: Kept) -> float:
        """Returns the seconds of a forward pass of what is kept, as a share of the first model's; in turns with it."""
        small = pruned_encoder(self._encoder, kept)
        params = self.cut(kept)
        begun = self.whole
        objective = of_shape(begun.task.objective, small)
        _, abstract = build_abstract(
            lambda: objective.spec.make_model(build_of(begun.config), nnx.Rngs(0)), begun.setup.session.mesh
        )
        placed = nested({path: put(params[path], shape) for path, shape in flat(abstract).items()})
        calls = {"first": self._base.forward, "kept": forward_of(begun, small, placed)}
        seconds = latency.in_turns(calls)
        return seconds["kept"] / seconds["first"]

    def cut(self, kept: Kept) -> dict[str, np.ndarray]:
        """Returns the arrays (path -> array) of what is kept, on the host."""
        return prune({path: np.asarray(leaf) for path, leaf in flat(self.whole.params).items()}, self._encoder, kept)

    def _best_scored(self, found: Sequence[Choice], progress: Progress, most: float | None = None) -> Any:
        """Returns the choice with the best score that is fast enough, if any is."""
        scored = []
        with progress.task("scoring choices", min(len(found), MOST_SCORED)) as advance:
            for choice in found[:MOST_SCORED]:
                scored.append(dataclasses.replace(choice, score=self.score(choice.kept)))
                advance(1)
        better = self._base.more_is_better
        scored.sort(key=lambda each: (loss(each.score or 0.0, better), -each.importance))
        self.scored += scored
        if most is None:
            return scored[0]
        for choice in scored:
            share = self.latency_of(choice.kept)
            timed = dataclasses.replace(choice, latency=share)
            self.scored[self.scored.index(choice)] = timed
            if share <= most:
                return timed
        return None

    def score(self, kept: Kept) -> float:
        """Returns the run's metric on the validation split with all else multiplied by zero."""
        selection = kept.selection(self._encoder)
        params = {"model": self.whole.params, **{name: jnp.asarray(each) for name, each in selection._asdict().items()}}
        return score_of(self.whole, self._evaluate(params, self._rows))

    def _smallest(self, measured: bool = False) -> str:
        """Says what the smallest choice comes to."""
        encoder, parts = self._encoder, self._parts
        heads = encoder.num_heads // encoder.kv_heads if "heads" in parts else encoder.num_heads
        neurons = neuron_sizes(encoder.ffn_size)[0] if "neurons" in parts else encoder.ffn_size
        (*_, kept) = keep(encoder, self.importance, heads, neurons, encoder.num_layers if "layers" in parts else 0)
        shares = self._shares(kept.shape)
        words = f"{shares[FLOPS]:.2f} of the operations, {shares[SIZE]:.2f} of the bytes"
        if measured:
            words += f", {self.latency_of(kept):.2f} of the time"
        return (
            f"nothing that --parts={','.join(parts)} leaves is within it; the smallest has {words}. Raise the target, "
            "or name more parts; the table of words is what --vocabulary cuts."
        )


def measure_importance(whole: Start, *, rule: str, rows: int, progress: Progress) -> Importance:
    """Returns the importance of a model's parts, measured on rows of its training split."""
    mesh, config = whole.setup.session.mesh, whole.config
    shards = batch_shards(mesh)
    least = -(-part_importance.ROWS_OF_A_BATCH // shards) * shards
    size = config.train.batch_size if whole.task.objective.whole_batch else least
    train = whole.task.datasets["train"]
    with progress.task("measuring the importance of heads and neurons", min(rows, len(train))) as advance:
        return part_importance.measure(
            whole.task.objective, whole.params, train, mesh, build_of(config),
            count=rows, batch_size=size, rule=rule, seed=config.seed, advance=advance,
        )  # fmt: skip


def cut_out(whole: Start, choice: PartChoice, kept: Kept, workdir: pathlib.Path) -> Start:
    """Returns the smaller model, whose run starts from that of `workdir`."""
    small: Initial = dataclasses.replace(
        whole.first, encoder=pruned_encoder(whole.first.encoder, kept), params=choice.cut(kept)
    )
    return cut_run.start(cut_run.config_from(whole.config, workdir), small)


def compared(base: Measured, run: SavedRun, report: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Returns scores, costs and measured seconds of the first model and of the one that was made; JSON values."""
    whole, config = base.whole, run.config
    objective = whole.task.objective
    task = run.task(config.data.source, VALID)
    mesh, _ = available_mesh(config)
    restored = run.restore(mesh, build_of(config))
    rows = task.datasets[VALID]
    after = latency.forward_pass(
        task.objective.outputs, restored.graphdef, restored.params, rows, mesh, config.eval.batch_size
    )
    with progress.task("measuring latency", 1) as advance:
        seconds = latency.in_turns({"before": base.forward, "after": after})
        advance(1)
    before = {split: base.score for split in (VALID,)}
    for split, others in whole.task.datasets.items():
        if split not in ("train", VALID):
            before[split] = score_of(whole, whole.setup.evaluate(whole.params, others), split)
    first, last = (costs(each, parameters_of(each), config) for each in (objective, task.objective))
    names = {FLOPS: "flops", BYTES: "bytes", PARAMETERS: "parameters"}
    return {
        "scores": {
            split: {"before": score, "after": report["splits"][split].get(base.metric)}
            for split, score in before.items()
            if np.isfinite(score)
        },
        "costs": {
            **{name: {"before": first[cost], "after": last[cost]} for cost, name in names.items()},
            "seconds": seconds,
            "batch": {"rows": config.eval.batch_size, "units": task.objective.spec.row_length},
        },
    }


@contextlib.contextmanager
def written(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a new folder, which is removed where the block fails; what a killed attempt has left is removed first.

    The folder has its own name from the start, which its report shows; a hidden file in it says that it is not whole.
    """
    mark = folder / _UNFINISHED
    if mark.is_file():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    mark.unlink()


def is_whole(folder: pathlib.Path) -> bool:
    """Whether a folder of `written` has been written to its end."""
    return folder.is_dir() and any(folder.iterdir()) and not (folder / _UNFINISHED).is_file()


def new_output(value: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the directory of --output; UserError unless it is absent, empty, or left half-written."""
    path = files.user_path(value, "--output")
    return path if (path / _UNFINISHED).is_file() else files.output_directory(path, "--output")


def copy_run(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies a finished run into a folder; its reports name the new place."""
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(workdirs.LOCK_FILE, _UNFINISHED))
    for name in (MARKDOWN_FILE, HTML_FILE):
        path = folder / name
        if path.is_file():
            whole_name = rf"{re.escape(str(source))}(?![\w.-])"
            text = re.sub(whole_name, lambda _: str(folder), path.read_text(encoding="utf-8"))
            title = rf"(?<=: ){re.escape(source.name)}(?=\s|<)"
            files.write_text(path, re.sub(title, lambda _: folder.name, text))

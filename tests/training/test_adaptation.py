"""What is trained, when and how fast: against closed forms and optax on trees that are split by hand."""

import dataclasses
import functools
import math
import pathlib
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh

from jaxfm.adapt_config import AdaptConfig
from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import Loss, LossContext
from jaxfm.errors import UserError
from jaxfm.observe import metrics as metrics_lib
from jaxfm.optim_config import OptimConfig
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks import registry
from jaxfm.training.adaptation import EVERYTHING, MovingAverage, Partition, make_adaptation
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.initial import resolve
from jaxfm.training.optim import make_optimizer
from jaxfm.training.setup import Setup, set_up
from jaxfm.training.state import TrainState
from jaxfm.training.step import make_train_step
from tests import tiny

ENCODER = dataclasses.replace(tiny.ENCODER, num_layers=3)
MESHES = ((1, 1, 1, 1), (2, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 1))
BASE = {"train__steps": 50, "train__batch_size": 8, "train__accumulate": 2, "optim__learning_rate": 1e-3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("adaptation")
    tiny.write_weights(folder / "weights", ENCODER)
    return folder


@dataclasses.dataclass(frozen=True)
class Run:
    """A run whose steps are taken one by one."""

    config: Config
    task: Any
    setup: Setup
    mesh: Mesh

    @functools.cached_property
    def step(self) -> Any:
        return self.setup.session.compiled(self.config.train.batch_size)

    def train(self, state: TrainState, first: int, last: int) -> TrainState:
        for index in range(first, last):
            batch = self.setup.session.shard(self.setup.batches.batch(index))
            state, _ = self.step(state, self.setup.session.empty_sums(), batch, ())
        return state


def run_of(config: Config, sizes: tuple[int, ...] = MESHES[0]) -> Run:
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    task, loaded = registry.create(config, resolve(config.model))
    return Run(config, task, set_up(config, task, loaded, mesh), mesh)


def flat(tree: Any) -> dict[str, np.ndarray]:
    """Path -> host copy of each leaf of nested dicts."""
    return {path: np.array(leaf) for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def moments(state: TrainState) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]


# (settings, which parameters stay as they are: path -> frozen layers, None all)


def embeddings(path: str) -> bool:
    return path.startswith("encoder/embeddings/")


def in_layers(path: str) -> bool:
    return path.startswith("encoder/layers/")


FREEZING = {
    "head": ({"train": "head"}, lambda path: None if path.startswith("encoder/") else 0),
    "biases": (
        {"train": "biases"},
        lambda path: None if path.startswith("encoder/") and not path.endswith("bias") else 0,
    ),
    "embeddings": ({"freeze": ("encoder/embeddings/*",)}, lambda path: None if embeddings(path) else 0),
    "two layers": ({"freeze_layers": 2}, lambda path: 2 if in_layers(path) else 0),
    "all layers": ({"freeze_layers": 3}, lambda path: None if in_layers(path) else 0),
    "embeddings and a layer": (
        {"freeze": ("encoder/embeddings/*",), "freeze_layers": 1},
        lambda path: None if embeddings(path) else 1 if in_layers(path) else 0,
    ),
}


def adapted(folder: pathlib.Path, settings: dict[str, Any], **overrides: Any) -> Config:
    return tiny.config(folder, **BASE | overrides | {f"adapt__{key}": value for key, value in settings.items()})


@pytest.mark.parametrize(
    "sizes", [sizes if sizes[1] > 1 else pytest.param(sizes, marks=pytest.mark.slow) for sizes in MESHES]
)
def test_what_is_frozen_keeps_its_bits_for_50_steps(folder: pathlib.Path, sizes: tuple[int, ...]) -> None:
    settings, frozen = FREEZING["embeddings and a layer"]
    run = run_of(adapted(folder, settings), sizes)
    state = run.setup.initial_state()
    before = flat(state.params)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    assert run.step.memory_analysis().alias_size_in_bytes >= held  # donated, the frozen part too
    after = flat(run.train(state, 0, 50).params)
    for path, value in before.items():
        first = frozen(path)
        kept, moved = (value, value[:0]) if first is None else (value[:first], value[first:])
        assert kept.tobytes() == after[path][: len(kept)].tobytes(), path
        if moved.size and not path.endswith("attention/key/bias"):  # a softmax does not see that one
            assert np.abs(after[path][len(kept) :] - moved).max(axis=tuple(range(1, value.ndim))).min() > 0, path


@pytest.mark.parametrize(
    "name", [next(iter(FREEZING)), *(pytest.param(name, marks=pytest.mark.slow) for name in [*FREEZING][1:])]
)
def test_only_what_is_trained_has_optimizer_state(folder: pathlib.Path, name: str) -> None:
    settings, frozen = FREEZING[name]
    run = run_of(adapted(folder, settings), (1, 2, 1, 1))
    state = run.setup.initial_state()
    trained, padding = 0, 0
    for path, value in flat(state.params).items():
        first = frozen(path)
        trained += 0 if first is None else value[first:].size
        if path.endswith("word/embedding") and first is not None:
            padding = (128 - ENCODER.vocab_size) * ENCODER.hidden_size
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
    assert held == 2 * 4 * trained + 4 * 2  # two moments, and the counts of Adam and of the schedule
    size = run.setup.model_size
    assert (size.trainable_parameters, size.optimizer_bytes) == (trained - padding, held)
    assert size.share == size.trainable_parameters / size.parameters < 1
    # Cut along the mesh like the parameters they belong to, layers left out or not.
    params = flax.traverse_util.flatten_dict(
        run.setup.session.adaptation.partition.trained(run.setup.session.abstract.params), sep="/"
    )
    for moment in ("mu", "nu"):
        (adam,) = (part for part in state.opt_state if hasattr(part, "mu"))
        for path, leaf in flax.traverse_util.flatten_dict(getattr(adam, moment), sep="/").items():
            assert leaf.sharding == params[path].sharding and leaf.shape == params[path].shape


@pytest.mark.slow
def test_frozen_weights_have_no_gradient_and_the_backward_pass_ends_above_them(tmp_path: pathlib.Path) -> None:
    """Operations a step, as XLA counts them in layers that are not looped over."""
    tiny.write_weights(tmp_path / "weights", dataclasses.replace(ENCODER, hidden_size=64, ffn_size=256))

    def flops(settings: dict[str, Any]) -> float:
        run = run_of(adapted(tmp_path, settings, model__scan_layers=False, train__accumulate=1))
        return run.step.cost_analysis()["flops"]

    whole, head = flops({}), flops({"train": "head"})
    assert head == pytest.approx(whole / 3, rel=0.1)
    # Each frozen layer saves two thirds of its own work: the gradients of its weights, and of what it reads.
    embeddings, two, all_layers = (
        flops({"freeze": ("encoder/embeddings/*",), "freeze_layers": count}) for count in (0, 2, 3)
    )
    assert all_layers == pytest.approx(head, rel=0.01)
    assert (embeddings - two) / 2 == pytest.approx((embeddings - all_layers) / 3, rel=0.1)
    # Weights that are frozen under something that is not save the first of the two.
    assert flops({"train": "biases"}) == pytest.approx(2 * whole / 3, rel=0.1)


def reference(config: Config, run: Run, steps: int, frozen: Any) -> dict[str, np.ndarray]:
    """Training without any of the code under test: all gradients, of which parts are taken, and optax on those."""
    graphdef, _ = build_abstract(lambda: run.task.objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), run.mesh)
    state = run.setup.initial_state()
    params, key = jax.tree.map(jnp.asarray, flat(state.params)), jax.random.wrap_key_data(state.key)
    undecayed = ("bias", "norm/scale")

    def split(params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        parts = {path: value[frozen(path) or 0 :] for path, value in params.items() if frozen(path) is not None}
        return parts, {path: value[: len(value) - len(parts.get(path, ()))] for path, value in params.items()}

    def loss(parts: Any, rest: Any, batch: Any, step_key: jax.Array) -> Any:
        params = {
            path: jnp.concatenate([value, parts[path]]) if path in parts else value for path, value in rest.items()
        }
        nested = flax.traverse_util.unflatten_dict(params, sep="/")
        loss = run.task.objective.loss(nnx.merge(graphdef, nested), batch, LossContext(step_key))
        return loss.total / loss.weight

    parts, rest = split(params)
    decay = {path: not path.endswith(undecayed) for path in parts}
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.optim.clip_norm),
        optax.adamw(run.setup.session.schedule, weight_decay=config.optim.weight_decay, mask=decay),
    )
    opt_state, gradient = optimizer.init(parts), jax.jit(jax.grad(loss))
    for step in range(steps):
        batch = {name: jnp.asarray(value) for name, value in run.setup.batches.batch(step).items()}
        grads = gradient(parts, rest, batch, jax.random.fold_in(key, step))
        updates, opt_state = optimizer.update(grads, opt_state, parts)
        parts = optax.apply_updates(parts, updates)
    return {path: np.concatenate([rest[path], parts[path]]) if path in parts else rest[path] for path in params}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["biases", *(pytest.param(name, marks=pytest.mark.slow) for name in ("two layers", "embeddings"))]
)
def test_training_a_part_is_optax_on_that_part(folder: pathlib.Path, name: str) -> None:
    settings, frozen = FREEZING[name]
    config = adapted(folder, settings, train__accumulate=1, train__steps=6, optim__weight_decay=0.1)
    run = run_of(config)
    wanted = reference(config, run, 4, frozen)
    start = flat(run.setup.initial_state().params)
    got = flat(run.train(run.setup.initial_state(), 0, 4).params)
    for path, value in wanted.items():
        if path.endswith("attention/key/bias"):
            continue  # its gradient is rounding alone, which Adam scales up
        np.testing.assert_allclose(got[path], value, atol=3e-6, err_msg=path)
    assert max(np.abs(wanted[path] - start[path]).max() for path in wanted) > 1e-3


def test_without_settings_nothing_is_different() -> None:
    params = {"encoder": {"layers": {"kernel": jax.ShapeDtypeStruct((3, 2), jnp.float32)}}, "head": {}}
    adaptation = make_adaptation(AdaptConfig(), ENCODER, params, 10)
    assert (adaptation.partition.first, adaptation.rates, adaptation.unfreeze_steps) == ({}, (), ())
    for change in (adaptation.partition.trained, adaptation.partition.select):
        assert change(params) is params
    assert adaptation.partition.join(params, {}) is params


def test_a_partition_takes_apart_and_puts_together() -> None:
    params = {"a": {"b": jnp.arange(12.0).reshape(4, 3), "c": jnp.ones(2)}, "d": jnp.zeros(5)}
    partition = Partition({"a/b": 3, "d": None})
    trained = partition.trained(params)
    assert jax.tree.map(jnp.shape, trained) == {"a": {"b": (1, 3), "c": (2,)}}
    new = jax.tree.map(lambda leaf: leaf + 10, trained)
    for put in (partition.join, partition.put):
        whole = put(new, params)
        np.testing.assert_array_equal(whole["a"]["b"][:3], params["a"]["b"][:3])
        np.testing.assert_array_equal(whole["a"]["b"][3], [19, 20, 21])
        np.testing.assert_array_equal(whole["a"]["c"], [11, 11])
        assert whole["d"] is params["d"]
    grads = jax.grad(lambda part: sum(leaf.sum() for leaf in jax.tree.leaves(partition.join(part, params))))(trained)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, trained)


# Rates, and waking up.


def grouped(layers: int) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    shapes = {"embeddings/word": (5, 2), "layers/ffn/kernel": (layers, 2, 3), "layers/ffn/bias": (layers, 3)}
    flat = {f"encoder/{name}": draw.normal(size=shape) for name, shape in shapes.items()} | {
        "head/kernel": np.ones((2, 2))
    }
    return flax.traverse_util.unflatten_dict(
        {name: jnp.asarray(value, jnp.float32) for name, value in flat.items()}, "/"
    )


def scale(path: str, depth_rates: list[float], ndim: int) -> Any:
    """The value of each group by hand: embeddings, layers from below, head."""
    embeddings, *layers, head = depth_rates
    if path.startswith("encoder/layers"):
        return np.asarray(layers).reshape(-1, *[1] * (ndim - 1))
    return embeddings if path.startswith("encoder") else head


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_each_group_learns_at_its_own_rate(weight_decay: float) -> None:
    layers, params = 4, grouped(4)
    config = AdaptConfig(layer_decay=0.8, head_rate=5.0)
    optim = OptimConfig(no_decay=("*/bias",), weight_decay=weight_decay, clip_norm=0.0)
    encoder = dataclasses.replace(ENCODER, num_layers=layers)
    grads = jax.tree.map(lambda leaf: jnp.cos(leaf), params)
    updates = []
    for adaptation in (make_adaptation(config, encoder, params, 10), EVERYTHING):
        optimizer = make_optimizer(optim, optax.constant_schedule(0.01), params, adaptation)
        updates.append(flat(optimizer.update(grads, optimizer.init(params), params)[0]))
    rates = [0.8**5, 0.8**4, 0.8**3, 0.8**2, 0.8, 5.0]  # rate * decay^(L - l), l from 0
    for path, value in updates[1].items():
        np.testing.assert_allclose(updates[0][path], value * scale(path, rates, value.ndim), rtol=1e-5, err_msg=path)
        assert np.abs(value).min() > 0


EVERY, STEPS = 2, 12


def noisy_loss(params: Any, batch: Any, context: LossContext) -> Loss:
    """Linear, so that a step's gradients are known: `batch`."""
    del context
    total = sum(jnp.vdot(*pair) for pair in zip(jax.tree.leaves(params), jax.tree.leaves(batch), strict=True))
    return Loss(jnp.asarray(total), jnp.float32(1.0), {})


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_what_wakes_up_is_trained_as_if_it_began_then(clip_norm: float) -> None:
    """Each group against an Adam of its own that starts with the update it wakes for."""
    layers, params = 3, grouped(3)
    encoder = dataclasses.replace(ENCODER, num_layers=layers)
    adaptation = make_adaptation(AdaptConfig(unfreeze_every=EVERY, layer_decay=0.5), encoder, params, STEPS)
    optim = OptimConfig(no_decay=("*/bias",), weight_decay=0.1, clip_norm=clip_norm)
    schedule = optax.linear_schedule(0.1, 0.0, STEPS)
    optimizer = make_optimizer(optim, schedule, params, adaptation)
    step_fn = jax.jit(make_train_step(noisy_loss, optimizer, total_steps=STEPS, adaptation=adaptation))
    unfreeze_steps = [4 * EVERY, 3 * EVERY, 2 * EVERY, EVERY, 0]  # embeddings, layers from below, head
    rates = [0.5**4, 0.5**3, 0.5**2, 0.5, 1.0]

    def pieces(tree: Any) -> dict[tuple[str, int], np.ndarray]:
        """(path, group) -> the group's part of that parameter."""
        found = {}
        for path, value in flat(tree).items():
            if path.startswith("encoder/layers"):
                found |= {(path, 1 + layer): value[layer].astype(np.float64) for layer in range(layers)}
            else:
                found[path, 0 if path.startswith("encoder") else layers + 1] = value.astype(np.float64)
        return found

    wanted = pieces(params)
    first, second = ({name: np.zeros_like(value) for name, value in wanted.items()} for _ in range(2))
    key = jax.random.key_data(jax.random.key(0))
    state = TrainState(jnp.int32(0), params, optimizer.init(params), key)
    draw = np.random.default_rng(1)
    for step in range(STEPS):
        grads = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), jnp.float32), params)
        state, sums = step_fn(state, metrics_lib.zeros_like(dict.fromkeys(("loss", "gradient_norm", "skipped"))), grads)
        unfrozen = {name: value for name, value in pieces(grads).items() if step >= unfreeze_steps[name[1]]}
        norm = math.sqrt(sum((value**2).sum() for value in unfrozen.values()))
        np.testing.assert_allclose(sums["gradient_norm"][0], norm, rtol=1e-5)
        for name, grad in unfrozen.items():
            grad = grad * min(1.0, clip_norm / norm) if clip_norm else grad
            done = step - unfreeze_steps[name[1]] + 1
            first[name] = 0.9 * first[name] + 0.1 * grad
            second[name] = 0.999 * second[name] + 0.001 * grad**2
            update = first[name] / (1 - 0.9**done) / (np.sqrt(second[name] / (1 - 0.999**done)) + 1e-8)
            update += 0.1 * wanted[name] * (not name[0].endswith("bias"))
            wanted[name] = wanted[name] - 0.1 * (1 - step / STEPS) * rates[name[1]] * update
        for name, value in pieces(state.params).items():
            # In f32 1 - 0.999^n has four digits at n = 1; a count that is off by one would be off by 1e-2.
            np.testing.assert_allclose(value, wanted[name], atol=1e-5, err_msg=f"{name} after step {step}")
            if step < unfreeze_steps[name[1]]:
                np.testing.assert_array_equal(value, pieces(params)[name])


@pytest.mark.slow
def test_a_run_unfreezes_from_the_top(folder: pathlib.Path) -> None:
    run = run_of(adapted(folder, {"unfreeze_every": 2}, train__accumulate=1), (1, 2, 1, 1))
    state = run.setup.initial_state()
    start = flat(state.params)
    kernel, word = "encoder/layers/ffn/up/kernel", "encoder/embeddings/word/embedding"
    for step in range(10):
        state = run.train(state, step, step + 1)
        now = flat(state.params)
        moved = [bool((now[kernel][layer] != start[kernel][layer]).any()) for layer in range(3)]
        assert moved == [step >= 6, step >= 4, step >= 2]
        assert bool((now["head/kernel"] != start["head/kernel"]).any())
        assert bool((now[word] != start[word]).any()) == (step >= 8)


# Averages.


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"freeze_layers": 1}, pytest.param({}, marks=pytest.mark.slow)], ids=str)
def test_the_moving_average_is_its_recurrence(folder: pathlib.Path, settings: dict[str, Any]) -> None:
    plain = run_of(adapted(folder, settings, train__accumulate=1), (1, 2, 1, 1))
    averaged = run_of(adapted(folder, settings | {"ema": 0.3}, train__accumulate=1), (1, 2, 1, 1))
    state, other = plain.setup.initial_state(), averaged.setup.initial_state()
    wanted = {path: value.astype(np.float64) for path, value in flat(state.params).items()}
    for step in range(6):
        state, other = plain.train(state, step, step + 1), averaged.train(other, step, step + 1)
        decay = min(0.3, (1 + step) / (10 + step))
        moved = flat(state.params)
        wanted = {path: decay * value + (1 - decay) * moved[path] for path, value in wanted.items()}
    for path, value in flat(other.params).items():
        np.testing.assert_allclose(value, wanted[path], atol=1e-6, err_msg=path)
    # The optimizer goes the way that it goes without an average, and the gradient is taken there.
    for path, value in flat(other.live_params).items():
        moved = flat(plain.setup.session.adaptation.partition.trained(state.params))[path]
        np.testing.assert_allclose(value, moved, atol=1e-7, err_msg=path)
    assert (
        state.live_params == {}
        and np.abs(flat(other.params)["head/kernel"] - flat(other.live_params)["head/kernel"]).max() > 1e-4
    )
    for leaf, place in zip(jax.tree.leaves(other), jax.tree.leaves(averaged.setup.session.abstract), strict=True):
        assert leaf.sharding == place.sharding


def test_a_step_that_is_skipped_leaves_the_average_alone() -> None:
    params = {"kernel": jnp.ones(3)}
    adaptation = dataclasses.replace(EVERYTHING, averaging=MovingAverage(0.9))
    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(noisy_loss, optimizer, total_steps=4, adaptation=adaptation))
    state = TrainState(jnp.int32(0), params, optimizer.init(params), jax.random.key_data(jax.random.key(0)), params)
    sums = metrics_lib.zeros_like(dict.fromkeys(("loss", "gradient_norm", "skipped")))
    after, sums = step(state, sums, {"kernel": jnp.asarray([1.0, jnp.nan, 1.0])})
    assert sums["skipped"][0] == 1
    np.testing.assert_array_equal(after.params["kernel"], params["kernel"])
    np.testing.assert_array_equal(after.live_params["kernel"], params["kernel"])


EVERYTHING_AT_ONCE = {
    "low rank": {
        "lora__rank": 2, "lora__targets": ("all",), "freeze_layers": 1, "unfreeze_every": 1, "layer_decay": 0.9,
        "head_rate": 3.0, "ema": 0.5,
    },
    "the rest": {"adapter_size": 4, "prefix_length": 2, "ema": 0.9},
    "a part": {"train": "biases", "freeze": ("encoder/embeddings/*",), "freeze_layers": 1, "layer_decay": 0.7},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes", [sizes if sizes[1] > 1 else pytest.param(sizes, marks=pytest.mark.slow) for sizes in MESHES[1:]], ids=str
)
@pytest.mark.parametrize(
    "name",
    [name if name == "low rank" else pytest.param(name, marks=pytest.mark.slow) for name in EVERYTHING_AT_ONCE],
)
def test_saved_and_restored_is_uninterrupted_on_any_mesh(
    folder: pathlib.Path, name: str, sizes: tuple[int, ...], tmp_path: pathlib.Path
) -> None:
    config = adapted(folder, EVERYTHING_AT_ONCE[name], train__steps=8)
    run = run_of(config, sizes)
    whole = run.train(run.setup.initial_state(), 0, 6)
    half = run.train(run.setup.initial_state(), 0, 3)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    sums = run.setup.session.empty_sums()
    checkpoints.save(half, sums, {})
    checkpoints.wait()
    abstract_sums = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), sums)
    restored = checkpoints.restore_latest(run.setup.session.abstract, abstract_sums)
    checkpoints.close()
    assert restored is not None
    resumed = run.train(restored[0], 3, 6)
    for one, other in zip(jax.tree.leaves(resumed), jax.tree.leaves(whole), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    start, alone = flat(run.setup.initial_state().params), flat(alone_after_six(folder, name))
    for path, value in flat(whole.params).items():
        np.testing.assert_allclose(value, alone[path], atol=2e-4, err_msg=path)
    assert max(np.abs(alone[path] - value).max() for path, value in start.items()) > 3e-3


@functools.cache
def alone_after_six(folder: pathlib.Path, name: str) -> Any:
    """The parameters that one device comes to."""
    run = run_of(adapted(folder, EVERYTHING_AT_ONCE[name], train__steps=8))
    return run.train(run.setup.initial_state(), 0, 6).params


REFUSED = [
    ({"freeze": ("encoder/embedings/*",)}, "config.adapt.freeze: pattern 'encoder/embedings/*' matches no parameter"),
    ({"freeze_layers": 4}, "config.adapt.freeze_layers: 4, but the encoder has 3 layers; at most 3."),
    ({"freeze": ("*",)}, "config.adapt: all parameters are frozen"),
    ({"unfreeze_every": 3, "train": "head"}, "config.adapt.unfreeze_every: 3 contradicts config.adapt.train='head'"),
    ({"lora__rank": 2, "train": "biases"}, "config.adapt.lora.rank: 2 contradicts config.adapt.train='biases'"),
    ({"adapter_size": 2, "train": "head"}, "config.adapt.adapter_size: 2 contradicts config.adapt.train='head'"),
    ({"lora__rank": 2, "lora__targets": ("querry",)}, "config.adapt.lora.targets: 'querry' is not a linear map"),
]


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_is_refused(folder: pathlib.Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        run_of(adapted(folder, settings))
    assert message in str(caught.value)


def test_the_rank_and_the_number_of_updates_have_nearest_choices(folder: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"unfreeze_every: 13 .* from update 52 on of a run of 50\. At most 12"):
        run_of(adapted(folder, {"unfreeze_every": 13}))
    run_of(adapted(folder, {"unfreeze_every": 12}))
    run_of(adapted(folder, {"unfreeze_every": 16, "freeze": ("encoder/embeddings/*",)}))
    with pytest.raises(UserError, match=r"config\.adapt\.lora\.rank: is -1, but must be at least 0"):
        adapted(folder, {"lora__rank": -1})


def test_biases_of_an_encoder_without_any(folder: pathlib.Path) -> None:
    params = {"encoder": {"layers": {"kernel": jnp.ones((3, 2))}}, "head": {"bias": jnp.ones(2)}}
    with pytest.raises(
        UserError, match=r"config\.adapt\.train: 'biases', but an encoder of family 'modernbert' has none"
    ):
        make_adaptation(AdaptConfig(train="biases"), dataclasses.replace(ENCODER, family="modernbert"), params, 10)

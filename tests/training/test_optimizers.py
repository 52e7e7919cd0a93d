"""Every optimizer beside its published update, in numpy and f64, over 20 steps; stacked layers are layers."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfm.errors import UserError
from jaxfm.optim_config import OPTIMIZERS, AdafactorConfig, LionConfig, MuonConfig, OptimConfig, SgdConfig
from jaxfm.training import optimizers
from jaxfm.training.adaptation import EVERYTHING, Adaptation, MovingAverage, Partition
from jaxfm.training.optim import make_optimizer
from jaxfm.training.rate_schedules import make_schedule

STEPS, LAYERS = 20, 3
Arrays = dict[str, np.ndarray]
# (gradient, parameter, memory, update from 0, rate) -> the change of one array, which is a whole parameter or, where
# parameters are stacked, that of one layer.
Rule = Callable[[np.ndarray, np.ndarray, dict[str, Any], int, float], np.ndarray]

SHAPES = {
    "encoder/embeddings/word/embedding": (7, 4),
    "encoder/layers/attention/query/kernel": (LAYERS, 4, 2, 3),
    "encoder/layers/attention/output/kernel": (LAYERS, 2, 3, 4),
    "encoder/layers/ffn/up/kernel": (LAYERS, 4, 5),
    "encoder/layers/ffn/up/bias": (LAYERS, 5),
    "encoder/layers/ffn_norm/scale": (LAYERS, 4),
    "head/kernel": (4, 3),
    "head/bias": (3,),
}
DECAY = 0.1
CONFIG = OptimConfig(
    learning_rate=1e-2, warmup_fraction=0.2, weight_decay=DECAY, clip_norm=0.0, b1=0.8, b2=0.95, eps=1e-6
)


def problem(shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> tuple[Arrays, list[Arrays]]:
    """Parameters, and gradients that grow tenfold half-way: what is clipped by its size must notice."""
    draw = np.random.default_rng(0)
    params = {path: draw.standard_normal(shape) for path, shape in shapes.items()}
    sizes = [0.1 if step < STEPS // 2 else 1.0 for step in range(STEPS)]
    return params, [
        {path: size * draw.standard_normal(value.shape) for path, value in params.items()} for size in sizes
    ]


def nested(flat: Mapping[str, Any]) -> Any:
    return flax.traverse_util.unflatten_dict(dict(flat), sep="/")


def flat(tree: Any) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def ours(config: OptimConfig, params: Arrays, gradients: list[Arrays]) -> Iterator[tuple[Arrays, Any]]:
    """Yields parameters and the optimizer's state after each update."""
    now = nested({path: jnp.asarray(value, jnp.float32) for path, value in params.items()})
    optimizer = make_optimizer(config, make_schedule(config, len(gradients)), now)
    optimizer = optax.with_extra_args_support(optimizer)
    state, update = optimizer.init(now), jax.jit(optimizer.update)
    for step, gradient in enumerate(gradients):
        grads = nested({path: jnp.asarray(value, jnp.float32) for path, value in gradient.items()})
        updates, state = update(grads, state, now, norm=optax.tree.norm(grads), step=jnp.int32(step))
        now = optax.apply_updates(now, updates)
        yield {path: np.asarray(value) for path, value in flat(now).items()}, state


def rates(config: OptimConfig) -> list[float]:
    warmup = round(config.warmup_fraction * STEPS)
    rest = STEPS - warmup
    after = [1.0 if config.schedule == "constant" else 1 - step / rest for step in range(rest)]
    return [config.learning_rate * share for share in [(step + 1) / warmup for step in range(warmup)] + after]


def published(config: OptimConfig, rule_of: Callable[[str], Rule]) -> Iterator[Arrays]:
    """Yields the parameters after each update by rules that know one array at a time."""
    params, gradients = problem()
    memories: dict[tuple[str, int], dict[str, Any]] = {}
    for step, (gradient, rate) in enumerate(zip(gradients, rates(config), strict=True)):
        for path, value in params.items():
            stacked = path.startswith("encoder/layers/")
            layers = range(LAYERS) if stacked else range(1)
            old, grad = (value, gradient[path]) if stacked else (value[None], gradient[path][None])
            new = [
                old[layer] + rule_of(path)(grad[layer], old[layer], memories.setdefault((path, layer), {}), step, rate)
                for layer in layers
            ]
            params[path] = np.stack(new) if stacked else new[0]
        yield dict(params)


def decay_of(path: str) -> float:
    return DECAY if path.endswith(("kernel", "embedding")) else 0.0


def moment(memory: dict[str, Any], name: str, value: np.ndarray, beta: float) -> np.ndarray:
    memory[name] = beta * memory.get(name, 0.0) + (1 - beta) * value
    return memory[name]


def adam(gradient: np.ndarray, memory: dict[str, Any], step: int) -> tuple[np.ndarray, np.ndarray]:
    """Kingma and Ba 2015, algorithm 1: the direction, and the second moment without its bias."""
    m = moment(memory, "m", gradient, CONFIG.b1) / (1 - CONFIG.b1 ** (step + 1))
    v = moment(memory, "v", gradient**2, CONFIG.b2) / (1 - CONFIG.b2 ** (step + 1))
    return m / (np.sqrt(v) + CONFIG.eps), v


def adamw(path: str) -> Rule:
    return lambda g, x, memory, step, rate: -rate * (adam(g, memory, step)[0] + decay_of(path) * x)


def sgd(path: str, momentum: float, nesterov: bool) -> Rule:
    def rule(g: np.ndarray, x: np.ndarray, memory: dict[str, Any], step: int, rate: float) -> np.ndarray:
        memory["m"] = momentum * memory.get("m", 0.0) + g
        direction = g + momentum * memory["m"] if nesterov else memory["m"]
        return -rate * (direction + decay_of(path) * x)

    return rule


def lamb(path: str) -> Rule:
    def rule(g: np.ndarray, x: np.ndarray, memory: dict[str, Any], step: int, rate: float) -> np.ndarray:
        direction = adam(g, memory, step)[0] + decay_of(path) * x
        ratio = np.linalg.norm(x) / np.linalg.norm(direction) if decay_of(path) else 1.0
        return -rate * ratio * direction

    return rule


def lion(path: str, b1: float, b2: float) -> Rule:
    def rule(g: np.ndarray, x: np.ndarray, memory: dict[str, Any], step: int, rate: float) -> np.ndarray:
        before = memory.get("m", np.zeros_like(g))
        memory["m"] = b2 * before + (1 - b2) * g
        return -rate * (np.sign(b1 * before + (1 - b1) * g) + decay_of(path) * x)

    return rule


def adafactor(path: str, power: float, limit: float, smallest: int) -> Rule:
    """Shazeer and Stern 2018, algorithms 4 and 5, at a given rate (not relative to the parameter's size)."""

    def rule(g: np.ndarray, x: np.ndarray, memory: dict[str, Any], step: int, rate: float) -> np.ndarray:
        beta, square = 1 - float(step + 1) ** -power, g**2 + 1e-30
        matrix = x.ndim >= 2
        if matrix:
            inputs = 6 if path.endswith("output/kernel") else x.shape[0]
            square, two = square.reshape(inputs, -1), g.reshape(inputs, -1)
        if matrix and min(square.shape) >= smallest:
            rows, columns = moment(memory, "r", square.mean(1), beta), moment(memory, "c", square.mean(0), beta)
            direction = two / np.sqrt(np.outer(rows, columns) / rows.mean())
        else:
            direction = g.reshape(square.shape) / np.sqrt(moment(memory, "v", square, beta))
        direction = direction / max(1.0, math.sqrt((direction**2).mean()) / limit)
        return -rate * (direction.reshape(x.shape) + decay_of(path) * x)

    return rule


def newton_schulz(matrix: np.ndarray, iterations: int) -> np.ndarray:
    """Jordan et al. 2024: odd polynomials of the singular values, which end near 1."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / (np.linalg.norm(matrix) + 1e-8)
    for _ in range(iterations):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left * values @ right


def muon(path: str, settings: MuonConfig) -> Rule:
    beta = settings.momentum

    def rule(g: np.ndarray, x: np.ndarray, memory: dict[str, Any], step: int, rate: float) -> np.ndarray:
        if not (path.startswith("encoder/layers/") and path.endswith("kernel")):
            return adamw(path)(g, x, memory, step, rate)
        m = moment(memory, "m", g, beta)
        if settings.nesterov:  # without the bias of both, as in NAdam (Dozat 2016)
            direction = beta * m / (1 - beta ** (step + 2)) + (1 - beta) * g / (1 - beta ** (step + 1))
        else:
            direction = m
        inputs = 6 if path.endswith("output/kernel") else x.shape[0]
        direction = newton_schulz(direction.reshape(inputs, -1), settings.iterations)
        direction = direction * settings.rms * math.sqrt(max(direction.shape))
        return -rate * (direction.reshape(x.shape) + decay_of(path) * x)

    return rule


def stable_adamw(path: str) -> Rule:
    def rule(g: np.ndarray, x: np.ndarray, memory: dict[str, Any], step: int, rate: float) -> np.ndarray:
        direction, v = adam(g, memory, step)
        rms = math.sqrt((g**2 / np.maximum(v, CONFIG.eps**2)).mean())
        memory["clipped"] = memory.get("clipped", 0) + (rms > 1)
        return -rate / max(1.0, rms) * (direction + decay_of(path) * x)

    return rule


SGD, LION = SgdConfig(momentum=0.7), LionConfig(b1=0.8, b2=0.95)
NESTEROV, ADAFACTOR = SgdConfig(momentum=0.7, nesterov=True), AdafactorConfig(decay_power=0.7, clip_rms=0.8)
MUON, PLAIN = MuonConfig(momentum=0.9, iterations=4, rms=0.3), MuonConfig(momentum=0.9, nesterov=False)
NO_ADAM: dict[str, Any] = {key: getattr(OptimConfig(), key) for key in ("b1", "b2", "eps")}
CASES: dict[str, tuple[OptimConfig, Callable[[str], Rule], float]] = {
    "adamw": (CONFIG, adamw, 2e-6),
    "sgd": (dataclasses.replace(CONFIG, name="sgd", sgd=SGD, **NO_ADAM), lambda path: sgd(path, 0.7, False), 2e-6),
    "sgd nesterov": (
        dataclasses.replace(CONFIG, name="sgd", sgd=NESTEROV, **NO_ADAM),
        lambda path: sgd(path, 0.7, True),
        2e-6,
    ),
    "lamb": (dataclasses.replace(CONFIG, name="lamb"), lamb, 5e-6),
    "lion": (dataclasses.replace(CONFIG, name="lion", lion=LION, **NO_ADAM), lambda path: lion(path, 0.8, 0.95), 2e-6),
    "adafactor": (
        dataclasses.replace(CONFIG, name="adafactor", adafactor=ADAFACTOR, **NO_ADAM),
        lambda path: adafactor(path, 0.7, 0.8, smallest=128),
        2e-6,
    ),
    "muon": (dataclasses.replace(CONFIG, name="muon", muon=MUON), lambda path: muon(path, MUON), 2e-5),
    "muon plain": (dataclasses.replace(CONFIG, name="muon", muon=PLAIN), lambda path: muon(path, PLAIN), 2e-5),
    "stable_adamw": (dataclasses.replace(CONFIG, name="stable_adamw"), stable_adamw, 5e-6),
}


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_equal_the_published_update(case: str) -> None:
    config, rule_of, tolerance = CASES[case]
    first, gradients = problem()
    steps = zip(ours(config, first, gradients), published(config, rule_of), strict=True)
    got, wanted = first, first
    for (got, _), wanted in steps:
        for path in wanted:
            np.testing.assert_allclose(got[path], wanted[path], rtol=tolerance, atol=tolerance, err_msg=path)
    for path, value in first.items():  # far enough that an error would show
        assert np.abs(got[path] - value).max() > 20 * tolerance, path
    *_, other = published(config, adamw)
    assert case == "adamw" or max(np.abs(other[path] - wanted[path]).max() for path in other) > 1e-3


def test_large_matrices_of_adafactor_are_kept_as_rows_and_columns() -> None:
    config, _, _ = CASES["adafactor"]
    shapes = {"encoder/layers/attention/query/kernel": (2, 130, 10, 13), "head/kernel": (131, 129)}
    params, gradients = problem(shapes)
    *_, (got, state) = ours(config, params, gradients[:3])
    now, memories = {path: value.copy() for path, value in params.items()}, {}
    for step, (gradient, rate) in enumerate(zip(gradients[:3], rates_of(config, 3), strict=True)):
        for path in params:
            layers = range(2) if path.startswith("encoder") else [slice(None)]
            for layer in layers:
                rule = adafactor(path, 0.7, 0.8, smallest=128)
                memory = memories.setdefault((path, str(layer)), {})
                now[path][layer] += rule(gradient[path][layer], now[path][layer], memory, step, rate)
    for path, value in now.items():
        np.testing.assert_allclose(got[path], value, rtol=1e-5, atol=1e-6, err_msg=path)
    held, whole = sum(leaf.size for leaf in jax.tree.leaves(state)), sum(value.size for value in params.values())
    assert held < whole / 50


def rates_of(config: OptimConfig, steps: int) -> list[float]:
    schedule = make_schedule(config, steps)
    return [float(schedule(step)) for step in range(steps)]


def test_schedule_free_adamw_equals_its_published_update() -> None:
    """Defazio et al. 2024, section 4: gradients are taken at y; z makes Adam's steps; x is the average of the z."""
    config = dataclasses.replace(CONFIG, name="schedule_free_adamw", schedule="constant")
    first, gradients = problem()
    x, y, z = dict(first), dict(first), dict(first)
    memory: dict[str, dict[str, Any]] = {path: {} for path in first}
    weights, largest = 0.0, 0.0
    average = optimizers.averaging(config)
    assert average is not None
    steps = zip(ours(config, first, gradients), gradients, rates(config), strict=True)
    for step, ((got, state), gradient, rate) in enumerate(steps):
        largest = max(largest, rate)
        weights += largest**2
        share = largest**2 / weights
        for path, g in gradient.items():
            v = moment(memory[path], "v", g**2, config.b2) / (1 - config.b2 ** (step + 1))
            z[path] = z[path] - rate * (g / (np.sqrt(v) + config.eps) + decay_of(path) * y[path])
            x[path] = (1 - share) * x[path] + share * z[path]
            y[path] = (1 - config.b1) * z[path] + config.b1 * x[path]
            np.testing.assert_allclose(got[path], y[path], rtol=5e-6, atol=5e-6, err_msg=path)
        evaluated = flat(average({}, nested(got), state, jnp.int32(step)))
        for path, value in evaluated.items():
            np.testing.assert_allclose(value, x[path], rtol=5e-6, atol=5e-6, err_msg=path)
    assert max(np.abs(x[path] - y[path]).max() for path in x) > 1e-3


def test_the_table_is_whole() -> None:
    assert tuple(optimizers.TABLE) == OPTIMIZERS
    assert {config.name for config, _, _ in CASES.values()} | {"schedule_free_adamw"} == set(OPTIMIZERS)


@pytest.mark.parametrize("path", SHAPES)
def test_matrices_are_those_of_layers(path: str) -> None:
    shape = SHAPES[path]
    wanted = path.startswith("encoder/layers/") and path.endswith("kernel")
    assert optimizers.is_matrix(path, len(shape)) is wanted
    axes = {"query": ((1,), (2, 3)), "output": ((1, 2), (3,)), "up": ((1,), (2,))}
    if wanted:
        assert tuple(optimizers.matrix_axes(path, len(shape))) == axes[path.split("/")[-2]]


def test_factors_of_low_rank_updates_are_matrices() -> None:
    base = "encoder/layers/attention/output/lora"
    assert tuple(optimizers.matrix_axes(f"{base}/a", 4)) == ((1, 2), 3)  # [L, heads, head_dim, rank]
    assert tuple(optimizers.matrix_axes(f"{base}/b", 3)) == (1, (2,))  # [L, rank, D]
    assert tuple(optimizers.matrix_axes("encoder/layers/attention/query/lora/b", 4)) == (1, (2, 3))


REFUSED = [
    (
        {"name": "sgd", "b2": 0.9},
        "config.optim.b2: is 0.9, a setting of Adam's kind alone, and config.optim.name='sgd' has no such setting. "
        "Leave it at its default: --config.optim.b2=0.999",
    ),
    (
        {"lion": LionConfig(b2=0.9)},
        "config.optim.lion.b2: is 0.9, a setting of name='lion', and config.optim.name='adamw' has no such setting. "
        "Leave it at its default: --config.optim.lion.b2=0.99",
    ),
    ({"name": "schedule_free_adamw", "b1": 0.0}, "config.optim.b1: 0 leaves"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[message[:24] for _, message in REFUSED])
def test_settings_that_an_optimizer_does_not_have_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        optimizers.check(OptimConfig(**values), EVERYTHING)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_layers_that_wake_later_are_refused_where_moments_cannot(name: str) -> None:
    waking = Adaptation(unfreeze_steps=(0, 0, 0))
    if optimizers.TABLE[name].wakes:
        optimizers.check(OptimConfig(name=name), waking)
        return
    with pytest.raises(UserError, match=rf"config\.adapt\.unfreeze_every: .*'{name}'"):
        optimizers.check(OptimConfig(name=name), waking)


def test_two_averages_are_refused() -> None:
    averaged = Adaptation(averaging=MovingAverage(0.9))
    optimizers.check(OptimConfig(), averaged)
    with pytest.raises(UserError, match=r"config\.adapt\.ema: config\.optim\.name='schedule_free_adamw' keeps"):
        optimizers.check(OptimConfig(name="schedule_free_adamw"), averaged)


def test_what_is_known_to_hurt_is_said() -> None:
    loaded = {"encoder/layers/ffn/up/kernel": np.zeros(1), "encoder/embeddings/word/embedding": np.zeros(1)}
    config = OptimConfig(name="muon")
    (note,) = optimizers.notes(config, EVERYTHING, loaded)
    assert note.startswith("WARNING: config.optim.name='muon' trains all of the loaded weights.")
    frozen = Adaptation(partition=Partition({"encoder/layers/ffn/up/kernel": None}))
    assert optimizers.notes(config, frozen, loaded) == optimizers.notes(config, EVERYTHING, {}) == ()
    assert optimizers.notes(OptimConfig(), EVERYTHING, loaded) == ()
    free = OptimConfig(name="schedule_free_adamw")
    (note,) = optimizers.notes(free, EVERYTHING, {})
    assert "config.optim.schedule='linear' lets it fall" in note
    assert optimizers.notes(dataclasses.replace(free, schedule="constant"), EVERYTHING, {}) == ()

"""AdamW against numpy in f64 and torch, and what falls under its decay."""

import math
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfm.errors import UserError
from jaxfm.optim_config import OptimConfig
from jaxfm.training.optim import make_optimizer
from jaxfm.training.paths import match_paths
from jaxfm.training.rate_schedules import make_schedule
from tests import tiny


def test_decay_falls_on_kernels_and_embeddings_alone() -> None:
    flat = {name: np.ones_like(value) for name, value in tiny.random_params(tiny.ENCODER, 5, seed=0).items()}
    assert flat["encoder/layers/ffn/up/bias"].ndim == flat["encoder/layers/ffn_norm/scale"].ndim == 2  # stacked
    params = flax.traverse_util.unflatten_dict(flat, sep="/")
    config = OptimConfig(weight_decay=0.5, clip_norm=0.0)
    optimizer = make_optimizer(config, optax.constant_schedule(0.1), params)
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)  # no gradient: what moves is decayed
    updates = flax.traverse_util.flatten_dict(updates, sep="/")
    decayed = {name for name, value in updates.items() if np.any(value)}
    assert decayed == {name for name in flat if name.endswith(("kernel", "embedding"))}
    assert {"head/kernel", "encoder/embeddings/word/embedding", "encoder/layers/attention/output/kernel"} < decayed
    for name in decayed:
        np.testing.assert_allclose(updates[name], -0.1 * 0.5, rtol=1e-6)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    params = {"encoder": {"norm": {"scale": 0.0, "bias": 0.0}}}
    assert match_paths(params, ("*/bias",), "key") == {"encoder": {"norm": {"scale": False, "bias": True}}}
    with pytest.raises(
        UserError, match=r"config\.optim\.no_decay: pattern 'encoder/norm/scales' .*'encoder/norm/scale'"
    ):
        make_optimizer(OptimConfig(no_decay=("*/bias", "encoder/norm/scales")), optax.constant_schedule(1.0), params)


def problem(steps: int) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Parameters and a gradient for each step: some with a norm above 1, some below."""
    draw = np.random.default_rng(0)
    params = {"a/kernel": draw.standard_normal((4, 3)), "a/bias": draw.standard_normal(3)}
    gradients = [
        {name: draw.standard_normal(value.shape) * (3.0, 0.1)[step % 2] for name, value in params.items()}
        for step in range(steps)
    ]
    norms = [math.sqrt(sum(float((value**2).sum()) for value in gradient.values())) for gradient in gradients]
    assert min(norms) < 1.0 < max(norms)
    return params, gradients


CONFIG = OptimConfig(learning_rate=1e-2, warmup_fraction=0.2, weight_decay=0.1, no_decay=("*/bias",), b2=0.99, eps=1e-6)


def ours(params: dict[str, np.ndarray], gradients: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
    optimizer = make_optimizer(CONFIG, make_schedule(CONFIG, len(gradients)), params)
    now: Any = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    optimizer = optax.with_extra_args_support(optimizer)
    state, history = optimizer.init(now), []
    for gradient in gradients:
        gradient = jax.tree.map(jnp.float32, gradient)
        updates, state = optimizer.update(gradient, state, now, norm=optax.tree.norm(gradient))
        now = optax.apply_updates(now, updates)
        history.append(jax.tree.map(np.asarray, now))
    return history


def closed_form(
    params: dict[str, np.ndarray], gradients: list[dict[str, np.ndarray]], *, decoupled: bool = True, clip: float = 1.0
) -> list[dict[str, np.ndarray]]:
    """Loshchilov and Hutter 2019, algorithm 2, after clipping by the global norm."""
    now, history = dict(params), []
    first = {name: np.zeros_like(value) for name, value in params.items()}
    second = {name: np.zeros_like(value) for name, value in params.items()}
    total, warmup = len(gradients), round(CONFIG.warmup_fraction * len(gradients))
    for step, gradient in enumerate(gradients):
        norm = math.sqrt(sum(float((value**2).sum()) for value in gradient.values()))
        rate = CONFIG.learning_rate * ((step + 1) / warmup if step < warmup else (total - step) / (total - warmup))
        for name, value in gradient.items():
            decay = CONFIG.weight_decay if name == "a/kernel" else 0.0
            value = value * min(1.0, clip / norm) + (0.0 if decoupled else decay * now[name])
            first[name] = CONFIG.b1 * first[name] + (1 - CONFIG.b1) * value
            second[name] = CONFIG.b2 * second[name] + (1 - CONFIG.b2) * value**2
            m, v = first[name] / (1 - CONFIG.b1 ** (step + 1)), second[name] / (1 - CONFIG.b2 ** (step + 1))
            now[name] = now[name] - rate * (m / (np.sqrt(v) + CONFIG.eps) + decoupled * decay * now[name])
        history.append(dict(now))
    return history


def test_adamw_equals_its_closed_form() -> None:
    params, gradients = problem(steps=10)
    for got, wanted in zip(ours(params, gradients), closed_form(params, gradients), strict=True):
        for name in params:
            np.testing.assert_allclose(got[name], wanted[name], rtol=2e-6, atol=1e-7)
    # The same numbers would not come out without clipping, nor with decay as a part of the gradient.
    for other in (closed_form(params, gradients, clip=1e9), closed_form(params, gradients, decoupled=False)):
        assert np.abs(other[-1]["a/kernel"] - wanted["a/kernel"]).max() > 1e-3


def test_adamw_equals_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    params, gradients = problem(steps=20)
    tensors = {name: torch.nn.Parameter(torch.tensor(value, dtype=torch.float32)) for name, value in params.items()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [tensors["a/kernel"]], "weight_decay": CONFIG.weight_decay},
            {"params": [tensors["a/bias"]], "weight_decay": 0.0},
        ],
        lr=1.0,
        betas=(CONFIG.b1, CONFIG.b2),
        eps=CONFIG.eps,
    )
    schedule = make_schedule(CONFIG, 20)
    for step, gradient in enumerate(gradients):
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(gradient[name], dtype=torch.float32)
        torch.nn.utils.clip_grad_norm_(list(tensors.values()), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = float(schedule(step))
        optimizer.step()
    got = ours(params, gradients)[-1]
    for name, tensor in tensors.items():
        np.testing.assert_allclose(got[name], tensor.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_patterns_of_the_default_may_match_nothing() -> None:
    params = {"encoder": {"norm": {"scale": jnp.ones(2)}, "kernel": jnp.ones((2, 2))}}  # EuroBERT's have no bias
    updates = make_optimizer(OptimConfig(weight_decay=1.0), optax.constant_schedule(1.0), params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    found, _ = updates.update(zeros, updates.init(params), params, norm=jnp.float32(0), step=jnp.int32(0))
    assert float(found["encoder"]["kernel"][0, 0]) == -1.0 and not np.any(found["encoder"]["norm"]["scale"])

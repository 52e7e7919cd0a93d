"""Mixup's loss against numpy, and examples that are not mixed against a loss without it."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config
from jaxfm.core.objective import LossContext
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from jaxfm.training.mixup import MixupObjective
from jaxfm.training.session import Session, make_session
from tests import tiny

KEYS: dict[str, Any] = {"augment__mixup": 0.8, "model__dropout": 0.0, "train__batch_size": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("mixup")


def opened(config: Config, devices: Any = None) -> tuple[Any, Session, Any, dict[str, jax.Array]]:
    task, loaded = registry.create(config, resolve(config.model))
    session = make_session(config, task.objective, make_mesh(config.parallel.mesh, devices), total_steps=6)
    batch = {name: jnp.asarray(value) for name, value in tiny.batch_of(task.datasets["train"], 8).items()}
    return task, session, session.initial_state(0, loaded).params, batch


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("kind", ["single", pytest.param("regression", marks=pytest.mark.slow), "ner"])
def test_the_loss_is_that_of_mixed_states_and_both_targets(folder: pathlib.Path, kind: str) -> None:
    """After the last layer, where mixed states go straight to the head: numpy takes it from there."""
    own = {"augment__mixup_layers": (2,), **KEYS}
    config = tiny.config(folder, **own) if kind == "ner" else tiny.classification_config(folder, kind, **own)
    task, session, params, batch = opened(config)
    objective = session.objective
    assert isinstance(objective, MixupObjective)
    context = LossContext(jax.random.key(5), 0.0, (), jax.random.key(6))

    @jax.jit
    def computed(params: Any) -> Any:
        model = nnx.merge(session.graphdef, params)
        mixing, others = objective.draw(batch, context)
        drawn = (mixing.chosen, mixing.other_share, mixing.partners_BT, others["labels"])
        return objective.loss(model, batch, context), drawn, model.encoder(batch)

    found, drawn, states = computed(params)
    chosen, share, partners, others = (np.asarray(each) for each in drawn)
    assert chosen == 2 and 0 < share <= 0.5
    x = np.asarray(states, np.float64)
    mixed = (1 - share) * x + share * x.reshape(-1, x.shape[-1])[partners]
    head = {name: np.asarray(value, np.float64) for name, value in params["head"].items()}
    segments, positions, labels = (np.asarray(batch[name]) for name in ("segment_ids", "positions", "labels"))
    if kind == "ner":
        scores = mixed @ head["kernel"] + head["bias"]
    else:
        pooler = {name: np.asarray(value, np.float64) for name, value in params["pooler"].items()}
        scores = np.zeros((*labels.shape[:2], head["kernel"].shape[1]))
        for row, at in zip(*np.nonzero((positions == 0) & (segments > 0)), strict=True):
            pooled = np.tanh(mixed[row, at] @ pooler["kernel"] + pooler["bias"])
            scores[row, segments[row, at] - 1] = pooled @ head["kernel"] + head["bias"]

    def total(targets: np.ndarray) -> tuple[float, int]:
        valid = targets >= 0
        if kind == "regression":
            valid = np.arange(targets.shape[1]) < segments.max(axis=1, keepdims=True)
            return float((((scores[..., 0] - targets) ** 2) * valid).sum()), int(valid.sum())
        picked = np.take_along_axis(log_softmax(scores), np.maximum(targets, 0)[..., None], axis=-1)[..., 0]
        return float(-(picked * valid).sum()), int(valid.sum())

    (mine, weight), (theirs, other_weight) = total(labels), total(others)
    assert (others != labels).any() and abs(mine - theirs) > 1e-2
    np.testing.assert_allclose(found.total, (1 - share) * mine + share * theirs, rtol=2e-5)
    np.testing.assert_allclose(found.weight, (1 - share) * weight + share * other_weight, rtol=1e-6)


def test_a_share_of_nothing_is_exactly_no_mixup(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.classification_config(folder, **KEYS)
    task, session, params, batch = opened(config)
    objective: Any = session.objective
    assert objective.layers == (2,)

    def gradient(loss: Any) -> Any:
        def total(params: Any) -> Any:
            found = loss(nnx.merge(session.graphdef, params), batch, LossContext(jax.random.key(5)))
            return found.total, (found.weight, found.metrics["accuracy"])

        return jax.jit(jax.value_and_grad(total, has_aux=True))(params)

    plain = gradient(task.objective.loss)
    monkeypatch.setattr(jax.random, "beta", lambda *_, **__: jnp.float32(1.0))
    same = gradient(objective.loss)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), same[1], plain[1])
    assert same[0][0] == plain[0][0] and same[0][1][0] == plain[0][1][0]


def test_shares_and_layers_have_their_distributions(folder: pathlib.Path) -> None:
    config = tiny.classification_config(folder, **{**KEYS, "augment__mixup_layers": (0, 1, 2)})
    _, session, _, batch = opened(config)
    objective: Any = session.objective

    @jax.jit
    def drawn(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        mixing, _ = objective.draw(batch, LossContext(jax.random.key(0), 0.0, (), key))
        return mixing.other_share, mixing.chosen

    shares, chosen = (np.asarray(x) for x in jax.vmap(drawn)(jax.random.split(jax.random.key(1), 3000)))
    from scipy import stats

    # The smaller one of two parts: its distribution function is that of both ends together.
    def folded(x: np.ndarray) -> np.ndarray:
        return stats.beta.cdf(x, 0.8, 0.8) + stats.beta.sf(1 - x, 0.8, 0.8)

    assert stats.kstest(shares, folded).pvalue > 1e-3
    assert np.abs(np.bincount(chosen, minlength=3) / 3000 - 1 / 3).max() < 0.04


def test_devices_change_nothing(folder: pathlib.Path) -> None:
    losses = []
    cut: dict[str, Any] = {"parallel__mesh__fsdp": 2, "parallel__mesh__sequence": 2}
    for changes, devices in (({}, jax.devices()[:1]), (cut, None)):
        config = tiny.classification_config(folder, **KEYS, **changes, augment__mixup_layers=(1,))
        task, session, params, _ = opened(config, devices)
        batch = session.shard(tiny.batch_of(task.datasets["train"], 8))
        with jax.set_mesh(session.mesh):
            found = jax.jit(
                lambda params, batch, session=session: session.objective.loss(
                    nnx.merge(session.graphdef, params), batch, LossContext(jax.random.key(5))
                )
            )(params, batch)
        losses.append((float(found.total), float(found.weight), float(found.metrics["mixup_share"][0])))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)

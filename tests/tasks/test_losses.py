"""Losses against torch's and against their formulae."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.tasks import losses
from jaxfm.tasks.losses import ClassLoss, LabelLoss, LossConfig

DRAW = np.random.default_rng(0)
LOGITS = DRAW.normal(0, 3, (3, 7, 5)).astype(np.float32)
CLASSES = DRAW.integers(-1, 5, (3, 7))
HOLDS = DRAW.integers(-1, 2, (3, 7, 5))
WEIGHTS = (0.5, 1.0, 2.0, 0.0, 3.0)
assert (CLASSES < 0).any() and (HOLDS < 0).any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_cross_entropy_is_that_of_torch(smoothing: float, weights: tuple[float, ...]) -> None:
    torch = pytest.importorskip("torch")
    logits = torch.tensor(LOGITS.reshape(-1, 5), requires_grad=True)
    expected = torch.nn.functional.cross_entropy(
        logits,
        torch.tensor(CLASSES.reshape(-1)),
        weight=torch.tensor(weights) if weights else None,
        ignore_index=-1,
        label_smoothing=smoothing,
    )
    expected.backward()

    def mean(values: jax.Array) -> jax.Array:
        loss, weight = ClassLoss(smoothing, 0.0, weights)(values, jnp.asarray(CLASSES))
        assert loss.shape == weight.shape == CLASSES.shape
        return loss.sum() / weight.sum()

    found, gradient = jax.value_and_grad(mean)(jnp.asarray(LOGITS))
    np.testing.assert_allclose(found, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(gradient.reshape(-1, 5), logits.grad.numpy(), atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_with_smoothed_targets_by_hand(smoothing: float) -> None:
    targets = (1 - smoothing) * np.eye(5)[CLASSES] + smoothing / 5
    log_probabilities = LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum(-1, keepdims=True))
    wanted = np.where(CLASSES >= 0, -(targets * log_probabilities).sum(-1), 0.0)
    got, weights = ClassLoss(smoothing)(jnp.asarray(LOGITS), jnp.asarray(CLASSES))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    np.testing.assert_array_equal(weights, CLASSES >= 0)


@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_binary_cross_entropy_is_that_of_torch(weights: tuple[float, ...]) -> None:
    torch = pytest.importorskip("torch")
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(LOGITS),
        torch.tensor(np.maximum(HOLDS, 0).astype(np.float32)),
        pos_weight=torch.tensor(weights) if weights else None,
        reduction="none",
    ).numpy()
    loss, weight = LabelLoss(0.0, weights)(jnp.asarray(LOGITS), jnp.asarray(HOLDS))
    np.testing.assert_array_equal(weight, HOLDS >= 0)
    np.testing.assert_allclose(loss, np.where(HOLDS >= 0, each, 0.0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_is_the_cross_entropy_times_its_factor(gamma: float) -> None:
    plain, _ = ClassLoss()(jnp.asarray(LOGITS), jnp.asarray(CLASSES))
    focal, weight = ClassLoss(focal_gamma=gamma)(jnp.asarray(LOGITS), jnp.asarray(CLASSES))
    probability = np.exp(-np.asarray(plain, np.float64))
    np.testing.assert_allclose(focal, (1 - probability) ** gamma * np.asarray(plain), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(weight, CLASSES >= 0)
    binary, _ = LabelLoss(focal_gamma=gamma)(jnp.asarray(LOGITS), jnp.asarray(HOLDS))
    plain, _ = LabelLoss()(jnp.asarray(LOGITS), jnp.asarray(HOLDS))
    probability = np.exp(-np.asarray(plain, np.float64))
    np.testing.assert_allclose(binary, (1 - probability) ** gamma * np.asarray(plain), rtol=1e-3, atol=1e-6)


def test_the_focal_loss_has_finite_gradients_where_all_is_right() -> None:
    sure = jnp.asarray([[200.0, 0.0]])
    gradient = jax.grad(lambda x: ClassLoss(focal_gamma=0.5)(x, jnp.asarray([0]))[0].sum())(sure)
    assert np.isfinite(gradient).all()


def test_r_drop_is_the_mean_of_two_passes_and_their_divergence() -> None:
    seen: list[Any] = []

    def apply(key: jax.Array) -> jax.Array:
        seen.append(key)
        return jnp.asarray(LOGITS) + jax.random.normal(key, LOGITS.shape)

    key = jax.random.key(3)
    loss = lambda logits: ClassLoss()(logits, jnp.asarray(CLASSES))  # noqa: E731
    _, found, weight = losses.with_r_drop(apply, loss, losses.symmetric_kl, key, 0.7)
    assert len(seen) == 2
    first, second = (np.asarray(jax.nn.softmax(apply(key)), np.float64) for key in seen[:2])
    divergence = ((first * np.log(first / second)).sum(-1) + (second * np.log(second / first)).sum(-1)) / 2
    valid = CLASSES >= 0
    picked = [np.take_along_axis(p, np.maximum(CLASSES, 0)[..., None], -1)[..., 0] for p in (first, second)]
    expected = np.where(valid, -(np.log(picked[0]) + np.log(picked[1])) / 2 + 0.7 * divergence, 0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(weight, valid)
    seen.clear()
    losses.with_r_drop(apply, loss, losses.symmetric_kl, key, 0.0)
    assert seen == [key]


def test_labels_are_as_far_apart_as_their_bernoulli_distributions() -> None:
    first, second = DRAW.normal(0, 2, (2, 6, 4))
    p, q = 1 / (1 + np.exp(-first)), 1 / (1 + np.exp(-second))
    one_way = lambda p, q: p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))  # noqa: E731
    np.testing.assert_allclose(
        losses.symmetric_kl_of_labels(jnp.asarray(first), jnp.asarray(second)),
        (one_way(p, q) + one_way(q, p)) / 2,
        rtol=1e-4,
    )


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    targets = np.repeat([0, 1, 3], [10, 3, 1])
    expected = sklearn.compute_class_weight("balanced", classes=np.asarray([0, 1, 3]), y=targets)
    counts = np.bincount(targets, minlength=4)
    found = losses.class_weights(LossConfig(class_weights="balanced"), "abcd", counts)
    np.testing.assert_allclose([found[0], found[1], found[3]], expected)
    assert found[2] == 1.0  # a class without examples


def test_class_weights_by_name() -> None:
    assert losses.class_weights(LossConfig(), "ab", None) == ()
    assert losses.class_weights(LossConfig(class_weights="b=2.5"), "abc", None) == (1.0, 2.5, 1.0)
    # A label may hold an equals sign.
    assert losses.class_weights(LossConfig(class_weights="x=y=3, a=0"), ("a", "x=y"), None) == (0.0, 3.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("good=2", "config.task.loss.class_weights: 'good=2' must be CLASS=NUMBER. Did you mean 'goods'?"),
        ("goods", "'goods' must be CLASS=NUMBER"),
        ("goods=many", "'goods=many': a weight is a number of at least 0"),
        ("goods=-1", "'goods=-1': a weight is a number of at least 0"),
        ("goods=nan", "'goods=nan': a weight is a number of at least 0"),
    ],
)
def test_wrong_class_weights(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        losses.class_weights(LossConfig(class_weights=text), ("bads", "goods"), None)
    assert message in str(caught.value)

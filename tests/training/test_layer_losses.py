"""Losses between layers against torch, and rows of several examples against each alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxfm.training.layer_losses import attention_loss, hidden_loss, relation_loss

TOKENS, HEADS, HEAD_DIM = 6, 2, 4


def drawn(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole_rows(rows: int = 3) -> jnp.ndarray:
    return jnp.ones((rows, TOKENS), jnp.int32)


def test_hidden_states_as_torch() -> None:
    student, teacher = drawn(2, 3, TOKENS, 8, seed=0), drawn(2, 3, TOKENS, 8, seed=1)
    wanted = sum(
        torch.nn.functional.mse_loss(torch.tensor(mine), torch.tensor(known)).item()
        for mine, known in zip(student, teacher, strict=True)
    )
    np.testing.assert_allclose(hidden_loss(jnp.asarray(student), jnp.asarray(teacher), whole_rows()), wanted, rtol=1e-6)


def test_scores_of_attention_as_torch() -> None:
    student, teacher = (drawn(3, HEADS, TOKENS, TOKENS, seed=seed) for seed in (0, 1))
    wanted = torch.nn.functional.mse_loss(torch.tensor(student), torch.tensor(teacher)).item()
    found = attention_loss(jnp.asarray(student), jnp.asarray(teacher), whole_rows())
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_relations_as_torch(heads: int) -> None:
    student, teacher = drawn(3, TOKENS, HEADS, HEAD_DIM, seed=0), drawn(3, TOKENS, 4, HEAD_DIM, seed=1)

    def relations(x: np.ndarray) -> torch.Tensor:
        parts = torch.tensor(x).reshape(3, TOKENS, heads, -1).transpose(1, 2)
        return torch.log_softmax(parts @ parts.transpose(-1, -2) / parts.shape[-1] ** 0.5, dim=-1)

    pair = relations(student).reshape(-1, TOKENS), relations(teacher).reshape(-1, TOKENS)
    wanted = torch.nn.functional.kl_div(*pair, log_target=True, reduction="batchmean").item()
    found = relation_loss(jnp.asarray(student), jnp.asarray(teacher), whole_rows(), heads)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert wanted > 0.01


def hidden(student: jax.Array, teacher: jax.Array, segments: jax.Array) -> jax.Array:
    mine, known = (x.reshape(1, *x.shape[:2], -1) for x in (student, teacher))
    return hidden_loss(mine, known, segments)


def attention(student: jax.Array, teacher: jax.Array, segments: jax.Array) -> jax.Array:
    mine, known = (jnp.einsum("BTNH,BSNH->BNTS", x, x) for x in (student, teacher))
    return attention_loss(mine, known, segments)


def relations(student: jax.Array, teacher: jax.Array, segments: jax.Array) -> jax.Array:
    return relation_loss(student, teacher, segments, HEADS)


@pytest.mark.parametrize("loss", [hidden, attention, relations])
def test_packed_rows_give_the_mean_over_examples(loss: Callable[..., jax.Array]) -> None:
    """Two examples of three tokens share a row; what stands at padding and across them has no share."""
    student, teacher = (jnp.asarray(drawn(2, 3, HEADS, HEAD_DIM, seed=seed)) for seed in (0, 1))
    alone = [loss(student[i : i + 1], teacher[i : i + 1], jnp.ones((1, 3), jnp.int32)) for i in (0, 1)]

    def packed(x: jax.Array, fill: float) -> jax.Array:
        row = x.reshape(1, 6, HEADS, HEAD_DIM)
        return jnp.concatenate([row, jnp.full((1, 2, HEADS, HEAD_DIM), fill)], axis=1)

    together = loss(packed(student, 3.0), packed(teacher, -5.0), jnp.asarray([[1, 1, 1, 2, 2, 2, 0, 0]]))
    np.testing.assert_allclose(together, np.mean(alone), rtol=1e-5)
    assert abs(alone[0] - alone[1]) > 1e-3
    nothing = loss(student, teacher, jnp.zeros((2, 3), jnp.int32))
    assert nothing == 0
    gradient = jax.grad(lambda x: loss(x, teacher, jnp.asarray([[1, 1, 0], [0, 0, 0]])))(student)
    assert np.isfinite(gradient).all() and not np.asarray(gradient[1]).any() and np.abs(gradient[0]).max() > 0

"""The vocabulary's scores at masked positions, all at once and in chunks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.tasks.masked_predictions import masked_token_losses

ROWS, TOKENS, POSITIONS, WIDTH, VOCABULARY = 4, 64, 13, 16, 2048


class Head:
    """Hidden states that are given, and scores by a table."""

    def __init__(self, hidden_BTD: jax.Array, table_VD: jax.Array) -> None:
        self.hidden = lambda batch, key=None: hidden_BTD
        self.logits = lambda hidden_BPD: jnp.einsum("BPD,VD->BPV", hidden_BPD, table_VD)


def inputs() -> tuple[dict[str, np.ndarray], jax.Array, jax.Array]:
    draw = np.random.default_rng(3)
    labels = np.where(draw.random((ROWS, TOKENS)) < 0.15, draw.integers(0, VOCABULARY, (ROWS, TOKENS)), -1)
    hidden, table = draw.normal(size=(ROWS, TOKENS, WIDTH)), draw.normal(size=(VOCABULARY, WIDTH))
    return {"labels": labels.astype(np.int32)}, jnp.asarray(hidden, jnp.float32), jnp.asarray(table, jnp.float32)


def compiled(chunk: int) -> tuple[jax.stages.Compiled, Any]:
    batch, *arrays = inputs()

    def total(hidden_BTD: jax.Array, table_VD: jax.Array) -> Any:
        found = masked_token_losses(Head(hidden_BTD, table_VD), batch, POSITIONS, chunk=chunk)
        return found["loss"].sum() + 1e-3 * jnp.sum(found["log_z"] ** 2 * found["weight"]), found

    step = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True)).lower(*arrays).compile()
    return step, step(*arrays)


@pytest.mark.parametrize("chunk", [1, 4, 12, 13, 99])
def test_chunks_change_nothing(chunk: int) -> None:
    (wanted, wanted_found), wanted_grads = compiled(0)[1]
    (total, found), grads = compiled(chunk)[1]
    assert found["place"].shape == (ROWS, POSITIONS) and float(found["weight"].sum()) > 20
    assert float(total) == pytest.approx(float(wanted), rel=1e-6)
    assert found.keys() == wanted_found.keys()
    for name, value in wanted_found.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)
    for own, other in zip(grads, wanted_grads, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5)


def test_a_chunk_is_what_is_in_memory() -> None:
    """Logits and their gradient of 13 positions a row, or of 2."""
    whole, parts = (compiled(chunk)[0].memory_analysis().temp_size_in_bytes for chunk in (0, 2))
    a_position = ROWS * VOCABULARY * 4
    assert whole > POSITIONS * a_position
    assert whole - parts > 8 * a_position

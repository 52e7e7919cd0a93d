"""The loss of next tokens against a slow computation, against transformers, and what it may know of later tokens."""

import dataclasses
import functools
import math
import pathlib
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import CAUSAL, EncoderConfig
from jaxfm.core.objective import LossContext
from jaxfm.data.text.packing import build_rows
from jaxfm.models.inputs.text import TextInputs
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks.causal_lm.objective import CausalLMObjective
from jaxfm.tasks.causal_lm.spec import CausalLMSpec
from jaxfm.tasks.next_tokens import next_token_losses
from tests import tiny

ENCODER = dataclasses.replace(tiny.ENCODER, sight=CAUSAL, dropout=0.0, attention_dropout=0.0, initializer_range=0.3)
# A window of two tokens to each side in the second layer.
LOCAL = dataclasses.replace(
    ENCODER, norm_placement="pre", position_embedding="rope", num_layers=3, local_window=4, global_every=2
)
LENGTHS = (9, 5, 2, 12, 1, 7)
ROW = 16
KEY = jax.random.key(3)


def batch_of(lengths: tuple[int, ...], row_length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Rows of texts of these lengths; the texts depend on the seed and their number alone."""
    draws = [np.random.default_rng((seed, number)).integers(5, 69, length) for number, length in enumerate(lengths)]
    tokens = [draw.astype(np.int32) for draw in draws]
    rows = build_rows(tokens, [np.full(len(each), -1, np.int32) for each in tokens], row_length, 0, None)
    return {name: values for name, values in rows.take(np.arange(len(rows))).items() if name != "labels"}


def objective_of(encoder: EncoderConfig = ENCODER, **changes: Any) -> CausalLMObjective:
    return CausalLMObjective(CausalLMSpec(encoder, ROW), **changes)


@functools.cache
def graph(encoder: EncoderConfig) -> Any:
    spec = CausalLMSpec(encoder, ROW)
    return build_abstract(lambda: spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig()))[0]


def params_of(encoder: EncoderConfig = ENCODER) -> Any:
    return tiny.nested(tiny.random_masked_lm(encoder, seed=5))


def total_of(objective: CausalLMObjective, batch: Any) -> tuple[float, float, float]:
    """Returns (sum of losses, weight, sum of right predictions)."""

    graphdef = graph(objective.spec.encoder)

    def compute(params: Any) -> Any:
        return objective.loss(nnx.merge(graphdef, params), batch, LossContext(KEY))

    found = jax.jit(compute)(params_of(objective.spec.encoder))
    return float(found.total), float(found.weight), float(found.metrics["accuracy"][0])


def slow_logits(tokens: list[int]) -> np.ndarray:
    """BERT by its definition, one token after another, each seeing a list of those up to itself; float64 [T, V]."""
    params = {name: value.astype(np.float64) for name, value in tiny.random_masked_lm(ENCODER, seed=5).items()}

    def norm(x: np.ndarray, name: str, *layer: int) -> np.ndarray:
        centred = x - x.mean()
        scaled = centred / math.sqrt((centred**2).mean() + ENCODER.norm_eps)
        return scaled * params[f"{name}/scale"][layer] + params[f"{name}/bias"][layer]

    def dense(x: np.ndarray, name: str, *layer: int) -> np.ndarray:
        bias = params[f"{name}/bias"][layer].reshape(-1)
        return x @ params[f"{name}/kernel"][layer].reshape(len(x), len(bias)) + bias

    def gelu(x: np.ndarray) -> np.ndarray:
        return np.asarray([0.5 * each * (1 + math.erf(each / math.sqrt(2))) for each in x])

    def attend(queries: np.ndarray, keys: list[np.ndarray], values: list[np.ndarray]) -> np.ndarray:
        """One token's result of all heads: it sees the keys and values that it is given."""
        mixed = []
        for head in np.split(np.arange(ENCODER.hidden_size), ENCODER.num_heads):
            scores = np.asarray([queries[head] @ key[head] for key in keys]) / math.sqrt(len(head))
            weights = np.exp(scores - scores.max())
            mixed.append(sum(each * value[head] for each, value in zip(weights / weights.sum(), values, strict=True)))
        return np.concatenate(mixed)

    words, layers = "encoder/embeddings", "encoder/layers"
    table = params[f"{words}/word/embedding"]
    others = params[f"{words}/position/embedding"] + params[f"{words}/type/embedding"][0]
    states = [norm(table[token] + others[place], f"{words}/norm") for place, token in enumerate(tokens)]
    for layer in range(ENCODER.num_layers):
        keys, values, after = [], [], []
        for x in states:
            keys.append(dense(x, f"{layers}/attention/key", layer))
            values.append(dense(x, f"{layers}/attention/value", layer))
            mixed = attend(dense(x, f"{layers}/attention/query", layer), keys, values)
            y = norm(x + dense(mixed, f"{layers}/attention/output", layer), f"{layers}/attention_norm", layer)
            inner = gelu(dense(y, f"{layers}/ffn/up", layer))
            after.append(norm(y + dense(inner, f"{layers}/ffn/down", layer), f"{layers}/ffn_norm", layer))
        states = after
    last = [norm(gelu(dense(x, "transform/dense")), "transform/norm") for x in states]
    return (np.asarray(last) @ table.T + params["decoder/bias"])[:, : ENCODER.vocab_size]


def segments_of(batch: dict[str, np.ndarray]) -> list[list[int]]:
    return [
        batch["tokens"][row, batch["segment_ids"][row] == segment].tolist()
        for row in range(len(batch["tokens"]))
        for segment in range(1, batch["segment_ids"][row].max() + 1)
    ]


def test_the_loss_is_that_of_a_slow_model_which_reads_one_token_after_another() -> None:
    batch = batch_of(LENGTHS, ROW)
    assert len(batch["tokens"]) < len(LENGTHS) and (batch["segment_ids"] == 0).any()
    wanted, log_z, right = 0.0, 0.0, 0
    for tokens in segments_of(batch):
        logits = slow_logits(tokens)[:-1]
        partition = np.log(np.exp(logits).sum(-1))
        wanted += float((partition - logits[np.arange(len(logits)), tokens[1:]]).sum())
        log_z += float((partition**2).sum())
        right += int((logits.argmax(-1) == tokens[1:]).sum())
    total, weight, found = total_of(objective_of(), batch)
    assert weight == sum(LENGTHS) - len(LENGTHS) and found == right
    assert total == pytest.approx(wanted, rel=2e-6)
    assert total_of(objective_of(z_loss=0.01), batch)[0] == pytest.approx(wanted + 0.01 * log_z, rel=2e-6)


def test_the_loss_is_that_of_transformers_decoder(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    tiny.write_masked_lm_weights(tmp_path, ENCODER, seed=5)
    model = transformers.BertLMHeadModel.from_pretrained(tmp_path).eval()
    assert model.config.is_decoder
    batch = batch_of(LENGTHS, ROW)
    wanted = 0.0
    for tokens in segments_of(batch):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens])).logits[0, :-1].double()
        wanted += float(
            torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:], dtype=torch.long), reduction="sum")
        )
    assert total_of(objective_of(), batch)[0] == pytest.approx(wanted, rel=2e-6)


@pytest.mark.parametrize("encoder", [ENCODER, LOCAL], ids=["global", "local"])
def test_no_token_s_loss_depends_on_a_later_token_or_another_segment(encoder: EncoderConfig) -> None:
    batch = batch_of((6, 4, 5), ROW)
    assert len(batch["tokens"]) == 1 and (batch["segment_ids"] == 0).sum() == 1
    params, graphdef, plain = params_of(encoder), graph(encoder), TextInputs.__call__

    def losses(shift_BTD: jax.Array) -> jax.Array:
        """The loss of each position, [T], as a function of what is added to each embedding."""

        def embed(*given: Any) -> Any:
            inputs = plain(*given)
            return inputs._replace(x_BTD=inputs.x_BTD + shift_BTD)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TextInputs, "__call__", embed)
            return next_token_losses(nnx.merge(graphdef, params), cast(Any, batch))["loss"][0]

    shape = (1, ROW, encoder.hidden_size)
    slopes_TTD = jax.jit(jax.jacrev(losses))(jnp.zeros(shape))[:, 0]
    moved_TT = np.abs(np.asarray(slopes_TTD)).max(axis=-1) > 0
    segment_T = batch["segment_ids"][0]
    place_T = np.arange(ROW)
    same_TT = (segment_T[:, None] == segment_T[None, :]) & (segment_T > 0)[:, None]
    has_target_T = np.append(segment_T[1:] == segment_T[:-1], False) & (segment_T > 0)
    # Layer after layer a local window reaches as far as one wants here: each position sees all before it.
    np.testing.assert_array_equal(moved_TT, same_TT & (place_T[None, :] <= place_T[:, None]) & has_target_T[:, None])


@pytest.mark.parametrize("encoder", [ENCODER, LOCAL], ids=["global", "local"])
def test_packed_texts_have_the_loss_of_texts_alone(encoder: EncoderConfig) -> None:
    objective = objective_of(encoder)
    packed = total_of(objective, batch_of(LENGTHS, ROW))
    texts = segments_of(batch_of(LENGTHS, ROW))
    rows = build_rows(
        [np.asarray(each, np.int32) for each in texts],
        [np.full(len(each), -1, np.int32) for each in texts],
        ROW,
        0,
        None,
        max_segments=1,
    )
    alone = {name: values for name, values in rows.take(np.arange(len(rows))).items() if name != "labels"}
    assert len(alone["tokens"]) == len(LENGTHS) > len(batch_of(LENGTHS, ROW)["tokens"])
    assert total_of(objective, alone) == pytest.approx(packed, rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 5, 8, 99])  # 5 does not divide the 16 positions
def test_chunks_change_neither_loss_nor_gradient(chunk: int) -> None:
    batch, params, graphdef = batch_of(LENGTHS, ROW), params_of(), graph(ENCODER)

    def computed(size: int) -> Any:
        objective = objective_of(z_loss=0.01, logits_chunk=size)

        def total(params: Any) -> jax.Array:
            return objective.loss(nnx.merge(graphdef, params), cast(Any, batch), LossContext(KEY)).total

        return jax.jit(jax.value_and_grad(total))(params)

    (wanted, wanted_grads), (found, grads) = computed(0), computed(chunk)
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    for own, other in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted_grads), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-5 * max(1.0, float(jnp.abs(other).max())))


def test_rows_without_a_target_have_no_loss_and_no_weight() -> None:
    batch = batch_of((1, 1, 1), ROW)
    assert total_of(objective_of(z_loss=0.01), batch) == (0.0, 0.0, 0.0)
    empty = {name: np.zeros_like(values) for name, values in batch.items()}
    assert total_of(objective_of(z_loss=0.01), empty) == (0.0, 0.0, 0.0)


def test_outputs_are_the_losses_without_dropout() -> None:
    batch = batch_of(LENGTHS, ROW)
    encoder = tiny.with_dropout(ENCODER, 0.5)
    objective, graphdef = objective_of(encoder), graph(encoder)
    found = jax.jit(lambda params: objective.outputs(nnx.merge(graphdef, params), cast(Any, batch)))(params_of(encoder))
    assert set(found) == {"target", "predicted", "loss"}
    total = float(found["loss"].sum())
    assert total == pytest.approx(total_of(objective_of(), batch)[0], rel=1e-6)
    assert total != pytest.approx(total_of(objective, batch)[0], rel=1e-3)  # dropout is on in training
    targets = [token for tokens in segments_of(batch) for token in tokens[1:]]
    assert np.asarray(found["target"])[np.asarray(found["target"]) >= 0].tolist() == targets

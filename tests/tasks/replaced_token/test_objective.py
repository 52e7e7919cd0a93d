"""Replaced-token detection: the loss and its gradients, and the samples."""

# B batch, T tokens, P predictions a row, V vocabulary

import dataclasses
import math
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import LossContext
from jaxfm.data.text import masking
from jaxfm.observe import metrics as metrics_lib
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks.replaced_token.objective import sample
from jaxfm.tasks.replaced_token.task import ReplacedTokenTask
from tests import tiny
from tests.tasks.replaced_token.test_task import created

MESH = MeshConfig()


class Bench:
    """A task without dropout, wide random parameters (path -> array), 4 training rows; each function compiled once."""

    def __init__(self, task: ReplacedTokenTask):
        self.task = task
        self.graphdef, abstract = build_abstract(
            lambda: self.task.objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MESH)
        )
        draw = np.random.default_rng(2)
        flat = flax.traverse_util.flatten_dict(abstract, sep="/")
        self.params = {
            name: (name.endswith("scale") + 0.2 * draw.normal(size=leaf.shape)).astype(np.float32)
            for name, leaf in flat.items()
        }
        rows = self.task.datasets["train"].take(np.arange(8))
        self.halves = [{name: value[part::2] for name, value in rows.items()} for part in (0, 1)]
        self.batch = rows
        self.value_and_grad = jax.jit(jax.value_and_grad(self.loss, has_aux=True))
        self.outputs = jax.jit(lambda batch: self.task.objective.outputs(self.model(self.params), batch))
        self.replaced = jax.jit(lambda batch: self.model(self.params).replaced(batch))
        # About half of the tokens are flagged.
        middle = np.median(jax.jit(lambda params: self.model(params).replaced(rows))(self.params))
        self.params["detector/head/bias"] -= middle

    def model(self, params: Any) -> Any:
        return nnx.merge(self.graphdef, tiny.nested(params))

    def loss(self, params: Any, batch: Any, key: jax.Array, progress: Any, weight: Any = 50.0) -> Any:
        """Returns (sum of losses, (weight, metrics))."""
        spec = dataclasses.replace(self.task.objective.spec, discriminator_weight=weight)
        objective = dataclasses.replace(self.task.objective, spec=spec)
        loss = objective.loss(self.model(params), batch, LossContext(key, progress))
        return loss.total, (loss.weight, loss.metrics)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(created(tmp_path_factory.mktemp("rtd")))


@pytest.fixture(scope="module")
def outputs(bench: Bench) -> dict[str, np.ndarray]:
    """Of all validation rows at once."""
    rows = bench.task.datasets["valid"]
    return jax.device_get(bench.outputs(rows.take(np.arange(len(rows)))))


def test_samples_are_drawn_from_what_can_be_hidden() -> None:
    logits = np.asarray([[0.0, 1.0, 2.0, -1.0, 0.5, 3.0], [1.0, -2.0, 0.0, 0.0, 2.0, 9.0]], np.float32)
    maskable = np.asarray([True, True, False, True, True, False])
    count = 40_000
    many = jnp.broadcast_to(logits[:, None], (2, count, 6))
    drawn = np.asarray(jax.jit(lambda key: sample(key, many, maskable))(jax.random.key(0)))
    assert drawn.dtype == np.int32 and drawn.shape == (2, count)
    for row in range(2):
        expected = np.where(maskable, np.exp(logits[row].astype(np.float64)), 0.0)
        expected /= expected.sum()
        found = np.bincount(drawn[row], minlength=6) / count
        np.testing.assert_allclose(found, expected, atol=4 * 0.5 / math.sqrt(count))
        assert not found[~maskable].any()
    again = sample(jax.random.key(0), many, maskable)
    other = sample(jax.random.key(1), many, maskable)
    np.testing.assert_array_equal(drawn, again)
    assert (drawn != other).mean() > 0.3


def expected_loss(bench: Bench, batch: Any, key: jax.Array, progress: float) -> dict[str, float]:
    """The objective in float64, from the logits everywhere, the masks and the samples of the same keys."""
    torch = pytest.importorskip("torch")
    text = bench.task.text
    mask_key, sample_key, _, _ = jax.random.split(key, 4)
    ratio = 0.4 - 0.15 * progress
    limit = masking.max_predictions("token", 0.4, 48)
    tokens, labels = masking.mask_tokens(
        mask_key, batch["tokens"], batch["segment_ids"], text.vocabulary, text.masking, ratio=ratio, limit=limit
    )
    masked = np.asarray(labels) >= 0
    assert (np.asarray(tokens)[masked] == text.tokenizer.mask_token_id).all() and masked.sum() > 30

    @jax.jit
    def run(params: Any) -> Any:
        model = bench.model(params)
        logits_BTV = model.logits(model.hidden({**batch, "tokens": tokens}))
        places, _ = masking.target_places(labels, limit)
        chosen = jnp.take_along_axis(logits_BTV, places[..., None], axis=1)
        return logits_BTV, places, sample(sample_key, chosen, text.vocabulary.maskable)

    logits, places, sampled = (np.asarray(x) for x in run(bench.params))
    corrupted = batch["tokens"].copy()
    for row in range(4):
        for place, token in zip(places[row], sampled[row], strict=True):
            if masked[row, place]:
                corrupted[row, place] = token
    scores = np.asarray(bench.replaced({**batch, "tokens": corrupted}))
    special = np.isin(batch["tokens"], text.tokenizer.all_special_ids)
    counted = ~special & (batch["segment_ids"] > 0)
    replaced = corrupted != batch["tokens"]
    assert not replaced[~masked].any() and 0 < replaced.sum() < masked.sum() < counted.sum() < batch["tokens"].size
    own, gold = torch.from_numpy(logits[masked]).double(), torch.from_numpy(np.asarray(labels)[masked]).long()
    predictions = torch.nn.functional.cross_entropy(own, gold, reduction="sum")
    detections = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(scores[counted]).double(), torch.from_numpy(replaced[counted]).double(), reduction="sum"
    )
    flagged = (scores > 0) & counted
    return {
        "loss": float(predictions + 50 * ratio * detections),
        "weight": masked.sum(),
        "generator_loss": float(predictions / masked.sum()),
        "generator_accuracy": float((own.argmax(-1) == gold).double().mean()),
        "discriminator_loss": float(detections / counted.sum()),
        "discriminator_accuracy": (flagged == replaced)[counted].mean(),
        "precision": (flagged & replaced).sum() / flagged.sum(),
        "recall": (flagged & replaced).sum() / replaced.sum(),
        "masked_share": masked.sum() / (batch["segment_ids"] > 0).sum(),
        "rows_without_target": (~masked).all(axis=1).mean(),
        "share": masked.sum() / counted.sum(),
    }


@pytest.mark.parametrize("progress", [0.0, pytest.param(0.75, marks=pytest.mark.slow)])
def test_loss_and_metrics_against_torch(bench: Bench, progress: float) -> None:
    key, batch = jax.random.key(12), bench.halves[0]
    expected = expected_loss(bench, batch, key, progress)
    (loss, (weight, sums)), _ = bench.value_and_grad(bench.params, batch, key, progress, 50.0)
    np.testing.assert_allclose(loss, expected["loss"], rtol=1e-5)
    assert weight == expected["weight"]
    means = metrics_lib.means(sums)
    assert set(means) == set(expected) - {"loss", "weight", "share"}
    for name, value in means.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)
    # The paper's sum of means, up to the share really masked.
    ratio = 0.4 - 0.15 * progress
    paper = means["generator_loss"] + 50 * means["discriminator_loss"] * ratio / expected["share"]
    np.testing.assert_allclose(loss / weight, paper, rtol=1e-5)
    assert abs(ratio / expected["share"] - 1) < 0.1


def test_a_step_without_a_target_has_no_loss_and_no_gradient(bench: Bench) -> None:
    batch = bench.halves[0]
    batch = batch | {"tokens": np.where(batch["segment_ids"] > 0, 1, 0).astype(np.int32)}  # unknown tokens
    (loss, (weight, sums)), gradients = bench.value_and_grad(bench.params, batch, jax.random.key(1), 0.0, 50.0)
    assert (loss, weight) == (0, 0) and not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))
    assert all(np.isfinite(value).all() for value in sums.values()) and sums["rows_without_target"].tolist() == [4, 4]


def test_gradients_stop_at_the_samples_and_meet_in_the_embeddings(bench: Bench) -> None:
    def gradient(weight: float) -> dict[str, np.ndarray]:
        _, gradients = bench.value_and_grad(bench.params, bench.halves[0], jax.random.key(5), 0.5, weight)
        return {name: np.asarray(leaf) for name, leaf in gradients.items()}

    none, one, three = gradient(0.0), gradient(1.0), gradient(3.0)
    for name in bench.params:
        detected = (three[name] - one[name]) / 2
        scale = np.abs(three[name]).max()
        if name.startswith("generator/"):
            np.testing.assert_array_equal(none[name], three[name], err_msg=name)
            assert np.abs(none[name]).max() > 1e-3 or name.endswith("key/bias")
        elif name.startswith("encoder/embeddings/"):
            assert np.abs(none[name]).max() > 1e-3 and np.abs(detected).max() > 1e-3
            np.testing.assert_allclose(three[name], none[name] + 3 * detected, atol=1e-4 * scale, err_msg=name)
        else:
            assert not none[name].any() and (np.abs(detected).max() > 1e-4 or name.endswith("key/bias"))
    assert {name.partition("/")[0] for name in bench.params} == {"encoder", "detector", "generator"}


def test_no_gradient_passes_a_sample() -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 9)), jnp.float32)

    def soft(logits: jax.Array) -> jax.Array:
        drawn = sample(jax.random.key(0), logits, np.ones(9, bool))
        return jnp.take(jnp.arange(9.0), drawn).sum()

    assert not np.asarray(jax.grad(soft)(logits)).any()


def test_held_out_samples_do_not_depend_on_the_batch(bench: Bench, outputs: dict[str, np.ndarray]) -> None:
    rows = bench.task.datasets["valid"]
    valid = outputs["target"] >= 0
    for first in (0, 7, len(rows) - 2):
        pair = np.asarray([first, first + 1])
        few = jax.device_get(bench.outputs(rows.take(pair)))
        np.testing.assert_array_equal(few["target"], outputs["target"][pair])
        np.testing.assert_array_equal(few["sampled"][valid[pair]], outputs["sampled"][pair][valid[pair]])
    # Rows have samples of their own, even where all else is the same.
    double = {name: values[[0, 0]] for name, values in rows.take(np.arange(1)).items()} | {
        "row": np.asarray([[0], [1]])
    }
    sampled = np.asarray(bench.outputs(double)["sampled"])
    assert (sampled[0] != sampled[1])[valid[0]].mean() > 0.2
    assert len(np.unique(rows.take(np.arange(len(rows)))["row"])) == len(rows)

"""What models see in unlabelled records: probabilities beside predictions, BADGE's gradients beside jax.grad."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.evaluation import acquisition
from jaxfm.evaluation.batch_selection import OuterProducts
from jaxfm.programs.predict import predict
from jaxfm.training.pool_outputs import PoolModel
from tests import tiny
from tests.programs.test_ensemble import write_ensemble

TEXTS = ["ada met boole in ghent", "the old town", "hull", "near cadiz and arles left gauss to ferrara"]
RECORDS = [{"text": text, "origin": text} for text in TEXTS]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    return tiny.write_runs(tmp_path_factory.mktemp("pool"), ("ner", "classification", "multi"))


def test_results_and_probabilities_are_those_of_predict(runs: dict[str, pathlib.Path]) -> None:
    for name in ("ner", "classification"):
        model = PoolModel(runs[name])
        plain, featured = list(model.see(RECORDS)), list(model.see(RECORDS, features=True))
        expected = predict(runs[name], TEXTS)
        assert [each.result for each in plain] == expected == [each.result for each in featured]
        assert all(each.features is None and each.members is None for each in plain)
        for one, other, text, result in zip(plain, featured, TEXTS, expected, strict=True):
            np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)
            assert other.features is not None and len(other.features) == (len(text.split()) if name == "ner" else 1)
            if name == "classification":
                assert max(result["scores"].values()) == pytest.approx(one.probabilities.max(), abs=1e-4)


@pytest.mark.parametrize("name", ["classification", "multi", "ner"])
def test_gradients_are_those_of_the_last_layer(runs: dict[str, pathlib.Path], name: str) -> None:
    """The loss of the likeliest labels by the kernel of the last layer, with features held, by jax.grad."""
    model = PoolModel(runs[name])
    kernel_DC, bias_C = (
        jnp.asarray(model._restored[0].to_host()[f"head/{part}"], jnp.float32) for part in ("kernel", "bias")
    )
    for seen in model.see(RECORDS, features=True):
        features, said = seen.features, seen.logit_probabilities
        assert features is not None and said is not None
        sigmoid = model.gives.probability == "sigmoid"

        def loss(kernel_DC: jax.Array, features: Any = features, said: Any = said, sigmoid: bool = sigmoid) -> Any:
            logits = jnp.asarray(features) @ kernel_DC + bias_C
            if sigmoid:
                held = jnp.asarray(said >= 0.5)
                return -jnp.where(held, jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)).sum()
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), said.argmax(-1)[:, None], axis=-1).mean()

        expected_CD = np.asarray(jax.grad(loss)(kernel_DC)).T
        residuals = acquisition.residuals(said, model.gives.probability)
        found = acquisition.mean_gradient(residuals, features).reshape(expected_CD.shape)
        np.testing.assert_allclose(found, expected_CD, atol=2e-5)
        if name != "ner":
            norm = OuterProducts(residuals, features).squared_norms()[0]
            assert norm == pytest.approx(float((expected_CD**2).sum()), rel=1e-3, abs=1e-8)


def test_members_of_an_ensemble(tmp_path: pathlib.Path) -> None:
    folder = write_ensemble(tmp_path, "ner")  # each member with another calibration
    model = PoolModel(folder)
    assert model.is_ensemble and len(model.runs) == 3
    alone = [list(PoolModel(each).see(RECORDS)) for each in sorted(folder.glob("seed?"))]
    for number, seen in enumerate(model.see(RECORDS)):
        assert seen.members is not None
        expected = np.stack([each[number].probabilities for each in alone])
        np.testing.assert_allclose(seen.members, expected, atol=1e-5)
        np.testing.assert_allclose(seen.probabilities, expected.mean(axis=0), atol=1e-5)


@pytest.mark.slow
def test_what_has_no_probabilities(tmp_path: pathlib.Path) -> None:
    runs = tiny.write_runs(tmp_path, ("regression", "qa"))
    with pytest.raises(UserError, match="its model gives numbers"):
        PoolModel(runs["regression"])
    with pytest.raises(UserError, match="the task qa, whose records have no probabilities"):
        PoolModel(runs["qa"])

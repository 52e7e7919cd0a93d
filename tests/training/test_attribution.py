"""Integrated gradients against what they must be, and the parts of results that tasks have explained."""

# N rows, T tokens, E embedding

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.explained import Explained, Target, TokenPlace
from jaxfm.errors import UserError
from jaxfm.models.heads import TokenClassifier
from jaxfm.models.inputs.text import WORD_VECTORS
from jaxfm.parallel.mesh import build_abstract, initialise, make_mesh
from jaxfm.programs.model import Model
from jaxfm.training.attribution import Attribution
from tests import tiny

BASELINE = 4
TOKENS = np.asarray([[2, 7, 9, 3], [2, 8, 3, 0]], np.int32)


@pytest.fixture(scope="module")
def split() -> tuple[Any, Any, np.ndarray]:
    """Graph and parameters of a tagger, and its word vectors [V, E]."""

    def make() -> TokenClassifier:
        return TokenClassifier(tiny.ENCODER, 3, DEFAULT_BUILD, nnx.Rngs(0))

    graphdef, _ = build_abstract(make, make_mesh(MeshConfig()))
    params = jax.jit(lambda: initialise(make))()
    return graphdef, params, np.asarray(params["encoder"]["embeddings"]["word"]["embedding"])


def shares(
    split: tuple[Any, Any, np.ndarray], number: Callable[[jax.Array], jax.Array], steps: int = 4
) -> tuple[np.ndarray, float, float]:
    """Shares in `number` of the word vectors; the first token of a row is no word."""

    def outputs(model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {"made": number(batch[WORD_VECTORS])[None]}

    tokens = tuple(TokenPlace(row, place, "text", 0, 1) for row in (0, 1) for place in (1, 2, 3))
    explained = Explained("made", "", (), tokens, BASELINE)
    target = Target({}, np.asarray([[0]]), np.asarray([2.0]))
    graphdef, params, _ = split
    attribution = Attribution(outputs, graphdef, make_mesh(MeshConfig()), steps)
    return attribution(params, {"tokens": TOKENS}, explained, target)


def test_of_a_linear_number_each_share_is_its_own_part(split: tuple[Any, Any, np.ndarray]) -> None:
    weights_NTE = np.random.default_rng(0).normal(size=(2, 4, tiny.ENCODER.hidden_size))
    found_NT, number, without = shares(split, lambda x_NTE: jnp.sum(x_NTE * weights_NTE))
    moved_NTE = split[2][TOKENS] - split[2][BASELINE]
    moved_NTE[:, 0] = 0  # special tokens stay
    np.testing.assert_allclose(found_NT, 2 * (weights_NTE * moved_NTE).sum(-1), rtol=1e-4, atol=1e-5)
    assert number - without == pytest.approx(found_NT.sum(), rel=1e-4)


def test_of_a_quadratic_number_the_middles_are_exact(split: tuple[Any, Any, np.ndarray]) -> None:
    found_NT, number, without = shares(split, lambda x_NTE: jnp.sum(x_NTE**2) / 2, steps=1)
    before_E, after_NTE = split[2][BASELINE], split[2][TOKENS]
    wanted_NT = (after_NTE**2).sum(-1) - (before_E**2).sum()
    wanted_NT[:, 0] = 0
    np.testing.assert_allclose(found_NT, wanted_NT, rtol=1e-4, atol=1e-5)
    assert number - without == pytest.approx(wanted_NT.sum(), rel=1e-4)


def test_vectors_of_the_tokens_themselves_change_nothing(split: tuple[Any, Any, np.ndarray]) -> None:
    graphdef, params, table = split
    model = nnx.merge(graphdef, params)
    batch = {"tokens": TOKENS, "segment_ids": np.minimum(TOKENS, 1), "positions": np.tile(np.arange(4), (2, 1))}
    arrays = {name: jnp.asarray(values) for name, values in batch.items()}
    given = {**arrays, WORD_VECTORS: jnp.asarray(table[TOKENS])}
    with jax.set_mesh(make_mesh(MeshConfig())):
        apply = jax.jit(lambda batch: model(batch))
        np.testing.assert_array_equal(apply(arrays), apply(given))


# --- tasks ---

TEXT = "ada met boole in hull"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    names = ("ner", "classification", "pairs", "multi", "regression", "masked_lm")
    runs: dict[str, pathlib.Path] = tiny.write_runs(tmp_path_factory.mktemp("explained"), names)
    return {name: Model(run) for name, run in runs.items()}


def check_complete(target: Mapping[str, Any], number: str) -> None:
    """The words' shares add up to what the words make: 32 steps leave an error, and so do 4 digits."""
    total = sum(word["share"] for word in target["words"])
    assert total == pytest.approx(target[number] - target["without"], abs=2e-3)


def test_entities_and_their_alternatives(models: dict[str, Model]) -> None:
    found = models["ner"].explain(TEXT)
    assert found["result"] == models["ner"](TEXT) and len(found["targets"]) == len(found["result"]["entities"]) > 0
    for target, entity in zip(found["targets"], found["result"]["entities"], strict=True):
        assert (target["start"], target["end"], target["type"]) == (entity["start"], entity["end"], entity["type"])
        assert target["probability"] == pytest.approx(entity["score"], abs=1e-3)  # the run has no calibration
        assert [TEXT[word["start"] : word["end"]] for word in target["words"]] == TEXT.split()
        check_complete(target, "probability")
        labels = {each["label"] for each in target["alternatives"]}
        assert labels == {"O", "PER", "LOC"} - {entity["type"]}
    assert models["ner"].explain("")["targets"] == []


def test_a_word_of_several_windows_has_one_share(models: dict[str, Model]) -> None:
    text = " ".join(["ada met boole in hull"] * 30)
    found = models["ner"].explain(text)
    words = [(word["start"], word["end"]) for word in found["targets"][0]["words"]]
    assert len(words) == len(set(words)) == len(text.split())
    check_complete(found["targets"][0], "probability")


@pytest.mark.parametrize("name", ["classification", "multi"])
def test_classes_and_labels(models: dict[str, Model], name: str) -> None:
    found = models[name].explain(TEXT)
    result = found["result"]
    chosen = [result["label"]] if name == "classification" else result["labels"]
    assert [target["label"] for target in found["targets"]] == chosen
    for target in found["targets"]:
        check_complete(target, "probability")
        assert target["probability"] == pytest.approx(result["scores"][target["label"]], abs=1e-3)


def test_numbers(models: dict[str, Model]) -> None:
    (target,) = models["regression"].explain(TEXT)["targets"]
    check_complete(target, "score")
    assert target["score"] == pytest.approx(models["regression"](TEXT)["value"], abs=1e-3)


def test_words_of_both_texts_of_a_pair_have_shares(models: dict[str, Model]) -> None:
    (target,) = models["pairs"].explain(("ada met", "boole in hull"))["targets"]
    fields = [(word["field"], word["start"]) for word in target["words"]]
    assert fields == [("text", 0), ("text", 4), ("pair", 0), ("pair", 6), ("pair", 9)]
    check_complete(target, "probability")


def test_what_is_not_explained_says_so(models: dict[str, Model]) -> None:
    assert not models["masked_lm"].explains and models["ner"].explains
    with pytest.raises(UserError, match="results of the task masked_lm are not explained"):
        models["masked_lm"].explain(TEXT)
    with pytest.raises(UserError, match=r"the text: takes rows of [\d,]+ tokens; texts of up to 2,048 are explained"):
        models["ner"].explain(" ".join(["ada met boole in hull"] * 300))

"""Attributions against what they must be, and the parts of results that tasks have explained."""

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
from jaxfm.core.batch import Volume
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.explained import PROBABILITIES, SCORES, Explained, Target, TokenPlace
from jaxfm.data.arrays import ArrayDataset
from jaxfm.data.text.packing import text_fields
from jaxfm.errors import UserError
from jaxfm.models.heads import TokenClassifier
from jaxfm.models.inputs.text import WORD_VECTORS
from jaxfm.parallel.mesh import build_abstract, initialise, make_mesh
from jaxfm.programs.model import Model
from jaxfm.training.attribution import METHODS, OCCLUSION, ROLLOUT, SMOOTHGRAD, TIMES_INPUT, Attribution
from tests import tiny

BASELINE = 4
TOKENS = np.asarray([[2, 7, 9, 3], [2, 8, 3, 0]], np.int32)
ROWS = ArrayDataset(
    {
        "tokens": TOKENS,
        "segment_ids": np.minimum(TOKENS, 1),
        "positions": np.tile(np.arange(4, dtype=np.int32), (2, 1)),
    },
    text_fields(4),
    Volume("tokens", 4, 3.5),
)
# A word of each of the second, third and fourth token of the first row; of the second row the first two of these.
PLACES = ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2))
EXPLAINED = Explained(
    {},
    {"text": "a b c d e"},
    (Target({}, np.asarray([[0, 0], [1, 0]]), np.asarray([2.0, 2.0])),),
    tuple(TokenPlace(*place, "text", 2 * word, 2 * word + 1) for word, place in enumerate(PLACES)),
    BASELINE,
)


@pytest.fixture(scope="module")
def split() -> tuple[Any, Any, np.ndarray]:
    """Graph and parameters of a tagger, and its word vectors [V, E]."""

    def make() -> TokenClassifier:
        return TokenClassifier(tiny.ENCODER, 3, DEFAULT_BUILD, nnx.Rngs(0))

    graphdef, _ = build_abstract(make, make_mesh(MeshConfig()))
    params = jax.jit(lambda: initialise(make))()
    return graphdef, params, np.asarray(params["encoder"]["embeddings"]["word"]["embedding"])


def shares(
    split: tuple[Any, Any, np.ndarray],
    number: Callable[[jax.Array], jax.Array],
    method: str = METHODS[0],
    steps: int = 4,
) -> tuple[np.ndarray, float, float]:
    """Shares [5] of the words in twice the sum over rows of a `number` [T] of the word vectors of a row's tokens."""

    def outputs(model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        return {SCORES: jnp.sum(number(batch[WORD_VECTORS]), axis=-1, keepdims=True)}

    graphdef, params, _ = split
    attribution = Attribution(outputs, graphdef, make_mesh(MeshConfig()), 4, BASELINE, steps)
    ((found,),) = attribution(params, ROWS, [EXPLAINED], method)
    return found.shares, found.number, found.without


def of_words(values_NT: np.ndarray) -> np.ndarray:
    return np.asarray([values_NT[place] for place in PLACES])


def test_of_a_linear_number_each_share_is_its_own_part(split: tuple[Any, Any, np.ndarray]) -> None:
    weights_TE = np.random.default_rng(0).normal(size=(4, tiny.ENCODER.hidden_size))
    found_W, number, without = shares(split, lambda x_NTE: jnp.sum(x_NTE * weights_TE, axis=-1))
    moved_NTE = split[2][TOKENS] - split[2][BASELINE]
    np.testing.assert_allclose(found_W, of_words(2 * (weights_TE * moved_NTE).sum(-1)), rtol=1e-4, atol=1e-5)
    assert number - without == pytest.approx(found_W.sum(), rel=1e-4)
    without_W, *_ = shares(split, lambda x_NTE: jnp.sum(x_NTE * weights_TE, axis=-1), OCCLUSION)
    np.testing.assert_allclose(without_W, found_W, rtol=1e-4, atol=1e-4)
    for method in (TIMES_INPUT, SMOOTHGRAD):  # gradients that noise does not change
        times_W, *_ = shares(split, lambda x_NTE: jnp.sum(x_NTE * weights_TE, axis=-1), method)
        np.testing.assert_allclose(times_W, of_words(2 * (weights_TE * split[2][TOKENS]).sum(-1)), rtol=1e-4, atol=1e-5)


def test_of_a_polynomial_few_steps_are_exact(split: tuple[Any, Any, np.ndarray]) -> None:
    before_E, after_NTE = split[2][BASELINE], split[2][TOKENS]
    for power, steps in ((2, 1), (4, 2)):  # n points of Gauss and Legendre: exact up to the power 2 n - 1
        found_W, number, without = shares(split, lambda x_NTE, power=power: jnp.sum(x_NTE**power, -1), steps=steps)
        wanted_W = of_words(2 * ((after_NTE**power).sum(-1) - (before_E**power).sum()))
        np.testing.assert_allclose(found_W, wanted_W, rtol=1e-4, atol=1e-5)
        assert number - without == pytest.approx(wanted_W.sum(), rel=1e-3, abs=1e-5)
    inexact_W, *_ = shares(split, lambda x_NTE: jnp.sum(x_NTE**4, -1), steps=1)
    assert not np.allclose(inexact_W, wanted_W, rtol=1e-2)


def test_smoothgrad_is_the_mean_gradient_of_noisy_inputs(split: tuple[Any, Any, np.ndarray]) -> None:
    """Of x^2 the gradient is 2 x: noise of mean 0 leaves twice the squares, but for what 16 samples miss."""
    times_W, *_ = shares(split, lambda x_NTE: jnp.sum(x_NTE**2, -1), TIMES_INPUT)
    found_W, *_ = shares(split, lambda x_NTE: jnp.sum(x_NTE**2, -1), SMOOTHGRAD)
    np.testing.assert_allclose(times_W, of_words(4 * (split[2][TOKENS] ** 2).sum(-1)), rtol=1e-4)
    np.testing.assert_allclose(found_W, times_W, rtol=0.5)
    assert not np.allclose(found_W, times_W, rtol=1e-3)


def test_vectors_of_the_tokens_themselves_change_nothing(split: tuple[Any, Any, np.ndarray]) -> None:
    graphdef, params, table = split
    model = nnx.merge(graphdef, params)
    arrays = {name: jnp.asarray(values) for name, values in ROWS.take(np.arange(2)).items()}
    given = {**arrays, WORD_VECTORS: jnp.asarray(table[TOKENS])}
    with jax.set_mesh(make_mesh(MeshConfig())):
        apply = jax.jit(lambda batch: model(batch))
        np.testing.assert_array_equal(apply(arrays), apply(given))


# --- tasks ---

TEXT = "ada met boole in hull"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    names = ("ner", "classification", "pairs", "multi", "regression", "replaced_token")
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


def test_occlusion_is_a_result_without_the_word(models: dict[str, Model]) -> None:
    """The mask has the word's place, whose vector is all that a model reads of it."""
    model = models["classification"]
    ((target,),) = [each.shares for each in model.explainer([model.record(TEXT, "a text")], OCCLUSION, PROBABILITIES)]
    label = target.target.of["label"]
    for word, share in zip(TEXT.split(), target.shares, strict=True):
        pieces = len(model.predictor.tokenizer(word, add_special_tokens=False)["input_ids"])  # type: ignore[attr-defined]
        without = model(TEXT.replace(word, " ".join(["[MASK]"] * pieces)))["scores"][label]
        assert target.number - share == pytest.approx(without, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_many_records_together_are_as_each_alone(models: dict[str, Model], method: str) -> None:
    texts = [TEXT, "the old town", "", "boole said that ada met nobody in the old town of hull", "leeds"]
    for name in ("ner", "pairs"):
        model = models[name]
        given = [text if name == "ner" else (text, "hull in yorkshire") for text in texts]
        records = [model.record(each, f"text {number}") for number, each in enumerate(given)]
        together = list(model.explainer(records, method))
        assert sum(len(each.shares) for each in together) >= 4
        for record, found in zip(records, together, strict=True):
            (alone,) = model.explainer([record], method)
            assert found.explained.result == alone.explained.result
            assert list(found.explained.words()) == list(alone.explained.words())
            if method == SMOOTHGRAD:  # its noise is that of the row
                continue
            for one, other in zip(found.shares, alone.shares, strict=True):
                np.testing.assert_allclose(one.shares, other.shares, atol=2e-5)
                np.testing.assert_allclose([one.number, one.without], [other.number, other.without], atol=1e-5)


def test_shares_of_attention_are_of_the_words_alone(models: dict[str, Model]) -> None:
    model = models["classification"]
    ((target,),) = [each.shares for each in model.explainer([model.record(TEXT, "a text")], ROLLOUT)]
    assert (target.shares > 0).all() and 0.5 < target.shares.sum() < 1  # special tokens have the rest


def test_what_is_not_explained_says_so(models: dict[str, Model]) -> None:
    assert not models["replaced_token"].explains and models["ner"].explains
    with pytest.raises(UserError, match="results of the task replaced_token are not explained"):
        models["replaced_token"].explain(TEXT)
    with pytest.raises(UserError, match=r"the text: takes rows of [\d,]+ tokens; texts of up to 2,048 are explained"):
        models["ner"].explain(" ".join(["ada met boole in hull"] * 300))

"""Vectors of texts beside hidden states that are taken one text at a time."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.parallel.mesh import make_mesh
from jaxfm.training.saved_run import open_run
from jaxfm.training.text_vectors import TextVectors
from tests import tiny


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> TextVectors:
    runs: dict[str, pathlib.Path] = tiny.write_runs(tmp_path_factory.mktemp("vectors"), ("qa",))
    run, mesh = open_run(runs["qa"]), make_mesh(MeshConfig())
    return TextVectors(run.restore(mesh, Build()), load_tokenizer(run.workdir / TOKENIZER_DIR), 24, True, mesh, 8)


@pytest.mark.parametrize("pairs", [False, True])
def test_a_vector_is_the_mean_of_the_hidden_states_of_its_tokens(vectors: TextVectors, pairs: bool) -> None:
    texts = ["ada met boole in hull", "the old town", "leeds " * 9]  # letters: the last one is cut to 24 tokens
    given = [(text, "met near town" if pairs else None) for text in texts]
    told: list[int] = []
    found = vectors(given, told.append)
    assert found.shape == (3, tiny.ENCODER.hidden_size) and found.dtype == np.float32 and told == [3]
    model = nnx.merge(vectors.restored.graphdef, vectors.restored.params)
    encoded = [
        vectors.tokenizer(*each, truncation=True, max_length=24, padding="max_length", return_token_type_ids=True)
        for each in given
    ]
    read = {name: jnp.asarray([each[name] for each in encoded]) for name in ("input_ids", "token_type_ids")}
    used_BT = jnp.asarray([each["attention_mask"] for each in encoded])
    batch = {
        "tokens": read["input_ids"],
        "segment_ids": used_BT,
        "positions": jnp.arange(24) * used_BT,
        "type_ids": read["token_type_ids"],
    }
    with jax.set_mesh(vectors.mesh):
        hidden_BTD = jax.jit(lambda batch: model.encoder(batch))(batch)
    expected = (hidden_BTD * used_BT[..., None]).sum(axis=1) / used_BT.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_more_texts_than_are_packed_at_once_are_the_same(vectors: TextVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [(" ".join(words), None) for words, _ in tiny.sentences(7, 3)]
    whole = vectors(texts)
    monkeypatch.setattr("jaxfm.training.text_vectors._AT_ONCE", 3)
    np.testing.assert_allclose(vectors(texts), whole, atol=1e-5)

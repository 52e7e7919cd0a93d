"""Vectors of records beside means that are taken one by one."""

import pathlib

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.programs.model import Model
from tests import tiny

TEXTS = ("ada met boole in hull", "the old town", "leeds", "boole said that ada met nobody in the old town of hull")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    runs: dict[str, pathlib.Path] = tiny.write_runs(tmp_path_factory.mktemp("vectors"), ("ner",))
    return Model(runs["ner"])


def test_packed_records_have_the_vectors_that_each_has_alone(model: Model) -> None:
    records = [model.record(text, "a text") for text in TEXTS]
    together = model.explainer.layer_vectors(records)
    assert together.shape == (tiny.ENCODER.num_layers + 1, len(TEXTS), tiny.ENCODER.hidden_size)
    for number, record in enumerate(records):
        alone = model.explainer.layer_vectors([record])[:, 0]
        np.testing.assert_allclose(together[:, number], alone, atol=1e-5)
    assert np.abs(together[0] - together[-1]).max() > 0.1


def test_the_last_vector_is_the_mean_of_the_hidden_states_of_words(model: Model) -> None:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    (portion,) = model.explainer.prepared([model.record(TEXTS[0], "a text")])
    restored = model.explainer._restored  # noqa: SLF001
    batch = {name: jnp.asarray(value) for name, value in portion.rows.take(np.zeros(1, np.int64)).items()}
    with jax.set_mesh(model.explainer._mesh):  # noqa: SLF001
        hidden = np.asarray(nnx.merge(restored.graphdef, restored.params).encoder(batch))[0]
    used = int((np.asarray(batch["segment_ids"]) > 0).sum())
    found = model.explainer.layer_vectors([model.record(TEXTS[0], "a text")])[-1, 0]
    np.testing.assert_allclose(found, hidden[1 : used - 1].mean(axis=0), atol=1e-5)  # not the two special tokens


def test_a_record_without_words_is_named(model: Model) -> None:
    with pytest.raises(UserError, match="record 2: has no word"):
        model.explainer.layer_vectors([model.record(text, "a text") for text in ("ada", "")])

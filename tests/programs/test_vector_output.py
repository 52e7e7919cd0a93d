"""`jaxfm.predict` that writes vectors: those of the model, in the order of the texts; what is refused."""

import pathlib

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs.model import Model
from jaxfm.programs.predict import predict_file
from jaxfm.programs.vector_output import form_of
from jaxfm.tasks.registry import default_config, from_config_dict
from tests import tiny

TEXTS = ["ada met boole .", "", "the old town", "near ghent", "emmy saw gauss in delft ."]


def config(directory: pathlib.Path) -> Config:
    values = default_config("embedding")
    values.model.init = tiny.write_weights(directory / "weights")
    values.model.scan_layers = True
    values.data.source = tiny.write_examples(directory / "groups", "single", pairs=True)
    values.data.row_length = 48
    values.task.label_rule = "all"
    values.task.query_prompt = "old "
    values.eval.batch_size = 8
    return from_config_dict(values)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.CONFIGS, "vectors", config)
        return tiny.write_runs(tmp_path_factory.mktemp("runs"), ("vectors",))["vectors"]


def written(run, folder, name, **options) -> int:
    (folder / "in.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    return predict_file(run, folder / "in.txt", folder / name, Progress(0, quiet=True), **options)


def test_the_vectors_of_a_file_are_those_of_the_model(run, tmp_path):
    model = Model(run)
    expected = model.embed(TEXTS)
    expected[1] = 0
    assert written(run, tmp_path, "v.npy") == len(TEXTS)
    found = np.load(tmp_path / "v.npy")
    assert found.dtype == np.float32 and found.shape == (5, tiny.ENCODER.hidden_size)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    written(run, tmp_path, "q.npy", role="query")
    np.testing.assert_allclose(np.load(tmp_path / "q.npy")[2:], model.embed(TEXTS, "query")[2:], atol=1e-6)
    assert not np.allclose(np.load(tmp_path / "q.npy"), found, atol=1e-3), "the query's prompt matters"


def test_parquet_and_small_forms(run, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    written(run, tmp_path, "v.parquet", vectors="binary")
    written(run, tmp_path, "v.npy", vectors="int8")
    table = pq.read_table(tmp_path / "v.parquet")
    assert table["text"].to_pylist() == TEXTS and len(table["vector"][0]) == tiny.ENCODER.hidden_size // 8
    assert np.load(tmp_path / "v.npy").dtype == np.int8 and (tmp_path / "v.npy.ranges.npy").exists()


def test_what_is_refused(run, tmp_path):
    for options, message in (
        ({"name": "v.jsonl", "vectors": "int8"}, "--vectors=int8: is for an output of vectors"),
        ({"name": "v.jsonl", "role": "query"}, "--role=query: is for an output of vectors"),
        ({"name": "v.npy", "vectors": "int7"}, "--vectors=int7: Did you mean 'int8'"),
        ({"name": "v.npy", "role": "quer"}, "role: 'quer'. Did you mean 'query'"),
    ):
        with pytest.raises(UserError, match=message):
            written(run, tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir() if path.suffix not in (".txt", ".lock")] == []


def test_a_model_without_vectors(tmp_path):
    other = tiny.write_runs(tmp_path / "runs", ("classification",))["classification"]
    with pytest.raises(UserError, match="a run of the task classification, which makes no vectors of texts"):
        written(other, tmp_path, "v.npy")


def test_the_ending_decides():
    assert form_of(pathlib.Path("a.npy"), "", "") == "float32" and form_of(pathlib.Path("a.jsonl"), "", "") == ""

"""Search by a vector a token: what is found is what MaxSim of each pair says, kept in an index and opened again."""

import json
import pathlib

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.programs import search_index
from jaxfm.programs.model import Model
from jaxfm.programs.search_index import open_index
from tests import tiny

TEXTS = [
    f"{one} met {other} in the old town . {one}" for one in ("ada", "emmy", "hilbert") for other in ("gauss", "boole")
]
QUERIES = ["ada met boole", "the old town", "emmy"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write_runs(tmp_path_factory.mktemp("tokens"), ["late_interaction"])["late_interaction"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    rows = [{"id": f"d{number}", "text": text, "answer": f"yes {number}"} for number, text in enumerate(TEXTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_order_is_that_of_maxsim(
    run: pathlib.Path, corpus: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [(query, text) for query in QUERIES for text in TEXTS]
    wanted = np.asarray([found["score"] for found in Model(run)(pairs)]).reshape(len(QUERIES), -1)
    monkeypatch.setattr(search_index, "PORTION", 4)
    made = open_index(run, corpus, tmp_path / "index").search(QUERIES)
    for found, row in zip(made, wanted, strict=True):
        np.testing.assert_allclose([each["score"] for each in found], np.sort(row)[::-1], atol=2e-4)
        for each in found:
            np.testing.assert_allclose(each["score"], row[int(each["id"][1:])], atol=2e-4)
    monkeypatch.setattr(search_index.VectorStore, "append", None)  # nothing is embedded again
    assert open_index(run, None, tmp_path / "index").search(QUERIES) == made
    assert open_index(run, None, tmp_path / "index").search(QUERIES[0], 1)[0]["rank"] == 1


def test_some_of_the_texts(run: pathlib.Path, corpus: pathlib.Path) -> None:
    """Ranks and scores are those of a search of all without the others, by a vector a token and by words."""
    for index in (open_index(run, corpus), open_index(corpus=corpus, bm25=True)):
        for among in ([0, 3, 4], [5], [4, 0, 4]):
            names = {f"d{number}" for number in among}
            for found, whole in zip(index.search(QUERIES, among=among), index.search(QUERIES), strict=True):
                expected = [each for each in whole if each["id"] in names]
                assert [each["id"] for each in found] == [each["id"] for each in expected]
                scores = [[each["score"] for each in both] for both in (found, expected)]
                np.testing.assert_allclose(scores[0], scores[1], atol=1e-5)
        with pytest.raises(UserError, match="--top=3: must be from 1 to 2, the number of texts"):
            index.search(QUERIES, 3, among=[0, 4])


def test_answers_and_what_is_refused(run: pathlib.Path, corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    index = open_index(run, corpus, answers=True, threshold=-100.0)
    best = index.search(QUERIES[0], 1)[0]
    assert index.answer(QUERIES[0])["answer"] == f"yes {best['id'][1:]}"
    assert open_index(run, corpus, answers=True, threshold=100.0).answer(QUERIES[0])["answer"] is None
    with pytest.raises(
        UserError, match="--approximate: its graph is of one vector a text, but this run gives a vector"
    ):
        open_index(run, corpus, tmp_path / "index", approximate=True)
    assert not (tmp_path / "index").exists()
    with pytest.raises(UserError, match="makes no vectors of texts"):
        Model(run).embed(["ada"])
    with pytest.raises(UserError, match="role: 'quarry'"):
        Model(run).embed_tokens(["ada"], "quarry")

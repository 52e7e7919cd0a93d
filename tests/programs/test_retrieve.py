"""Texts of a corpus by a run's vectors, by words, reranked, and answers: from Python and as a program."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

import jaxfm
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs import search_index
from jaxfm.programs.model import Model
from jaxfm.programs.retrieve import answer_lines, lines, retrieve, retrieve_file
from jaxfm.programs.search_index import SearchIndex, open_index
from tests import tiny
from tests.programs import embedding_run
from tests.programs.many_calls import call_many

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = [" ".join(words) for words, _ in tiny.sentences(40, 3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("retrieve")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    return embedding_run.write(folder / "run", tiny.write_weights(folder / "weights"), query_prompt="met ")


@pytest.fixture(scope="module")
def other_run(folder: pathlib.Path, run: pathlib.Path) -> pathlib.Path:
    return embedding_run.write(folder / "other", f"dir:{folder / 'weights'}", query_prompt="met ", scale=1.01)


@pytest.fixture(scope="module")
def classifiers(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    made = {"regression_pairs": lambda directory: tiny.classification_config(directory, "regression", pairs=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "CONFIGS", {**tiny.CONFIGS, **made})
        return tiny.write_runs(folder, ("pairs", "regression", "ner", *made))


@pytest.fixture(scope="module")
def corpus(folder: pathlib.Path) -> pathlib.Path:
    rows = [{"id": f"d{number}", "text": text} for number, text in enumerate(TEXTS)]
    path = folder / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_order_is_that_of_the_vectors(run: pathlib.Path, corpus: pathlib.Path) -> None:
    model = Model(run)
    queries = ["ada met boole", "in the old town", "hull"]
    scores = model.embed(queries, "query") @ model.embed(TEXTS, "document").T
    assert not np.allclose(scores, model.embed(queries) @ model.embed(TEXTS).T), "a query has another prompt"
    index = open_index(run, corpus)
    for query, found, row in zip(queries, index.search(queries, 7), scores, strict=True):
        alone = index.search(query, 7)  # the same but for rounding, as its row is packed in another way
        assert [each["id"] for each in alone] == [each["id"] for each in found]
        assert [each["id"] for each in found] == [f"d{number}" for number in np.argsort(-row, kind="stable")[:7]]
        np.testing.assert_allclose([each["score"] for each in found], -np.sort(-row)[:7], atol=1e-5)
        assert [each["rank"] for each in found] == list(range(1, 8))
        assert all(TEXTS[int(each["id"][1:])] == each["text"] for each in found)
    assert retrieve(run, queries, TEXTS, top=40)[1][0]["text"] == index.search(queries[1], 1)[0]["text"]
    assert index.search([]) == []
    assert repr(index) == "<jaxfm.SearchIndex: 40 texts>"
    assert jaxfm.open_index is open_index and jaxfm.retrieve is retrieve and jaxfm.SearchIndex is SearchIndex


def test_a_kept_index_is_opened_again(
    tmp_path: pathlib.Path, run: pathlib.Path, other_run: pathlib.Path, corpus: pathlib.Path, monkeypatch: Any
) -> None:
    made = open_index(run, corpus, tmp_path / "index").search("ada met", 5)
    assert made == open_index(run, corpus).search("ada met", 5)
    with monkeypatch.context() as patch:
        patch.setattr(search_index.VectorStore, "append", None)  # nothing is embedded again
        for given in (corpus, None):
            assert open_index(run, given, tmp_path / "index").search("ada met", 5) == made
        for given in (corpus, None):
            with pytest.raises(UserError, match=r"holds vectors of another run \(.*run, hash .*not of .*other"):
                open_index(other_run, given, tmp_path / "index")
        with pytest.raises(UserError, match=r"holds another corpus \(.*corpus.jsonl, 40 texts.*in memory as it is now"):
            open_index(run, TEXTS, tmp_path / "index")
        with pytest.raises(UserError, match="was made without --answer"):
            open_index(run, None, tmp_path / "index", answers=True)


def test_an_index_that_was_stopped_goes_on(
    tmp_path: pathlib.Path, run: pathlib.Path, corpus: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_index, "PORTION", 8)
    whole = open_index(run, corpus, tmp_path / "whole").search(TEXTS[:3], 9)
    embed, calls = Model.embed, []

    def stopping(self: Model, texts: Any, role: str = "") -> np.ndarray:
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(self, texts, role)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Model, "embed", stopping)
        open_index(run, corpus, tmp_path / "cut")
    with pytest.raises(UserError, match=r"has 16 of 40 texts so far; give --corpus=.*corpus.jsonl again"):
        open_index(run, None, tmp_path / "cut")
    calls[:] = [0, 0, 0]
    with monkeypatch.context() as patch:
        patch.setattr(Model, "embed", stopping)
        again = open_index(run, corpus, tmp_path / "cut")
        assert calls[3:] == [8, 8, 8], "the other 24 texts"
    assert again.search(TEXTS[:3], 9) == whole
    assert (tmp_path / "cut" / "vectors.npy").read_bytes() == (tmp_path / "whole" / "vectors.npy").read_bytes()


def test_approximate_search(tmp_path: pathlib.Path, run: pathlib.Path, corpus: pathlib.Path, capsys: Any) -> None:
    exact = open_index(run, corpus, tmp_path / "index")
    for _ in range(2):  # made, then opened
        near = open_index(run, corpus, tmp_path / "index", approximate=True, progress=Progress(None))
        assert "approximate search: recall@10 1.0000 of exact search (of 40 texts)" in capsys.readouterr().out
        found, expected = near.search("ada met boole", 10), exact.search("ada met boole", 10)
        assert {each["id"] for each in found} == {each["id"] for each in expected}
        np.testing.assert_allclose([e["score"] for e in found], [e["score"] for e in expected], atol=1e-6)
    with pytest.raises(UserError, match="--approximate: needs --index"):
        open_index(run, corpus, approximate=True)


def test_by_words() -> None:
    index = open_index(corpus=["a red cat", "the dog", "cats", "the cat and the dog"], bm25=True)
    assert [each["id"] for each in index.search("CAT", 4)] == [1, 4], "what shares no word is not found"
    assert index.search("mouse") == []  # type: ignore[comparison-overlap]
    with pytest.raises(UserError, match="--bm25: ranks by words"):
        open_index("runs/a", ["x"], bm25=True)


@pytest.mark.parametrize("kind", ["pairs", "regression_pairs"])
def test_a_reranker_orders_the_candidates(classifiers: dict[str, pathlib.Path], kind: str) -> None:
    reranker = classifiers[kind]
    index = open_index(corpus=TEXTS, bm25=True, rerank=reranker, candidates=6)
    first = open_index(corpus=TEXTS, bm25=True).search("ada met in the town", 6)
    found = index.search("ada met in the town", 4)
    scores = Model(reranker).pair_scores([("ada met in the town", each["text"]) for each in first])
    assert [each["id"] for each in found] == [first[at]["id"] for at in np.argsort(-scores, kind="stable")[:4]]
    np.testing.assert_allclose([each["score"] for each in found], -np.sort(-scores)[:4], atol=1e-6)
    by_id = {each["id"]: each["score"] for each in first}
    assert all(each["first_score"] == by_id[each["id"]] for each in found)
    assert len({round(score, 6) for score in scores}) > 1, "the scores tell texts apart"
    if kind == "pairs":
        (result,) = Model(reranker)([("ada met in the town", first[0]["text"])])
        assert result["scores"][Model(reranker).labels[-1]] == pytest.approx(scores[0], abs=1e-4)
    # In a batch of several queries as alone.
    both = index.search(["ada met in the town", "hull"], 4)
    assert [each["id"] for each in both[0]] == [each["id"] for each in found]


FAQ = [
    {"id": "open", "question": "when are you open", "answer": "From nine to five.\nNot on Sundays."},
    {"id": "pay", "question": "how can i pay", "answer": "By card."},
]


def test_answers(run: pathlib.Path, classifiers: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    index = open_index(corpus=FAQ, bm25=True, answers=True, threshold=0.5)
    found = index.answer("so when are you open")
    assert (found["answer"], found["id"], found["text"]) == (FAQ[0]["answer"], "open", "when are you open")
    high = open_index(corpus=FAQ, bm25=True, answers=True, threshold=found["score"] + 0.1)
    assert high.answer(["so when are you open", "zebra"]) == [
        {**found, "answer": None},
        {"query": "zebra", "answer": None, "score": None, "id": None, "text": None},
    ]
    exactly = open_index(corpus=FAQ, bm25=True, answers=True, threshold=found["score"])
    assert exactly.answer("so when are you open")["answer"]
    assert answer_lines(found)[:3] == ["so when are you open", "  From nine to five.", "  Not on Sundays."]
    assert answer_lines(high.answer("zebra"))[1] == "  no answer (no text has a word of it)"
    with pytest.raises(UserError, match="--threshold: is needed"):
        open_index(run, FAQ, answers=True).answer("pay")
    with pytest.raises(UserError, match="opened without answers"):
        open_index(run, FAQ).answer("pay")


def test_the_threshold_of_the_run(
    folder: pathlib.Path, run: pathlib.Path, classifiers: dict[str, pathlib.Path]
) -> None:
    sure = embedding_run.write(folder / "calibrated", f"dir:{folder / 'weights'}", query_prompt="met ")
    (sure / "calibration.json").write_text('{"answer_threshold": 2.0}')
    asked = [each["question"] for each in FAQ]
    assert [each["answer"] for each in open_index(sure, FAQ, answers=True).answer(asked)] == [None, None]
    answers = open_index(sure, FAQ, answers=True, threshold=-1.0).answer(asked)
    assert all(each["answer"] for each in answers), "a given number goes before"
    with pytest.raises(UserError, match="--threshold: is needed"):  # that of the vectors means nothing here
        open_index(sure, FAQ, answers=True, rerank=classifiers["pairs"]).answer(asked)
    for threshold, answered in ((0.0, True), (1.0, False)):
        (classifiers["pairs"] / "calibration.json").write_text(json.dumps({"answer_threshold": threshold}))
        answers = open_index(sure, FAQ, answers=True, rerank=classifiers["pairs"]).answer(asked)
        assert [each["answer"] is not None for each in answers] == [answered] * 2, "the reranker's own"
    (classifiers["pairs"] / "calibration.json").unlink()


def test_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "queries.jsonl").write_text('{"id": 7, "text": "a cat"}\n{"id": 8, "text": "zebra"}\n')
    index = open_index(corpus=["the cat", "a dog"], bm25=True)
    assert retrieve_file(index, tmp_path / "queries.jsonl", tmp_path / "out.jsonl", top=1) == 2
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert (first["query_id"], first["query"], first["results"][0]["text"]) == (7, "a cat", "the cat")
    assert second == {"query_id": 8, "query": "zebra", "results": []}
    (tmp_path / "queries.txt").write_text("cat\n\n")
    with pytest.raises(UserError, match=r"queries.txt:2: is blank"):
        retrieve_file(index, tmp_path / "queries.txt", tmp_path / "none.jsonl", top=1)
    assert not (tmp_path / "none.jsonl").exists()
    with pytest.raises(UserError, match="--top=3: must be from 1 to 2, the number of texts of the corpus"):
        retrieve_file(index, tmp_path / "queries.txt", tmp_path / "none.jsonl", top=3)
    with pytest.raises(UserError, match="is the input itself"):
        retrieve_file(index, tmp_path / "queries.txt", tmp_path / "queries.txt", top=1)


def test_what_is_refused(run: pathlib.Path, classifiers: dict[str, pathlib.Path]) -> None:
    for bad, message in (
        ({"corpus": []}, "--corpus=texts in memory: has no text"),
        ({"corpus": [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}]}, "text 2 of the corpus: the id 1 is that of"),
        ({"corpus": [3]}, "text 1 of the corpus: the text is 3"),
        ({"corpus": None}, "--corpus is missing"),
        ({"corpus": ["a"], "candidates": 0}, "--candidates=0"),
        ({"corpus": ["a"], "rerank": classifiers["ner"]}, "--rerank=.*which does not score pairs of texts"),
        ({"corpus": ["a"], "rerank": classifiers["regression"]}, "--rerank=.*judges single texts"),
    ):
        for by in ({"bm25": True}, {"workdir": run}):
            with pytest.raises(UserError, match=message):
                open_index(**by, **bad)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="is a run of the task ner, which makes no vectors"):
        open_index(classifiers["ner"], ["a"])
    with pytest.raises(UserError, match="--workdir is missing"):
        open_index(corpus=["a"])
    index = open_index(corpus=["a cat"], bm25=True)
    for query, message in (
        (" ", "the query: is blank"),
        ([3], "query 1: is of type int"),
        (["a", ""], "query 2: is blank"),
    ):
        with pytest.raises(UserError, match=message):
            index.search(query, 1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--top=2: must be from 1 to 1"):
        index.search("cat", 2)


def test_lines_for_a_person() -> None:
    found = [
        {"rank": 1, "score": 0.51234, "id": "a", "text": "long " * 50, "title": "T"},
        {"rank": 2, "score": 0.1, "id": 17, "text": "x\ny"},
    ]
    shown = lines("query", found)
    assert shown[0] == "query" and shown[2] == "   2  0.1000  17  x y"
    assert shown[1].startswith("   1  0.5123  a   T: long long") and shown[1].endswith("…")


def test_the_program(tmp_path: pathlib.Path, run: pathlib.Path, corpus: pathlib.Path) -> None:
    (tmp_path / "faq.csv").write_text("id,question,answer\n1,when are you open,at nine\n2,how to pay,by card\n")
    (tmp_path / "queries.txt").write_text("ada met\nhull\n")
    index = f"--index={tmp_path / 'index'}"
    calls = [
        ["--bm25", f"--corpus={corpus}", "--top=2", "ada met"],
        [f"--workdir={run}", f"--corpus={corpus}", index, "--top=2", "ada met", "hull"],
        [
            f"--workdir={run}",
            index,
            "--top=2",
            f"--input={tmp_path / 'queries.txt'}",
            f"--output={tmp_path / 'o.jsonl'}",
        ],
        ["--bm25", f"--corpus={tmp_path / 'faq.csv'}", "--answer", "--threshold=0.1", "when open", "zebra"],
        ["--bm25", f"--corpus={tmp_path / 'faq.csv'}", "--answer", "when open"],
        ["--bm25", f"--corpus={corpus}", "--top=41", "ada"],
        ["--bm25", f"--corpus={corpus}"],
        [f"--corpus={corpus}", "ada"],
        [f"--workdir={run}", f"--corpus={corpus}", "--threshold=1", "ada"],
        [f"--workdir={run}", f"--corpus={corpus}", "--stop_words=en", "ada"],
    ]
    results = call_many("retrieve", calls)
    assert [code for code, _, _ in results] == [0, 0, 0, 0, 2, 2, 2, 2, 2, 2], results
    words, vectors, written, answered = (output for _, output, _ in results[:4])
    assert words.startswith("ada met\n   1  ") and len(words.splitlines()) == 3
    assert [line for line in vectors.splitlines() if not line.startswith(" ")] == ["ada met", "hull"]
    assert written.endswith(f"written: {tmp_path / 'o.jsonl'} (2 lines)\n")
    found = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    shown = [line.split()[2] for line in vectors.splitlines() if line.startswith(" ")]
    assert [each["id"] for row in found for each in row["results"]] == shown
    assert answered.splitlines()[1:2] == ["  at nine"] and "zebra\n  no answer" in answered
    for (_, _, errors), message in zip(
        results[4:],
        (
            "--threshold: is needed",
            "--top=41",
            "give either queries",
            "--workdir is missing",
            "--threshold: is of",
            "--stop_words",
        ),
        strict=True,
    ):
        assert message in errors and errors.count("error: ") == 1


@pytest.mark.slow
def test_killed_and_started_again(tmp_path: pathlib.Path, run: pathlib.Path) -> None:
    (tmp_path / "corpus.txt").write_text("".join(f"{text} {n}\n" for n in range(200) for text in TEXTS))
    command = [sys.executable, "-m", "jaxfm.retrieve", f"--workdir={run}", f"--corpus={tmp_path / 'corpus.txt'}"]
    command += [f"--index={tmp_path / 'index'}", "--top=3", "ada met"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while (
        not (tmp_path / "index" / "manifest.json").exists()
        or json.loads((tmp_path / "index" / "manifest.json").read_text())["done"] < 2048
    ):
        assert process.poll() is None, "it was faster than the kill"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "goes on after" in again.stdout
    assert [int(line.split()[2]) for line in again.stdout.splitlines() if line.startswith("   ")] == [
        each["id"] for each in open_index(run, tmp_path / "corpus.txt").search("ada met", 3)
    ]

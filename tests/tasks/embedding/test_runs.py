"""A tiny run of vectors through every program, and its export in sentence-transformers' own hands."""

import json
import pathlib

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs.check import check
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from jaxfm.tasks.embedding.predictor import LABEL_PROMPT
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run of pairs with negatives, in micro-batches, `run`."""
    folder = tmp_path_factory.mktemp("embedding")
    config = tiny.embedding_config(
        folder,
        train__steps=60,
        train__accumulate=2,
        train__batch_size=8,
        eval__every_steps=30,
        task__query_prompt="old ",
        task__matryoshka=(16,),
    )
    report = train(config, folder / "run")
    assert report["task"] == "embedding" and report["splits"]["test"]["ndcg@10"] > 0.5
    return folder


def quiet() -> Progress:
    return Progress(0, quiet=True)


def test_a_run_learns_and_says_what_it_ranks(folder: pathlib.Path) -> None:
    run = folder / "run"
    start = evaluate_untrained(folder)
    found = evaluate(run, "test", progress=quiet())
    assert found.metrics["ndcg@10"] > start["ndcg@10"] + 0.1
    records = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    assert records[0]["gold"] and len(records[0]["predicted"]) == 10
    first = sum(record["predicted"][0]["text"] in record["gold"] for record in records) / len(records)
    assert first == pytest.approx(found.metrics["accuracy@1"])
    assert "95% interval" in (run / "report.md").read_text()
    report = json.loads((run / "report.json").read_text())["splits"]["test"]
    assert 0 <= report["bm25"]["ndcg@10"] < report["ndcg@10"]  # persons and places share no word
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert (lines[0]["step"], lines[0]["split"]) == (0, "valid")
    assert any(line.get("negatives", 0) > 10 for line in lines)


def test_training_that_gains_nothing_says_so(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny.embedding_config(tmp_path, train__steps=1, optim__learning_rate=1e-12), tmp_path / "run")
    said = capsys.readouterr()
    assert "valid before the first update: ndcg@10" in said.out + said.err
    assert "WARNING: the first weights are no worse than the best checkpoint" in said.out + said.err


def evaluate_untrained(folder: pathlib.Path) -> dict[str, float]:
    """Scores the first weights themselves: a run whose rate is next to nothing."""
    config = tiny.embedding_config(folder, train__steps=1, optim__learning_rate=1e-12, task__query_prompt="old ")
    return train(config, folder / "untrained")["splits"]["test"]


def test_vectors_of_queries_and_documents(folder: pathlib.Path) -> None:
    model = Model(folder / "run")
    texts = ["ada met boole", "hull", "", "ada met boole"]
    documents, queries = model.embed(texts), model.embed(texts, "query")
    assert documents.shape == (4, 32) and documents.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(documents, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(documents[0], documents[3], rtol=1e-5)
    np.testing.assert_allclose(queries[0], model.embed(["old ada met boole"])[0], rtol=1e-4, atol=1e-6)
    assert np.abs(queries[0] - documents[0]).max() > 1e-2
    result = model("ada met boole")
    np.testing.assert_allclose(result["vector"], documents[0], atol=1e-6)
    assert "32 numbers" in model.lines(result)[1]
    with pytest.raises(UserError, match="role: 'queries'. Did you mean 'query'"):
        model.embed(["a"], "queries")
    assert model.embed([]).shape == (0, 32)


def test_texts_are_compared_with_labels_that_nobody_trained(folder: pathlib.Path) -> None:
    labels = ["ada", "near: near the old town"]
    model, plain = Model(folder / "run", labels=labels), Model(folder / "run")
    assert model.labels == ("ada", "near") and plain.labels == ()
    texts = ["ada met boole", "", "the old town near hull"]
    read_NE = plain.embed([LABEL_PROMPT.replace("{}", "ada"), "near: near the old town"])
    for text, vector_E, result in zip(texts, plain.embed(texts), model(texts), strict=True):
        wanted = dict(zip(model.labels, (read_NE @ vector_E).tolist(), strict=True)) if text else {}
        assert result["scores"] == pytest.approx(wanted, abs=1e-4) and result["text"] == text and "vector" not in result
        assert result["label"] == (max(wanted, key=wanted.__getitem__) if wanted else None)
        assert result["score"] == (result["scores"][result["label"]] if wanted else None)
    assert model.lines(model("ada met boole"))[1].split()[-1] in model.labels
    assert "vector" in plain("ada met boole")
    many = Model(folder / "run", labels=[*labels, *"bcdefghijk"])("ada met boole")["scores"]
    assert {name: many[name] for name in model.labels} == pytest.approx(model("ada met boole")["scores"], abs=2e-4)
    for wrong, message in (
        (["ada"], "two texts at least, all different"),
        (["ada", "ada"], "two texts at least, all different"),
        (["ada", "ada: a name"], "'ada' and 'ada' are the same label"),
        (["ada", "b" * 90], "the text of the label 'bbb.*is longer than the .* tokens that the model reads"),
    ):
        with pytest.raises(UserError, match=f"--labels.*{message}"):
            Model(folder / "run", labels=wrong)


def test_sentence_transformers_gives_the_same_vectors(folder: pathlib.Path) -> None:
    pytest.importorskip("sentence_transformers", reason="the oracle is not installed")
    from sentence_transformers import SentenceTransformer

    export(folder / "run", folder / "exported")
    theirs = SentenceTransformer(str(folder / "exported"), device="cpu")
    ours = Model(folder / "run")
    texts = ["ada met boole in the old town .", "hull", "emmy saw gauss near ghent and left"]
    np.testing.assert_allclose(theirs.encode_document(texts), ours.embed(texts), atol=1e-5)
    np.testing.assert_allclose(theirs.encode_query(texts), ours.embed(texts, "query"), atol=1e-5)
    assert theirs.similarity_fn_name == "cosine"
    assert "sentence-similarity" in (folder / "exported" / "README.md").read_text()


def test_an_export_is_a_start(folder: pathlib.Path) -> None:
    """Pooling, prompts and length of exported weights are taken over where the config leaves them open."""
    if not (folder / "exported").exists():
        export(folder / "run", folder / "exported")
    config = tiny.embedding_config(
        folder, model__init=f"dir:{folder / 'exported'}", train__steps=1, optim__learning_rate=1e-12
    )
    report = train(config, folder / "again")
    written = json.loads((folder / "again" / "task.json").read_text())
    assert written["query_prompt"] == "old " and written["document_prompt"] == ""
    first = json.loads((folder / "run" / "report.json").read_text())
    assert report["splits"]["test"]["ndcg@10"] == pytest.approx(first["splits"]["test"]["ndcg@10"], abs=1e-6)


def test_scored_pairs_and_a_teacher(tmp_path: pathlib.Path) -> None:
    config = tiny.embedding_config(
        tmp_path, task__kind="scored", eval__metric="spearman", data__pair_column="positive", data__text_column="anchor"
    )
    report = train(config, tmp_path / "scored")
    assert {"spearman", "pearson"} <= set(report["splits"]["test"])
    line = json.loads((tmp_path / "scored" / "predictions" / "test.jsonl").read_text().splitlines()[0])
    assert line["gold"] in (1.0, 4.0) and -1.0 <= line["predicted"] <= 1.0


def test_checks_find_what_a_person_should_know(tmp_path: pathlib.Path) -> None:
    config = tiny.embedding_config(tmp_path)
    path = tmp_path / "groups" / "valid.jsonl"
    lines = (tmp_path / "groups" / "train.jsonl").read_text().splitlines()[:8]
    same = {"anchor": "ada in hull", "positive": "ada in hull", "negative": "gauss"}
    path.write_text("\n".join([*lines, *[json.dumps(same)] * 4]) + "\n")
    found = {each.check: each for each in check(config).findings}
    assert found["equal texts"].level == "warning" and "4 of" in found["equal texts"].message
    assert found["anchors"].level == "warning" and "valid 8" in found["anchors"].message
    assert found["leaks"].level != "ok"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task__loss__function": "cosent"}, "'cosent' is not for config.task.kind=pairs"),
        ({"task__loss__function": "triplet", "task__negatives": 0}, "triplet needs a negative in each group"),
        ({"task__loss__function": "triplet", "task__loss__symmetric": True}, "symmetric: is of infonce alone"),
        ({"task__matryoshka": (64,)}, "matryoshka: 64 is not from 1 to the 32 numbers"),
        ({"data__text_column": "ancor"}, "ancor"),
    ],
)
def test_what_cannot_be_learned_is_refused(tmp_path: pathlib.Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny.embedding_config(tmp_path, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_single_pair_and_equal_positives_are_refused(tmp_path: pathlib.Path) -> None:
    config = tiny.embedding_config(tmp_path)
    path = tmp_path / "groups" / "train.jsonl"
    record = json.loads(path.read_text().splitlines()[0])
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match="has 1 group of texts"):
        train(config, tmp_path / "run")
    path.write_text("".join(json.dumps(record | {"anchor": f"ada {name}"}) + "\n" for name in ("hull", "ghent", "in")))
    with pytest.raises(UserError, match="all 3 training pairs of .* have one positive"):
        train(config, tmp_path / "run")

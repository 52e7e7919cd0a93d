"""A folder of runs as one model: the mean of what each of them says, and how far they are apart."""

import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.evaluation import ensembles, many_runs
from jaxfm.evaluation.calibration import write_calibration
from jaxfm.programs.evaluate import compare, evaluate
from jaxfm.programs.model import Model
from jaxfm.programs.predict import predict_file
from jaxfm.tasks.ner.decoding import read_words
from tests import tiny

TEMPERATURES = (0.5, 1.0, 3.0)
TEXTS = ["ada met boole in hull .", "the old town", ""]


def write_ensemble(directory: pathlib.Path, name: str) -> pathlib.Path:
    """Writes three runs of random weights with a calibration each, and the seeds.json over them."""
    folder = directory / f"runs_{name}"
    folder.mkdir()
    finished = []
    for seed, temperature in enumerate(TEMPERATURES):
        workdir = tiny.write_runs(directory, [name], seed=seed)[name]
        if name != "regression":
            write_calibration(workdir, {"temperature": temperature})
        workdir.rename(folder / f"seed{seed}")
        report = {"splits": {"test": {"loss": float(seed)}}}
        finished.append(many_runs.FinishedRun(seed, folder / f"seed{seed}", report))
    many_runs.write(folder, many_runs.gather(name, "loss", finished))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, pathlib.Path]]:
    directory = tmp_path_factory.mktemp("ensembles")
    yield {name: write_ensemble(directory, name) for name in ("ner", "classification", "multi", "regression", "qa")}


def answers(folder: pathlib.Path) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """What the ensemble says of TEXTS, and what each member says."""
    return Model(folder)(TEXTS), [Model(folder / f"seed{seed}")(TEXTS) for seed in range(len(TEMPERATURES))]


@pytest.mark.parametrize("name", ["classification", pytest.param("multi", marks=pytest.mark.slow)])
def test_probabilities_are_the_mean_of_the_members(made: dict[str, pathlib.Path], name: str) -> None:
    together, apart = answers(made[name])
    for number, result in enumerate(together[:2]):
        scores = [list(each[number]["scores"].values()) for each in apart]
        np.testing.assert_allclose(list(result["scores"].values()), np.mean(scores, axis=0), atol=1.01e-4)
        spread = np.std(scores, axis=0)
        if name == "multi":
            np.testing.assert_allclose(list(result["spread"].values()), spread, atol=1.01e-4)
            assert result["labels"] == [label for label, score in result["scores"].items() if score >= 0.5]
        else:
            assert result["spread"] == pytest.approx(spread[np.argmax(np.mean(scores, axis=0))], abs=1.01e-4)
            assert result["score"] == max(result["scores"].values())
    assert "spread" not in together[2] and "spread" not in apart[0][0]  # no text; no ensemble


@pytest.mark.slow
def test_numbers_are_the_mean_of_the_members(made: dict[str, pathlib.Path]) -> None:
    together, apart = answers(made["regression"])
    for number, result in enumerate(together[:2]):
        values = [each[number]["value"] for each in apart]
        assert result["value"] == pytest.approx(np.mean(values), abs=1.01e-4)
        assert result["spread"] == pytest.approx(np.std(values), abs=1.01e-4)
    evaluation = evaluate(made["regression"], "test")
    assert evaluation.scores["ensemble"]["disagreement"]["standard_deviation"] > 0


def test_entities_are_decoded_from_the_mean_of_tokens(made: dict[str, pathlib.Path]) -> None:
    folder = made["ner"]
    of_members = []
    for seed, temperature in enumerate(TEMPERATURES):
        model = Model(folder / f"seed{seed}")
        predictor: Any = model.predictor
        encoded = predictor.encode([{"text": text} for text in TEXTS])
        words = read_words(predictor.spec, encoded.encoded, model._outputs(encoded.rows)).logits
        scaled = np.concatenate(words).astype(np.float64) / temperature
        odds = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        of_members.append(odds / odds.sum(axis=-1, keepdims=True))
    mean_WC, spread_WC = np.mean(of_members, axis=0), np.std(of_members, axis=0)
    starts, found = {text: 0 for text in TEXTS[:1]}, 0
    for result in Model(folder)(TEXTS[:1]):
        begins = [0, *(index + 1 for index, letter in enumerate(result["text"]) if letter == " ")]
        for entity in result["entities"]:
            first = starts[result["text"]] + begins.index(entity["start"])
            count = entity["text"].count(" ") + 1
            kinds = [f"B-{entity['type']}", *[f"I-{entity['type']}"] * (count - 1)]
            which = (range(first, first + count), [tiny.LABELS.index(kind) for kind in kinds])
            assert entity["score"] == pytest.approx(mean_WC[which].mean(), abs=1.01e-4)
            assert entity["spread"] == pytest.approx(spread_WC[which].mean(), abs=1.01e-4)
            found += 1
    assert found


def test_an_ensemble_is_scored_beside_its_members(made: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    folder = made["classification"]
    evaluation = evaluate(folder, "test")
    facts = evaluation.scores["ensemble"]
    assert facts["members"] == 3 and evaluation.tables[0].title == "Ensemble of 3"
    records = list(evaluation.predictions)
    texts, gold = [record["text"] for record in records], [record["gold"] for record in records]
    models = [Model(folder), *(Model(folder / f"seed{seed}") for seed in range(3))]
    scores = [[result["scores"] for result in model(texts)] for model in models]
    losses = [[-math.log(each[label]) for each, label in zip(of, gold, strict=True)] for of in scores]
    assert evaluation.metrics["loss"] == pytest.approx(np.mean(losses[0]), rel=2e-3)
    assert facts["metrics"]["nll"]["ensemble"] == pytest.approx(evaluation.metrics["loss"])
    assert facts["metrics"]["nll"]["values"] == pytest.approx([np.mean(each) for each in losses[1:]], rel=2e-3)
    assert facts["metrics"]["ece"]["ensemble"] == evaluation.scores["calibration"]["model"]["ece"]
    decided = np.asarray([[max(each, key=each.get) for each in of] for of in scores[1:]])
    pairs = [(decided[a] != decided[b]).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert facts["disagreement"]["disagreement"] == pytest.approx(np.mean(pairs))
    assert facts["disagreement"]["mutual_information"] > 0
    # It is kept, beside the table of the runs.
    kept = json.loads((folder / "ensemble.json").read_text())
    assert kept["splits"]["test"]["metrics"]["nll"] == facts["metrics"]["nll"]
    assert "## Ensemble, test" in (folder / "seeds.md").read_text()
    # One member against all of them, and a file.
    assert compare(folder / "seed0", folder, "test").differences["loss"].b == pytest.approx(evaluation.metrics["loss"])
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS[:2]) + "\n")
    assert predict_file(folder, tmp_path / "texts.txt", tmp_path / "out.jsonl") == 2
    assert "spread" in json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])


def test_the_mean_of_models_that_are_sure() -> None:
    """Logits of 1,000 have a probability of 1, and that of two such models that differ is a half."""
    sure = [np.asarray([[1000.0, -1000.0]]), np.asarray([[-1000.0, 1000.0]])]
    for kind in ("single", "multi"):
        mean, spread = ensembles.mean_logits(sure, kind)
        assert np.isfinite(mean).all() and (spread == 0.5).all()
        np.testing.assert_allclose(mean[0, 0], mean[0, 1])
        found = ensembles.disagreement(sure, kind)
        assert found["disagreement"] == 1 and found["mutual_information"] == pytest.approx(math.log(2))
    assert ensembles.disagreement([np.zeros((0, 2))] * 2, "single") == {"disagreement": 0, "mutual_information": 0}


def test_what_is_no_ensemble_is_refused(made: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        UserError, match=r"3 runs of the task qa: .* has no mean .* Name one of them, as --workdir=.*seed0"
    ):
        Model(made["qa"])
    with pytest.raises(UserError, match="3 runs of the task qa"):
        evaluate(made["qa"], "test")
    with pytest.raises(UserError, match="is an ensemble of 3 runs; explain a result of one"):
        Model(made["classification"]).explain("the old town")
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for seed, name in enumerate(("classification", "ner")):
        (mixed / f"seed{seed}").symlink_to(made[name] / "seed0")
    found = json.loads((made["ner"] / "seeds.json").read_text())
    found["runs"] = {str(seed): str(mixed / f"seed{seed}") for seed in (0, 1)}
    files.write_json(mixed / "seeds.json", found)
    with pytest.raises(UserError, match="seed0 and seed1 differ in task, labels"):
        Model(mixed)
    for damaged in ("[]", '{"task": "ner"}', "{", json.dumps({**found, "runs": {}})):
        (mixed / "seeds.json").write_text(damaged)
        with pytest.raises(UserError, match=r"seeds\.json: "):
            evaluate(mixed, "test")

"""From a supernet to its best subnet: scores, the winner as an ordinary run, and what is refused."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.programs import subnets as program
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.subnets import subnets
from jaxfm.programs.train import train
from jaxfm.training import cut_run
from jaxfm.training.saved_run import open_run
from jaxfm.training.subnet_scores import subnet_of
from jaxfm.tuning.subnet_report import rank_correlation
from tests import tiny

SUBNETS: dict[str, Any] = {"supernet__depths": (1,), "supernet__heads": (1,), "supernet__ffn_sizes": (16, 32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("subnets")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    return tiny.classification_config(folder, **SUBNETS, train__steps=8, eval__metric="loss")


@pytest.fixture(scope="module")
def supernet(folder: pathlib.Path, config: Config) -> pathlib.Path:
    train(config, folder / "supernet")
    return folder / "supernet"


@pytest.fixture(scope="module")
def found(folder: pathlib.Path, supernet: pathlib.Path) -> Iterator[dict[str, Any]]:
    yield subnets(supernet, folder / "found", {"flops": 0.7, "bytes": 0.95})


def test_subnets_within_the_limits_are_scored(folder: pathlib.Path, found: dict[str, Any]) -> None:
    shapes = [(each["depth"], each["heads"], each["ffn_size"]) for each in found["subnets"]]
    assert shapes[-1] == (2, 2, 64) and len(set(shapes)) == len(shapes) > 4
    assert all(each["shares"]["flops"] <= 0.7 and each["shares"]["bytes"] <= 0.95 for each in found["subnets"][:-1])
    best = found["subnets"][found["best"]]
    assert best["score"] == min(each["score"] for each in found["subnets"][:-1])
    assert found["best"] in found["front"] or best["score"] > found["subnets"][-1]["score"]
    assert json.loads((folder / "found" / "subnets.json").read_text()) == found
    text = (folder / "found" / "subnets.md").read_text()
    assert "largest" in text and "jaxfm.train --config=" in text
    assert (folder / "found" / "front.png").stat().st_size > 10_000


def test_the_winner_is_an_ordinary_run(folder: pathlib.Path, supernet: pathlib.Path, found: dict[str, Any]) -> None:
    winner, best = folder / "found" / found["winner"], found["subnets"][found["best"]]
    opened = open_run(winner)
    whole = open_run(supernet).spec.encoder
    assert subnet_of(whole, opened.spec.encoder) == (best["depth"], best["heads"], best["ffn_size"])
    assert not opened.config.supernet.depths and opened.config.model.init == f"run:{supernet}"
    assert evaluate(winner, "valid").metrics["loss"] == pytest.approx(best["score"], rel=1e-4)
    assert json.loads((winner / "report.json").read_text())["model"]["parameters"] == best["costs"]["parameters"]
    export(winner, folder / "exported")
    assert json.loads((folder / "exported" / "config.json").read_text())["num_attention_heads"] == 2
    tuned = train(folder / "found" / found["config"], folder / "tuned", overrides={"train.steps": 4})
    assert tuned["model"]["parameters"] == best["costs"]["parameters"]
    assert open_run(folder / "tuned").spec.encoder == opened.spec.encoder


def test_the_same_command_again_computes_nothing_and_a_killed_one_goes_on(
    folder: pathlib.Path, supernet: pathlib.Path, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"flops": 0.7, "bytes": 0.95}
    with monkeypatch.context() as patch:
        patch.setattr("jaxfm.training.subnet_scores.Evaluator.__call__", lambda *_: pytest.fail("computed again"))
        patch.setattr(cut_run, "write_run", lambda *_: pytest.fail("written again"))
        assert subnets(supernet, folder / "found", limits) == found
    # Killed while the winner was written, with some of the scores known.
    again = folder / "again"
    again.mkdir()
    scores = json.loads((folder / "found" / "scores.json").read_text())
    scores["scores"] = dict(list(scores["scores"].items())[:3])
    (again / "scores.json").write_text(json.dumps(scores))
    (again / found["winner"]).mkdir()
    (again / found["winner"] / "config.json").write_text("{}")
    assert subnets(supernet, again, limits) == found
    assert evaluate(again / found["winner"], "valid").metrics["loss"] == pytest.approx(
        found["subnets"][found["best"]]["score"], rel=1e-4
    )


def test_ranks_are_compared_with_shapes_that_are_trained_alone(
    folder: pathlib.Path, supernet: pathlib.Path, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [folder / "found" / found["winner"], folder / "tuned"]
    with pytest.raises(UserError, match="ranks are compared over at least 3 runs"):
        subnets(supernet, folder / "found", {"flops": 0.7}, runs=runs)
    plain = tiny.classification_config(folder, train__steps=2, eval__metric="loss")
    train(plain, folder / "whole")
    ranked = subnets(supernet, folder / "found", {"flops": 0.7, "bytes": 0.95}, runs=[*runs, folder / "whole"])
    assert len(ranked["alone"]) == 3
    assert (ranked["alone"][2]["depth"], ranked["alone"][2]["ffn_size"]) == (2, 64)
    assert ranked["spearman"] == rank_correlation(ranked["alone"])
    assert "Shapes trained alone" in (folder / "found" / "subnets.md").read_text()
    wider = dataclasses.replace(open_run(supernet).spec.encoder, hidden_size=64)
    assert subnet_of(open_run(supernet).spec.encoder, wider) is None
    monkeypatch.setattr(program, "subnet_of", lambda *_: None)
    with pytest.raises(UserError, match="has not the shape of a subnet"):
        subnets(supernet, folder / "found", {"flops": 0.7}, runs=[*runs, folder / "whole"])


def test_rank_correlation() -> None:
    def of(alone: list[float], score: list[float]) -> float | None:
        return rank_correlation([{"alone": x, "score": y} for x, y in zip(alone, score, strict=True)])

    assert of([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(1 - 6 * 2 / (4 * 15))  # 1 - 6 sum(d^2) / (n (n^2 - 1))
    assert of([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert of([1, 1, 2], [1, 2, 3]) == pytest.approx(3**0.5 / 2)  # ranks 1.5, 1.5, 3
    assert of([1, 2, 3], [5, 5, 5]) is None


@pytest.mark.parametrize(
    ("most", "options", "message"),
    [
        ({}, {}, "--most is missing"),
        ({"flops": 1.5}, {}, "--most=flops=1.5: flops is a share of the largest model's"),
        ({"flop": 0.5}, {}, "Did you mean 'flops'"),
        ({"flops": 0.01}, {}, r"--most=flops=0.01: no subnet of .* is within it; the smallest has flops 0\.\d+ of"),
        ({"step_seconds": 0.5}, {}, "say which one, as --chip=h100"),
        ({"flops": 0.5}, {"chip": "h10"}, "--chip=h10: is not a known chip"),
        ({"flops": 0.5}, {"trials": 0}, "--trials=0: must be at least 1"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    folder: pathlib.Path, supernet: pathlib.Path, most: dict[str, float], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        subnets(supernet, folder / "none", most, **options)
    assert not (folder / "none").exists()


def test_other_directories_are_refused(folder: pathlib.Path, supernet: pathlib.Path, found: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is not empty and holds no scores of subnets"):
        subnets(supernet, supernet, {"flops": 0.7})
    winner = folder / "found" / found["winner"]
    with pytest.raises(UserError, match=r"was trained without subnets. Train one with config.supernet.depths"):
        subnets(winner, folder / "none", {"flops": 0.7})
    scores = json.loads((folder / "found" / "scores.json").read_text())
    (folder / "foreign").mkdir()
    (folder / "foreign" / "scores.json").write_text(json.dumps(scores | {"run": "another"}))
    with pytest.raises(UserError, match="holds scores of another run, or of other validation data"):
        subnets(supernet, folder / "foreign", {"flops": 0.7})
    assert program.SCORES_FILE == "scores.json"

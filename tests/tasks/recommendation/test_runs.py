"""Whole tiny runs of recommenders: learned, stopped, scored again, asked, exported, served a mistake."""

import json
import os
import pathlib
import signal
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.check import check
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.predict import predict
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.training import session
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.initial import resolve
from tests.tiny_shop import recommendation_config, write_interactions

RUN = {
    "train__epochs": 50.0,
    "train__batch_size": 8,
    "eval__every_steps": 20,
    "log__every_steps": 10,
    "log__tensorboard": False,
    "checkpoint__keep_optimizer": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    return recommendation_config(folder, **RUN)


@pytest.fixture(scope="module")
def whole(folder: pathlib.Path, config: Config) -> dict[str, Any]:
    return train(config, folder / "whole")


def test_a_run_learns_what_popularity_does_not_know(folder: pathlib.Path, whole: dict[str, Any]) -> None:
    scores = whole["splits"]["test"]
    popular = scores["without_training"]["popularity"]
    # The next item of the ring is one of 12: popularity finds it by chance, the model nearly always.
    assert scores["recall@1"] > 0.8 > 0.4 > popular["recall@1"]
    assert scores["without_training"]["last item's followers"]["recall@1"] > 0.8
    assert set(scores["intervals"]["metrics"]) >= {"ndcg@10", "recall@1", "mrr"}
    report = (folder / "whole" / "report.md").read_text()
    assert "Ranking of 12 items for each of 40 users" in report and "item-kNN" in report
    first = json.loads((folder / "whole" / "predictions" / "test.jsonl").read_text().splitlines()[0])
    assert set(first) >= {"user", "history", "gold", "rank", "predicted"}
    assert not {*first["history"]} & {*first["predicted"]}


def test_a_stopped_run_goes_on_as_if_nothing_had_been(
    folder: pathlib.Path, config: Config, whole: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    batches, plain = 0, session.meshes.shard_batch

    def shard_batch(*arguments: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.meshes, "shard_batch", shard_batch)
        with pytest.raises(Preempted, match="step 5"):
            train(config, tmp_path)
    assert train(config, tmp_path)["splits"] == whole["splits"]

    def hashes(workdir: pathlib.Path) -> Any:
        checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
        try:
            return checkpoints.meta(whole["training"]["steps"])["hashes"]
        finally:
            checkpoints.close()

    assert hashes(tmp_path) == hashes(folder / "whole")


def test_a_run_is_scored_again_as_it_was(folder: pathlib.Path, whole: dict[str, Any], tmp_path: pathlib.Path) -> None:
    found = evaluate(folder / "whole", "test").scores
    for name in ("ndcg@10", "mrr", "coverage@10"):
        assert found[name] == pytest.approx(whole["splits"]["test"][name])
    other = write_interactions(tmp_path, items=9)
    with pytest.raises(UserError, match="it has 9 items, 0 of them new, but the model was trained with 12"):
        evaluate(folder / "whole", "test", source=other)


def test_what_was_taken_is_not_recommended(folder: pathlib.Path, whole: dict[str, Any]) -> None:
    texts = ["item 3|item 4 | item 5", "item 5", "new|item 1", "new", ""]
    found = predict(folder / "whole", texts)
    assert [each["text"] for each in found] == texts
    assert found[0]["items"][0]["item"] == "item 6" and found[1]["items"][0]["item"] == "item 6"
    assert not {"item 3", "item 4", "item 5"} & {each["item"] for each in found[0]["items"]}
    scores = [each["score"] for each in found[0]["items"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 9  # of 12 items, 3 are taken; 10 were asked for
    assert found[2]["unknown"] == ["new"] and found[2]["items"]
    assert found[3] == {"text": "new", "items": [], "unknown": ["new"]} and found[4]["items"] == []


def test_transformers_ranks_alike(folder: pathlib.Path, whole: dict[str, Any], tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    import transformers

    export(folder / "whole", tmp_path / "out")
    items = json.loads((tmp_path / "out" / "items.json").read_text())["items"]
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    history = ["item 3", "item 4", "item 5"]
    ids = torch.tensor([[items.index(name) + 2 for name in history]])
    with torch.no_grad():
        logits = model(input_ids=ids, position_ids=torch.arange(3, 6)[None]).logits[0, -1].numpy()
    listed = predict(folder / "whole", ["|".join(history)])[0]["items"]
    for each in listed:
        assert logits[items.index(each["item"]) + 2] == pytest.approx(each["score"], abs=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"task__method": "masked"},
        {"task__loss__kind": "gbce", "task__loss__negatives": 6},
        {
            "task__split": "time",
            "task__held_out": 0.15,
            "task__least_per_user": 2,
            "data__packed": False,
            "train__epochs": 25.0,
        },
    ],
)
def test_other_ways_learn_too(changes: dict[str, Any], tmp_path: pathlib.Path) -> None:
    config = recommendation_config(tmp_path, **{**RUN, "train__epochs": 100.0, **changes})
    scores = train(config, tmp_path / "run")["splits"]["test"]
    assert scores["ndcg@10"] > scores["without_training"]["popularity"]["ndcg@10"] + 0.1
    found = predict(tmp_path / "run", ["item 3|item 4"])[0]
    assert "item 5" in [each["item"] for each in found["items"][:3]]


def test_damaged_catalogues_are_refused(folder: pathlib.Path, whole: dict[str, Any]) -> None:
    path = folder / "whole" / "items.json"
    kept = path.read_text()
    values = json.loads(kept)
    try:
        for text, message in (
            (json.dumps({**values, "items": values["items"][:-1]}), "is no list of items"),
            (json.dumps({"items": values["items"][:-1], "counts": values["counts"][:-1]}), "11 items, but the model"),
        ):
            path.write_text(text)
            with pytest.raises(UserError, match=message):
                predict(folder / "whole", ["item 1"])
        path.unlink()
        with pytest.raises(UserError, match=r"items\.json: is absent"):
            predict(folder / "whole", ["item 1"])
    finally:
        path.write_text(kept)


def test_mistakes_are_told(folder: pathlib.Path, config: Config) -> None:
    for changes, message in (
        ({"task__least_per_item": 1000}, "no interaction is left"),
        ({"data__time_column": "time"}, "config.task.split: leave_one_out, or time"),
        ({"data__row_length": 4}, "a history has up to 7 items"),
        ({"task__separator": " "}, "config.task.separator"),
        ({"model__preset": "vit_nano"}, "reads patches, and this task reads items"),
    ):
        made = recommendation_config(folder, **{**RUN, **changes})
        with pytest.raises(UserError, match=message):
            registry.create(made, resolve(made.model))


def test_the_check_says_what_the_data_are(folder: pathlib.Path, config: Config) -> None:
    found = check(config)
    said = json.dumps(found.to_dict())
    assert "users and" in said and "are few" in said and "Interactions" in said


def test_rows_do_not_depend_on_the_rest_of_the_batch(config: Config) -> None:
    task, _ = registry.create(config, resolve(config.model))
    rows = task.datasets["test"]
    assert (rows.take(np.asarray([0]))["seen"] == rows.take(np.arange(len(rows)))["seen"][:1]).all()
    assert len({dataset.fingerprint() for dataset in task.datasets.values()}) == 3

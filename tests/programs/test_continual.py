"""jaxfm.continual: streams whose labels grow, every method, kills that change nothing, the report, what is refused."""

import dataclasses
import functools
import json
import pathlib
import random
import shutil
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.parallel.preemption import Paused
from jaxfm.programs import continual as program
from jaxfm.programs.continual import continual, make_options
from jaxfm.programs.continual_data import read_store
from jaxfm.programs.continual_scores import JSON_FILE, MARKDOWN_FILE
from jaxfm.programs.continual_stream import Stage
from jaxfm.programs.continual_work import METHODS, Work
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.model import load
from jaxfm.programs.train import train
from jaxfm.training import initial
from jaxfm.training.saved_run import open_run
from tests import tiny

OPTIONS = {"store": 8, "ewc_examples": 6, "lora_rank": 2}
NEW, METHOD = ("day", "sum"), "replay_herding"


def write_stage(folder: pathlib.Path, labels: tuple[str, str], seed: int) -> str:
    """Writes texts whose last word says which of two classes they are of."""
    folder.mkdir(parents=True)
    draw = random.Random(seed)
    for split, count in {"train": 24, "valid": 8, "test": 8}.items():
        lines = [
            {"text": " ".join([*draw.choices(tiny.FILLERS[:6], k=3), labels[number % 2]]), "label": labels[number % 2]}
            for number in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return f"jsonl:{folder}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("continual")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    return tiny.classification_config(folder, train__steps=4, eval__every_steps=2, log__tensorboard=False)


@pytest.fixture(scope="module")
def stages(folder: pathlib.Path) -> list[dict[str, Any]]:
    return [
        {"name": "old", "data.source": write_stage(folder / "old", ("in", "met"), 1)},
        {"name": "new", "data.source": write_stage(folder / "new", NEW, 2), "train.steps": 6},
    ]


@pytest.fixture(scope="module")
def whole(folder: pathlib.Path, config: Config, stages: list[dict[str, Any]]) -> dict[str, Any]:
    return continual(config, stages, folder / "whole", methods=[METHOD], options=OPTIONS)


def weights(run: pathlib.Path) -> dict[str, np.ndarray]:
    values = initial.resolve(initial.of_run(open_run(run).config.model, run)).params
    return {path: np.asarray(value) for path, value in values.items()}


def test_scores_are_those_of_the_stages_runs(folder: pathlib.Path, whole: dict[str, Any], stages: Any) -> None:
    assert whole["metric"] == "accuracy" and whole["stages"] == ["old", "new"]
    values = whole["methods"][METHOD]
    reports = [json.loads((pathlib.Path(run) / "report.json").read_text()) for run in values["seeds"]["0"]["runs"]]
    matrix = values["seeds"]["0"]["matrix"]
    assert matrix == values["mean_matrix"] and matrix[0][1] is None  # the labels of "new" are not known then
    assert [matrix[0][0], matrix[1][1]] == pytest.approx([each["splits"]["test"]["accuracy"] for each in reports])
    last = values["seeds"]["0"]["runs"][1]
    assert matrix[1][0] == pytest.approx(evaluate(last, "test", stages[0]["data.source"]).metrics["accuracy"])
    measures = {name: each["mean"] for name, each in values["measures"].items()}
    assert measures["average"] == pytest.approx(np.mean(matrix[1]))
    assert measures["forgetting"] == pytest.approx(matrix[0][0] - matrix[1][0]) == -measures["backward_transfer"]
    assert measures["forward_transfer"] is None and len(whole["untrained"]["0"]) == 2
    text = (folder / "whole" / MARKDOWN_FILE).read_text()
    assert "nan" not in text and f"{METHOD}: score on each stage's data" in text
    assert all((folder / "whole" / "plots" / f"{name}.png").is_file() for name in ("matrices", "average", "stages"))


def test_a_head_has_the_labels_of_all_stages(whole: dict[str, Any]) -> None:
    first, last = map(pathlib.Path, whole["methods"][METHOD]["seeds"]["0"]["runs"])
    assert open_run(first).spec.labels == ("in", "met")  # type: ignore[attr-defined]
    assert open_run(last).spec.labels == ("in", "met", *NEW)  # type: ignore[attr-defined]
    assert load(last)(["the old day"])[0]["label"] in ("in", "met", *NEW)


def test_replay_learns_from_the_store(folder: pathlib.Path, whole: dict[str, Any]) -> None:
    assert whole["asked"]["store"] == 8
    home = folder / "whole" / "seed0" / "replay_herding"
    kept, seen = read_store(home / "1_old.store")
    assert seen == 24 and [each.group for each in kept].count("in") == [each.group for each in kept].count("met") == 4
    lines = [json.loads(line) for line in (home / "2_new.data" / "train.jsonl").read_text().splitlines()]
    assert lines[24:] == [dict(each.line) for each in kept]
    written = json.loads((home / "2_new" / "config.json").read_text())["config"]
    assert written["data"]["source"] == f"jsonl:{home / '2_new.data'}" and written["model"]["grow_head"]


def test_a_killed_stream_goes_on_bit_for_bit(
    folder: pathlib.Path, config: Config, stages: Any, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    again = functools.partial(continual, config, stages, folder / "again", methods=[METHOD], options=OPTIONS)
    (folder / "again" / "seed0").mkdir(parents=True)
    shutil.copy(folder / "whole" / "asked.json", folder / "again")
    for name in ("untrained", "first_stage"):
        shutil.copytree(folder / "whole" / "seed0" / name, folder / "again" / "seed0" / name)
    with monkeypatch.context() as patch:  # in the middle of the second stage
        patch.setattr(program, "train", functools.partial(train, pause=lambda step, total: step == 2))
        with pytest.raises(Paused):
            again()
    home = folder / "again" / "seed0" / "replay_herding"
    assert not (home / "2_new" / "report.json").exists()
    before = (home / "1_old.store" / "store.jsonl").stat().st_mtime_ns
    found = again()
    assert (home / "1_old.store" / "store.jsonl").stat().st_mtime_ns == before
    uncut = whole["methods"]["replay_herding"]
    assert found["methods"]["replay_herding"]["mean_matrix"] == uncut["mean_matrix"]
    for path, value in weights(pathlib.Path(uncut["seeds"]["0"]["runs"][1])).items():
        np.testing.assert_array_equal(
            weights(home / "2_new")[path].view(np.uint32), value.view(np.uint32), err_msg=path
        )
    report = (home / "2_new" / "report.json").stat().st_mtime_ns
    assert again()["methods"] == found["methods"]
    assert (home / "2_new" / "report.json").stat().st_mtime_ns == report  # finished stages are taken as they are
    with pytest.raises(UserError, match="again: holds a stream of other settings .store 8, now 9.. Name another"):
        continual(config, stages, folder / "again", options={**OPTIONS, "store": 9})
    with pytest.raises(UserError, match="of other settings .the stages of --stream.. Name another"):
        continual(config, [stages[1], stages[0]], folder / "again", options=OPTIONS)
    with pytest.raises(UserError, match="of other settings .config.train.steps: 4 -> 5.. Name another"):
        continual(tiny.replaced(config, train__steps=5), stages, folder / "again", options=OPTIONS)
    (folder / "full").mkdir()
    (folder / "full" / "file").touch()
    with pytest.raises(UserError, match="full: .*is there already|full: is not empty"):
        continual(config, stages, folder / "full", options=OPTIONS)


def check_ewc(home: pathlib.Path, found: dict[str, Any]) -> None:
    """Important weights are held: they move less than without the penalty, which is in the log."""
    lines = map(json.loads, (home / "ewc" / "2_new" / "metrics.jsonl").read_text().splitlines())
    assert any(line.get("loss_ewc", 0) > 0 for line in lines)
    held = json.loads((home / "ewc" / "2_new" / "config.json").read_text())["config"]["consolidate"]
    assert held == {"importance": str(home / "ewc" / "1_old.safetensors"), "weight": 400.0, "orthogonal_to": "",
                    "orthogonal_weight": 0.5}  # fmt: skip
    runs = {name: found["methods"][name]["seeds"]["0"]["runs"] for name in ("naive", "ewc")}
    before = weights(pathlib.Path(runs["naive"][0]))
    moved = {}
    for name in runs:
        after = weights(pathlib.Path(runs[name][1]))
        moved[name] = sum(
            float(np.sum((after[path] - value) ** 2)) for path, value in before.items() if path.startswith("encoder/")
        )
    assert 0 < moved["ewc"] < moved["naive"]


@pytest.mark.slow
def test_every_method(folder: pathlib.Path, config: Config, stages: Any, whole: dict[str, Any]) -> None:
    del whole
    names = tuple(METHODS)
    found = continual(config, stages, folder / "whole", methods=names, options=OPTIONS)
    assert tuple(found["methods"]) == names and found["asked"]["seeds"] == [0]
    for name, each in found["methods"].items():
        assert all((pathlib.Path(run) / "report.json").is_file() for run in each["seeds"]["0"]["runs"]), name
    home = folder / "whole" / "seed0"
    firsts = {of["seeds"]["0"]["runs"][0] for name, of in found["methods"].items() if not METHODS[name].lora}
    assert firsts == {str(home / "first_stage" / "1_old")}  # trained once for all methods
    check_ewc(home, found)
    joint = json.loads((home / "joint" / "2_new" / "config.json").read_text())["config"]
    assert joint["train"]["steps"] == 10 and not joint["model"]["grow_head"]  # the updates of both stages
    apart = found["methods"]["lora_apart"]
    assert apart["mean_matrix"][1][0] == apart["mean_matrix"][0][0]  # nothing can be forgotten
    assert open_run(home / "lora_apart" / "2_new").spec.labels == NEW  # type: ignore[attr-defined]
    logged = {name: (home / name / "2_new" / "metrics.jsonl").read_text() for name in ("lora_orthogonal", "lwf")}
    lines = map(json.loads, logged["lora_orthogonal"].splitlines())
    assert any(line.get("loss_orthogonal", 0) > 0 for line in lines)
    assert "loss_soft" in logged["lwf"]
    mean, trained = weights(home / "average" / "2_new"), weights(home / "average" / "2_new.trained")
    first = weights(home / "first_stage" / "1_old")
    for path, value in mean.items():
        places = tuple(slice(0, size) for size in first[path].shape)
        wanted = trained[path].copy()
        wanted[places] = (first[path].astype(np.float64) + trained[path][places]) / 2
        np.testing.assert_allclose(value, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_several_seeds(folder: pathlib.Path, config: Config, stages: Any, whole: dict[str, Any]) -> None:
    found = continual(config, stages, folder / "whole", methods=[METHOD], seeds=[0, 1], options=OPTIONS)
    each = found["methods"][METHOD]
    assert found["asked"]["seeds"] == [0, 1] and set(each["seeds"]) == {"0", "1"}
    assert (
        each["seeds"]["0"] == whole["methods"][METHOD]["seeds"]["0"] and each["measures"]["average"]["sd"] is not None
    )
    values = [of["measures"]["average"] for of in each["seeds"].values()]
    assert each["measures"]["average"]["mean"] == pytest.approx(np.mean(values))
    text = (folder / "whole" / MARKDOWN_FILE).read_text()
    assert "sd of average" in text and json.loads((folder / "whole" / JSON_FILE).read_text()) == found


@pytest.mark.slow
def test_taggers_with_other_types(folder: pathlib.Path) -> None:
    config = tiny.config(folder, train__steps=4, eval__every_steps=2)
    (folder / "renamed").mkdir()
    for split in ("train", "valid", "test"):
        text = (folder / "corpus" / f"{split}.conll").read_text().replace("-LOC", "-GPE")
        (folder / "renamed" / f"{split}.conll").write_text(text)
    stages = [
        {"name": "a", "data.source": config.data.source},
        {"name": "b", "data.source": f"conll:{folder / 'renamed'}"},
    ]
    names = ["joint", "replay_reservoir", "replay_herding", "ewc", "lwf"]
    found = continual(config, stages, folder / "tags", methods=names, options=OPTIONS)
    for name in names:
        last = pathlib.Path(found["methods"][name]["seeds"]["0"]["runs"][1])
        assert {"B-LOC", "B-GPE"} <= set(open_run(last).spec.labels)  # type: ignore[attr-defined]
        assert found["methods"][name]["mean_matrix"][1][0] is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"storre": 3}, "options: 'storre' is none. Did you mean 'store'"),
        ({"store": 0}, "--store=0: must be at least 1"),
        ({"store": 2.5}, "--store=2.5: must be a number"),
        ({"ewc_weight": -1}, "--ewc_weight=-1: must be at least 0"),
        ({"ewc_decay": 1.5}, "--ewc_decay=1.5: must be from 0 to 1"),
        ({"lwf_temperature": 0}, "--lwf_temperature=0: must be above 0"),
        ({"split": "tesst"}, "--split=tesst: Did you mean 'test'"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_options(options)


def test_rows_are_as_long_in_all_stages(
    config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = {"1_a": 128, "2_b": 384, "3_c": 256}
    chosen = {name: tiny.replaced(config, data__row_length=length) for name, length in lengths.items()}
    monkeypatch.setattr(program.workdirs, "read_config", lambda run: chosen[run.name])
    auto = tiny.replaced(config, data__row_length=0)
    stages = (Stage("a", {}, auto), Stage("b", {}, auto), Stage("c", {}, chosen["3_c"]))
    work = Work(tmp_path, stages, make_options({}), train, Progress(None))
    settled = program._settled(work, "macro_f1")
    assert [stage.config.data.row_length for stage in settled] == [384, 384, 256]  # the last one said how long
    assert {stage.config.eval.metric for stage in settled} == {"macro_f1"}


def test_what_is_refused(folder: pathlib.Path, config: Config, stages: Any, tmp_path: pathlib.Path) -> None:
    for changes, message in (
        ({"methods": ["naiv"]}, "--method=naiv: 'naiv' is no method. Did you mean 'naive'"),
        ({"seeds": [1, 1]}, "--seeds=1,1: names one twice"),
        ({"seeds": [-1]}, "--seeds=-1: must be whole numbers"),
        (
            {"stream": [{**stages[0], "data.sorce": "x"}, stages[1]]},
            "stage 1 .old.: config.data.sorce: .* Did you mean 'source'",
        ),
    ):
        given: dict[str, Any] = {"stream": stages, **changes}
        with pytest.raises(UserError, match=message):
            continual(config, given.pop("stream"), tmp_path / "none", **given)
    assert not (tmp_path / "none").exists()
    assert dataclasses.is_dataclass(make_options({}))
    del folder

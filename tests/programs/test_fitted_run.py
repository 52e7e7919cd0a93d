"""Runs whose head is fitted, after learning from pairs or without, and runs of nothing new: whole, stopped, refused."""

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.parallel.preemption import Paused
from jaxfm.programs import fitted_run
from jaxfm.programs.check import check
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.predict import predict
from jaxfm.programs.train import train
from jaxfm.training import results
from jaxfm.training.saved_run import open_run
from tests import tiny

LINEAR: Any = {"task__head": "linear", "task__normalize": True, "data__holdout": 0.0, "model__dropout": 0.1}
SETFIT = LINEAR | {"task__fit": "setfit", "task__shots": 4, "train__steps": 12}
PAIRS = pathlib.Path("stages", "pairs")


def texts_of(source: str, split: str) -> tuple[list[str], list[str]]:
    lines = (pathlib.Path(source.removeprefix("jsonl:")) / f"{split}.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [record["text"] for record in records], [record["label"] for record in records]


def weights(run: pathlib.Path) -> dict[str, np.ndarray]:
    from jaxfm.config import MeshConfig
    from jaxfm.core.build import DEFAULT_BUILD
    from jaxfm.parallel.mesh import make_mesh

    return open_run(run).restore(make_mesh(MeshConfig()), DEFAULT_BUILD).to_host()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny.classification_config(tmp_path_factory.mktemp("few_labels"), **SETFIT)


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished run of SetFit."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    report = train(config, folder)
    assert report["splits"]["test"]["accuracy"] > 0.5 and report["training"]["steps"] == 0
    lines = [json.loads(line) for line in (folder / PAIRS / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]  # the encoder has learned which texts are alike
    return folder


def test_the_head_decides_as_scikit_learn_does_on_the_vectors_of_the_stage(run: pathlib.Path, config: Config) -> None:
    drawn = [record["text"] for record in open_run(run).task(config.data.source, "train").labelled_records("train")]  # type: ignore[attr-defined]
    texts, labels = texts_of(config.data.source, "train")
    assert len(drawn) == 8  # 4 of each class
    label_of = dict(zip(texts, labels, strict=True))
    encoder = Model(run / PAIRS)  # an ordinary run of vectors
    model = LogisticRegression(max_iter=1000).fit(encoder.embed(drawn), [label_of[text] for text in drawn])
    asked, gold = texts_of(config.data.source, "test")
    found = predict(run, asked)
    expected = model.predict_proba(encoder.embed(asked))
    assert [result["label"] for result in found] == model.predict(encoder.embed(asked)).tolist()
    calibrated = json.loads((run / "calibration.json").read_text()).get("temperature", 1.0)
    for result, row in zip(found, expected, strict=True):
        shares = row ** (1 / calibrated) / (row ** (1 / calibrated)).sum()
        scores = [result["scores"][name] for name in model.classes_]
        np.testing.assert_allclose(scores, shares, atol=2e-4)
    right = np.mean([result["label"] == label for result, label in zip(found, gold, strict=True)])
    assert evaluate(run, "test", progress=Progress(0, quiet=True)).metrics["accuracy"] == pytest.approx(right)


def test_what_it_came_from_is_said(run: pathlib.Path, config: Config) -> None:
    report = json.loads((run / "report.json").read_text())
    (turn,) = report["history"]
    assert turn["run"] == "stages/pairs" and turn["changed"] == {"task.name": ["embedding", "classification"]}
    stage = json.loads((run / PAIRS / "report.json").read_text())["training"]["steps"]
    assert turn["step"] == stage == 12 and "learned from" in (run / "report.md").read_text()
    moved = np.abs(
        weights(run)["encoder/embeddings/word/embedding"] - weights(run / PAIRS)["encoder/embeddings/word/embedding"]
    )
    assert moved.max() == 0
    assert train(config, run)["splits"] == report["splits"]  # finished: taken as it is
    with pytest.raises(UserError, match=r"holds a finished run of another config \(.*task\.l2_penalty"):
        train(tiny.replaced(config, task__l2_penalty=2.0), run)


def test_stopped_and_killed_in_each_stage_it_ends_alike(
    run: pathlib.Path, config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = tmp_path / "run", []

    def stops(step: int, total: int) -> bool:
        asked.append(step)
        return len(asked) == 1

    with pytest.raises(Paused):
        train(config, folder, pause=stops)
    assert not (folder / "config.json").exists() and (folder / PAIRS / "config.json").is_file()
    # Killed between the stage and the run, then at each of the files that the run writes.
    for module, name in ((fitted_run, "_with_fitted_head"), (results, "write_report")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, _killed)
            with pytest.raises(KeyboardInterrupt):
                train(config, folder)
        assert not (folder / "report.json").exists()
    report = train(config, folder)
    assert (
        report["splits"]["test"]["accuracy"]
        == json.loads((run / "report.json").read_text())["splits"]["test"]["accuracy"]
    )
    for path, value in weights(run).items():
        np.testing.assert_array_equal(weights(folder)[path], value)


def _killed(*args: Any, **kwargs: Any) -> None:
    raise KeyboardInterrupt


def test_an_export_gives_sentence_transformers_the_same_logits(
    run: pathlib.Path, config: Config, tmp_path: pathlib.Path
) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = export(run, tmp_path / "hf")
    assert "logits" in (folder / "README.md").read_text()
    texts, _ = texts_of(config.data.source, "test")
    model = library.SentenceTransformer(str(folder))
    logits = model.encode(texts)
    labels = json.loads((folder / "config.json").read_text())["id2label"]
    assert [labels[str(number)] for number in logits.argmax(axis=1)] == [each["label"] for each in predict(run, texts)]
    task: Any = open_run(run).task(config.data.source, "test")
    values = weights(run)
    vectors = Model(run / PAIRS).embed(texts)
    np.testing.assert_allclose(logits, vectors @ values["head/kernel"] + values["head/bias"], atol=1e-4)
    assert task.objective.spec.head == "linear"


@pytest.mark.slow
def test_an_export_to_onnx(run: pathlib.Path, config: Config, tmp_path: pathlib.Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    transformers = pytest.importorskip("transformers")
    folder = export(run, tmp_path / "onnx", format="onnx")
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts, _ = texts_of(config.data.source, "test")
    arrays = tokenizer(texts, padding=True, truncation=True, max_length=48, return_tensors="np")
    (logits,) = session.run(["logits"], {each.name: arrays[each.name] for each in session.get_inputs()})
    values, vectors = weights(run), Model(run / PAIRS).embed(texts)
    np.testing.assert_allclose(logits, vectors @ values["head/kernel"] + values["head/bias"], atol=1e-4)


@pytest.mark.slow
def test_labels_of_which_several_hold_without_a_stage(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, "multi", task__fit="logistic_regression", **LINEAR)
    report = train(config, tmp_path / "run")
    assert report["splits"]["test"]["micro_f1"] > 0.5 and not (tmp_path / "run" / "stages").exists()
    assert report["training"]["steps"] == 0


def prompted(folder: pathlib.Path, **values: Any) -> Config:
    tiny.write_masked_lm_weights(folder / "masked_lm")
    prompt: Any = {
        "model__init": f"dir:{folder / 'masked_lm'}",
        "task__prompt__pattern": "{text} in the {mask} .",
        "task__prompt__words": "PER=met,LOC=town",
    }
    return tiny.classification_config(folder, **prompt | values)


@pytest.mark.slow
def test_a_prompt_learns(tmp_path: pathlib.Path) -> None:
    before = train(prompted(tmp_path, task__fit="none"), tmp_path / "zero_shot")["splits"]["test"]["accuracy"]
    trained = train(prompted(tmp_path, train__steps=60), tmp_path / "run")
    assert trained["splits"]["test"]["accuracy"] > before + 0.1
    again = tiny.replaced(prompted(tmp_path, train__steps=2), model__init=f"run:{tmp_path / 'run'}")
    assert train(again, tmp_path / "further")["training"]["steps"] == 2


def test_a_prompt_without_training(tmp_path: pathlib.Path) -> None:
    config = prompted(tmp_path, task__fit="none")
    assert train(config, tmp_path / "run")["training"]["steps"] == 0
    texts = sorted(texts_of(config.data.source, "test")[0], key=len)  # the longest are cut
    found = predict(tmp_path / "run", texts[:4])
    assert {result["label"] for result in found} <= {"PER", "LOC"} and len(found[0]["scores"]) == 2
    with pytest.raises(UserError, match="reads texts in a pattern"):
        Model(tmp_path / "run").explain(texts[:1])
    folder = export(tmp_path / "run", tmp_path / "hf")
    assert json.loads((folder / "prompt.json").read_text()) == {
        "pattern": "{text} in the {mask} .",
        "words": {"LOC": ["town"], "PER": ["met"]},
    }
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert "`PER`: met" in (folder / "README.md").read_text()
    for text, result in zip(texts[:4], found, strict=True):
        arrays = tokenizer(f"{text} in the [MASK] .", return_tensors="pt")
        with torch.no_grad():
            logits = model(**arrays).logits[0]
        place = arrays["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        town, met = (float(logits[place, tokenizer.convert_tokens_to_ids(word)]) for word in ("town", "met"))
        assert result["label"] == ("PER" if met > town else "LOC")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task__shots": 1000}, r"config\.task\.shots: 1000 examples of each class are wanted, but .* has \d+ of"),
        (
            {"task__head": "family", "task__normalize": False},
            r"config\.task\.head: is 'family', but with config\.task\.fit=setf",
        ),
        (
            {"train__seeds": 2},
            r"config\.train\.seeds: several runs in one program do not go with config\.task\.fit=setfit",
        ),
        ({"adapt__lora__rank": 2}, r"config\.adapt\.lora\.rank: 2: does not go with config\.task\.fit=setfit"),
        ({"privacy__clip_norm": 0.5}, r"config\.privacy\.clip_norm: 0\.5: does not go with config\.task\.fit=setfit"),
        ({"exits__every": 1}, r"config\.exits\.every: 1: does not go with config\.task\.fit=setfit\. Leave it at 0\."),
        ({"train__batch_size": 0}, r"config\.train\.batch_size: 'auto' does not go with config\.task\.fit=setfit"),
        ({"adapt__train": "head"}, r"config\.adapt\.train: 'head', but config\.task\.fit=setfit trains the encoder"),
        ({"task__fit": "none"}, r"config\.task\.fit=none: head/bias is not in the weights of .*nothing would train it"),
        (
            {"task__fit": "none", "task__contrastive__sampling": "unique"},
            r"config\.task\.contrastive: is of config\.task\.",
        ),
        ({"model__init": "scratch", "model__preset": "bert_tiny", "task__fit": "logistic_regression"}, r"tokenizer"),
    ],
)
def test_what_does_not_go_together_is_refused(
    config: Config, tmp_path: pathlib.Path, values: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny.replaced(config, **values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_check_says_what_is_learned(config: Config) -> None:
    said = {each.check: each.message for each in check(config).findings}
    # 4 examples of each class: 10 pairs alike in each, 16 unlike, of which the fewer are taken again.
    assert said["pairs"] == "the encoder learns from 40 pairs of examples (config.task.fit=setfit)"
    assert said["head"].startswith("the last layer is fitted") and "updates" not in said
    with pytest.raises(UserError, match="1000 examples of each class"):
        check(tiny.replaced(config, task__shots=1000))


def test_pairs_of_texts_are_refused(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, pairs=True, **SETFIT)
    with pytest.raises(
        UserError, match=r"config\.task\.fit=setfit: is of single texts, but the examples of .* are pairs"
    ):
        train(config, tmp_path / "run")


def test_a_folder_of_something_else_is_refused(config: Config, tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no run of jaxfm"):
        train(config, tmp_path)
    shutil.rmtree(tmp_path)

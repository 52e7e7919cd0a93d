"""Pruned runs: within their budget, gated by score, used like any other run, and what is refused."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.errors import UserError
from jaxfm.observe.quiet import libraries_quieted
from jaxfm.programs import prune as program
from jaxfm.programs import pruned_run
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.prune import prune
from jaxfm.programs.quantise import quantise
from jaxfm.programs.verify import verify
from jaxfm.tasks import registry
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import open_run
from tests import tiny

TEXTS = ["ada met boole in the old town .", "gauss went near ghent and left", "in", "curry saw emmy ."]
ANY = 10.0  # loss of score: random weights have none to lose
BIG = dataclasses.replace(tiny.ENCODER, vocab_size=160)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("prune")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    return tiny.write_runs(folder, ("classification",))["classification"]


@pytest.fixture(scope="module")
def half(folder: pathlib.Path, run: pathlib.Path) -> pathlib.Path:
    return prune(run, folder / "half", "flops:0.5", max_loss=ANY)


@pytest.fixture(scope="module")
def tagger(folder: pathlib.Path) -> pathlib.Path:
    """A run of named entities whose vocabulary has words between the others that no text has."""
    home = folder / "tagger"
    tiny.write_weights(home / "weights", BIG)
    words = [f"unused{number}" for number in range(60)]
    pieces = [each for pair in zip(tiny.VOCABULARY[5:65], words, strict=True) for each in pair]
    vocabulary = [*tiny.VOCABULARY[:5], *pieces, *tiny.VOCABULARY[65:]]
    (home / "weights" / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    config = tiny.config(home)
    task, _ = registry.create(config, resolve(config.model))
    made = home / "run"
    workdirs.write_config(made, config)
    task.save(made)
    params = tiny.drawn(lambda: task.objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), BIG, 3)
    checkpoints = Checkpoints(made / workdirs.CHECKPOINTS_DIR)
    meta = {"fingerprint": "", "best": {"step": 1, "value": 0.5, "waited": 0}, "goodput": {}}
    checkpoints.save_params(1, jax.tree.map(jnp.asarray, tiny.nested(params)), meta)
    checkpoints.close()
    return made


def facts_of(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "pruning.json").read_text())


def test_a_pruned_run_is_within_its_budget_and_scores_as_its_masked_model(half: pathlib.Path) -> None:
    facts = facts_of(half)
    flops, sizes = facts["costs"]["flops"], facts["costs"]["bytes"]
    assert 0.3 < flops["after"] / flops["before"] <= 0.5
    assert facts["choice"]["flops"] == pytest.approx(flops["after"] / flops["before"])
    assert facts["choice"]["size"] == pytest.approx(sizes["after"] / sizes["before"])
    gate = facts["gate"]
    assert gate["after"] == pytest.approx(facts["choice"]["score"])  # one was computed by masks, one by smaller arrays
    assert facts["choice"]["score"] == max(each["score"] for each in facts["scored"])
    assert evaluate(half, "valid").metrics[gate["metric"]] == pytest.approx(gate["after"], abs=1e-6)
    assert facts["scores"].keys() == {"valid", "test"}
    encoder = open_run(half).spec.encoder
    shape = (encoder.num_layers, encoder.num_heads, encoder.ffn_size)
    assert shape == tuple(facts["choice"][name] for name in ("depth", "heads", "ffn_size"))
    report = json.loads((half / "report.json").read_text())
    assert report["pruning"]["gate"] == gate and report["model"]["init"].startswith("run:")
    assert "Choices within the target" in (half / "pruning.md").read_text()
    assert (half / "plots" / "pruning.png").stat().st_size > 5000 and not (half / ".unfinished").exists()
    assert all(seconds > 0 for seconds in facts["costs"]["seconds"].values())


def test_a_pruned_run_is_an_ordinary_one(half: pathlib.Path, tmp_path: pathlib.Path) -> None:
    answers = Model(half)(TEXTS)
    assert len(answers) == len(TEXTS) and all("scores" in each for each in answers)
    assert verify(f"dir:{export(half, tmp_path / 'hf')}", f"run:{half}", TEXTS).within(1e-4)
    rounded = quantise(half, tmp_path / "int8", method="weights", max_loss=ANY, sensitivity=False)
    assert verify(f"run:{rounded}", f"run:{half}", TEXTS).within(0.3)
    with pytest.raises(UserError, match="its weights are rounded"):
        prune(rounded, tmp_path / "never", "flops:0.9")


def test_the_vocabulary_is_cut_to_what_the_training_texts_use(tagger: pathlib.Path, folder: pathlib.Path) -> None:
    texts = folder / "more.txt"
    texts.write_text("unused7 met unused31\n")
    cut = prune(tagger, folder / "cut", vocabulary=True, keep_from=["all", str(texts)], max_loss=0.0)
    facts = facts_of(cut)
    before, after = open_run(tagger).spec.encoder, open_run(cut).spec.encoder
    assert facts["vocabulary"]["before"] == before.vocab_size == 160
    assert facts["vocabulary"]["after"] == after.vocab_size == len(tiny.VOCABULARY) + 2
    assert facts["vocabulary"]["rows_alike"] == {"train": 1.0, "valid": 1.0, "test": 1.0}
    saved = facts["costs"]["bytes"]["before"] - facts["costs"]["bytes"]["after"]
    assert saved == 4 * before.hidden_size * (before.vocab_size - after.vocab_size)
    for split in ("valid", "test"):
        one, other = (
            (each / "predictions" / f"{split}.jsonl" if each == cut else None) or evaluated(each, split)
            for each in (cut, tagger)
        )
        assert pathlib.Path(one).read_text() == pathlib.Path(other).read_text()
    assert Model(cut)(["unused7 met ada", "gauss saw unused31"]) == Model(tagger)(
        ["unused7 met ada", "gauss saw unused31"]
    )
    assert Model(cut)(["unused8 met zyx"])  # no entry: letters
    written = export(cut, folder / "cut_hf")
    assert verify(f"dir:{written}", f"run:{cut}", ["ada met boole in the old town ."]).within(1e-4)
    assert json.loads((written / "config.json").read_text())["vocab_size"] == after.vocab_size
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    with libraries_quieted():
        tokenizer = AutoTokenizer.from_pretrained(written)
        model = AutoModelForTokenClassification.from_pretrained(written)
    assert len(tokenizer) == model.get_input_embeddings().weight.shape[0] == after.vocab_size


def evaluated(run: pathlib.Path, split: str) -> pathlib.Path:
    """Returns the predictions of a run on a split, written by the program that scores it."""
    from jaxfm.observe.writers import write_predictions

    path = run.parent / f"{split}.jsonl"
    write_predictions(path, evaluate(run, split).predictions)
    return path


def test_a_size_is_reached_with_vocabulary_and_parts(tagger: pathlib.Path, folder: pathlib.Path) -> None:
    made = prune(tagger, folder / "small", ["size:0.6"], vocabulary=True, parts=["neurons"], max_loss=ANY)
    facts = facts_of(made)
    assert 0.5 < facts["costs"]["bytes"]["after"] / facts["costs"]["bytes"]["before"] <= 0.6
    assert facts["after"]["num_heads"] == 2 and facts["after"]["num_layers"] == 2 and facts["after"]["ffn_size"] < 64


def test_latency_is_measured_and_kept(run: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def measured(search: Any, kept: Any) -> float:
        asked.append(0.3 + 0.7 * search._shares(kept.shape)["flops"])
        return asked[-1]

    monkeypatch.setattr(pruned_run.PartChoice, "latency_of", measured)
    facts = facts_of(prune(run, folder / "fast", "latency:0.7", max_loss=ANY))
    assert facts["choice"]["latency"] in asked and 0.6 < facts["choice"]["latency"] <= 0.7
    assert len(asked) < 15  # each is a program to compile
    with pytest.raises(UserError, match=r"--target=latency:0.2: nothing that --parts=.* leaves .* 0\.43 of the time"):
        prune(run, folder / "never", "latency:0.2", max_loss=ANY)


def test_rounds_recover_and_go_on_where_they_were_stopped(
    run: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "rounds": 2, "recover_epochs": 1.0, "overrides": {"train.steps": 2, "optim.learning_rate": 1e-3},
    }  # fmt: skip
    home, plain = folder / "rounds-rounds", program.train

    def stopped(config: Any, workdir: pathlib.Path) -> Any:
        if workdir.name == "round_2":
            raise KeyboardInterrupt
        return plain(config, workdir)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(program, "train", stopped)
        prune(run, folder / "rounds", "flops:0.5", max_loss=ANY, **options)
    assert not (folder / "rounds").exists() and (home / "round_2_pruned" / "report.json").is_file()
    before = {path: path.stat().st_mtime_ns for path in home.glob("round_*/report.json")}
    assert len(before) == 3
    with pytest.raises(UserError, match=r"holds rounds of another command \(rounds 2\)"):
        prune(run, folder / "rounds", "flops:0.5", max_loss=ANY, **{**options, "rounds": 3})
    with pytest.raises(UserError, match=r"--max_loss=0: refused.*The rounds are kept in .*the same command"):
        monkeypatch.setattr(pruned_run.Measured, "lost", lambda self, score: 0.5)
        prune(run, folder / "rounds", "flops:0.5", max_loss=0.0, **options)
    monkeypatch.undo()
    made = prune(run, folder / "rounds", "flops:0.5", max_loss=ANY, **options)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    facts = facts_of(made)
    assert [each["targets"] for each in facts["rounds"]] == [["flops:0.707107"], ["flops:0.5"]]
    assert (
        facts["before"]["ffn_size"] == 64
        and facts["costs"]["flops"]["after"] <= 0.5 * facts["costs"]["flops"]["before"]
    )
    assert facts["rounds"][1]["recovered"] == facts["gate"]["after"]
    config = open_run(made).config
    assert config.train.steps == 2 and config.optim.learning_rate == 1e-3
    assert config.model.init == f"run:{(home / 'round_2_pruned').resolve()}"
    one, other = (open_run(each).restore(*mesh_and_build()).to_host() for each in (made, home / "round_2_pruned"))
    assert any(not np.array_equal(one[name], other[name]) for name in one)  # it was trained
    assert "round_2" not in (made / "report.md").read_text().replace("round_2_pruned", "")


def mesh_and_build() -> Any:
    from jaxfm.config import MeshConfig
    from jaxfm.parallel.mesh import make_mesh

    return make_mesh(MeshConfig()), DEFAULT_BUILD


def test_a_loss_above_the_gate_writes_nothing(
    run: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "score_of", lambda *_: -1.0)
    with pytest.raises(UserError, match=r"--max_loss=0.01: refused, no run is written: .*--recover_epochs=1"):
        prune(run, tmp_path / "never", "flops:0.5")
    assert not (tmp_path / "never").exists()


def test_what_a_killed_attempt_has_left_is_written_anew(
    half: pathlib.Path, run: pathlib.Path, folder: pathlib.Path
) -> None:
    left = folder / "left"
    left.mkdir()
    (left / ".unfinished").touch()
    (left / "config.json").write_text("{}")
    prune(run, left, "flops:0.5", max_loss=ANY)
    assert facts_of(left)["choice"] == facts_of(half)["choice"]
    with pytest.raises(UserError, match="is there already"):
        prune(run, left, "flops:0.5")


def test_images_are_pruned_and_have_no_vocabulary(folder: pathlib.Path) -> None:
    config = tiny.image_config(folder)
    task, _ = registry.create(config, resolve(config.model))
    made = folder / "images_run"
    workdirs.write_config(made, config)
    task.save(made)
    spec: Any = task.objective.spec
    params = tiny.drawn(lambda: spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), spec.encoder, 3)
    checkpoints = Checkpoints(made / workdirs.CHECKPOINTS_DIR)
    checkpoints.save_params(
        1, jax.tree.map(jnp.asarray, tiny.nested(params)), {"best": {"step": 1, "value": 0.5, "waited": 0}}
    )
    checkpoints.close()
    facts = facts_of(prune(made, folder / "images_pruned", "flops:0.6", max_loss=1e9))
    assert facts["gate"]["after"] == pytest.approx(facts["choice"]["score"], rel=1e-4)
    assert facts["costs"]["flops"]["after"] <= 0.6 * facts["costs"]["flops"]["before"]
    with pytest.raises(UserError, match="reads no texts, so that it has no vocabulary"):
        prune(made, folder / "never", vocabulary=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": ()}, "--target is missing"),
        (
            {"target": "flops:0.01"},
            r"--target=flops:0.01: nothing that --parts=heads,neurons,layers leaves is within it",
        ),
        ({"target": "loss:0.1"}, r"--target=loss:0.1: 'loss:0.1': is no target here; write flops"),
        ({"parts": ["head"]}, "--parts=head: 'head': Did you mean 'heads'"),
        ({"parts": []}, "--parts: is empty"),
        ({"importance": "fischer"}, "--importance=fischer: 'fischer': Did you mean 'fisher'"),
        ({"max_loss": -1.0}, "--max_loss=-1.0: must be 0 or more"),
        ({"rounds": 0}, "--rounds=0: must be at least 1"),
        ({"rows": 0}, "--rows=0: must be at least 1"),
        ({"recover_epochs": -1.0}, "--recover_epochs=-1.0: must be 0 or more"),
        ({"overrides": {"train.steps": 1}}, "--config.train.steps: is of the training after pruning"),
        ({"keep_from": ["all"]}, "--keep_from=all: is of --vocabulary"),
        ({"vocabulary": True, "keep_from": ["trian"]}, "--keep_from=trian: 'trian' is none of train"),
        ({"target": (), "vocabulary": True, "rounds": 2}, "--rounds=2: are steps to a target"),
        ({"source": "tsv:/nowhere"}, "cannot be opened with its data"),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    changes: dict[str, Any], message: str, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=message):
        prune(run, tmp_path / "never", **{"target": "flops:0.5", **changes})
    assert not (tmp_path / "never").exists()


def test_runs_that_cannot_be_pruned_are_refused(tmp_path: pathlib.Path) -> None:
    runs = tiny.write_runs(tmp_path, ("replaced_token", "masked_lm"))
    with pytest.raises(UserError, match="trains several encoders at once"):
        prune(runs["replaced_token"], tmp_path / "never", "flops:0.5")
    with pytest.raises(UserError, match="predicts entries of its vocabulary"):
        prune(runs["masked_lm"], tmp_path / "never", vocabulary=True)

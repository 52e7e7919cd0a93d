"""Whole tiny runs of both ways: learned to the last token, evaluated, predicted, controlled, exported, continued."""

import json
import os
import pathlib
import random
import signal
from typing import Any, NamedTuple

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.model_options import Writing
from jaxfm.programs.predict import predict_file
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.training import session
from jaxfm.training.initial import resolve
from tests import tiny
from tests.tiny_records import reversed_pair

WIDER = EncoderConfig(
    family="bert",
    vocab_size=96,
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    ffn_size=128,
    max_positions=64,
    initializer_range=0.05,
)


class Run(NamedTuple):
    """A finished run: its folder and its report."""

    workdir: pathlib.Path
    report: dict


def toy_config(folder: pathlib.Path, **overrides: object) -> Config:
    """Reversing two to four of twelve words, which a tiny encoder learns within seconds."""
    if not (folder / "text_pairs").exists():
        (folder / "text_pairs").mkdir(parents=True)
        for seed, (split, count) in enumerate({"train": 1200, "valid": 40, "test": 60}.items()):
            draw = random.Random(seed)
            lines = [
                json.dumps(dict(zip(("source", "target"), reversed_pair(draw, 2, 4), strict=True)))
                for _ in range(count)
            ]
            (folder / "text_pairs" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        tiny.write_masked_lm_weights(folder / "masked_lm", WIDER)
    return tiny.seq2seq_config(
        folder,
        **{
            "model__dropout": 0.0,
            "train__steps": 300,
            "train__batch_size": 16,
            "eval__every_steps": 300,
            "log__every_steps": 60,
            "optim__learning_rate": 4e-3,
            **overrides,
        },
    )


@pytest.fixture(scope="module", params=["diffusion", "prefix"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp(request.param)
    return Run(folder / "run", train(toy_config(folder, task__way=request.param), folder / "run"))


def test_it_learns_to_the_last_token(run: Run) -> None:
    scores = run.report["splits"]["test"]
    assert scores["exact_match"] == 1.0 and scores["accuracy"] > 0.999 and scores["written"] == 60
    assert scores["baselines"]["copy"]["exact_match"] < 0.1
    if "bleu" in scores:
        assert scores["bleu"] > 99.9 and scores["baselines"]["copy"]["bleu"] < 50 and scores["rougeL"] == 1.0
    text = (run.workdir / "report.md").read_text()
    assert "Samples" in text and "copy" in text
    records = [json.loads(line) for line in (run.workdir / "predictions" / "test.jsonl").read_text().splitlines()]
    assert len(records) == 60 and all(record["correct"] for record in records)


def test_it_is_scored_again_as_it_was_and_predicts_what_was_scored(run: Run, tmp_path: pathlib.Path) -> None:
    found = evaluate(run.workdir, "test", progress=Progress(0, quiet=True))
    scores = run.report["splits"]["test"]
    for name in ("loss", "accuracy", "exact_match"):
        assert found.metrics[name] == pytest.approx(scores[name], rel=1e-5)
    records = [json.loads(line) for line in (run.workdir / "predictions" / "test.jsonl").read_text().splitlines()]
    (tmp_path / "in.txt").write_text("\n".join(record["source"] for record in records[:9]) + "\n\n")
    count = predict_file(run.workdir, tmp_path / "in.txt", tmp_path / "out.jsonl", Progress(0, quiet=True))
    results = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert count == 10 and results[-1] == {"text": "", "written": None, "score": None}
    for record, result in zip(records[:9], results, strict=False):
        assert result["written"] == record["predicted"]
        assert result["score"] == pytest.approx(record["score"], abs=1e-3)
    model = Model(run.workdir)
    assert model.lines(results[0]) == [results[0]["text"], f"  {results[0]['written']}"]


def test_packed_sources_are_written_as_single_ones(run: Run) -> None:
    model = Model(run.workdir)
    sources = ["met in", "saw the old", "town near left and", "went to", "in the", "old saw met"]
    assert [each["written"] for each in model(sources)] == [model(source)["written"] for source in sources]


def test_a_long_source_is_cut_and_said(run: Run) -> None:
    model = Model(run.workdir)
    long, short = model(["met " * 90, "met in"])
    assert long["truncated"] is True and "truncated" not in short
    assert "its end was not read" in model.lines({**long, "written": "x"})[-1]


def test_how_tokens_are_chosen_can_be_asked_for(run: Run) -> None:
    way = json.loads((run.workdir / "task.json").read_text())["way"]
    settings = {"diffusion": {"steps": "1"}, "prefix": {"method": "beam", "beams": "3"}}[way]
    assert Model(run.workdir, writing=Writing(settings))("met in")["written"] == "in met"
    unknown = {"diffusion": "beams", "prefix": "steps"}[way]
    with pytest.raises(UserError, match=f"--decoding={unknown}: there is no such setting. "):
        Model(run.workdir, writing=Writing({unknown: "2"}))
    for name, value, said in (
        ("temperature", "hot", "--decoding=temperature=hot: must be a number."),
        ("temperature", "-1", "--decoding=temperature: is -1.0, but must be at least"),
        ("seed", "1.5", "--decoding=seed=1.5: must be a whole number."),
    ):
        with pytest.raises(UserError) as caught:
            Model(run.workdir, writing=Writing({name: value}))
        assert str(caught.value).startswith(said)
    with pytest.raises(UserError, match="--control: this model was not trained .* It knows none"):
        Model(run.workdir, writing=Writing({}, {"length": "short"}))


def test_transformers_computes_the_same_or_is_refused(run: Run, tmp_path: pathlib.Path) -> None:
    if json.loads((run.workdir / "task.json").read_text())["way"] == "prefix":
        with pytest.raises(
            UserError,
            match="no class of a prefix language model.*--config.model.init=run:WORKDIR --config.model.sight=full",
        ):
            export(run.workdir, tmp_path / "hf")
        assert not (tmp_path / "hf").exists()
        return
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    export(run.workdir, tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hf").eval()
    source = tokenizer("saw the old")["input_ids"]
    lengths = json.loads((run.workdir / "task.json").read_text())["lengths"]
    places = int(np.clip(np.ceil(lengths["ratio"] * (len(source) - 2)) + lengths["extra"], 1, lengths["most"]))
    tokens = torch.tensor([source + [tokenizer.mask_token_id] * places])
    types = torch.tensor([[0] * len(source) + [1] * places])
    while (masked := tokens[0] == tokenizer.mask_token_id).any():
        with torch.no_grad():
            sure, best = model(tokens, token_type_ids=types).logits[0].softmax(-1).max(-1)
        at = torch.where(masked, sure, -1.0).argmax()
        tokens[0, at] = best[at]
    written = tokenizer.decode(tokens[0, len(source) :], skip_special_tokens=True)
    assert written == Model(run.workdir)("saw the old")["written"] == "old the saw"
    assert "AutoModelForMaskedLM" in (tmp_path / "hf" / "README.md").read_text()


def test_other_runs_start_from_it(run: Run) -> None:
    for way in ("diffusion", "prefix"):
        given = {"model__init": f"run:{run.workdir}", "model__sight": "full"}
        config = toy_config(run.workdir.parent, **given, task__way=way)
        task, params = registry.create(config, resolve(config.model))
        assert "vocabulary head: loaded with the weights" in task.notes and "decoder/bias" in params
        assert task.objective.spec.encoder.sight == {"diffusion": "full", "prefix": "prefix"}[way]


@pytest.mark.parametrize("way", ["diffusion", "prefix"])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(tmp_path: pathlib.Path, way: str) -> None:
    quick = {
        "task__way": way,
        "train__steps": 6,
        "eval__every_steps": 3,
        "log__every_steps": 1,
        "log__tensorboard": False,
        "checkpoint__every_steps": 2,
        "checkpoint__keep_optimizer": True,
        "task__valid_written": 4,
        "task__test_written": 4,
        "model__dropout": 0.1,
    }
    config = tiny.seq2seq_config(tmp_path, **quick)
    whole = train(config, tmp_path / "whole")
    batches, plain = 0, session.meshes.shard_batch

    def shard_batch(*arguments: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session.meshes, "shard_batch", shard_batch)
        with pytest.raises(Preempted):
            train(config, tmp_path / "stopped")
    again = train(config, tmp_path / "stopped")
    assert again["splits"] == whole["splits"]
    kept = ("step", "split", "loss", "accuracy", "grad_norm", "masked_share")
    one, other = (
        [
            {name: line[name] for name in kept if name in line}
            for line in read_metrics(tmp_path / name / "metrics.jsonl")
        ]
        for name in ("whole", "stopped")
    )
    assert one == other


def test_controls_are_obeyed(tmp_path: pathlib.Path) -> None:
    """Of four words the first is the short answer, all four the long one: the control alone tells which."""
    (tmp_path / "text_pairs").mkdir()
    for seed, (split, count) in enumerate({"train": 1600, "valid": 20}.items()):
        draw, lines = random.Random(seed), []
        for _ in range(count):
            words = draw.sample(tiny.FILLERS[:8], 4)
            short = draw.random() < 0.5
            lines.append({"source": " ".join(words), "target": words[0] if short else " ".join(words)})
        (tmp_path / "text_pairs" / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    tiny.write_masked_lm_weights(tmp_path / "masked_lm", WIDER)
    config = toy_config(
        tmp_path, task__way="prefix", task__controls=["length"], train__steps=240, eval__every_steps=240
    )
    train(config, tmp_path / "run")
    draw = random.Random(9)
    sources = [" ".join(draw.sample(tiny.FILLERS[:8], 4)) for _ in range(20)]
    for length, expected in (("short", lambda source: source.split()[0]), ("long", lambda source: source)):
        asked = Model(tmp_path / "run", writing=Writing({}, {"length": length}))
        wanted = [expected(source) for source in sources]
        assert [each["written"] for each in asked(sources)] == wanted
        own = Model(tmp_path / "run")([{"text": source, "length": length} for source in sources])
        assert [each["written"] for each in own] == wanted
    with pytest.raises(UserError, match="the control 'length' is 'shrt'. Did you mean 'short'"):
        Model(tmp_path / "run")({"text": "met in", "length": "shrt"})

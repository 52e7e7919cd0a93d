"""Texts that a causal language model goes on with: the tokens of whole passes, its settings, and the program."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.model import Model
from jaxfm.programs.model_options import Writing
from jaxfm.programs.predict import predict_file
from jaxfm.training.saved_run import open_run
from tests import tiny

TEXTS = ("ada met", "", "the old town and gauss met in", "saw boole and left the town near " * 8, "and", "in", "ada")
ROOT = pathlib.Path(__file__).parents[3]
NEW = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.write_runs(tmp_path_factory.mktemp("writer"), ["causal_lm"])["causal_lm"]


def writer(run: pathlib.Path, **decoding: Any) -> Model:
    return Model(run, writing=Writing({name: str(value) for name, value in decoding.items()}))


@pytest.fixture(scope="module")
def greedy(run: pathlib.Path) -> list[dict[str, Any]]:
    return writer(run, method="greedy", max_tokens=NEW)(TEXTS)


def test_what_is_written_is_what_whole_passes_predict(run: pathlib.Path, greedy: list[dict[str, Any]]) -> None:
    opened = open_run(run)
    restored, tokenizer = opened.restore(make_mesh(MeshConfig()), DEFAULT_BUILD), Model(run).predictor.tokenizer  # type: ignore[attr-defined]
    length = opened.config.data.row_length
    never = np.ones(tiny.ENCODER.padded_vocab_size, bool)
    never[: len(tokenizer)] = False
    never[[token for token in tokenizer.all_special_ids if token != tokenizer.sep_token_id]] = True

    @jax.jit
    def log_probs(params: Any, tokens_1T: Any, last: Any) -> Any:
        model, ones = nnx.merge(restored.graphdef, params), np.ones((1, length), np.int32)
        batch = {"tokens": tokens_1T, "segment_ids": ones, "positions": np.arange(length)[None]}
        return jax.nn.log_softmax(model.logits(model.hidden(batch))[0, last])

    for text, result in zip(TEXTS, greedy, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        seen = [tokenizer.cls_token_id, *ids[-(length - NEW - 1) :]]
        new, total = [], 0.0
        while len(new) < NEW:
            padded = np.zeros((1, length), np.int32)
            padded[0, : len(seen) + len(new)] = [*seen, *new]
            found = np.asarray(log_probs(restored.params, padded, len(seen) + len(new) - 1))
            new.append(int(np.where(never, -np.inf, found).argmax()))
            total += found[new[-1]]
            if new[-1] == tokenizer.sep_token_id:
                break
        assert result["text"] == text and result["written"] == tokenizer.decode(new, skip_special_tokens=True)
        assert result["score"] == pytest.approx(total / len(new), abs=2e-4)
        assert result.get("truncated", False) == (len(ids) > length - NEW - 1)
    assert len({result["written"] for result in greedy}) > 3


def test_settings_change_what_is_written(run: pathlib.Path, greedy: list[dict[str, Any]]) -> None:
    written = [result["written"] for result in greedy]
    drawn = writer(run, method="sample", temperature=3, max_tokens=NEW)(TEXTS)
    assert [result["written"] for result in drawn] != written
    again = writer(run, method="sample", temperature=3, max_tokens=NEW)(TEXTS[2:3])
    assert again[0]["written"] == drawn[2]["written"]  # whatever comes with it
    other = writer(run, method="sample", temperature=3, max_tokens=NEW, seed=1)(TEXTS)
    assert [result["written"] for result in other] != [result["written"] for result in drawn]
    beams = writer(run, method="beam", beams=8, length_penalty=0, max_tokens=NEW)(TEXTS)
    sums = [result["score"] * NEW for result in greedy]
    assert all(beam["score"] >= single - 1e-3 for beam, single in zip(beams, sums, strict=True))


def test_a_file_and_the_command(run: pathlib.Path, tmp_path: pathlib.Path, greedy: list[dict[str, Any]]) -> None:
    source, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("\n".join(TEXTS) + "\n")
    settings = Writing({"max_tokens": str(NEW)})
    assert predict_file(run, source, output, writing=settings) == len(TEXTS)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["written"] for line in lines] == [result["written"] for result in greedy]
    command = [sys.executable, "-m", "jaxfm.predict", f"--workdir={run}", f"--decoding=max_tokens={NEW}", TEXTS[0]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [TEXTS[0], f"  ... {greedy[0]['written']}"]


MISTAKES: dict[str, tuple[Writing, str]] = {
    "name": (Writing({"beam": "3"}), "--decoding=beam: there is no such setting. Did you mean 'beams'?"),
    "number": (Writing({"beams": "three"}), "--decoding=beams=three: must be a whole number."),
    "range": (Writing({"top_p": "2"}), "--decoding=top_p: is 2.0, but must be at most 1.0"),
    "both": (Writing({"max_tokens": "4", "min_tokens": "4"}), "must be below --decoding=max_tokens (4)"),
    "control": (Writing({}, {"length": "short"}), "--control=length: this model was not trained with controls."),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said(run: pathlib.Path, name: str) -> None:
    writing, part = MISTAKES[name]
    with pytest.raises(UserError) as caught:
        Model(run, writing=writing)
    assert part in str(caught.value)


def test_no_room_for_a_text_and_the_usual_length(run: pathlib.Path) -> None:
    length = open_run(run).config.data.row_length
    with pytest.raises(UserError, match=f"new tokens leave no room .* {length} tokens .* at most {length - 2}"):
        writer(run, max_tokens=length)("ada")
    usual = writer(run, method="greedy").predictor
    assert usual.decoding.max_tokens == length // 2  # type: ignore[attr-defined]

"""Both programs of the masked-LM comparison see the same tokens, and rates are of medians."""

import json
import pathlib
import sys

import numpy as np
import pytest

from profiles import mlm_speed
from profiles.mlm_convergence import sequences


def test_rates_are_of_the_median_step() -> None:
    found = mlm_speed.summary([9.0, 1.0, 2.0, 4.0, 4.0], tokens=8, warm_up=1)
    assert found["tokens_per_second"] == 3 and found["steps"] == 5
    assert found["quartiles"][0] == 2 and found["quartiles"][1] > 4


def test_every_packed_example_becomes_a_sequence() -> None:
    torch = pytest.importorskip("torch", reason="the other side of the comparison")
    batch = {
        "tokens": np.array([[5, 6, 7, 8, 9, 0]], np.int32),
        "segment_ids": np.array([[1, 1, 2, 2, 2, 0]], np.int32),
        "labels": np.array([[-1, 6, 7, -1, -1, -1]], np.int32),
    }
    made = sequences(batch, pad_id=3)
    assert made["input_ids"].tolist() == [[5, 6, 3], [7, 8, 9]]
    assert made["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert made["labels"].tolist() == [[-100, 6, -100], [7, -100, -100]]
    assert made["input_ids"].dtype == torch.int64


@pytest.mark.slow
def test_four_programs_take_turns(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="the other side of the comparison")
    text = tmp_path / "text"
    text.mkdir()
    lines = [f"sentence number {n} says that {n * n} is the square of {n} .\n\n" for n in range(400)]
    (text / "train.txt").write_text("".join(lines[:350]))
    (text / "valid.txt").write_text("".join(lines[350:]))
    output = tmp_path / "speed.json"
    words = [f"--source=text:{text}", "--preset=bert_tiny", "--batch=4", "--turns=2", "--steps=2"]
    monkeypatch.setattr(sys, "argv", ["mlm_speed", *words, f"--cache={tmp_path}/cache", f"--output={output}"])
    mlm_speed.main()
    result = json.loads(output.read_text())
    assert set(result["programs"]) == {f"{who} {how}" for who in ("jaxfm", "transformers") for how in ("f32", "bf16")}
    assert all(rate["steps"] == 4 and rate["tokens_per_second"] > 0 for rate in result["programs"].values())
    assert result["against_transformers_f32"]["transformers f32"] == 1.0

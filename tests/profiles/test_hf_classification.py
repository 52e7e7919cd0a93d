"""The torch reference runs end to end on weights of a few kilobytes, for each kind of target."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("torch")

from profiles import hf_classification
from profiles.quality import last_json
from tests import tiny

LABELS = {"single": ["PER", "LOC"], "multi": [["PER", "LOC"], []], "regression": [1.5, -0.5]}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LABELS)
def test_it_trains_and_prints_scores(tmp_path: pathlib.Path, kind: str) -> None:
    model = tiny.write_weights(tmp_path / "weights").removeprefix("dir:")
    texts = {"PER": "met ada in the old town", "LOC": "left essen and went near hull"}
    for split in ("train", "test"):
        rows = [
            {"text": list(texts.values())[i % 2], "pair": "saw the town", "label": LABELS[kind][i % 2]}
            for i in range(12)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = pathlib.Path(hf_classification.__file__)
    command = [
        sys.executable,
        str(script),
        model,
        str(tmp_path),
        f"--kind={kind}",
        "--epochs=20",
        "--batch=4",
        "--limit=8",
        "--lr=1e-2",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    printed = last_json(done.stdout)
    metrics = {"single": "accuracy", "multi": "micro_f1", "regression": "pearson"}
    assert list(printed["scores"]) == ["test"]
    assert printed["scores"]["test"][metrics[kind]] > 95  # two texts apart
    assert printed["epochs"] == 20.0 and printed["batch"] == 4 and printed["tokens_per_s"] > 0
    assert str(tmp_path) not in done.stdout.splitlines()[-1]

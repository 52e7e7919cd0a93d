"""Metrics survive kills and resumes, stay valid JSON, and reach TensorBoard."""

import json
import math
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import SessionLog  # pyright: ignore[reportAttributeAccessIssue]

from jaxfm.errors import UserError
from jaxfm.observe.writers import MetricsWriter, read_metrics, to_json, write_predictions
from tests.observe.test_event_file import read_events

ROOT = pathlib.Path(__file__).resolve().parents[2]


def event_files(folder):
    return sorted(folder.glob("events.out.tfevents.*"))


def test_metrics_and_events_read_back(tmp_path):
    with MetricsWriter(tmp_path / "run", resume_step=None) as writer:
        writer.write(1, "train", {"loss": 2.5, "tokens": 512})
        writer.write(2, "valid", {"loss": np.float32(0.5), "f1": jnp.asarray(0.25), "count": np.int64(3)})
    assert read_metrics(tmp_path / "run" / "metrics.jsonl") == [
        {"step": 1, "split": "train", "loss": 2.5, "tokens": 512},
        {"step": 2, "split": "valid", "loss": 0.5, "f1": 0.25, "count": 3},
    ]
    (path,) = event_files(tmp_path / "run")
    first, *events = read_events(path)
    assert first.file_version == "brain.Event:2"
    scalars = {(event.step, value.tag): value.simple_value for event in events for value in event.summary.value}
    assert scalars == {
        (1, "train/loss"): 2.5,
        (1, "train/tokens"): 512.0,
        (2, "valid/loss"): 0.5,
        (2, "valid/f1"): 0.25,
        (2, "valid/count"): 3.0,
    }


def test_a_line_is_on_the_file_as_soon_as_written(tmp_path):
    writer = MetricsWriter(tmp_path, resume_step=None, tensorboard=False)
    writer.write(1, "train", {"loss": 1.0})
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1  # what a kill -9 would leave
    assert event_files(tmp_path) == []
    writer.close()
    writer.close()


def test_nan_is_valid_json_and_not_hidden(tmp_path):
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        writer.write(1, "train", {"a": math.nan, "b": math.inf, "c": np.float32(-np.inf)})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    line = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(line, parse_constant=refuse) == {"step": 1, "split": "train", "a": "nan", "b": "inf", "c": "-inf"}
    (metrics,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(metrics["a"]) and metrics["b"] == math.inf and metrics["c"] == -math.inf
    values = [value.simple_value for event in read_events(event_files(tmp_path)[0]) for value in event.summary.value]
    assert math.isnan(values[0])


def test_resume_drops_later_steps_and_a_half_written_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        for step in range(1, 8):
            writer.write(step, "train", {"loss": 1 / step})
    kept = path.read_bytes().splitlines(keepends=True)[:5]
    with path.open("ab") as file:
        file.write('{"step": 3, "split": "train", "loss": 0.3é'.encode()[:-1])  # killed inside a character
    assert len(read_metrics(path)) == 7
    with MetricsWriter(tmp_path, resume_step=5) as writer:
        assert path.read_bytes() == b"".join(kept)  # byte for byte
        writer.write(6, "train", {"loss": 0.5})
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4, 5, 6]
    first, second = event_files(tmp_path)  # a restart within the same second keeps the file before it
    assert len(read_events(first)) == 1 + 7
    purge = [event for event in read_events(second) if event.session_log.status == SessionLog.START]
    assert [event.step for event in purge] == [6]


def test_a_run_that_starts_over_keeps_nothing(tmp_path):
    for loss in (1.0, 2.0):
        with MetricsWriter(tmp_path, resume_step=None) as writer:
            writer.write(0, "train", {"loss": loss})
    assert [line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [2.0]
    statuses = [[event.session_log.status for event in read_events(path)] for path in event_files(tmp_path)]
    assert [SessionLog.START in row for row in statuses] == [False, True]


@pytest.mark.parametrize("bad", ["loss 3\n", "[1]\n", '{"step": 1}\n', '{"step": "1", "split": "a"}\n', "\n"])
def test_a_broken_line_is_named(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "train"}\n' + bad + '{"step": 2, "split": "train"}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl:2: .*delete the line"):
        read_metrics(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"metrics\.jsonl:2:"):
        MetricsWriter(tmp_path, resume_step=1)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_only_numbers_are_metrics(tmp_path):
    with MetricsWriter(tmp_path, resume_step=None) as writer:
        with pytest.raises(TypeError, match="not a number"):
            writer.write(1, "train", {"loss": "low"})
        with pytest.raises(AssertionError, match="taken"):
            writer.write(1, "train", {"step": 1})
    assert read_metrics(tmp_path / "metrics.jsonl") == []


FILLS_THE_DISK = """
import resource, sys
from jaxfm.observe.writers import MetricsWriter

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    with MetricsWriter(sys.argv[1], resume_step=None) as writer:
        for step in range(5_000):
            writer.write(step, "train", {"loss": 1.0})
except OSError as error:
    print(f"stopped with {error}")
"""


def test_a_full_disk_is_an_error_not_a_hang(tmp_path):
    # A limit on file sizes stands for the full disk: the same failure of write(), without one.
    pytest.importorskip("resource", reason="limits on file sizes are a thing of Unix")
    command = [sys.executable, "-c", FILLS_THE_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
    assert done.stdout.startswith("stopped with "), done.stderr
    lines = read_metrics(tmp_path / "metrics.jsonl")  # readable up to the line that did not fit
    assert len(lines) > 100 and lines[-1]["step"] == len(lines) - 1


def test_predictions_are_streamed_and_whole_or_not_there(tmp_path):
    path = tmp_path / "predictions" / "test.jsonl"
    assert write_predictions(path, ({"text": f"é {i}", "score": np.float32(0.5)} for i in range(3))) == 3
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        {"text": f"é {i}", "score": 0.5} for i in range(3)
    ]
    before = path.read_bytes()

    def fails():
        yield {"text": "new"}
        raise KeyError("later")

    with pytest.raises(KeyError):
        write_predictions(path, fails())
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert write_predictions(path, []) == 0 and path.read_bytes() == b""


def test_to_json_takes_what_reports_hold(tmp_path):
    value = {"a": (np.float64(1.5), np.nan), 3: {"b": None, "c": True}, "path": tmp_path, "n": np.int32(7)}
    assert to_json(value) == {"a": [1.5, "nan"], "3": {"b": None, "c": True}, "path": str(tmp_path), "n": 7}
    with pytest.raises(TypeError, match="not a number"):
        to_json({"a": {1, 2}})


def test_a_silent_writer_touches_nothing(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "train"}\n{"step": 2, "split": "train"}\n')
    with MetricsWriter(tmp_path / "new", resume_step=None, silent=True) as writer:
        writer.write(1, "train", {"loss": 1.0})
        writer.flush()
    with MetricsWriter(tmp_path, resume_step=1, silent=True) as writer:
        writer.write(2, "train", {"loss": 1.0})
    assert [path.name for path in tmp_path.rglob("*")] == ["metrics.jsonl"]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2

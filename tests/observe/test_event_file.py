"""Event files against tensorboardX's messages and checksums, and the price of an import."""

import math
import pathlib
import random
import struct
import subprocess
import sys

import pytest
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

from jaxfm.observe import event_file
from jaxfm.observe.event_file import EventFile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def read_events(path):
    """Reads a TFRecord file: length, CRC of the length, data, CRC of the data; checks both CRCs."""
    data, events, at = path.read_bytes(), [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        assert struct.unpack_from("<I", data, at + 8)[0] == masked_crc(data[at : at + 8])
        payload = data[at + 12 : at + 12 + length]
        assert struct.unpack_from("<I", data, at + 12 + length)[0] == masked_crc(payload)
        events.append(Event.FromString(payload))
        at += 16 + length
    return events


def masked_crc(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def only_file(folder):
    (path,) = folder.glob("events.out.tfevents.*")
    return path


@pytest.mark.parametrize("step", [0, 1, 127, 128, 300, 2**31, 2**40])
@pytest.mark.parametrize("value", [0.0, -1.5, 1 / 3, 7, 1e-45, 3.4e38, math.inf, -math.inf])
def test_scalars_are_as_tensorboardx_reads_them(tmp_path, step, value):
    file = EventFile(tmp_path, first_step=0)
    file.write(step, {"train/loss": value, "train/größe " + "x" * 200: value})
    file.close()
    start, event = read_events(only_file(tmp_path))
    assert start.file_version == "brain.Event:2" and start.wall_time > 1.6e9
    assert event.step == step and event.wall_time >= start.wall_time
    assert [scalar.tag for scalar in event.summary.value] == ["train/loss", "train/größe " + "x" * 200]
    (expected,) = struct.unpack("<f", struct.pack("<f", value))
    assert all(scalar.WhichOneof("value") == "simple_value" for scalar in event.summary.value)
    assert [scalar.simple_value for scalar in event.summary.value] == [expected, expected]


def test_numbers_that_f32_cannot_hold(tmp_path):
    file = EventFile(tmp_path, first_step=0)
    file.write(1, {"nan": math.nan, "much": 1e300, "minus": -1e300, "integer": 10**18})
    file.close()
    values = [scalar.simple_value for scalar in read_events(only_file(tmp_path))[1].summary.value]
    assert math.isnan(values[0]) and values[1:3] == [math.inf, -math.inf] and values[3] == pytest.approx(1e18)


def test_a_second_file_hides_the_later_steps_of_the_first(tmp_path):
    for first_step in (0, 6):
        EventFile(tmp_path, first_step=first_step).close()
    first, second = (read_events(path) for path in sorted(tmp_path.iterdir()))
    assert len(first) == 1
    assert second[1].session_log.status == SessionLog.START and second[1].step == 6


def test_nothing_is_lost_between_flushes(tmp_path):
    file = EventFile(tmp_path, first_step=0)
    file.write(3, {"a": 1.0})
    file.flush()
    assert [event.step for event in read_events(only_file(tmp_path))] == [0, 3]
    file.close()


def test_checksums_are_crc_32c():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the algorithm
    for length in (0, 1, 8, 1000):
        data = random.Random(length).randbytes(length)
        assert event_file._checksum(data) == struct.pack("<I", masked_crc(data))


TORCH_THAT_TELLS = """
import os, pathlib
pathlib.Path(os.environ["IMPORTED"]).touch()
raise ImportError("a torch that nobody should ask for")
"""

WRITES_METRICS = """
import sys
from jaxfm.observe.writers import MetricsWriter

with MetricsWriter(sys.argv[1], resume_step=None) as writer:
    writer.write(1, "train", {"loss": 1.0})
assert "torch" not in sys.modules and "tensorflow" not in sys.modules and "tensorboardX" not in sys.modules
"""


@pytest.mark.parametrize("package", ["torch", "tensorflow", "tensorboardX"])
def test_events_are_written_without_importing_a_framework(tmp_path, package):
    fake, told = tmp_path / "fake", tmp_path / "imported"
    (fake / package).mkdir(parents=True)
    (fake / package / "__init__.py").write_text(TORCH_THAT_TELLS)
    environment = {"PATH": "", "IMPORTED": str(told), "PYTHONPATH": f"{fake}:{ROOT}", "JAX_PLATFORMS": "cpu"}
    subprocess.run(
        [sys.executable, "-c", f"import sys\ntry:\n    import {package}\nexcept ImportError:\n    pass"],
        env=environment,
        check=True,
    )
    assert told.exists()  # the fake is the one that an import finds
    told.unlink()
    done = subprocess.run(
        [sys.executable, "-c", WRITES_METRICS, str(tmp_path / "run")], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert not told.exists()
    assert [event.step for event in read_events(only_file(tmp_path / "run"))] == [0, 1]

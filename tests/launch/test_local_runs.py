"""The real thing on several processes: the losses, batches and report of one process; kills and restarts."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from jaxfm.data.pipeline import TrainBatches
from jaxfm.observe.writers import read_metrics
from jaxfm.schema import flatten, to_dict
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 20
RECORDED = (0, 7)
# Code that is made fast costs more here than slow code does; devices wait for each other on few cores.
ENVIRONMENT = {
    **os.environ,
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false",
    "OMP_NUM_THREADS": "1",
}


@dataclasses.dataclass(frozen=True)
class Ended:
    """A run by launch/local.py."""

    code: int
    output: str
    errors: str
    workdir: pathlib.Path

    def losses(self) -> np.ndarray:
        lines = read_metrics(self.workdir / "metrics.jsonl")
        return np.asarray([line["loss"] for line in lines if line["split"] == "train"])

    def report(self) -> dict[str, Any]:
        return json.loads((self.workdir / "report.json").read_text())

    def predictions(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in sorted((self.workdir / "predictions").iterdir())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A config of 20 steps: packed rows of 31 of which a batch holds 8, dropout 0.1, two micro-batches."""
    folder = tmp_path_factory.mktemp("local")
    values = tiny.config(
        folder,
        train__steps=STEPS,
        checkpoint__keep_optimizer=True,  # for the states that are compared after a run
        train__batch_size=8,
        train__accumulate=2,
        eval__every_steps=10,
        checkpoint__every_steps=5,
        checkpoint__keep_last=2,
        log__every_steps=1,
    )
    (folder / "config.py").write_text(
        f"import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({to_dict(values)!r})\n"
    )
    return folder


def command(folder: pathlib.Path, name: str, processes: int, devices: int, *flags: str) -> list[str]:
    launcher = [sys.executable, str(ROOT / "launch" / "local.py"), f"--processes={processes}", f"--devices={devices}"]
    logs = f"--logs={folder / f'{name}_logs'}"
    program = "--program=tests.launch.local_recording"
    config = [] if any(flag.startswith("--config=") for flag in flags) else [f"--config={folder / 'config.py'}"]
    training = [*config, f"--workdir={folder / name}", "--heartbeat_timeout=10", *flags]
    return [*launcher, logs, program, "--", *training]


def run(folder: pathlib.Path, name: str, processes: int, devices: int, *flags: str) -> Ended:
    done = subprocess.run(
        command(folder, name, processes, devices, *flags),
        cwd=ROOT,
        env={**ENVIRONMENT, "RECORD_TO": str(folder / f"{name}_batches")},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    return Ended(done.returncode, done.stdout, done.stderr, folder / name)


@pytest.fixture(scope="module")
def alone(folder: pathlib.Path) -> Ended:
    """One process with four devices."""
    ended = run(folder, "alone", 1, 4)
    assert ended.code == 0, ended.errors
    assert len(ended.losses()) == STEPS and ended.losses()[-3:].mean() < 0.8 * ended.losses()[:3].mean()
    return ended


def check_same(ended: Ended, alone: Ended) -> None:
    """Losses to 1e-5, the report but for time and place, predictions as they are."""
    assert (ended.code, ended.errors) == (0, ""), ended.errors + ended.output[-3000:]
    np.testing.assert_allclose(ended.losses(), alone.losses(), rtol=1e-5)
    assert ended.predictions() == alone.predictions()
    assert flat(ended.report()["splits"]) == pytest.approx(flat(alone.report()["splits"]), rel=1e-5)
    for part in ("model", "data", "seed", "task"):
        assert ended.report()[part] == alone.report()[part]


def flat(values: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in flatten(values).items() if isinstance(value, int | float)}


def check_batches(folder: pathlib.Path, name: str) -> None:
    """Each process made exactly the rows that it says its devices hold, of the batch computed here alone."""
    config = registry.from_config_dict(json.loads((folder / name / "config.json").read_text())["config"])
    task, _ = registry.create(config, resolve(config.model))
    batches = TrainBatches(task.datasets["train"], batch_size=config.train.batch_size, seed=config.seed)
    for step in RECORDED:
        whole, held = batches.batch(step), set()
        files = sorted((folder / f"{name}_batches").glob(f"step{step}_process*.npz"))
        for path in files:
            with np.load(path) as part:
                held |= set(part["rows"].tolist())
                for field, values in whole.items():
                    np.testing.assert_array_equal(part[field], values[part["rows"]])
        assert files and held == set(range(config.train.batch_size))


@pytest.mark.slow
def test_two_processes_compute_what_one_does(folder: pathlib.Path, alone: Ended) -> None:
    ended = run(folder, "two", 2, 2)
    check_same(ended, alone)
    for name in ("alone", "two"):
        check_batches(folder, name)
    assert len(list((folder / "two_batches").glob("step7_*"))) == 2
    assert ended.report()["device"] == "4 x cpu in 2 processes"
    # Process 0 alone writes and talks.
    assert (folder / "two_logs" / "process1.log").read_text().replace("[Gloo]", "").count("step 20/20") == 0
    assert len(list((folder / "two").glob("events.out.tfevents*"))) == 1
    assert "run finished" in ended.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "devices", "mesh"),
    [
        (4, 1, {"data": 4}),
        (2, 1, {"tensor": 2}),  # both processes hold all rows
        (4, 1, {"data": 1, "fsdp": 2, "sequence": 2}),  # two and two hold the same rows, each half of their tokens
    ],
    ids=["data", "tensor", "fsdp-sequence"],
)
def test_meshes_over_processes_compute_what_one_process_does(
    folder: pathlib.Path, alone: Ended, processes: int, devices: int, mesh: dict[str, int]
) -> None:
    name = "-".join(mesh)
    sizes = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1} | mesh
    ended = run(
        folder, name, processes, devices, *(f"--config.parallel.mesh.{axis}={size}" for axis, size in sizes.items())
    )
    check_same(ended, alone)
    check_batches(folder, name)


def wait_for_checkpoint(child: "subprocess.Popen[str]", workdir: pathlib.Path) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and child.poll() is None:
        folder = workdir / "checkpoints"
        if folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir()):
            return
        time.sleep(0.02)
    child.kill()
    raise AssertionError(f"no checkpoint: {child.communicate()}")


def process_ids(child: int) -> dict[int, int]:
    """Process number -> process id of the trainings that a launcher has started."""
    found = {}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            parent = re.search(r"^PPid:\s*(\d+)", (path / "status").read_text(), re.MULTILINE)
        except OSError:
            continue  # it has just ended
        numbers = [word for word in words if word.startswith(b"--process_id=")]
        if numbers and parent is not None and int(parent[1]) == child:
            found[int(numbers[0].split(b"=")[1])] = int(path.name)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/proc/self/cmdline").exists(), reason="finds processes by Linux' /proc")
def test_killed_on_four_processes_it_goes_on_on_two_to_the_same_end(folder: pathlib.Path, alone: Ended) -> None:
    child = subprocess.Popen(
        command(folder, "hit", 4, 1, "--config.train.steps=20"),
        cwd=ROOT,
        env={**ENVIRONMENT, "RECORD_TO": str(folder / "hit_batches")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_checkpoint(child, folder / "hit")
    os.kill(process_ids(child.pid)[2], signal.SIGKILL)
    killed = time.monotonic()
    output, errors = child.communicate(timeout=120)
    # heartbeat_timeout is 10 s; local.py would have waited 15 s, then asked, then killed.
    assert time.monotonic() - killed < 60
    assert child.returncode == 128 + signal.SIGKILL
    assert errors.startswith("local.py: process 2 was killed by SIGKILL; ending the others\n")
    assert re.search(
        r"process 2 \(.*\) has not been heard of for 10 s: it was killed or stopped, or its machine is gone\. "
        r"The last checkpoint is of step \d+; the same command goes on from there\.",
        output,
    )
    assert "Traceback" not in output + errors

    ended = run(folder, "hit", 2, 2)
    assert re.search(r"resuming after step \d+ of 20", ended.output)
    check_same(ended, alone)


@pytest.mark.slow
def test_stopped_by_a_signal_it_goes_on_by_itself(folder: pathlib.Path, alone: Ended) -> None:
    arguments = command(folder, "stopped", 2, 2)
    arguments.insert(2, "--restarts=1")
    child = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={**ENVIRONMENT, "RECORD_TO": str(folder / "stopped_batches")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_checkpoint(child, folder / "stopped")
    os.kill(process_ids(child.pid)[1], signal.SIGTERM)  # one of them alone
    output, errors = child.communicate(timeout=900)
    assert (child.returncode, errors) == (
        0,
        "local.py: stopped by preemption after a good save; starting again (1 of 1)\n",
    )
    (step,) = re.findall(r"stopped by SIGTERM after saving step (\d+)\. The same command goes on", output)
    assert f"resuming after step {step} of 20" in output
    check_same(Ended(0, output, "", folder / "stopped"), alone)


@pytest.mark.slow
def test_a_checkpoint_that_one_process_cannot_read_none_takes(folder: pathlib.Path, alone: Ended) -> None:
    """Each of two processes reads its half of the parameters; that of process 1 is damaged."""
    mesh = ("--config.parallel.mesh.data=1", "--config.parallel.mesh.fsdp=2")
    first = run(folder, "damaged", 2, 1, *mesh)
    check_same(first, alone)
    (first.workdir / "report.json").unlink()
    newest = first.workdir / "checkpoints" / str(STEPS)
    parts = list((newest / "params" / "ocdbt.process_1" / "d").iterdir())
    for path in parts:
        path.write_bytes(bytes(path.stat().st_size))
    assert parts
    again = run(folder, "damaged", 2, 1, *mesh)
    assert f"{newest}: the checkpoint cannot be read" in again.output
    assert re.search(r"resuming after step 1\d of 20", again.output)
    check_same(again, alone)


@pytest.mark.slow
def test_evaluation_on_two_processes_scores_as_the_run_did(folder: pathlib.Path, alone: Ended) -> None:
    launcher = [sys.executable, str(ROOT / "launch" / "local.py"), "--processes=2", "--devices=2"]
    flags = [f"--workdir={alone.workdir}", "--split=test", f"--output={folder / 'scores.json'}"]
    done = subprocess.run(
        [*launcher, "--program=jaxfm.evaluate", "--", *flags],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.count("micro average") > 0
    found = json.loads((folder / "scores.json").read_text())["scores"]
    assert flat(found) == pytest.approx(flat(alone.report()["splits"]["test"]), rel=1e-5)


@pytest.mark.slow
def test_a_process_of_another_config_is_named_before_anything_is_made(folder: pathlib.Path) -> None:
    """Each process reads a config file of its own: seed = number of the process's parity."""
    (folder / "odd.py").write_text(
        (folder / "config.py").read_text().replace("    return", "    import sys\n    values =")
        + "    values.seed = sum(word == '--process_id=1' for word in sys.argv)\n    return values\n"
    )
    ended = run(folder, "odd", 2, 1, f"--config={folder / 'odd.py'}")
    assert ended.code == 2 and not ended.workdir.exists()
    assert "the processes of this run do not agree: config.seed is 1 on process 1 (" in ended.output

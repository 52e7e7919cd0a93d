"""The program: flags, exit codes, files; and the whole of it with the real TPU compiler where that is installed."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from jaxfm.errors import UserError
from jaxfm.planning.hardware import has_gpu_compiler
from jaxfm.programs.plan import plan
from tests.planning import small

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = (
    "--config=configs/mlm.py:bert_tiny",
    "--config.model.tokenizer=train:wordpiece/500",
    "--config.data.row_length=16",
    "--config.train.batch_size=8",
)
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu (the extra tpu) is not installed"
)


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    environment.pop("XLA_FLAGS", None)
    return subprocess.run(
        [sys.executable, "-m", "jaxfm.plan", *flags], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_gpus_from_the_command_line(tmp_path: pathlib.Path) -> None:
    output = tmp_path / "deep" / "plan.json"
    ended = run(*TINY, "--topology=gpu:h100:8", "--config.parallel.mesh.fsdp=2", "--price=3", f"--output={output}")
    assert ended.returncode == 0, ended.stderr
    said = "PREDICTED STEP" if has_gpu_compiler() else "not known without a compiler"
    assert "8 chips as 4 data x 2 fsdp" in ended.stdout and said in ended.stdout
    values = json.loads(output.read_text())
    assert values["topology"]["chips"] == 8 and values["mesh"] == {"data": 4, "fsdp": 2, "tensor": 1, "sequence": 1}
    assert values["cost_per_billion_tokens"] > 0 and values["settings"]["batch_size"] == 8


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((*TINY, "--topology=v5e:5x5"), "v5e:16x16"),
        ((*TINY, "--topology=gpu:h100:2", "--config.parallel.mesh.fsdp=4"), "config.parallel.mesh"),
        ((*TINY, "--topology=gpu:h100:2", "--price=0"), "--price=0"),
        ((*TINY, "--topology=gpu:h100:2", "--config.train.seeds=2", "--sweep"), "--sweep: is for one run"),
        (TINY, "--topology is missing"),
        (("--topology=v5e:2x2",), "--config is missing"),
    ],
    ids=("topology", "mesh", "price", "several", "no topology", "no config"),
)
def test_mistakes_end_with_one_message(flags: tuple[str, ...], words: str) -> None:
    ended = run(*flags)
    assert ended.returncode == 2 and words in ended.stderr and "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_without_libtpu_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"jaxfm-encoders\[tpu\]"):
        plan(small.config(), "v5e:2x2")


@pytest.mark.skipif(not has_gpu_compiler(), reason="XLA for GPUs (the extra cuda) is not installed")
def test_the_compiler_of_gpus_from_the_command_line(tmp_path: pathlib.Path) -> None:
    """Packed rows by cuDNN want less memory than by XLA, as there are no scores of [B, N, T, T]."""
    temporaries = {}
    for path in ("cudnn", "xla"):
        output = tmp_path / f"{path}.json"
        attention = (f"--config.model.attention={path}", "--config.model.attention_dropout=0")
        long = ("--config.data.row_length=512", "--config.train.batch_size=32")
        ended = run(*TINY, *long, *attention, "--topology=gpu:h100:4", f"--output={output}")
        assert ended.returncode == 0, ended.stderr
        values = json.loads(output.read_text())
        assert values["memory"]["fits"] and any(name.startswith("jax-cuda") for name in values["versions"])
        temporaries[path] = values["memory"]["temporaries"]
    assert 0 < temporaries["cudnn"] < 0.8 * temporaries["xla"]


@needs_libtpu
def test_the_real_compiler_from_the_command_line(tmp_path: pathlib.Path) -> None:
    output = tmp_path / "plan.json"
    ended = run(*TINY, "--topology=v5e:2x2", "--config.parallel.mesh.fsdp=2", f"--output={output}")
    assert ended.returncode == 0, ended.stderr
    values = json.loads(output.read_text())
    assert values["versions"]["libtpu"] and values["memory"]["fits"] and values["unknown_collectives"] == 0
    assert {row["axes"].removesuffix(" (part)") for row in values["collectives"]} <= {"data", "fsdp", "data+fsdp"}
    # Each chip does its part of the products, and no other's.
    assert values["model_flops"] < values["matmul_flops"] < 1.5 * values["model_flops"]
    times = values["times"]
    assert 0 < times["bound"] <= times["step"] < 0.1 and times["kernels"] > times["compute"] > 0
    assert times["links"]["inside"] > 0 == times["links"]["between"]


@needs_libtpu
def test_several_runs_at_once_from_the_command_line(tmp_path: pathlib.Path) -> None:
    plans = {}
    for seeds in (1, 3):
        output = tmp_path / f"plan{seeds}.json"
        ended = run(*TINY, "--topology=v5e:2x2", f"--config.train.seeds={seeds}", f"--output={output}")
        assert ended.returncode == 0, ended.stderr
        assert ("3 runs at once of " in ended.stdout) is (seeds == 3)
        plans[seeds] = json.loads(output.read_text())
    one, three = plans[1], plans[3]
    for name in ("model_flops", "matmul_flops", "tokens_per_step"):
        assert three[name] == pytest.approx(3 * one[name], rel=1e-3)
    for name in ("parameters", "optimizer"):
        assert three["memory"][name] == pytest.approx(3 * one["memory"][name], rel=1e-3)
    assert three["parameters"] == one["parameters"] and three["settings"]["runs"] == 3 and "runs" not in one["settings"]
    assert one["times"]["step"] < three["times"]["step"] < 3.1 * one["times"]["step"]

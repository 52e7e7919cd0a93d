"""The script that runs all measurements of a GPU, with a stand-in for Python, and the two small programs it needs."""

import json
import os
import pathlib
import shutil
import subprocess

import pytest

from jaxfm import files
from jaxfm.errors import UserError
from profiles import ceilings, loss_curves

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Has torch, writes down how it was called; fails for what FAIL names.
STAND_IN = """#!/usr/bin/env bash
[[ $1 == -c ]] && exit
printf '%s\\n' "$*" >> "$CALLS"
[[ -z $FAIL || $* != *"$FAIL"* ]]
"""


def run(folder: pathlib.Path, *, fail: str = "", **environment: str) -> tuple[int, list[str], str]:
    """Runs the script; returns its exit code, the calls of Python, what it printed."""
    (folder / "python").write_text(STAND_IN)
    (folder / "python").chmod(0o755)
    calls = folder / "calls"
    calls.write_text("")
    variables = {"PYTHON": str(folder / "python"), "OUT": str(folder / "out"), "CALLS": str(calls), "FAIL": fail}
    done = subprocess.run(
        ["bash", str(ROOT / "profiles" / "gpu_all.sh")],
        env=os.environ | variables | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, calls.read_text().splitlines(), done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script needs bash")
def test_finished_steps_are_not_run_again_and_failed_ones_are(tmp_path: pathlib.Path) -> None:
    data = {"DATA": str(tmp_path)}  # without any set: steps that need one are left out
    code, calls, said = run(tmp_path, fail="profiles.ceilings", **data)
    assert code == 1 and "failed: ceilings" in said and "no wnut17" in said
    assert sum("profiles.ceilings" in call for call in calls) == 1
    for script in ("pytest", "profiles.throughput", "profiles.trace", "profiles.loss_curves", "profiles.scaling"):
        assert any(script in call for call in calls), script
    assert all(f"{tmp_path}/out/" in call for call in calls if "--output=" in call)
    code, calls, said = run(tmp_path, **data)
    assert code == 0 and len(calls) == 1 and "profiles.ceilings" in calls[0]
    code, calls, _ = run(tmp_path, **data)
    assert code == 0 and not calls


@pytest.mark.skipif(shutil.which("bash") is None, reason="the script needs bash")
def test_a_toy_is_of_another_size_and_the_same_steps(tmp_path: pathlib.Path) -> None:
    (tmp_path / "wnut17").mkdir()
    (tmp_path / "mlm-corpus").mkdir()
    _, real, _ = run(tmp_path, DATA=str(tmp_path), OUT=str(tmp_path / "real"))
    _, toy, _ = run(tmp_path, DATA=str(tmp_path), OUT=str(tmp_path / "toy"), TOY="1")

    def scripts(calls: list[str]) -> list[str]:
        """Each once, in the order of their first calls."""
        return list(dict.fromkeys(call.split()[1] for call in calls))

    assert scripts(real) == scripts(toy) and len(real) > 30
    assert any("bert_large" in call for call in real) and not any("bert_large" in call for call in toy)


def test_ceilings_of_any_device(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.json"
    ceilings.main([f"--output={output}", "--sizes=64,128", "--copy-mib=1", "--calls=2"])
    result = json.loads(output.read_text())
    assert [each["size"] for each in result["products"]] == [64, 128]
    assert all(0 < each["tflops"] <= each["best_tflops"] for each in result["products"])
    assert result["copy"]["gb_per_second"] > 0 and result["published_peak_flops"] is None
    assert "| bf16 product of 64 " in capsys.readouterr().out


def write_run(folder: pathlib.Path, losses: list[float]) -> pathlib.Path:
    lines = [json.dumps({"step": step, "split": "train", "loss": loss}) for step, loss in enumerate(losses, 1)]
    files.write_text(folder / "metrics.jsonl", "\n".join([*lines, json.dumps({"step": 2, "split": "valid"})]) + "\n")
    files.write_json(folder / "config.json", {"device": f"1 x {folder.name}"})
    return folder


def test_curves_that_are_close_and_those_that_are_not(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu, cpu = write_run(tmp_path / "gpu", [4.0, 2.02]), write_run(tmp_path / "cpu", [4.0, 2.0])
    loss_curves.main([str(gpu), str(cpu), f"--output={tmp_path / 'out.json'}"])
    assert "2 steps on 1 x gpu and 1 x cpu: losses differ by 1.00%" in capsys.readouterr().out
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["largest"] == pytest.approx(0.01) and result["of_the_first"] == 0
    with pytest.raises(SystemExit) as stop:
        loss_curves.main([str(gpu), str(cpu), f"--output={tmp_path / 'out.json'}", "--most=0.005"])
    assert stop.value.code == 1
    with pytest.raises(UserError, match="not of the same steps"):
        loss_curves.compare({1: 1.0}, {1: 1.0, 2: 1.0})

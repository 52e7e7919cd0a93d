"""Whole trainings over meshes of 8 devices against one device: losses, what each device holds, checkpoints.

In the default suite tests/training/test_step.py does the same for steps over 4 devices.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.parallel.eight_devices import MESHES, SAVED, STEPS

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALONE = "1,1,1,1"
# Code that is made fast costs more here than slow code does.
QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false"
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tests/parallel/eight_devices.py writes."""
    folder = tmp_path_factory.mktemp("eight")
    flags = f"--xla_force_host_platform_device_count=8 {QUICK}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.parallel.eight_devices", str(folder)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((folder / "result.json").read_text())
    assert (tuple(result["ner"]), tuple(result["masked_lm"])) == MESHES
    return result


def losses(steps: list[dict[str, float]]) -> np.ndarray:
    assert all(step["skipped"] == 0 for step in steps)
    return np.asarray([step["loss"] for step in steps])


def test_losses_are_those_of_one_device(result: dict[str, Any]) -> None:
    """20 steps with dropout, two micro-batches and packed rows."""
    alone = result["ner"][ALONE]["steps"]
    assert len(alone) == STEPS and losses(alone)[-3:].mean() < 0.8 * losses(alone)[:3].mean()  # it learns
    for name, found in result["ner"].items():
        np.testing.assert_allclose(losses(found["steps"]), losses(alone), rtol=1e-5, err_msg=name)
        norms = [[step["gradient_norm"] for step in steps] for steps in (alone, found["steps"])]
        np.testing.assert_allclose(norms[1], norms[0], rtol=1e-4, err_msg=name)


def test_masked_lm_is_that_of_one_device(result: dict[str, Any]) -> None:
    """Masks are drawn on the devices, logits are cut over vocabulary and places; also evaluation."""
    alone = result["masked_lm"][ALONE]
    assert losses(alone["steps"])[-3:].mean() < 0.9 * losses(alone["steps"])[:3].mean()
    for name, found in result["masked_lm"].items():
        np.testing.assert_allclose(losses(found["steps"]), losses(alone["steps"]), rtol=1e-5, err_msg=name)
        for metric in ("loss", "loss_whole_word", "accuracy"):
            np.testing.assert_allclose(found["valid"][metric], alone["valid"][metric], rtol=1e-4, err_msg=name)
        assert found["padding"] == [0.0, 0.0], name  # after 20 updates with decay


def test_whole_batches_are_compared_on_any_mesh(result: dict[str, Any]) -> None:
    """The loss sees the texts of all devices, with and without micro-batches; 20 steps with dropout."""
    alone, *others = result["vectors"].values()
    assert len(alone) == STEPS and losses(alone)[-3:].mean() < losses(alone)[:3].mean()  # it learns
    for name, found in result["vectors"].items():
        np.testing.assert_allclose(losses(found), losses(alone), rtol=1e-5, err_msg=name)
        negatives = [[step["negatives"] for step in steps] for steps in (alone, found)]
        assert negatives[0] == negatives[1] and min(negatives[0]) > 20, name
    assert len(others) == 5


def test_evaluation_is_that_of_one_device(result: dict[str, Any]) -> None:
    scores = {name: found["valid"] for name, found in result["ner"].items() if "valid" in found}
    assert len(scores) >= 2 and ALONE in scores
    for name, found in scores.items():
        for metric in ("f1", "loss", "accuracy"):
            np.testing.assert_allclose(found[metric], scores[ALONE][metric], rtol=1e-4, err_msg=f"{name} {metric}")


def test_bytes_on_a_device_fall_as_fsdp_and_tensor_grow(result: dict[str, Any]) -> None:
    held = {name: found["bytes"] for name, found in result["ner"].items()}
    for part in ("params", "opt_state"):
        for name, found in held.items():
            _, fsdp, tensor, _ = (int(size) for size in name.split(","))
            share, least = found[part] / held[ALONE][part], 1 / (fsdp * tensor)
            # What is not cut at all are norms, some biases and the head's classes.
            assert least <= share < (least + 0.15 if least < 1 else 1.001), f"{part} {name}"
    for name, found in held.items():
        # What the compiled step takes is the state and its share of the batch: nothing is held beside.
        assert 0 <= found["arguments"] - found["params"] - found["opt_state"] < 5 * 4 * 16 * 48 + 1024, name


def test_no_gradient_is_ever_whole(result: dict[str, Any]) -> None:
    """Where a parameter is cut, no array of its whole stacked shape appears anywhere in the compiled step."""
    for name, found in result["ner"].items():
        assert found["whole"] == [], name
    assert result["ner"]["1,8,1,1"]["cut"] >= 6


def test_a_checkpoint_of_any_mesh_goes_on_on_any_other(result: dict[str, Any]) -> None:
    assert len(result["restored"]) == 2 * len(result["ner"]) - 2
    for pair, restored in result["restored"].items():
        source, target = pair.split()
        assert source != target and restored["hashes"] == result["ner"][source]["hashes"], pair
        wanted = losses(result["ner"][source]["steps"])[SAVED : SAVED + len(restored["steps"])]
        np.testing.assert_allclose(losses(restored["steps"]), wanted, rtol=1e-5, err_msg=pair)
    hashes = [found["hashes"] for found in result["ner"].values()]
    assert all(found.keys() == hashes[0].keys() for found in hashes)

"""Weights in 8 bits: what is quantised, how far it is off, and when the score gate says no."""

import pathlib

import numpy as np
import pytest

from jaxfm.formats.onnx_files import Session, model_proto, write_onnx
from jaxfm.formats.quantisation import ALL, WIDENING, Gate, quantise
from tests.formats.test_onnx_models import of_random
from tests.tiny import ENCODER

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def gate(before: float, after: float, *, better: bool = True, most: float = 0.01) -> Gate:
    return Gate("valid", "f1" if better else "loss", better, before, after, most, ALL)


def test_a_gate_counts_in_the_metrics_own_direction() -> None:
    assert gate(0.90, 0.895).passes and not gate(0.90, 0.88).passes and gate(0.90, 0.95).passes
    assert gate(2.0, 2.005, better=False).passes and not gate(2.0, 2.1, better=False).passes
    assert gate(2.0, 1.5, better=False).lost == pytest.approx(-0.5)
    assert not gate(0.9, float("nan")).passes and not gate(float("nan"), 0.9).passes
    assert gate(0.9, 0.9, most=0.0).passes
    assert str(gate(0.9, 0.95)).endswith("gains 0.0500, at most 0.01 may be lost")


@pytest.mark.parametrize("large", [False, True])
def test_eight_bits_are_near_and_smaller(large: bool, tmp_path: pathlib.Path) -> None:
    source = tmp_path / "model.onnx"
    write_onnx(source, model_proto(of_random(ENCODER)), **({"largest": 1000} if large else {}))
    ids = np.arange(5, 25).reshape(2, 10)
    given = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
    expected = Session(source)(given)["logits"]
    found = {}
    for extent in (ALL, WIDENING):
        target = tmp_path / "small.onnx"
        quantise(source, target, extent)
        nodes = [node.op_type for node in onnx.load(target).graph.node]
        layers = ENCODER.num_layers
        # Attention's own products stay in f32; of weights six a layer and the head, the second of a feed-forward and
        # the head being those that narrow.
        assert nodes.count("MatMulInteger") == (6 * layers + 1 if extent == ALL else 5 * layers)
        assert nodes.count("MatMul") == (2 * layers if extent == ALL else 3 * layers + 1)
        found[extent] = float(np.abs(Session(target)(given)["logits"] - expected).mean())
    assert 0 < found[WIDENING] < found[ALL] < 0.1 * np.abs(expected).mean()
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.onnx", "small.onnx", *(["model.onnx_data"] if large else [])
    }  # fmt: skip

"""ONNX files of whole models beside transformers + torch: every family, every head, padding on either side."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families.registry import FAMILIES
from jaxfm.formats.inference import IDS, MASK, Inference, inference_of, make_inference, outputs_of
from jaxfm.formats.onnx_files import Session, model_proto, write_onnx
from jaxfm.hub.weights import read_checkpoint
from jaxfm.models.heads import TokenClassifier
from tests import tiny

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

HEADS = {
    "token_classes": "ForTokenClassification",
    "sequence_classes": "ForSequenceClassification",
    "vocabulary": "ForMaskedLM",
}
CASES = [
    *((family, kind) for family in ("bert", "roberta", "modernbert", "electra") for kind in HEADS),
    ("electra", "replaced_tokens"),
]
LENGTHS = (24, 13, 3)


def written(inference: Inference, folder: pathlib.Path) -> Session:
    write_onnx(folder / "onnx" / "model.onnx", model_proto(inference))
    return Session(folder / "onnx" / "model.onnx")


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_the_logits_are_those_of_transformers(family: str, kind: str, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("torch", reason="torch is the oracle; it is installed with the test extra on 3.11")
    from tests.hub import test_transformers_parity as parity

    names = {"id2label": {0: "x", 1: "y", 2: "z"}} if "classes" in kind else {}
    model = parity.torch_model(family, FAMILIES[family].heads[kind].suffix, **names)
    model.save_pretrained(tmp_path)
    session = written(inference_of(read_checkpoint(tmp_path), kind), tmp_path)
    types = ["token_type_ids"] if FAMILIES[family].name in ("bert", "electra") else []
    assert session.inputs == ("input_ids", "attention_mask", *types) and session.outputs == ("logits",)
    for lengths in (LENGTHS, (9,)):
        arrays = parity.inputs(family, lengths=lengths)
        found = session(arrays)["logits"]
        expected = parity.oracle(model, arrays)
        assert found.shape == expected.shape
        real = arrays["attention_mask"] > 0
        whole = kind == "sequence_classes"
        np.testing.assert_allclose(*((x if whole else x[real]) for x in (found, expected)), rtol=1e-4, atol=1e-4)


def test_padding_on_the_left_changes_nothing(tmp_path: pathlib.Path) -> None:
    tiny.write_weights(tmp_path / "model", labels=("O", "B-X", "I-X"))
    session = written(inference_of(read_checkpoint(tmp_path / "model"), "token_classes"), tmp_path)
    ids = np.arange(5, 12)[None]
    alone = session({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0})["logits"]
    for before, after in ((3, 0), (0, 3), (2, 1)):
        padded = np.pad(ids, [(0, 0), (before, after)])
        given = {"input_ids": padded, "attention_mask": (padded > 0).astype(np.int64), "token_type_ids": padded * 0}
        found = session(given)["logits"][:, before : before + ids.shape[1]]
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_large_weights_lie_beside_the_graph(tmp_path: pathlib.Path) -> None:
    tiny.write_weights(tmp_path / "model", labels=("O", "B-X", "I-X"))
    model = model_proto(inference_of(read_checkpoint(tmp_path / "model"), "token_classes"))
    write_onnx(tmp_path / "one" / "model.onnx", model)
    write_onnx(tmp_path / "two" / "model.onnx", model, largest=1000)
    assert [path.name for path in sorted((tmp_path / "two").iterdir())] == ["model.onnx", "model.onnx_data"]
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["model.onnx"]
    ids = np.arange(5, 12)[None]
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": ids * 0}
    one, two = (Session(tmp_path / name / "model.onnx")(given)["logits"] for name in ("one", "two"))
    assert np.array_equal(one, two)


def test_a_local_window_holds_for_texts_of_any_length(tmp_path: pathlib.Path) -> None:
    """Long rows are computed in chunks in training; the exported program, which has none, computes the same."""
    encoder = dataclasses.replace(
        tiny.ENCODER,
        family="modernbert",
        **{"position_embedding": "rope", "local_window": 4, "global_every": 3, "norm_placement": "pre"},
        **{"gated": True, "attention_bias": False, "ffn_bias": False, "head_bias": False, "norm_bias": False},
        **{"classifier_transform": True},
        **{"type_vocab_size": 0, "num_layers": 4},
    )
    inference = of_random(encoder)
    session = written(inference, tmp_path)
    ids = np.random.default_rng(0).integers(5, 90, (2, 40))
    mask = (np.arange(40) < np.asarray([[40], [33]])).astype(np.int64)
    found = session({"input_ids": ids, "attention_mask": mask})["logits"]
    expected = jax.jit(inference)(inference.params, {IDS: ids.astype(np.int32), MASK: mask.astype(np.int32)})["logits"]
    np.testing.assert_allclose(found[mask > 0], np.asarray(expected)[mask > 0], atol=1e-5)


def of_random(encoder: EncoderConfig) -> Inference:
    return make_inference(
        lambda build, rngs: TokenClassifier(encoder, 3, build, rngs), encoder, tiny.random_params(encoder, 3, seed=1)
    )


def test_a_graph_of_few_operators(tmp_path: pathlib.Path) -> None:
    """A layer is six products with weights and two of attention, with a norm, a softmax and a gelu as one operator."""
    nodes = [node.op_type for node in model_proto(of_random(tiny.ENCODER)).graph.node]
    layers = tiny.ENCODER.num_layers
    assert nodes.count("MatMul") == 8 * layers + 1 and nodes.count("Softmax") == nodes.count("Erf") == layers
    assert nodes.count("LayerNormalization") == 2 * layers + 1 and nodes.count("Transpose") == 4 * layers
    assert nodes.count("Where") == 4  # three look-ups, and one mask for all layers
    assert not {"Expand", "Exp", "ReduceSum", "Loop", "If"} & set(nodes)


def test_a_model_of_another_modality_is_refused() -> None:
    with pytest.raises(UserError, match="a dict is no model of text"):
        outputs_of({}, {})


def test_a_damaged_file_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x09 no model")
    with pytest.raises(UserError, match=r"model.onnx: onnxruntime cannot open it: "):
        Session(tmp_path / "model.onnx")

"""The head of a classifier as the last module of a sentence encoder's folder."""

import json
import pathlib

import numpy as np
from safetensors.numpy import load_file

from jaxfm.hub.sentence_classifiers import write_sentence_classifier
from jaxfm.hub.sentence_transformers import modules_of, read_sentence_transformers


def test_the_head_is_a_module_after_the_normalisation(tmp_path: pathlib.Path) -> None:
    kernel, bias = np.arange(6, dtype=np.float32).reshape(3, 2), np.asarray([0.5, -1], np.float32)
    write_sentence_classifier(tmp_path, pooling="mean", normalize=True, max_length=32, kernel=kernel, bias=bias)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"), ("Dense", "3_Dense")]
    assert modules_of(tmp_path) == modules
    tensors = load_file(tmp_path / "3_Dense" / "model.safetensors")
    np.testing.assert_array_equal(tensors["linear.weight"], kernel.T)
    np.testing.assert_array_equal(tensors["linear.bias"], bias)
    values = json.loads((tmp_path / "3_Dense" / "config.json").read_text())
    assert (values["in_features"], values["out_features"], values["bias"]) == (3, 2, True)
    layout, params = read_sentence_transformers(tmp_path) or (None, {})
    assert layout is not None and layout.unread == ("the module Dense",) and not params  # no vectors to train from

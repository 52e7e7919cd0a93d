"""Heads over whole examples against transformers: the same files, the same logits, in both directions, packed too."""

# B batch, T tokens, S segments, C classes

import dataclasses
import json
import pathlib
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.data.text.packing import build_rows
from jaxfm.hub.config_json import hf_config
from jaxfm.hub.weights import Checkpoint, read_checkpoint, write_tensors
from jaxfm.models.heads import SequenceClassifier
from jaxfm.parallel import mesh as meshes
from tests.hub.test_transformers_parity import OWN, inputs, oracle, torch_model, transformers

HEAD = "ForSequenceClassification"
CASES = [
    ("bert", "cls"), ("roberta", "cls"), ("xlm-roberta", "cls"), ("electra", "cls"), ("modernbert", "cls"),
    ("modernbert", "mean"),
]  # fmt: skip
LABELS = ("bad", "good", "so so")


def theirs(family: str, pooling: str) -> Any:
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    own = {"classifier_pooling": pooling} if family == "modernbert" else {}
    return torch_model(family, HEAD, **names, **own)


def ours(read: Checkpoint, pooling: str, arrays: dict[str, np.ndarray], pad: int, row_length: int) -> np.ndarray:
    """Logits [E, C] of the examples in `arrays`, packed into rows of `row_length`."""
    mask = arrays["attention_mask"] > 0
    tokens = [row[real] for row, real in zip(arrays["input_ids"], mask, strict=True)]
    types = [row[real] for row, real in zip(arrays["token_type_ids"], mask, strict=True)]
    targets = np.arange(len(tokens), dtype=np.int32)
    rows = build_rows(tokens, targets, row_length, pad, None, max_segments=4, type_ids=types)
    assert rows.labels[rows.example_locations[:, 0], rows.example_locations[:, 1]].tolist() == targets.tolist()
    graphdef, abstract = meshes.build_abstract(
        lambda: SequenceClassifier(
            read.encoder, len(read.labels), DEFAULT_BUILD, nnx.Rngs(0), pooling=pooling, segments=4
        ),
        meshes.make_mesh(MeshConfig()),
    )
    nested = flax.traverse_util.unflatten_dict(read.arrays(), sep="/")
    assert jax.tree.map(jnp.shape, nested) == jax.tree.map(lambda leaf: leaf.shape, abstract)
    logits_NSC = jax.jit(lambda params, batch: nnx.merge(graphdef, params)(batch))(
        nested, rows.take(np.arange(len(rows)))
    )
    return np.asarray(logits_NSC)[rows.example_locations[:, 0], rows.example_locations[:, 1]]


@pytest.mark.parametrize(("family", "pooling"), CASES)
@pytest.mark.parametrize("row_length", [24, 48])
def test_logits_are_those_of_transformers(tmp_path: pathlib.Path, family: str, pooling: str, row_length: int) -> None:
    model, arrays = theirs(family, pooling), inputs(family, lengths=(24, 13, 5, 2))
    model.save_pretrained(tmp_path)
    read = read_checkpoint(tmp_path)
    assert read.labels == LABELS and not read.notes
    expected = oracle(model, arrays)
    assert expected.shape == (4, 3) and expected.std() > 0.1
    found = ours(read, pooling, arrays, OWN[family]["pad_token_id"], row_length)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_what_is_written_gives_transformers_the_same_logits(tmp_path: pathlib.Path, family: str, pooling: str) -> None:
    model, arrays = theirs(family, pooling), inputs(family, lengths=(24, 13, 5, 2))
    model.save_pretrained(tmp_path / "theirs")
    read = read_checkpoint(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    values = hf_config(read.encoder, head="sequence_classes", pad_token_id=OWN[family]["pad_token_id"], labels=LABELS)
    values |= {"classifier_pooling": pooling} if family == "modernbert" else {}
    (tmp_path / "ours" / "config.json").write_text(json.dumps(values))
    write_tensors(tmp_path / "ours" / "model.safetensors", read.encoder, "sequence_classes", read.params)
    again, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    np.testing.assert_array_equal(oracle(again.eval(), arrays), oracle(model, arrays))


def test_a_pretrained_pooler_comes_along_with_and_without_a_head(tmp_path: pathlib.Path) -> None:
    whole = theirs("bert", "cls")
    whole.save_pretrained(tmp_path / "whole")
    whole.bert.save_pretrained(tmp_path / "bare")
    bare, read = read_checkpoint(tmp_path / "bare"), read_checkpoint(tmp_path / "whole")
    assert set(read.params) - set(bare.params) == {"head/kernel", "head/bias"} and not bare.labels
    np.testing.assert_array_equal(bare.params["pooler/kernel"], whole.bert.pooler.dense.weight.detach().numpy().T)
    assert dataclasses.asdict(bare.encoder) == dataclasses.asdict(read.encoder)

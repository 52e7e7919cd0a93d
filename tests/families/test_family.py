"""A family that is registered from here is read, written and started from like any other."""

import pathlib
from collections.abc import Iterator

import numpy as np
import pytest
import safetensors.numpy

from jaxfm import files
from jaxfm.config import ModelConfig
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.families.family import Family
from jaxfm.families.registry import FAMILIES, preset
from jaxfm.hub.export import write_model
from jaxfm.hub.initial import resolve
from jaxfm.hub.weights import read_checkpoint, read_config
from tests import tiny
from tests.families import toy

LABELS = ("O", "B-X", "I-X")


@pytest.fixture
def family() -> Iterator[Family]:
    with toy.registered() as registered:
        yield registered


def test_a_new_family_starts_from_scratch_and_from_what_it_wrote(family: Family, tmp_path: pathlib.Path) -> None:
    tokens = tiny.write_tokenizer(tmp_path / "tokens")
    scratch = resolve(ModelConfig(init="scratch", preset="toy_tiny", tokenizer=tokens))
    assert scratch.encoder == preset("toy_tiny") == family.presets["toy_tiny"]
    params = tiny.random_params(scratch.encoder, len(LABELS), seed=1)
    tokenizer = load_tokenizer(tmp_path / "tokens")
    write_model(
        tmp_path, scratch.encoder, head="token_classes", params=params, tokenizer=tokenizer, labels=LABELS,
        extra={"note": "x"},
    )  # fmt: skip
    values = files.read_json(tmp_path / "config.json")
    assert (values["architectures"], values["model_type"]) == (["ToyForTokenClassification"], "toy")
    assert (values["width"], values["note"], values["pad_token_id"]) == (32, "x", 0)
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(tensors["toy.2.up.weight"], params["encoder/layers/ffn/up/kernel"][2].T)
    read = resolve(ModelConfig(init=f"dir:{tmp_path}"))
    assert read.encoder == scratch.encoder and read.labels == LABELS and set(read.params) == set(params)
    for name, value in params.items():
        np.testing.assert_array_equal(read.params[name], value, err_msg=name)


def test_both_heads_and_a_part_of_one(family: Family, tmp_path: pathlib.Path) -> None:
    tiny.write_masked_lm_weights(tmp_path, preset("toy_tiny"))
    assert read_checkpoint(tmp_path).heads == ("vocabulary",)
    path = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    both = tensors | {"tags.weight": np.ones((2, 32), np.float32), "tags.bias": np.zeros(2, np.float32)}
    safetensors.numpy.save_file(both, path)
    values = files.read_json(tmp_path / "config.json")
    files.write_json(tmp_path / "config.json", values | {"id2label": {"0": "no", "1": "yes"}})
    read = read_checkpoint(tmp_path)
    assert read.heads == ("token_classes", "vocabulary") and read.labels == ("no", "yes") and read.notes == ()
    del both["tags.bias"]
    safetensors.numpy.save_file(both, path)
    read = read_checkpoint(tmp_path)
    assert read.heads == ("vocabulary",) and read.labels == ()
    assert read.notes == ("weights not used: tags.weight", "token_classes head not used: tags.bias missing")


def test_a_bias_that_config_json_leaves_out_is_refused(family: Family, tmp_path: pathlib.Path) -> None:
    tiny.write_masked_lm_weights(tmp_path, preset("toy_tiny"))
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    safetensors.numpy.save_file(tensors | {"lm.dense.bias": np.ones(32, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"1 tensors have no place in a toy encoder: lm\.dense\.bias"):
        read_checkpoint(tmp_path)


def test_its_own_keys_are_checked(family: Family, tmp_path: pathlib.Path) -> None:
    tiny.write_weights(tmp_path, preset("toy_tiny"))
    values = files.read_json(tmp_path / "config.json")
    for change, words in (
        ({"width": 31}, "width 31 is not a multiple of heads 2."),
        ({"depth": 0}, "depth is 0; it must be an integer from 1 to 1,000."),
    ):
        files.write_json(tmp_path / "config.json", values | change)
        with pytest.raises(UserError) as caught:
            read_config(tmp_path)
        assert str(caught.value) == f"{tmp_path / 'config.json'}: {words}"


@pytest.mark.parametrize("name", FAMILIES)
def test_class_names_and_kinds_are_inverse(name: str) -> None:
    family = FAMILIES[name]
    classes = {kind: family.class_name(kind) for kind, head in family.heads.items() if head.suffix}
    assert {kind: family.kind_of(found) for kind, found in classes.items()} == {kind: kind for kind in classes}
    assert family.kind_of("LlamaForCausalLM") == family.kind_of(family.architecture) == ""
    assert family.class_name("") == f"{family.architecture}{family.bare_suffix}"


@pytest.mark.parametrize("name", FAMILIES)
def test_names_of_the_encoder_alone_have_no_prefix(name: str) -> None:
    family = FAMILIES[name]
    encoder = next(iter(family.presets.values()), preset("bert_base"))
    parts = [lambda *, bare, kind=kind: family.head_tensors(kind, encoder, bare=bare) for kind in family.heads]
    for part in (family.encoder_tensors, *parts):
        whole, bare = part(bare=False), part(bare=True)
        assert [tensor.name for tensor in bare.values()] == [
            tensor.name.removeprefix(family.prefix) for tensor in whole.values()
        ]
    assert all(tensor.name.startswith(family.prefix) for tensor in family.encoder_tensors().values())

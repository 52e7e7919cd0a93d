import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxfm.errors import UserError
from jaxfm.hub.families import FAMILIES, encoder_config, hf_config
from jaxfm.hub.weights import CLASSIFIER_HEAD, read_checkpoint, read_config, write_tensors
from jaxfm.models.presets import EncoderConfig

SHAPE = EncoderConfig(
    vocab_size=11, hidden_size=6, num_layers=3, num_heads=2, ffn_size=10, max_positions=7, type_vocab_size=3
)
LABELS = ("O", "B-X", "I-X", "B-Y")
Tensors = dict[str, np.ndarray]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


@pytest.fixture
def tensors() -> Tensors:
    """A BERT token classifier as transformers lays it out, written by hand."""
    d, f = SHAPE.hidden_size, SHAPE.ffn_size
    sizes = {
        "bert.embeddings.word_embeddings.weight": (11, d),
        "bert.embeddings.position_embeddings.weight": (7, d),
        "bert.embeddings.token_type_embeddings.weight": (3, d),
        "bert.embeddings.LayerNorm.weight": (d,),
        "bert.embeddings.LayerNorm.bias": (d,),
        "classifier.weight": (4, d),
        "classifier.bias": (4,),
    }
    for layer in range(SHAPE.num_layers):
        start = f"bert.encoder.layer.{layer}"
        for name in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            sizes |= {f"{start}.{name}.weight": (d, d), f"{start}.{name}.bias": (d,)}
        sizes |= {f"{start}.intermediate.dense.weight": (f, d), f"{start}.intermediate.dense.bias": (f,)}
        sizes |= {f"{start}.output.dense.weight": (d, f), f"{start}.output.dense.bias": (d,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            sizes |= {f"{start}.{name}.weight": (d,), f"{start}.{name}.bias": (d,)}
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=size).astype(np.float32) for name, size in sizes.items()}


def config(**changes: Any) -> dict[str, Any]:
    return hf_config(SHAPE, head="ForTokenClassification", pad_token_id=0, labels=LABELS) | changes


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    def write(tensors: Mapping[str, np.ndarray], values: Mapping[str, Any] | None = None) -> pathlib.Path:
        (tmp_path / "config.json").write_text(json.dumps(values or config()))
        safetensors.numpy.save_file(dict(tensors), tmp_path / "model.safetensors")
        return tmp_path

    return write


def message(directory: pathlib.Path) -> str:
    with pytest.raises(UserError) as caught:
        read_checkpoint(directory)
    return str(caught.value)


def test_every_tensor_finds_its_place(tensors: Tensors, write) -> None:
    read = read_checkpoint(write(tensors))
    assert read.encoder == SHAPE == read_config(write(tensors)) and read.labels == LABELS and read.notes == ()
    assert set(read.params) == {f"encoder/{name}" for name in FAMILIES["bert"].encoder} | set(CLASSIFIER_HEAD)
    assert {value.dtype for value in read.params.values()} == {np.dtype(np.float32)}
    for layer in range(3):
        start = f"bert.encoder.layer.{layer}"
        # x @ W.T in torch; ours has the axes (layer, in, heads, head_dim) and, for the output, (layer, heads, ...).
        query = tensors[f"{start}.attention.self.query.weight"].T.reshape(6, 2, 3)
        np.testing.assert_array_equal(read.params["encoder/layers/attention/query/kernel"][layer], query)
        bias = tensors[f"{start}.attention.self.value.bias"].reshape(2, 3)
        np.testing.assert_array_equal(read.params["encoder/layers/attention/value/bias"][layer], bias)
        output = tensors[f"{start}.attention.output.dense.weight"].T.reshape(2, 3, 6)
        np.testing.assert_array_equal(read.params["encoder/layers/attention/output/kernel"][layer], output)
        up = tensors[f"{start}.intermediate.dense.weight"].T
        np.testing.assert_array_equal(read.params["encoder/layers/ffn/up/kernel"][layer], up)
        scale = tensors[f"{start}.output.LayerNorm.weight"]
        np.testing.assert_array_equal(read.params["encoder/layers/ffn_norm/scale"][layer], scale)
    np.testing.assert_array_equal(read.params["head/kernel"], tensors["classifier.weight"].T)
    types = tensors["bert.embeddings.token_type_embeddings.weight"]
    np.testing.assert_array_equal(read.params["encoder/embeddings/type/embedding"], types)


@pytest.mark.parametrize("family", FAMILIES)
def test_writing_is_the_inverse_of_reading(family: str, tensors: Tensors, write, tmp_path: pathlib.Path) -> None:
    renamed = {name.replace("bert.", FAMILIES[family].prefix): value for name, value in tensors.items()}
    read = read_checkpoint(write(renamed, config(model_type=family, pad_token_id=1)))
    (tmp_path / "again").mkdir()
    write_tensors(tmp_path / "again" / "model.safetensors", read.encoder, read.params)
    written = safetensors.numpy.load_file(tmp_path / "again" / "model.safetensors")
    assert set(written) == set(renamed)
    for name, value in renamed.items():
        np.testing.assert_array_equal(written[name], value, err_msg=name)
    with safetensors.safe_open(tmp_path / "again" / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
    values = hf_config(read.encoder, head="ForTokenClassification", pad_token_id=1, labels=LABELS)
    assert encoder_config(values, "config.json") == read.encoder


def test_writing_asks_for_every_parameter(tensors: Tensors, write, tmp_path: pathlib.Path) -> None:
    params = read_checkpoint(write(tensors)).params
    del params["head/bias"]
    with pytest.raises(AssertionError, match="head/bias"):
        write_tensors(tmp_path / "x.safetensors", SHAPE, params)


def test_with_and_without_prefix_and_head(tensors: Tensors, write) -> None:
    full = read_checkpoint(write(tensors)).params
    bare = {name.removeprefix("bert."): value for name, value in tensors.items() if not name.startswith("classifier")}
    read = read_checkpoint(write(bare | {"pooler.dense.weight": normal(6, 6), "pooler.dense.bias": normal(6)}))
    assert read.labels == () and read.notes == ("weights not used: pooler.dense.bias, pooler.dense.weight",)
    assert set(full) - set(read.params) == set(CLASSIFIER_HEAD)
    for name, value in read.params.items():
        np.testing.assert_array_equal(value, full[name])


def test_a_head_without_label_names_is_not_used(tensors: Tensors, write) -> None:
    values = config()
    del values["id2label"]
    read = read_checkpoint(write(tensors, values))
    assert read.labels == () and "head/kernel" not in read.params
    assert read.notes == ("weights not used: classifier.bias, classifier.weight",)


def test_labels_are_ordered_by_number(tensors: Tensors, write) -> None:
    names = {str(i): f"L{i}" for i in (10, 9, 2, 1, 0, 3, 4, 5, 6, 7, 8)}
    wide = tensors | {"classifier.weight": normal(11, 6), "classifier.bias": normal(11)}
    assert read_checkpoint(write(wide, config(id2label=names))).labels == tuple(f"L{i}" for i in range(11))


def test_names_of_the_first_bert_checkpoints(tensors: Tensors, write) -> None:
    expected = read_checkpoint(write(tensors)).params
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    old |= {"cls.predictions.transform.LayerNorm.gamma": normal(6), "bert.embeddings.position_ids": np.arange(7)[None]}
    assert len(set(old) & set(tensors)) < len(tensors)
    read = read_checkpoint(write(old))
    for name, value in expected.items():
        np.testing.assert_array_equal(read.params[name], value)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_are_widened_exactly(dtype: Any, tensors: Tensors, write) -> None:
    half = {name: value.astype(dtype) for name, value in tensors.items()}
    directory = write(half)
    with safetensors.safe_open(directory / "model.safetensors", framework="numpy") as file:
        assert file.get_slice("classifier.bias").get_dtype() == {np.float16: "F16"}.get(dtype, "BF16")
    read = read_checkpoint(directory)
    assert read.params["head/kernel"].dtype == np.float32
    np.testing.assert_array_equal(read.params["head/kernel"], half["classifier.weight"].T.astype(np.float32))
    assert (read.params["head/kernel"] != tensors["classifier.weight"].T).any()


def shard(directory: pathlib.Path, tensors: Tensors, parts: int = 3) -> dict[str, Any]:
    (directory / "config.json").write_text(json.dumps(config()))
    names = sorted(tensors)
    table = {}
    for part in range(parts):
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in names[part::parts]}, directory / file)
        table |= dict.fromkeys(names[part::parts], file)
    index = {"metadata": {}, "weight_map": table}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_sharded_files(tensors: Tensors, write, tmp_path: pathlib.Path) -> None:
    expected = read_checkpoint(write(tensors)).params
    folder = tmp_path / "sharded"
    folder.mkdir()
    shard(folder, tensors)
    read = read_checkpoint(folder)
    assert set(read.params) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(read.params[name], value)
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors listed in model.safetensors.index.json but not there" in message(folder)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "/etc/passwd", "sub/model.safetensors", ".."])
def test_an_index_stays_in_its_directory(name: str, tensors: Tensors, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "weights"
    (folder / "sub").mkdir(parents=True)
    index = shard(folder, tensors)
    moved = index["weight_map"]["classifier.bias"]
    for place in (tmp_path / "elsewhere.safetensors", folder / "sub" / "model.safetensors"):
        place.write_bytes((folder / moved).read_bytes())  # the files are there: only the rule keeps them out
    index["weight_map"]["classifier.bias"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    words = "but not there" if name == ".." else "names files outside its directory"
    assert words in message(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "is not JSON"), ("[]", "not an object"), ("{}", "no 'weight_map'"), ('{"weight_map": {"a": 1}}', "no 'wei")],
)
def test_a_broken_index(text: str, words: str, tensors: Tensors, tmp_path: pathlib.Path) -> None:
    shard(tmp_path, tensors)
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert words in message(tmp_path) and "model.safetensors.index.json" in message(tmp_path)


def test_a_missing_tensor(tensors: Tensors, write) -> None:
    del tensors["bert.encoder.layer.1.output.dense.bias"]
    text = message(write(tensors))
    assert "'bert.encoder.layer.1.output.dense.bias' is missing (needed for encoder/layers/ffn/down/bias)" in text


def test_unknown_tensors(tensors: Tensors, write) -> None:
    text = message(write(tensors | {"bert.encoder.layer.0.attention.gate": normal(6)}))
    assert "1 tensors have no place in a bert encoder: bert.encoder.layer.0.attention.gate." in text
    many = {f"bert.x{i}": normal(1) for i in range(12)}
    assert "12 tensors" in message(write(tensors | many)) and " ..." in message(write(tensors | many))


def test_more_layers_than_config_json_says(tensors: Tensors, write) -> None:
    assert "bert.encoder.layer.2." in message(write(tensors, config(num_hidden_layers=2)))
    assert "'bert.encoder.layer.3." in message(write(tensors, config(num_hidden_layers=4)))


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("bert.embeddings.word_embeddings.weight", (12, 6), "[11, 6]"),
        ("bert.embeddings.position_embeddings.weight", (6, 7), "[7, 6]"),
        ("bert.encoder.layer.2.intermediate.dense.weight", (6, 10), "[10, 6]"),  # as many numbers, but transposed
        ("bert.encoder.layer.0.attention.self.query.weight", (2, 3, 6), "[6, 6]"),
        ("bert.encoder.layer.0.attention.self.query.bias", (2, 3), "[6]"),
        ("bert.encoder.layer.0.output.LayerNorm.weight", (5,), "[6]"),
        ("classifier.weight", (3, 6), "[4, 6]"),
        ("classifier.bias", (1, 4), "[4]"),
    ],
)
def test_a_wrong_shape(name: str, shape: tuple[int, ...], wanted: str, tensors: Tensors, write) -> None:
    text = message(write(tensors | {name: normal(*shape)}))
    assert text.endswith(f"{name!r} has shape {list(shape)}, but config.json asks for {wanted}.")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "tf_model.h5"])
def test_pickles_are_never_read(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config()))
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n")
    text = message(tmp_path)
    assert f"has {name} but no model.safetensors" in text and "reads safetensors only" in text and "Convert it" in text


def test_no_weights_at_all(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config()))
    (tmp_path / "vocab.txt").write_text("")
    assert "has no model.safetensors (found: config.json, vocab.txt)" in message(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_torn_file(keep: int, tensors: Tensors, write) -> None:
    path = write(tensors) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    text = message(path.parent)
    assert text.startswith(f"{path}: is not a whole safetensors file") and text.endswith("Fetch it again.")


def test_config_json(tensors: Tensors, write) -> None:
    directory = write(tensors)
    path = directory / "config.json"
    for data in (b"{", b"\xff\xfe", b"", b"[1]"):
        path.write_bytes(data)
        words = "is JSON, but not an object" if data == b"[1]" else "is not JSON"
        assert message(directory).startswith(f"{path}: {words}")
    path.unlink()
    assert "has no config.json (found: model.safetensors)" in message(directory)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "robertta"}, "model_type 'robertta' is not supported. Did you mean 'roberta'?"),
        ({"model_type": None}, "model_type None is not supported."),
        ({"model_type": "llama"}, "Valid choices: 'bert', 'roberta', 'xlm-roberta'."),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; the bert encoder here computes 'gelu'."),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"num_attention_heads": 4}, "hidden_size 6 is not a multiple of num_attention_heads 4."),
    ],
    ids=str,
)
def test_a_config_of_another_function(change: dict[str, Any], words: str, tensors: Tensors, write) -> None:
    directory = write(tensors, config(**change))
    assert message(directory).startswith(f"{directory / 'config.json'}: ") and words in message(directory)


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings"])
def test_a_missing_key(key: str) -> None:
    values = config()
    del values[key]
    with pytest.raises(UserError, match=f"^here/config.json: the key '{key}' is missing"):
        encoder_config(values, "here/config.json")


def test_roberta_positions_start_behind_those_of_padding() -> None:
    values = config(model_type="roberta", pad_token_id=1, max_position_embeddings=514)
    read = encoder_config(values, "config.json")
    assert (read.position_offset, read.max_positions) == (2, 512)
    assert hf_config(read, head="", pad_token_id=1, labels=())["max_position_embeddings"] == 514
    assert encoder_config(config(max_position_embeddings=512), "config.json").position_offset == 0

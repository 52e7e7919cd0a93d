import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import hypothesis
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies as st

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families.registry import FAMILIES
from jaxfm.families.tensors import CLASSIFIER
from jaxfm.hub.config_json import encoder_config, hf_config
from jaxfm.hub.weights import read_checkpoint, read_config, write_tensors

SHAPE = EncoderConfig(
    family="bert",
    vocab_size=11,
    hidden_size=6,
    num_layers=3,
    num_heads=2,
    ffn_size=10,
    max_positions=7,
    type_vocab_size=3,
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
    return hf_config(SHAPE, head="token_classes", pad_token_id=0, labels=LABELS) | changes


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    def write(tensors: Mapping[str, np.ndarray], values: Mapping[str, Any] | None = None) -> pathlib.Path:
        (tmp_path / "config.json").write_text(json.dumps(values or config()))
        safetensors.numpy.save_file(dict(tensors), tmp_path / "model.safetensors")
        return tmp_path

    return write


def in_memory(directory: pathlib.Path) -> Tensors:
    """All parameters, read: other files are written over these."""
    return read_checkpoint(directory).arrays()


def message(directory: pathlib.Path) -> str:
    with pytest.raises(UserError) as caught:
        read_checkpoint(directory)
    return str(caught.value)


def test_every_tensor_finds_its_place(tensors: Tensors, write) -> None:
    directory = write(tensors)
    read = read_checkpoint(directory)
    assert read.encoder == SHAPE == read_config(directory) and read.labels == LABELS and read.notes == ()
    assert read.heads == ("token_classes",)
    assert set(read.params) == {f"encoder/{name}" for name in FAMILIES["bert"].encoder} | set(CLASSIFIER)
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
    # 11 entries, and what pads them to a multiple of 128.
    words = tensors["bert.embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(read.params["encoder/embeddings/word/embedding"], np.pad(words, [(0, 117), (0, 0)]))
    types = tensors["bert.embeddings.token_type_embeddings.weight"]
    np.testing.assert_array_equal(read.params["encoder/embeddings/type/embedding"], types)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_writing_is_the_inverse_of_reading(family: str, tensors: Tensors, write, tmp_path: pathlib.Path) -> None:
    renamed = {name.replace("bert.", FAMILIES[family].prefix): value for name, value in tensors.items()}
    read = read_checkpoint(write(renamed, config(model_type=family, pad_token_id=1)))
    (tmp_path / "again").mkdir()
    write_tensors(tmp_path / "again" / "model.safetensors", read.encoder, "token_classes", read.params)
    written = safetensors.numpy.load_file(tmp_path / "again" / "model.safetensors")
    assert set(written) == set(renamed)
    for name, value in renamed.items():
        np.testing.assert_array_equal(written[name], value, err_msg=name)
    with safetensors.safe_open(tmp_path / "again" / "model.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
    values = hf_config(read.encoder, head="token_classes", pad_token_id=1, labels=LABELS)
    assert encoder_config(values, "config.json") == read.encoder


def test_writing_asks_for_every_parameter(tensors: Tensors, write, tmp_path: pathlib.Path) -> None:
    params = in_memory(write(tensors))
    del params["head/bias"]
    with pytest.raises(AssertionError, match="head/bias"):
        write_tensors(tmp_path / "x.safetensors", SHAPE, "token_classes", params)


def test_with_and_without_prefix_and_head(tensors: Tensors, write) -> None:
    full = in_memory(write(tensors))
    bare = {name.removeprefix("bert."): value for name, value in tensors.items() if not name.startswith("classifier")}
    read = read_checkpoint(write(bare | {"pooler.dense.weight": normal(6, 6), "pooler.dense.bias": normal(6)}))
    assert read.labels == () and read.notes == () and read.heads == ("pooler",)
    assert set(full) - set(read.params) == set(CLASSIFIER)
    assert set(read.params) - set(full) == {"pooler/kernel", "pooler/bias"}
    for name in set(read.params) & set(full):
        np.testing.assert_array_equal(read.params[name], full[name])


def masked_lm_head(tensors: Tensors) -> Tensors:
    """Takes the classifier away and puts BERT's masked-LM head there."""
    transform = "cls.predictions.transform"
    sizes = {f"{transform}.dense.weight": (6, 6), f"{transform}.dense.bias": (6,), "cls.predictions.bias": (11,)}
    sizes |= {f"{transform}.LayerNorm.weight": (6,), f"{transform}.LayerNorm.bias": (6,)}
    draw = np.random.default_rng(1)
    encoder = {name: value for name, value in tensors.items() if not name.startswith("classifier")}
    return encoder | {name: draw.normal(size=size).astype(np.float32) for name, size in sizes.items()}


MASKED_LM = (
    "decoder/bias",
    *(f"transform/{name}" for name in ("dense/bias", "dense/kernel", "norm/bias", "norm/scale")),
)


def test_a_masked_lm_head_and_the_copies_it_may_carry_of_tied_tensors(tensors: Tensors, write) -> None:
    tensors = masked_lm_head(tensors)
    copies = {
        "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
        "cls.predictions.decoder.bias": tensors["cls.predictions.bias"],
    }
    for carried in (tensors, tensors | copies):
        read = read_checkpoint(write(carried))
        assert read.labels == () and read.notes == () and read.heads == ("vocabulary",)
        assert sorted(name for name in read.params if not name.startswith("encoder/")) == sorted(MASKED_LM)
        dense = tensors["cls.predictions.transform.dense.weight"].T
        np.testing.assert_array_equal(read.params["transform/dense/kernel"], dense)
        scale = tensors["cls.predictions.transform.LayerNorm.weight"]
        np.testing.assert_array_equal(read.params["transform/norm/scale"], scale)
        np.testing.assert_array_equal(read.params["decoder/bias"], np.pad(tensors["cls.predictions.bias"], (0, 117)))


@pytest.mark.parametrize(
    ("name", "own", "shape"),
    [
        ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight", (11, 6)),
        ("cls.predictions.decoder.bias", "cls.predictions.bias", (11,)),
    ],
)
def test_a_masked_lm_head_with_a_decoder_of_its_own_is_not_used(
    name: str, own: str, shape: tuple[int, ...], tensors: Tensors, write
) -> None:
    read = read_checkpoint(write(masked_lm_head(tensors) | {name: normal(*shape)}))
    assert all(ours.startswith("encoder/") for ours in read.params)
    assert name in read.notes[0] and "cls.predictions.transform.dense.weight" in read.notes[0]
    assert read.notes[1] == f"vocabulary head not used: {name} differs from {own}; here they are one parameter"


def test_half_a_masked_lm_head_is_not_used(tensors: Tensors, write) -> None:
    tensors = masked_lm_head(tensors)
    del tensors["cls.predictions.bias"]
    read = read_checkpoint(write(tensors))
    assert all(ours.startswith("encoder/") for ours in read.params) and "transform.dense" in read.notes[0]
    assert read.heads == () and read.notes[1] == "vocabulary head not used: cls.predictions.bias missing"


def test_a_masked_lm_head_of_another_vocabulary(tensors: Tensors, write) -> None:
    text = message(write(masked_lm_head(tensors) | {"cls.predictions.bias": normal(12)}))
    assert text.endswith("'cls.predictions.bias' has shape [12], but config.json asks for [11].")


def test_a_head_without_label_names_is_not_used(tensors: Tensors, write) -> None:
    values = config()
    del values["id2label"]
    read = read_checkpoint(write(tensors, values))
    assert read.labels == read.heads == () and "head/kernel" not in read.params
    assert read.notes == ("weights not used: classifier.bias, classifier.weight",)


def test_labels_are_ordered_by_number(tensors: Tensors, write) -> None:
    names = {str(i): f"L{i}" for i in (10, 9, 2, 1, 0, 3, 4, 5, 6, 7, 8)}
    wide = tensors | {"classifier.weight": normal(11, 6), "classifier.bias": normal(11)}
    assert read_checkpoint(write(wide, config(id2label=names))).labels == tuple(f"L{i}" for i in range(11))


def test_names_of_the_first_bert_checkpoints(tensors: Tensors, write) -> None:
    expected = in_memory(write(tensors))
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
    expected = in_memory(write(tensors))
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
    assert (
        f"has {name} but no model.safetensors" in text
        and "reads safetensors only" in text
        and "convert it once" in text
    )


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


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_the_prefix_of_a_wrapper_is_taken_off_and_said(wrapper: str, tensors: Tensors, write) -> None:
    wanted = in_memory(write(tensors))
    for own in (tensors, {name.removeprefix("bert."): value for name, value in tensors.items()}):
        read = read_checkpoint(write({f"{wrapper}{name}": value for name, value in own.items()}))
        assert read.notes == (f"weights: all tensor names start with {wrapper!r}, which was taken off",)
        assert read.labels == LABELS and set(read.params) == set(wanted)
        for name, value in wanted.items():
            np.testing.assert_array_equal(read.params[name], value, err_msg=name)


def test_a_prefix_that_not_all_names_share_is_named(tensors: Tensors, write) -> None:
    wrapped = {f"module.{name}": value for name, value in tensors.items()} | {"loss.weight": normal(3)}
    text = message(write(wrapped))
    assert "are called 'module.' + 'embeddings.word_embeddings.weight', but other names do not" in text
    assert "(loss.weight)" in text


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weights_that_are_not_finite_are_refused(wrong: float, dtype: Any, tensors: Tensors, write) -> None:
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    tensors = {key: value.astype(dtype) for key, value in tensors.items()}
    tensors[name][3, 2] = wrong
    assert f"1 of the 60 numbers of {name!r} are NaN or infinite" in message(write(tensors))


def test_large_weights_are_finite(tensors: Tensors, write) -> None:
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    tensors[name] = np.full_like(tensors[name], 3e38)  # their sum is not
    assert read_checkpoint(write(tensors)).params["encoder/layers/ffn/up/kernel"][1].min() > 2e38


def test_quantised_weights_are_refused(tensors: Tensors, write) -> None:
    name = "bert.encoder.layer.0.output.dense.weight"
    tensors[name] = tensors[name].astype(np.int8)
    assert f"{name!r} holds int8 numbers" in message(write(tensors))


def test_a_tensor_in_two_files(tensors: Tensors, tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config()))
    first, *_ = tensors
    index = shard(tmp_path, tensors)
    names = sorted(set(index["weight_map"].values()))
    safetensors.numpy.save_file(
        {first: tensors[first], **safetensors.numpy.load_file(tmp_path / names[-1])}, tmp_path / names[-1]
    )
    assert f"the tensor {first!r} is there twice, in " in message(tmp_path)


def test_a_tensor_under_its_old_and_its_new_name(tensors: Tensors, write) -> None:
    tensors["bert.embeddings.LayerNorm.gamma"] = tensors["bert.embeddings.LayerNorm.weight"]
    assert "'bert.embeddings.LayerNorm.weight' is there twice, in model.safetensors." in message(write(tensors))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"vocab_size": ' + "9" * 5000 + "}"])
def test_a_config_json_that_python_cannot_read(text: str, tensors: Tensors, write) -> None:
    directory = write(tensors)
    (directory / "config.json").write_text(text)
    assert message(directory).startswith(f"{directory / 'config.json'}: is not JSON (")


def test_code_of_a_model_is_not_run_and_that_is_said(tensors: Tensors, write) -> None:
    auto_map = {"AutoModel": "modeling.Model"}
    directory = write(tensors, config(auto_map=auto_map))
    (directory / "modeling.py").write_text("raise RuntimeError('it was run')")
    read = read_checkpoint(directory)
    assert read.encoder == SHAPE and "auto_map" in read.notes[0] and "It is not run" in read.notes[0]
    text = message(write(tensors, config(auto_map=auto_map, model_type="mybert")))
    assert "model_type 'mybert' is not supported." in text and text.endswith("(auto_map) is never run.")


def test_a_hub_repository_without_safetensors_says_how_to_convert_it(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config()))
    assert "(pytorch_model.bin) are not fetched" in message(folder) and "convert it once" in message(folder)


@hypothesis.given(data=st.data())
@hypothesis.settings(
    deadline=None, max_examples=100, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_any_damage_to_the_file_is_noticed_or_only_changes_numbers(
    tensors: Tensors, write, tmp_path: pathlib.Path, data: st.DataObject
) -> None:
    path = write(tensors) / "model.safetensors"
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, header - 1) | st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255) | st.sampled_from(b"0123456789FI[]{},:"))
    path.write_bytes(content[: data.draw(st.sampled_from([None, None, len(content) // 2]))])
    try:
        read = read_checkpoint(tmp_path)
    except UserError as error:
        assert str(error).startswith(str(tmp_path))
        return
    assert all(np.isfinite(np.asarray(value)).all() for value in read.params.values())
    assert read.encoder == SHAPE

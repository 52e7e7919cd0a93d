"""The readers of what a model hub gives: weights, their index, configurations, tokenizers, modules of vectors."""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import safetensors.numpy

from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.corpora.portions import open_backend
from jaxfm.data.text.tokenization import check_tokenizer, encode_words, load_tokenizer
from jaxfm.errors import UserError
from jaxfm.families.models import parameter_shapes
from jaxfm.families.registry import FAMILIES, PAIRS, presets
from jaxfm.hub.config_json import hf_config, missing_class
from jaxfm.hub.image_processors import read_image_processor
from jaxfm.hub.multi_vector import read_multi_vector
from jaxfm.hub.pairs import read_pair_config
from jaxfm.hub.sentence_transformers import read_sentence_transformers
from jaxfm.hub.tensor_files import INDEX_FILE, SINGLE_FILE, check_finite, open_tensors
from jaxfm.hub.weights import read_checkpoint, read_config, write_tensors
from profiles.faults import mutations
from profiles.faults.readers import BYTES, JSON, TEXT, Reader, require_inside, texts

TINY = EncoderConfig(
    family="bert", vocab_size=40, hidden_size=8, num_layers=2, num_heads=2, ffn_size=16, max_positions=16
)
_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ada", "met", "bob", *"abcdefgh", "##a", "##b", "##d")
VOCABULARY = "\n".join(_PIECES) + "\n"


def params_of(encoder: EncoderConfig, kind: str = "token_classes", classes: int = 3) -> dict[str, np.ndarray]:
    """Returns path -> small numbers of every parameter of an encoder and a head."""
    shapes = parameter_shapes(encoder, kind, classes)
    return {path: np.full(shape, 0.01, np.float32) for path, shape in shapes.items()}


def write_checkpoint(folder: pathlib.Path) -> None:
    """Writes a Hugging Face directory of tiny weights and its tokenizer."""
    write_tensors(folder / SINGLE_FILE, TINY, "token_classes", params_of(TINY))
    labels = ("O", "B-PER", "I-PER")
    (folder / "config.json").write_text(
        json.dumps(hf_config(TINY, head="token_classes", pad_token_id=0, labels=labels))
    )
    write_vocabulary(folder)


def write_vocabulary(folder: pathlib.Path) -> None:
    """Writes the files of a WordPiece tokenizer."""
    (folder / "vocab.txt").write_text(VOCABULARY)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')


def _tensor_seeds() -> list[bytes]:
    kinds = {
        "a.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "LayerNorm.gamma": np.ones(4, np.float16),
        "n": np.zeros((), np.float64),
        "ids": np.arange(3, dtype=np.int64),
    }
    return [
        safetensors.numpy.save(kinds, {"format": "np"}),
        safetensors.numpy.save({"x": np.zeros((0, 3), np.float32), "y": np.ones((2, 2), np.bool_)}),
    ]


def _read_tensors(folder: pathlib.Path) -> None:
    tensors = open_tensors(folder)
    require_inside(folder, (tensor.path for tensor in tensors.values()))
    for name, tensor in tensors.items():
        check_finite(name, tensor.chunks(), str(folder))
        if tensor.shape:
            tensor.rows_f32(0, min(tensor.shape[0], 2))


def _index_seeds() -> list[bytes]:
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    tables = (
        {"a": names[0], "b": names[1]},
        {"a": names[0], "b": "../outside.safetensors"},
        {"a": names[0], "b": "/etc/passwd"},
        {"a": "up/outside.safetensors"},
    )
    return [json.dumps({"metadata": {"total_size": 96}, "weight_map": each}).encode() for each in tables]


def _write_shards(folder: pathlib.Path) -> None:
    for number, name in ((1, "a"), (2, "b")):
        content = {name: np.ones((3, 4), np.float32)}
        safetensors.numpy.save_file(content, folder / f"model-0000{number}-of-00002.safetensors")
    safetensors.numpy.save_file({"c": np.ones(2, np.float32)}, folder.parent / "outside.safetensors")
    (folder / "up").symlink_to("..")


@functools.cache
def _config_seeds() -> Sequence[bytes]:
    """Returns a config.json of each family, with and without the head that it has."""
    found = []
    shapes = {encoder.family: encoder for encoder in presets().values()}
    for name, encoder in shapes.items():
        for head in ("", "token_classes"):
            if name not in FAMILIES or missing_class(encoder, head):
                continue
            labels = ("O", "B-PER") if head else ()
            try:
                found.append(json.dumps(hf_config(encoder, head=head, pad_token_id=0, labels=labels)).encode())
            except (UserError, KeyError):
                continue
    for name in PAIRS:
        towers = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        image = {**towers, "image_size": 32, "patch_size": 8, "num_channels": 3}
        text = {**towers, "vocab_size": 96, "max_position_embeddings": 16}
        pair = {"model_type": name, "projection_dim": 16, "text_config": text, "vision_config": image}
        found.append(json.dumps(pair).encode())
    return found


def _read_config(folder: pathlib.Path) -> Any:
    pair = read_pair_config(folder)
    return read_config(folder) if pair is None else pair


@functools.cache
def _tiny_files() -> dict[str, bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_checkpoint(folder)
        load_tokenizer(folder).save_pretrained(folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _tiny(name: str) -> Any:
    return lambda: [_tiny_files()[name]]


def _write_tokenizer(folder: pathlib.Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes(_tiny_files()[name])


def _read_tokenizer(folder: pathlib.Path) -> None:
    tokenizer = load_tokenizer(folder)
    check_tokenizer(tokenizer, TINY, folder, needs_mask=True)
    encode_words(tokenizer, [["Ada", "met", "bob"], ["\u00e9", "x" * 200]])


_SENTENCE = "sentence_transformers.models."
_MODULES = (
    [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")],
    [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")],
    [("Transformer", ""), ("Pooling", "../1_Pooling")],
    [("Transformer", ""), ("Dense", "2_Dense"), ("MultiVectorMask", "1_Pooling"), ("Normalize", "")],
)


def _module_seeds() -> list[bytes]:
    listed = [
        [
            {"idx": number, "name": str(number), "path": path, "type": _SENTENCE + kind}
            for number, (kind, path) in enumerate(modules)
        ]
        for modules in _MODULES
    ]
    return [json.dumps(each).encode() for each in listed]


_MODULE_FILES = {
    "1_Pooling/config.json": '{"word_embedding_dimension": 4, "pooling_mode_mean_tokens": true, '
    '"include_prompt": true}',
    "2_Dense/config.json": '{"in_features": 4, "out_features": 3, "bias": false, "activation_function": '
    '"torch.nn.modules.linear.Identity"}',
    "config_sentence_transformers.json": '{"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": null, '
    '"similarity_fn_name": "cosine"}',
    "sentence_bert_config.json": '{"max_seq_length": 16, "do_lower_case": false}',
}
_MULTI = (
    '{"model_type": "ColBERT", "query_prefix": "[Q] ", "document_prefix": "[D] ", "query_length": 32, '
    '"document_length": 180, "attend_to_expansion_tokens": false, "do_query_expansion": true, '
    '"skiplist_words": ["!", "."]}'
)
_MULTI_LENGTHS = (
    '{"query_length": 8, "document_length": 16, "query_expansion": {"strategy": "fixed", "attend": true, "length": 8}}'
)


def _write_modules(modules: int) -> Any:
    def prepare(folder: pathlib.Path) -> None:
        for name, content in _MODULE_FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content)
        safetensors.numpy.save_file({"linear.weight": np.ones((3, 4), np.float32)}, folder / "2_Dense" / SINGLE_FILE)
        (folder / "modules.json").write_bytes(_module_seeds()[modules])

    return prepare


def _read_modules(folder: pathlib.Path) -> Any:
    return read_multi_vector(folder) or read_sentence_transformers(folder)


_PROCESSORS = (
    '{"do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], '
    '"image_std": [0.5, 0.5, 0.5], "do_resize": true, "size": {"height": 32, "width": 32}}',
    '{"do_normalize": true, "image_mean": 0.5, "image_std": 0.5, "size": {"shortest_edge": 40}, '
    '"do_center_crop": true, "crop_size": 32}',
)


def _backend(folder: pathlib.Path) -> None:
    open_backend(folder).encode_batch_fast(["Ada met bob"], add_special_tokens=False)


READERS = (
    Reader(
        "safetensors", SINGLE_FILE, _tensor_seeds, _read_tensors, (mutations.of_header, *BYTES, mutations.of_header),
        share=500,
    ),
    Reader("shard_index", INDEX_FILE, _index_seeds, _read_tensors, JSON, prepare=_write_shards, share=300),
    Reader("hub_config", "config.json", _config_seeds, _read_config, JSON, share=500),
    Reader(
        "checkpoint_config", "config.json", _tiny("config.json"), read_checkpoint, JSON,
        prepare=write_checkpoint, share=15,
    ),
    Reader(
        "checkpoint_weights", SINGLE_FILE, _tiny(SINGLE_FILE), read_checkpoint, (mutations.of_header, *BYTES),
        prepare=write_checkpoint, share=100,
    ),
    Reader(
        "tokenizer", "tokenizer.json", _tiny("tokenizer.json"), _read_tokenizer, JSON,
        prepare=_write_tokenizer, share=40,
    ),
    Reader(
        "tokenizer_config", "tokenizer_config.json", _tiny("tokenizer_config.json"), _read_tokenizer, JSON,
        prepare=_write_tokenizer, share=40,
    ),
    Reader("vocabulary", "vocab.txt", texts(VOCABULARY), _read_tokenizer, TEXT, prepare=write_vocabulary, share=40),
    Reader("tokenizer_backend", "tokenizer.json", _tiny("tokenizer.json"), _backend, JSON, share=60),
    Reader("modules", "modules.json", _module_seeds, _read_modules, JSON, prepare=_write_modules(1), share=200),
    Reader(
        "pooling", "1_Pooling/config.json", texts(_MODULE_FILES["1_Pooling/config.json"]), _read_modules, JSON,
        prepare=_write_modules(0), share=100,
    ),
    Reader(
        "dense", "2_Dense/config.json", texts(_MODULE_FILES["2_Dense/config.json"]), _read_modules, JSON,
        prepare=_write_modules(1), share=100,
    ),
    Reader(
        "sentence_config", "config_sentence_transformers.json",
        texts(_MODULE_FILES["config_sentence_transformers.json"], _MULTI), _read_modules, JSON,
        prepare=_write_modules(1), share=100,
    ),
    Reader(
        "sentence_lengths", "sentence_bert_config.json",
        texts(_MODULE_FILES["sentence_bert_config.json"], _MULTI_LENGTHS), _read_modules, JSON,
        prepare=_write_modules(3), share=100,
    ),
    Reader("image_processor", "preprocessor_config.json", texts(*_PROCESSORS), read_image_processor, JSON, share=200),
)  # fmt: skip

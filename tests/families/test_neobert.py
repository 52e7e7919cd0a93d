"""NeoBERT against a forward pass in torch, in float64: its class is not in transformers."""

# B batch, T tokens, N heads, H head dim, D model

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from jaxfm.errors import UserError
from jaxfm.families.models import parameter_shapes
from jaxfm.hub.config_json import encoder_config, hf_config
from jaxfm.hub.weights import read_checkpoint, write_tensors
from profiles import model_parity as parity

VALUES: dict[str, Any] = {
    "model_type": "neobert", "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 72, "max_length": parity.FULL, "norm_eps": 1e-5, "pad_token_id": 0,
}  # fmt: skip
LAYERS, HEADS, WIDTH, INNER = 3, 4, 32, 48


def tensors(head: str) -> dict[str, np.ndarray]:
    """A checkpoint under the names of the published one, with wide weights.

    Much wider ones make f32 and f64 differ by more than a fault would, as rounding grows from layer to layer.
    """
    draw = np.random.default_rng(7)
    shapes = {"encoder.weight": (90, WIDTH), "layer_norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        own = {
            "qkv": (3 * WIDTH, WIDTH), "wo": (WIDTH, WIDTH), "ffn.w12": (2 * INNER, WIDTH), "ffn.w3": (WIDTH, INNER),
            "attention_norm": (WIDTH,), "ffn_norm": (WIDTH,),
        }  # fmt: skip
        shapes |= {f"transformer_encoder.{layer}.{name}.weight": shape for name, shape in own.items()}
    prefix = "model." if head else ""
    found = {f"{prefix}{name}": shape for name, shape in shapes.items()}
    if head == "LMHead":
        found |= {"decoder.weight": (90, WIDTH), "decoder.bias": (90,)}
    if head == "ForSequenceClassification":
        found |= {
            "dense.weight": (WIDTH, WIDTH),
            "dense.bias": (WIDTH,),
            "classifier.weight": (5, WIDTH),
            "classifier.bias": (5,),
        }
    return {name: ("norm" in name) + 0.2 * draw.normal(size=shape).astype(np.float32) for name, shape in found.items()}


def expected(weights: dict[str, np.ndarray], arrays: dict[str, np.ndarray], head: str) -> np.ndarray:
    """Their forward pass: per-head q, k, v side by side, neighbouring pairs turned as complex numbers."""
    torch = pytest.importorskip("torch")
    given = {name.removeprefix("model."): torch.from_numpy(value).double() for name, value in weights.items()}
    functional = torch.nn.functional

    def norm(x: Any, name: str) -> Any:
        return functional.rms_norm(x, (WIDTH,), given[f"{name}.weight"], 1e-5)

    tokens, mask = torch.from_numpy(arrays["input_ids"]), torch.from_numpy(arrays["attention_mask"]).bool()
    batch, length = tokens.shape
    size = WIDTH // HEADS
    angles = torch.outer(torch.arange(length).double(), 1.0 / 10_000.0 ** (torch.arange(0, size, 2).double() / size))
    turns = torch.polar(torch.ones_like(angles), angles)[None, :, None]

    def turned(x: Any) -> Any:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * turns).flatten(-2)

    x = given["encoder.weight"][tokens]
    for layer in range(LAYERS):
        name = f"transformer_encoder.{layer}"
        qkv = (norm(x, f"{name}.attention_norm") @ given[f"{name}.qkv.weight"].T).view(batch, length, HEADS, 3 * size)
        q, k, v = qkv.chunk(3, dim=-1)
        q, k, v = (each.transpose(1, 2) for each in (turned(q), turned(k), v))
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = x + seen.transpose(1, 2).reshape(batch, length, WIDTH) @ given[f"{name}.wo.weight"].T
        one, other = (norm(x, f"{name}.ffn_norm") @ given[f"{name}.ffn.w12.weight"].T).chunk(2, dim=-1)
        x = x + (functional.silu(one) * other) @ given[f"{name}.ffn.w3.weight"].T
    x = norm(x, "layer_norm")
    if head == "LMHead":
        x = x @ given["decoder.weight"].T + given["decoder.bias"]
    if head == "ForSequenceClassification":
        pooled = torch.tanh(x[:, 0] @ given["dense.weight"].T + given["dense.bias"])
        x = pooled @ given["classifier.weight"].T + given["classifier.bias"]
    return x.numpy()


def write(folder: pathlib.Path, head: str) -> dict[str, np.ndarray]:
    folder.mkdir()
    weights = tensors(head)
    safetensors.numpy.save_file(weights, folder / "model.safetensors")
    named = {"id2label": dict(enumerate(parity.LABELS))} if head == "ForSequenceClassification" else {}
    (folder / "config.json").write_text(json.dumps(VALUES | named))
    return weights


def test_states_and_logits_and_the_way_back(tmp_path: pathlib.Path) -> None:
    arrays = parity.texts("bert", vocabulary=90)
    kinds = {"": "", "vocabulary": "LMHead", "sequence_classes": "ForSequenceClassification"}
    weights = {kind: write(tmp_path / f"theirs_{kind}", head) for kind, head in kinds.items()}
    read = {kind: read_checkpoint(tmp_path / f"theirs_{kind}") for kind in kinds}
    shared = read[""].arrays()
    assert read[""].encoder.ffn_size == INNER and not read["vocabulary"].notes
    for kind, values in parity.our_outputs(read, parity.batch_of(arrays)).items():
        # All heads are computed over the encoder of the bare file.
        given = weights[kind] | {(f"model.{name}" if kind else name): value for name, value in weights[""].items()}
        theirs = expected(given, arrays, kinds[kind])
        assert theirs.std() > 0.1
        for text, _, value in parity.by_text(values, arrays, whole=kind == "sequence_classes"):
            wanted = theirs[text] if kind == "sequence_classes" else theirs[text, : len(value)]
            np.testing.assert_allclose(value, wanted, atol=1e-4)
    for kind, checkpoint in read.items():
        path = tmp_path / f"{kind}.safetensors"
        names = parameter_shapes(checkpoint.encoder, kind, 5) if kind else shared
        write_tensors(path, checkpoint.encoder, kind, {name: checkpoint.params[name] for name in names})
        again = safetensors.numpy.load_file(path)
        assert set(again) == set(weights[kind])
        for name, value in again.items():
            np.testing.assert_array_equal(value, weights[kind][name], err_msg=name)


def test_config_json_both_ways() -> None:
    encoder = encoder_config(VALUES, "config.json")
    assert (encoder.ffn_size, encoder.max_positions, encoder.tied_decoder) == (48, parity.FULL, False)
    written = hf_config(encoder, head="vocabulary", pad_token_id=0, labels=())
    assert written["architectures"] == ["NeoBERTLMHead"] and written["intermediate_size"] == 72
    assert hf_config(encoder, pad_token_id=0, labels=())["architectures"] == ["NeoBERT"]
    assert encoder_config(written, "again") == encoder
    # Sizes that are no multiple of 8 are rounded up, as in the published code.
    assert encoder_config(VALUES | {"intermediate_size": 100}, "").ffn_size == 72


@pytest.mark.parametrize(
    ("change", "words"), [({"num_attention_heads": 32}, "must be even"), ({"intermediate_size": 1}, "two thirds")]
)
def test_sizes_that_cannot_be(change: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        encoder_config(VALUES | change, "config.json")

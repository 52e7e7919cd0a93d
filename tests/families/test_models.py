import dataclasses

import pytest

from jaxfm.families.models import KINDS, encoder_shapes, parameter_shapes
from jaxfm.families.registry import FAMILIES, preset
from tests import tiny

PLAIN = tiny.ENCODER  # width 32, two heads, two layers, 96 entries of the vocabulary
MODERN = dataclasses.replace(
    preset("modern_base"), vocab_size=96, hidden_size=32, num_layers=2, num_heads=2, ffn_size=48
)
DENSE = {"dense/kernel": (32, 32), "dense/bias": (32,)}
HEADS = {
    "token_classes": {"head/kernel": (32, 5), "head/bias": (5,)},
    "sequence_classes": {"head/kernel": (32, 5), "head/bias": (5,), "pooler/kernel": (32, 32), "pooler/bias": (32,)},
    "pooler": {"pooler/kernel": (32, 32), "pooler/bias": (32,)},
    "image_classes": {"head/kernel": (32, 5), "head/bias": (5,)},
    "objects": {
        **{f"{part}/{layer}/kernel": (32, 32) for part in ("classes", "boxes") for layer in ("first", "second")},
        **{f"{part}/{layer}/bias": (32,) for part in ("classes", "boxes") for layer in ("first", "second")},
        "head/kernel": (32, 6), "head/bias": (6,), "box_head/kernel": (32, 4), "box_head/bias": (4,),
    },
    "sound_classes": {
        "head/kernel": (32, 5), "head/bias": (5,), "head_norm/scale": (32,), "head_norm/bias": (32,),
    },
    "spans": {"spans/kernel": (32, 2), "spans/bias": (2,)},
    "vocabulary": {
        **{f"transform/{name}": shape for name, shape in DENSE.items()},
        "transform/norm/scale": (32,), "transform/norm/bias": (32,), "decoder/bias": (128,),
    },
    "replaced_tokens": {
        **{f"detector/{name}": shape for name, shape in DENSE.items()},
        "detector/head/kernel": (32, 1), "detector/head/bias": (1,),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_of_a_head(kind: str) -> None:
    encoder = encoder_shapes(PLAIN)
    assert encoder["encoder/embeddings/word/embedding"] == (128, 32)
    assert encoder["encoder/layers/attention/query/kernel"] == (2, 32, 2, 16)
    assert encoder["encoder/layers/ffn/down/kernel"] == (2, 64, 32)
    assert dict(parameter_shapes(PLAIN, kind, 5)) == encoder | HEADS[kind]


def test_classes_after_a_transform_have_no_pooler() -> None:
    shapes = {kind: parameter_shapes(MODERN, kind, 5) for kind in ("token_classes", "sequence_classes")}
    assert shapes["token_classes"] == shapes["sequence_classes"]
    assert {path for path in shapes["token_classes"] if not path.startswith("encoder/")} == {
        "head/kernel", "head/bias", "transform/dense/kernel", "transform/norm/scale",
    }  # fmt: skip


def test_what_adapts_an_encoder_is_left_out() -> None:
    adapted = dataclasses.replace(PLAIN, lora_rank=2, lora_targets=("query",), adapter_size=4, prefix_length=3)
    assert parameter_shapes(adapted, "vocabulary") == parameter_shapes(PLAIN, "vocabulary")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_head_of_a_family_has_a_model(name: str) -> None:
    assert set(FAMILIES[name].heads) <= set(KINDS)

"""Every family and head against transformers: states and logits, padded, of full length and packed, in and out.

The same without torch: tests/hub/family_outputs.npz holds transformers' outputs for parameters that are drawn here, as
`python -m tests.hub.test_family_parity` writes them.
"""

import json
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
import pytest

from jaxfm.core.encoder_config import has_padded_rows
from jaxfm.families.models import parameter_shapes
from jaxfm.families.registry import FAMILIES
from jaxfm.hub.config_json import encoder_config
from jaxfm.hub.weights import Checkpoint
from profiles import model_parity as parity

FROZEN = pathlib.Path(__file__).parent / "family_outputs.npz"
# Of which the frozen outputs are: enough to see every position of a text of full length and of one that is packed.
PLACES = (0, 3, 17, 23)
# Configs of a family beside its usual one, by what they are about.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("bert", {"hidden_act": "relu"}),
    "gelu_new": ("bert", {"hidden_act": "gelu_new"}),
    "silu": ("roberta", {"hidden_act": "silu"}),
    "untied bert": ("bert", {"tie_word_embeddings": False}),
    "untied electra": ("electra", {"tie_word_embeddings": False, "hidden_act": "relu"}),
    "untied albert": ("albert", {"tie_word_embeddings": False, "num_hidden_groups": 1}),
    "untied modernbert": ("modernbert", {"tie_word_embeddings": False, "decoder_bias": False}),
    "biases of modernbert": (
        "modernbert",
        {"attention_bias": True, "mlp_bias": False, "norm_bias": True, "classifier_bias": True},
    ),
    "activations of modernbert": ("modernbert", {"hidden_activation": "silu", "classifier_activation": "relu"}),
    "causal bert": ("bert", {"is_decoder": True}),
    "causal roberta": ("roberta", {"is_decoder": True}),
    "causal electra": ("electra", {"is_decoder": True}),
    "wide electra": ("electra", {"embedding_size": 32}),
    "gelu_new in distilbert": ("distilbert", {"activation": "gelu_new"}),
    "deberta with maps of positions": (
        "deberta-v2",
        {"share_att_key": False, "norm_rel_ebd": "none", "position_buckets": -1, "max_relative_positions": 12},
    ),
    "deberta with one term, positions and types": (
        "deberta-v2",
        {"pos_att_type": "c2p", "position_biased_input": True, "type_vocab_size": 2, "pooler_hidden_act": "tanh"},
    ),
    "deberta from position to content": ("deberta-v2", {"pos_att_type": ["p2c"], "share_att_key": False}),
    "tied eurobert": ("eurobert", {"tie_word_embeddings": True, "mlp_bias": True, "attention_bias": True}),
    "wide heads of eurobert": ("eurobert", {"head_dim": 16, "num_key_value_heads": 4, "rope_theta": 300.0}),
    "esm 1b": (
        "esm",
        {
            "position_embedding_type": "absolute", "emb_layer_norm_before": True, "token_dropout": False,
            "max_position_embeddings": parity.FULL + 2,
        },
    ),
    "untied esm": ("esm", {"tie_word_embeddings": False}),
    "global gemma": ("gemma3_text", {"sliding_window_pattern": 1, "num_key_value_heads": 1}),
}  # fmt: skip


def assert_same(results: dict[str, dict[str, Any]]) -> None:
    for kind, found in results.items():
        assert found["spread"] > 0.1, kind
        assert found["in"] < 1e-4 and found["packed"] < 1e-4, (kind, found)
        assert found["out"] == 0.0 and found["bytes"], (kind, found)
        # What has no place here: constants of ESM's class, its head of contacts, a pooler that was not trained.
        known = ("contact_head.", "rotary_embeddings.", "pooler.")
        assert all(any(part in name for part in known) for name in found["left out"] + found["new"]), (kind, found)


@pytest.mark.parametrize("family", parity.CASES)
def test_states_and_logits_are_those_of_transformers(family: str, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("torch", reason="torch is the oracle; it is installed with the test extra on Python 3.11")
    assert_same(parity.compare(family, tmp_path))


def test_every_family_has_a_case() -> None:
    # NeoBERT is no class of transformers: tests/families/test_neobert.py has its oracle. Families of images, and the
    # text towers beside them, and that of sound have theirs in test_image_parity.py, test_detector_parity.py,
    # test_pair_parity.py and test_sound_parity.py.
    images = {"vit", "vit_mae", "deit", "dinov2", "dinov2_with_registers", "clip", "siglip"}
    images |= {"yolos", "audio-spectrogram-transformer"}
    towers = {f"{model}_{tower}_model" for model in ("clip", "siglip") for tower in ("vision", "text")}
    assert set(parity.CASES) == set(FAMILIES) - {"neobert"} - images - towers


@pytest.mark.slow
@pytest.mark.parametrize(("family", "changes"), VARIANTS.values(), ids=VARIANTS)
def test_variants_are_computed_as_transformers_does(
    family: str, changes: dict[str, Any], tmp_path: pathlib.Path
) -> None:
    pytest.importorskip("torch", reason="torch is the oracle; it is installed with the test extra on Python 3.11")
    assert_same(parity.compare(family, tmp_path, **changes))


def drawn(family: str) -> tuple[dict[str, Checkpoint], dict[str, np.ndarray]]:
    """Checkpoints of all heads with numbers of numpy's generator, which are the same everywhere, and texts."""
    case = parity.CASES[family]
    values = {"model_type": family, "vocab_size": parity.VOCABULARY, "pad_token_id": case.pad, **case.values}
    values |= parity.SIZES if family != "distilbert" else {}
    encoder = encoder_config(values, family)
    draw = np.random.default_rng(5)
    shared: dict[str, np.ndarray] = {}
    read = {}
    for kind in parity.heads(FAMILIES[family]):
        shapes = parameter_shapes(encoder, kind or "token_classes", len(parity.LABELS))
        shapes = {path: shape for path, shape in shapes.items() if kind or path.startswith("encoder/")}
        params = {}
        for path, shape in sorted(shapes.items()):
            if path in shared:
                params[path] = shared[path]
                continue
            mean = 1.0 - encoder.norm_scale_offset if path.endswith("scale") else 0.0
            value = (mean + 0.3 * draw.normal(size=shape)).astype(np.float32)
            if has_padded_rows(path):
                value[encoder.vocab_size :] = 0
            params[path] = value
        shared |= {path: value for path, value in params.items() if path.startswith("encoder/")}
        read[kind] = Checkpoint(encoder, params, (kind,), (), ())
    return read, parity.texts(family, encoder.type_vocab_size)


@pytest.mark.parametrize("family", parity.CASES)
def test_states_and_logits_are_those_that_transformers_gave(family: str) -> None:
    read, arrays = drawn(family)
    frozen = np.load(FROZEN)
    for kind, values in parity.our_outputs(read, parity.batch_of(arrays)).items():
        whole = kind == "sequence_classes"
        seen = set()
        for text, _, value in parity.by_text(values, arrays, whole=whole):
            expected = frozen[f"{family}/{kind}"][text]
            places = [index for index, place in enumerate(PLACES) if place < len(value)] if not whole else []
            found = value if whole else value[[PLACES[index] for index in places]]
            np.testing.assert_allclose(
                found, expected if whole else expected[places], atol=1e-4, err_msg=f"{kind} {text}"
            )
            seen.add(text)
        assert seen == set(range(len(parity.LENGTHS)))


def freeze() -> None:
    """Writes FROZEN: what transformers computes of the drawn parameters."""
    import transformers

    found = {}
    for family in parity.CASES:
        read, arrays = drawn(family)
        for kind, checkpoint in read.items():
            with tempfile.TemporaryDirectory() as folder:
                model = parity.opened(family, kind, checkpoint, pathlib.Path(folder))
                outputs = parity.their_outputs(model, arrays)
            places = [place for place in PLACES if place < outputs.shape[1]]
            found[f"{family}/{kind}"] = outputs if kind == "sequence_classes" else outputs[:, places]
    np.savez_compressed(FROZEN, **found)
    print(json.dumps({"transformers": transformers.__version__, "bytes": FROZEN.stat().st_size}))


if __name__ == "__main__":
    sys.exit(freeze())

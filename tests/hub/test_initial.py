import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from jaxfm.config import ModelConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.initial import Origin
from jaxfm.errors import UserError
from jaxfm.families.registry import FAMILIES, preset
from jaxfm.hub.config_json import hf_config
from jaxfm.hub.initial import resolve

SHAPE = EncoderConfig(
    family="bert", vocab_size=9, hidden_size=4, num_layers=1, num_heads=2, ffn_size=6, max_positions=5, dropout=0.3
)


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    """Bare BERT weights of ones."""
    values = hf_config(SHAPE, pad_token_id=0, labels=())
    (tmp_path / "config.json").write_text(json.dumps(values))
    sizes = {"word": (9, 4), "position": (5, 4), "token_type": (2, 4)}
    tensors: dict[str, np.ndarray] = {
        f"embeddings.{name}_embeddings.weight": np.ones(size, np.float32) for name, size in sizes.items()
    }
    layer = {"intermediate.dense": (6, 4), "output.dense": (4, 6), "attention.output.dense": (4, 4)}
    layer |= {f"attention.self.{name}": (4, 4) for name in ("query", "key", "value")}
    for name, size in layer.items():
        tensors[f"encoder.layer.0.{name}.weight"] = np.ones(size, np.float32)
        tensors[f"encoder.layer.0.{name}.bias"] = np.ones(size[:1], np.float32)
    for name in ("embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"):
        for part in ("weight", "bias"):
            tensors[f"{name}.LayerNorm.{part}"] = np.ones(4, np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_weights_of_a_directory(directory: pathlib.Path) -> None:
    initial = resolve(ModelConfig(init=f"dir:{directory}"))
    assert initial.encoder == SHAPE and initial.labels == () and initial.tokenizer == directory
    assert set(initial.params) == {f"encoder/{name}" for name in FAMILIES["bert"].encoder}
    assert initial.notes == (f"weights: dir:{directory} (bert)",)


def test_weights_of_the_hub_say_their_commit(directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(directory / "cache"))
    commit = "0123456789abcdef" * 2 + "01234567"
    folder = directory / "cache" / "models--owner--name"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "v1").write_text(commit)
    for name in ("config.json", "model.safetensors"):
        (directory / name).rename(snapshot / name)
    initial = resolve(ModelConfig(init="hf:owner/name@v1"))
    assert initial.encoder == SHAPE and initial.tokenizer == snapshot
    assert initial.notes == (f"weights: hf:owner/name@v1 at commit {commit} (bert)",)
    assert initial.origin == Origin("hf:owner/name@v1", commit, "", SHAPE.vocab_size)
    assert resolve(ModelConfig(init=f"dir:{snapshot}", tokenizer="hf:owner/name@v1")).tokenizer == snapshot


def test_the_tokenizer_may_lie_elsewhere(directory: pathlib.Path) -> None:
    (directory / "tokens").mkdir()
    config = ModelConfig(init=f"dir:{directory}", tokenizer=f"dir:{directory}/tokens")
    assert resolve(config).tokenizer == directory / "tokens"
    with pytest.raises(UserError, match=r"config\.model\.tokenizer: .*no directory"):
        resolve(ModelConfig(init=f"dir:{directory}", tokenizer=f"dir:{directory}/none"))


def test_dropout_of_the_config_takes_the_place_of_the_weights_own(directory: pathlib.Path) -> None:
    kept, changed, off = (resolve(ModelConfig(init=f"dir:{directory}", dropout=d)).encoder for d in (None, 0.25, 0.0))
    assert (kept.dropout, kept.attention_dropout) == (0.3, 0.1)
    assert (changed.dropout, changed.attention_dropout) == (0.25, 0.25)
    assert (off.dropout, off.attention_dropout) == (0.0, 0.0)


def test_scratch(tmp_path: pathlib.Path) -> None:
    initial = resolve(ModelConfig(init="scratch", preset="bert_tiny", tokenizer=f"dir:{tmp_path}"))
    assert initial.encoder == preset("bert_tiny") and initial.params == {} and initial.labels == ()
    assert initial.tokenizer == tmp_path and "bert_tiny" in initial.notes[0]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (ModelConfig(), "needs config.model.preset"),
        (ModelConfig(tokenizer="dir:."), "needs config.model.preset"),
        (ModelConfig(preset="bert_tini", tokenizer="dir:."), "Did you mean 'bert_tiny'?"),
        (ModelConfig(init="dir:.", preset="bert_tiny"), "the shape comes from the weights of 'dir:.'"),
        (ModelConfig(init="dir:/no/where"), "config.model.init: 'dir:/no/where': there is no directory"),
    ],
    ids=str,
)
def test_contradictions(config: ModelConfig, words: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve(config)
    assert words in str(caught.value)

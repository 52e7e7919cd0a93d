"""Whole pairs of towers: a run that starts from one, is trained, asked and exported."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.core.spec import SPEC_FILE
from jaxfm.errors import UserError
from jaxfm.families.registry import PAIRS, preset
from jaxfm.hub import initial as hub_initial
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from jaxfm.tasks.image_text.spec import ImageTextConfig
from jaxfm.tasks.image_text.towers import towers_of
from jaxfm.tasks.registry import create
from jaxfm.training.initial import resolve
from tests import tiny
from tests.hub import pairs
from tests.tasks.image_text.test_task import PROMPT, write_pairs

torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed with the test extra on Python 3.11")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()


def config(folder: pathlib.Path, model_type: str, **overrides: Any) -> Config:
    """A run over pictures and their captions that starts from a small pair."""
    if not (folder / model_type).exists():
        pairs.saved(model_type, folder / model_type)
    if not (folder / "pairs").exists():
        write_pairs(folder / "pairs")
    values = {
        "model.init": f"dir:{folder / model_type}", "model.preset": "", "data.source": f"csv:{folder / 'pairs'}",
        "task.label_prompt": PROMPT, "eval.metric": "recall@1", "train.steps": 3, "optim.learning_rate": 1e-4,
    }  # fmt: skip
    named = {name.replace(".", "__"): each for name, each in values.items()}
    return tiny.replaced(tiny.image_config(folder, "image_text"), **{**named, **overrides})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("pairs")


@pytest.mark.parametrize(
    "model_type", [pytest.param(name, marks=() if name == "siglip" else pytest.mark.slow) for name in PAIRS]
)
def test_a_run_from_a_pair_is_written_as_its_class(
    model_type: str, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    train(config(folder, model_type), tmp_path / "run")
    spec = json.loads((tmp_path / "run" / SPEC_FILE).read_text())
    usual = PAIRS[model_type].towers(preset_of(model_type, "image"), preset_of(model_type, "text"))
    assert spec["dimension"] == (24 if model_type == "clip" else 32)
    assert spec["loss"] == ("sigmoid" if usual.bias else "infonce") and spec["text_pooling"] == "last"
    kept = json.loads((tmp_path / "run" / "config.json").read_text())
    assert kept["config"]["task"]["image_pooling"] == spec["image_pooling"] == usual.image_pooling
    export(tmp_path / "run", tmp_path / "hf")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    assert type(theirs).__name__ == PAIRS[model_type].architecture
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ours = Model(tmp_path / "run")
    pixels = np.random.default_rng(1).integers(0, 256, (2, pairs.SIDE, pairs.SIDE, 3)).astype(np.uint8)
    texts = ["saw the near town left", "a town"]
    scaled = (pixels / 255 - np.asarray(pairs.LAYOUT.mean)) / np.asarray(pairs.LAYOUT.std)
    masked = PAIRS[model_type].masks_padding
    encoded = tokenizer(texts, padding=True if masked else "max_length", truncation=True, return_tensors="pt")
    assert ("attention_mask" in encoded) == masked and not masked == (encoded["input_ids"].shape[1] == 20)
    with torch.no_grad():
        values = torch.tensor(scaled.transpose(0, 3, 1, 2), dtype=torch.float32)
        found = theirs(pixel_values=values, **encoded)
    np.testing.assert_allclose(ours.embed_images(list(pixels)), found.image_embeds.numpy(), atol=2e-5)
    np.testing.assert_allclose(ours.embed(texts), found.text_embeds.numpy(), atol=2e-5)
    weights = hub_initial.resolve_pair(config(folder, model_type).model)[0].arrays()
    again = hub_initial.resolve_pair(
        tiny.replaced(config(folder, model_type), model__init=f"dir:{tmp_path / 'hf'}").model
    )
    moved = {name for name, value in again[0].arrays().items() if not np.array_equal(value, weights[name])}
    assert {"encoder/embeddings/kernel", "text_encoder/embeddings/word/embedding", "log_scale"} <= moved


def preset_of(model_type: str, side: str) -> Any:
    """A shape of the pair's family."""
    return next(iter(getattr(PAIRS[model_type], side).presets.values()))


def test_a_run_starts_from_all_of_a_pair(folder: pathlib.Path) -> None:
    for model_type in PAIRS:
        made = config(folder, model_type)
        task, loaded = create(made, resolve(made.model))
        pair = hub_initial.resolve_pair(made.model)[0]
        assert set(loaded) == set(pair.params)
        assert not any("weights not used" in note for note in task.notes)
        # The other loss has, or lacks, a bias.
        other = tiny.replaced(made, task__loss="infonce" if pair.towers.bias else "sigmoid")
        assert set(create(other, resolve(other.model))[1]) == set(pair.params) - {"bias"}


@pytest.mark.parametrize(
    ("model_type", "changes", "words"),
    [
        (
            "clip",
            {"task__image_pooling": "mean"},
            r"image_pooling: is 'mean', but the weights have 'cls'. Leave it auto",
        ),
        ("siglip", {"task__dimension": 16}, r"task\.dimension: is 16, but the weights have 32. Leave it 0"),
        ("siglip", {"task__text_length": 12}, r"text_length: is 12, but .* padded to 20 tokens. Take 20"),
    ],
)
def test_what_contradicts_a_pair(folder: pathlib.Path, model_type: str, changes: Any, words: str) -> None:
    made = config(folder, model_type, **changes)
    with pytest.raises(UserError, match=words):
        create(made, resolve(made.model))


def test_a_text_tower_is_not_an_encoder_of_texts_for_other_tasks(tmp_path: pathlib.Path) -> None:
    for pair, words in zip(
        PAIRS.values(), ("see only those before them", "text tower of a pair: it reads padding"), strict=True
    ):
        name = next(iter(pair.text.presets))
        made = tiny.config(tmp_path, model__init="scratch", model__preset=name)
        with pytest.raises(UserError, match=f"config.model.preset: '{name}' .*({words})"):
            resolve(made.model)
        assert hub_initial.resolve(made.model, tower=True).encoder == preset(name)


def test_towers_of_a_config() -> None:
    (clip, siglip), plain, bert = PAIRS.values(), preset("vit_nano"), preset("bert_tiny")
    image, text = next(iter(siglip.image.presets.values())), next(iter(siglip.text.presets.values()))
    from_scratch = towers_of(ImageTextConfig(), image, text, None)
    assert from_scratch == siglip.towers(image, text) and not from_scratch.image_projection
    infonce = towers_of(ImageTextConfig(loss="infonce"), image, text, None)
    assert not infonce.bias and infonce.text_bias
    mean = towers_of(ImageTextConfig(image_pooling="mean", dimension=64), image, text, None)
    assert mean.image_projection and not mean.text_bias and mean.dimension == 64
    usual = towers_of(ImageTextConfig(), plain, bert, None)
    assert (usual.image_pooling, usual.text_pooling, usual.dimension, usual.bias) == ("cls", "mean", 256, False)
    causal = next(iter(clip.text.presets.values()))
    assert towers_of(ImageTextConfig(), plain, causal, None).text_pooling == "last"
    with pytest.raises(UserError, match="the first token of this text encoder sees no other. Take last, or mean"):
        towers_of(ImageTextConfig(text_pooling="cls"), plain, causal, None)
    with pytest.raises(UserError, match="image_pooling: is 'cls', but there is no class token. Take mean, or map"):
        towers_of(ImageTextConfig(), image, bert, None)

"""transformers and torch as the oracle: both towers, what lies between them, and files both ways."""

import json
import pathlib
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.data.images.rows import build_image_rows
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from jaxfm.families.registry import PAIRS
from jaxfm.hub.pairs import PairCheckpoint, read_pair, read_pair_config, write_pair, write_pair_tensors
from jaxfm.models.inputs.patches import PatchInputs
from jaxfm.models.two_towers import TwoTowers
from jaxfm.parallel import mesh as meshes
from tests.hub import pairs

torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed with the test extra on Python 3.11")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (len(pairs.TEXTS), pairs.SIDE, pairs.SIDE, 3)).astype(np.uint8)


def token_rows(pair: PairCheckpoint, tokenizer: Any) -> dict[str, jax.Array]:
    """Texts as rows, by hand: SigLIP's are padded and padding is read."""
    length = pair.towers.text.max_positions
    tokens = np.full((len(pairs.TEXTS), length), tokenizer.pad_token_id, np.int32)
    segments = np.zeros_like(tokens)
    for row, text in enumerate(pairs.TEXTS):
        ids = tokenizer(text, truncation=True, max_length=length)["input_ids"]
        tokens[row, : len(ids)] = ids
        segments[row, : None if pair.towers.text.reads_padding else len(ids)] = 1
    positions = np.arange(length, dtype=np.int32) * segments
    return {"tokens": jnp.asarray(tokens), "segment_ids": jnp.asarray(segments), "positions": jnp.asarray(positions)}


def ours(pair: PairCheckpoint, tokenizer: Any) -> dict[str, np.ndarray]:
    towers = pair.towers

    def make() -> TwoTowers:
        rngs = nnx.Rngs(0)
        inputs = PatchInputs(towers.image, DEFAULT_BUILD.dtype, rngs, mean=pairs.LAYOUT.mean, std=pairs.LAYOUT.std)
        return TwoTowers(towers, DEFAULT_BUILD, rngs, inputs=inputs)

    graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    params = flax.traverse_util.unflatten_dict(pair.arrays(), sep="/")
    model = nnx.merge(graphdef, nnx.State(jax.tree.map(lambda value: nnx.Param(jnp.asarray(value)), params)))
    stored = [StoredImage(f"image {index}", array=each) for index, each in enumerate(images())]
    rows = build_image_rows(
        stored, rule="squash", side=pairs.SIDE, patch=2, channels=3, prefix=towers.image.patches.prefix
    )
    batch = {name: jnp.asarray(values) for name, values in rows.take(np.arange(len(rows))).items()}
    of_images, of_texts = (
        np.asarray(x) for x in (model.image_vectors(batch), model.text_vectors(token_rows(pair, tokenizer)))
    )
    bias = 0.0 if model.bias is None else float(model.bias[...])
    logits = float(model.scale) * of_images @ of_texts.T + bias
    return {"image_embeds": of_images, "text_embeds": of_texts, "logits_per_image": logits}


def theirs(model: Any, tokenizer: Any, length: int) -> dict[str, np.ndarray]:
    scaled = (images() / 255 - np.asarray(pairs.LAYOUT.mean)) / np.asarray(pairs.LAYOUT.std)
    pixels = torch.tensor(scaled.transpose(0, 3, 1, 2), dtype=torch.float32)
    masked = PAIRS[model.config.model_type].masks_padding
    texts = tokenizer(
        list(pairs.TEXTS), padding=True if masked else "max_length", max_length=length, truncation=True,
        return_tensors="pt", return_attention_mask=masked, return_token_type_ids=False,
    )  # fmt: skip
    with torch.no_grad():
        found = model(pixel_values=pixels, **texts)
    return {name: getattr(found, name).numpy() for name in ("image_embeds", "text_embeds", "logits_per_image")}


def assert_same(mine: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for name, value in other.items():
        assert value.std(axis=0).max() > 1e-3, name  # rows differ by far more than what is allowed below
        np.testing.assert_allclose(mine[name], value, atol=2e-5, rtol=2e-5, err_msg=name)


@pytest.mark.parametrize("model_type", PAIRS)
def test_vectors_logits_and_files(model_type: str, tmp_path: pathlib.Path) -> None:
    model, tokenizer = pairs.saved(model_type, tmp_path / "theirs")
    pair = read_pair(tmp_path / "theirs")
    assert pair is not None and pair.notes == ()
    length = pair.towers.text.max_positions
    assert_same(ours(pair, tokenizer), theirs(model, tokenizer, length))

    (tmp_path / "ours").mkdir()
    write_pair_tensors(tmp_path / "ours" / "model.safetensors", pair.towers, pair.arrays())
    first, second = (safetensors.numpy.load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert set(first) == set(second)
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)
        assert second[name].shape == value.shape and second[name].tobytes() == value.tobytes()

    folder = tmp_path / "whole"
    folder.mkdir()
    write_pair(folder, pair.towers, params=pair.arrays(), layout=pairs.LAYOUT, tokenizer=tokenizer)
    again = transformers.AutoModel.from_pretrained(folder).eval()
    assert type(again).__name__ == PAIRS[model_type].architecture
    opened = transformers.AutoTokenizer.from_pretrained(folder)
    for name, value in theirs(again, opened, length).items():
        np.testing.assert_allclose(value, theirs(model, tokenizer, length)[name], atol=1e-6)
    assert read_pair_config(folder) == pair.towers
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert processor.size["height"] == pairs.SIDE and (folder / "tokenizer.json").is_file()
    assert ("attention_mask" in opened("a")) == PAIRS[model_type].masks_padding


def test_an_older_config_takes_the_highest_token_for_the_end(tmp_path: pathlib.Path) -> None:
    model, tokenizer = pairs.saved("clip", tmp_path)
    model.config.text_config.eos_token_id = model.text_model.eos_token_id = 2
    model.save_pretrained(tmp_path)
    pair = read_pair(tmp_path)
    assert pair is not None
    assert_same(ours(pair, tokenizer), theirs(model, tokenizer, 20))


def changed(folder: pathlib.Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def test_what_is_refused(tmp_path: pathlib.Path) -> None:
    pairs.saved("siglip", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    weights = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    for changes, words in (
        ({"text_config": None}, "the key 'text_config' is missing, or is no object"),
        (
            {"text_config": {**config["text_config"], "projection_size": 16}},
            "it must be the width of the image tower, 32",
        ),
        ({"vision_config": {**config["vision_config"], "vision_use_head": False}}, "vision_use_head is false"),
        ({"text_config": {**config["text_config"], "num_hidden_layers": 3}}, r"layers\.2.*is missing"),
    ):
        changed(tmp_path, **{**config, **changes})
        with pytest.raises(UserError, match=words):
            read_pair(tmp_path)
    changed(tmp_path, **config)
    safetensors.numpy.save_file(
        {**weights, "text_model.other": np.zeros(3, np.float32)}, tmp_path / "model.safetensors"
    )
    with pytest.raises(UserError, match="1 tensors have no place in a SiglipModel: text_model.other"):
        read_pair(tmp_path)
    left = {name: value for name, value in weights.items() if name != "vision_model.head.probe"}
    safetensors.numpy.save_file(left, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"vision_model\.head\.probe' is missing"):
        read_pair(tmp_path)


def test_a_model_of_images_alone_is_no_pair(tmp_path: pathlib.Path) -> None:
    config = transformers.SiglipConfig(**pairs.CONFIGS["siglip"], id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    transformers.SiglipForImageClassification(config).save_pretrained(tmp_path)
    assert read_pair(tmp_path) is None


def test_configs_that_leave_out_what_the_class_has_by_default(tmp_path: pathlib.Path) -> None:
    """As published configs of SigLIP do."""
    for name in PAIRS:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": name, "text_config": {}, "vision_config": {}}))
        towers = read_pair_config(tmp_path)
        theirs = transformers.AutoConfig.from_pretrained(tmp_path)
        assert towers is not None
        for own, other in ((towers.image, theirs.vision_config), (towers.text, theirs.text_config)):
            assert (own.hidden_size, own.num_layers, own.num_heads) == (
                other.hidden_size, other.num_hidden_layers, other.num_attention_heads,
            )  # fmt: skip
        assert towers.text.vocab_size == theirs.text_config.vocab_size
        assert towers.text.max_positions == theirs.text_config.max_position_embeddings
        assert towers.image.patches.size == theirs.vision_config.patch_size
        assert towers.dimension == getattr(theirs, "projection_dim", theirs.vision_config.hidden_size)

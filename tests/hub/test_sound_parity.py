"""transformers and torch as the oracle: AST gives the same numbers, and files go both ways."""

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
from jaxfm.core.initial import SoundLayout
from jaxfm.data.audio.rows import FrameSettings, build_sound_rows
from jaxfm.data.audio.stored import StoredClip
from jaxfm.errors import UserError
from jaxfm.hub.feature_extractors import read_feature_extractor, write_feature_extractor
from jaxfm.hub.weights import Checkpoint, read_checkpoint, write_tensors
from jaxfm.models.inputs.frames import FrameInputs
from jaxfm.models.sound_classifier import SoundClassifier
from jaxfm.parallel import mesh as meshes
from jaxfm.tasks.audio_classification.predictor import AudioClassifierPredictor
from jaxfm.tasks.audio_classification.spec import AudioClassifierSpec

torch = pytest.importorskip("torch", reason="torch is the oracle; it is installed with the test extra on Python 3.11")
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

LABELS = ("a", "b", "c")
# Patches that overlap, and frames after the last one.
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "patch_size": 8, "num_mel_bins": 24, "max_length": 42, "frequency_stride": 5, "time_stride": 6,
    "layer_norm_eps": 1e-4,
}  # fmt: skip
LAYOUT = SoundLayout(16_000, 42, True, -4.5, 3.5)


def waves() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [(0.1 * draw.normal(size=count)).astype(np.float32) for count in (2000, 6960, 9000)]


def saved(folder: pathlib.Path) -> Any:
    """A model of transformers with weights that matter, saved with its extractor."""
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: index for index, name in enumerate(LABELS)}}
    torch.manual_seed(0)
    model = transformers.ASTForAudioClassification(transformers.ASTConfig(**SIZES, **names)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter) + (1.0 if parameter.ndim == 1 else 0.0))
    model.save_pretrained(folder)
    transformers.ASTFeatureExtractor(num_mel_bins=24, max_length=42, mean=LAYOUT.mean, std=LAYOUT.std).save_pretrained(
        folder
    )
    return model


def model_of(checkpoint: Checkpoint) -> SoundClassifier:
    def make() -> SoundClassifier:
        rngs = nnx.Rngs(0)
        inputs = FrameInputs(checkpoint.encoder, DEFAULT_BUILD.dtype, rngs, LAYOUT)
        return SoundClassifier(
            checkpoint.encoder, len(LABELS), DEFAULT_BUILD, rngs, pooling="tokens", segments=1, inputs=inputs
        )

    graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    params = flax.traverse_util.unflatten_dict(checkpoint.arrays(), sep="/")
    return nnx.merge(graphdef, nnx.State(jax.tree.map(lambda value: nnx.Param(jnp.asarray(value)), params)))


def test_logits_and_files(tmp_path: pathlib.Path) -> None:
    theirs = saved(tmp_path / "theirs")
    checkpoint = read_checkpoint(tmp_path / "theirs")
    assert checkpoint.heads == ("sound_classes",) and checkpoint.labels == LABELS
    assert checkpoint.encoder.patches.grid == (4, 6) and read_feature_extractor(tmp_path / "theirs") == LAYOUT
    clips = [StoredClip(str(number), array=wave, rate=16_000) for number, wave in enumerate(waves())]
    rows = build_sound_rows(clips, FrameSettings(LAYOUT, checkpoint.encoder.patches), row_length=26)
    batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(3)).items()}
    model = model_of(checkpoint)
    ours = np.asarray(model(batch))[:, 0]
    inputs: Any = model.encoder.embeddings
    # Of the same frames the logits are the same; transformers' own frames differ by what f32 and f64 do.
    frames = np.asarray(inputs.frames(batch))
    values = np.full((3, 42, 24), -LAYOUT.mean / (2 * LAYOUT.std), np.float32)
    for number, count in enumerate(rows.frames.tolist()):
        values[number, :count] = frames[number, :count]
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "theirs")
    extracted = np.asarray(extractor(waves(), sampling_rate=16_000)["input_values"])
    np.testing.assert_allclose(values[:, :38], extracted[:, :38], atol=2e-4)
    with torch.no_grad():
        wanted, of_theirs = (theirs(torch.tensor(each)).logits.numpy() for each in (values, extracted))
    np.testing.assert_allclose(ours, wanted, atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(ours, of_theirs, atol=1e-3)

    (tmp_path / "ours").mkdir()
    write_tensors(tmp_path / "ours" / "model.safetensors", checkpoint.encoder, "sound_classes", checkpoint.arrays())
    first, second = (safetensors.numpy.load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours"))
    assert set(first) == set(second)
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value)


def test_an_export_opens_in_the_pipeline_and_agrees(tmp_path: pathlib.Path) -> None:
    saved(tmp_path / "theirs")
    checkpoint = read_checkpoint(tmp_path / "theirs")
    spec = AudioClassifierSpec("single", LABELS, checkpoint.encoder, "tokens", LAYOUT, 26, 1, False, 0.5)
    predictor = AudioClassifierPredictor(spec)
    (tmp_path / "ours").mkdir()
    predictor.write_hf(tmp_path / "ours", checkpoint.arrays())
    classify = transformers.pipeline("audio-classification", model=str(tmp_path / "ours"), top_k=None)
    wave = waves()[0]
    theirs = {each["label"]: each["score"] for each in classify(wave)}
    encoded = predictor.encode([{"audio": StoredClip("clip", array=wave, rate=16_000)}])
    batch = {name: jnp.asarray(value) for name, value in encoded.rows.take(np.arange(1)).items()}
    (result,) = predictor.decode(encoded, {"outputs": np.asarray(model_of(checkpoint)(batch))})
    assert (
        result["scores"] == pytest.approx(theirs, abs=5e-4) and max(theirs, key=theirs.__getitem__) == result["label"]
    )
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    theirs_config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    assert all(config[key] == theirs_config[key] for key in SIZES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"feature_extractor_type": "WhisperFeatureExtractor"}, "feature_extractor_type 'WhisperFeatureExtractor'"),
        ({"sampling_rate": 0}, r"sampling_rate 0; it must be an integer"),
        ({"std": 0}, "and std above 0"),
    ],
)
def test_another_extractor_is_refused(values: dict[str, Any], message: str, tmp_path: pathlib.Path) -> None:
    write_feature_extractor(tmp_path, LAYOUT, 24)
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(UserError, match=message):
        read_feature_extractor(tmp_path)

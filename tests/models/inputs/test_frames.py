"""Log-mel frames beside those that transformers' extractor of AST computed, and their patches beside NumPy's."""

import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.initial import SoundLayout
from jaxfm.data.audio.rows import FrameSettings, SoundRows, build_sound_rows
from jaxfm.data.audio.stored import StoredClip
from jaxfm.families.audio_spectrogram_transformer import sound_patches
from jaxfm.families.vit import image_encoder
from jaxfm.models.inputs.frames import FrameInputs, frame_count, hop_size, log_mel, mel_filters, window_size
from jaxfm.parallel import mesh as meshes

# Samples int16 and their frames f32 [F, 128], recorded by `extracted` with transformers 5.23 (without torchaudio).
RECORDED = pathlib.Path(__file__).with_name("log_mel.npz")
RATE = 16_000
PATCHES = sound_patches(8, 24, (5, 6), 40)
ENCODER = image_encoder(family="", patches=PATCHES, num_layers=1, hidden_size=16, num_heads=2, ffn_size=16)


def clip(count: int, seed: int = 0) -> StoredClip:
    draw = np.random.default_rng([count, seed])
    samples = (0.1 * draw.normal(size=count)).astype(np.float32)
    return StoredClip(f"clip {count}", array=samples, rate=RATE)


def rows_of(clips: list[StoredClip], *, packed: bool = False, padded: bool = False, row_length: int = 0) -> SoundRows:
    settings = FrameSettings(SoundLayout(RATE, 40, padded, -4.0, 4.0), PATCHES)
    return build_sound_rows(clips, settings, row_length=row_length or settings.most_tokens, packed=packed)


def batch_of(rows: SoundRows) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}


def inputs_of(rows: SoundRows) -> FrameInputs:
    def make() -> FrameInputs:
        return FrameInputs(ENCODER, jnp.dtype(jnp.float32), nnx.Rngs(0), rows.settings.layout)

    graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    return nnx.merge(graphdef, nnx.State(jax.tree.map(nnx.Param, meshes.initialise(make))))


def frames_of(samples: np.ndarray, mels: int = 128) -> np.ndarray:
    """The frames that lie whole in the samples."""
    count, hop = frame_count(len(samples), RATE), hop_size(RATE)
    padded = np.pad(samples, (0, -len(samples) % hop))
    return np.asarray(log_mel(jnp.asarray(padded[None]), RATE, mels))[0, :count]


def extracted(samples: np.ndarray, mels: int = 128) -> np.ndarray:
    transformers = pytest.importorskip("transformers")
    count = frame_count(len(samples), RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of 128 bands is too narrow for any frequency
        extractor = transformers.ASTFeatureExtractor(max_length=count, num_mel_bins=mels, do_normalize=False)
    return np.asarray(extractor(samples, sampling_rate=RATE)["input_values"][0])


def test_frames_are_the_recorded_ones() -> None:
    with np.load(RECORDED) as recorded:
        samples, wanted = recorded["samples"].astype(np.float32) / 2**15, recorded["frames"]
    found = frames_of(samples)
    assert found.shape == wanted.shape == (frame_count(len(samples), RATE), 128)
    np.testing.assert_allclose(found, wanted, atol=5e-4, rtol=0)
    assert np.ptp(wanted) > 10  # from the floor to a loud tone


@pytest.mark.parametrize("mels", [24, 128])
def test_frames_are_those_of_transformers(mels: int) -> None:
    pytest.importorskip("torch", reason="transformers' extractor needs torch")
    with np.load(RECORDED) as recorded:
        samples = recorded["samples"].astype(np.float32) / 2**15
    np.testing.assert_allclose(frames_of(samples, mels), extracted(samples, mels), atol=5e-4, rtol=0)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_frames_are_a_windowed_fourier_transform(rate: int) -> None:
    window, hop = window_size(rate), hop_size(rate)
    samples = np.random.default_rng(rate).normal(size=window + 3 * hop)
    padded = np.pad(samples, (0, -len(samples) % hop)).astype(np.float32)
    found = np.asarray(log_mel(jnp.asarray(padded[None]), rate, 20))[0, : frame_count(len(samples), rate)]
    size = 1 << (window - 1).bit_length()
    for number, frame in enumerate(found):
        part = samples[number * hop : number * hop + window]
        part = part - part.mean()
        part = np.concatenate([[part[0] * (1 - 0.97)], part[1:] - 0.97 * part[:-1]]) * np.hanning(window)
        power = np.abs(np.fft.rfft(part, size)) ** 2
        np.testing.assert_allclose(frame, np.log(power @ mel_filters(rate, 20)), atol=2e-4)
    assert len(found) == 4


def test_silence_stays_at_the_floor_and_a_constant_is_silence() -> None:
    for level in (0.0, 0.25):
        found = frames_of(np.full(1000, level, np.float32))
        np.testing.assert_allclose(found, np.log(np.finfo(np.float32).eps), rtol=1e-6)


def test_patches_are_cut_as_a_convolution_reads_them() -> None:
    rows = rows_of([clip(3200), clip(9000)])
    batch = batch_of(rows)
    inputs = inputs_of(rows)
    frames = inputs.frames(batch)
    found = np.asarray(inputs.patches(frames, batch))
    nothing = (0 - -4.0) / 8.0
    for row in range(2):
        count = int(rows.frames[row])
        own = np.full((60, 24), nothing)
        own[:count] = np.asarray(frames)[row, :count]
        for token in range(found.shape[1]):
            band, column = np.asarray(batch["cells"])[row, token]
            if band < 0:
                np.testing.assert_array_equal(found[row, token], 0.0)
                continue
            wanted = own[column * 6 : column * 6 + 8, band * 5 : band * 5 + 8].T
            np.testing.assert_array_equal(found[row, token].reshape(8, 8), wanted.astype(np.float32))


@pytest.mark.parametrize("padded", [False, True])
def test_packed_clips_are_read_as_one_a_row(padded: bool) -> None:
    clips = [clip(count) for count in (1, 500, 1500, 3000, 6640, 9000)]
    alone, packed = rows_of(clips, padded=padded), rows_of(clips, padded=padded, packed=True, row_length=90)
    assert len(packed) < len(alone)
    inputs = inputs_of(alone)
    whole, together = (np.asarray(inputs(batch_of(rows)).x_BTD) for rows in (alone, packed))
    for example, (row, segment) in enumerate(packed.example_locations.tolist()):
        own = packed.take(np.asarray([row]))["segment_ids"][0] == segment + 1
        count = int(alone.lengths[example])
        assert own.sum() == count
        np.testing.assert_allclose(together[row][own], whole[example, :count], atol=1e-5)

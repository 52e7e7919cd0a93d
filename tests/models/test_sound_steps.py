"""Steps in time of the clips of rows, found token by token."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.encoder_config import PatchConfig
from jaxfm.core.initial import SoundLayout
from jaxfm.data.audio.rows import FrameSettings, SoundRows, build_sound_rows
from jaxfm.data.audio.stored import StoredClip
from jaxfm.families.vit import image_encoder
from jaxfm.models.inputs.frames import FrameInputs, log_mel
from jaxfm.models.sound_steps import find_steps, of_tokens, states_at
from jaxfm.parallel import mesh as meshes

RATE = 8000
SQUARE = PatchConfig(size=4, channels=1, grid=(2, 8), distillation_token=True, mels=8, stride=(4, 4))
STRIPS = PatchConfig(size=8, channels=1, grid=(1, 16), mels=8, stride=(8, 2), frames=4)


def rows_of(patches: PatchConfig, *, packed: bool) -> SoundRows:
    draw = np.random.default_rng(0)
    clips = [
        StoredClip(f"clip {count}", array=draw.normal(size=count).astype(np.float32) * 0.1, rate=RATE)
        for count in (500, 1, 2600, 1300, 900)
    ]
    frames = (patches.grid[1] - 1) * patches.stride[1] + patches.span
    settings = FrameSettings(SoundLayout(RATE, frames), patches)
    return build_sound_rows(clips, settings, row_length=40, packed=packed)


def test_steps_are_the_columns_of_each_clip() -> None:
    for patches in (SQUARE, STRIPS):
        for packed in (False, True):
            rows = rows_of(patches, packed=packed)
            segments = int(rows.example_locations[:, 1].max()) + 1
            batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}
            hidden = jax.random.normal(jax.random.key(0), (*batch["cells"].shape[:2], 3))
            steps = find_steps(batch, patches, segments)
            found = np.asarray(states_at(hidden, steps))
            marks = np.arange(steps.valid_BSK.size).reshape(steps.valid_BSK.shape)
            laid = np.asarray(of_tokens(jnp.asarray(marks), batch))
            seen = 0
            for row, (ids, cells) in enumerate(
                zip(*map(np.asarray, (batch["segment_ids"], batch["cells"])), strict=True)
            ):
                for segment in range(segments):
                    columns = sorted(set(cells[(ids == segment + 1) & (cells[:, 0] >= 0), 1].tolist()))
                    assert np.flatnonzero(steps.valid_BSK[row, segment]).tolist() == columns
                    for column in columns:
                        own = (ids == segment + 1) & (cells[:, 0] >= 0) & (cells[:, 1] == column)
                        assert own.sum() == patches.grid[0]
                        np.testing.assert_allclose(
                            found[row, segment, column], np.asarray(hidden)[row][own].mean(axis=0), rtol=1e-5, atol=1e-6
                        )
                        assert (laid[row][own] == marks[row, segment, column]).all()
                        seen += 1
            assert seen == sum(rows.settings.columns(int(count)) for count in rows.frames)


def test_a_strip_has_all_bands_of_its_frames() -> None:
    rows = rows_of(STRIPS, packed=True)
    batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}
    config = image_encoder(family="", patches=STRIPS, hidden_size=8, num_layers=1, num_heads=2, ffn_size=8)

    def make() -> FrameInputs:
        return FrameInputs(config, jnp.dtype(jnp.float32), nnx.Rngs(0), rows.settings.layout)

    graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    inputs = nnx.merge(graphdef, nnx.State(jax.tree.map(nnx.Param, meshes.initialise(make))))
    assert inputs.kernel.shape == (8, 4, 1, config.hidden_size)
    found = np.asarray(inputs.patches(inputs.frames(batch), batch))
    frames = np.asarray(log_mel(batch["samples"], RATE, 8))
    for row, ids in enumerate(np.asarray(batch["segment_ids"])):
        for token in np.flatnonzero(ids).tolist():
            if batch["cells"][row, token, 0] < 0:
                assert not found[row, token].any()
                continue
            start = int(batch["starts"][row, token])
            own = np.asarray(batch["slots"][row, start : start + 4]) == ids[token]
            wanted = np.where(own[:, None], frames[row, start : start + 4], 0.0)
            np.testing.assert_allclose(found[row, token].reshape(8, 4), wanted.T, rtol=1e-6)

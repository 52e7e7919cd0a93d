"""k-means against loops, and features of steps against those of clips alone."""

import dataclasses
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.models.inputs.frames import log_mel
from jaxfm.tasks.masked_sound.clusters import FILE, Clusters, read_clusters
from jaxfm.tasks.masked_sound.features import mel_features, on_tokens
from jaxfm.tasks.masked_sound.kmeans import fit_kmeans, nearest
from tests.models.test_sound_steps import RATE, SQUARE, STRIPS, rows_of


def test_the_nearest_centre_is_that_of_a_loop() -> None:
    draw = np.random.default_rng(0)
    points, centres = draw.normal(size=(50, 3)), draw.normal(size=(7, 3))
    members, distances = nearest(points, centres)
    for point, member, distance in zip(points, members, distances, strict=True):
        apart = [float(sum((one - other) ** 2 for one, other in zip(point, centre, strict=True))) for centre in centres]
        assert member == int(np.argmin(apart)) and distance == pytest.approx(min(apart))


def slow_rounds(points: np.ndarray, centres: np.ndarray, rounds: int) -> np.ndarray:
    """Lloyd's rounds, point by point."""
    for _ in range(rounds):
        groups: list[list[np.ndarray]] = [[] for _ in centres]
        for point in points:
            groups[int(np.argmin([((point - centre) ** 2).sum() for centre in centres]))].append(point)
        assert all(groups)
        centres = np.stack([np.mean(group, axis=0) for group in groups])
    return centres


def test_centres_are_those_of_a_loop() -> None:
    draw = np.random.default_rng(1)
    middles = draw.normal(size=(5, 4)) * 10
    points = np.concatenate([middle + draw.normal(size=(30, 4)) for middle in middles])
    first = fit_kmeans(points, 5, seed=0, rounds=1)
    found = fit_kmeans(points, 5, seed=0, rounds=50)
    np.testing.assert_allclose(found, slow_rounds(points, first, 10), rtol=1e-9)
    # Five groups far apart are found whatever the seed.
    for seed in range(5):
        own = fit_kmeans(points, 5, seed=seed, rounds=50)
        order, wanted = np.lexsort(own.T), np.lexsort(found.T)
        np.testing.assert_allclose(own[order], found[wanted], rtol=1e-9)
    np.testing.assert_array_equal(found, fit_kmeans(points, 5, seed=0, rounds=50))


def test_no_centre_stays_without_points() -> None:
    points = np.asarray([[0.0]] * 20 + [[1.0], [2.0], [3.0]])
    members, distances = nearest(points, fit_kmeans(points, 4, seed=0, rounds=20))
    assert len(set(members.tolist())) == 4 and distances.max() == pytest.approx(0.0)


def test_features_are_those_of_a_clip_alone() -> None:
    for patches in (STRIPS, SQUARE):
        packed, alone = (mel_features(rows_of(patches, packed=each)) for each in (True, False))
        rows = rows_of(patches, packed=False)
        for clip, (one, other) in enumerate(zip(packed, alone, strict=True)):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
            frames = int(rows.frames[clip])
            samples = rows.samples(clip)
            hop = RATE // 100
            whole = np.pad(samples, (0, -len(samples) % hop))[None]
            mel = np.asarray(log_mel(jnp.asarray(whole, jnp.float32), RATE, 8))[0, :frames]
            step, span = patches.stride[1], patches.span
            means = np.stack([mel[at * step : at * step + span].mean(axis=0) for at in range(len(one))])
            means -= means.mean(axis=0)
            np.testing.assert_allclose(one[:, :8], means, rtol=1e-3, atol=1e-3)
            if len(one) > 2:
                np.testing.assert_allclose(one[1, 8:], (means[2] - means[0]) / 2, rtol=1e-3, atol=1e-3)


def test_values_of_steps_lie_at_their_first_patch() -> None:
    for patches in (STRIPS, SQUARE):
        rows = rows_of(patches, packed=True)
        values = [np.arange(rows.settings.columns(int(frames))) + 100 * clip for clip, frames in enumerate(rows.frames)]
        laid = on_tokens(rows, values, -1)
        batch = rows.take(np.arange(len(rows)))
        seen = []
        for row, segment, column, band in zip(
            *np.nonzero(batch["segment_ids"]), batch["cells"][batch["segment_ids"] > 0, 1],
            batch["cells"][batch["segment_ids"] > 0, 0], strict=True,
        ):  # fmt: skip
            clip = rows.members[row][batch["segment_ids"][row, segment] - 1]
            assert laid[row, segment] == (100 * clip + column if band == 0 else -1)
            seen += [laid[row, segment]] if band == 0 else []
        assert sorted(seen) == sorted(np.concatenate(values).tolist())


def test_a_damaged_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"clusters\.safetensors: cannot be read: No such file.*backup"):
        read_clusters(tmp_path, 4, False)
    (tmp_path / FILE).write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"clusters\.safetensors: is damaged"):
        read_clusters(tmp_path, 4, False)
    kept = Clusters(np.ones((4, 2), np.float32), {"encoder/x": np.zeros(3, np.float32)})
    kept.save(tmp_path)
    again: Any = dataclasses.asdict(read_clusters(tmp_path, 4, True))
    np.testing.assert_array_equal(again["centres_CF"], kept.centres_CF)
    for count, of_weights in ((5, True), (4, False)):
        with pytest.raises(UserError, match="is not that of this run"):
            read_clusters(tmp_path, count, of_weights)

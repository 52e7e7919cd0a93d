"""Changes of clips on the device: what they do, and draws that depend on row and segment alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfm.models.dropout import RowsKey
from jaxfm.models.inputs.sound_augmentation import SoundAugmentation, augment_samples, mask_frames
from tests.models.inputs.test_frames import RATE, batch_of, clip, rows_of

KEY = jax.random.key(5)
EVERYTHING = SoundAugmentation(0.05, 0.5, 2, 6, 2, 5)


def packed_batch() -> dict[str, jax.Array]:
    rows = rows_of([clip(count) for count in (1500, 3000, 6000, 2500)], packed=True, row_length=90)
    assert rows.example_locations[:, 1].max() > 0
    return batch_of(rows)


def test_a_shift_moves_a_clip_within_its_place() -> None:
    batch = packed_batch()
    most = round(0.05 * RATE)
    found = np.asarray(augment_samples(batch, SoundAugmentation(shift=0.05), RATE, KEY, segments=4))
    shifts = set()
    for row, samples in enumerate(np.asarray(batch["samples"])):
        owner = np.repeat(np.abs(np.asarray(batch["slots"][row])), 160)
        for segment in range(1, owner.max() + 1):
            own, moved = samples[owner == segment], found[row][owner == segment]
            fitting = [
                shift
                for shift in range(-most, most + 1)
                if np.array_equal(moved, np.roll(np.pad(own, most), shift)[most : most + len(own)])
            ]
            assert len(fitting) == 1
            shifts.update(fitting)
        np.testing.assert_array_equal(found[row][owner == 0], 0.0)
    assert len(shifts) > 1


def test_noise_is_a_share_of_the_clip_and_silence_stays_silent() -> None:
    batch = packed_batch()
    changed = augment_samples(batch, SoundAugmentation(noise=0.5), RATE, KEY, segments=4)
    noise = np.asarray(changed - batch["samples"])
    for row, samples in enumerate(np.asarray(batch["samples"])):
        owner = np.repeat(np.abs(np.asarray(batch["slots"][row])), 160)
        assert not noise[row][owner == 0].any()
        for segment in range(1, owner.max() + 1):
            own = owner == segment
            ratio = np.std(noise[row][own]) / np.sqrt(np.mean(samples[own] ** 2))
            assert 0 < ratio < 0.55
    silent = {**batch, "samples": jnp.zeros_like(batch["samples"])}
    assert not np.asarray(augment_samples(silent, SoundAugmentation(noise=0.5), RATE, KEY, segments=4)).any()


def test_masks_hide_stretches_of_time_and_ranges_of_bands() -> None:
    batch = packed_batch()
    frames = jnp.ones((*batch["slots"].shape, 24))
    widest = [0, 0]
    for seed in range(20):
        key = jax.random.key(seed)
        for axis, augmentation in enumerate((SoundAugmentation(time_masks=1, time_width=6),
                                             SoundAugmentation(frequency_masks=1, frequency_width=5))):  # fmt: skip
            hidden = np.asarray(mask_frames(frames, batch["slots"], augmentation, key, segments=4)) == 0
            for row, slots in enumerate(np.asarray(batch["slots"])):
                for segment in range(1, slots.max() + 1):
                    own = hidden[row][slots == segment]
                    lines = own.any(axis=1 - axis)
                    np.testing.assert_array_equal(own, np.broadcast_to(np.expand_dims(lines, 1 - axis), own.shape))
                    places = np.flatnonzero(lines)
                    assert len(places) <= (6, 5)[axis]
                    if axis == 0:
                        assert len(places) <= len(own) // 2
                    if len(places):
                        assert places[-1] - places[0] + 1 == len(places)
                    widest[axis] = max(widest[axis], len(places))
    assert widest == [6, 5]


@pytest.mark.parametrize("first", [0, 1])
def test_some_rows_are_changed_as_in_the_whole_batch(first: int) -> None:
    batch = batch_of(rows_of([clip(count) for count in (1500, 3000, 6000, 2500)]))
    part = {name: value[first::2] for name, value in batch.items()}
    some = RowsKey(KEY, jnp.uint32(first), jnp.uint32(2))
    whole = augment_samples(batch, EVERYTHING, RATE, KEY, segments=1)
    np.testing.assert_array_equal(whole[first::2], augment_samples(part, EVERYTHING, RATE, some, segments=1))
    frames = jax.random.normal(KEY, (*batch["slots"].shape, 24))
    whole = mask_frames(frames, batch["slots"], EVERYTHING, KEY, segments=1)
    np.testing.assert_array_equal(
        whole[first::2], mask_frames(frames[first::2], part["slots"], EVERYTHING, some, segments=1)
    )
    assert not np.array_equal(whole, mask_frames(frames, batch["slots"], EVERYTHING, jax.random.key(6), segments=1))

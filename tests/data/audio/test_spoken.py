"""Clips with transcripts: melodies, archives whose numbers are texts, clips that are joined."""

import itertools
import pathlib

import numpy as np
import pytest

from jaxfm.data.audio.decoding import decode
from jaxfm.data.audio.examples import SoundExample, read_sounds
from jaxfm.data.audio.joined import join_clips
from jaxfm.data.audio.melodies import _LOWEST, _STEP, LETTERS, RATE
from jaxfm.data.audio.stored import StoredClip
from jaxfm.data.media.examples import MediaColumns
from jaxfm.errors import UserError


def clip(value: int, count: int, text: str, group: str = "") -> SoundExample:
    stored = StoredClip(f"clip {value}", array=np.full(count, value, np.int16), rate=8000)
    return SoundExample(stored, (group,) if group else (), text, f"clip {value}")


def test_melodies_are_what_their_letters_say() -> None:
    read = read_sounds("quickstart", None, texts=True)
    assert {split: len(found.examples) for split, found in read.items()} == {"train": 600, "valid": 100, "test": 100}
    texts = [example.text for found in read.values() for example in found.examples]
    assert set("".join(texts)) == {*LETTERS, " "} and all(1 <= len(text.split()) <= 3 for text in texts)
    again = read_sounds("quickstart", ("test",), texts=True)["test"].examples
    assert [each.clip.digest() for each in again] == [each.clip.digest() for each in read["test"].examples]
    checked = 0
    for example in read["test"].examples:
        if len(example.text) > 1:
            continue
        samples = decode(example.clip, RATE)
        power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
        pitch = np.argmax(power) * RATE / len(samples)
        assert LETTERS[round(np.log(pitch / _LOWEST) / np.log(_STEP))] == example.text
        checked += 1
    assert checked > 5
    assert max(len(each.clip.array) for found in read.values() for each in found.examples) < 2.5 * RATE  # type: ignore[arg-type]


def test_numbers_of_an_archive_are_texts(tmp_path: pathlib.Path) -> None:
    arrays = {
        "audio_train": np.arange(60, dtype=np.int16), "offsets_train": np.asarray([0, 20, 40, 60]),
        "digit_train": np.asarray([7, 0, 7], np.uint8), "speaker_train": np.asarray([0, 1, 1]),
        "speaker_names": np.asarray(["ann", "bob"]), "sample_rate": np.asarray(8000),
    }  # fmt: skip
    np.savez(tmp_path / "digits.npz", **arrays)  # type: ignore[arg-type]
    columns = MediaColumns("", "speaker", "digit")
    source = f"npz:{tmp_path / 'digits.npz'}"
    found = read_sounds(source, ("train",), columns=columns, labels="single", texts=True)["train"].examples
    assert [(each.text, each.labels) for each in found] == [("7", ("ann",)), ("0", ("bob",)), ("7", ("bob",))]
    np.savez(tmp_path / "digits.npz", **(arrays | {"speaker_train": np.asarray([0, 1, 2])}))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="speaker_train has the numbers 0 to 2, but 2 names"):
        read_sounds(source, ("train",), columns=columns, texts=True)


def test_joined_clips_are_clips_one_after_the_other() -> None:
    examples = [clip(value, 10 + value, str(value), "odd" if value % 2 else "even") for value in range(1, 9)]
    found = join_clips(examples, 8000, fewest=2, most=3, count=40, gap=0.01, seed=0)
    counts = set()
    for example in found:
        values = [int(value) for value in example.text.split()]
        assert len({value % 2 for value in values}) == 1 and 2 <= len(values) <= 3
        samples = np.rint(decode(example.clip, 8000) * 2**15).astype(int)
        runs = [(int(run[0]), len(run)) for run in np.split(samples, np.flatnonzero(np.diff(samples)) + 1)]
        gaps = [size for value, size in runs if not value]
        # Equal neighbours without a gap are one run.
        heard = [value for value, _ in itertools.groupby(value for value, _ in runs if value)]
        assert heard == [value for value, _ in itertools.groupby(values)]
        assert sum(size for value, size in runs if value) == sum(10 + value for value in values)
        assert all(size <= 80 for size in gaps)
        counts.add(len(values))
    assert counts == {2, 3}
    more = join_clips(examples, 8000, fewest=2, most=3, count=50, gap=0.01, seed=0)
    assert [each.text for each in more[:40]] == [each.text for each in found]
    other = join_clips(examples, 8000, fewest=2, most=3, count=40, gap=0.01, seed=1)
    assert [each.text for each in other] != [each.text for each in found]


def test_broken_clips_are_not_drawn() -> None:
    broken = SoundExample(StoredClip("bad", data=b"RIFF"), (), "bad", "bad")
    found = join_clips([broken, clip(1, 5, "1")], 8000, fewest=2, most=2, count=5, gap=0.0, seed=0)
    assert {each.text for each in found} == {"1 1"}
    with pytest.raises(UserError, match="None of the 1 clips can be decoded. The first: bad"):
        join_clips([broken], 8000, fewest=1, most=2, count=1, gap=0.0, seed=0)

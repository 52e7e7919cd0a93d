"""Sound files and sources of them: what is read, and what is said of those that cannot be."""

import io
import json
import pathlib
from typing import Any

import numpy as np
import pytest
import soundfile

from jaxfm.core.initial import SoundLayout
from jaxfm.data.audio.decoding import decode
from jaxfm.data.audio.examples import read_sounds, stored_clip
from jaxfm.data.audio.rows import FrameSettings, build_sound_rows, frame_statistics
from jaxfm.data.audio.stored import BadSoundError, StoredClip
from jaxfm.data.media.examples import MediaColumns
from jaxfm.data.records.formats.hf import open_dataset
from jaxfm.errors import UserError
from jaxfm.families.audio_spectrogram_transformer import sound_patches
from tests import tiny
from tests.models.inputs.test_frames import frames_of

RATE = 16_000


def wave(count: int, *, pitch: float = 440.0, rate: int = RATE) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * pitch * np.arange(count) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str = "PCM_16") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def settings(frames: int = 40, *, padded: bool = False) -> FrameSettings:
    return FrameSettings(SoundLayout(RATE, frames, padded), sound_patches(8, 24, (8, 8), frames))


@pytest.mark.parametrize("form", ["WAV", "FLAC"])
def test_a_file_has_the_samples_that_were_written(form: str) -> None:
    found = decode(StoredClip("clip", data=encoded(wave(1000), form=form)), RATE)
    np.testing.assert_allclose(found, wave(1000), atol=2**-15)


def test_channels_become_their_mean() -> None:
    stereo = np.stack([wave(1000), wave(1000, pitch=900)], axis=1)
    found = decode(StoredClip("clip", data=encoded(stereo)), RATE)
    np.testing.assert_allclose(found, stereo.mean(axis=1), atol=2**-15)


def test_48_khz_stereo_is_resampled() -> None:
    both = np.repeat(wave(48_000, rate=48_000)[:, None], 2, axis=1)
    found = decode(StoredClip("clip", data=encoded(both, 48_000)), RATE)
    assert len(found) == RATE
    np.testing.assert_allclose(found[800:-800], wave(RATE)[800:-800], atol=1e-3)


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_a_clip_of_one_sample_is_a_clip(rate: int) -> None:
    rows = build_sound_rows(
        [StoredClip("one", array=np.ones(1, np.float32), rate=rate)], settings(), row_length=settings().most_tokens
    )
    batch = rows.take(np.arange(1))
    assert rows.frames.tolist() == [1] and (batch["slots"] > 0).sum() == 1 and np.isfinite(batch["samples"]).all()
    assert (batch["segment_ids"] == 1).sum() == 2 + 3  # the learned tokens, and one patch a range of bands


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(wave(4000))[:3000], r"is cut: its header promises 8,000 bytes of samples, it has 2,956"),
        (encoded(wave(9000), form="FLAC")[:4000], r"clip\.wav: (is cut|cannot be decoded)"),
        (b"", "the file is empty"),
        (b"not sound at all", r"clip\.wav: cannot be decoded: [A-Z][a-z ]+\.$"),
        (encoded(np.zeros(0, np.float32)), "has no samples"),
        (encoded(np.full(100, np.nan, np.float32), subtype="FLOAT"), "samples that are not finite"),
    ],
    ids=["cut wav", "cut flac", "empty", "text", "no samples", "nan"],
)
def test_a_broken_file_is_named(content: bytes, message: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    broken = StoredClip(str(path), path=path)
    with pytest.raises(BadSoundError, match=message) as caught:
        decode(broken, RATE)
    assert str(caught.value).startswith(str(path))
    whole = StoredClip("whole", array=wave(3000), rate=RATE)
    with pytest.raises(BadSoundError, match=r"or set task\.x=skip to leave such clips out"):
        build_sound_rows([whole, broken], settings(), row_length=settings().most_tokens, broken_option="task.x")
    rows = build_sound_rows([whole, broken], settings(), row_length=settings().most_tokens, broken="skip")
    assert rows.kept.tolist() == [0] and "1 of 2 clips are broken and left out" in rows.notes[0]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4), np.float32), r"samples of shape \(2, 3, 4\)"),
        (np.zeros(100, np.int64), "samples of type int64"),
    ],
)
def test_arrays_that_are_no_sound(array: np.ndarray, message: str) -> None:
    with pytest.raises(BadSoundError, match=message):
        decode(StoredClip("clip", array=array, rate=RATE), RATE)


def test_a_long_clip_is_cut_and_counted() -> None:
    clips = [StoredClip(str(count), array=wave(count), rate=RATE) for count in (3000, 20_000)]
    rows = build_sound_rows(clips, settings(), row_length=settings().most_tokens)
    assert rows.frames.tolist() == [17, 40] and "1 of 2 clips are longer than the 0.41 seconds read" in rows.notes[0]
    again = build_sound_rows(clips, settings(), row_length=settings().most_tokens, memory_bytes=0)
    assert again.decoded is None and again.fingerprint() == rows.fingerprint()
    for name, values in rows.take(np.arange(2)).items():
        np.testing.assert_array_equal(again.take(np.arange(2))[name], values)


@pytest.mark.parametrize("packed", [False, True])
def test_statistics_are_those_of_the_frames(packed: bool) -> None:
    draw = np.random.default_rng(0)
    samples = [draw.normal(size=count).astype(np.float32) * 0.1 for count in (500, 3000, 4000)]
    clips = [StoredClip(str(each.size), array=each, rate=RATE) for each in samples]
    rows = build_sound_rows(clips, settings(), row_length=40, packed=packed)
    wanted = np.concatenate([frames_of(each, 24) for each in samples])
    assert frame_statistics(rows) == pytest.approx((wanted.mean(), wanted.std()), rel=1e-4)


def test_folders_tables_and_records_give_the_same_clips(tmp_path: pathlib.Path) -> None:
    source = tiny.write_audio(tmp_path / "audio")
    folder = read_sounds(source, None, labels="single")
    assert {name: len(split.examples) for name, split in folder.items()} == dict(tiny.SIZES)
    for split, found in folder.items():
        lines = [
            json.dumps({"path": str(pathlib.Path(each.origin).relative_to(tmp_path)), "label": each.labels[0]})
            for each in found.examples
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    table = read_sounds(f"jsonl:{tmp_path}", None, labels="single")
    for split, found in folder.items():
        same = [(each.clip.digest(), each.labels) for each in table[split].examples]
        assert same == [(each.clip.digest(), each.labels) for each in found.examples]


def test_values_of_a_table_that_are_clips() -> None:
    value = {"array": [0.0, 0.5], "sampling_rate": 8000, "path": None}
    clip = stored_clip(value, "audio", "data[3]", None)
    assert clip.rate == 8000 and decode(clip, 8000).tolist() == [0.0, 0.5]
    content = encoded(wave(10))
    assert stored_clip({"bytes": content, "path": "x.wav"}, "audio", "data[3]", None).data == content
    for value, message in (
        (np.zeros(3), r"samples without their rate\. Give"),
        ({"array": [0.0], "sampling_rate": 0}, "sampling_rate 0; it must be an integer above 0"),
        (7, "a recording is a path, the bytes of a file, or"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            stored_clip(value, "audio", "data[3]", None)
        assert str(caught.value).startswith("data[3]: ")


def test_a_column_of_sound_of_a_data_set_is_read_as_it_is_stored() -> None:
    datasets = pytest.importorskip("datasets")
    content = encoded(wave(100))
    columns = {"audio": [{"bytes": content, "path": "a.wav"}], "label": [1]}
    data = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio())
    table = open_dataset(data, "data", lambda index: f"data[{index}]")
    ((origin, (value, label)),) = table.values(("audio", "label"))
    assert (origin, label) == ("data[0]", 1) and stored_clip(value, "audio", origin, None).data == content


def archive(path: pathlib.Path, **changes: Any) -> str:
    arrays = {
        "audio_train": (wave(900) * 2**15).astype(np.int16), "offsets_train": np.asarray([0, 400, 900]),
        "digit_train": np.asarray([1, 0], np.uint8), "speaker_train": np.asarray([0, 0], np.uint8),
        "speaker_names": np.asarray(["ada"]), "sample_rate": np.asarray(8000),
    } | changes  # fmt: skip
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return f"npz:{path}"


def test_an_archive_of_joined_samples(tmp_path: pathlib.Path) -> None:
    source = archive(tmp_path / "a.npz")
    found = read_sounds(source, ("train",), columns=MediaColumns(label="digit"), labels="single")["train"]
    assert [each.labels for each in found.examples] == [("1",), ("0",)]
    np.testing.assert_allclose(decode(found.examples[1].clip, 8000), wave(900)[400:], atol=2**-14)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_rate": None}, "needs sample_rate"),
        ({"offsets_train": None}, "needs offsets_train"),
        ({"offsets_train": np.asarray([0, 400, 901])}, "must rise, from 0 to at most the 900 samples"),
        ({"offsets_train": np.asarray([0, 0, 900])}, "must rise"),
        ({"digit_train": np.asarray([1, 2, 3])}, r"digit_train has the shape \(3,\), but train has 2 clips"),
        ({"audio_train": None}, "no array audio_train, valid or test"),
        ({"digit_train": np.asarray([{}, {}], object)}, "not an archive of plain arrays"),
    ],
)
def test_a_bad_archive(changes: dict[str, Any], message: str, tmp_path: pathlib.Path) -> None:
    source = archive(tmp_path / "a.npz", **changes)
    with pytest.raises(UserError, match=message) as caught:
        read_sounds(source, ("train",), columns=MediaColumns(label="digit"), labels="single")
    assert str(tmp_path / "a.npz") in str(caught.value)


def test_the_quickstart_is_the_same_every_time() -> None:
    found = read_sounds("quickstart", ("valid",), labels="single")["valid"].examples
    assert len({each.clip.digest() for each in found}) == len(found) == 100
    lengths = [len(decode(each.clip, RATE)) / RATE for each in found]
    assert 0.33 <= min(lengths) < 0.5 and 0.85 < max(lengths) <= 1.0
    assert {each.labels[0] for each in found} == {"tone", "rising", "falling", "pulses", "noise"}

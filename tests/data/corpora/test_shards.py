import errno
import hashlib
import os
import pathlib
import re
import shutil
import threading

import numpy as np
import pytest

from jaxfm import files
from jaxfm.core.batch import Dataset
from jaxfm.data.corpora import shards
from jaxfm.data.corpora.shards import ShardedRows, shard_name, write_shard
from jaxfm.data.pipeline import TrainBatches
from jaxfm.data.text import packing
from jaxfm.errors import UserError

ROW, PAD = 16, 9
Windows = list[np.ndarray]


def windows(seed: int, count: int, vocab_size: int) -> Windows:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, vocab_size, draw.integers(1, ROW + 1)) for _ in range(count)]


def write_directory(
    folder: pathlib.Path, vocab_size: int = 300, counts: tuple[int, ...] = (70, 1, 40)
) -> list[Windows]:
    """Writes shards, token counts and manifest; returns the windows of each shard."""
    folder.mkdir(parents=True)
    made, content = [], []
    for index, count in enumerate(counts):
        content.append(windows(index, count, vocab_size))
        tokens = np.concatenate(content[-1]).astype(shards.token_dtype(vocab_size))
        lengths = np.asarray([len(window) for window in content[-1]])
        made.append(write_shard(folder / shard_name(index), tokens, lengths, packing.pack(lengths, ROW)))
    rows, tokens = sum(shard["rows"] for shard in made), sum(shard["tokens"] for shard in made)
    flat = np.concatenate([window for part in content for window in part])
    digest = shards.write_token_counts(folder / shards.TOKEN_COUNTS, np.bincount(flat, minlength=vocab_size))
    shards.write_manifest(
        folder,
        {
            "row_length": ROW,
            "vocab_size": vocab_size,
            "pad_id": PAD,
            "useful_share": tokens / rows / ROW,
            "token_counts_sha256": digest,
            "shards": made,
        },
    )
    return content


FIELDS = ("tokens", "segment_ids", "positions")


def expected(content: list[Windows]) -> dict[str, np.ndarray]:
    """The rows laid out one by one."""
    fields: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
    for part in content:
        for row in packing.pack([len(window) for window in part], ROW):
            sizes = [len(part[index]) for index in row]
            free = (0, ROW - sum(sizes))
            tokens = np.concatenate([part[index] for index in row])
            fields["tokens"].append(np.pad(tokens, free, constant_values=PAD))
            fields["segment_ids"].append(np.pad(np.repeat(np.arange(len(row)) + 1, sizes), free))
            fields["positions"].append(np.pad(np.concatenate([np.arange(size) for size in sizes]), free))
    return {name: np.asarray(values, np.int32) for name, values in fields.items()}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, list[Windows]]:
    folder = tmp_path_factory.mktemp("shards") / "corpus"
    return folder, write_directory(folder)


@pytest.fixture
def copy(original: tuple[pathlib.Path, list[Windows]], tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the directory, times included, to do harm to."""
    return pathlib.Path(shutil.copytree(original[0], tmp_path / "copy"))


@pytest.mark.parametrize("vocab_size", [300, 2**16, 2**16 + 1])
def test_rows_come_back_as_they_were_packed(tmp_path: pathlib.Path, vocab_size: int) -> None:
    content = write_directory(tmp_path / "corpus", vocab_size)
    rows = ShardedRows(tmp_path / "corpus")
    want = expected(content)
    assert len(rows) == len(want["tokens"]) and rows.row_length == ROW and rows.pad_id == PAD
    index = np.random.default_rng(0).permutation(len(rows))
    for batch in (index, index[:1], np.repeat(index[:3], 2), index[:0]):
        got = rows.take(batch)
        assert set(got) == set(rows.spec) == set(FIELDS)
        for name, values in got.items():
            assert values.dtype == np.int32 and values.shape == (len(batch), ROW)
            np.testing.assert_array_equal(values, want[name][batch], err_msg=name)
    assert rows.useful_share == np.count_nonzero(want["segment_ids"]) / want["segment_ids"].size
    tokens = want["tokens"][want["segment_ids"] > 0]
    counts = rows.token_counts()
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, np.bincount(tokens, minlength=vocab_size))


def test_shards_are_small_and_always_the_same_bytes(tmp_path: pathlib.Path) -> None:
    part = windows(0, 20_000, 1000)
    lengths = np.asarray([len(window) for window in part])
    packed, tokens = packing.pack(lengths, ROW), np.concatenate(part).astype("<u2")
    made = [write_shard(tmp_path / f"{name}.array_record", tokens, lengths, packed) for name in "ab"]
    assert (
        made[0]["sha256"] == made[1]["sha256"] == hashlib.sha256((tmp_path / "a.array_record").read_bytes()).hexdigest()
    )
    # 2 bytes a token, 2 a segment, 4 a row, and what ArrayRecord adds.
    assert made[0]["bytes"] < 1.1 * (tokens.nbytes + 2 * len(lengths) + 4 * len(packed)) + 2**17
    assert made[0]["tokens"] == len(tokens) and made[0]["rows"] == len(packed)
    assert sorted(os.listdir(tmp_path)) == ["a.array_record", "b.array_record"]


def test_batches_of_a_run_are_taken_from_disk(original: tuple[pathlib.Path, list[Windows]]) -> None:
    rows: Dataset = ShardedRows(original[0])
    batches = TrainBatches(rows, batch_size=5, seed=3)
    read = list(batches.iterate(0, 14))
    assert len(read) == 14  # one epoch and a bit
    for step, batch in enumerate(read):
        for name, values in batches.batch(step).items():
            np.testing.assert_array_equal(batch[name], values)
    seen = np.concatenate([batch["tokens"] for batch in read])[: len(rows)]
    want = expected(original[1])["tokens"]
    np.testing.assert_array_equal(np.unique(seen, axis=0), np.unique(want, axis=0))


def test_threads_read_at_once(original: tuple[pathlib.Path, list[Windows]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_OPEN_READERS", 2)  # fewer than there are shards: readers are closed and opened again
    rows, want = ShardedRows(original[0]), expected(original[1])["tokens"]
    wrong = []

    def read(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(40):
            index = draw.integers(0, len(rows), 7)
            if not np.array_equal(rows.take(index)["tokens"], want[index]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_fingerprint_is_that_of_the_rows(
    original: tuple[pathlib.Path, list[Windows]], tmp_path: pathlib.Path
) -> None:
    first = ShardedRows(original[0]).fingerprint()
    write_directory(tmp_path / "same")
    write_directory(tmp_path / "other", counts=(70, 1, 41))
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert ShardedRows(tmp_path / "same").fingerprint() == first
    assert ShardedRows(tmp_path / "other").fingerprint() != first


@pytest.mark.parametrize("place", [0, 0.3, 0.5, 0.999])
def test_a_flipped_bit_is_named(copy: pathlib.Path, place: float) -> None:
    ShardedRows(copy)
    path = copy / shard_name(2)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: its bytes have changed"):
        ShardedRows(copy)


def test_a_shard_cut_short_or_gone_is_named(copy: pathlib.Path) -> None:
    path = copy / shard_name(1)
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: has {size - 1:,} bytes instead of {size:,}"):
        ShardedRows(copy)
    path.unlink()
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: this shard is missing"):
        ShardedRows(copy)


def test_what_breaks_while_it_is_read_is_named(copy: pathlib.Path) -> None:
    rows = ShardedRows(copy)
    path = copy / shard_name(0)
    data = bytearray(path.read_bytes())
    data[200:4000] = bytes(3800)
    path.write_bytes(data)
    with pytest.raises(UserError, match=re.escape(str(path))):
        rows.take(np.arange(len(rows)))


def test_a_shard_is_hashed_once_until_its_file_changes(copy: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    real = shards._sha256

    def counted(path: pathlib.Path, **options: bool) -> str:
        hashed.append(path.name)
        return real(path, **options)

    monkeypatch.setattr(shards, "_sha256", counted)
    ShardedRows(copy)
    assert hashed == []  # known from when they were written; the copy kept the times
    (copy / shards._VERIFIED).unlink()
    ShardedRows(copy)
    assert sorted(hashed) == [shard_name(index) for index in range(3)]
    hashed.clear()
    ShardedRows(copy)
    os.utime(copy / shard_name(1), ns=(1, 1))
    ShardedRows(copy)
    assert hashed == [shard_name(1)]


@pytest.mark.parametrize("text", ["", "[]", '{"shards": {}}'])
def test_a_damaged_list_of_verified_shards_is_made_anew(copy: pathlib.Path, text: str) -> None:
    (copy / shards._VERIFIED).write_text(text)
    ShardedRows(copy)
    assert set(files.read_json(copy / shards._VERIFIED)) >= {shard_name(index) for index in range(3)}


@pytest.mark.parametrize("error", [errno.EACCES, errno.EROFS, errno.EIO])
def test_a_corpus_on_a_disk_of_somebody_else_is_read(
    copy: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    (copy / shards._VERIFIED).unlink()
    monkeypatch.setattr(shards, "_remember", lambda *arguments: (_ for _ in ()).throw(OSError(error, "no")))
    if error == errno.EIO:
        with pytest.raises(OSError, match="no"):
            ShardedRows(copy)
    else:
        assert len(ShardedRows(copy)) > 0


def test_a_damaged_manifest_or_count_is_named(copy: pathlib.Path) -> None:
    path = copy / shards.TOKEN_COUNTS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: is missing or damaged"):
        ShardedRows(copy).token_counts()
    manifest = copy / shards.MANIFEST
    text = manifest.read_text()
    for damaged in (text.replace('"row_length": 16', '"row_length": 17'), text[: len(text) // 2], "[]", "{}"):
        manifest.write_text(damaged)
        with pytest.raises(UserError, match=rf"{re.escape(str(manifest))}: is damaged"):
            ShardedRows(copy)
    manifest.unlink()
    with pytest.raises(UserError, match="holds no finished corpus"):
        ShardedRows(copy)


def test_a_manifest_of_another_format_is_refused(copy: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = files.read_json(copy / shards.MANIFEST)
    monkeypatch.setattr(shards, "FORMAT", 2)
    shards.write_manifest(copy, manifest)
    monkeypatch.undo()
    with pytest.raises(UserError, match="has format 2; this jaxfm reads 1"):
        ShardedRows(copy)


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = np.random.default_rng(0).integers(0, 60_000, 200_000).astype("<u2")
    lengths = np.full(20_000, 10)
    rows = packing.pack(lengths, 10)
    path = tmp_path / shard_name(0)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 10_000))
    with pytest.raises(UserError, match=f"disk is too full: the shard {shard_name(0)} needs 1 MiB"):
        write_shard(path, tokens, lengths, rows)
    monkeypatch.undo()
    # The system's own refusal: a file may not grow beyond 100 kB.
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match=rf"{re.escape(str(path))}: cannot be written: File too large"):
            write_shard(path, tokens, lengths, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []

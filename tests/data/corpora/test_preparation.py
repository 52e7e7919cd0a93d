import dataclasses
import errno
import fcntl
import hashlib
import itertools
import os
import pathlib
import random
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from jaxfm import files
from jaxfm.data.corpora import portions, preparation, shards
from jaxfm.data.corpora.documents import Document
from jaxfm.data.corpora.preparation import Preparation, prepare, prepare_cached
from jaxfm.data.corpora.shards import ShardedRows
from jaxfm.errors import UserError
from tests import tiny

SETTINGS = Preparation("made up", row_length=24, shard_documents=20)
OF_THE_RUN = {"report.json", "report.md", ".verified.json", ".lock"}  # seconds and times of files
Read = Callable[[], Iterator[Document]]


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    words = [*tiny.FILLERS, *tiny.NAMES["PER"], *tiny.NAMES["LOC"]]
    return [" ".join(draw.choices(words, k=draw.choice((6, 10, 40, 100)))) for _ in range(count)]


def reader(content: Sequence[str], stop_at: int | None = None) -> Read:
    """Reads the texts; where `stop_at` is given, what a killed process does not do any more stays undone."""

    def read() -> Iterator[Document]:
        for number, text in enumerate(content):
            if number == stop_at:
                raise KeyboardInterrupt
            yield Document(text, f"corpus.txt:{number + 1}")

    return read


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)
    return folder


def contents(folder: pathlib.Path) -> dict[str, str]:
    """File -> sha256, without what tells of one run."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in OF_THE_RUN
    }


def text_of(rows: ShardedRows) -> list[int]:
    """All pieces in the rows, sorted, without special tokens."""
    batch = rows.take(np.arange(len(rows)))
    special = [tiny.VOCABULARY.index(sign) for sign in ("[PAD]", "[CLS]", "[SEP]")]
    return sorted(batch["tokens"][~np.isin(batch["tokens"], special)].tolist())


def pieces_of(tokenizer: pathlib.Path, content: Sequence[str]) -> list[int]:
    backend = preparation.load_tokenizer(tokenizer)
    return sorted(itertools.chain(*backend(list(content), add_special_tokens=False, verbose=False)["input_ids"]))


def test_every_piece_of_the_corpus_is_in_the_rows_once(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = texts(90)
    manifest = prepare(reader(content), tokenizer, tmp_path / "out", SETTINGS)
    rows = ShardedRows(tmp_path / "out")
    assert manifest == rows.manifest
    pieces = pieces_of(tokenizer, content)
    assert text_of(rows) == pieces
    counts = np.bincount(pieces, minlength=len(tiny.VOCABULARY))
    np.testing.assert_array_equal(rows.token_counts(), counts)
    assert len(manifest["shards"]) == 5 and manifest["documents"] == 90 == sum(manifest["histogram"])
    assert manifest["characters"] == sum(map(len, content))
    assert manifest["pieces"] == len(pieces) and manifest["rows"] == len(rows)
    batch = rows.take(np.arange(len(rows)))
    assert manifest["useful_share"] == np.count_nonzero(batch["segment_ids"]) / batch["segment_ids"].size
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == ["tokenizer"]
    saved = preparation.load_tokenizer(rows.tokenizer_directory)
    assert portions.vocabulary_of(saved, "").sha256 == manifest["tokenizer_sha256"]


def test_the_result_is_the_same_with_more_workers(
    tokenizer: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = texts(60)
    content += [*content[:20], *texts(60, seed=1)]
    settings = dataclasses.replace(SETTINGS, deduplicate="near")
    monkeypatch.setattr(preparation, "_BLOCK_CHARACTERS", 1000)
    for workers in (1, 2):
        prepare(reader(content), tokenizer, tmp_path / str(workers), dataclasses.replace(settings, workers=workers))
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert files.read_json(tmp_path / "2" / "report.json")["dropped"]["exact duplicate"] == 20


def test_a_stopped_preparation_goes_on_and_ends_the_same(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = [*texts(45), *texts(45)]
    settings = dataclasses.replace(SETTINGS, deduplicate="exact")
    prepare(reader(content), tokenizer, tmp_path / "whole", settings)
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        prepare(reader(content, stop_at=42), tokenizer, folder, dataclasses.replace(settings, shard_documents=20))
    with pytest.raises(UserError, match="holds no finished corpus"):
        ShardedRows(folder)
    # examined in blocks: nothing was made yet. Without duplicate removal shards are made on the way.
    assert files.read_json(folder / preparation.SETTINGS)["deduplicate"] == "exact"
    prepare(reader(content), tokenizer, folder, settings)
    assert contents(folder) == contents(tmp_path / "whole")


def test_finished_shards_are_not_made_again(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content, folder = texts(90), tmp_path / "stopped"
    prepare(reader(content), tokenizer, tmp_path / "whole", SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        prepare(reader(content, stop_at=65), tokenizer, folder, SETTINGS)
    kept = {path.name: path.stat().st_ino for path in folder.glob("rows-*")}
    assert sorted(kept) == [shards.shard_name(index) for index in range(3)]
    # One of them was damaged, and the process was killed amid writing.
    damaged = folder / shards.shard_name(1)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (folder / f".{shards.shard_name(3)}.part").write_bytes(b"half")
    (folder / portions.RECORDS_DIR / ".x.json.abc.part").write_bytes(b"half")
    prepare(reader(content), tokenizer, folder, SETTINGS)
    assert contents(folder) == contents(tmp_path / "whole")
    again = {name for name, inode in kept.items() if (folder / name).stat().st_ino != inode}
    assert again == {damaged.name}
    assert files.read_json(folder / "report.json")["run"]["found_finished"] == 2


def test_an_error_in_the_text_keeps_the_shards_before_it(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = texts(50)

    def broken() -> Iterator[Document]:
        yield from itertools.islice(reader(content)(), 45)
        raise UserError("corpus.txt:46: a NUL byte")

    with pytest.raises(UserError, match="corpus.txt:46"):
        prepare(broken, tokenizer, tmp_path / "out", SETTINGS)
    assert len(list((tmp_path / "out").glob("rows-*"))) == 2
    prepare(reader(content), tokenizer, tmp_path / "out", SETTINGS)
    assert files.read_json(tmp_path / "out" / "report.json")["run"]["found_finished"] == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda content: [*content[:5], "met", *content[6:]],  # another document
        lambda content: [content[0] + content[1], *content[2:]],  # other borders
        lambda content: content[:40],  # ends with a shard
        lambda content: [*content, "met"],
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_input_is_noticed(
    tokenizer: pathlib.Path, tmp_path: pathlib.Path, change: Callable[[list[str]], list[str]], finished: bool
) -> None:
    content, folder = texts(50), tmp_path / "out"
    prepare(reader(content), tokenizer, folder, SETTINGS)
    before = contents(folder)
    if not finished:  # killed after the last shard
        prepare_again = tmp_path / "again"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards, "write_manifest", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                prepare(reader(content), tokenizer, prepare_again, SETTINGS)
        folder = prepare_again
    with pytest.raises(UserError, match="the input is no longer the one that"):
        prepare(reader(change(content)), tokenizer, folder, SETTINGS)
    prepare(reader(content), tokenizer, folder, SETTINGS)
    assert contents(folder) == before


def test_a_finished_directory_is_left_as_it_is(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content, folder = texts(30), tmp_path / "out"
    first = prepare(reader(content), tokenizer, folder, SETTINGS)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert prepare(reader(content), tokenizer, folder, dataclasses.replace(SETTINGS, workers=2)) == first
    assert times == {path: path.stat().st_mtime_ns for path in times}
    path = folder / shards.shard_name(0)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match=f"{path.name}: its bytes have changed"):
        prepare(reader(content), tokenizer, folder, SETTINGS)


def test_other_settings_are_refused_by_name(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content, folder = texts(30), tmp_path / "out"
    prepare(reader(content), tokenizer, folder, SETTINGS)
    before = contents(folder)
    (tmp_path / "test.txt").write_text("met " * 20)
    other = tmp_path / "other"
    tiny.write_tokenizer(other)
    (other / "vocab.txt").write_text("\n".join(tiny.VOCABULARY[:-1]) + "\n")
    for change, message in (
        ({"row_length": 32}, r"row_length: 24 -> 32\. Take"),
        ({"deduplicate": "exact"}, r"deduplicate: 'none' -> 'exact'"),
        ({"seed": 1}, r"seed: 0 -> 1"),
        ({"source": "text:other"}, r"source: 'made up' -> 'text:other'"),
        ({"contamination": (str(tmp_path / "test.txt"),)}, r"contamination\..*test\.txt"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(reader(content), tokenizer, folder, dataclasses.replace(SETTINGS, **change))
    with pytest.raises(UserError, match="other settings: tokenizer: "):
        prepare(reader(content), other, folder, SETTINGS)
    (folder / preparation.SETTINGS).write_text("[")
    with pytest.raises(UserError, match="settings.json: is damaged"):
        prepare(reader(content), tokenizer, folder, SETTINGS)
    files.write_json(folder / preparation.SETTINGS, {})
    before.pop("settings.json")
    assert before.items() <= contents(folder).items()


def test_copies_and_overlaps_are_left_out_counted_and_named(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = texts(40)
    content[9], content[30] = content[3].upper(), content[12] + " " + " ".join(f"x{n}" for n in range(13))
    (tmp_path / "test.txt").write_text(" ".join(f"X{n}" for n in range(13)) + "\n")
    (tmp_path / "more.jsonl").write_text('{"text": "short"}\n')
    names = (str(tmp_path / "test.txt"), str(tmp_path / "more.jsonl"))
    settings = dataclasses.replace(SETTINGS, deduplicate="exact", contamination=names)
    manifest = prepare(reader(content), tokenizer, tmp_path / "out", settings)
    assert manifest["dropped"] == {"exact duplicate": 1, "contaminated": 1}
    assert manifest["dropped_characters"] == {"exact duplicate": len(content[9]), "contaminated": len(content[30])}
    assert manifest["overlaps"] == {names[0]: 1}
    left = [text for number, text in enumerate(content) if number not in (9, 30)]
    assert text_of(ShardedRows(tmp_path / "out")) == pieces_of(tokenizer, left)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "exact duplicate: corpus.txt:10\n" in report and "contaminated: corpus.txt:31\n" in report


def test_evaluation_texts_of_a_uri_are_its_valid_and_test(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = texts(3)
    for split, text in zip(("train", "valid", "test"), content, strict=True):
        (tmp_path / f"{split}.txt").write_text(" ".join([text] * 3) + "\n")
    settings = dataclasses.replace(SETTINGS, contamination=(f"text:{tmp_path}",))
    corpus = [" ".join([text] * 3) for text in content]
    manifest = prepare(reader(corpus), tokenizer, tmp_path / "out", settings)
    assert manifest["dropped"] == {"contaminated": 2}


def test_shards_are_cut_by_size_and_no_document_is_divided(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content = ["met " * 500, "old " * 200, "town " * 300, "é " * 1000, "and"]
    settings = dataclasses.replace(SETTINGS, shard_megabytes=0.002, shard_documents=0)
    manifest = prepare(reader(content), tokenizer, tmp_path / "out", settings)
    words = [500, 200 + 300, 1000, 1]  # 2000 bytes; 800 + 1500; 3000; 3
    # Each window adds [CLS] and [SEP].
    windows = [-(-500 // 22), -(-200 // 22) + -(-300 // 22), -(-1000 // 22), 1]
    assert [shard["tokens"] for shard in manifest["shards"]] == [
        count + 2 * more for count, more in zip(words, windows, strict=True)
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_length": 7}, "row_length: is 7, but must be at least 8"),
        ({"row_length": 70_000}, "row_length: is 70000, .* at most 65,535"),
        ({"deduplicate": "exakt"}, "'exakt' is no kind.*'exact'"),
        ({"shard_megabytes": 0.0}, "shard_megabytes: is 0.0"),
        ({"shard_megabytes": float("nan")}, "shard_megabytes: is nan"),
        ({"workers": 0}, "workers: is 0"),
        ({"contamination": ("no/such/file",)}, "contamination: no/such/file: no such file"),
        ({"contamination": ("text:/no/such",)}, "/no/such"),
    ],
)
def test_bad_settings_leave_nothing_behind(
    tokenizer: pathlib.Path, tmp_path: pathlib.Path, change: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        prepare(reader(texts(3)), tokenizer, tmp_path / "out", dataclasses.replace(SETTINGS, **change))
    assert list(tmp_path.iterdir()) == []


def test_bad_input_leaves_nothing_behind(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="made up: is empty"):
        prepare(reader([]), tokenizer, tmp_path / "out", SETTINGS)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "vocab.txt").write_text("met\n[PAD]\n[UNK]\n")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        prepare(reader(texts(3)), tokenizer, tmp_path / "file", SETTINGS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files \(thesis.tex\)"):
        prepare(reader(texts(3)), tokenizer, tmp_path / "full", SETTINGS)
    with pytest.raises(UserError, match="no tokenizer here"):
        prepare(reader(texts(3)), tmp_path, tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["thesis.tex"]


def test_nothing_left_is_said_with_the_reasons(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "test.txt").write_text("met " * 20)
    settings = dataclasses.replace(SETTINGS, contamination=(str(tmp_path / "test.txt"),))
    with pytest.raises(UserError, match=r"nothing is left to prepare of 1 \(1 contaminated\)"):
        prepare(reader(["met " * 14]), tokenizer, tmp_path / "out", settings)
    with pytest.raises(UserError, match=r"nothing is left to prepare of 1 \(no pieces\)"):
        prepare(reader(["\u0001"]), tokenizer, tmp_path / "other", SETTINGS)


def test_a_full_disk_keeps_what_is_finished(
    tokenizer: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, folder = texts(50), tmp_path / "out"
    prepare(reader(content), tokenizer, tmp_path / "whole", SETTINGS)
    free = iter([10**9, 10**9, 1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, next(free)))
    with pytest.raises(UserError, match="the disk is too full: the shard rows-00002"):
        prepare(reader(content), tokenizer, folder, SETTINGS)
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left", "x")))
    with pytest.raises(UserError, match="x: cannot be written: No space left. Finished shards are kept"):
        prepare(reader(content), tokenizer, folder, SETTINGS)
    monkeypatch.undo()
    assert len(list(folder.glob("rows-*"))) == 2
    prepare(reader(content), tokenizer, folder, SETTINGS)
    assert contents(folder) == contents(tmp_path / "whole")


def test_two_preparations_of_one_directory_do_not_mix(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with open(folder / ".lock", "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is writing there"):
            prepare(reader(texts(3)), tokenizer, folder, SETTINGS)
    prepare(reader(texts(3)), tokenizer, folder, SETTINGS)


def test_the_cache_knows_a_corpus_by_its_content(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content, cache = texts(30), tmp_path / "cache"
    made = prepare_cached(reader(content), tokenizer, cache, SETTINGS)
    time = (made / shards.MANIFEST).stat().st_mtime_ns
    assert text_of(ShardedRows(made)) == pieces_of(tokenizer, content)
    elsewhere = dataclasses.replace(SETTINGS, source="the same text from elsewhere", workers=2)
    assert prepare_cached(reader(list(content)), tokenizer, cache, elsewhere) == made
    assert (made / shards.MANIFEST).stat().st_mtime_ns == time
    others = [
        prepare_cached(reader(content[::-1]), tokenizer, cache, SETTINGS),
        prepare_cached(reader(content), tokenizer, cache, dataclasses.replace(SETTINGS, row_length=32)),
    ]
    assert len({made, *others}) == 3


def test_processes_that_want_the_same_cache_entry_make_it_once(tokenizer: pathlib.Path, tmp_path: pathlib.Path) -> None:
    content, found = texts(100), []
    threads = [
        threading.Thread(target=lambda: found.append(prepare_cached(reader(content), tokenizer, tmp_path, SETTINGS)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and len(set(found)) == 1
    assert text_of(ShardedRows(found[0])) == pieces_of(tokenizer, content)

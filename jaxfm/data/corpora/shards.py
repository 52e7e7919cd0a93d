"""Packed rows on disk: ArrayRecord shards, a manifest with their checksums, and random access without reading them all.

A directory holds `manifest.json` (written last, so that it exists only when all else does), `rows-NNNNN.array_record`,
`token_counts.npy` and `tokenizer/`. A record is one packed row, little endian: version byte, bytes a token (2 or 4),
uint16 number of segments n, n uint16 segment lengths, the tokens of all segments. Padding is not stored.
"""

# N rows, T tokens, V vocabulary, n rows of a batch

import collections
import contextlib
import errno
import functools
import hashlib
import itertools
import os
import pathlib
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.core.batch import BatchSpec, Volume
from jaxfm.data.corpora.array_files import map_array
from jaxfm.data.text import packing
from jaxfm.errors import UserError

MANIFEST, TOKEN_COUNTS, TOKENIZER_DIR = "manifest.json", "token_counts.npy", "tokenizer"
FORMAT = 1
MAX_ROW_LENGTH = 2**16 - 1  # a segment's length is a uint16
_VERIFIED = ".verified.json"
_SHARD_NAME = re.compile(r"rows-\d{5,10}\.array_record")
_DIGEST = re.compile("[0-9a-f]{64}")
_MOST_TOKENS = 2**31 - 1  # of a vocabulary
_KINDS: dict[str, type] = {
    "row_length": int,
    "vocab_size": int,
    "pad_id": int,
    "useful_share": float,
    "token_counts_sha256": str,
    "shards": list,
}
# What programs show or compare; absent where a corpus was made by hand.
_OTHER_KINDS: dict[str, type] = {
    **dict.fromkeys(("documents", "characters", "bytes", "tokens", "rows", "pieces"), int),
    **dict.fromkeys(("settings", "dropped", "overlaps"), dict),
    **dict.fromkeys(("unknown_share",), float),
    **dict.fromkeys(("tokenizer_sha256", "input_sha256"), str),
}
_SHARD_KINDS: dict[str, type] = {"name": str, "rows": int, "tokens": int, "bytes": int, "sha256": str}
# 16 rows are compressed together: a third less disk than one by one, and a row still costs only microseconds.
_WRITER_OPTIONS = "group_size:16,zstd:1"
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_OPEN_READERS = 128  # of each thread: thousands of shards must not meet the limit of open files
_FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def shard_name(index: int) -> str:
    """Returns the file name of shard `index`."""
    return f"rows-{index:05d}.array_record"


def token_dtype(vocab_size: int) -> np.dtype:
    """Returns the type in which token ids are stored."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def write_shard(
    path: pathlib.Path, tokens: np.ndarray, lengths: np.ndarray, rows: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Writes one shard, whole or not at all; the same arguments give the same bytes.

    Args:
      path: where to; its folder exists.
      tokens: the tokens of all windows one after another, in the type of `token_dtype`.
      lengths: [windows] the length of each.
      rows: the windows of each row, as `packing.pack` gives them.

    Returns:
      {"name", "rows", "tokens" (without padding), "bytes", "sha256"}.

    Raises UserError when the disk is full.
    """
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

    size = tokens.dtype.itemsize
    # Compression never adds more than this: the records as they are, and a small header for each.
    files.check_room(path.parent, tokens.nbytes + 2 * len(lengths) + 32 * len(rows) + 2**17, f"the shard {path.name}")
    ends = (np.cumsum(lengths) * size).tolist()
    starts = [0, *ends[:-1]]
    data = memoryview(tokens.tobytes())
    part = path.with_name(f".{path.name}.part")
    try:
        writer = array_record_module.ArrayRecordWriter(str(part), _WRITER_OPTIONS)
        for row in rows:
            head = np.asarray([FORMAT | size << 8, len(row), *lengths[row]], "<u2").tobytes()
            writer.write(b"".join([head, *(data[starts[window] : ends[window]] for window in row.tolist())]))
        writer.close()
        digest = _sha256(part, durable=True)
        written = part.stat().st_size
        os.replace(part, path)
    except RuntimeError as error:  # how array_record reports an OSError
        if not any(reason in str(error) for reason in _FULL):
            raise
        raise UserError(
            f"{path}: cannot be written: {next(reason for reason in _FULL if reason in str(error))}. Finished shards "
            "are kept: make room and run the same command again."
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return {
        "name": path.name,
        "rows": len(rows),
        "tokens": int(np.sum(lengths)),
        "bytes": written,
        "sha256": digest,
    }


def write_token_counts(path: pathlib.Path, counts: np.ndarray) -> str:
    """Writes counts [V] as int64 in one step; returns the file's sha256."""
    with files.atomic_write(path, binary=True) as file:
        np.save(file, counts.astype("<i8"), allow_pickle=False)
    return _sha256(path)


def write_manifest(directory: pathlib.Path, content: dict[str, Any]) -> dict[str, Any]:
    """Writes the manifest with its own checksum, and remembers that the shards were hashed as they were made."""
    manifest = {**content, "format": FORMAT, "checksum": ""}
    manifest["checksum"] = files.json_digest(manifest)
    _remember(directory, {shard["name"]: _mark(directory / shard["name"], shard) for shard in manifest["shards"]})
    files.write_json(directory / MANIFEST, manifest)
    return manifest


def read_manifest(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks the manifest, not the shards. Raises UserError when it is absent or damaged."""
    path = pathlib.Path(directory) / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{path}: absent, so {path.parent} holds no finished corpus. Make it with python -m jaxfm.prepare "
            "--output=DIR; one that was stopped goes on with the same command."
        )
    try:
        manifest = files.read_json(path)
        sound = manifest["checksum"] == files.json_digest({**manifest, "checksum": ""})
    except (ValueError, TypeError, KeyError):
        sound, manifest = False, {}
    if not sound:
        raise UserError(f"{path}: is damaged (its checksum does not fit). Remove it and run jaxfm.prepare again.")
    if manifest.get("format") != FORMAT:
        raise UserError(
            f"{path}: has format {manifest.get('format')!r:.40}; this jaxfm reads {FORMAT}. Prepare the corpus anew."
        )
    _check_manifest(manifest, path)
    return manifest


def check_shard(shard: Any, where: str) -> None:
    """Raises UserError for what is not `write_shard`'s account of a shard; its name never leads out of the folder."""
    files.check_values(shard, _SHARD_KINDS, where)
    if not _SHARD_NAME.fullmatch(shard["name"]) or not _DIGEST.fullmatch(shard["sha256"]):
        raise UserError(f"{where}: {shard['name']!r:.80} is not the name of a shard, or its hash is none.")


def _check_manifest(manifest: dict[str, Any], path: pathlib.Path) -> None:
    """Raises UserError for values of another kind than `write_manifest` writes: a checksum proves no more."""
    files.check_values(manifest, _KINDS, str(path))
    files.check_values(manifest, {key: kind for key, kind in _OTHER_KINDS.items() if key in manifest}, str(path))
    for number, shard in enumerate(manifest["shards"]):
        check_shard(shard, f"{path}: shards[{number}]")
    if not 1 <= manifest["row_length"] <= MAX_ROW_LENGTH:
        raise UserError(f"{path}: row_length is {manifest['row_length']:,}, but must be from 1 to {MAX_ROW_LENGTH:,}.")
    if not manifest["pad_id"] < manifest["vocab_size"] <= _MOST_TOKENS:
        raise UserError(f"{path}: vocab_size is {manifest['vocab_size']:,} and pad_id {manifest['pad_id']:,}.")
    if not 0 <= manifest["useful_share"] <= 1 or sum(shard["rows"] for shard in manifest["shards"]) >= 2**63:
        raise UserError(f"{path}: useful_share {manifest['useful_share']} is no share, or there are too many rows.")


def verify(directory: pathlib.Path, shards: Iterable[dict[str, Any]]) -> None:
    """Compares every shard with its checksum; one that was, and has the same size and time since, is not read again.

    Raises UserError naming the first shard that is missing, cut short or changed.
    """
    known = _remembered(directory)
    fresh = {}
    for shard in shards:
        path = directory / shard["name"]
        repair = "Copy it again, or remove this directory and run jaxfm.prepare anew."
        if not path.is_file():
            raise UserError(f"{path}: this shard is missing. {repair}")
        if path.stat().st_size != shard["bytes"]:
            raise UserError(f"{path}: has {path.stat().st_size:,} bytes instead of {shard['bytes']:,}. {repair}")
        mark = _mark(path, shard)
        if known.get(shard["name"]) != mark:
            if _sha256(path) != shard["sha256"]:
                raise UserError(f"{path}: its bytes have changed since it was written (sha256 differs). {repair}")
            fresh[shard["name"]] = mark
    if fresh:
        with contextlib.suppress(PermissionError):  # somebody else's corpus: hashed again at the next start
            try:
                _remember(directory, known | fresh)
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.ENOSPC, errno.EDQUOT):
                    raise


def file_hashes(folder: pathlib.Path) -> dict[str, str]:
    """Returns file -> sha256 of the files under a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in paths}


def verify_tokenizer(directory: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Raises UserError naming a file of the tokenizer that has changed since the rows were made with it.

    Corpora of before their hashes were kept are taken as they are.
    """
    folder, wanted = directory / TOKENIZER_DIR, manifest.get("tokenizer_files")
    if wanted is None:
        return
    found = file_hashes(folder) if folder.is_dir() else {}
    for name in sorted({*wanted, *found}):
        if wanted.get(name) != found.get(name):
            what = "is missing" if name not in found else "is new" if name not in wanted else "has changed"
            raise UserError(
                f"{folder / name}: {what} since the rows were made with this tokenizer. Copy the directory again, or "
                "remove it and run jaxfm.prepare anew."
            )


def is_whole(directory: pathlib.Path, shard: dict[str, Any]) -> bool:
    """Whether a shard has the content that was written."""
    return has_content(directory / shard["name"], shard["sha256"])


def has_content(path: pathlib.Path, sha256: str) -> bool:
    """Whether a file has that content."""
    return path.is_file() and _sha256(path) == sha256


class ShardedRows:
    """Packed rows of a prepared directory by index, read from disk when asked for; safe to use from several threads."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Opens a finished directory. Raises UserError naming what is missing or damaged in it."""
        self._directory = pathlib.Path(directory)
        self.manifest = read_manifest(directory)
        shards = self.manifest["shards"]
        verify(self._directory, shards)
        verify_tokenizer(self._directory, self.manifest)
        self._ends = np.asarray(list(itertools.accumulate(shard["rows"] for shard in shards)), np.int64)
        self._dtype = token_dtype(self.manifest["vocab_size"])
        self._local = threading.local()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def row_length(self) -> int:
        """Tokens a row, T."""
        return self.manifest["row_length"]

    @property
    def pad_id(self) -> int:
        """The padding token."""
        return self.manifest["pad_id"]

    @property
    def vocab_size(self) -> int:
        """The size V of the tokenizer's vocabulary."""
        return self.manifest["vocab_size"]

    @property
    def spec(self) -> BatchSpec:
        """The arrays of a batch."""
        return packing.text_fields(self.row_length, self.pad_id)

    @property
    def volume(self) -> Volume:
        """Tokens of a row; the longest example is looked for in the first thousand rows alone."""
        return self._volume

    @functools.cached_property
    def _volume(self) -> Volume:
        longest = int(self.take(np.arange(min(len(self), 1024)))["positions"].max(initial=-1)) + 1
        return Volume("tokens", self.row_length, self.row_length * self.useful_share, longest)

    @property
    def useful_share(self) -> float:
        """The share of tokens that are not padding."""
        return self.manifest["useful_share"]

    @property
    def tokenizer_directory(self) -> pathlib.Path:
        """The copy of the tokenizer that the rows were made with."""
        return self._directory / TOKENIZER_DIR

    def fingerprint(self) -> str:
        """The sha256 over the shards' checksums and what it takes to read them."""
        digest = hashlib.sha256(f"{FORMAT} {self.row_length} {self.pad_id} {self.vocab_size}".encode())
        for shard in self.manifest["shards"]:
            digest.update(bytes.fromhex(shard["sha256"]))
        return digest.hexdigest()

    def token_counts(self) -> np.ndarray:
        """How often each token occurs in the text [V], int64; the special tokens that frame windows do not count.

        Raises UserError when the file is missing or damaged.
        """
        path = self._directory / TOKEN_COUNTS
        if not has_content(path, self.manifest["token_counts_sha256"]):
            raise UserError(f"{path}: is missing or damaged. Remove this directory and run jaxfm.prepare anew.")
        counts = map_array(path, np.dtype("<i8"), ())
        if len(counts) != self.vocab_size:
            raise UserError(f"{path}: counts {len(counts):,} tokens, but the vocabulary has {self.vocab_size:,}.")
        return np.array(counts)

    def take(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the rows [n] asked for as a batch: int32 [n, T] a field of `spec`.

        Raises UserError naming a shard that can no longer be read.
        """
        index = np.asarray(index, np.int64)
        assert index.size == 0 or 0 <= index.min() <= index.max() < len(self), "an index of no row"
        records = self._read(index)
        lengths = [self._lengths(record, int(row)) for record, row in zip(records, index, strict=True)]
        tokens = [
            np.frombuffer(record, self._dtype, offset=4 + 2 * len(part))
            for record, part in zip(records, lengths, strict=True)
        ]
        counts = np.asarray([len(part) for part in lengths], np.int64)
        sizes = np.concatenate([np.zeros(0, np.int64), *lengths])  # of all segments
        filled = np.asarray([len(row) for row in tokens], np.int64)
        position = np.repeat(np.arange(len(index)) * self.row_length, filled) + packing.ramps(filled)

        largest = max((int(row.max()) for row in tokens if row.size), default=0)
        if largest >= self.vocab_size:
            raise UserError(
                f"{self._directory}: holds the token {largest:,}, but the vocabulary has {self.vocab_size:,} entries: "
                "these rows are of another tokenizer. Prepare the corpus anew."
            )

        def lay(values: np.ndarray | int, empty: int) -> np.ndarray:
            laid = np.full((len(index), self.row_length), empty, np.int32)
            laid.reshape(-1)[position] = values
            return laid

        return {
            "tokens": lay(np.concatenate([np.zeros(0, self._dtype), *tokens]), self.pad_id),
            "segment_ids": lay(np.repeat(packing.ramps(counts) + 1, sizes), 0),
            "positions": lay(packing.ramps(sizes), 0),
        }

    def _lengths(self, record: bytes, row: int) -> np.ndarray:
        """Returns the lengths of a row's segments. Raises UserError for a record that is not a row of this corpus."""
        count, width = int.from_bytes(record[2:4], "little"), self._dtype.itemsize
        if len(record) >= 4 + 2 * count and record[0] == FORMAT and record[1] == width:
            lengths = np.frombuffer(record, "<u2", count, 4)
            filled = int(lengths.sum())
            if filled <= self.row_length and len(record) == 4 + 2 * count + filled * width:
                return lengths
        raise UserError(
            f"{self._directory}: row {row:,} is not one of {self.row_length:,} tokens of a vocabulary of "
            f"{self.vocab_size:,}. Remove this directory and run jaxfm.prepare anew."
        )

    def _read(self, index: np.ndarray) -> list[bytes]:
        records: list[bytes] = [b""] * len(index)
        shards = np.searchsorted(self._ends, index, side="right")
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            first = int(self._ends[shard]) - self.manifest["shards"][shard]["rows"]
            try:
                found = self._reader(shard).read((index[here] - first).tolist())
            except (RuntimeError, IndexError, ValueError) as error:
                raise UserError(
                    f"{self._directory / self.manifest['shards'][shard]['name']}: cannot be read: {error}. "
                    "It was whole when it was opened: look after the disk, then copy it again."
                ) from error
            for position, record in zip(here.tolist(), found, strict=True):
                records[position] = record
        return records

    def _reader(self, shard: int) -> Any:
        """This thread's reader of a shard, opened at the first use; the one unused for longest is closed for it."""
        from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

        local = self._local
        if getattr(local, "process", None) != os.getpid():  # a fork must not share file positions
            local.process, local.readers = os.getpid(), collections.OrderedDict()
        readers: collections.OrderedDict[int, Any] = local.readers
        if shard not in readers:
            path = self._directory / self.manifest["shards"][shard]["name"]
            readers[shard] = array_record_module.ArrayRecordReader(str(path), _READER_OPTIONS)
            if len(readers) > _OPEN_READERS:
                readers.popitem(last=False)[1].close()
        readers.move_to_end(shard)
        return readers[shard]


def _sha256(path: pathlib.Path, *, durable: bool = False) -> str:
    with open(path, "rb") as file:
        if durable:
            os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mark(path: pathlib.Path, shard: dict[str, Any]) -> list[Any]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, shard["sha256"]]


def _remembered(directory: pathlib.Path) -> dict[str, list[Any]]:
    try:
        known = files.read_json(directory / _VERIFIED)
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(directory: pathlib.Path, known: dict[str, list[Any]]) -> None:
    files.write_json(directory / _VERIFIED, known)

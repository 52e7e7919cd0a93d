"""Vectors of texts in a directory, and the texts: written in portions, memory-mapped to read.

    manifest.json  whose vectors of which corpus they are, how many are written, and whether that is all of them
    vectors.npy    f32 [N, D], or [M, D] of all tokens
    texts.jsonl    a text a line, with its id
    offsets.npy    int64 [N], where each line starts, in bytes
    ends.npy       int64 [N], where the vectors of each text end, if it has a vector a token

A portion is written first and counted in the manifest, in one step, afterwards: a process that is killed leaves what
was counted, and the next one goes on from there. Both .npy files are whole NumPy files after every portion.
"""

# N texts, M tokens of all texts, D numbers a vector

import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.data.corpora.array_files import map_array
from jaxfm.errors import UserError

MANIFEST, VECTORS, TEXTS, OFFSETS = "manifest.json", "vectors.npy", "texts.jsonl", "offsets.npy"
ENDS = "ends.npy"
MAXSIM = "maxsim"  # similarity of texts that have a vector a token
VERSION = 1
_MOST_TEXT = 1 << 28  # bytes of one text with its fields
_HEADER = 128  # bytes; NumPy leaves room in it for a first axis of any length


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a store is of; another one is refused.

    Attributes:
      encoder: hash of what made the vectors: weights, spec and prompts.
      workdir: where that lay, for messages.
      corpus: hash of all texts.
      corpus_name: for messages.
      count: texts of the corpus, N.
      dimension: D.
      similarity: "cosine" or "dot"; "maxsim" where a text has a vector a token.
      answers: whether every text has an answer.
    """

    encoder: str
    workdir: str
    corpus: str
    corpus_name: str
    count: int
    dimension: int
    similarity: str
    answers: bool = False


class VectorStore:
    """A directory of vectors.

    Attributes:
      folder: the directory.
      identity: what it is of.
      done: number of texts that are written.
    """

    def __init__(self, folder: pathlib.Path, option: str = "--index"):
        """Opens what is there, unfinished or not; UserError, naming `option`, where there is no such store."""
        self.folder, self._option = folder, option
        path = folder / MANIFEST
        if not path.is_file():
            raise UserError(f"{option}={folder}: holds no vectors of texts ({MANIFEST} is not there).")
        values = files.read_versioned(path, VERSION)
        files.check_values(values, {"identity": dict, "done": int, "bytes": int}, str(path))
        own = {"answers": False, **values.pop("identity")}
        kinds = {each.name: each.type for each in dataclasses.fields(Identity) if isinstance(each.type, type)}
        files.check_values(own, kinds, f"{path}: identity")
        if unknown := own.keys() - kinds.keys():
            raise UserError(
                f"{path}: identity: {min(unknown)!r:.80} is not a key that jaxfm wrote. Name a new directory."
            )
        self.identity = Identity(**own)
        self.done, self._bytes = values.pop("done"), values.pop("bytes")
        files.check_values({"vectors": self.done} | values, {"vectors": int}, str(path))
        self._vectors = values.pop("vectors", self.done)
        if self.done > self.identity.count:
            raise UserError(f"{path}: says that {self.done:,} texts of {self.identity.count:,} are written. Remove it.")
        self._facts = values

    @property
    def complete(self) -> bool:
        """Whether all texts are written."""
        return self.done == self.identity.count

    @property
    def facts(self) -> Mapping[str, Any]:
        """What else the manifest says, JSON values; see `note`."""
        return self._facts

    def note(self, **facts: Any) -> None:
        """Adds facts to the manifest."""
        self._facts |= facts
        self._write()

    def check(self, identity: Identity) -> None:
        """Raises UserError where this store is of another run or another corpus."""
        own, instead = self.identity, "Name another directory, or remove this one."
        if (own.encoder, own.dimension) != (identity.encoder, identity.dimension):
            raise UserError(
                f"{self._option}={self.folder}: holds vectors of another run ({own.workdir}, hash "
                f"{own.encoder[:12]}), not of {identity.workdir} ({identity.encoder[:12]}). {instead}"
            )
        if own.corpus != identity.corpus:
            raise UserError(
                f"{self._option}={self.folder}: holds another corpus ({own.corpus_name}, {own.count:,} texts, hash "
                f"{own.corpus[:12]}), not {identity.corpus_name} as it is now ({identity.count:,} texts, "
                f"{identity.corpus[:12]}). {instead}"
            )
        if identity.answers and not own.answers:
            raise UserError(f"{self._option}={self.folder}: was made without --answer. {instead}")

    def append(
        self, vectors: np.ndarray, texts: Sequence[Mapping[str, Any]], counts: Sequence[int] | None = None
    ) -> None:
        """Adds a portion: vectors f32 [n, D] and the JSON values of n texts. They are counted once all is on disk.

        `counts` is the number of vectors of each text where that has one a token; `vectors` then are those of all.
        """
        assert (counts is not None) == (self.identity.similarity == MAXSIM)
        assert vectors.shape == (len(texts) if counts is None else sum(counts), self.identity.dimension)
        lines = [json.dumps(text, ensure_ascii=False).encode("utf-8") + b"\n" for text in texts]
        starts = self._bytes + np.concatenate([[0], np.cumsum([len(line) for line in lines], dtype=np.int64)])
        with open(self.folder / TEXTS, "r+b") as file:
            _replace_after(file, self._bytes, b"".join(lines))
        width = self.identity.dimension
        _grow(self.folder / VECTORS, self._vectors, np.ascontiguousarray(vectors, np.float32), (width,))
        if counts is not None:
            _grow(self.folder / ENDS, self.done, self._vectors + np.cumsum(counts, dtype=np.int64), ())
        _grow(self.folder / OFFSETS, self.done, starts[:-1], ())
        self.done, self._bytes, self._vectors = self.done + len(texts), int(starts[-1]), self._vectors + len(vectors)
        self._write()

    @property
    def vectors(self) -> np.ndarray:
        """f32 [N, D], or [M, D] where a text has a vector a token; memory-mapped."""
        return self._mapped(VECTORS, self._vectors, np.dtype(np.float32), (self.identity.dimension,))

    @property
    def ends(self) -> np.ndarray:
        """int64 [N], where the vectors of each text end, if it has one a token; memory-mapped."""
        return self._mapped(ENDS, self.done, np.dtype(np.int64), ())

    def texts(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """Returns the JSON values of the texts of these numbers, from 0."""
        offsets, found = self._mapped(OFFSETS, self.done, np.dtype(np.int64), ()), []
        with open(self.folder / TEXTS, "rb") as file:
            for number in numbers:
                try:
                    file.seek(int(offsets[number]))
                    text = json.loads(file.readline(_MOST_TEXT))
                    if not isinstance(text, dict):
                        raise ValueError(f"a JSON {type(text).__name__}")
                    found.append(text)
                except (ValueError, RecursionError, OSError) as error:
                    raise UserError(
                        f"{self.folder / TEXTS}: text {number + 1:,} is not what was written ({error}). Remove the "
                        "directory."
                    ) from error
        return found

    def _mapped(self, name: str, count: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        """Returns the first `count` entries, each of that type and shape. Raises UserError unless all are there."""
        mapped = map_array(self.folder / name, dtype, shape)
        if len(mapped) < count:
            raise UserError(
                f"{self.folder / name}: has {len(mapped):,} of {count:,} entries: it was cut. Remove the directory."
            )
        return mapped[:count]

    def _write(self) -> None:
        values = {"identity": dataclasses.asdict(self.identity), "done": self.done, "bytes": self._bytes}
        values |= {"vectors": self._vectors} if self.identity.similarity == MAXSIM else {}
        files.write_json(self.folder / MANIFEST, {"version": VERSION, **values, **self._facts})


def make_store(folder: pathlib.Path, identity: Identity, option: str = "--index") -> VectorStore:
    """Returns the store in a directory, which is begun where it is absent or empty, and may be unfinished.

    Raises UserError: it is of another run or corpus, or the directory holds something else.
    """
    if folder.is_file():
        raise UserError(f"{option}={folder}: is a file; name a directory.")
    files.check_parents(folder, option)
    if not (folder / MANIFEST).is_file():
        begun = {VECTORS, TEXTS, OFFSETS, ENDS}
        if folder.is_dir() and any(
            path.name not in begun and not path.name.startswith(f".{MANIFEST}") for path in folder.iterdir()
        ):
            raise UserError(f"{option}={folder}: is not empty and holds no vectors of texts. Name a new directory.")
        size = identity.count * (4 * identity.dimension + 8)
        files.check_room(folder, size, f"{identity.count:,} vectors of {identity.dimension} numbers")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TEXTS).write_bytes(b"")
        (folder / VECTORS).write_bytes(_header(np.dtype(np.float32), (0, identity.dimension)))
        (folder / OFFSETS).write_bytes(_header(np.dtype(np.int64), (0,)))
        if identity.similarity == MAXSIM:
            (folder / ENDS).write_bytes(_header(np.dtype(np.int64), (0,)))
        values = {"version": VERSION, "identity": dataclasses.asdict(identity), "done": 0, "bytes": 0}
        files.write_json(folder / MANIFEST, values)
    store = VectorStore(folder, option)
    store.check(identity)
    return store


def _header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """Returns the first bytes of a .npy file, always the same number of them."""
    buffer = io.BytesIO()
    values = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, values)
    assert len(buffer.getvalue()) == _HEADER, "NumPy pads headers to this length"
    return buffer.getvalue()


def _grow(path: pathlib.Path, done: int, rows: np.ndarray, shape: tuple[int, ...]) -> None:
    """Puts rows after the first `done` ones of a .npy file; the header, which counts them, is written last."""
    width = int(np.prod(shape, dtype=np.int64)) * rows.itemsize
    with open(path, "r+b") as file:
        _replace_after(file, _HEADER + done * width, rows.tobytes())
        file.seek(0)
        file.write(_header(rows.dtype, (done + len(rows), *shape)))
        file.flush()
        os.fsync(file.fileno())


def _replace_after(file: Any, place: int, data: bytes) -> None:
    """Writes the data at a place, where the file then ends, and sees it to the disk."""
    file.seek(place)
    file.write(data)
    file.truncate()
    file.flush()
    os.fsync(file.fileno())

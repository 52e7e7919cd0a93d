"""A corpus to packed shards: streamed once, cut into portions of neighbouring documents, each of which becomes a shard.

The main process reads, decides what is left out and cuts portions, in document order; workers examine documents and
make shards. So the result depends on the input and the settings, never on the number of workers or which is first.
A shard is finished when its record exists; the manifest is written last.
"""

import collections
import contextlib
import dataclasses
import errno
import functools
import hashlib
import itertools
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm import files
from jaxfm.data.corpora import deduplication, portions, preparation_report, shards
from jaxfm.data.corpora.array_files import map_array
from jaxfm.data.corpora.corpus import open_corpus
from jaxfm.data.corpora.documents import Document
from jaxfm.data.corpora.ordered import OrderedPool
from jaxfm.data.corpora.portions import Portion, Vocabulary
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.observe.progress import StreamProgress
from jaxfm.schema import differences

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SETTINGS = "settings.json"
SMALLEST_ROW = 8
_LOCK = ".lock"
_BLOCK_CHARACTERS = 2**20  # of documents examined in one go
_NAMED = 20  # dropped documents that the report names, of each reason

Read = Callable[[], Iterator[Document]]


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How a corpus is prepared.

    Attributes:
        source: what the input is called in records and messages, such as its URI and split.
        row_length: tokens a row, special tokens included.
        deduplicate: "none", "exact" (equal but for case, white space and Unicode form) or "near" (exact, and MinHash).
        contamination: evaluation files, or URIs of corpora of which valid and test are taken; documents that have 13
            words in a row with them in common are left out.
        shard_megabytes: text of one shard in MB (10^6 bytes of UTF-8); a document is never divided.
        shard_documents: most documents of one shard; 0: any number.
        seed: of the order in which a shard's windows are packed.
        packed: several windows fill a row; False: each has its own.
        workers: processes that work beside this one; 1: this one does all. Does not change the result.
    """

    source: str
    row_length: int = 128
    deduplicate: str = "none"
    contamination: tuple[str, ...] = ()
    shard_megabytes: float = 16.0
    shard_documents: int = 0
    seed: int = 0
    packed: bool = True
    workers: int = 1


def prepare(
    read: Read,
    tokenizer_directory: pathlib.Path,
    output: pathlib.Path,
    settings: Preparation,
    progress: StreamProgress | None = None,
) -> dict[str, Any]:
    """Prepares a split of a corpus, goes on with one that was stopped, or finds it done.

    Args:
      read: every call reads the documents anew, in the same order.
      tokenizer_directory: Hugging Face tokenizer files; a copy is kept in `output`.
      output: new, empty, or of an earlier call with the same settings.
      settings: see `Preparation`.
      progress: where to show how far it is.

    Returns:
      The manifest.

    Raises:
      UserError: settings out of range, a tokenizer without the special tokens, an empty corpus, an `output` of other
        settings or another input, a full disk; finished shards are kept.
    """
    plan = _plan(tokenizer_directory, settings, settings.source)
    return _prepare(read, plan, pathlib.Path(output), settings, progress or StreamProgress(quiet=True), wait=False)


def prepare_cached(
    read: Read,
    tokenizer_directory: pathlib.Path,
    cache: pathlib.Path,
    settings: Preparation,
    progress: StreamProgress | None = None,
) -> pathlib.Path:
    """Prepares into a directory of `cache` that is named after content and settings; returns it, made or found.

    Several processes may ask for the same at once: one makes it, the others wait. Raises UserError as `prepare`.
    """
    digest = hashlib.sha256()
    for document in read():
        _take_in(digest, document.text.encode())
    # What the text is says all; where it came from does not matter.
    plan = _plan(tokenizer_directory, settings, digest.hexdigest())
    output = pathlib.Path(cache) / files.json_digest(plan.identity)[:16]
    if not (output / shards.MANIFEST).is_file():
        _prepare(read, plan, output, settings, progress or StreamProgress(quiet=True), wait=True)
    return output


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Settings and what they name, opened; `identity` (JSON) is all that decides the result beside the documents."""

    tokenizer: "PreTrainedTokenizerFast"
    vocabulary: Vocabulary
    contamination: deduplication.Contamination | None
    identity: dict[str, Any]


def _plan(tokenizer_directory: pathlib.Path, settings: Preparation, source: str) -> _Plan:
    _check(settings)
    tokenizer = load_tokenizer(tokenizer_directory)
    vocabulary = portions.vocabulary_of(tokenizer, str(tokenizer_directory))
    contamination = _read_contamination(settings.contamination) if settings.contamination else None
    identity = {key: value for key, value in dataclasses.asdict(settings).items() if key != "workers"}
    if settings.packed:
        del identity["packed"]  # so that corpora prepared before this setting existed are found
    identity |= {
        "format": shards.FORMAT,
        "source": source,
        "tokenizer": vocabulary.sha256,
        "contamination": {} if contamination is None else contamination.checksums(),
    }
    return _Plan(tokenizer, vocabulary, contamination, identity)


def _check(settings: Preparation) -> None:
    deduplication.check_kind(settings.deduplicate)
    for name, least, most in (
        ("row_length", SMALLEST_ROW, shards.MAX_ROW_LENGTH),
        ("shard_megabytes", 1e-3, 1e4),
        ("shard_documents", 0, 10**9),
        ("seed", 0, 2**63),
        ("workers", 1, 1024),
    ):
        value = getattr(settings, name)
        if not least <= value <= most:
            raise UserError(f"{name}: is {value!r}, but must be at least {least:,} and at most {most:,}.")


def _read_contamination(names: Iterable[str]) -> deduplication.Contamination:
    def texts(name: str) -> Iterator[str]:
        path = files.expanded(name)
        if path.is_file():
            kind = "jsonl" if ".json" in path.suffixes or ".jsonl" in path.suffixes else "text"
            splits = open_corpus(f"{kind}:train={path}").splits
        elif ":" not in name:
            raise UserError(f"contamination: {name}: no such file (looked from {os.getcwd()}).")
        else:
            splits = open_corpus(name).splits
            # Its training part is not evaluation data.
            splits = {key: splits[key] for key in ("valid", "test") if key in splits} or splits
        for split in splits.values():
            yield from (document.text for document in split())

    return deduplication.read_contamination((name, texts(name)) for name in names)


def _prepare(
    read: Read, plan: _Plan, output: pathlib.Path, settings: Preparation, progress: StreamProgress, *, wait: bool
) -> dict[str, Any]:
    _check_output(output, plan.identity)
    documents = read()
    first = next(documents, None)  # an input that is wrong from the start leaves no directory
    if first is None:
        raise UserError(f"{settings.source}: is empty: no document with text in it.")
    documents = itertools.chain([first], documents)
    with _explained(output), files.held(output / _LOCK, f"--output={output}", wait=wait):
        _check_output(output, plan.identity)  # another process may have been here
        if (output / shards.MANIFEST).is_file():
            manifest = _finished(output, documents, progress)
        else:
            _start(output, plan)
            manifest = _Pass(output, plan, settings, progress).run(documents)
        _clean(output)
        return manifest


class _Pass:
    """One pass over the documents: what is found on the way, and the shards."""

    def __init__(self, output: pathlib.Path, plan: _Plan, settings: Preparation, progress: StreamProgress) -> None:
        self._output = output
        self._plan = plan
        self._settings = settings
        self._progress = progress
        self._input = hashlib.sha256()
        self._documents = self._characters = self._bytes = self._tokens = 0
        self._dropped: dict[str, list[str]] = {}  # reason -> the first documents
        self._counts: collections.Counter[str] = collections.Counter()  # reason -> documents
        self._dropped_characters: collections.Counter[str] = collections.Counter()
        self._overlaps: collections.Counter[str] = collections.Counter()  # evaluation source -> documents
        self._records: dict[int, dict[str, Any]] = {}

    def run(self, documents: Iterator[Document]) -> dict[str, Any]:
        """Makes every shard that is absent, then the files that describe them all; returns the manifest."""
        begun = time.monotonic()
        finished = _find_finished(self._output, self._progress)
        build = functools.partial(
            _Worker, self._output, self._plan.vocabulary, self._plan.contamination, self._settings
        )
        with OrderedPool(build, self._settings.workers) as pool:
            judged = self._judged(documents, pool)
            for record in pool.map("make", self._unfinished(self._portions(judged), finished)):
                self._add(record)
        if gone := set(finished) - set(self._records):
            raise _changed(self._output, shards.shard_name(min(gone)))
        if not any(record["pieces"] for record in self._records.values()):
            why = ", ".join(f"{count:,} {reason}" for reason, count in self._counts.items()) or "no pieces"
            raise UserError(f"{self._settings.source}: nothing is left to prepare of {self._documents:,} ({why}).")
        return self._finish(time.monotonic() - begun, finished)

    def _judged(self, documents: Iterator[Document], pool: OrderedPool) -> Iterator[tuple[Document, str | None]]:
        """Yields each document with the reason to leave it out, or None."""
        contamination = self._plan.contamination
        if self._settings.deduplicate == "none" and contamination is None:
            yield from ((document, None) for document in documents)
            return
        waiting: collections.deque[list[Document]] = collections.deque()

        def texts() -> Iterator[list[str]]:
            for block in _blocks(documents):
                waiting.append(block)
                yield [document.text for document in block]

        judge = deduplication.Judge()
        for examined in pool.map("examine", texts()):
            verdicts = judge.decide(examined)
            for document, verdict, owner in zip(
                waiting.popleft(), verdicts, examined.contaminated.tolist(), strict=True
            ):
                if owner >= 0 and contamination is not None:
                    self._overlaps[contamination.names[owner]] += 1
                yield document, verdict

    def _portions(self, judged: Iterator[tuple[Document, str | None]]) -> Iterator[Portion]:
        texts: list[str] = []
        size = 0
        index = itertools.count()
        for document, reason in judged:
            data = document.text.encode()
            _take_in(self._input, data)
            self._documents += 1
            self._characters += len(document.text)
            self._bytes += len(data)
            self._show()
            if reason is not None:
                self._counts[reason] += 1
                self._dropped_characters[reason] += len(document.text)
                named = self._dropped.setdefault(reason, [])
                named.extend([document.origin] if len(named) < _NAMED else [])
                continue
            texts.append(document.text)
            size += len(data)
            if size >= self._settings.shard_megabytes * 1e6 or len(texts) == self._settings.shard_documents:
                yield Portion(next(index), texts, self._input.hexdigest())
                texts, size = [], 0
        if texts:
            yield Portion(next(index), texts, self._input.hexdigest())

    def _unfinished(self, cut: Iterable[Portion], finished: dict[int, dict[str, Any]]) -> Iterator[Portion]:
        for portion in cut:
            record = finished.get(portion.index)
            if record is None:
                yield portion
            elif record["source_sha256"] == portion.source_sha256:
                self._add(record)
            else:
                raise _changed(self._output, record["shard"]["name"])

    def _add(self, record: dict[str, Any]) -> None:
        self._records[record["index"]] = record
        self._tokens += record["shard"]["tokens"]
        self._show()

    def _show(self) -> None:
        self._progress.update(documents=self._documents, size=self._bytes, tokens=self._tokens)

    def _counts_of(self, shard: str) -> np.ndarray:
        """Returns how often each token occurs in a shard. Raises UserError for counts of another vocabulary."""
        path = portions.counts_path(self._output, shard)
        counts = map_array(path, np.dtype("<i8"), ())
        if len(counts) != self._plan.vocabulary.size:
            raise UserError(
                f"{path}: counts {len(counts):,} tokens, not those of this tokenizer. Remove {self._output}."
            )
        return counts

    def _finish(self, seconds: float, finished: dict[int, dict[str, Any]]) -> dict[str, Any]:
        records = [self._records[index] for index in sorted(self._records)]
        counts = np.zeros(self._plan.vocabulary.size, np.int64)
        for record in records:
            counts += self._counts_of(record["shard"]["name"])
        made = [record["shard"] for record in records]
        rows, tokens = (sum(shard[name] for shard in made) for name in ("rows", "tokens"))
        pieces = int(counts.sum())
        vocabulary = self._plan.vocabulary
        content = {
            "settings": self._plan.identity,
            "row_length": self._settings.row_length,
            "vocab_size": vocabulary.size,
            "pad_id": vocabulary.pad_id,
            "tokenizer_sha256": vocabulary.sha256,
            "tokenizer_files": shards.file_hashes(self._output / shards.TOKENIZER_DIR),
            "input_sha256": self._input.hexdigest(),
            "documents": self._documents,
            "characters": self._characters,
            "bytes": self._bytes,
            "dropped": dict(self._counts),
            "dropped_characters": dict(self._dropped_characters),
            "overlaps": dict(self._overlaps),
            "pieces": pieces,
            "unknown_share": sum(record["unknown"] for record in records) / pieces,
            "unknown_text_share": _share_of_pairs(record.get("unknown_characters", (0, 0)) for record in records),
            "histogram": np.sum([record["histogram"] for record in records], axis=0).tolist(),
            "tokens": tokens,
            "rows": rows,
            "useful_share": tokens / (rows * self._settings.row_length),
            "token_counts_sha256": shards.write_token_counts(self._output / shards.TOKEN_COUNTS, counts),
            "shards": made,
        }
        new_bytes = sum(record["text_bytes"] for record in records if record["index"] not in finished)
        run = {"seconds": seconds, "megabytes_per_second": new_bytes / 1e6 / seconds, "found_finished": len(finished)}
        preparation_report.write_preparation_report(
            self._output, content, run | {"workers": self._settings.workers}, self._dropped
        )
        return shards.write_manifest(self._output, content)


class _Worker:
    """What any process does: examine documents, make shards."""

    def __init__(
        self,
        output: pathlib.Path,
        vocabulary: Vocabulary,
        contamination: deduplication.Contamination | None,
        settings: Preparation,
    ) -> None:
        self._settings = settings
        self._contamination = contamination
        self.make = portions.ShardMaker(output, vocabulary, settings.row_length, settings.seed, packed=settings.packed)

    def examine(self, texts: list[str]) -> deduplication.Examined:
        """Returns what is known of documents by themselves."""
        return deduplication.examine(texts, self._settings.deduplicate, self._contamination)


def _share_of_pairs(pairs: Iterable[tuple[int, int]]) -> float:
    """Returns the sum of the first numbers over that of the second ones; 0 for none."""
    part, whole = (sum(numbers) for numbers in zip(*pairs, strict=True))
    return part / max(whole, 1)


def _blocks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    block: list[Document] = []
    size = 0
    for document in documents:
        block.append(document)
        size += len(document.text)
        if size >= _BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _take_in(digest: Any, data: bytes) -> None:
    # With the length, so that "ab", "c" and "a", "bc" differ.
    digest.update(len(data).to_bytes(8, "little"))
    digest.update(data)


def _check_output(output: pathlib.Path, identity: dict[str, Any]) -> None:
    """Raises UserError unless `output` is new, empty, or was begun with the same settings."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; the output must be a directory.")
    path = output / SETTINGS
    # The folder is listed before: the settings are the first file that another process writes into it meanwhile.
    others = [name for name in (os.listdir(output) if output.is_dir() else []) if not name.startswith(".")]
    if not path.is_file():
        if others:
            raise UserError(
                f"{output}: holds other files ({', '.join(sorted(others)[:5])}). Name a new or an empty directory."
            )
        return
    try:
        written = files.read_json(path)
        changed = differences(written, identity)
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: is damaged ({error}). Remove {output} and prepare anew.") from None
    if changed:
        raise UserError(
            f"{output}: was begun with other settings: {'; '.join(changed)}. Take the same, or another directory."
        )


def _start(output: pathlib.Path, plan: _Plan) -> None:
    # The settings first: whatever follows may be cut short, and the same command still knows the directory.
    if not (output / SETTINGS).is_file():
        files.write_json(output / SETTINGS, plan.identity)
    _remove_leftovers(output)
    if not (output / shards.TOKENIZER_DIR).is_dir():
        with files.atomic_directory(output / shards.TOKENIZER_DIR) as folder:
            plan.tokenizer.save_pretrained(folder)
    (output / portions.RECORDS_DIR).mkdir(exist_ok=True)


def _find_finished(output: pathlib.Path, progress: StreamProgress) -> dict[int, dict[str, Any]]:
    """Returns the records of the shards that are whole, by index; others are made again."""
    found = {}
    for path in sorted((output / portions.RECORDS_DIR).glob("*.json")):
        try:
            record = portions.read_record(path)
        except UserError as error:
            progress.say(f"{error} The shard is made again.")
            continue
        if shards.is_whole(output, record["shard"]) and portions.has_counts(output, record):
            found[record["index"]] = record
        else:
            progress.say(f"{record['shard']['name']}: is damaged; it is made again")
    if found:
        progress.say(f"goes on: {len(found):,} finished shards are kept")
    return found


def _finished(output: pathlib.Path, documents: Iterable[Document], progress: StreamProgress) -> dict[str, Any]:
    """Returns the manifest of a finished directory, once its shards and the input are known to be as they were."""
    manifest = shards.read_manifest(output)
    shards.verify(output, manifest["shards"])
    progress.say(f"{output}: is finished; looking whether the input is still the same")
    digest = hashlib.sha256()
    size = 0
    for number, document in enumerate(documents, 1):
        data = document.text.encode()
        _take_in(digest, data)
        size += len(data)
        progress.update(documents=number, size=size, tokens=manifest["tokens"])
    if digest.hexdigest() != manifest["input_sha256"]:
        raise _changed(output, "the last shard")
    return manifest


def _changed(output: pathlib.Path, shard: str) -> UserError:
    return UserError(
        f"{output}: the input is no longer the one that {shard} was made of. Prepare the new input into another "
        "directory, or remove this one."
    )


def _clean(output: pathlib.Path) -> None:
    shutil.rmtree(output / portions.RECORDS_DIR, ignore_errors=True)
    _remove_leftovers(output)


def _remove_leftovers(output: pathlib.Path) -> None:
    """Removes what a killed process had begun to write."""
    for path in [*output.glob(".*.part"), *(output / portions.RECORDS_DIR).glob(".*.part")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def _explained(output: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(
            f"{error.filename or output}: cannot be written: {error.strerror}. Finished shards are kept: make room "
            "and run the same command again."
        ) from error

"""Plain text to what pretraining runs on: packed rows of each split, and the tokenizer they are made with."""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from jaxfm import files
from jaxfm.config import DataConfig
from jaxfm.data.corpora import shards
from jaxfm.data.corpora.corpus import Corpus, open_corpus
from jaxfm.data.corpora.documents import Document, Texts
from jaxfm.data.corpora.portions import vocabulary_of
from jaxfm.data.corpora.preparation import Preparation, prepare_cached
from jaxfm.data.corpora.preparation_report import unknown_warning
from jaxfm.data.corpora.shards import ShardedRows
from jaxfm.data.corpora.tokenizer_training import KINDS, train_tokenizer
from jaxfm.data.records.source_keys import no_columns, split_keys
from jaxfm.data.records.splits import SPLIT_NAMES, require_split
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.progress import StreamProgress

PREPARED = "array_record:"
TRAIN_TOKENIZER = "train:"
HOLDOUT = 0.01  # share of the documents that are valid where config.data.holdout leaves it open


@dataclasses.dataclass(frozen=True)
class PretrainingData:
    """Rows of a corpus.

    Attributes:
      tokenizer: directory of the tokenizer that made the rows.
      rows: split -> packed rows; "train" is always one of them.
      notes: lines for the log.
    """

    tokenizer: pathlib.Path
    rows: Mapping[str, ShardedRows]
    notes: tuple[str, ...]

    def token_counts(self, vocab_size: int) -> np.ndarray:
        """Returns how often each token occurs in the training text, int64 [vocab_size]."""
        counts = self.rows["train"].token_counts()
        return np.pad(counts, (0, vocab_size - len(counts)))


def open_pretraining(data: DataConfig, tokenizer_uri: str, tokenizer: pathlib.Path | None) -> PretrainingData:
    """Opens the splits of a source; text that is not prepared yet is, into a cache named after its content.

    Args:
      data: source, row_length, packed, text_column, holdout, group_column, time_column, leaks and cache are read.
      tokenizer_uri: `config.model.tokenizer`, for train:KIND/SIZE.
      tokenizer: directory of the tokenizer; None: learn one as `tokenizer_uri` says, or take that of prepared rows.

    Raises:
      UserError: an empty corpus, rows prepared with another tokenizer or length, no tokenizer.
    """
    if tokenizer is not None and tokenizer_uri.startswith(TRAIN_TOKENIZER):
        raise UserError(
            f"config.model.tokenizer: {tokenizer_uri!r} learns a vocabulary, but the weights have theirs already "
            f"({tokenizer}). Leave it empty, or set config.model.init=scratch."
        )
    if data.source.startswith(PREPARED):
        return _open_prepared(data, tokenizer)
    corpus = _open(data)
    if "train" not in corpus.splits:
        raise UserError(f"config.data.source: {data.source} has no split 'train' (found: {', '.join(corpus.splits)}).")
    notes = corpus.notes
    if tokenizer is None:
        tokenizer = _learned(data, tokenizer_uri, corpus.splits["train"])
        notes += (f"tokenizer: learned from the training text ({tokenizer_uri}), saved in {tokenizer}",)
    rows = {split: _prepared(data, corpus, split, tokenizer) for split in SPLIT_NAMES if split in corpus.splits}
    return PretrainingData(tokenizer, rows, (*notes, *_described(rows)))


def open_split(data: DataConfig, split: str, tokenizer: pathlib.Path) -> ShardedRows:
    """Opens one split of a source, for evaluation. Raises UserError as `open_pretraining`, or for an absent split."""
    split = require_split(split)
    if data.source.startswith(PREPARED):
        splits: Mapping[str, object] = _open_prepared(data, tokenizer).rows
    else:
        corpus = _open(data)
        splits = corpus.splits
        if split in splits:
            return _prepared(data, corpus, split, tokenizer)
    if split not in splits:
        raise UserError(f"{data.source} has no split {split!r}; it has: {', '.join(splits)}.")
    found = splits[split]
    assert isinstance(found, ShardedRows)
    return found


def open_documents(data: DataConfig) -> Corpus | None:
    """Opens the documents of a source; None: they are prepared rows, whose documents are not kept."""
    return None if data.source.startswith(PREPARED) else _open(data)


def _open(data: DataConfig) -> Corpus:
    holdout = HOLDOUT if data.holdout is None else data.holdout
    return open_corpus(data.source, text_column=data.text_column, holdout=holdout, by=split_keys(data))


def cache_folder(data: DataConfig) -> pathlib.Path:
    """Returns `config.data.cache`, or jaxfm's folder where the user's caches lie."""
    if data.cache:
        return files.user_path(data.cache, "config.data.cache")
    return files.user_cache()


def _prepared(data: DataConfig, corpus: Corpus, split: str, tokenizer: pathlib.Path) -> ShardedRows:
    settings = Preparation(
        source=f"{corpus.source} ({split})",
        row_length=data.row_length,
        # Repeated text is what keeps small corpora from being learnt; held-out text is scored as it is.
        deduplicate="exact" if split == "train" else "none",
        packed=data.packed,
    )
    with StreamProgress(f"preparing {split}") as progress:
        folder = prepare_cached(corpus.splits[split], tokenizer, cache_folder(data) / "corpora", settings, progress)
    return ShardedRows(folder)


def _open_prepared(data: DataConfig, tokenizer: pathlib.Path | None) -> PretrainingData:
    if by := split_keys(data):
        raise no_columns(data.source, by)
    rest = data.source.removeprefix(PREPARED)
    folders = {}
    if re.match(r"\w+=", rest):
        for part in rest.split(","):
            name, _, path = part.partition("=")
            folders[require_split(name)] = files.expanded(path)
    else:
        folder = files.expanded(rest)
        if (folder / shards.MANIFEST).is_file():
            folders["train"] = folder
        else:
            folders = {split: folder / split for split in SPLIT_NAMES if (folder / split / shards.MANIFEST).is_file()}
    if "train" not in folders:
        raise UserError(
            f"config.data.source: {data.source}: no prepared training text. Give the folder that python -m "
            "jaxfm.prepare wrote, a folder of such folders named train, valid and test, or train=DIR,valid=DIR."
        )
    rows = {split: ShardedRows(folder) for split, folder in folders.items()}
    chosen = tokenizer or rows["train"].tokenizer_directory
    wanted = vocabulary_of(load_tokenizer(chosen), str(chosen)).sha256
    for split, found in rows.items():
        if found.row_length != data.row_length:
            raise UserError(
                f"config.data.row_length: is {data.row_length}, but {folders[split]} was prepared with rows of "
                f"{found.row_length} tokens. Set --config.data.row_length={found.row_length}, or prepare it anew."
            )
        if not data.packed and found.manifest["settings"].get("packed", True):
            raise UserError(
                f"config.data.packed: is False, but {folders[split]} was prepared with several windows a row. Prepare "
                "it anew with --nopacked, or leave config.data.packed=True."
            )
        own = found.tokenizer_directory
        if vocabulary_of(load_tokenizer(own), str(own)).sha256 != wanted:
            raise UserError(
                f"{folders[split]}: was prepared with another tokenizer than {chosen}. Prepare it anew with "
                f"--tokenizer=dir:{chosen}."
            )
    notes = () if tokenizer else (f"tokenizer: the one that the text was prepared with ({chosen})",)
    return PretrainingData(chosen, rows, (*notes, *_described(rows)))


def _learned(data: DataConfig, uri: str, read: Callable[[], Iterator[Document]]) -> pathlib.Path:
    """Learns a tokenizer once for each training text, kind and size; returns its directory."""
    kind, _, size = uri.removeprefix(TRAIN_TOKENIZER).partition("/")
    if not uri.startswith(TRAIN_TOKENIZER) or not size.isdigit():
        raise UserError(
            f"config.model.tokenizer: is {uri!r}; an encoder from scratch needs dir:PATH (or package:, hf:) of a "
            "tokenizer, or train:wordpiece/SIZE or train:bpe/SIZE to learn one from the training text."
        )
    if kind not in KINDS:
        raise UserError(f"config.model.tokenizer: {uri!r}: {did_you_mean(kind, KINDS)}")
    digest = hashlib.sha256(f"{kind} {size}".encode())
    for document in read():
        digest.update(f"{len(document.text)} ".encode())
        digest.update(document.text.encode())
    output = cache_folder(data) / "tokenizers" / f"{kind}-{size}-{digest.hexdigest()[:16]}"
    # The processes of a run ask for the same at once: one learns, the others find it.
    with files.alone_with(output):
        if output.is_dir():
            return output
        with StreamProgress("learning a tokenizer") as progress:
            train_tokenizer(
                Texts(read), kind=kind, vocab_size=int(size), lowercase=False, output=output, progress=progress
            )
    return output


def _described(rows: Mapping[str, ShardedRows]) -> tuple[str, ...]:
    notes = []
    for split, found in rows.items():
        manifest = found.manifest
        note = f"{split}: {len(found):,} rows of {found.row_length} tokens, {found.useful_share:.1%} of them useful"
        note += f"; {manifest['unknown_share']:.2%} unknown tokens" if manifest["unknown_share"] else ""
        notes.append(note)
        if unknown := unknown_warning(manifest):
            notes.append(f"WARNING: {split}: {unknown[0]}: {unknown[1]}")
    return tuple(notes)

"""Words that may stand in the place of another: a masked language model proposes, similarity of embeddings decides.

A model puts "bad" where "good" was as readily as "fine" (both fit), and their embeddings are alike: the filters keep
grammar and topic, not meaning. So what a synonym changes is an upper bound of what a true one would.
"""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.text.tokenization import load_tokenizer, marks_continuing_pieces
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.model import Model
from jaxfm.training.saved_run import open_run

RUN = "run:"
SIMILAR_WORDS = 0.35
"""Cosine between the input embeddings of a word and of what takes its place, at least."""
SIMILAR_TEXTS = 0.9
"""Cosine between the vectors of the text before and after, at least, where a run of vectors is named."""
_MASK = "[MASK]"
_WORD_STARTS = ("\u0120", "\u2581")  # of byte-level BPE and of unigram models
_TABLE = "encoder/embeddings/word/embedding"

Request = tuple[tuple[str, ...], int]


class Synonyms:
    """Answers which words may stand at a place of a text (`kinds.Resources.synonyms`).

    What it is asked the first time is noted, and answered by nothing; `resolve` computes all that was noted together.
    """

    def __init__(self, fill: Model, similar: Callable[[str, str], float], texts: Model | None, progress: Progress):
        """Takes the masked language model, the similarity of two words, and a model that embeds texts or None."""
        self._fill, self._similar, self._texts, self._progress = fill, similar, texts, progress
        self._starts = not marks_continuing_pieces(load_tokenizer(fill.workdir / TOKENIZER_DIR))
        self._known: dict[Request, tuple[str, ...]] = {}
        self._wanted: dict[Request, None] = {}

    def __call__(self, words: Sequence[str], at: int) -> Sequence[str]:
        """Returns the words that may stand in the place of word number `at`, the likeliest first."""
        request = (tuple(words), at)
        if request not in self._known:
            self._wanted[request] = None
            return ()
        return self._known[request]

    def resolve(self) -> None:
        """Computes what was asked and is not known yet."""
        wanted, self._wanted = list(self._wanted), {}
        if not wanted:
            return
        records = ({"text": " ".join((*words[:at], _MASK, *words[at + 1 :]))} for words, at in wanted)
        with self._progress.task("synonyms", len(wanted)) as advance:
            for (words, at), result in zip(wanted, self._fill.stream(records), strict=True):
                self._known[words, at] = tuple(self._candidates(words[at], result))
                advance(1)
        if self._texts is not None:
            self._keep_similar_texts(wanted)

    def _candidates(self, word: str, result: Any) -> Iterator[str]:
        (mask, *_) = result["masks"]
        for candidate in mask["candidates"]:
            token = candidate["token"]
            starts = token.startswith(_WORD_STARTS)
            token = token.lstrip("".join(_WORD_STARTS))
            if (self._starts and not starts) or not token.isalpha() or token.lower() == word.lower():
                continue
            token = token.capitalize() if word[0].isupper() else token
            if self._similar(word, token) >= SIMILAR_WORDS:
                yield token

    def _keep_similar_texts(self, wanted: Sequence[Request]) -> None:
        assert self._texts is not None
        pairs = [
            (request, each, " ".join((*request[0][: request[1]], each, *request[0][request[1] + 1 :])))
            for request in wanted
            for each in self._known[request]
        ]
        before = {request[0]: number for number, request in enumerate(wanted)}
        vectors = _unit(self._texts.embed([" ".join(words) for words, _ in wanted]))
        changed = _unit(self._texts.embed([text for _, _, text in pairs]))
        kept: dict[Request, list[str]] = {request: [] for request in wanted}
        for (request, word, _), vector in zip(pairs, changed, strict=True):
            if float(vector @ vectors[before[request[0]]]) >= SIMILAR_TEXTS:
                kept[request].append(word)
        self._known |= {request: tuple(words) for request, words in kept.items()}


def open_synonyms(uri: str, similarity: str | None, progress: Progress) -> Synonyms:
    """Opens a run of a masked language model, "run:DIR", and perhaps one of vectors of texts.

    Raises:
      UserError: no such run, or one of another task.
    """
    fill = Model(_folder(uri, "--synonyms"))
    predicted = fill(f"a {_MASK} .") if fill.reads_texts and not fill.pairs else {}
    if "masks" not in predicted:
        raise UserError(f"--synonyms={uri}: is a run of the task {fill.task}, which fills no masks.")
    texts = None
    if similarity is not None:
        texts = Model(_folder(similarity, "--similarity"))
        if not texts.embeds_texts:
            raise UserError(f"--similarity={similarity}: is a run of the task {texts.task}, which embeds no texts.")
    return Synonyms(fill, word_similarity(fill.workdir), texts, progress)


def word_similarity(workdir: pathlib.Path) -> Callable[[str, str], float]:
    """Returns the cosine of two words' input embeddings in a run: each the mean over the pieces of its word."""
    run = open_run(workdir)
    params = run.restore(make_mesh(MeshConfig()), Build()).to_host()
    table, tokenizer = params[_TABLE], load_tokenizer(workdir / TOKENIZER_DIR)

    def vector(word: str) -> np.ndarray:
        pieces = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        return _unit(np.asarray(table[pieces], np.float64).mean(axis=0)) if pieces else np.zeros(table.shape[1])

    return lambda one, other: float(vector(one) @ vector(other))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _folder(uri: str, option: str) -> pathlib.Path:
    if not uri.startswith(RUN):
        raise UserError(f"{option}={uri}: is a run of jaxfm, {RUN}DIR.")
    return files.user_path(uri.removeprefix(RUN), option)

"""A corpus to search in, opened once: ranked by a run's vectors or by BM25, reranked, and asked for answers."""

# Q queries, K ranks, D numbers a vector

import dataclasses
import itertools
import math
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, overload

import numpy as np

from jaxfm import files
from jaxfm.data.corpora import approximate as graphs
from jaxfm.data.corpora.vector_store import MANIFEST, MAXSIM, Identity, VectorStore, make_store
from jaxfm.data.records.corpus_texts import Corpus, Facts, corpus_file, corpus_in_memory, from_dict, portions
from jaxfm.data.text.bm25 import Bm25
from jaxfm.errors import UserError
from jaxfm.evaluation import maxsim
from jaxfm.evaluation.calibration import read_calibration
from jaxfm.evaluation.coverage import THRESHOLD
from jaxfm.evaluation.ranking import rank_all
from jaxfm.observe.progress import Progress
from jaxfm.programs.model import Model

PORTION = 1024  # texts embedded at a time: what a process that is killed loses at most
TOP = 10
CANDIDATES = 100
_SAMPLE = 200  # queries by which approximate search is compared with exact search
_RECALL_AT = 10


class Ranker(Protocol):
    """Ranks the texts of a corpus, which go by their numbers, for each query."""

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the greatest score that there can be."""
        ...

    def rank(self, queries: Sequence[str], k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Returns numbers [Q, K], -1 where nothing more was found, and scores [Q, K], the best first.

        `among`: the numbers of the texts that may be found, in order; None: all.
        """
        ...

    def texts(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """Returns the JSON values of texts."""
        ...


@dataclasses.dataclass(frozen=True)
class VectorRanker:
    """Ranks by a run's vectors: exactly, or by candidates of a graph."""

    model: Model
    store: VectorStore
    graph: graphs.Graph | None = None

    @property
    def score_range(self) -> tuple[float, float]:
        """See `Ranker`."""
        return (-1.0, 1.0) if self.store.identity.similarity == "cosine" else (-math.inf, math.inf)

    def rank(self, queries: Sequence[str], k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Ranker`; `among` is of exact search alone."""
        vectors_QD = self.model.embed(queries, "query")
        if among is not None:
            assert self.graph is None
            places_QK, scores_QK = rank_all(vectors_QD, np.asarray(self.store.vectors[among]), k)
            return among[places_QK], scores_QK
        return self.graph.rank(vectors_QD, k) if self.graph else rank_all(vectors_QD, self.store.vectors, k)

    def texts(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """See `Ranker`."""
        return self.store.texts(numbers)


@dataclasses.dataclass(frozen=True)
class TokenRanker:
    """Ranks by MaxSim of a run's vectors of tokens, exactly."""

    model: Model
    store: VectorStore

    @property
    def score_range(self) -> tuple[float, float]:
        """See `Ranker`."""
        return -math.inf, math.inf

    def rank(self, queries: Sequence[str], k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Ranker`."""
        asked, vectors, ends = self.model.embed_tokens(queries, "query"), self.store.vectors, self.store.ends
        if among is None:
            return maxsim.rank_all(asked, vectors, ends, k)
        parts = [vectors[int(ends[number - 1]) if number else 0 : int(ends[number])] for number in among.tolist()]
        ends = np.cumsum([len(part) for part in parts])
        places_QK, scores_QK = maxsim.rank_all(asked, np.concatenate(parts), ends, k)
        return among[places_QK], scores_QK

    def texts(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """See `Ranker`."""
        return self.store.texts(numbers)


@dataclasses.dataclass(frozen=True)
class WordRanker:
    """Ranks by BM25; a text without a word of the query is not found."""

    index: Bm25
    kept: Sequence[Mapping[str, Any]]

    @property
    def score_range(self) -> tuple[float, float]:
        """See `Ranker`."""
        return 0.0, math.inf

    def rank(self, queries: Sequence[str], k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Ranker`."""
        numbers, scores = self.index.top(queries, k, among)
        return np.where(scores > 0, numbers, -1), scores

    def texts(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """See `Ranker`."""
        return [dict(self.kept[number]) for number in numbers]


class SearchIndex:
    """A corpus to search in: ask it as often as you like. `open_index` makes one.

    Attributes:
      count: number of texts.
      answers: whether every text has an answer.
      notes: lines about how it was opened, for a person.
    """

    def __init__(
        self,
        ranker: Ranker,
        count: int,
        *,
        answers: bool = False,
        reranker: Model | None = None,
        candidates: int = CANDIDATES,
        threshold: float | None = None,
        notes: Sequence[str] = (),
    ):
        """`reranker` scores the first `candidates` again; `threshold`: from which score on there is an answer."""
        if candidates < 1:
            raise UserError(f"--candidates={candidates}: must be at least 1.")
        self.count, self.answers, self.notes = count, answers, tuple(notes)
        self._ranker, self._reranker, self._candidates, self._threshold = ranker, reranker, candidates, threshold

    def __repr__(self) -> str:
        return f"<jaxfm.SearchIndex: {self.count:,} texts{', with answers' if self.answers else ''}>"

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the greatest score that there can be, as far as that is known."""
        return self._ranker.score_range if self._reranker is None else (-math.inf, math.inf)

    @overload
    def search(
        self, queries: str, top: int | None = None, among: Sequence[int] | None = None
    ) -> list[dict[str, Any]]: ...

    @overload
    def search(
        self, queries: Iterable[str], top: int | None = None, among: Sequence[int] | None = None
    ) -> list[list[dict[str, Any]]]: ...

    def search(self, queries: Any, top: int | None = None, among: Sequence[int] | None = None) -> Any:
        """Returns the best `top` texts of a query, or a list of them for each of several queries.

        None stands for 10, or all texts of a smaller corpus. Each result is {"rank", "score", "id", "text"}, with
        "title", "answer" and "fields" (columns that were asked for) where the corpus has them; the score is the cosine
        or product of vectors, BM25's, or the reranker's, which leaves the first one as "first_score". `among` are the
        places, from 0, of the texts that may be found; None: all. It is not for approximate search.

        Raises:
          UserError: `top` is not from 1 to the number of texts; a query that is blank or not text.
        """
        found = None if among is None else np.unique(np.asarray(among, np.int64))
        count = self.count if found is None else len(found)
        top = min(TOP, count) if top is None else top
        if isinstance(queries, str):
            return self._search([_query(queries, "the query")], top, found)[0]
        asked = [_query(each, f"query {number}") for number, each in enumerate(queries, start=1)]
        return self._search(asked, top, found)

    @overload
    def answer(self, queries: str) -> dict[str, Any]: ...

    @overload
    def answer(self, queries: Iterable[str]) -> list[dict[str, Any]]: ...

    def answer(self, queries: Any) -> Any:
        """Returns the answer to a query, or a list of one each of several.

        {"query", "answer", "score", "id", "text"}: the stored answer of the best text, None where its score is below
        the threshold or nothing was found.

        Raises UserError as `search`, and for an index without answers or a threshold.
        """
        if not self.answers:
            raise UserError("this corpus was opened without answers (open_index(..., answers=True), or --answer).")
        if self._threshold is None:
            raise UserError(NO_THRESHOLD)
        single = isinstance(queries, str)
        asked = [queries] if single else list(queries)
        results = []
        for query, found in zip(asked, self.search(asked, 1), strict=True):
            best = found[0] if found else {"score": None, "answer": None, "id": None, "text": None}
            sure = best["score"] is not None and best["score"] >= self._threshold
            shown = {name: best[name] for name in ("score", "id", "text")}
            results.append({"query": query, "answer": best["answer"] if sure else None, **shown})
        return results[0] if single else results

    def _search(self, queries: Sequence[str], top: int, among: np.ndarray | None) -> list[list[dict[str, Any]]]:
        count = self.count if among is None else len(among)
        self.check_top(top, count)
        depth = min(count, max(top, self._candidates)) if self._reranker else top
        if not queries:
            return []
        numbers_QK, scores_QK = self._ranker.rank(queries, depth, among)
        found = []
        for numbers, scores in zip(numbers_QK, scores_QK, strict=True):
            texts = self._ranker.texts(int(number) for number in numbers if number >= 0)
            found.append([{"score": float(score), **text} for score, text in zip(scores, texts, strict=False)])
        if self._reranker is not None:
            found = self._reranked(self._reranker, queries, found)
        return [[{"rank": rank, **each} for rank, each in enumerate(texts[:top], start=1)] for texts in found]

    def _reranked(
        self, reranker: Model, queries: Sequence[str], found: Sequence[list[dict[str, Any]]]
    ) -> list[list[dict[str, Any]]]:
        """Scores all candidates of all queries in one batch; of equal scores the earlier rank stays first."""
        pairs = [
            (query, from_dict(text).searched) for query, texts in zip(queries, found, strict=True) for text in texts
        ]
        scores = iter(reranker.pair_scores(pairs).tolist())
        ordered = []
        for texts in found:
            scored = [{**text, "score": next(scores), "first_score": text["score"]} for text in texts]
            ordered.append(sorted(scored, key=lambda each: -each["score"]))
        return ordered

    def check_top(self, top: int | None, count: int | None = None) -> None:
        """Raises UserError where `top` is not from 1 to the number of texts, or to `count` of them.

        None as `top`: as many as `search` says.
        """
        count = self.count if count is None else count
        if top is not None and not 1 <= top <= count:
            raise UserError(f"--top={top}: must be from 1 to {count:,}, the number of texts of the corpus.")


NO_THRESHOLD = (
    f"--threshold: is needed, the score from which on there is an answer: the run has none calibrated ({THRESHOLD} in "
    "calibration.json). Give a number, for instance one chosen by the scores of questions whose answers you know."
)


def open_index(
    workdir: str | os.PathLike[str] | None = None,
    corpus: str | os.PathLike[str] | Iterable[Any] | Corpus | None = None,
    index: str | os.PathLike[str] | None = None,
    *,
    bm25: bool = False,
    approximate: bool = False,
    rerank: str | os.PathLike[str] | None = None,
    candidates: int = CANDIDATES,
    answers: bool = False,
    threshold: float | None = None,
    columns: Mapping[str, str] | None = None,
    stop_words: str = "none",
    progress: Progress | None = None,
) -> SearchIndex:
    """Opens a corpus to search in: embeds it, or opens the vectors that an earlier call kept.

    Args:
      workdir: a run whose task gives vectors; None with `bm25`.
      corpus: a file (see `corpus_file`), texts or records in memory, or one that is open already (`answers` and
        `columns` are then its own); None: that of a finished `index`.
      index: a directory that keeps the vectors and texts; None: a temporary one, removed with the result.
      bm25: rank by shared words in place of vectors.
      approximate: find candidates by a graph, kept in `index`.
      rerank: a run on pairs of texts that scores the first `candidates` again.
      candidates: see `rerank`.
      answers: every text has an answer, for `SearchIndex.answer`.
      threshold: score from which on there is an answer; None: as the run calibrated it.
      columns: `text_column` of the corpus.
      stop_words: of BM25, "none" or "en".
      progress: where to show how far it is.

    Raises:
      UserError: no run, or one that gives no vectors; an empty corpus, an id twice; an index of another run or another
        corpus; a package that is absent.
    """
    progress = progress or Progress(None, quiet=True)
    if bm25 and (index is not None or approximate or workdir is not None):
        raise UserError("--bm25: ranks by words, without a run, an index or vectors: leave out the other flags.")
    if not bm25 and workdir is None:
        raise UserError("--workdir is missing: a run whose vectors rank the texts; or --bm25.")
    if approximate and index is None:
        raise UserError("--approximate: needs --index=DIR, which keeps the graph.")
    texts = _corpus(corpus, answers, columns, progress.say)
    reranker = None if rerank is None else open_reranker(rerank, "--rerank")
    if threshold is None and answers:
        threshold = calibrated_threshold(workdir, rerank)
    options = {"answers": answers, "reranker": reranker, "candidates": candidates, "threshold": threshold}
    if bm25:
        if texts is None:
            raise UserError("--corpus is missing: the file of the texts to search in.")
        facts = _facts(texts, progress.say)
        kept = [each.to_dict() for each in texts]
        ranker: Ranker = WordRanker(Bm25((from_dict(each).searched for each in kept), stop_words), kept)
        return SearchIndex(ranker, facts.count, **options)
    assert workdir is not None
    model = Model(files.user_path(workdir, "--workdir"))
    if approximate and model.compares_tokens:
        raise UserError(
            "--approximate: its graph is of one vector a text, but this run gives a vector a token (MaxSim), which is "
            "ranked exactly. Leave out the flag; for millions of texts rank by a run of vectors, or by --bm25."
        )
    _ = model.compares_tokens or model.embeds  # raises for a run without vectors, before the corpus is read
    store = _open_store(model, texts, index, answers, progress)
    graph = _graph(store, progress) if approximate else None
    ranker = TokenRanker(model, store) if model.compares_tokens else VectorRanker(model, store, graph)
    found = SearchIndex(ranker, store.identity.count, **options)
    if index is None:
        weakref.finalize(found, shutil.rmtree, store.folder, ignore_errors=True)
    return found


def calibrated_threshold(workdir: str | os.PathLike[str] | None, rerank: str | os.PathLike[str] | None) -> float | None:
    """Returns from which score on there is an answer, as the run that gives the scores calibrated it; None: unknown."""
    judge = workdir if rerank is None else rerank
    return None if judge is None else read_calibration(judge).get(THRESHOLD)


def open_reranker(workdir: str | os.PathLike[str], option: str) -> Model:
    """Opens a run that scores pairs of texts. Raises UserError naming `option` for one that does not."""
    model = Model(files.user_path(workdir, option))
    try:
        model.pair_scores([])
    except UserError as error:
        raise UserError(f"{option}={error}") from None
    return model


def _corpus(
    corpus: Any, answers: bool, columns: Mapping[str, str] | None, note: Callable[[str], None]
) -> Corpus | None:
    if corpus is None or isinstance(corpus, Corpus):
        return corpus
    if isinstance(corpus, str | os.PathLike):
        return corpus_file(files.user_path(corpus, "--corpus"), answers=answers, columns=columns, note=note)
    return corpus_in_memory(corpus, answers=answers)


def _facts(corpus: Corpus, note: Callable[[str], None]) -> Facts:
    facts = corpus.check()
    if facts.blank:
        note(f"NOTE: {facts.blank:,} records of {corpus.name} are blank and left out.")
    return facts


def _open_store(
    model: Model, corpus: Corpus | None, index: str | os.PathLike[str] | None, answers: bool, progress: Progress
) -> VectorStore:
    folder = None if index is None else files.user_path(index, "--index")
    if corpus is None:
        if folder is None or not (folder / MANIFEST).is_file():
            raise UserError(
                "--corpus is missing: the file of the texts to search in, or --index=DIR of a finished one."
            )
        store = VectorStore(folder)
        own = store.identity
        store.check(dataclasses.replace(own, encoder=model.fingerprint(), workdir=str(model.workdir), answers=answers))
        if not store.complete:
            raise UserError(
                f"--index={folder}: has {store.done:,} of {own.count:,} texts so far; give --corpus={own.corpus_name} "
                "again to go on."
            )
        return store
    facts = _facts(corpus, progress.say)
    identity = Identity(
        encoder=model.fingerprint(),
        workdir=str(model.workdir),
        corpus=facts.sha256,
        corpus_name=corpus.name,
        count=facts.count,
        dimension=model.embeds_tokens.dimension if model.compares_tokens else model.embeds.dimension,
        similarity=MAXSIM if model.compares_tokens else model.embeds.similarity,
        answers=answers,
    )
    if folder is None:
        folder = pathlib.Path(tempfile.mkdtemp(prefix="jaxfm-vectors-"))
        try:
            return embed_corpus(model, corpus, make_store(folder, identity), progress)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    with files.held(files.lock_beside(folder.absolute()), f"--index={folder}"):
        return embed_corpus(model, corpus, make_store(folder, identity), progress)


def embed_corpus(model: Model, corpus: Iterable[Any], store: VectorStore, progress: Progress) -> VectorStore:
    """Writes the vectors of the texts that a store lacks, in portions; returns it.

    Raises UserError for a vector that is not finite.
    """
    if store.complete:
        return store
    if store.done:
        progress.say(f"{store.folder}: goes on after {store.done:,} of {store.identity.count:,} texts")
    with progress.task("embedding texts", store.identity.count) as advance:
        advance(store.done)
        for portion in portions(itertools.islice(corpus, store.done, None), PORTION):
            searched, counts = [each.searched for each in portion], None
            if model.compares_tokens:
                of_texts = model.embed_tokens(searched, "document")
                vectors, counts = np.concatenate(of_texts), [len(each) for each in of_texts]
            else:
                vectors = model.embed(searched, "document")
            finite = np.isfinite(vectors).all(axis=-1)
            if not finite.all():
                at = int(np.argmin(finite))
                bad = portion[at if counts is None else int(np.searchsorted(np.cumsum(counts), at, side="right"))]
                raise UserError(f"{bad.origin}: its vector is not finite: the run of {model.workdir} has diverged.")
            store.append(vectors, [each.to_dict() for each in portion], counts)
            advance(len(portion))
    return store


def _graph(store: VectorStore, progress: Progress) -> graphs.Graph:
    """Opens the graph of an index, which is made where it is absent, and says how much it finds."""
    path, vectors_ND = store.folder / graphs.FILE, store.vectors
    if not path.is_file():
        with files.held(files.lock_beside(store.folder.absolute()), f"--index={store.folder}"):
            with progress.task("building the approximate index", len(vectors_ND)) as advance:
                graphs.build(vectors_ND, path, advance)
    graph = graphs.Graph(path, vectors_ND)
    if "approximate" not in store.facts:
        k = min(_RECALL_AT, len(vectors_ND))
        sample_QD = np.asarray(vectors_ND[:: max(1, len(vectors_ND) // _SAMPLE)][:_SAMPLE])
        exact, found = rank_all(sample_QD, vectors_ND, k).indices, graph.rank(sample_QD, k)[0]
        shares = [len(set(a.tolist()) & set(b.tolist())) / k for a, b in zip(exact, found, strict=True)]
        store.note(approximate={"recall": float(np.mean(shares)), "k": k, "sample": len(sample_QD)})
    facts = store.facts["approximate"]
    progress.say(
        f"approximate search: recall@{facts['k']} {facts['recall']:.4f} of exact search (of {facts['sample']} texts)"
    )
    return graph


def _query(text: Any, origin: str) -> str:
    if not isinstance(text, str):
        raise UserError(f"{origin}: is of type {type(text).__name__}, but must be text.")
    if not text.strip():
        raise UserError(f"{origin}: is blank; there is nothing to search for.")
    return str(text)

"""Finds hard negatives for pairs of texts: `python -m jaxfm.mine --source=jsonl:DIR --output=FILE.jsonl --workdir=RUN`,
or --bm25 without a run.

Each anchor's candidates, which are all positives of the split and the texts of --corpus, are ranked by BM25 or by a
run's vectors, and the best that the rules allow are its negatives. Known positives of the anchor are never taken, nor
texts that differ from them in case and spaces alone. --cross_encoder is a run on pairs that removes those it finds
right. The output has {"anchor", "positive", "negatives"} and trains as it is: --config.data.source=jsonl:FILE.jsonl.

A call that was stopped goes on where it was and gives the same file.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from absl import flags

from jaxfm import files
from jaxfm.data.corpora.vector_store import Identity, VectorStore, make_store
from jaxfm.data.records.corpus_texts import CorpusText, corpus_file
from jaxfm.data.records.group_columns import LABEL_RULES, GroupColumns
from jaxfm.data.records.splits import require_split
from jaxfm.data.records.text_groups import TextGroup, read_groups
from jaxfm.data.text.bm25 import STOP_WORDS, Bm25
from jaxfm.data.text.hard_negatives import AUTO, COSINE_MARGIN, CROSS_ENCODER, REASONS, Candidate, Rules, candidates
from jaxfm.errors import UserError
from jaxfm.evaluation.ranking import rank_all
from jaxfm.observe.progress import Progress
from jaxfm.observe.tables import Table
from jaxfm.programs import plugins, program
from jaxfm.programs.model import Model
from jaxfm.programs.search_index import embed_corpus, open_reranker

USAGE = (
    "usage: python -m jaxfm.mine --source=URI --output=FILE.jsonl (--workdir=RUN | --bm25) [--negatives=5] [--skip=0] "
    "[--depth=100] [--margin=0.05] [--cross_encoder=RUN]"
)
COLUMNS = ("text_column", "pair_column")
_PORTION = 1024  # pairs at a time: what a process that is killed loses at most
_STATE, _ROWS, _VECTORS = "state.json", "rows.jsonl", "vectors"
_VERSION = 1


class Texts:
    """The candidates, each text once; texts that differ in case and spaces alone are one.

    Attributes:
      texts: by number.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def add(self, text: str) -> int:
        """Returns the number of a text, which is new where it is not there yet."""
        key = _key(text)
        if key not in self._numbers:
            self._numbers[key] = len(self.texts)
            self.texts.append(text)
        return self._numbers[key]

    def find(self, text: str) -> int | None:
        """Returns the number of a text; None where it is not there."""
        return self._numbers.get(_key(text))


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()


class Ranked(Protocol):
    """What ranks candidates."""

    def __call__(
        self, anchors: Sequence[str], positives: Sequence[int], k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns numbers [A, k], -1 where nothing more was found, scores [A, k], and those of the positives [A]."""
        ...


@dataclasses.dataclass(frozen=True)
class ByWords:
    """BM25; a text without a word of the anchor is not found."""

    index: Bm25

    def __call__(
        self, anchors: Sequence[str], positives: Sequence[int], k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `Ranked`."""
        numbers, scores = self.index.top(anchors, k)
        right = [self.index.scores(anchor)[number] for anchor, number in zip(anchors, positives, strict=True)]
        return np.where(scores > 0, numbers, -1), scores, np.asarray(right, np.float32)


@dataclasses.dataclass(frozen=True)
class ByVectors:
    """A run's vectors."""

    model: Model
    store: VectorStore

    def __call__(
        self, anchors: Sequence[str], positives: Sequence[int], k: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See `Ranked`."""
        vectors_AD = self.model.embed(anchors, "query")
        numbers, scores = rank_all(vectors_AD, self.store.vectors, k)
        return numbers, scores, np.einsum("ad,ad->a", vectors_AD, self.store.vectors[np.asarray(positives)])


@dataclasses.dataclass
class Found:
    """Sums over what was mined, kept in the state of an unfinished call.

    Attributes:
      dropped: reason -> candidates.
      by_count: how many negatives a pair has -> pairs.
      positive_score: sum over the pairs.
      negative_score: sum over the negatives.
      positive_judged: the same by the cross-encoder.
      negative_judged: the same by the cross-encoder.
    """

    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    by_count: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    positive_score: float = 0.0
    negative_score: float = 0.0
    positive_judged: float = 0.0
    negative_judged: float = 0.0

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return sum(self.by_count.values())

    @property
    def negatives(self) -> int:
        """Number of negatives."""
        return sum(count * pairs for count, pairs in self.by_count.items())

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values."""
        by_count = {str(count): pairs for count, pairs in self.by_count.items()}
        return {**vars(self), "dropped": dict(self.dropped), "by_count": by_count}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Found":
        """Returns what `to_dict` gave."""
        by_count = collections.Counter({int(count): pairs for count, pairs in values.pop("by_count").items()})
        return cls(collections.Counter(values.pop("dropped")), by_count, **values)


@dataclasses.dataclass(frozen=True)
class Miner:
    """Mines pairs, a portion at a time.

    Attributes:
      texts: the candidates.
      positives: key of an anchor -> numbers of its known positives.
      ranked: what ranks them.
      rules: what may be a negative.
      judge: a run on pairs; None without.
      judge_margin: a candidate goes whose score by it is not at least so much below the positive's.
    """

    texts: Texts
    positives: dict[str, set[int]]
    ranked: Ranked
    rules: Rules
    judge: Model | None = None
    judge_margin: float = 0.0

    def __call__(self, groups: Sequence[TextGroup], found: Found) -> list[dict[str, Any]]:
        """Returns a row for each pair; adds to `found`."""
        right = [self.texts.add(group.others[0]) for group in groups]
        known = [self._known(group.anchor) for group in groups]
        depth = min(self.rules.depth + max(map(len, known)), len(self.texts.texts))
        numbers, scores, right_scores = self.ranked([group.anchor for group in groups], right, depth)
        waiting = [
            candidates(
                numbers[at].tolist(), scores[at].tolist(), float(right_scores[at]), known[at], self.rules, found.dropped
            )
            for at in range(len(groups))
        ]
        taken = self._taken(groups, waiting, found)
        found.positive_score += float(right_scores.sum(dtype=np.float64))
        rows = []
        for group, chosen in zip(groups, taken, strict=True):
            found.by_count[len(chosen)] += 1
            found.negative_score += sum(each.score for each in chosen)
            row: dict[str, Any] = {"anchor": group.anchor, "positive": group.others[0]}
            rows.append(row | ({"negatives": [self.texts.texts[each.number] for each in chosen]} if chosen else {}))
        return rows

    def _known(self, anchor: str) -> set[int]:
        own = self.texts.find(anchor)
        return self.positives[_key(anchor)] | ({own} if own is not None else set())

    def _taken(
        self, groups: Sequence[TextGroup], waiting: Sequence[Iterator[Candidate]], found: Found
    ) -> list[list[Candidate]]:
        """Returns the first candidates of each pair, those that the cross-encoder finds right left out.

        It judges no more candidates than are needed: in each round as many as a pair still lacks.
        """
        wanted = self.rules.negatives
        taken: list[list[Candidate]] = [[] for _ in groups]
        if self.judge is None:
            return [list(itertools.islice(each, wanted)) for each in waiting]
        right = self.judge.pair_scores((group.anchor, group.others[0]) for group in groups)
        found.positive_judged += float(right.sum())
        open_pairs = list(range(len(groups)))
        while open_pairs:
            asked = [(at, each) for at in open_pairs for each in itertools.islice(waiting[at], wanted - len(taken[at]))]
            judged = self.judge.pair_scores((groups[at].anchor, self.texts.texts[each.number]) for at, each in asked)
            for (at, each), score in zip(asked, judged.tolist(), strict=True):
                if score > right[at] - self.judge_margin:
                    found.dropped[CROSS_ENCODER] += 1
                else:
                    taken[at].append(each)
                    found.negative_judged += score
            more = {at for at, _ in asked}  # the others have no candidates left
            open_pairs = [at for at in open_pairs if at in more and len(taken[at]) < wanted]
        return taken


def mine(
    source: str,
    output: str | os.PathLike[str],
    *,
    workdir: str | os.PathLike[str] | None = None,
    bm25: bool = False,
    rules: Rules | None = None,
    split: str = "train",
    corpus: str | os.PathLike[str] | None = None,
    cross_encoder: str | os.PathLike[str] | None = None,
    cross_encoder_margin: float = 0.0,
    columns: GroupColumns | None = None,
    label_rule: str = "",
    stop_words: str = "none",
    progress: Progress | None = None,
) -> Found:
    """Writes {"anchor", "positive", "negatives"} for each pair of a split, as JSON lines.

    A pair without any allowed candidate has no "negatives". Memory holds the pairs and the texts of the candidates; the
    vectors lie on disk, beside the output while it is not finished.

    Args:
      source: of pairs; see `read_groups`. Negatives that it has already are not read.
      output: the file to write.
      workdir: a run whose task gives vectors; None with `bm25`.
      bm25: rank by shared words.
      rules: what may be a negative; None: `Rules()`.
      split: whose pairs.
      corpus: a file of further candidates; see `corpus_file`.
      cross_encoder: a run on pairs (two classes, or a number).
      cross_encoder_margin: how much below the positive's a candidate's score by it must be.
      columns: of the source.
      label_rule: what labels of pairs mean; see `read_groups`.
      stop_words: of BM25.
      progress: where to show how far it is.

    Raises:
      UserError: neither or both of `workdir` and `bm25`, a source that cannot be read, a run without vectors, a
        cross-encoder without one score a pair.
    """
    if bm25 == (workdir is not None):
        raise UserError("--workdir, --bm25: give one of them: a run whose vectors rank the candidates, or BM25.")
    progress, output = progress or Progress(None, quiet=True), files.output_file(output, "--output")
    if files.is_stream(output):
        raise UserError(f"--output={output}: is not a file; a call that is stopped could not go on.")
    split = require_split(split)
    given = columns or GroupColumns()
    read = read_groups(source, [split], columns=given, kind="pairs", holdout=0.0, label_rule=label_rule)[split]
    progress.say(read.note)
    model = None if workdir is None else Model(files.user_path(workdir, "--workdir"))
    rules = (rules or Rules()).settled("bm25" if model is None else model.embeds.similarity)
    progress.say(str(rules))
    judge = None if cross_encoder is None else open_reranker(cross_encoder, "--cross_encoder")
    texts, positives = _candidates(read.groups, corpus, progress)
    made = {"bm25": stop_words if model is None else "", "run": "" if model is None else model.fingerprint()}
    made |= {"judge": "" if judge is None else judge.fingerprint(), "judge_margin": cross_encoder_margin}
    pairs = [(group.anchor, group.others[0]) for group in read.groups]
    key = _hash([made, dataclasses.asdict(rules), _PORTION, pairs, texts.texts])
    with files.held(files.lock_beside(output), f"--output={output}"):
        work = _work_folder(output, key, progress)
        ranked: Ranked
        if model is None:
            ranked = ByWords(Bm25(texts.texts, stop_words))
        else:
            ranked = ByVectors(model, _vectors(model, texts.texts, work / _VECTORS, source, progress))
        miner = Miner(texts, positives, ranked, rules, judge, cross_encoder_margin)
        found = _mine(miner, read.groups, work, progress)
        os.replace(work / _ROWS, output)
        shutil.rmtree(work)
    for table in tables(found, rules, judged=judge is not None):
        progress.table(table)
    if 2 * found.by_count[0] > found.pairs:
        progress.say(
            f"WARNING: {found.by_count[0]:,} of {found.pairs:,} pairs have no negative: most candidates are nearer to "
            "the anchor than its positive, as of a model that has not learned these data. Take --bm25, a run trained "
            "on them, or --margin=none with --skip and --max_score."
        )
    return found


def _candidates(
    groups: Sequence[TextGroup], corpus: str | os.PathLike[str] | None, progress: Progress
) -> tuple[Texts, dict[str, set[int]]]:
    """Returns the candidates, and the numbers of the known positives of each anchor."""
    texts, positives = Texts(), collections.defaultdict(set)
    for group in groups:
        positives[_key(group.anchor)].add(texts.add(group.others[0]))
    if corpus is not None:
        for each in corpus_file(files.user_path(corpus, "--corpus"), note=progress.say):
            texts.add(each.searched)
    progress.say(f"{len(groups):,} pairs, {len(texts.texts):,} different candidates")
    return texts, dict(positives)


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _work_folder(output: pathlib.Path, key: str, progress: Progress) -> pathlib.Path:
    """Returns where an unfinished call keeps what it has: that of an earlier one with the same input, or a new one."""
    work = output.parent / f".{output.name}.mining"
    state = work / _STATE
    if state.is_file() and files.read_versioned(state, _VERSION).get("key") != key:
        progress.say(f"NOTE: {work} is of a call with other data, run or rules; it is begun anew.")
        shutil.rmtree(work)
    if not state.is_file():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        _write_state(work, {"key": key, "done": 0, "bytes": 0, "found": Found().to_dict()})
    return work


def _write_state(work: pathlib.Path, values: dict[str, Any]) -> None:
    files.write_json(work / _STATE, {"version": _VERSION, **values})


def _vectors(model: Model, texts: Sequence[str], folder: pathlib.Path, source: str, progress: Progress) -> VectorStore:
    embeds = model.embeds
    identity = Identity(
        model.fingerprint(), str(model.workdir), _hash(texts), source, len(texts), embeds.dimension, embeds.similarity
    )
    corpus = (CorpusText(number, text, origin=f"candidate {number + 1}") for number, text in enumerate(texts))
    return embed_corpus(model, corpus, make_store(folder, identity, "--output"), progress)


def _mine(miner: Miner, groups: Sequence[TextGroup], work: pathlib.Path, progress: Progress) -> Found:
    """Writes the rows that are missing; the state counts a portion once it is on disk."""
    state = files.read_versioned(work / _STATE, _VERSION)
    rows = work / _ROWS
    if not rows.is_file() or rows.stat().st_size < state["bytes"]:
        state |= {"done": 0, "bytes": 0, "found": Found().to_dict()}
        rows.write_bytes(b"")
    done, found = state["done"], Found.from_dict(state["found"])
    if done:
        progress.say(f"goes on after {done:,} of {len(groups):,} pairs")
    with progress.task("mining pairs", len(groups)) as advance, open(rows, "r+b") as file:
        file.truncate(state["bytes"])
        file.seek(state["bytes"])
        advance(done)
        while portion := groups[done : done + _PORTION]:
            for row in miner(portion, found):
                file.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())
            done += len(portion)
            _write_state(work, {"key": state["key"], "done": done, "bytes": file.tell(), "found": found.to_dict()})
            advance(len(portion))
    return found


def tables(found: Found, rules: Rules, *, judged: bool) -> tuple[Table, ...]:
    """Returns what was found and what was dropped, for a person."""
    full = found.by_count[rules.negatives]
    few = found.pairs - full - found.by_count[0]
    scores = [("ranking", found.positive_score, found.negative_score)]
    scores += [("cross-encoder", found.positive_judged, found.negative_judged)] if judged else []
    return (
        Table(
            "Hard negatives",
            ("pairs", f"with {rules.negatives}", "with fewer", "with none", "negatives"),
            [(found.pairs, full, few, found.by_count[0], found.negatives)],
        ),
        Table(
            "Candidates dropped",
            ("why", "number"),
            [(why, found.dropped[why]) for why in REASONS if found.dropped[why]],
        ),
        Table(
            "Mean score",
            ("by", "positives", "negatives"),
            [(by, right / found.pairs, wrong / max(found.negatives, 1)) for by, right, wrong in scores],
        ),
    )


def main() -> None:
    """The program."""
    values = flags.FLAGS
    for name in ("source", "output"):
        if not values[name].value:
            raise UserError(f"--{name} is missing.\n{USAGE}")
    if values.stop_words != "none" and not values.bm25:
        raise UserError("--stop_words: is of --bm25, which is not given.")
    numbers = {name: getattr(values, name) for name in ("negatives", "skip", "depth", "relative_margin", "max_score")}
    rules = Rules(**numbers, margin=_margin(values.margin))
    columns = program.given_columns(COLUMNS)
    with Progress(None) as progress:
        mine(
            values.source,
            values.output,
            workdir=values.workdir,
            bm25=values.bm25,
            rules=rules,
            split=values.split,
            corpus=values.corpus,
            cross_encoder=values.cross_encoder,
            cross_encoder_margin=values.cross_encoder_margin,
            columns=GroupColumns(columns.get("text_column", ""), columns.get("pair_column", "")),
            label_rule=values.label_rule,
            stop_words=values.stop_words,
            progress=progress,
        )
    print(f"written: {values.output}")


def _margin(text: str) -> Any:
    if text in (AUTO, "none"):
        return AUTO if text == AUTO else None
    try:
        return float(text)
    except ValueError:
        raise UserError(f"--margin={text}: must be a number, {AUTO!r} or 'none'.") from None


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("source", None, "Pairs of texts, as config.data.source has them.")
    flags.DEFINE_string("output", None, "JSON lines to write.")
    flags.DEFINE_string("split", "train", "Whose pairs.")
    flags.DEFINE_string("workdir", None, "A run whose vectors rank the candidates.")
    flags.DEFINE_bool("bm25", False, "Rank by shared words, without a run.")
    flags.DEFINE_enum("stop_words", "none", list(STOP_WORDS), "Words that BM25 leaves out: none, or English ones (en).")
    flags.DEFINE_string("corpus", None, "A file of further candidates, beside the positives of the split.")
    flags.DEFINE_integer("negatives", 5, "Most negatives a pair.")
    flags.DEFINE_integer("skip", 0, "The first ranks that are left out.")
    flags.DEFINE_integer("depth", 100, "The last rank that is looked at.")
    flags.DEFINE_string(
        "margin", AUTO, f"How much below the positive's a score must be; auto: {COSINE_MARGIN} for cosines, else none."
    )
    flags.DEFINE_float("relative_margin", None, "The same as a share of the positive's score.")
    flags.DEFINE_float("max_score", None, "Greatest score of a negative.")
    flags.DEFINE_string(
        "cross_encoder", None, "A run on pairs (two classes, or a number) that removes what it finds right."
    )
    flags.DEFINE_float("cross_encoder_margin", 0.0, "How much below the positive's its score must be.")
    flags.DEFINE_enum("label_rule", "", list(LABEL_RULES), "What labels of pairs mean, as config.task.label_rule.")
    program.define_column_flags(COLUMNS)
    program.run(main, USAGE)

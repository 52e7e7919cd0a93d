"""Hard negatives of pairs, by words and by vectors, against a loop over all candidates; stopped and gone on."""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import jaxfm
from jaxfm.data.records.group_columns import GroupColumns
from jaxfm.data.records.text_groups import read_groups
from jaxfm.data.text.bm25 import Bm25
from jaxfm.data.text.hard_negatives import CROSS_ENCODER, KNOWN, Rules
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs import mine as mine_program
from jaxfm.programs.mine import mine
from jaxfm.programs.model import Model
from tests import tiny
from tests.programs import embedding_run
from tests.programs.many_calls import call_many

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXTS = [" ".join(words) for words, _ in tiny.sentences(48, 5)]
# Every third anchor has a second positive, and one positive is another's but for case and spaces.
PAIRS = [(TEXTS[2 * number], TEXTS[2 * number + 1]) for number in range(20)]
PAIRS += [(TEXTS[2 * number], TEXTS[40 + number // 3]) for number in range(0, 20, 3)]
PAIRS += [(TEXTS[0], f" {PAIRS[5][1].upper()}  ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("mine")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    return embedding_run.write(folder / "run", tiny.write_weights(folder / "weights"), query_prompt="met ")


@pytest.fixture(scope="module")
def judge(folder: pathlib.Path, run: pathlib.Path) -> pathlib.Path:
    return tiny.write_runs(folder, ("pairs",))["pairs"]


@pytest.fixture(scope="module")
def source(folder: pathlib.Path) -> str:
    (folder / "data").mkdir()
    lines = [json.dumps({"anchor": anchor, "positive": positive}) + "\n" for anchor, positive in PAIRS]
    (folder / "data" / "train.jsonl").write_text("".join(lines))
    return f"jsonl:{folder / 'data'}"


def key(text: str) -> str:
    return " ".join(text.lower().split())


def slow(
    pool: Sequence[str],
    score: Callable[[str, str], float],
    rules: Rules,
    judged: Callable[[str, str], float] | None = None,
    least: float = -np.inf,
) -> list[list[str]]:
    """The negatives of each pair: all candidates are scored, sorted and asked one by one."""
    unique = list({key(text): text for text in reversed(pool)}.values())[::-1]
    unique = [text for at, text in enumerate(pool) if key(text) not in {key(other) for other in pool[:at]}]
    found = []
    for anchor, positive in PAIRS:
        known = {key(right) for other, right in PAIRS if key(other) == key(anchor)} | {key(anchor)}
        right = next(text for text in unique if key(text) == key(positive))
        ranked = sorted((text for text in unique if key(text) not in known), key=lambda text: -score(anchor, text))
        taken = []
        for text in ranked[rules.skip : rules.depth]:
            if score(anchor, text) <= min(rules.limit(score(anchor, right)), rules.max_score or np.inf):
                if judged is None or judged(anchor, text) <= judged(anchor, positive):
                    if score(anchor, text) > least:
                        taken.append(text)
        found.append(taken[: rules.negatives])
    return found


def written(path: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_by_words(tmp_path: pathlib.Path, source: str) -> None:
    pool = [positive for _, positive in PAIRS]
    index = Bm25([text for at, text in enumerate(pool) if key(text) not in {key(other) for other in pool[:at]}])
    unique = [text for at, text in enumerate(pool) if key(text) not in {key(other) for other in pool[:at]}]

    def score(anchor: str, text: str) -> float:
        return float(index.scores(anchor)[unique.index(text)])

    found = mine(source, tmp_path / "out.jsonl", bm25=True, rules=Rules(3, depth=10))
    rows = written(tmp_path / "out.jsonl")
    assert [(row["anchor"], row["positive"]) for row in rows] == PAIRS
    expected = slow(pool, score, Rules(3, depth=10, margin=None), least=0.0)
    assert [row.get("negatives", []) for row in rows] == expected
    assert found.pairs == len(PAIRS) and found.negatives == sum(map(len, expected)) > 20
    assert found.dropped[KNOWN] > 0
    assert jaxfm.mine is mine


@pytest.mark.parametrize(
    "rules",
    [
        Rules(4, depth=40),
        Rules(2, skip=3, depth=25, margin=None, relative_margin=0.005),
        Rules(3, depth=30, margin=None, max_score=0.96),
    ],
)
def test_by_vectors(tmp_path: pathlib.Path, source: str, run: pathlib.Path, rules: Rules) -> None:
    (tmp_path / "more.txt").write_text("\n".join(TEXTS[40:]) + "\n")
    pool = [*(positive for _, positive in PAIRS), *TEXTS[40:]]
    model = Model(run)
    vectors = {text: vector for text, vector in zip(pool, model.embed(pool, "document"), strict=True)}
    queries = {
        anchor: vector for (anchor, _), vector in zip(PAIRS, model.embed([a for a, _ in PAIRS], "query"), strict=True)
    }
    found = mine(source, tmp_path / "out.jsonl", workdir=run, rules=rules, corpus=tmp_path / "more.txt")
    settled = rules.settled("cosine")
    expected = slow(pool, lambda anchor, text: float(queries[anchor] @ vectors[text]), settled)
    rows = written(tmp_path / "out.jsonl")
    assert [row.get("negatives", []) for row in rows] == expected
    assert any(expected) and found.negatives == sum(map(len, expected))
    right = np.mean([queries[anchor] @ vectors[positive] for anchor, positive in PAIRS])
    assert found.positive_score / found.pairs == pytest.approx(right, abs=1e-3)  # one is scored in another case
    # What was mined is read by what trains.
    read = read_groups(f"jsonl:{tmp_path / 'out.jsonl'}", None, columns=GroupColumns(), kind="pairs")["train"]
    assert [group.others[1:] for group in read.groups] == [tuple(texts) for texts in expected]


def test_a_cross_encoder_removes_what_it_finds_right(
    tmp_path: pathlib.Path, source: str, run: pathlib.Path, judge: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mine_program, "_PORTION", 7)
    rules, model, cross = Rules(3, depth=12, margin=None), Model(run), Model(judge)
    pool = [positive for _, positive in PAIRS]
    vectors = dict(zip(pool, model.embed(pool, "document"), strict=True))
    queries = dict(zip((a for a, _ in PAIRS), model.embed([a for a, _ in PAIRS], "query"), strict=True))
    every = [(anchor, text) for anchor, _ in PAIRS for text in pool]
    judged = dict(zip(every, cross.pair_scores(every), strict=True))
    found = mine(source, tmp_path / "out.jsonl", workdir=run, rules=rules, cross_encoder=judge)
    expected = slow(
        pool, lambda anchor, text: float(queries[anchor] @ vectors[text]), rules, lambda *pair: float(judged[pair])
    )
    assert [row.get("negatives", []) for row in written(tmp_path / "out.jsonl")] == expected
    assert found.dropped[CROSS_ENCODER] > 0
    assert found.negative_judged / found.negatives < found.positive_judged / found.pairs
    wide = mine(source, tmp_path / "b.jsonl", workdir=run, rules=rules, cross_encoder=judge, cross_encoder_margin=1.0)
    assert wide.negatives == 0 and written(tmp_path / "b.jsonl")[0] == {"anchor": PAIRS[0][0], "positive": PAIRS[0][1]}


@pytest.mark.parametrize("by", ["words", "vectors"])
def test_stopped_it_goes_on_and_gives_the_same_file(
    tmp_path: pathlib.Path, source: str, run: pathlib.Path, monkeypatch: pytest.MonkeyPatch, by: str, capsys: Any
) -> None:
    monkeypatch.setattr(mine_program, "_PORTION", 6)
    options: dict[str, Any] = {"bm25": True} if by == "words" else {"workdir": run}
    options["rules"] = Rules(2, depth=9)
    whole = mine(source, tmp_path / "whole.jsonl", **options)
    call, calls = mine_program.Miner.__call__, []

    def stopping(self: Any, groups: Any, found: Any) -> Any:
        calls.append(len(groups))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return call(self, groups, found)

    monkeypatch.setattr(mine_program.Miner, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        mine(source, tmp_path / "cut.jsonl", **options)
    assert not (tmp_path / "cut.jsonl").exists()
    work = tmp_path / ".cut.jsonl.mining"
    with open(work / "rows.jsonl", "a") as file:
        file.write('{"half')  # of the portion that was stopped
    again = mine(source, tmp_path / "cut.jsonl", **options, progress=Progress(None))
    assert f"goes on after 12 of {len(PAIRS)} pairs" in capsys.readouterr().out
    assert calls[:4] == [6, 6, 6, 6] and len(calls) == 3 + -(-(len(PAIRS) - 12) // 6)
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert again == whole and not work.exists()
    # With other rules nothing of it is used.
    calls[:] = []
    with pytest.raises(KeyboardInterrupt):
        mine(source, tmp_path / "cut.jsonl", **options)
    calls[:] = [0, 0, 0]
    mine(source, tmp_path / "cut.jsonl", **{**options, "rules": Rules(1, depth=9)}, progress=Progress(None))
    assert "is of a call with other data, run or rules; it is begun anew" in capsys.readouterr().out
    assert all(len(row.get("negatives", [])) <= 1 for row in written(tmp_path / "cut.jsonl"))


def test_what_is_refused(tmp_path: pathlib.Path, source: str, run: pathlib.Path, judge: pathlib.Path) -> None:
    for options, message in (
        ({}, "--workdir, --bm25: give one of them"),
        ({"bm25": True, "workdir": run}, "--workdir, --bm25: give one of them"),
        ({"workdir": judge}, "is a run of the task classification, which makes no vectors"),
        ({"bm25": True, "cross_encoder": run}, "--cross_encoder=.*which does not score pairs"),
        ({"bm25": True, "split": "test"}, "has no split 'test'"),
        ({"bm25": True, "corpus": tmp_path / "none.txt"}, "--corpus=.*no such file"),
    ):
        with pytest.raises(UserError, match=message):
            mine(source, tmp_path / "out.jsonl", **options)
    with pytest.raises(UserError, match="--output=/dev/stdout: is not a file"):
        mine(source, "-", bm25=True)
    assert not list(tmp_path.iterdir())


def test_the_program(tmp_path: pathlib.Path, source: str, run: pathlib.Path) -> None:
    output = f"--output={tmp_path / 'out.jsonl'}"
    calls = [
        [f"--source={source}", output, "--bm25", "--negatives=2"],
        [f"--source={source}", output, f"--workdir={run}", "--margin=none"],
        [f"--source={source}", output, f"--workdir={run}", "--margin=wide"],
        [f"--source={source}", "--bm25"],
        [output, "--bm25"],
        [f"--source={source}", output, "--bm25", "--depth=3"],
    ]
    results = call_many("mine", calls)
    assert [code for code, _, _ in results] == [0, 0, 2, 2, 2, 2], results
    assert "Hard negatives" in results[0][1] and "Candidates dropped" in results[0][1]
    assert f"written: {tmp_path / 'out.jsonl'}" in results[0][1]
    assert "--negatives=5 --skip=0 --depth=100\n" in results[1][1]
    for (_, _, errors), message in zip(
        results[2:],
        ("--margin=wide: must be a number", "--output is missing", "--source is missing", "--depth=3"),
        strict=True,
    ):
        assert message in errors

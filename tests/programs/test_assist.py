"""The assistant: its rule against a slow version, in batches as alone, scores by hand, and what is refused."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import jaxfm
from jaxfm.data.records.conversations import conversation_of, read_requests
from jaxfm.errors import UserError
from jaxfm.evaluation import hand_over as measures
from jaxfm.programs.assist import assist_file, lines, open_assistant
from jaxfm.programs.assist_evaluation import evaluate_assistant, is_right
from jaxfm.programs.assistant import FOR_A_PERSON, NO_ANSWER, UNSURE, Assistant
from jaxfm.programs.model import Model
from tests import tiny
from tests.programs import embedding_run
from tests.programs.many_calls import call_many

TEXTS = [" ".join(words) for words, _ in tiny.sentences(60, 5)]
STORED = [
    {"id": f"a{number}", "question": text, "answer": f"Say {number}.", "intent": ("PER", "LOC", None)[number % 3]}
    for number, text in enumerate(TEXTS[:24])
]
DIALOGUES = [TEXTS[first : first + 1 + first % 3] for first in range(24, 56, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("assist")


@pytest.fixture(scope="module")
def runs(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    made = tiny.write_runs(folder, ("classification", "pairs", "ner"))
    return made | {"retriever": embedding_run.write(folder / "retriever", f"dir:{folder / 'weights'}")}


@pytest.fixture(scope="module")
def stored(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in STORED))
    return path


def slow_reply(
    intents: Model,
    query: np.ndarray,
    vectors: Sequence[np.ndarray],
    turns: Sequence[str],
    *,
    sure: float,
    persons: Sequence[str],
    threshold: float,
) -> dict[str, Any]:
    """The rule for one dialogue, answer by answer."""
    (found,) = intents([" [SEP] ".join(turns[-2:])])
    unsure = found["score"] < sure
    scored = [
        (float(query @ vector), row)
        for vector, row in zip(vectors, STORED, strict=True)
        if unsure or row["intent"] in (None, found["label"])
    ]
    best, row = max(scored, key=lambda each: each[0])
    reason = UNSURE if unsure else FOR_A_PERSON if found["label"] in persons else None
    reason = reason or (None if best >= threshold else NO_ANSWER)
    answer = row["answer"] if reason is None else None
    return {"reason": reason, "intent": found["label"], "id": row["id"], "answer": answer, "score": best}


def test_the_rule(runs: dict[str, pathlib.Path], stored: pathlib.Path) -> None:
    intents, vectors = Model(runs["classification"]), Model(runs["retriever"])
    open_ = {"threshold": -1.0, "intent_threshold": 0.0, "context_turns": 1, "query_turns": 0}
    free = open_assistant(runs["classification"], stored, runs["retriever"], **open_).replies(DIALOGUES)
    assert {each["action"] for each in free} == {"answer"}
    person = free[0]["intent"]
    documents = [vectors.embed([row["question"]], "document")[0] for row in STORED]
    sure = float(np.median([each["probability"] for each in free]))
    threshold = float(np.median([each["score"] for each in free]))
    reasons = set()
    for persons in ([], [person]):
        rule = {"sure": sure, "persons": persons, "threshold": threshold}
        given = open_ | {"threshold": threshold, "intent_threshold": sure, "hand_over": persons}
        assistant = open_assistant(runs["classification"], stored, runs["retriever"], **given)
        replies = assistant.replies(DIALOGUES)
        for turns, reply in zip(DIALOGUES, replies, strict=True):
            expected = slow_reply(intents, vectors.embed([turns[-1]], "query")[0], documents, turns, **rule)
            assert reply["score"] == pytest.approx(expected.pop("score"), abs=1e-5)
            assert {name: reply[name] for name in expected} == expected
            assert reply["action"] == ("hand_over" if expected["reason"] else "answer")
            assert [each["rank"] for each in reply["candidates"]] == [1, 2, 3]
            alone = assistant.reply(turns)
            assert alone["score"] == pytest.approx(reply["score"], abs=1e-5)
            assert [each["id"] for each in alone["candidates"]] == [each["id"] for each in reply["candidates"]]
            assert (alone["reason"], alone["intent"]) == (reply["reason"], reply["intent"])
        reasons |= {each["reason"] for each in replies}
    assert reasons == {None, UNSURE, FOR_A_PERSON, NO_ANSWER}
    assert repr(assistant).startswith("<jaxfm.Assistant: 24 stored answers, intents by ")
    assert jaxfm.open_assistant is open_assistant and jaxfm.Assistant is Assistant


def test_only_answers_of_the_intent_are_found(runs: dict[str, pathlib.Path]) -> None:
    """By words and by vectors; an intent without any stored answer hands over."""
    vectors = {"retriever": runs["retriever"], "threshold": -1.0}
    for intent in ("PER", "LOC"):
        only = [row for row in STORED if row["intent"] == intent]
        for each in open_assistant(runs["classification"], only, intent_threshold=0.0, **vectors).replies(DIALOGUES):
            assert bool(each["candidates"]) == (each["intent"] == intent) == (each["reason"] is None)
    for by in ({"bm25": True, "threshold": 0.0}, vectors):
        kept = open_assistant(runs["classification"], STORED, intent_threshold=0.0, **by)
        everything = open_assistant(None, STORED, top=24, **by)
        for reply, whole in zip(kept.replies(DIALOGUES), everything.replies(DIALOGUES), strict=True):
            allowed = {row["id"] for row in STORED if row["intent"] in (None, reply["intent"])}
            ranked = [each for each in whole["candidates"] if each["id"] in allowed][:3]
            assert len(allowed) == 16 and [each["id"] for each in reply["candidates"]] == [
                each["id"] for each in ranked
            ]
            found, expected = ([each["score"] for each in both] for both in (reply["candidates"], ranked))
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_reranked(runs: dict[str, pathlib.Path]) -> None:
    """The score that the threshold is of is the reranker's."""
    given: dict[str, Any] = {"bm25": True, "rerank": runs["pairs"], "candidates": 5}
    found = open_assistant(None, STORED, threshold=0.0, **given).reply(DIALOGUES[0])
    best = found["candidates"][0]
    query = DIALOGUES[0][-1]
    scores = Model(runs["pairs"]).pair_scores([(query, each["text"]) for each in found["candidates"]])
    np.testing.assert_allclose([each["score"] for each in found["candidates"]], scores, atol=1e-5)
    assert found["action"] == "answer" and "first_score" in best and found["intent"] is None
    higher = open_assistant(None, STORED, threshold=best["score"] + 0.01, **given).reply(DIALOGUES[0])
    assert (higher["reason"], higher["answer"], higher["id"]) == (NO_ANSWER, None, best["id"])


ANSWERS = [
    {"id": 1, "question": "when are you open", "answer": "From nine.", "act": ["INFORM", "TIME"]},
    {"id": 2, "question": "how can i pay", "answer": "By card.", "act": ["INFORM"]},
    {"id": 3, "question": "where is the shop", "answer": "In Hull.", "act": ["PLACE"]},
]


def spoken(*turns: str, **values: Any) -> dict[str, Any]:
    names = ("USER", "SYSTEM")
    said = [{"speaker": names[number % 2], "text": text, **values} for number, text in enumerate(turns)]
    return {"dialogue_id": turns[0], "turns": said}


TALKS = [
    spoken("when are you open", "from  NINE.", "and how can i pay", "In cash.", act=["INFORM"]),
    spoken("where is the shop then", "In Hull.", act=["PLACE"]),
    spoken("zebra", "What?", act=["ASK"]),
]


def test_evaluation_by_hand(tmp_path: pathlib.Path) -> None:
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(each) + "\n" for each in TALKS))
    source = str(tmp_path / "talks.jsonl")
    low = open_assistant(None, ANSWERS, bm25=True, threshold=0.1)
    report = evaluate_assistant(low, source)
    value = {name: each.value for name, each in report.shares.items()}
    # Found: "From nine." (right), "By card." (wrong), "In Hull." (right), nothing.
    assert value[measures.ANSWERED] == 3 / 4 and value[measures.RIGHT_ANSWERS] == pytest.approx(2 / 3)
    assert value[measures.RIGHT] == 2 / 4 == value[measures.ALONE_RIGHT]
    assert value[measures.GAIN] == 0, "without intents the assistant is retrieval at that coverage"
    assert report.values["handed_over"] == {NO_ANSWER: 1} and report.values["dialogues"] == 3
    assert [each["followed"] for each in report.values["wrong"]] == ["In cash."]
    by_act = evaluate_assistant(open_assistant(None, ANSWERS, bm25=True, threshold=0.1, match="act"), source)
    # "From nine." is of other acts than that turn, "By card." of the same.
    assert by_act.shares[measures.RIGHT].value == 2 / 4
    assert [each["it answered"] for each in by_act.values["wrong"]] == ["From nine."]
    report.write(tmp_path / "report")
    assert {each.name for each in (tmp_path / "report").iterdir()} == {"report.md", "report.json", "assist.png"}
    assert json.loads((tmp_path / "report" / "report.json").read_text())["shares"]["answered"]["value"] == 0.75
    assert "The surest wrong answers" in (tmp_path / "report" / "report.md").read_text()
    high = evaluate_assistant(open_assistant(None, ANSWERS, bm25=True, threshold=99.0), source)
    assert high.shares[measures.ANSWERED].value == 0 and np.isnan(high.shares[measures.RIGHT_ANSWERS].value)
    high.write(tmp_path / "none")
    for match, message in (("acts", "no stored answer .* has this column"), ("answer", "has a role of its own")):
        with pytest.raises(UserError, match=f"--match={match}: .*{message}"):
            open_assistant(None, ANSWERS, bm25=True, threshold=0.1, match=match)
    with pytest.raises(UserError, match="no answer in it has 'kind'.*Valid choices: 'act', 'speaker', 'text'"):
        kinds = [{**each, "kind": 1} for each in ANSWERS]
        evaluate_assistant(open_assistant(None, kinds, bm25=True, threshold=0.1, match="kind"), source)


def test_evaluation_with_intents(runs: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    """Shares from the replies themselves, one request at a time."""
    talks = []
    for first in range(24, 56, 4):
        followed = STORED[first % 24]["answer"] if first % 8 else "Something else."
        talk = spoken(TEXTS[first], followed, TEXTS[first + 1], STORED[(first + 1) % 24]["answer"])
        talk["turns"][0]["intent"] = ("PER", "LOC")[first % 3 == 0]
        talks.append(talk)
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(each) + "\n" for each in talks))
    requests = read_requests([conversation_of(each, "x") for each in talks], "", "x")
    sure = float(
        np.median([each["score"] for each in Model(runs["classification"])([each[2][-1] for each in requests])])
    )
    given: dict[str, Any] = {"intent_threshold": sure, "threshold": 0.0}
    assistant = open_assistant(runs["classification"], STORED, runs["retriever"], **given)
    report = evaluate_assistant(assistant, f"dialogue:{tmp_path}")
    replies = [assistant.reply(each.texts) for each in requests]
    answered = [each["action"] == "answer" for each in replies]
    right = [is_right(a["candidates"][0], b) and c for a, b, c in zip(replies, requests, answered, strict=True)]
    known = [
        (a["intent"], b.user.values["intent"])
        for a, b in zip(replies, requests, strict=True)
        if b.user[2].get("intent")
    ]
    assert 0 < sum(answered) < len(requests)
    assert report.shares[measures.ANSWERED].value == pytest.approx(np.mean(answered))
    assert report.shares[measures.RIGHT].value == pytest.approx(np.mean(right))
    assert report.shares[measures.INTENTS].value == pytest.approx(np.mean([a == b for a, b in known]))
    assert sum(report.values["handed_over"].values()) == len(requests) - sum(answered)
    alone = [
        each is not None and is_right(each, b)
        for each, b in zip(assistant.retrieve([each.texts for each in requests]), requests, strict=True)
    ]
    assert report.shares[measures.ALONE_RIGHT].value == pytest.approx(np.mean(alone))


def test_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(each) + "\n" for each in TALKS))
    assistant = open_assistant(None, ANSWERS, bm25=True, threshold=0.1)
    assert assist_file(assistant, tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 3
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = [{"dialogue_id": each["dialogue_id"], **assistant.reply(each)} for each in TALKS]
    assert found == expected
    assert [each["answer"] for each in found] == ["By card.", "In Hull.", None]
    assert lines(found[0]) == ["By card.", f"  ({found[0]['score']:.4f}  2)"]
    assert lines(found[2] | {"intent": "PER", "probability": 0.25}) == [
        "intent: PER (0.2500)",
        "to a person: no stored answer fits",
    ]
    with pytest.raises(UserError, match="is the input itself"):
        assist_file(assistant, tmp_path / "in.jsonl", tmp_path / "in.jsonl")
    (tmp_path / "in.jsonl").write_text('{"turns": ["a"]}\n{"turns": [{"role": "assistant", "content": "b"}]}\n')
    with pytest.raises(UserError, match="in.jsonl:2: has no turn of a user"):
        assist_file(assistant, tmp_path / "in.jsonl", tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_what_is_refused(runs: dict[str, pathlib.Path], stored: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "plain.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "wrong.jsonl").write_text('{"text": "a", "answer": "b", "intent": "PERS"}\n')
    single = runs["classification"]
    for given, message in (
        ({"answers": None}, "--answers is missing"),
        ({"answers": tmp_path / "plain.jsonl"}, "--answers=.*plain.jsonl: there must be a column 'answer'"),
        (
            {"answers": tmp_path / "wrong.jsonl"},
            r"wrong.jsonl:1: the run of --intents has no intent 'PERS'. Did.*'PER'",
        ),
        ({"answers": []}, "--answers=texts in memory: has no text"),
        ({"hand_over": ["LCO"]}, "--hand_over=LCO: the run of --intents has no such intent. Did you mean 'LOC'"),
        ({"intents": None, "hand_over": ["LOC"]}, "--hand_over: is of --intents=RUN"),
        ({"intents": None, "intent_threshold": 0.5}, "--intent_threshold: is of --intents=RUN"),
        ({"intent_threshold": 1.5}, "--intent_threshold=1.5: must be from 0 to 1"),
        ({"threshold": -0.5}, "--threshold=-0.5: must be from 0 to inf"),
        ({"threshold": float("nan")}, "--threshold=nan: must be"),
        ({"bm25": False, "retriever": runs["retriever"], "threshold": 1.5}, "--threshold=1.5: must be from -1 to 1"),
        ({"threshold": None}, "--threshold: is needed"),
        ({"bm25": False}, "give one of --retriever=RUN"),
        ({"retriever": runs["retriever"]}, "give one of --retriever=RUN"),
        ({"bm25": False, "retriever": runs["ner"]}, "makes no vectors"),
        ({"bm25": False, "retriever": "absent"}, "--retriever=absent: "),
        ({"intents": "absent"}, "--intents=absent: "),
        ({"intents": runs["pairs"]}, "--intents=.*judges pairs of texts; it must be a run of classification"),
        ({"intents": runs["ner"]}, "--intents=.*no label; it must be a run of classification"),
        ({"intents": runs["retriever"]}, "--intents=.*is a run of the task embedding"),
        ({"context_turns": -1}, "--context_turns=-1: must be at least 0"),
        ({"top": 0}, "--top=0: must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            open_assistant(**{"intents": single, "answers": stored, "bm25": True, "threshold": 0.1} | given)  # type: ignore[arg-type]
    assistant = open_assistant(single, stored, bm25=True, threshold=0.1)
    with pytest.raises(UserError, match="dialogue 1: has no turn of a user"):
        assistant.reply([{"speaker": "agent", "text": "hello"}])


def test_the_program(tmp_path: pathlib.Path, runs: dict[str, pathlib.Path], stored: pathlib.Path) -> None:
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(each) + "\n" for each in TALKS))
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(each) + "\n" for each in ANSWERS))
    words = ["--bm25", f"--answers={tmp_path / 'answers.jsonl'}", "--threshold=0.1"]
    input_, output = f"--input={tmp_path / 'test.jsonl'}", f"--output={tmp_path / 'out.jsonl'}"
    evaluate = f"--evaluate=dialogue:{tmp_path}"
    calls = [
        [*words, "when are you open"],
        [*words, "hello", "can i help you", "zebra"],
        [f"--intents={runs['classification']}", f"--answers={stored}", "--bm25", "--threshold=99", TEXTS[30]],
        [*words, input_, output],
        [*words, evaluate, "--match=act", f"--output={tmp_path / 'report'}"],
        words,
        [*words, input_],
        [*words, output, "when"],
        [*words, "--match=act", "when"],
        [*words, evaluate, "--split=valid"],
        [*words, evaluate, f"--output={tmp_path}"],
    ]
    results = call_many("assist", calls)
    assert [code for code, _, _ in results] == [0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2], results
    assert results[0][1].startswith("From nine.\n  (") and results[1][1] == "to a person: no stored answer fits\n"
    assert results[2][1].startswith("intent: ") and "to a person: " in results[2][1]
    assert results[3][1].endswith("out.jsonl (3 lines)\n") and (tmp_path / "out.jsonl").is_file()
    assert "right, of the answered" in results[4][1] and (tmp_path / "report" / "assist.png").is_file()
    for (_, _, errors), message in zip(
        results[5:],
        (
            "give one of: the turns",
            "--output is missing",
            "--output: is of --input",
            "--match: is of",
            "no split 'valid'",
            "--output=",
        ),
        strict=True,
    ):
        assert message in errors and errors.count("error: ") == 1

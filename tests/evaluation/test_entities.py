"""Entity scores against seqeval, tag scores against scikit-learn."""

import json

import hypothesis
import pytest
import seqeval.metrics
import sklearn.metrics
from hypothesis import strategies as st

from jaxfm.data.text.tagging import entity_spans
from jaxfm.evaluation.entities import entity_table, score_tokens, token_table
from jaxfm.observe.tables import to_plain
from tests.evaluation.tagged import score_entities

# "a-b" and the one-letter types guard the reading of a type with a hyphen or one that looks like a prefix.
TAGS = ["O", "O", *(f"{prefix}-{kind}" for prefix in "BI" for kind in ("PER", "LOC", "a-b", "B"))]
PAIR = st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), max_size=12)
CORPUS = st.lists(PAIR, min_size=1, max_size=6).map(
    lambda sentences: tuple([[pair[side] for pair in sentence] for sentence in sentences] for side in (0, 1))
)
FEW = hypothesis.settings(max_examples=150, deadline=None, derandomize=True, database=None)


@FEW
@hypothesis.given(tags=st.lists(st.sampled_from(TAGS), max_size=20))
def test_spans_equal_seqeval(tags):
    expected = [(first, last + 1, kind) for kind, first, last in seqeval.metrics.sequence_labeling.get_entities(tags)]
    assert entity_spans(tags) == expected


@FEW
@hypothesis.given(corpus=CORPUS)
def test_entity_scores_equal_seqeval(corpus):
    gold, predicted = corpus
    scores = score_entities(gold, predicted)
    if not scores.per_type:  # seqeval averages over nothing
        assert (scores.f1, scores.macro["f1"], scores.support) == (0.0, 0.0, 0)
        return
    assert scores.f1 == pytest.approx(seqeval.metrics.f1_score(gold, predicted, zero_division=0), abs=1e-12)
    assert scores.precision == pytest.approx(seqeval.metrics.precision_score(gold, predicted, zero_division=0))
    assert scores.recall == pytest.approx(seqeval.metrics.recall_score(gold, predicted, zero_division=0))
    report = seqeval.metrics.classification_report(gold, predicted, output_dict=True, zero_division=0)
    micro = {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1, "support": scores.support}
    ours = {
        **scores.per_type,
        "micro avg": micro,
        "macro avg": scores.macro,
        "weighted avg": scores.weighted,
    }
    assert set(ours) == set(report)
    assert_equal_reports(ours, report)


@FEW
@hypothesis.given(corpus=CORPUS.filter(lambda corpus: any(corpus[0])))
def test_tag_scores_equal_sklearn(corpus):
    gold, predicted = corpus
    scores = score_tokens(gold, predicted)
    flat_gold, flat_predicted = sum(gold, []), sum(predicted, [])
    tags = sorted({*flat_gold, *flat_predicted})
    report = sklearn.metrics.classification_report(flat_gold, flat_predicted, output_dict=True, zero_division=0)
    assert scores.accuracy == pytest.approx(report.pop("accuracy"), abs=1e-12)
    assert scores.micro["f1"] == pytest.approx(scores.accuracy, abs=1e-12)
    ours = {**scores.per_tag, "macro avg": scores.macro, "weighted avg": scores.weighted}
    assert set(ours) == set(report)
    assert_equal_reports(ours, report)
    inside = [tag for tag in tags if tag != "O"]
    if inside:
        expected = sklearn.metrics.precision_recall_fscore_support(
            flat_gold, flat_predicted, labels=inside, average="micro", zero_division=0
        )
        ours = scores.entity_micro
        assert [ours["precision"], ours["recall"], ours["f1"]] == pytest.approx(list(expected[:3]), abs=1e-12)


def assert_equal_reports(ours, report):
    for name, score in ours.items():
        theirs = report[name]
        assert score["support"] == theirs["support"]
        assert [score["precision"], score["recall"], score["f1"]] == pytest.approx(
            [theirs["precision"], theirs["recall"], theirs["f1-score"]], abs=1e-12
        )


def test_the_same_span_in_another_sentence_is_no_hit():
    gold = [["B-PER", "O"], ["O", "O"]]
    predicted = [["O", "O"], ["B-PER", "O"]]
    assert score_entities(gold, predicted).f1 == 0.0


def test_lengths_must_agree():
    with pytest.raises(AssertionError, match="sentence 1: 2 gold tags, 1 predicted"):
        score_tokens([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(AssertionError, match="2 gold sentences, 1 predicted"):
        score_tokens([["O"], ["O"]], [["O"]])


def test_tables_keep_the_published_order_and_json_keeps_the_scores():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-MISC"]]
    predicted = [["B-PER", "I-PER", "O", "O"], ["O", "B-LOC"]]
    tokens, entities = score_tokens(gold, predicted), score_entities(gold, predicted)
    assert list(tokens.per_tag) == ["B-LOC", "B-MISC", "B-PER", "I-PER", "O"]
    assert [row[0] for row in entity_table(entities).rows] == [
        "LOC", "MISC", "PER", "micro average", "macro average", "weighted average"
    ]  # fmt: skip
    assert entity_table(entities).rows[2][1:] == (1.0, 1.0, 1.0, 1)
    assert "micro average without O" in to_plain(token_table(tokens))
    assert json.loads(json.dumps(entities.to_dict()))["per_type"]["PER"] == {
        "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1
    }  # fmt: skip
    assert entities.to_dict()["f1"] == pytest.approx(0.4)  # 1 right, 2 predicted, 3 gold
    assert json.loads(json.dumps(tokens.to_dict()))["accuracy"] == pytest.approx(4 / 6)

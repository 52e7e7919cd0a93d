"""What profiles/embedding_quality.py makes of similarities and of groups of texts."""

import json
import pathlib

import numpy as np
import pytest

from jaxfm.data.records.text_groups import TextGroup
from jaxfm.errors import UserError
from profiles import embedding_quality
from profiles.embedding_quality import Judged, judged_texts, scores_of, write_training


def group(anchor: str, *others: str, score: float | None = None) -> TextGroup:
    return TextGroup(anchor, others, () if score is None else (score,), "here:1")


def test_rankings_and_choices_among_few() -> None:
    judged = judged_texts([group("a", "x"), group("b", "y"), group("a", "z")])
    assert judged.queries == ["a", "b"] and judged.documents == ["x", "y", "z"]
    assert judged.members.tolist() == [[0, 0], [1, 1], [0, 2]]
    right = np.asarray([[3.0, 1.0, 2.0], [1.0, 2.0, 0.0]])
    found = scores_of(judged, right, [2])
    assert found["ndcg@10"] == found["accuracy@1"] == found["recall@1 of 2"] == 100.0
    wrong = scores_of(judged, -right, [2])
    assert wrong["recall@1 of 2"] == 0.0 and wrong["mrr of 2"] == 50.0
    with pytest.raises(UserError, match="--candidates=9: there are only 3 documents"):
        scores_of(judged, right, [9])


def test_scored_pairs() -> None:
    pairs = [group("a", "x", score=1.0), group("b", "y", score=2.0), group("c", "z", score=5.0)]
    judged = judged_texts(pairs)
    assert isinstance(judged, Judged)
    found = scores_of(judged, np.diag([0.1, 0.2, 0.9]), [])
    assert found["spearman"] == 100.0 and 90 < found["pearson"] <= 100


def test_both_programs_get_the_same_groups(tmp_path: pathlib.Path) -> None:
    write_training([group("a", "x", "n"), group("b", "y", "m")], tmp_path)
    theirs = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    ours = [json.loads(line) for line in (tmp_path / "ours" / "train.jsonl").read_text().splitlines()]
    assert theirs[0] == {"texts": ["a", "x", "n"], "score": None}
    assert ours[0] == {"anchor": "a", "positive": "x", "negatives": ["n"]}


def test_values_of_changes() -> None:
    assert embedding_quality._typed({"a": "4", "b": "bf16", "c": "0.1"}) == {"a": 4, "b": "bf16", "c": 0.1}

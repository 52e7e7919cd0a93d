"""Scores of vectors made by hand: from which similarity on a query is answered, and how many answers are right."""

import json
import pathlib

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.core.task import Task
from jaxfm.evaluation.coverage import THRESHOLD
from jaxfm.tasks import registry
from jaxfm.tasks.embedding.scorer import EmbeddingScorer
from jaxfm.tasks.text_groups.groups_task import GroupsTask
from jaxfm.training.initial import resolve
from jaxfm.training.results import with_intervals
from tests import tiny


def create(config: Config) -> Task:
    return registry.create(config, resolve(config.model))[0]


def by_hand(scorer: EmbeddingScorer, angle_Q: np.ndarray, wrong: set[int]) -> dict[str, np.ndarray]:
    """Returns outputs in which each query has its own plane.

    Its own document, or of the queries in `wrong` a document that belongs to no one, lies at the given angle.
    """
    evaluated = scorer.evaluated
    queries, documents = len(evaluated.queries), len(evaluated.documents)
    vectors = np.zeros((queries + documents, 2 * queries + 1), np.float32)
    vectors[queries:, -1] = 1.0  # a document that is not named below is like no query
    taken = {positive for _, positive, *_ in evaluated.members}
    free = [number for number in range(documents) if number not in taken]
    for query, positive, *_ in evaluated.members:
        vectors[query, 2 * query] = 1.0
        document = queries + (free.pop() if query in wrong else positive)
        vectors[document] = 0.0
        vectors[document, 2 * query : 2 * query + 2] = np.cos(angle_Q[query]), np.sin(angle_Q[query])
    return {"vectors": placed(scorer, vectors)}


def placed(scorer: EmbeddingScorer, vectors: np.ndarray) -> np.ndarray:
    """Returns the vectors where `per_text` looks for them: [rows, segments, E]."""
    locations = scorer.evaluated.rows.example_locations
    rows, segments = len(scorer.evaluated.rows), int(locations[:, 1].max()) + 1
    outputs = np.zeros((rows, segments, vectors.shape[1]), np.float32)
    outputs[locations[:, 0], locations[:, 1]] = vectors
    return outputs


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> GroupsTask:
    folder = tmp_path_factory.mktemp("scorer")
    (folder / "groups").mkdir()
    for split, count in (("train", 8), ("valid", 30), ("test", 10)):
        rows = [{"anchor": f"ada {n}", "positive": f"arles {n}", "negative": f"bergen {n}"} for n in range(count)]
        (folder / "groups" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = create(tiny.embedding_config(folder))
    assert isinstance(found, GroupsTask)
    return found


def test_four_of_five_validation_queries_are_answered(task: GroupsTask) -> None:
    scorer = task.scorer("valid")
    queries = len(scorer.evaluated.queries)
    angle_Q = np.linspace(0.1, 1.4, queries)
    calibration = scorer.calibrate(by_hand(scorer, angle_Q, set()))
    answered = int(np.ceil(0.8 * queries))
    assert set(calibration) == {THRESHOLD}
    assert calibration[THRESHOLD] == pytest.approx(np.cos(angle_Q[answered - 1]), abs=1e-6)


def test_the_report_says_how_many_answers_are_right(task: GroupsTask) -> None:
    scorer = task.scorer("test")
    queries = len(scorer.evaluated.queries)
    assert queries == 10
    angle_Q = np.linspace(0.1, 1.0, queries)  # of 0.1, 0.2, ...
    outputs = by_hand(scorer, angle_Q, {0, 9})
    assert scorer.calibrate(outputs) == {}, "10 queries are too few"
    found = with_intervals(scorer.report(outputs, {THRESHOLD: float(np.cos(0.45))}))
    assert found.metrics["accuracy@1"] == pytest.approx(0.8)
    assert found.scores["answers"] == {
        "precision_at_80_percent": pytest.approx(7 / 8),
        THRESHOLD: pytest.approx(np.cos(0.45)),
        "coverage": pytest.approx(0.4),
        "precision": pytest.approx(3 / 4),
    }
    assert found.tables[-1].title.startswith("Answers") and len(found.tables[-1].rows) == 3
    assert set(scorer.report(outputs).scores["answers"]) == {"precision_at_80_percent"}


def test_scored_pairs_have_no_answers(tmp_path: pathlib.Path) -> None:
    scorer = create(tiny.embedding_config(tmp_path, task__kind="scored")).scorer("valid")
    assert isinstance(scorer, EmbeddingScorer)
    outputs = {"vectors": placed(scorer, np.eye(len(scorer.evaluated.encoded.cut), 9, dtype=np.float32))}
    assert scorer.calibrate(outputs) == {} and "answers" not in scorer.report(outputs).scores

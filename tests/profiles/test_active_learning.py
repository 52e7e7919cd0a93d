"""What the scripts of active learning and of domains compute from curves and tags; a whole simulation of two rounds."""

import json
import pathlib

import pytest

from profiles import active_learning, cross_domain
from profiles.active_learning import mean_curve, needed
from tests import tiny


def test_labels_needed() -> None:
    points = [(50, 0.5), (100, 0.7), (150, 0.6), (200, 0.9)]
    assert needed(points, 0.6) == pytest.approx(75)
    assert needed(points, 0.8) == pytest.approx(150 + 50 * 2 / 3)
    assert needed(points, 0.4) == 50 and needed(points, 0.95) is None
    assert mean_curve({"0": [(5, 0.5), (9, 0.7)], "1": [(5, 0.7), (9, 0.9)]}) == [(5, 0.6), (9, pytest.approx(0.8))]


def test_types_that_both_domains_have() -> None:
    lines = [{"tokens": ["a", "b", "c"], "ner_tags": ["B-person", "I-person", "B-product"]}]
    assert cross_domain.types_of(lines) == {"PER", "product"}
    assert cross_domain.with_types(lines, {"PER"})[0]["ner_tags"] == ["B-PER", "I-PER", "O"]


@pytest.mark.slow
def test_a_simulation_goes_on_where_it_was(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tiny.write_corpus(tmp_path / "corpus")
    tiny.write_weights(tmp_path / "weights")
    words = [
        f"--source={source}",
        f"--output={tmp_path / 'o.json'}",
        f"--workdir={tmp_path / 'w'}",
        "--by=random,badge",
    ]
    words += ["--seeds=0", "--start=10", "--batch=5", "--rounds=1", "--valid=10", f"--image={tmp_path / 'o.png'}"]
    words += [f"--config.model.init=dir:{tmp_path / 'weights'}", "--config.train.steps=2", "--config.train.min_steps=0"]
    active_learning.main(words)
    record = json.loads((tmp_path / "o.json").read_text())
    assert [count for count, _ in record["curves"]["badge"]["0"]] == [10, 15]
    assert record["curves"]["badge"]["0"][0] == record["curves"]["random"]["0"][0]
    assert (tmp_path / "o.png").stat().st_size > 5000 and "random" in capsys.readouterr().out
    before = (tmp_path / "w" / "seed_0" / "badge_1" / "run" / "report.json").stat().st_mtime_ns
    active_learning.main(words)
    assert json.loads((tmp_path / "o.json").read_text())["curves"] == record["curves"]
    assert (tmp_path / "w" / "seed_0" / "badge_1" / "run" / "report.json").stat().st_mtime_ns == before

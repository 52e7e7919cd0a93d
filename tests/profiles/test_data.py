import time
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.data.arrays import ArrayDataset
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks.registry import default_config, from_config_dict
from profiles import data
from tests import tiny


@pytest.fixture
def config() -> Config:
    values = default_config("ner")
    values.train.batch_size = 8
    values.data.row_length = 16
    return from_config_dict(values)


@pytest.fixture
def rows() -> ArrayDataset:
    draw = np.random.default_rng(0)
    arrays = {name: draw.integers(0, 2, (20, 16)) for name in ("tokens", "segment_ids", "positions", "labels")}
    arrays["segment_ids"][:] = np.arange(16) < 12
    return tiny.text_dataset(arrays)


def test_batches_of_every_turn_are_used(rows: ArrayDataset, config: Config) -> None:
    seen: list[Any] = []
    mesh = make_mesh(config.parallel.mesh)
    rate, first = data.batches_per_second(rows, config, mesh, batches=7, use=lambda batch: seen.append(batch))
    assert len(seen) == 7 + data._WARM_UP
    assert all(batch["tokens"].shape == (8, 16) for batch in seen)
    assert rate > 0 and first > 0


def test_a_slow_consumer_sets_the_rate(rows: ArrayDataset, config: Config) -> None:
    mesh = make_mesh(config.parallel.mesh)
    rate, _ = data.batches_per_second(rows, config, mesh, batches=5, use=lambda batch: time.sleep(0.02))
    assert rate <= 1 / 0.02


def test_rates_are_of_rows_and_tokens(rows: ArrayDataset, config: Config) -> None:
    assert data.speed([10.0, 30.0, 20.0], rows, config) == {
        "rows_per_second": 160.0,
        "least_rows_per_second": 80.0,
        "most_rows_per_second": 240.0,
        "tokens_per_second": 160.0 * 16,
        "useful_tokens_per_second": 160.0 * 12,
    }


def test_both_stages_are_measured(rows: ArrayDataset, config: Config) -> None:
    found = data.pipeline(rows, config, make_mesh(config.parallel.mesh), batches=3, turns=2)
    assert set(found) == {"host", "placed", "first_batch_seconds"}
    for stage in ("host", "placed"):
        assert 0 < found[stage]["least_rows_per_second"] <= found[stage]["most_rows_per_second"]


def test_the_share_of_waiting_is_of_training_alone(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Config] = []

    def train(config: Config, workdir: Any) -> dict[str, Any]:
        asked.append(config)
        return {"training": {"goodput": {"start": 50.0, "train": 9.0, "wait for data": 1.0, "evaluate": 40.0}}}

    monkeypatch.setattr(data, "train", train)
    assert data.waiting(config, 40) == {"steps": 40, "seconds": 1.0, "share": 0.1}
    assert (asked[0].train.steps, asked[0].log.every_steps, asked[0].log.tensorboard) == (40, 10, False)


def test_the_table_compares_with_the_step(rows: ArrayDataset, config: Config) -> None:
    stage = data.speed([100.0], rows, config)
    result = {"pipeline": {"host": stage, "placed": stage}, "step": data.speed([4.0], rows, config)}
    shown = {row[0]: row[1:] for row in data.table(result).rows}
    assert shown["batches on the devices"] == (800.0, 9600.0, 25.0)
    assert shown["the train step"] == (32.0, 384.0, 1.0)

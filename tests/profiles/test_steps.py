import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.schema import to_dict
from jaxfm.tasks import registry
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training import initial
from profiles import steps
from profiles.steps import FULL, PACKED, PADDED, TimedStep, Work, read_config

# ml_collections loads config files in a way that Python 3.12 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def config(**changes: object) -> Config:
    """bert_tiny over short rows; keys as `data__row_length=24`."""
    words = [f"--config.{key.replace('__', '.')}={value}" for key, value in changes.items()]
    small = [
        "--config.model.tokenizer=train:wordpiece/500",
        "--config.data.row_length=24",
        "--config.train.batch_size=4",
    ]
    return read_config("configs/mlm.py:bert_tiny", [*small, "--config.model.scan_layers=True", *words])


def with_task(task: str, kind: str) -> Config:
    values = to_dict(config(data__row_length=64))
    values["task"] = {"name": task, **({"kind": kind} if task == "classification" else {})}
    return from_config_dict(values)


@pytest.mark.parametrize(
    ("task", "kind"),
    [("masked_lm", "single"), ("ner", "single")]
    + [("classification", kind) for kind in ("single", "multi", "regression")],
)
@pytest.mark.parametrize("layout", [FULL, PACKED, PADDED])
def test_random_rows_are_rows_of_the_task(task: str, kind: str, layout: str) -> None:
    values = with_task(task, kind)
    objective = registry.abstract_objective(values, initial.shape(values.model)[0])
    rows = steps.random_rows(objective, 64, kind=layout, example_tokens=20, count=6, seed=0)
    spec, batch = objective.spec.batch_spec(), rows.take(np.arange(6))
    segments, positions = batch["segment_ids"], batch["positions"]
    assert {name: (value.shape[1:], value.dtype) for name, value in batch.items()} == {
        name: (field.shape, field.dtype) for name, field in spec.items()
    }
    assert all(values.dtype == np.int32 for name, values in batch.items() if name != "labels")
    assert batch["tokens"].max() < objective.spec.encoder.vocab_size
    for row in range(6):
        used = segments[row][segments[row] > 0]
        sizes = np.bincount(used)[1:]
        assert {FULL: list(sizes) == [64], PADDED: len(sizes) == 1, PACKED: len(sizes) > 1}[layout]
        if layout != FULL:
            assert all(10 <= size <= 30 for size in sizes)
        assert list(used) == sorted(used) and not segments[row][len(used) :].any()  # one after the other, then padding
        assert list(positions[row][: len(used)]) == [place for size in sizes for place in range(size)]
        if task == "masked_lm":
            continue
        labels = batch["labels"][row]
        if task == "ner":
            assert ((labels >= 0) == (segments[row] > 0)).all()
        if kind in ("single", "multi") and task == "classification":
            assert ((labels.reshape(len(labels), -1)[:, 0] >= 0) == (np.arange(len(labels)) < len(sizes))).all()
    assert rows.volume.useful_share == (1.0 if layout == FULL else np.mean(segments > 0))


def test_packed_rows_are_nearly_full() -> None:
    values = config(data__row_length=128)
    rows = Work.synthetic(values, PACKED, 30, count=20).rows
    assert len(rows) == 20 and rows.volume.useful_share > 0.95


@pytest.mark.slow
def test_a_step_is_timed_and_counted() -> None:
    values = config()
    step = TimedStep(values, Work.synthetic(values, PACKED), batches=2)
    step.run(2)
    step.run(3)
    assert len(step.seconds) == len(step.host_seconds) == 5 == int(step.state.step)
    step.run_idle(2)
    assert len(step.host_cpu_seconds) == 2 and int(step.state.step) == 7 and len(step.seconds) == 5
    assert all(taken > 0 for taken in step.seconds)
    facts = step.facts(warm_up=2, peak_flops=1e9)
    assert facts["tokens"] == 4 * 24
    assert facts["step_seconds"]["median"] == sorted(step.seconds[2:])[1] == step.median_seconds()
    assert facts["useful_tokens_per_second"] == pytest.approx(facts["tokens_per_second"] * step.useful_share)
    # 72 L D^2 + 12 L D T + 6 r (D V + D^2), all devices sharing it.
    layers, width = 2, 128
    by_hand = 72 * layers * width**2 + 12 * layers * width * 24 + 6 * 0.15 * (width * 500 + width**2)
    assert step.model_flops() == pytest.approx(4 * 24 * by_hand)
    seconds = facts["step_seconds"]["median"]
    assert facts["mfu"] == pytest.approx(by_hand * 96 / seconds / step.mesh.size / 1e9)
    assert facts["achieved_tflops"] == pytest.approx(facts["mfu"] * 1e-3)
    assert 0 < facts["held_bytes"] < facts["peak_bytes"]
    assert 4 < facts["loss"] < 9  # about ln 500: a real step on real targets
    assert step.facts(warm_up=2, peak_flops=None)["mfu"] is None


def test_a_config_is_read_with_changes() -> None:
    assert read_config("configs/mlm.py:bert_mini", ["--config.train.batch_size=7"]).train.batch_size == 7
    assert read_config("configs/mlm.py:bert_mini").train.batch_size == 256


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("configs/mlm.py:bert_huge", "--config.seed=1", "bert_huge"),
        ("configs/absent.py", "--config.seed=1", "absent"),
        ("configs/mlm.py", "--config.train.batchsize=1", "train.batchsize.*batch_size"),
        ("configs/mlm.py", "--config.train.batch_size=x", "batch_size"),
    ],
)
def test_a_config_that_is_none(file: str, change: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_config(file, [change])

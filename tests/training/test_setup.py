"""What is settled before the first array: rows of one example, and by what attention is computed."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.core.task import Task
from jaxfm.data.pipeline import BatchSizes
from jaxfm.data.text.packing import PackedRows
from jaxfm.errors import UserError
from jaxfm.parallel import target
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from jaxfm.training.session import Session, make_session
from jaxfm.training.setup import _shorter_rows, set_up
from tests import tiny

CONFIGS = {
    "ner": tiny.config,
    "masked_lm": tiny.masked_lm_config,
    "classification": tiny.classification_config,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("setup")


def created(config: Config) -> tuple[Task, Mapping[str, np.ndarray]]:
    task, loaded = registry.create(config, resolve(config.model))
    return task, loaded


def traced(config: Config, task: Task) -> Session:
    return make_session(config, task.objective, make_mesh(config.parallel.mesh), total_steps=10)


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_hold_one_example_where_nothing_is_packed(folder: pathlib.Path, name: str) -> None:
    packed, alone = (created(CONFIGS[name](folder, data__packed=packed))[0] for packed in (True, False))
    for split in alone.datasets:
        rows, denser = alone.datasets[split], packed.datasets[split]
        batch = rows.take(np.arange(len(rows)))
        assert set(np.unique(batch["segment_ids"])) == {0, 1} and (batch["segment_ids"][:, 0] == 1).all()
        assert denser.take(np.arange(len(denser)))["segment_ids"].max() > 1
        # The same text, in more rows; held-out rows of masked LM have as many sets of masks.
        tokens = [
            np.sort(each.take(np.arange(len(each)))["segment_ids"] > 0, axis=None).sum() for each in (rows, denser)
        ]
        assert tokens[0] == tokens[1] and len(rows) > len(denser)


def test_rows_of_several_examples_are_noticed_where_one_was_promised(folder: pathlib.Path) -> None:
    """A kernel that knows of no segments would mix them up without a word."""
    task, loaded = created(tiny.config(folder))
    config = tiny.config(folder, data__packed=False)
    with pytest.raises(AssertionError, match="config.data.packed"):
        set_up(config, task, loaded, make_mesh(config.parallel.mesh))


def test_the_step_says_by_what_attention_is_computed(folder: pathlib.Path) -> None:
    config = tiny.config(folder)
    step = traced(config, created(config)[0])
    assert step.notes[0] == f"attention: xla (the only path on {target.platform()})"
    with target.tracing_for("tpu"):
        note, *_ = traced(config, created(config)[0]).notes
    assert "xla (splash: needs rows of a multiple of 128 tokens, not 48 (config.data.row_length))" in note


def test_a_kernel_that_cannot_be_used_ends_in_one_message(folder: pathlib.Path) -> None:
    for changes, words in (
        (
            {"model__attention": "splash"},
            f"'splash' .*does not run on {jax.default_backend()}. Nearest that can: 'xla'",
        ),
        ({"model__attention": "cudnn", "data__packed": False}, "'cudnn' cannot compute the attention of this model"),
    ):
        config = tiny.config(folder, **changes)
        task, loaded = created(config)
        with pytest.raises(UserError, match=f"config.model.attention: {words}"):
            set_up(config, task, loaded, make_mesh(config.parallel.mesh))


def test_dropout_of_attention_alone(folder: pathlib.Path) -> None:
    def rates(**changes: float) -> tuple[float, float]:
        encoder = created(tiny.config(folder, **changes))[0].objective.spec.encoder
        return encoder.dropout, encoder.attention_dropout

    assert rates() == (0.1, 0.1) and rates(model__dropout=0.2) == (0.2, 0.2)
    assert rates(model__attention_dropout=0.0) == (0.1, 0.0)
    assert rates(model__dropout=0.3, model__attention_dropout=0.0) == (0.3, 0.0)


def test_a_cpu_with_matrix_units_is_pointed_out_where_nobody_chose(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.config(folder)
    task, _ = created(config)
    for units, precision, said in ((True, "auto", True), (False, "auto", False), (True, "f32", False)):
        monkeypatch.setattr(target, "cpu_multiplies_bf16", lambda units=units: units)
        notes = traced(tiny.replaced(config, train__precision=precision), task).notes
        assert any("--config.train.precision=bf16" in note for note in notes) == said
    monkeypatch.setattr(target, "cpu_multiplies_bf16", lambda: True)
    with target.tracing_for("tpu"):
        assert not any("precision" in note for note in traced(config, task).notes)


@pytest.mark.parametrize(("packed", "rows"), [(True, 8), (False, 1)])
def test_rows_much_longer_than_any_example_are_pointed_out(
    folder: pathlib.Path, tmp_path: pathlib.Path, packed: bool, rows: int
) -> None:
    def notes(words: int) -> list[str]:
        for split in ("train", "valid", "test"):
            tiny.write_conll(tmp_path / str(words) / f"{split}.conll", [(["met"] * words, ["B-PER"] * words)] * 20)
        short = {"data__source": f"conll:{tmp_path / str(words)}", "data__row_length": 64, "data__packed": packed}
        config = tiny.config(folder, **short, train__batch_size=4)
        task, loaded = created(config)
        found = set_up(config, task, loaded, make_mesh(config.parallel.mesh)).notes
        return [note for note in found if "--config.data.row_length" in note]

    # Five words and two special tokens: rows of 8 would do, eight times as many where they are packed.
    (note,) = notes(5)
    assert "no example seen has more than 7 tokens, and rows have 64" in note
    assert "--config.data.row_length=8 " in note
    assert (f"--config.train.batch_size={4 * rows} " in note) == packed
    assert not notes(31)  # 33 tokens: rows of 40, and two such rows do not fit into one


def short_config(folder: pathlib.Path, name: str, **overrides: Any) -> Config:
    """A config whose rows have 64 tokens, and whose examples at most 12."""
    source = folder / f"short_{name}"
    if not source.exists():
        lines = [f"ada met in the town {'old ' * (number % 5)}." for number in range(60)]
        for split, some in (("train", lines), ("valid", lines[:9])):
            content = [(line.split(), ["B-PER", *["O"] * (len(line.split()) - 1)]) for line in some]
            tiny.write_conll(source / f"{split}.conll", content)
            records = [{"text": line.replace("ada ", ""), "label": str(number % 2)} for number, line in enumerate(some)]
            (source / f"{split}.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    kind = {"ner": "conll", "classification": "jsonl"}[name]
    values = {"data__source": f"{kind}:{source}", "data__row_length": 64}
    values |= {"task__overlap": 32} if name == "ner" else {}
    return CONFIGS[name](folder, **values | overrides)


@pytest.mark.parametrize("name", ["ner", "classification"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "other", [{}, {"data__window": 48, "train__first_batch_size": 1, "train__batch_warmup_steps": 2}]
)
def test_the_flags_of_the_note_on_long_rows_work_and_do_what_it_says(
    folder: pathlib.Path, name: str, packed: bool, other: dict[str, Any]
) -> None:
    config = short_config(folder, name, data__packed=packed, **other)
    before, _ = created(config)
    mesh = make_mesh(config.parallel.mesh)
    (note,) = _shorter_rows(config, before.datasets, mesh)
    flags = dict(re.findall(r"--config\.([\w.]+)=(\d+)", note))
    assert int(flags["data.row_length"]) in (16, 24) and ("about as many examples" in note) == packed
    assert ("train.batch_size" in flags) == packed and ("data.window" in flags) == ("data__window" in other)
    assert "has more than" in note and int(note.split("more than ")[1].split()[0]) <= 16
    pasted = tiny.replaced(config, **{key.replace(".", "__"): int(value) for key, value in flags.items()})
    after, _ = created(pasted)  # refuses windows and overlaps that contradict each other
    assert _shorter_rows(pasted, after.datasets, mesh) == ()

    def examples_a_step(task: Task, of: Config) -> float:
        rows = task.datasets["train"]
        segments = rows.take(np.arange(len(rows)))["segment_ids"].max(axis=1)
        assert segments.sum() == 60  # nothing is split
        return segments.mean() * of.train.batch_size

    assert examples_a_step(after, pasted) == pytest.approx(examples_a_step(before, config), rel=0.25 if packed else 0)
    train = pasted.train
    BatchSizes(train.batch_size, first=train.first_batch_size, warmup_steps=train.batch_warmup_steps)


def test_rows_for_tpus_and_for_a_sequence_axis_stay_ones_they_can_cut(folder: pathlib.Path) -> None:
    config = short_config(folder, "ner")
    task, _ = created(config)
    with target.tracing_for(target.Target("tpu")):
        assert _shorter_rows(config, task.datasets, make_mesh(config.parallel.mesh)) == ()
    cut = tiny.replaced(config, parallel__mesh__sequence=4, parallel__mesh__data=1)
    (note,) = _shorter_rows(cut, task.datasets, make_mesh(cut.parallel.mesh))
    assert int(re.findall(r"row_length=(\d+)", note)[0]) % 4 == 0


def test_the_longest_example_may_be_in_any_row(folder: pathlib.Path) -> None:
    config = short_config(folder, "ner", data__packed=False)
    task, _ = created(config)
    rows = task.datasets["train"]
    assert isinstance(rows, PackedRows)
    positions = np.concatenate([rows.positions] * 40)
    positions[-1, 50] = 50
    many = dataclasses.replace(rows, positions=positions)
    assert _shorter_rows(config, {"train": many}, make_mesh(config.parallel.mesh)) == ()

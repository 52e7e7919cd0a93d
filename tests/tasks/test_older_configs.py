"""Configs and runs of version 1, whose tasks had all keys of all tasks, read as runs of today."""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.predict import predict
from jaxfm.schema import replaced, to_dict
from jaxfm.tasks import registry
from jaxfm.tasks.registry import definition, from_config_dict, upgrade_config
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import open_run
from tests import tiny

# What every config of version 1 had, whatever its task.
_REST: dict[str, Any] = {
    "objective": "mlm",
    "seed": 0,
    "model": {"init": "scratch", "preset": "", "tokenizer": "", "dropout": None, "scan_layers": None, "remat": "none"},
    "data": {
        "source": "quickstart",
        "splitter": "auto",
        "cache": "",
        "row_length": 128,
        "packed": True,
        "window": 0,
        "overlap": 32,
        "context": "sentence",
    },
    "mask": {
        "unit": "token",
        "ratio": 0.15,
        "final_ratio": None,
        "mask_share": 0.8,
        "random_share": 0.1,
        "evaluate": ["token", "whole_word", "span"],
        "places_at_once": 0,
        "z_loss": 0.0,
        "generator_depth": 0.3333333333333333,
        "discriminator_weight": 50.0,
    },
    "classification": {"kind": "single", "pooling": "cls", "threshold": 0.5},
    "loss": {"label_smoothing": 0.0, "class_weights": "", "focal_gamma": 0.0, "r_drop": 0.0},
    "eval": {"every_steps": 0, "batch_size": 32, "metric": "f1", "select": "best", "rows": 4000, "patience": 0},
}


def older(task: str, **groups: Any) -> dict[str, Any]:
    """A config of version 1; `data={"context": ...}` changes keys of a group."""
    values = {"task": task, **_REST}
    for name, changed in groups.items():
        values[name] = {**values[name], **changed} if isinstance(changed, dict) else changed
    return values


def today(task: str, **overrides: Any) -> Config:
    """The defaults of config.py, not those of the task, which old runs did not have; `eval.metric` was always given."""
    values = dataclasses.replace(Config(), task=definition(task).config_class())
    return tiny.replaced(values, **{"eval__metric": "f1"} | overrides)


@pytest.mark.parametrize("task", ["ner", "classification", "masked_lm"])
def test_what_nobody_set_has_its_default(task: str) -> None:
    written: dict[str, Any] = {"task__pooling": "cls"} if task == "classification" else {}  # what is "auto" now
    assert from_config_dict(upgrade_config(older(task))) == today(task, **written)
    assert from_config_dict(upgrade_config({"task": task})) == today(
        task, eval__metric="auto"
    )  # keys that version 1 got later


def test_keys_of_ner() -> None:
    old = older(
        "ner",
        seed=3,
        data={"context": "document", "overlap": 8, "splitter": "fine", "row_length": 48, "source": "conll:x"},
        loss={"r_drop": 1.0, "label_smoothing": 0.1, "class_weights": "balanced"},
        mask={"ratio": 0.4},  # of another task: nobody reads it
        eval={"rows": 10, "metric": "recall"},
    )
    assert from_config_dict(upgrade_config(old)) == today(
        "ner",
        seed=3,
        data__row_length=48,
        data__source="conll:x",
        eval__metric="recall",
        task__context="document",
        task__overlap=8,
        task__splitter="fine",
        task__loss__r_drop=1.0,
        task__loss__label_smoothing=0.1,
        task__loss__class_weights="balanced",
    )


def test_keys_of_classification() -> None:
    old = older(
        "classification",
        classification={"kind": "multi", "pooling": "mean", "threshold": 0.3},
        loss={"focal_gamma": 2.0},
        data={"context": "document", "packed": False},
    )
    assert from_config_dict(upgrade_config(old)) == today(
        "classification",
        data__packed=False,
        task__kind="multi",
        task__pooling="mean",
        task__threshold=0.3,
        task__loss__focal_gamma=2.0,
    )


@pytest.mark.parametrize("chunk", ["places_at_once", "logits_chunk"])
def test_keys_of_masked_lm(chunk: str) -> None:
    mask = {"unit": "span", "ratio": 0.3, "final_ratio": 0.15, "mask_share": 0.7, chunk: 3, "z_loss": 1e-3}
    mask |= {"evaluate": [], "generator_depth": 0.5}
    assert from_config_dict(upgrade_config(older("masked_lm", mask=mask, eval={"rows": 12}))) == today(
        "masked_lm",
        task__unit="span",
        task__ratio=0.3,
        task__final_ratio=0.15,
        task__mask_share=0.7,
        task__logits_chunk=3,
        task__z_loss=1e-3,
        task__evaluate=[],
        task__eval_rows=12,
    )


def test_replaced_token_detection_was_an_objective_of_masked_lm() -> None:
    mask = {"unit": "whole_word", "generator_depth": 0.5, "discriminator_weight": 20.0, "mask_share": 0.5}
    assert from_config_dict(upgrade_config(older("masked_lm", objective="rtd", mask=mask, eval={"rows": 0}))) == today(
        "replaced_token",
        task__unit="whole_word",
        task__generator_depth=0.5,
        task__discriminator_weight=20.0,
        task__eval_rows=0,
    )


def test_what_no_version_had_is_refused() -> None:
    for values, message in (
        (older("nre"), "config.task: 'nre' is not a task of this jaxfm."),
        ({}, "config.task: None is not a task of this jaxfm."),
        (older("ner", seed=0) | {"sede": 1}, "config.sede: there is no such key. Did you mean 'seed'?"),
        (
            older("ner", data={"row_lenght": 1}),
            "config.data.row_lenght: there is no such key. Did you mean 'row_length'?",
        ),
    ):
        with pytest.raises(UserError) as caught:
            upgrade_config(values)
        assert message in str(caught.value)


# Whole run directories.


def made_older(
    run: pathlib.Path, copy: pathlib.Path, task: str, objective: str, config: dict[str, Any]
) -> pathlib.Path:
    """Copies a run; its config.json and task.json are as version 1 wrote them."""
    shutil.copytree(run, copy)
    for name, change in (
        ("config.json", {"config": config}),
        ("task.json", {"task": task} | ({"objective": objective} if task == "masked_lm" else {})),
    ):
        values = json.loads((copy / name).read_text()) | change | {"version": 1}
        if task == "masked_lm":
            values.pop("row_length", None)  # was read from the config
        (copy / name).write_text(json.dumps(values))
    return copy


def test_runs_of_version_1_are_read(tmp_path: pathlib.Path) -> None:
    runs = tiny.write_runs(tmp_path, ("ner", "masked_lm", "replaced_token"))
    for name, run in runs.items():
        now = open_run(run)
        values = to_dict(now.config)
        task, objective = {"replaced_token": ("masked_lm", "rtd")}.get(name, (name, "mlm"))
        old = older(task, objective=objective)
        groups = {name: keys for name, keys in values.items() if isinstance(keys, dict) and name != "task"}
        old |= {name: {**old.get(name, {}), **keys} for name, keys in groups.items()}
        if name == "ner":
            old["data"] |= {key: values["task"][key] for key in ("overlap", "context", "splitter")}
        opened = open_run(made_older(run, tmp_path / f"old_{name}", task, objective, old))
        # Keys that came later have what runs did then, which new runs may do otherwise.
        later = {"task.decoding": "argmax", "task.overlapping": "longest"} if name == "ner" else {}
        assert opened.config == replaced(now.config, later) and opened.spec == now.spec
        assert opened.definition.name == name and opened.spec.row_length == 48
        assert predict(opened.workdir, ["ada met boole in hull"]) == predict(run, ["ada met boole in hull"])
        if name == "ner":
            assert evaluate(opened.workdir).metrics == evaluate(run).metrics
            # The next run starts from it.
            first = tiny.replaced(now.config, model__init=f"run:{opened.workdir}")
            _, loaded = registry.create(first, resolve(first.model))
            _, wanted = registry.create(first, resolve(tiny.replaced(first, model__init=f"run:{run}").model))
            assert set(loaded) == set(wanted) and "head/kernel" in loaded
            for path, array in wanted.items():
                np.testing.assert_array_equal(loaded[path], array)

"""What a new run of replaced-token detection is made of."""

import pathlib
import random
from typing import Any

import pytest

from jaxfm.config import Config
from jaxfm.families.registry import preset
from jaxfm.tasks import registry
from jaxfm.tasks.replaced_token.spec import generator_layers
from jaxfm.tasks.replaced_token.task import ReplacedTokenTask
from jaxfm.training.initial import resolve
from tests import tiny

# Share of masked tokens at the first and the last step.
RATIOS = (0.4, 0.25)


def write_text(folder: pathlib.Path) -> str:
    """Documents of 3 to 40 words, a line each; returns the folder's URI."""
    draw = random.Random(3)
    words = (*tiny.FILLERS, *(name for names in tiny.NAMES.values() for name in names))
    for split, count in (("train", 90), ("valid", 12)):
        lines = [" ".join(draw.choices(words, k=draw.choice((3, 12, 40)))) for _ in range(count)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"text:{folder}"


def config(folder: pathlib.Path, **overrides: Any) -> Config:
    """A run of 6 updates from the tiny BERT's weights; two layers, one of them for the generator."""
    source = f"text:{folder / 'text'}" if (folder / "text").exists() else write_text(folder / "text")
    ours = {
        "data__source": source, "data__cache": str(folder / "cache"),
        "task__ratio": RATIOS[0], "task__final_ratio": RATIOS[1], "task__evaluate": ("token", "whole_word"),
        "train__steps": 6, "train__accumulate": 2, "train__batch_size": 8, "eval__every_steps": 3,
        "log__every_steps": 1, "eval__metric": "f1", "model__dropout": 0.0,
    }  # fmt: skip
    return tiny.masked_lm_config(folder, "replaced_token", **ours | overrides)


def created(folder: pathlib.Path) -> ReplacedTokenTask:
    values = config(folder)
    made, _ = registry.create(values, resolve(values.model))
    assert isinstance(made, ReplacedTokenTask)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("rtd")


@pytest.fixture(scope="module")
def task(folder: pathlib.Path) -> ReplacedTokenTask:
    return created(folder)


def test_what_a_new_run_is_made_of(task: ReplacedTokenTask, folder: pathlib.Path) -> None:
    spec = task.objective.spec
    assert spec.generator_layers == 1 and spec.encoder.family == "electra"
    assert (spec.masking.mask_share, spec.masking.random_share) == (1.0, 0.0)
    assert "generator: 1 of the encoder's 2 layers; loaded beside the encoder: nothing" in task.notes
    values = config(folder)
    initial = resolve(values.model)
    kept = registry.create(values, initial)[1]
    assert kept and all(name.startswith("encoder/") for name in kept)
    assert set(kept) == {name for name in initial.params if name.startswith("encoder/")}


@pytest.mark.parametrize(("depth", "layers"), [(0.01, 1), (1 / 3, 4), (0.5, 6), (1.0, 12)])
def test_depth_of_the_generator(depth: float, layers: int) -> None:
    assert generator_layers(depth, preset("bert_base")) == layers

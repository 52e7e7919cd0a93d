"""Every variant of configs/classification.py: it builds, and says what its name promises."""

import pathlib

import pytest

from configs.classification import get_config
from jaxfm.config import Config
from jaxfm.data.records.glue import GLUE
from jaxfm.errors import UserError
from jaxfm.tasks import registry
from jaxfm.tasks.classification.task import ClassificationTask
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training.initial import resolve
from tests import tiny

OWN = {"files": "single", "multi": "multi", "regression": "regression"}


def built(variant: str) -> Config:
    return from_config_dict(get_config(variant))


@pytest.mark.parametrize(("variant", "kind"), OWN.items())
def test_a_variant_for_own_files_judges_by_a_metric_of_its_kind(
    tmp_path: pathlib.Path, variant: str, kind: str
) -> None:
    config = built(variant)
    assert config.task.kind == kind and config.data.holdout is None and config.eval.metric == "auto"
    other = tiny.classification_config(tmp_path, kind, eval__metric=config.eval.metric)
    task, _ = registry.create(other, resolve(other.model))
    assert isinstance(task, ClassificationTask) and task.chosen["eval.metric"] in task.directions


@pytest.mark.parametrize("name", GLUE)
def test_a_variant_of_glue_has_the_kind_and_the_metric_of_its_set(name: str) -> None:
    config = built(name)
    assert config.data.source == f"tfds:glue/{name}"
    assert config.task.kind == GLUE[name].kind
    expected = {"cola": "mcc", "mrpc": "f1", "qqp": "f1", "stsb": "pearson"}
    assert config.eval.metric == expected.get(name, "accuracy")


def test_the_default_is_the_quickstart_and_unknown_variants_are_named() -> None:
    assert from_config_dict(get_config()) == built("quickstart")
    assert built("quickstart").data.source == "quickstart"
    with pytest.raises(UserError, match="configs/classification.py has no variant 'sst'. Did you mean 'sst2'"):
        get_config("sst")

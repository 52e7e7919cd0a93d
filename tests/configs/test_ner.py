"""Every variant of configs/ner.py: it builds, and the recipe behind the 92.4 runs from data to predictions."""

import dataclasses
import pathlib

import pytest

from configs.ner import MINILM, get_config
from jaxfm.errors import UserError
from jaxfm.programs.predict import predict
from jaxfm.programs.train import train
from jaxfm.tasks.registry import from_config_dict
from tests import tiny


@pytest.mark.parametrize("variant", ["quickstart", "files", "wnut17", "conll2003"])
def test_every_variant_builds_a_ner_run(variant: str) -> None:
    config = from_config_dict(get_config(variant))
    assert config.task.name == "ner" and config.eval.metric == "auto" and config.optim.learning_rate > 0


def test_the_default_is_the_quickstart() -> None:
    config = from_config_dict(get_config())
    assert config == from_config_dict(get_config("quickstart"))
    assert (config.data.source, config.model.init) == ("quickstart", MINILM)


def test_an_unknown_variant_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no variant 'conll2033'\. Did you mean 'conll2003'"):
        get_config("conll2033")


@pytest.mark.slow
def test_conll2003_runs_as_shipped_on_tiny_weights(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tiny.prepare_conll2003(tmp_path)))
    values = get_config("conll2003")
    assert (values.data.source, values.task.context, values.data.row_length) == ("tfds:conll2003", "document", 512)
    # The data, the windows and the batch of the recipe; only the encoder is small.
    encoder = dataclasses.replace(tiny.ENCODER, max_positions=512)
    values.model.init = tiny.write_weights(tmp_path / "weights", encoder)
    values.optim.learning_rate = 1e-2
    report = train(values, tmp_path / "run")
    # 40 sentences, each in a window of its own filled with its neighbours, in batches of 32 rows, 5 epochs.
    assert report["training"]["steps"] == 7
    test = report["splits"]["test"]
    assert set(test["per_type"]) == {"LOC", "PER"}
    assert test["per_type"]["PER"]["support"] == test["per_type"]["LOC"]["support"] == 40
    assert test["f1"] > 0.9  # every sentence says the same
    found = predict(tmp_path / "run", ["Ada7 said Rome"])[0]
    assert [(entity["type"], entity["text"]) for entity in found["entities"]] == [("PER", "Ada7"), ("LOC", "Rome")]

"""Probes after each layer: what each finds, and what is refused."""

import json
import pathlib

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="the library of probes: pip install scikit-learn")

from jaxfm.errors import UserError
from jaxfm.evaluation.probes import METRICS, fit_probe
from jaxfm.programs.model import Model
from jaxfm.programs.probe_layers import LayersReport, probe_layers
from jaxfm.programs.probe_texts import read_labelled
from tests import tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    folder = tmp_path_factory.mktemp("layers")
    tiny.write_examples(folder / "data", "single", pairs=False)
    return {**tiny.write_runs(folder, ("ner", "qa", "replaced_token")), "data": folder / "data"}


@pytest.fixture(scope="module")
def report(runs: dict[str, pathlib.Path]) -> LayersReport:
    return probe_layers(runs["ner"], f"jsonl:{runs['data']}", "valid")


def test_a_layer_is_probed_by_its_own_vectors(runs: dict[str, pathlib.Path], report: LayersReport) -> None:
    assert len(report.layers) == tiny.ENCODER.num_layers + 1
    texts, split, _ = read_labelled(f"jsonl:{runs['data']}", "valid", {})
    model = Model(runs["ner"], precision="f32")
    vectors = [
        model.explainer.layer_vectors([model.record(each.text, each.origin) for each in texts[name]])[1]
        for name in ("train", split)
    ]
    known, gold = ([str(each.target) for each in texts[name]] for name in ("train", split))
    alone = fit_probe(vectors[0], known, vectors[1], gold, identity=range(len(gold)))
    for metric in METRICS:
        assert report.layers[1].intervals[metric].value == pytest.approx(alone.intervals[metric].value)


def test_what_is_shown_and_written(report: LayersReport, tmp_path: pathlib.Path) -> None:
    names = [row[0] for row in report.table.rows]
    assert names == ["the most frequent label", "what the first layer reads", "after layer 1", "after layer 2"]
    found = json.loads(json.dumps(report.to_dict()))
    assert [each["accuracy"]["value"] for each in found["layers"]] == [
        each.intervals["accuracy"].value for each in report.layers
    ]
    report.draw(tmp_path / "layers.png")
    assert (tmp_path / "layers.png").stat().st_size > 1000 and np.isfinite(found["majority"]["accuracy"]["value"])


def test_runs_that_read_something_else(runs: dict[str, pathlib.Path]) -> None:
    source = f"jsonl:{runs['data']}"
    with pytest.raises(UserError, match="this run reads pairs of texts, or images"):
        probe_layers(runs["qa"], source, "valid")
    with pytest.raises(UserError, match="results of the task replaced_token are not explained"):
        probe_layers(runs["replaced_token"], source, "valid")
    with pytest.raises(UserError, match="--split=train: the probe is fitted to train"):
        probe_layers(runs["ner"], source, "train")

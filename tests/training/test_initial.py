"""Weights of another run: which checkpoint of it, and what is refused. Other places: tests/hub/test_initial.py."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config, MeshConfig, ModelConfig
from jaxfm.core.build import AttentionConfig, Build
from jaxfm.core.initial import Initial
from jaxfm.errors import UserError
from jaxfm.hub import initial as hub_initial
from jaxfm.models.subnets import take_layers
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.export import export
from jaxfm.training.initial import resolve, shape
from jaxfm.training.saved_run import open_run
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("initial")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> tuple[Config, pathlib.Path]:
    """A run of NER with the checkpoints 1 and 2, of which the first is the best."""
    config = tiny.config(folder)
    tiny.write_run(folder / "run", config, best=1)
    return config, folder / "run"


def test_the_weights_are_those_the_run_reports(run: tuple[Config, pathlib.Path], tmp_path: pathlib.Path) -> None:
    config, workdir = run
    initial = resolve(ModelConfig(init=f"run:{workdir}"))
    chosen = tiny.random_params(tiny.ENCODER, len(tiny.LABELS), seed=21)
    assert set(initial.params) == set(chosen) and initial.labels == tiny.LABELS
    for name, values in chosen.items():
        np.testing.assert_array_equal(initial.params[name], values)
    assert initial.encoder == tiny.ENCODER and initial.tokenizer == workdir / "tokenizer"
    assert initial.notes[0] == f"weights: run:{workdir}, step 1 (bert)"
    # The same as by way of an export.
    exported = hub_initial.resolve(ModelConfig(init=f"dir:{export(workdir, tmp_path / 'hf')}"))
    assert exported.encoder == initial.encoder and set(exported.params) == set(chosen)
    for name, values in chosen.items():
        np.testing.assert_array_equal(exported.params[name], values)
    # Where the last checkpoint is chosen, the last.
    made = tiny.write_run(tmp_path / "last", tiny.replaced(config, eval__select="last"), best=1)
    last = resolve(ModelConfig(init=f"run:{tmp_path / 'last'}"))
    np.testing.assert_array_equal(last.params["head/kernel"], made[2]["head/kernel"])
    assert not np.array_equal(made[2]["head/kernel"], chosen["head/kernel"]) and "step 2" in last.notes[0]


def test_all_else_is_resolved_as_ever(run: tuple[Config, pathlib.Path]) -> None:
    config, _ = run
    ours, theirs = resolve(config.model), hub_initial.resolve(config.model)
    assert ours.notes == theirs.notes and ours.encoder == theirs.encoder and set(ours.params) == set(theirs.params)


def test_dropout_and_tokenizer_of_the_new_run_come_first(
    run: tuple[Config, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    _, workdir = run
    own = tiny.write_tokenizer(tmp_path / "own")
    initial = resolve(ModelConfig(init=f"run:{workdir}", dropout=0.3, tokenizer=own))
    assert (initial.encoder.dropout, initial.encoder.attention_dropout) == (0.3, 0.3)
    assert initial.tokenizer == tmp_path / "own"
    (tmp_path / "own" / "vocab.txt").write_text("\n".join([*tiny.PIECES[:5], *tiny.VOCABULARY[:4:-1]]) + "\n")
    with pytest.raises(UserError, match="is not the tokenizer of these weights"):
        resolve(ModelConfig(init=f"run:{workdir}", tokenizer=own))


def test_what_is_no_run_is_refused(run: tuple[Config, pathlib.Path], tmp_path: pathlib.Path) -> None:
    _, workdir = run
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError) as caught:
            resolve(ModelConfig(init=f"run:{place}"))
        assert str(caught.value).startswith(f"config.model.init: 'run:{place}': {place} holds no run of jaxfm")
    with pytest.raises(UserError, match="config.model.preset: is 'bert_tiny', but the shape comes from the weights"):
        resolve(ModelConfig(init=f"run:{workdir}", preset="bert_tiny"))
    # A run that was stopped before its first checkpoint.
    for name in ("config.json", "task.json"):
        (tmp_path / name).write_bytes((workdir / name).read_bytes())
    (tmp_path / "tokenizer").symlink_to(workdir / "tokenizer")
    with pytest.raises(UserError) as caught:
        resolve(ModelConfig(init=f"run:{tmp_path}"))
    assert str(caught.value) == f"config.model.init: {tmp_path}: has no checkpoint yet."
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match=r"config\.model\.init: .*: has no checkpoint yet"):
        resolve(ModelConfig(init=f"run:{tmp_path}"))


@pytest.mark.parametrize("path", ["xla", "auto"])
def test_a_run_that_did_without_kernels_is_used_without(
    run: tuple[Config, pathlib.Path], tmp_path: pathlib.Path, path: str
) -> None:
    """Else a kernel that fails on somebody's device could not be avoided in `evaluate` and `predict`."""
    tiny.write_run(tmp_path / path, tiny.replaced(run[0], model__attention=path), best=1)
    restored = open_run(tmp_path / path).restore(make_mesh(MeshConfig()), Build())
    model: Any = nnx.merge(restored.graphdef, restored.params)
    assert model.encoder.build.attention == AttentionConfig(path)


def test_some_layers_of_weights_are_kept(run: tuple[Config, pathlib.Path], tmp_path: pathlib.Path) -> None:
    _, workdir = run
    for init in (f"run:{workdir}", tiny.write_weights(tmp_path, dataclasses.replace(tiny.ENCODER, num_layers=4))):
        whole, some = resolve(ModelConfig(init=init)), resolve(ModelConfig(init=init, keep_layers=(2,)))
        assert some.encoder == dataclasses.replace(whole.encoder, num_layers=1)
        assert shape(ModelConfig(init=init, keep_layers=(2,)))[0].num_layers == 1
        for path, value in whole.params.items():
            wanted = np.asarray(value)[[1]] if path.startswith("encoder/layers/") else value
            np.testing.assert_array_equal(np.asarray(some.params[path]), np.asarray(wanted))
        assert some.notes[-1] == f"layers kept: 2 of {whole.encoder.num_layers}"


def test_layers_of_pre_norm_encoders_keep_the_norm_that_they_have_learned_with(tmp_path: pathlib.Path) -> None:
    """A layer's first norm belongs to the layer before it; the last one is the encoder's own."""
    encoder = dataclasses.replace(tiny.ENCODER, norm_placement="pre", num_layers=4)
    params = tiny.random_params(encoder, 2, seed=3)
    found = take_layers(params, encoder, [1, 3])
    name = "encoder/layers/next_norm/scale"
    np.testing.assert_array_equal(found[name], params[name][[2, 3]])
    other = "encoder/layers/ffn/up/kernel"
    np.testing.assert_array_equal(found[other], params[other][[1, 3]])


@pytest.mark.parametrize(
    ("layers", "encoder", "message"),
    [
        ((0,), {}, "must be ascending numbers from 1 to 2, the layers of"),
        ((2, 1), {}, "must be ascending numbers"),
        ((1, 1), {}, "must be ascending numbers"),
        ((3,), {}, "must be ascending numbers"),
        ((1,), {"local_window": 8}, "which layers of a bert encoder see a window"),
        ((1,), {"layer_groups": 1}, "the layers of a bert encoder share their weights"),
    ],
)
def test_layers_that_cannot_be_kept(
    monkeypatch: pytest.MonkeyPatch, layers: tuple[int, ...], encoder: dict[str, Any], message: str
) -> None:
    first = Initial(dataclasses.replace(tiny.ENCODER, **encoder), {}, (), None, ())
    monkeypatch.setattr(hub_initial, "resolve", lambda _: first)
    with pytest.raises(UserError) as caught:
        resolve(ModelConfig(init="dir:there", keep_layers=layers))
    assert f"config.model.keep_layers: is {layers}, but" in str(caught.value) and message in str(caught.value)


def test_random_weights_have_no_layers_to_keep() -> None:
    with pytest.raises(UserError, match="which has no layers yet. Set config.model.num_layers"):
        resolve(ModelConfig(preset="bert_tiny", keep_layers=(1,)))

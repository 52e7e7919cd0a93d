"""Layers that are added in a run: the same function before and after, moments by hand, when, and whole runs."""

import dataclasses
import functools
import pathlib
import shutil
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config, GrowConfig, MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.models.heads import TokenClassifier
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.parallel.preemption import Paused
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.training import growth, history
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.paths import path_name
from jaxfm.training.session import make_session
from tests import tiny

PRE = dataclasses.replace(
    tiny.ENCODER,
    family="modernbert",
    **{"num_layers": 1, "norm_placement": "pre", "position_embedding": "rope", "type_vocab_size": 0},
    **{"attention_bias": False, "ffn_bias": False, "norm_bias": False, "gated": True, "head_bias": False},
    **{"classifier_transform": True, "norm_eps": 1e-5},
)
SHAPES = {
    "pre": dataclasses.replace(PRE, num_layers=2),
    "with biases and layer scale": dataclasses.replace(
        PRE, num_layers=2, attention_bias=True, ffn_bias=True, norm_bias=True, layer_scale=0.5, first_norm=True
    ),
    "local layers": dataclasses.replace(PRE, num_layers=3, local_window=4, global_every=3),
    "pre and post": dataclasses.replace(
        PRE, num_layers=2, norm_placement="pre_and_post", norm="rms", norm_scale_offset=1.0, first_norm=True
    ),
    "norms with biases around": dataclasses.replace(PRE, num_layers=2, norm_placement="pre_and_post", norm_bias=True),
}
TOKENS = np.random.default_rng(0).integers(5, 90, (2, 24)).astype(np.int32)
BATCH = {
    "tokens": TOKENS,
    "segment_ids": np.ones_like(TOKENS),
    "positions": np.tile(np.arange(24, dtype=np.int32), (2, 1)),
}


def graph_of(encoder: EncoderConfig) -> Any:
    return build_abstract(lambda: TokenClassifier(encoder, 3, DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig()))[0]


def outputs(encoder: EncoderConfig, params: Any) -> np.ndarray:
    graphdef = graph_of(encoder)
    return np.asarray(jax.jit(lambda params: nnx.merge(graphdef, params)(BATCH))(params))


def nested(flat: dict[str, Any]) -> Any:
    return flax.traverse_util.unflatten_dict({path: jnp.asarray(leaf) for path, leaf in flat.items()}, sep="/")


def deeper(encoder: EncoderConfig, depth: int) -> EncoderConfig:
    return dataclasses.replace(encoder, num_layers=depth)


@pytest.mark.parametrize("name", SHAPES)
def test_the_function_is_the_same(name: str) -> None:
    encoder = SHAPES[name]
    params = nested(tiny.random_params(encoder, 3, seed=1))
    before = outputs(encoder, params)
    depth = 3 * encoder.num_layers - 1  # more than twice as many
    grown, _ = growth.grow_state(params, {}, encoder, depth, "preserving")
    np.testing.assert_array_equal(outputs(deeper(encoder, depth), grown), before)
    stacked, _ = growth.grow_state(params, {}, encoder, depth, "stacked")
    assert np.abs(outputs(deeper(encoder, depth), stacked) - before).max() > 1e-2


def test_the_new_layers_learn() -> None:
    """Nothing of them is zero for good: outputs have gradients at once, and the rest once outputs are not zero."""
    for encoder in (SHAPES["pre"], SHAPES["pre and post"]):
        params = nested(tiny.random_params(encoder, 3, seed=1))
        grown, _ = growth.grow_state(params, {}, encoder, 4, "preserving")
        graphdef = graph_of(deeper(encoder, 4))

        def loss(params: Any, graphdef: Any = graphdef) -> jax.Array:
            return jnp.mean(nnx.merge(graphdef, params)(BATCH) ** 2)

        gradient = jax.jit(jax.grad(loss))
        moved = jax.tree.map(lambda leaf, slope: leaf - 1e-2 * slope, grown, gradient(grown))
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(moved)):
            if "encoder/layers" in path_name(path):
                assert (np.abs(leaf[2:]).reshape(2, -1).max(axis=1) > 0).all(), path_name(path)


def test_moments_by_hand() -> None:
    """3 layers to 5: layers 3 and 4 copy 0 and 1; first moments are new, the last norm keeps its place at the end."""
    draw = np.random.default_rng(0)
    of_layers = {
        "ffn": {"down": {"kernel": draw.random((3, 2))}, "up": draw.random((3, 2))},
        "next_norm": {"scale": draw.random((3, 2))},
    }
    tree = {"encoder": {"layers": of_layers}, "head": draw.random(3)}
    tree = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)
    rest = {"opt_state": [None, {"count": jnp.ones(()), "mu": tree, "nu": tree}], "step": jnp.ones(()), "raw": tree}
    encoder = deeper(PRE, 3)
    params, others = growth.grow_state(tree, rest, encoder, 5, "preserving")
    down, up, norm = (
        np.asarray(leaf, np.float32)
        for leaf in (of_layers["ffn"]["down"]["kernel"], of_layers["ffn"]["up"], of_layers["next_norm"]["scale"])
    )
    expected = {
        "ffn/down/kernel": np.concatenate([down, np.zeros((2, 2))]),
        "ffn/up": np.concatenate([up, up[:2]]),
        "next_norm/scale": np.concatenate([norm, norm[:1], norm[2:]]),
    }
    second = expected | {"ffn/down/kernel": np.concatenate([down, down[:2]])}
    first = {
        "ffn/down/kernel": np.concatenate([down, np.zeros((2, 2))]),
        "ffn/up": np.concatenate([up, np.zeros((2, 2))]),
        "next_norm/scale": np.concatenate([norm, np.zeros((1, 2)), norm[2:]]),
    }
    moments = others["opt_state"][1]
    for found, wanted in (
        (params, expected),
        (others["raw"], expected),
        (moments["mu"], first),
        (moments["nu"], second),
    ):
        layers = flax.traverse_util.flatten_dict(found["encoder"]["layers"], sep="/")
        assert layers.keys() == wanted.keys()
        for path, leaf in layers.items():
            np.testing.assert_array_equal(leaf, wanted[path].astype(np.float32))
        np.testing.assert_array_equal(found["head"], tree["head"])
    assert moments["count"] == 1 and others["step"] == 1


@pytest.mark.parametrize("name", growth.OPTIMIZERS)
def test_the_state_of_each_optimizer_has_the_shapes_of_a_deeper_model(name: str, tmp_path: pathlib.Path) -> None:
    config = tiny.replaced(
        registry.from_config_dict({"task": {"name": "masked_lm"}}),
        data__row_length=48,
        optim__name=name,
        adapt__ema=0.9,
        optim__spike_factor=5.0,
    )
    mesh = make_mesh(config.parallel.mesh)

    def abstract(depth: int) -> Any:
        objective = registry.abstract_objective(config, deeper(PRE, depth))
        state = make_session(config, objective, mesh, total_steps=10).abstract
        return state.params, {"opt_state": state.opt_state, "raw": state.live_params, "guard": state.guard}

    grow = functools.partial(growth.grow_state, encoder=deeper(PRE, 2), depth=5, new_layers="preserving")
    found = jax.eval_shape(grow, *abstract(2))
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (found, abstract(5))]
    assert shapes[0] == shapes[1]


def test_when_a_loss_has_stalled() -> None:
    def brute(losses: list[float], patience: int, gain: float) -> bool:
        marks = [0]  # evaluations that gained
        for index in range(1, len(losses)):
            if losses[index] < losses[marks[-1]] * (1 - gain):
                marks.append(index)
        return len(losses) - 1 - marks[-1] >= patience

    draw = np.random.default_rng(0)
    for _ in range(200):
        losses = [float(loss) for loss in draw.permutation(20)[:8] + 1]  # all different
        for patience, gain in ((1, 0.0), (2, 0.0), (3, 0.2)):
            assert growth.has_stalled(losses, patience, gain) == brute(losses, patience, gain)
    assert not growth.has_stalled([], 1, 0.0) and not growth.has_stalled([1.0], 1, 0.0)
    assert growth.has_stalled([1.0, float("nan")], 1, 0.0)


def test_shares_and_stages() -> None:
    assert growth.shares(GrowConfig(layers=(3, 6, 12))) == (1 / 3, 2 / 3)
    config = Config(grow=GrowConfig(layers=(3, 6, 12), at=(0.2, 0.5)))
    assert [each.grow.layers for each in growth.stage_configs(config)] == [(3,), (3, 6), (3, 6, 12)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grow__layers": (2,)}, r"config.grow.layers: \(2,\): must be at least two ascending depths"),
        ({"grow__layers": (4, 2)}, "must be at least two ascending depths"),
        ({"grow__at": (0.2, 0.5)}, r"config.grow.at: \(0.2, 0.5\): must have a share for each depth"),
        ({"grow__at": (1.5,)}, "config.grow.at: .*between 0 and 1"),
        ({"grow__layers": (2, 4)}, r"the first depth must be that of dir:.*, 1\."),
        ({"optim__name": "adafactor"}, "config.optim.name: 'adafactor' has a state that cannot grow"),
        ({"adapt__freeze_layers": 1}, r"config.adapt.freeze_layers: 1: does not go with grow.layers: \(1, 2\)"),
        ({"eval__patience": 3}, "config.eval.patience: 3: does not go with"),
        ({"exits__every": 1}, "config.exits.every: 1: early heads do not go with grow.layers"),
        ({"train__batch_size": 0}, "config.train.batch_size: 'auto' would suit the first depth alone"),
        ({"train__seeds": 2}, "several runs in one program .* cannot grow"),
    ],
)
def test_what_cannot_grow_is_refused(config: Config, tmp_path: pathlib.Path, values: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny.replaced(config, **values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_post_norm_is_refused_unless_stacked() -> None:
    values = {"grow__layers": (2, 4), "model__init": "dir:x"}
    config = tiny.replaced(registry.from_config_dict({"task": {"name": "masked_lm"}}), **values)
    with pytest.raises(UserError, match="'preserving', but a post-norm encoder .* Take 'stacked'"):
        growth.check(config, tiny.ENCODER, loaded=True)
    growth.check(tiny.replaced(config, grow__new_layers="stacked"), tiny.ENCODER, loaded=True)
    with pytest.raises(UserError, match="share their weights"):
        growth.check(config, dataclasses.replace(PRE, num_layers=2, layer_groups=1), loaded=True)
    decoder = nested({"encoder/layers/x": np.zeros(2), "decoder/layers/x": np.zeros(2)})
    with pytest.raises(UserError, match="further layers, decoder/layers/x"):
        growth.check_model(config, decoder)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A masked LM of one layer that becomes one of two after half of its four updates."""
    folder = tmp_path_factory.mktemp("growing")
    tiny.write_masked_lm_weights(folder / "masked_lm", PRE)
    tiny.write_tokenizer(folder / "tokenizer")
    load_tokenizer(folder / "tokenizer").save_pretrained(folder / "masked_lm")
    return tiny.masked_lm_config(
        folder,
        grow__layers=(1, 2),
        train__steps=4,
        eval__every_steps=1,
        log__every_steps=1,
        checkpoint__keep_optimizer=True,
    )


@pytest.fixture(scope="module")
def grown(config: Config, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("grown") / "run"
    train(config, folder)
    return folder


def lines(workdir: pathlib.Path) -> list[tuple[int, str, float]]:
    return [(line["step"], line["split"], line["loss"]) for line in read_metrics(workdir / "metrics.jsonl")]


def hashes(workdir: pathlib.Path, step: int) -> dict[str, Any]:
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    found = checkpoints.meta(step)["hashes"]
    checkpoints.close()
    return found


def test_a_grown_run_is_an_ordinary_run(config: Config, grown: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert [line[:2] for line in lines(grown)] == [
        (step, split) for step in range(1, 5) for split in ("train", "valid")
    ]
    report = train(config, grown)  # finished: it is only reported
    (turn,) = report["history"]
    assert (turn["step"], turn["changed"]) == (2, {"grow.layers": [[1], [1, 2]]})
    assert turn["why"] == "50% of all updates were done" and (grown / turn["run"] / "task.json").is_file()
    assert "grow.layers [1] -> [1, 2]" in (grown / "report.md").read_text()
    assert evaluate(grown, split="valid").metrics["loss"] == pytest.approx(report["splits"]["valid"]["loss"], abs=1e-6)
    # What the second depth begins with scores as what the first one ended with.
    stage = grown / "stages" / "1-layers"
    shutil.copytree(stage, tmp_path / "stage")
    before = evaluate(tmp_path / "stage", split="valid").metrics["loss"]
    assert before == pytest.approx(next(loss for step, split, loss in lines(grown) if (step, split) == (2, "valid")))


def test_a_killed_growth_and_a_stopped_run_end_alike(
    config: Config, grown: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    folder, real = tmp_path / "run", Checkpoints.save_whole
    with pytest.raises(Paused):  # by its caller, in the first stage
        train(config, folder, pause=lambda step, total: step == 1)

    def dying(*arguments: Any) -> None:
        real(*arguments)
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Checkpoints, "save_whole", dying)
        train(config, folder)
    assert not (folder / "config.json").exists()
    with pytest.raises(Paused):  # in the second one
        train(config, folder, pause=lambda step, total: step == 3)
    train(config, folder)
    assert hashes(folder, 4) == hashes(grown, 4) and lines(folder) == lines(grown)
    assert [turn.step for turn in history.read_history(folder)] == [2]


def test_a_stalled_loss_grows_before_its_time(tmp_path: pathlib.Path) -> None:
    grow = GrowConfig(layers=(1, 2), at=(0.9,), patience=2, min_gain=0.1)
    text = "".join(
        f'{{"step": {step}, "split": "valid", "loss": {loss}}}\n'
        for step, loss in ((1, 4.0), (2, 3.0), (3, 2.9), (4, 2.8))
    )
    (tmp_path / "metrics.jsonl").write_text(text)
    assert [growth.reason(grow, 0.9, tmp_path, step, 10) for step in (1, 2, 3)] == ["", "", ""]
    assert "had not fallen by 10.0% in 2 evaluations" in growth.reason(grow, 0.9, tmp_path, 4, 10)
    assert growth.reason(grow, 0.9, tmp_path, 9, 10) == "90% of all updates were done"
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "split": "valid", "f1": 0.1}\n')
    with pytest.raises(UserError, match="the task has no validation loss"):
        growth.reason(grow, 0.9, tmp_path, 1, 10)


def test_a_stage_without_an_evaluation_before_its_end_says_so(config: Config, tmp_path: pathlib.Path) -> None:
    never = tiny.replaced(config, eval__every_steps=4)
    with pytest.raises(UserError, match="this stage came to its end, after 4 updates, before the next one began"):
        train(never, tmp_path / "run")

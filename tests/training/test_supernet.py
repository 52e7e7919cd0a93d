"""A supernet's loss against models that are cut out, its runs, and what is refused."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config, SupernetConfig
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.objective import LossContext
from jaxfm.errors import UserError
from jaxfm.models.subnets import Subnet, cut, cut_encoder, draw_selection
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.parallel.preemption import Paused
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.training import supernet
from jaxfm.training.initial import resolve
from jaxfm.training.paths import flat, nested
from jaxfm.training.saved_run import open_run
from jaxfm.training.session import make_session
from jaxfm.training.setup import Setup, set_up
from jaxfm.training.step import make_gradients
from tests import tiny

SUBNETS: dict[str, Any] = {"supernet__depths": (1,), "supernet__heads": (1,), "supernet__ffn_sizes": (16, 32)}
STEP_KEY = jax.random.key(11)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny.classification_config(
        tmp_path_factory.mktemp("supernet"),
        **SUBNETS,
        train__batch_size=8,
        train__steps=6,
        eval__every_steps=3,
        log__every_steps=1,
        checkpoint__keep_optimizer=True,
    )


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """A supernet trained in one go."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train(config, folder)
    yield folder


def created(config: Config) -> Any:
    return registry.create(config, resolve(config.model))


def prepared(config: Config) -> Setup:
    task, loaded = created(config)
    return set_up(config, task, loaded, make_mesh(config.parallel.mesh))


def test_the_loss_is_the_mean_over_models_that_are_cut_out(config: Config) -> None:
    config = tiny.replaced(config, model__dropout=0.0, supernet__temperature=2.0)
    task, loaded = created(config)
    objective = supernet.around(config, task.objective)
    assert isinstance(objective, supernet.SupernetObjective)
    session = make_session(config, task.objective, make_mesh(config.parallel.mesh), total_steps=6)
    params = session.initial_state(0, loaded).params
    batch = {name: jnp.asarray(value) for name, value in tiny.batch_of(task.datasets["train"], 8).items()}
    context = LossContext(jax.random.key(5), step_key=STEP_KEY)
    found = jax.jit(lambda: objective.loss(nnx.merge(session.graphdef, params), batch, context))()

    encoder, flat_params = task.objective.spec.encoder, jax.tree.map(np.asarray, flat(params))
    drawn = [draw_selection(jax.random.fold_in(STEP_KEY, number), encoder, objective.space) for number in (0, 1)]
    shapes = [Subnet(1, 1, 16), *(Subnet(*(int(part.sum()) for part in each)) for each in drawn)]
    assert len(set(shapes)) == 3

    def logits(encoder: EncoderConfig, arrays: dict[str, Any]) -> np.ndarray:
        spec = dataclasses.replace(task.objective.spec, encoder=encoder)
        graphdef, _ = build_abstract(lambda: spec.make_model(Build(scan=False), nnx.Rngs(0)), session.mesh)
        return np.asarray(jax.jit(lambda: nnx.merge(graphdef, nested(arrays))(batch))(), np.float64)

    def log_softmax(x: np.ndarray) -> np.ndarray:
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    teacher, labels = logits(encoder, flat_params), np.asarray(batch["labels"])
    valid = labels >= 0
    wanted = [-(np.take_along_axis(log_softmax(teacher), np.maximum(labels, 0)[..., None], -1)[..., 0] * valid).sum()]
    for shape in shapes:
        student = logits(cut_encoder(encoder, shape), cut(flat_params, encoder, shape))
        known, seen = log_softmax(teacher / 2), log_softmax(student / 2)
        wanted.append(4 * ((np.exp(known) * (known - seen)).sum(axis=-1) * valid).sum())
    np.testing.assert_allclose(found.total, np.mean(wanted), rtol=1e-4)
    assert found.weight == valid.sum() and set(found.metrics) == {
        "accuracy", "loss_largest", "loss_smallest", "loss_random",
    }  # fmt: skip
    np.testing.assert_allclose(found.metrics["loss_smallest"][0], wanted[1], rtol=1e-4)
    np.testing.assert_allclose(found.metrics["loss_random"][0], sum(wanted[2:]), rtol=1e-4)


@pytest.mark.parametrize("distillation", [1.0, 0.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_micro_batches_change_nothing(config: Config, distillation: float) -> None:
    config = tiny.replaced(config, model__dropout=0.0, supernet__distillation=distillation)
    task, loaded = created(config)
    session = make_session(config, task.objective, make_mesh(config.parallel.mesh), total_steps=6)
    state = session.initial_state(0, loaded)
    batch = {name: jnp.asarray(value) for name, value in tiny.batch_of(task.datasets["train"], 8).items()}

    def loss(params: Any, batch: Any, context: LossContext) -> Any:
        return session.objective.loss(nnx.merge(session.graphdef, params), batch, context)

    def gradients(state: Any, accumulate: int) -> Any:
        found = make_gradients(loss, total_steps=6, accumulate=accumulate)(state.params, state, batch)
        return jax.tree.map(lambda leaf: leaf / found.weight, found.grads)

    whole, parts = (jax.jit(gradients, static_argnums=1)(state, accumulate) for accumulate in (1, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), whole, parts)
    # Another step draws other subnets.
    later = dataclasses.replace(state, step=state.step + 1)
    other = flat(jax.jit(gradients, static_argnums=1)(later, 1))
    path = "encoder/layers/ffn/up/kernel"
    assert np.abs(flat(whole)[path] - other[path]).max() > 1e-6


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(
    config: Config, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(Paused):
        train(config, tmp_path / "run", pause=lambda step, _: step == 3)
    train(config, tmp_path / "run")

    def numbers(workdir: pathlib.Path) -> list[dict[str, Any]]:
        return [
            {key: value for key, value in line.items() if "second" not in key and "time" not in key}
            for line in read_metrics(workdir / "metrics.jsonl")
        ]

    assert numbers(run) == numbers(tmp_path / "run")
    trained = [line for line in numbers(run) if line["split"] == "train"]
    assert len(trained) == 6 and all(line["loss_random"] > 0 for line in trained)
    reports = [json.loads((workdir / "report.json").read_text()) for workdir in (run, tmp_path / "run")]
    assert reports[0]["splits"] == reports[1]["splits"]


def test_loaded_weights_are_ordered_by_importance_and_compute_the_same(config: Config) -> None:
    task, loaded = created(tiny.replaced(config, model__dropout=0.0))
    config = tiny.replaced(config, model__dropout=0.0, train__accumulate=2, supernet__importance_batches=2)
    setup = set_up(config, task, loaded, make_mesh(config.parallel.mesh))
    state, plain = setup.initial_state(), setup.session.initial_state(config.seed, loaded)
    rows = task.datasets["valid"]
    outputs = [setup.evaluate(each.params, rows)["outputs"] for each in (state, plain)]
    np.testing.assert_allclose(*outputs, atol=1e-5)
    name = "encoder/layers/ffn/down/kernel"
    assert not np.array_equal(flat(state.params)[name], flat(plain.params)[name])

    def loss(params: Any, batch: Any) -> jax.Array:
        model = nnx.merge(setup.session.graphdef, params)
        return task.objective.loss(model, batch, LossContext(jax.random.key(0))).total

    total = 0.0
    for step in (0, 1):
        whole = setup.batches.batch(step)
        for part in (slice(0, None, 2), slice(1, None, 2)):
            grads = jax.grad(loss)(state.params, {name: jnp.asarray(value[part]) for name, value in whole.items()})
            total += np.abs((flat(grads)[name] * flat(state.params)[name]).sum(axis=-1))
    assert total.shape == (2, 64) and (np.diff(total, axis=1) <= 1e-6).all() and total[0, 0] > 2 * total[0, 32]
    unordered = tiny.replaced(config, supernet__importance_batches=0)
    state = set_up(unordered, task, loaded, make_mesh(config.parallel.mesh)).initial_state()
    np.testing.assert_array_equal(flat(state.params)[name], flat(plain.params)[name])


def test_a_supernet_is_an_ordinary_run(run: pathlib.Path) -> None:
    opened = open_run(run)
    assert opened.spec.encoder.num_layers == 2 and opened.config.supernet.ffn_sizes == (16, 32)
    assert json.loads((run / "report.json").read_text())["model"]["parameters"] > 0


def test_operations_of_a_step(config: Config) -> None:
    task, _ = created(config)
    objective, plain = supernet.around(config, task.objective), task.objective
    assert isinstance(objective, supernet.SupernetObjective)
    small = dataclasses.replace(plain.spec.encoder, num_layers=1, num_heads=1, head_size=16, ffn_size=16)
    whole, smallest = plain.flops_per_row(config.adapt), supernet.of_shape(plain, small).flops_per_row(config.adapt)
    assert objective.flops_per_row(config.adapt) == pytest.approx(whole * 4 / 3 + smallest + (whole + smallest))
    assert supernet.around(dataclasses.replace(config, supernet=SupernetConfig()), plain) is plain


@pytest.mark.parametrize(
    ("changes", "encoder", "message"),
    [
        (
            {"supernet__depths": (3,)},
            {},
            "config.supernet.depths: 3, but the encoder has 2 layers: give numbers from 1 to 2",
        ),
        ({"supernet__heads": (0,)}, {}, "config.supernet.heads: 0, but the encoder has 2 heads"),
        ({"supernet__ffn_sizes": (16, 65)}, {}, "config.supernet.ffn_sizes: 65, but the encoder has 64 neurons"),
        ({}, {"num_kv_heads": 1}, "config.supernet.heads: 1, but 2 heads of queries share keys and values"),
        ({}, {"layer_groups": 1}, "config.supernet: the layers of a bert encoder share their weights"),
        ({}, {"local_window": 8}, "config.supernet.depths: some layers of a bert encoder see a window"),
        ({}, {"relative_positions": "bias"}, "config.supernet.heads: the heads of a bert encoder have biases"),
        ({}, {"adapter_size": 2}, "the first weights have adapters"),
        ({"adapt__lora__rank": 2}, {}, "config.adapt.lora.rank: is 2, but the weights of a supernet"),
        ({"adapt__freeze_layers": 1}, {}, "config.adapt.freeze_layers: is 1, but"),
        ({"adapt__train": "head"}, {}, "config.adapt.train: is 'head', but"),
        ({"adapt__freeze": ("encoder/embeddings/*",)}, {}, "config.adapt.freeze: is"),
    ],
)
def test_what_has_no_subnets_is_refused(
    config: Config, changes: dict[str, Any], encoder: dict[str, Any], message: str
) -> None:
    task, _ = created(config)
    objective = supernet.of_shape(task.objective, dataclasses.replace(task.objective.spec.encoder, **encoder))
    with pytest.raises(UserError) as caught:
        supernet.around(tiny.replaced(config, **changes), objective)
    assert message in str(caught.value)


def test_tasks_that_cannot_learn_from_outputs_say_so(tmp_path: pathlib.Path) -> None:
    ner = tiny.config(tmp_path / "ner", **SUBNETS, task__head="crf")
    with pytest.raises(
        UserError, match=r"config.supernet.distillation: is 1, but of the task 'ner' a CRF scores whole"
    ):
        prepared(ner)
    masked = tiny.masked_lm_config(tmp_path / "mlm", **SUBNETS)
    with pytest.raises(UserError, match="of the task 'masked_lm' its outputs cannot be learned from. Set 0"):
        prepared(masked)
    several = tiny.config(tmp_path / "several", **SUBNETS, train__seeds=2)
    with pytest.raises(UserError, match=r"config.train.seeds: several runs in one program cannot have subnets"):
        train(several, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()

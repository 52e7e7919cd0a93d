"""Penalties against forgetting: closed forms of values and gradients, micro-batches, files, and what is refused."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config
from jaxfm.consolidation_config import ConsolidationConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.errors import UserError
from jaxfm.observe.metrics import weighted
from jaxfm.parallel.mesh import make_mesh
from jaxfm.training.consolidation import (
    ANCHOR,
    EARLIER,
    IMPORTANCE,
    ConsolidatedObjective,
    around,
    ewc_penalty,
    notes,
    orthogonality_penalty,
    read,
    write,
)
from jaxfm.training.paths import flat, nested
from tests import tiny

DRAW = np.random.default_rng(0)
A = "encoder/layers/attention/query/lora/a"


def drawn(*shape: int) -> Any:
    return DRAW.standard_normal(shape).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Squares:
    """A task of which the loss of a row is the square of what a linear map makes of it."""

    whole_batch: bool = False
    spec: Any = None

    def loss(self, model: Any, batch: Any, context: LossContext) -> Loss:
        assert context.constants == ()
        return Loss(jnp.sum(model(batch["x"]) ** 2), jnp.float32(len(batch["x"])), {"rows": weighted(1.0)})


def test_the_gradient_of_ewc_is_importance_times_distance() -> None:
    params = {"a/kernel": drawn(3, 2), "a/bias": drawn(2), "free": drawn(4)}
    importance: dict[str, Any] = {"a/kernel": np.abs(drawn(3, 2)), "a/bias": np.abs(drawn(2))}
    anchor = {"a/kernel": drawn(3, 2), "a/bias": drawn(2)}
    value, gradient = jax.value_and_grad(lambda params: ewc_penalty(params, importance, anchor))(params)
    distances = {path: params[path] - anchor[path] for path in anchor}
    wanted = sum(float(np.sum(importance[path] * distances[path] ** 2)) / 2 for path in anchor)
    assert float(value) == pytest.approx(wanted, rel=1e-6)
    for path in anchor:
        np.testing.assert_allclose(gradient[path], importance[path] * distances[path], rtol=1e-6)
    assert not np.any(gradient["free"])
    assert float(ewc_penalty(anchor, importance, anchor)) == 0


def test_the_penalty_is_added_once_however_a_batch_is_cut() -> None:
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(model, nnx.Param)
    params = nnx.to_pure_dict(state)
    importance: dict[str, Any] = {path: np.abs(drawn(*leaf.shape)) for path, leaf in flat(params).items()}
    anchor = {path: drawn(*leaf.shape) for path, leaf in flat(params).items()}
    objective = ConsolidatedObjective(Squares(), ConsolidationConfig("file", weight=3.0), {})  # type: ignore[arg-type]
    context = LossContext(jax.random.key(0), constants={IMPORTANCE: importance, ANCHOR: anchor})
    rows = drawn(6, 3)

    def mean(params: Any, parts: list[Any]) -> Any:
        losses = [objective.loss(nnx.merge(graphdef, params), {"x": part}, context) for part in parts]
        return sum(each.total for each in losses) / sum(each.weight for each in losses)

    whole, of_whole = jax.value_and_grad(mean)(params, [rows])
    cut, of_cut = jax.value_and_grad(mean)(params, [rows[:2], rows[2:]])
    assert float(whole) == pytest.approx(float(cut), rel=1e-6)
    penalty = ewc_penalty(flat(params), importance, anchor)
    plain, of_plain = jax.value_and_grad(lambda params: jnp.sum(nnx.merge(graphdef, params)(rows) ** 2) / 6)(params)
    assert float(whole) == pytest.approx(float(plain + 3 * penalty), rel=1e-6) and penalty > 0.1
    for path, leaf in flat(of_whole).items():
        np.testing.assert_allclose(leaf, flat(of_cut)[path], rtol=1e-5, atol=1e-6)
        pull = 3 * importance[path] * (flat(params)[path] - anchor[path])
        np.testing.assert_allclose(leaf, flat(of_plain)[path] + pull, rtol=1e-5, atol=1e-6)
    total, weight = objective.loss(model, {"x": rows}, context).metrics["loss_ewc"]
    assert float(total / weight) == pytest.approx(float(3 * penalty), rel=1e-6)


def test_low_rank_updates_that_read_other_directions_have_no_penalty() -> None:
    params, earlier = {A: drawn(2, 5, 3)}, {A: drawn(2, 5, 4), "of/no/update/lora/a": drawn(2, 5, 4)}
    wanted = sum(np.sum((earlier[A][layer].T @ params[A][layer]) ** 2) for layer in range(2))
    assert float(orthogonality_penalty(params, earlier)) == pytest.approx(float(wanted), rel=1e-5)
    basis = np.linalg.qr(DRAW.standard_normal((5, 5)))[0].astype(np.float32)
    apart: Any = {A: np.stack([basis[:, :3]] * 2)}, {A: np.stack([basis[:, 3:]] * 2)}
    assert float(orthogonality_penalty(*apart)) == pytest.approx(0, abs=1e-10)
    assert float(orthogonality_penalty(apart[0], apart[0])) == pytest.approx(6, rel=1e-5)
    two = ConsolidatedObjective(Squares(), ConsolidationConfig(orthogonal_to="file"), {})  # type: ignore[arg-type]
    found = two._penalties(params, {f"{EARLIER}-1": earlier, f"{EARLIER}-2": earlier})
    assert [(name, factor) for name, factor, _ in found] == [("loss_orthogonal", 0.5)]
    assert float(found[0][2]) == pytest.approx(2 * float(wanted), rel=1e-5)


def shapes(config: Config, **sizes: tuple[int, ...]) -> dict[str, Any]:
    whole = jax.sharding.NamedSharding(make_mesh(config.parallel.mesh), jax.sharding.PartitionSpec())
    return nested(
        {
            path.replace("__", "/"): jax.ShapeDtypeStruct(size, jnp.float32, sharding=whole)
            for path, size in sizes.items()
        }
    )


def held(folder: pathlib.Path, **changes: Any) -> Config:
    return tiny.classification_config(folder, **{f"consolidate__{key}": value for key, value in changes.items()})


def test_a_file_fills_up_rows_that_the_head_did_not_have(tmp_path: pathlib.Path) -> None:
    path, value = tmp_path / "held.safetensors", drawn(4, 2)
    write(path, {IMPORTANCE: {"head/kernel": value}, ANCHOR: {"head/kernel": value + 1}})
    np.testing.assert_array_equal(read(path, "file")[ANCHOR]["head/kernel"], value + 1)
    config = held(tmp_path, importance=str(path), weight=2.0)
    made = around(config, Squares(), shapes(config, head__kernel=(4, 3)))  # type: ignore[arg-type]
    assert isinstance(made, ConsolidatedObjective)
    constants = made.load_constants()
    for part, wanted in ((IMPORTANCE, value), (ANCHOR, value + 1)):
        np.testing.assert_array_equal(constants[part]["head/kernel"], np.pad(wanted, ((0, 0), (0, 1))))
        assert made.constants[part]["head/kernel"].shape == (4, 3)
    said = "held to earlier weights by their importance: 12 parameters, weight 2 (0 MiB over all devices)"
    assert notes(made) == (said,)
    plain: Any = Squares()
    assert around(tiny.classification_config(tmp_path), plain, {}) is plain and notes(plain) == ()


def test_what_is_refused(tmp_path: pathlib.Path) -> None:
    good, other, updates = (tmp_path / name for name in ("good", "other", "updates"))
    write(good, {IMPORTANCE: {"head/kernel": drawn(4, 2)}, ANCHOR: {"head/kernel": drawn(4, 2)}})
    write(other, {IMPORTANCE: {"head/kernel": drawn(4, 2)}})
    write(updates, {f"{EARLIER}-1": {A: drawn(2, 4, 2)}})
    (tmp_path / "text").write_text("no tensors")
    model = {"head__kernel": (4, 2)}

    def refused(message: str, objective: Any = None, model: dict[str, Any] = model, **changes: Any) -> None:
        config = held(tmp_path, **changes)
        with pytest.raises(UserError, match=message):
            around(config, Squares() if objective is None else objective, shapes(config, **model))  # type: ignore[arg-type]

    refused("has a weight, but importance and orthogonal_to are empty", weight=2.0)
    refused("absent: there is no such file", importance=str(tmp_path / "absent"))
    refused("is no safetensors file", importance=str(tmp_path / "text"))
    refused("holds no importance of weights", importance=str(other))
    refused("is of another model: head/kernel has the shape .4, 2. there and .3, 2. here",
            model={"head__kernel": (3, 2)}, importance=str(good))  # fmt: skip
    refused("of another model: head/kernel .* and None here", model={"other": (3, 2)}, importance=str(good))
    refused("needs low-rank updates. Set config.adapt.lora.rank", orthogonal_to=str(updates))
    refused("holds other things than updates", model={A.replace("/", "__"): (2, 4, 2)}, orthogonal_to=str(good))
    refused("compares all rows of a batch", Squares(whole_batch=True), importance=str(good))
    config = tiny.replaced(held(tmp_path, importance=str(good)), distil__teacher="run:x")
    with pytest.raises(UserError, match="contradicts config.distil.teacher"):
        around(config, Squares(), shapes(config, **model))  # type: ignore[arg-type]

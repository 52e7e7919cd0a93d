import jax
import pytest

from jaxfm.config import MeshConfig
from jaxfm.families.registry import preset
from jaxfm.parallel.mesh import make_mesh
from jaxfm.planning.analytic import expected_activations, expected_collectives, expected_compute
from tests.planning import small

PARAMS = {"a": jax.ShapeDtypeStruct((1000, 8), "float32")}


def wanted(**axes: int) -> dict[tuple[str, str], tuple[int, int]]:
    mesh = make_mesh(MeshConfig(**axes), jax.devices()[:4])
    config = small.config(train__batch_size=32, train__accumulate=2)
    found = expected_collectives(config, preset("bert_tiny"), PARAMS, mesh)
    return {(each.kind, each.axes[0]): (each.size, each.times) for each in found}


def test_gradients_cross_data_once_a_micro_batch() -> None:
    assert wanted(data=4) == {("all-reduce", "data"): (2 * 8000, 2)}


def test_weights_are_gathered_twice_over_fsdp_and_gradients_scattered() -> None:
    assert wanted(data=2, fsdp=2) == {
        ("all-reduce", "data"): (2 * 8000 // 2, 2),
        ("all-gather", "fsdp"): (2 * 8000, 4),
        ("reduce-scatter", "fsdp"): (2 * 8000, 2),
    }


def test_activations_are_summed_over_tensor_four_times_a_layer() -> None:
    # 32 rows in 2 micro-batches over 2 copies: 8 rows of 16 tokens, 128 wide.
    assert wanted(data=2, tensor=2)["all-reduce", "tensor"] == (2 * 8 * 16 * 128, 2 * 2 * 2 * 2)


def test_keys_and_values_are_gathered_over_sequence() -> None:
    assert wanted(data=2, sequence=2)["all-gather", "sequence"] == (2 * 2 * 8 * 16 * 128, 2 * 2 * 2)


def test_groups_are_those_of_the_mesh() -> None:
    mesh = make_mesh(MeshConfig(data=2, fsdp=2), jax.devices()[:4])
    found = expected_collectives(small.config(), preset("bert_tiny"), PARAMS, mesh)
    groups = {each.axes[0]: each.groups for each in found}
    assert groups["data"] == ((0, 2), (1, 3)) and groups["fsdp"] == ((0, 1), (2, 3))


def test_activations_by_the_published_formula() -> None:
    # Korthikanti et al. 2022, equation 1: T B D (34 + 5 N T / D) a layer; logits f32 twice for 15 % of the tokens.
    config = small.config(train__batch_size=32, data__row_length=64)
    tokens = 32 * 64
    expected = 2 * tokens * 128 * (34 + 5 * 2 * 64 / 128) + tokens * 2 * 4 * 0.15 * 30522
    one = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
    logits = 0.15 * 64 * 30522
    assert expected_activations(config, preset("bert_tiny"), one, logits) == pytest.approx(expected, rel=1e-6)
    four = expected_activations(config, preset("bert_tiny"), one | {"data": 4}, logits)
    assert four == pytest.approx(expected / 4, rel=1e-6)


def test_recomputing_trades_products_for_memory() -> None:
    one = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
    configs = [small.config(model__remat=remat) for remat in ("none", "dots", "full")]
    kept = [expected_activations(config, preset("bert_base"), one, 1e5) for config in configs]
    done = [expected_compute(config, preset("bert_base"), 3e12) for config in configs]
    assert kept == sorted(kept, reverse=True) and done == sorted(done)
    # A forward pass is a third of a step.
    assert done[0] == 3e12 and done[2] == pytest.approx(4e12)

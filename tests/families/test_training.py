"""Every family trains: packed rows, cut over a mesh in two ways, layers in a loop or not, recomputed, with LoRA."""

from typing import Any

import flax.traverse_util
import jax
import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.families.registry import FAMILIES
from jaxfm.hub.config_json import encoder_config
from jaxfm.models import flops
from jaxfm.models.adapters import is_adapter_param, with_adapters
from jaxfm.parallel.mesh import make_mesh
from jaxfm.schema import replaced
from jaxfm.training.session import make_session
from profiles import model_parity as parity
from profiles import training_parity
from profiles.training_parity import LENGTH, ROWS, PlainMaskedLM, PlainSpec

STEPS = 3
ONE_BY_ONE = {"parallel.mesh.data": 4}
CUT = {
    "parallel.mesh.data": 1, "parallel.mesh.fsdp": 2, "parallel.mesh.tensor": 2, "model.scan_layers": True,
    "model.remat": "full",
}  # fmt: skip
LORA = {"adapt.lora.rank": 2, "adapt.lora.targets": ("all",), "parallel.mesh.data": 4}
# Those whose layers differ most from BERT's; the others take as long and rarely find anything.
FAST = ("deberta-v2", "albert", "gemma3_text")


def trained(family: str, changes: dict[str, Any]) -> tuple[list[float], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Losses of a few updates, and the parameters before and after them."""
    case = parity.CASES.get(family, parity.Case("", {"max_length": LENGTH}))  # NeoBERT is not in transformers
    values = {"model_type": family, "pad_token_id": case.pad, **case.values, "vocab_size": training_parity.VOCABULARY}
    values |= {"max_position_embeddings": LENGTH + 2} | ({} if family == "distilbert" else parity.SIZES)
    config = replaced(
        Config(), {"train.batch_size": ROWS, "train.precision": "f32", "data.row_length": LENGTH, **changes}
    )
    encoder = with_adapters(encoder_config(values, family), config.adapt)
    mesh = make_mesh(config.parallel.mesh)
    losses = []
    with jax.set_mesh(mesh):
        session = make_session(config, PlainMaskedLM(PlainSpec(encoder, LENGTH)), mesh, total_steps=STEPS)
        state = session.initial_state(0)
        before = flat(state.params)
        for stepped in session.steps(state, training_parity.batches(case.pad)[:STEPS]):
            total, weight = np.asarray(stepped.take_sums()["loss"])
            losses.append(float(total / weight))
            state = stepped.state
        return losses, before, flat(state.params)


def flat(params: Any) -> dict[str, np.ndarray]:
    return {path: np.array(value) for path, value in flax.traverse_util.flatten_dict(params, sep="/").items()}


def of_all(names: Any) -> list[Any]:
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("family", of_all(FAMILIES))
def test_losses_and_parameters_do_not_depend_on_the_mesh_or_on_how_layers_are_run(family: str) -> None:
    losses, _, params = trained(family, ONE_BY_ONE)
    again, _, other = trained(family, CUT)
    assert losses[0] == pytest.approx(np.log(training_parity.VOCABULARY), rel=0.1) and len(set(losses)) == STEPS
    np.testing.assert_allclose(again, losses, rtol=1e-5)
    for path, value in params.items():
        np.testing.assert_allclose(other[path], value, atol=1e-4, err_msg=path)


@pytest.mark.parametrize("family", of_all(FAMILIES))
def test_low_rank_updates_alone_are_trained(family: str) -> None:
    losses, before, after = trained(family, LORA)
    moved = {path for path, value in after.items() if not np.array_equal(value, before[path])}
    assert moved and all(is_adapter_param(path) or not path.startswith("encoder/") for path in moved)
    low_rank = {path for path in after if path.endswith("lora/b")}
    assert len(low_rank) >= 6 and low_rank <= moved and losses[-1] != losses[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_counted(family: str) -> None:
    shape = next(iter(FAMILIES[family].presets.values()), None) or FAMILIES["bert"].presets["bert_base"]
    assert flops.encoder_flops_per_row(shape, 512) > 6 * 512 * shape.num_layers * shape.hidden_size**2

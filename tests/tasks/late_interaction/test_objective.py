"""The loss of MaxSim: micro-batches give the gradient of the whole batch, dropout included."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import LossContext
from jaxfm.data.text.grouped_rows import pack_groups
from jaxfm.parallel import mesh as meshes
from jaxfm.tasks.late_interaction.objective import LateInteractionObjective
from jaxfm.tasks.late_interaction.spec import LateInteractionSpec
from jaxfm.tasks.text_groups.similarity_loss import SimilarityLoss
from jaxfm.training.whole_batch import loss_of
from tests import tiny


def test_micro_batches_give_the_gradient_of_the_whole_batch():
    spec = LateInteractionSpec(
        "pairs", tiny.with_dropout(tiny.ENCODER, 0.1), 8, "", "", 6, 12, row_length=24, texts=2, groups=2, positives=0
    )
    objective = LateInteractionObjective(spec, SimilarityLoss("infonce", 1.0))
    draw = np.random.default_rng(0)
    groups = [[draw.integers(5, 60, size).astype(np.int32) for size in draw.integers(3, 6, 2)] for _ in range(8)]
    rows = pack_groups(
        groups, [[2 * n, 2 * n + 1] for n in range(8)], row_length=24, texts=2, groups_per_row=2, pad_id=0, seed=None
    )
    assert len(rows) == 4
    batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(4)).items()}
    params = tiny.nested(tiny.drawn(lambda: spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), spec.encoder, seed=2))
    graphdef, _ = meshes.build_abstract(
        lambda: spec.make_model(DEFAULT_BUILD, nnx.Rngs(0)), meshes.make_mesh(MeshConfig(), jax.devices()[:1])
    )

    def gradients(accumulate, key=0):
        def mean(params):
            context = LossContext(jax.random.key(key))
            found = loss_of(objective, nnx.merge(graphdef, params), batch, context, accumulate)
            return found.total / found.weight, found.metrics["negatives"]

        return jax.jit(jax.value_and_grad(mean, has_aux=True))(params)

    (whole, negatives), expected = gradients(1)
    assert float(negatives[0] / negatives[1]) == 7, "all texts of the batch but one's own positive"
    (parts, _), found = gradients(2)
    np.testing.assert_allclose(parts, whole, rtol=1e-6)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6 * largest), found, expected)
    assert not np.isclose(gradients(1, key=1)[0][0], whole, rtol=1e-4), "dropout matters"

"""The ranges of the inputs of a model's linear maps, measured on data."""

# L layers

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from jaxfm.core.batch import axes_of
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import OBSERVED, Quantisation
from jaxfm.core.spec import Spec
from jaxfm.parallel.mesh import build_abstract, replicated, shard_batch
from jaxfm.training.paths import flat, nested
from jaxfm.training.range_choice import MINMAX, choose_range

LARGEST, COUNTS = "input_largest", "input_counts"


def with_quantisation(spec: Spec, quantisation: Quantisation) -> Spec:
    """Returns the spec of the same model with another quantisation."""
    changed: Any = spec
    return dataclasses.replace(changed, encoder=dataclasses.replace(spec.encoder, quantisation=quantisation))


def input_ranges(
    spec: Spec,
    params: Any,
    batches: Callable[[], Iterable[Mapping[str, Any]]],
    mesh: Mesh,
    maps: tuple[str, ...],
    rule: str,
) -> dict[str, np.ndarray]:
    """Returns the range of each map's inputs, path of the map ("encoder/layers/ffn/up") -> f32 [L].

    The data are read for the largest values, and then for histograms up to these.

    Args:
      spec: of the model, in any quantisation.
      params: nested dicts of the model without one, on the mesh.
      batches: this host's rows of each batch, the same at each call.
      mesh: of the devices.
      maps: names of the maps.
      rule: one of `range_choice.RULES`.
    """
    observed = with_quantisation(spec, Quantisation(8, maps=maps, form=OBSERVED))
    graphdef, abstract = build_abstract(lambda: observed.make_model(Build(), nnx.Rngs(0)), mesh)
    shapes = flat(abstract)
    measures = {path: shape for path, shape in shapes.items() if path.endswith((f"/{LARGEST}", f"/{COUNTS}"))}
    plain = {path: leaf for path, leaf in flat(params).items() if path in shapes}
    assert plain.keys() | measures.keys() == shapes.keys(), "not the model's parameters"

    def measured(measures: Mapping[str, Any], plain: Mapping[str, Any], batch: Mapping[str, jax.Array]) -> Any:
        model: Any = nnx.merge(graphdef, nested({**plain, **measures}))
        states = model.encoder.encode(batch)
        # A random direction: the sum of normalised states would not depend on what was normalised.
        noise = jax.random.normal(jax.random.key(0), states.x_BTD.shape, jnp.float32)
        is_token = (states.segment_ids_BT != 0)[..., None]
        return jnp.sum(jnp.where(is_token, states.x_BTD.astype(jnp.float32) * noise, 0.0))

    step = jax.jit(jax.grad(measured), out_shardings=replicated(mesh))

    def passes(values: Mapping[str, np.ndarray]) -> Iterable[dict[str, np.ndarray]]:
        given = {path: values[path] for path in measures}
        for batch in batches():
            with jax.set_mesh(mesh):
                yield jax.device_get(step(given, plain, shard_batch(batch, axes_of(spec.batch_spec()), mesh)))

    start = {path: np.ones(shape.shape, np.float32) for path, shape in measures.items()}
    largest = {path: np.zeros(shape.shape, np.float32) for path, shape in measures.items() if path.endswith(LARGEST)}
    for found in passes(start):
        largest = {path: np.maximum(value, found[path]) for path, value in largest.items()}
    limits = {path: np.where(value > 0, value, 1).astype(np.float32) for path, value in largest.items()}
    counts = {path: np.zeros(shape.shape) for path, shape in measures.items() if path.endswith(COUNTS)}
    # A map that is used once a layer has measured its largest input itself, otherwise a sum of them, an upper bound.
    once = not (spec.encoder.layer_groups or spec.encoder.relative_terms)
    if rule == MINMAX and once:
        return {path.removesuffix(f"/{LARGEST}"): value for path, value in limits.items()}
    for found in passes(start | limits):
        counts = {path: value + found[path] for path, value in counts.items()}
    ranges = {}
    for path, values_L in largest.items():
        of_map = path.removesuffix(f"/{LARGEST}")
        counts_LN = counts[f"{of_map}/{COUNTS}"]
        of_layers = [choose_range(counts_LN[layer], float(each), rule) for layer, each in enumerate(values_L)]
        ranges[of_map] = np.asarray(of_layers, np.float32)
    return ranges

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxfm.adapt_config import AdaptConfig, LoraConfig
from jaxfm.config import MeshConfig
from jaxfm.core.batch import axes_of
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.models.adapters import with_adapters
from jaxfm.models.electra import ReplacedTokenModel
from jaxfm.models.encoder import Encoder
from jaxfm.models.heads import MaskedLM, TokenClassifier
from jaxfm.models.inputs.text import fields
from jaxfm.parallel import mesh as meshes

CONFIG = EncoderConfig(
    vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, ffn_size=48, max_positions=16, initializer_range=0.2
)

MODERN_CONFIG = dataclasses.replace(
    preset("modern_base"), vocab_size=64, hidden_size=32, num_layers=5, num_heads=4, ffn_size=48, local_window=4
)

# How every parameter is cut, by hand. A new parameter must be added here.
EXPECTED = {
    "encoder/embeddings/word/embedding": ("tensor", "fsdp"),
    "encoder/embeddings/position/embedding": (None, "fsdp"),
    "encoder/embeddings/type/embedding": (None, "fsdp"),
    "encoder/embeddings/norm/scale": (None,),
    "encoder/embeddings/norm/bias": (None,),
    **{f"encoder/layers/attention/{name}/kernel": (None, "fsdp", "tensor", None) for name in ("query", "key", "value")},
    **{f"encoder/layers/attention/{name}/bias": (None, "tensor", None) for name in ("query", "key", "value")},
    "encoder/layers/attention/output/kernel": (None, "tensor", None, "fsdp"),
    "encoder/layers/attention/output/bias": (None, None),
    "encoder/layers/attention_norm/scale": (None, None),
    "encoder/layers/attention_norm/bias": (None, None),
    "encoder/layers/ffn/up/kernel": (None, "fsdp", "tensor"),
    "encoder/layers/ffn/up/bias": (None, "tensor"),
    "encoder/layers/ffn/down/kernel": (None, "tensor", "fsdp"),
    "encoder/layers/ffn/down/bias": (None, None),
    "encoder/layers/ffn_norm/scale": (None, None),
    "encoder/layers/ffn_norm/bias": (None, None),
    "head/kernel": ("fsdp", None),
    "head/bias": (None,),
}
MASKED_LM = {
    **{name: axes for name, axes in EXPECTED.items() if not name.startswith("head/")},
    "transform/dense/kernel": ("fsdp", None),
    "transform/dense/bias": (None,),
    "transform/norm/scale": (None,),
    "transform/norm/bias": (None,),
    "decoder/bias": ("tensor",),
}
# Without biases, positions, types and the norm behind attention; with a gate and the norm before what comes next.
MODERN = {
    **{name: axes for name, axes in MASKED_LM.items() if name.endswith(("/kernel", "word/embedding", "/scale"))},
    "encoder/layers/ffn/gate/kernel": (None, "fsdp", "tensor"),
    "encoder/layers/next_norm/scale": (None, None),
    "decoder/bias": ("tensor",),
}
del MODERN["encoder/layers/attention_norm/scale"]
# The generator's layers and head are cut as those of a masked-LM; it has no embeddings of its own.
REPLACED_TOKEN = {
    **{name: axes for name, axes in MASKED_LM.items() if name.startswith("encoder/")},
    **{
        f"generator/{name.removeprefix('encoder/')}": axes
        for name, axes in MASKED_LM.items()
        if not name.startswith("encoder/embeddings/")
    },
    "detector/dense/kernel": ("fsdp", None),
    "detector/dense/bias": (None,),
    "detector/head/kernel": ("fsdp", None),
    "detector/head/bias": (None,),
}
# What an encoder may be given beside frozen weights: A of a low-rank update like the inputs, B like the outputs.
ADAPTED = EXPECTED | {
    **{f"encoder/layers/attention/{name}/lora/a": (None, "fsdp", None) for name in ("query", "key", "value")},
    **{f"encoder/layers/attention/{name}/lora/b": (None, None, "tensor", None) for name in ("query", "key", "value")},
    "encoder/layers/attention/output/lora/a": (None, "tensor", None, None),
    "encoder/layers/attention/output/lora/b": (None, None, "fsdp"),
    "encoder/layers/ffn/up/lora/a": (None, "fsdp", None),
    "encoder/layers/ffn/up/lora/b": (None, None, "tensor"),
    "encoder/layers/ffn/down/lora/a": (None, "tensor", None),
    "encoder/layers/ffn/down/lora/b": (None, None, "fsdp"),
    **{f"encoder/layers/attention/prefix/{name}": (None, None, "tensor", None) for name in ("keys", "values")},
    **{f"encoder/layers/{part}_adapter/down/kernel": (None, "fsdp", None) for part in ("attention", "ffn")},
    **{f"encoder/layers/{part}_adapter/up/kernel": (None, None, "fsdp") for part in ("attention", "ffn")},
    **{f"encoder/layers/{p}_adapter/{m}/bias": (None, None) for p in ("attention", "ffn") for m in ("down", "up")},
}
MESHES = [
    MeshConfig(),
    MeshConfig(fsdp=2),
    MeshConfig(fsdp=4),
    MeshConfig(tensor=4),
    MeshConfig(tensor=2),
    MeshConfig(data=1, fsdp=2, tensor=2),
]


def flat(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def make(config: EncoderConfig = CONFIG) -> TokenClassifier:
    return TokenClassifier(config, 5, DEFAULT_BUILD, nnx.Rngs(0))


def spec(leaf: Any) -> tuple[str | None, ...]:
    return (*leaf.sharding.spec, *(None,) * (len(leaf.shape) - len(leaf.sharding.spec)))


@pytest.mark.parametrize(
    ("config", "count", "shape"),
    [
        (MeshConfig(), 4, (4, 1, 1, 1)),
        (MeshConfig(), 1, (1, 1, 1, 1)),
        (MeshConfig(fsdp=2), 4, (2, 2, 1, 1)),
        (MeshConfig(fsdp=2, tensor=2), 4, (1, 2, 2, 1)),
        (MeshConfig(data=2, tensor=2), 4, (2, 1, 2, 1)),
        (MeshConfig(tensor=2), 2, (1, 1, 2, 1)),
    ],
    ids=str,
)
def test_mesh_shape(config: MeshConfig, count: int, shape: tuple[int, ...]) -> None:
    assert jax.device_count() == 4
    mesh = meshes.make_mesh(config, None if count == 4 else jax.devices()[:count])
    assert mesh.axis_names == ("data", "fsdp", "tensor", "sequence") and mesh.devices.shape == shape
    assert set(mesh.devices.flat) == set(jax.devices()[:count])
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert meshes.batch_shards(mesh) == shape[0] * shape[1]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MeshConfig(data=3), "data=3 x fsdp=1 x tensor=1 x sequence=1"),
        (MeshConfig(data=2), "data=2 x"),
        (MeshConfig(fsdp=3), "fsdp=3 x"),
        (MeshConfig(fsdp=8), "fsdp=8 x"),
        (MeshConfig(data=4, tensor=2), "data=4 x fsdp=1 x tensor=2 x"),
        (MeshConfig(data=0), "data=0 x"),
        (MeshConfig(data=-2, fsdp=2), "data=-2 x fsdp=2 x"),
        (MeshConfig(data=-2, tensor=-2), "data=-2 x fsdp=1 x tensor=-2 x"),
        (MeshConfig(fsdp=0), "data=-1 x fsdp=0 x"),
        (MeshConfig(sequence=8), "sequence=8"),
    ],
    ids=str,
)
def test_a_mesh_that_is_not_the_devices_is_refused(config: MeshConfig, words: str) -> None:
    with pytest.raises(UserError) as caught:
        meshes.make_mesh(config)
    message = str(caught.value)
    assert message.startswith("config.parallel.mesh: ") and words in message
    assert "does not multiply to the number of devices, 4. Nearest that do: data=" in message
    offers = message.rpartition("that do: ")[2].rstrip(".").split("; ")
    for offer in offers:  # each is a mesh that is taken
        sizes = dict(part.split("=") for part in offer.split())
        assert meshes.make_mesh(MeshConfig(**{axis: int(size) for axis, size in sizes.items()})).size == 4


def test_nearest_meshes() -> None:
    with pytest.raises(UserError, match="devices, 16. Nearest that do: data=8 fsdp=2 tensor=1 sequence=1;"):
        meshes.mesh_shape(MeshConfig(data=8, fsdp=3), 16)
    with pytest.raises(UserError, match="do: data=4 fsdp=1 tensor=4 sequence=1;"):
        meshes.mesh_shape(MeshConfig(tensor=5), 16)


def test_any_one_axis_may_be_what_is_left_over() -> None:
    for axis in meshes.AXES:
        config = dataclasses.replace(MeshConfig(data=1), **{axis: -1})
        assert meshes.mesh_shape(config, 8) == tuple(8 if name == axis else 1 for name in meshes.AXES)
    assert meshes.mesh_shape(MeshConfig(data=2, fsdp=-1, sequence=2), 24) == (2, 6, 1, 2)
    with pytest.raises(UserError) as caught:
        meshes.mesh_shape(MeshConfig(fsdp=-1), 8)
    assert str(caught.value) == (
        "config.parallel.mesh: data=-1 x fsdp=-1 x tensor=1 x sequence=1: only one axis may be -1 (what is left over)."
    )


@pytest.mark.parametrize("config", MESHES, ids=str)
def test_shardings_of_all_parameters_and_bytes_on_a_device(config: MeshConfig) -> None:
    mesh = meshes.make_mesh(config)
    _, abstract = meshes.build_abstract(make, mesh)
    leaves = flat(abstract)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) and leaf.dtype == jnp.float32 for leaf in leaves.values())
    assert {name: spec(leaf) for name, leaf in leaves.items()} == EXPECTED

    for name, leaf in leaves.items():
        array = jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)
        parts = int(np.prod([mesh.shape[axis] for axis in EXPECTED[name] if axis]))
        sizes = {shard.data.nbytes for shard in array.addressable_shards}
        assert len(array.addressable_shards) == 4 and sizes == {array.nbytes // parts}


@pytest.mark.parametrize(("config", "expected"), [(CONFIG, MASKED_LM), (MODERN_CONFIG, MODERN)], ids=["bert", "modern"])
def test_shardings_of_a_masked_lm(config: EncoderConfig, expected: Any) -> None:
    _, abstract = meshes.build_abstract(
        lambda: MaskedLM(config, DEFAULT_BUILD, nnx.Rngs(0)), meshes.make_mesh(MESHES[5])
    )
    assert {name: spec(leaf) for name, leaf in flat(abstract).items()} == expected


def test_shardings_of_a_replaced_token_model() -> None:
    _, abstract = meshes.build_abstract(
        lambda: ReplacedTokenModel(CONFIG, 1, DEFAULT_BUILD, nnx.Rngs(0)), meshes.make_mesh(MESHES[5])
    )
    assert {name: spec(leaf) for name, leaf in flat(abstract).items()} == REPLACED_TOKEN


def test_shardings_of_what_is_trained_beside_frozen_weights() -> None:
    config = with_adapters(CONFIG, AdaptConfig(lora=LoraConfig(4, targets=("all",)), adapter_size=6, prefix_length=2))
    _, abstract = meshes.build_abstract(lambda: make(config), meshes.make_mesh(MESHES[5]))
    assert {name: spec(leaf) for name, leaf in flat(abstract).items()} == ADAPTED


def test_bytes_on_a_device_fall_with_fsdp_and_tensor() -> None:
    def device_bytes(config: MeshConfig) -> int:
        _, abstract = meshes.build_abstract(make, meshes.make_mesh(config))
        return sum(4 * int(np.prod(leaf.sharding.shard_shape(leaf.shape))) for leaf in flat(abstract).values())

    whole, halves, quarters, both = (device_bytes(MESHES[i]) for i in (0, 1, 2, 5))
    assert whole == 4 * sum(leaf.size for leaf in flat(jax.eval_shape(lambda: meshes.initialise(make))).values())
    # Norms and biases stay whole; at this width they are a few percent.
    assert whole / 2 < halves < 0.55 * whole and whole / 4 < quarters < 0.32 * whole
    assert whole / 4 < both < 0.35 * whole


def test_what_a_mesh_axis_does_not_divide_stays_whole() -> None:
    odd = EncoderConfig(vocab_size=63, hidden_size=30, num_layers=1, num_heads=3, ffn_size=50, max_positions=7)
    _, abstract = meshes.build_abstract(lambda: make(odd), meshes.make_mesh(MeshConfig(data=1, fsdp=2, tensor=2)))
    leaves = flat(abstract)
    assert spec(leaves["encoder/embeddings/type/embedding"]) == (None, "fsdp")  # 2 x 30
    assert spec(leaves["encoder/embeddings/word/embedding"]) == ("tensor", "fsdp")  # 63 entries and 65 of padding
    assert spec(leaves["encoder/layers/attention/query/kernel"]) == (None, "fsdp", None, None)  # 3 heads
    assert spec(leaves["encoder/layers/attention/output/kernel"]) == (None, None, None, "fsdp")
    assert spec(leaves["encoder/layers/ffn/up/kernel"]) == (None, "fsdp", "tensor")  # 50 is even
    _, abstract = meshes.build_abstract(lambda: make(odd), meshes.make_mesh(MeshConfig(data=1, fsdp=4)))
    assert all(leaf.sharding.shard_shape(leaf.shape) == leaf.shape for leaf in flat(abstract).values())  # 30 / 4


def test_initial_values_do_not_depend_on_the_mesh() -> None:
    names = ("encoder/embeddings/word/embedding", "encoder/layers/attention/query/kernel", "head/kernel")

    def some() -> dict[str, Any]:
        params = flat(meshes.initialise(make))
        return {name: params[name] for name in names}

    results = []
    for config in (MESHES[0], MESHES[5]):
        leaves = flat(meshes.build_abstract(make, meshes.make_mesh(config))[1])
        results.append(jax.jit(some, out_shardings={name: leaves[name].sharding for name in names})())
    for name in names:
        np.testing.assert_array_equal(*(result[name] for result in results), err_msg=name)
        assert spec(results[1][name]) == EXPECTED[name] and np.std(results[0][name]) > 0.1


def loss_and_gradients(config: MeshConfig, count: int, encoder: EncoderConfig) -> Any:
    """A loss with dropout, the batch and the parameters cut over the mesh of the first `count` devices."""
    mesh = meshes.make_mesh(config, jax.devices()[:count])
    graphdef, abstract = meshes.build_abstract(lambda: make(encoder), mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    draw = np.random.default_rng(4)
    params = jax.tree.map(lambda leaf: 0.3 * draw.normal(size=leaf.shape).astype(np.float32), abstract)
    params = jax.device_put(params, shardings)
    batch = meshes.shard_batch(rows(), dict.fromkeys(rows(), ("tokens",)), mesh)

    def loss(params: Any, batch: Any) -> jax.Array:
        return jnp.mean(jnp.sin(nnx.merge(graphdef, params)(batch, key=jax.random.key(9))))

    whole = meshes.replicated(mesh)
    with jax.set_mesh(mesh):
        value, gradients = jax.jit(jax.value_and_grad(loss), out_shardings=(whole, shardings))(params, batch)
    return jax.device_get((value, flat(gradients)))


def rows() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "tokens": generator.integers(0, 64, (8, 16)).astype(np.int32),
        "segment_ids": np.repeat([[1, 2, 2, 0]], 8, axis=0).repeat(4, axis=1).astype(np.int32),
        "positions": np.tile(np.asarray([*range(4), *range(8), *[0] * 4], np.int32), (8, 1)),
        "type_ids": np.zeros((8, 16), np.int32),
    }


DROPPING_MODERN = dataclasses.replace(MODERN_CONFIG, dropout=0.1, attention_dropout=0.1)


@pytest.mark.slow  # whole trainings on several meshes are compared in test_mesh_runs.py
@pytest.mark.parametrize(
    ("encoder", "mesh"),
    [(CONFIG, MESHES[5]), (DROPPING_MODERN, MeshConfig(data=1, tensor=2, sequence=2))],
    ids=["bert", "modern"],
)
def test_loss_and_gradients_with_dropout_do_not_depend_on_the_mesh(encoder: EncoderConfig, mesh: MeshConfig) -> None:
    expected, gradients = loss_and_gradients(MeshConfig(), 1, encoder)
    value, sharded = loss_and_gradients(mesh, 4, encoder)
    np.testing.assert_allclose(value, expected, atol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in gradients.values())
    for name, gradient in gradients.items():
        np.testing.assert_allclose(sharded[name], gradient, atol=1e-5 * largest, err_msg=name)


def test_what_parts_of_a_row_tell_each_other() -> None:
    """All keys in layers that see the whole row, one chunk of the neighbours' in local ones, and nothing else."""
    encoder = dataclasses.replace(MODERN_CONFIG, num_layers=3, local_window=8)  # chunks of 4, of 32 tokens
    mesh = meshes.make_mesh(MeshConfig(data=1, sequence=4))
    graphdef, abstract = meshes.build_abstract(lambda: Encoder(encoder, DEFAULT_BUILD, nnx.Rngs(0)), mesh)
    shardings = meshes.batch_shardings(axes_of(fields(32)), mesh)
    batch = {name: jax.ShapeDtypeStruct((2, 32), jnp.int32, sharding=place) for name, place in shardings.items()}
    with jax.set_mesh(mesh):
        apply = jax.jit(lambda params, batch: nnx.merge(graphdef, params)(batch))
        text = apply.lower(abstract, batch).compile().as_text()
    found = re.findall(r"= (\w+\[[\d,]*\])\S* (all-gather|all-reduce|all-to-all|collective-permute)\(", text)
    wide = {(shape, kind) for shape, kind in found if shape.startswith("f32")}
    assert wide == {("f32[2,32,4,8]", "all-gather"), ("f32[2,1,4,4,8]", "collective-permute")}


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "words"),
    [
        (6, 1, "6 rows cannot be divided over 4 devices. Nearest that can: 4 or 8."),
        (3, 1, "3 rows cannot be divided over 4 devices. Nearest that can: 4."),
        (12, 2, "12 rows cannot be divided over 4 devices x 2 micro-batches. Nearest that can: 8 or 16."),
    ],
)
def test_batch_size_must_be_divisible(batch_size: int, accumulate: int, words: str) -> None:
    mesh = meshes.make_mesh(MeshConfig(fsdp=2))
    with pytest.raises(UserError) as caught:
        meshes.check_batch_size("config.train.batch_size", batch_size, mesh, accumulate=accumulate)
    assert str(caught.value) == f"config.train.batch_size: {words}"


def test_batch_size_that_can_be_divided() -> None:
    meshes.check_batch_size("key", 8, meshes.make_mesh(MeshConfig()), accumulate=2)
    # The tensor axis does not cut the batch.
    meshes.check_batch_size("key", 2, meshes.make_mesh(MeshConfig(tensor=2)))
    with pytest.raises(UserError):
        meshes.check_batch_size("key", 2, meshes.make_mesh(MeshConfig(fsdp=2)))


@pytest.mark.parametrize("config", [*MESHES, MeshConfig(sequence=2), MeshConfig(1, 1, 2, 2)], ids=str)
def test_shard_batch_cuts_rows_and_tokens_and_repeats_them_over_tensor(config: MeshConfig) -> None:
    batch = {"tokens": np.arange(8 * 6, dtype=np.int32).reshape(8, 6), "row": np.arange(8, dtype=np.int32)[:, None]}
    mesh = meshes.make_mesh(config)
    axes = {"tokens": ("tokens",), "row": ()}
    placed = meshes.shard_batch(batch, axes, mesh)
    places = meshes.batch_shardings(axes, mesh)
    _, fsdp, _, sequence = mesh.devices.shape
    share, length = 8 // meshes.batch_shards(mesh), 6 // sequence
    for name, value in batch.items():
        np.testing.assert_array_equal(placed[name], value)
        assert placed[name].dtype == jnp.int32 and placed[name].sharding == places[name]
        by_device = {shard.device: np.asarray(shard.data) for shard in placed[name].addressable_shards}
        assert len(by_device) == 4
        for (d, f, _, s), device in np.ndenumerate(mesh.devices):
            part, columns = d * fsdp + f, slice(s * length, (s + 1) * length) if name == "tokens" else slice(None)
            wanted = value[part * share : (part + 1) * share, columns]
            np.testing.assert_array_equal(by_device[device], wanted)


def test_row_length_must_be_divisible() -> None:
    mesh = meshes.make_mesh(MeshConfig(data=1, sequence=4))
    meshes.check_row_length("key", 100, mesh)
    for length, nearest in ((102, "100 or 104"), (3, "4")):
        with pytest.raises(UserError) as caught:
            meshes.check_row_length("config.data.row_length", length, mesh)
        assert str(caught.value) == (
            f"config.data.row_length: rows of {length} tokens cannot be cut into 4 equal parts "
            f"(config.parallel.mesh.sequence). Nearest that can: {nearest} tokens."
        )
    meshes.check_row_length("key", 101, meshes.make_mesh(MeshConfig(tensor=4)))


def test_replicated_is_whole_everywhere() -> None:
    mesh = meshes.make_mesh(MeshConfig(fsdp=2))
    assert meshes.replicated(mesh).spec == P() and meshes.replicated(mesh).shard_shape((8, 3)) == (8, 3)


def test_an_axis_without_a_rule_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="without a rule: \\['embd'\\]"):
        meshes.with_axes(nnx.initializers.zeros_init(), "vocab", "embd")

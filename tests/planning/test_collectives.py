import functools
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxfm.analysis import hlo
from jaxfm.planning.collectives import UNKNOWN, by_kind, collectives, mesh_axes, replica_groups

RECORDED = pathlib.Path(__file__).parent / "recorded"
AXES = ("data", "fsdp", "tensor", "sequence")


def found(text: str, shape: tuple[int, ...], slice_axes: tuple[str, ...] = ()) -> dict[tuple[str, str], list[tuple]]:
    every = collectives(hlo.parse(text), dict(zip(AXES, shape, strict=False)), slice_axes)
    return {
        name: sorted((each.size, each.times, each.asynchronous) for each in same)
        for name, same in by_kind(every).items()
    }


def recorded(name: str) -> str:
    return (RECORDED / f"{name}.txt").read_text()


LAYER = 1024 * 1024 * 2  # bytes of a layer's weights in bf16


def test_fully_sharded_weights_on_a_recorded_v5e() -> None:
    assert found(recorded("v5e_fsdp"), (1, 8, 1, 1)) == {
        # Weights for the forward pass (the schedule waits) and, cut in pieces beside a product, for the backward pass.
        ("all-gather", "fsdp"): [(LAYER, 6, False), (LAYER, 6, True)],
        ("reduce-scatter", "fsdp"): [(LAYER, 6, False)],
    }


def test_three_axes_on_a_recorded_v5e() -> None:
    activations = 64 * 1024 * 2
    assert found(recorded("v5e_tensor"), (2, 4, 2, 1)) == {
        ("all-gather", "fsdp"): [(LAYER // 2, 6, False), (LAYER // 2, 6, True)],
        ("all-gather", "tensor"): [(activations, 6, False), (activations, 6, False)],
        ("all-reduce", "data"): [(LAYER // 8, 6, False)],
        ("reduce-scatter", "fsdp"): [(LAYER // 2, 6, False)],
        ("reduce-scatter", "tensor"): [(activations, 6, False)],
    }


def test_two_recorded_slices_exchange_their_part_of_the_gradients_alone() -> None:
    result = found(recorded("v5e_two_slices"), (2, 8, 1, 1), ("data",))
    assert result["all-reduce between slices", "data"] == [(LAYER // 8, 1, True), (LAYER // 8, 5, True)]
    assert set(result) == {
        ("all-reduce between slices", "data"),
        ("all-gather", "fsdp"),
        ("reduce-scatter", "fsdp"),
    }


def test_devices_out_of_order_on_a_recorded_v4() -> None:
    result = found(recorded("v4_data_fsdp"), (2, 4, 1, 1))
    assert result["all-reduce", "data"] == [(LAYER // 4, 6, False)]
    assert all(times == 6 for same in result.values() for _, times, _ in same)


def run_over(mesh: Mesh, body: Callable[[jax.Array], jax.Array], spec: P) -> str:
    """HLO of `body` run 5 times in a loop on each device's part [4, 8] of an array."""

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    def step(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 5, lambda _, y: jnp.sin(body(y)), x)

    parts = int(np.prod([mesh.shape[axis] for axis in mesh.axis_names]))
    return jax.jit(step).lower(jax.ShapeDtypeStruct((4 * parts, 8), jnp.float32)).compile().as_text()


PART = 4 * 8 * 4
KNOWN = {
    "sum over the inner axis": (lambda y: jax.lax.psum(y, "fsdp"), ("all-reduce", "fsdp"), PART),
    "sum over the outer axis": (lambda y: jax.lax.psum(y, "data"), ("all-reduce", "data"), PART),
    "sum over both": (lambda y: jax.lax.psum(y, ("data", "fsdp")), ("all-reduce", "data+fsdp"), PART),
    "gather": (lambda y: jax.lax.all_gather(y, "data").sum(0), ("all-gather", "data"), 2 * PART),
    "permute": (lambda y: jax.lax.ppermute(y, "fsdp", [(0, 1), (1, 0)]), ("collective-permute", "fsdp"), PART),
    "exchange": (
        lambda y: jax.lax.all_to_all(y, "data", 0, 0, tiled=True),
        ("all-to-all", "data"),
        PART,
    ),
    "scattered sum": (
        lambda y: jnp.tile(jax.lax.psum_scatter(y, "fsdp", tiled=True), (2, 1)),
        ("reduce-scatter", "fsdp"),
        PART,
    ),
}


@pytest.mark.parametrize("case", KNOWN)
def test_a_program_whose_collectives_are_known(case: str) -> None:
    body, name, size = KNOWN[case]
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), AXES[:2], axis_types=(AxisType.Auto,) * 2)
    result = found(run_over(mesh, body, P(("data", "fsdp"))), (2, 2))
    assert {key: [(size, times) for size, times, _ in same] for key, same in result.items()} == {name: [(size, 5)]}


def test_a_program_of_one_device_has_none() -> None:
    text = jax.jit(lambda x: x.sum()).lower(jnp.ones(3)).compile().as_text()
    assert found(text, (1, 1, 1, 1)) == {}


def line_of(instruction: str) -> str:
    return (
        "%add (a: f32[], b: f32[]) -> f32[] {\n  %a = f32[] parameter(0)\n  %b = f32[] parameter(1)\n"
        "  ROOT %c = f32[] add(%a, %b)\n}\n\n"
        "ENTRY %main (x: f32[16]) -> f32[16] {\n  %x = f32[16]{0} parameter(0)\n"
        f"  {instruction}\n}}\n"
    )


def test_a_start_and_its_done_are_one_asynchronous_collective() -> None:
    text = line_of(
        "%s = (f32[16]{0}, f32[64]{0}) all-gather-start(%x), replica_groups=[1,4]<=[4], dimensions={0}\n"
        "  ROOT %d = f32[64]{0} all-gather-done(%s)"
    )
    assert found(text, (4,)) == {("all-gather", "data"): [(4 * 16 * 4, 1, True)]}


def piece(name: str, result: str = "ROOT ") -> str:
    attributes = 'channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}, frontend_attributes={chain_id="0"}'
    return (
        f"%{name} (p: f32[16]) -> f32[64] {{\n  %p = f32[16]{{0}} parameter(0)\n"
        f"  {result}%g = f32[64]{{0}} all-gather(%p), {attributes}\n}}\n\n"
    )


def test_a_collective_in_pieces_is_one_though_a_loop_carries_it_along() -> None:
    text = (
        piece("first")
        + piece("between")
        + piece("last")
        + "%condition (s: (s32[], f32[16])) -> pred[] {\n  %s = (s32[], f32[16]{0}) parameter(0)\n"
        "  %i = s32[] get-tuple-element(%s), index=0\n  %n = s32[] constant(9)\n"
        "  ROOT %c = pred[] compare(%i, %n), direction=LT\n}\n\n"
        "%body (t: (s32[], f32[16])) -> (s32[], f32[16]) {\n  %t = (s32[], f32[16]{0}) parameter(0)\n"
        "  %j = s32[] get-tuple-element(%t), index=0\n  %y = f32[16]{0} get-tuple-element(%t), index=1\n"
        "  %f = f32[64]{0} fusion(%y), kind=kOutput, calls=%between\n  %one = s32[] constant(1)\n"
        "  %k = s32[] add(%j, %one)\n  ROOT %r = (s32[], f32[16]{0}) tuple(%k, %y)\n}\n\n"
        "ENTRY %main (x: f32[16]) -> f32[64] {\n  %x = f32[16]{0} parameter(0)\n  %zero = s32[] constant(0)\n"
        "  %async-collective-start.1 = f32[64]{0} fusion(%x), kind=kCustom, calls=%first\n"
        "  %state = (s32[], f32[16]{0}) tuple(%zero, %x)\n"
        "  %w = (s32[], f32[16]{0}) while(%state), condition=%condition, body=%body\n"
        "  ROOT %async-collective-done.1 = f32[64]{0} fusion(%x), kind=kCustom, calls=%last\n}\n"
    )
    assert found(text, (4,)) == {("all-gather", "data"): [(4 * 16 * 4, 1, True)]}
    assert found(text.replace("async-collective-start", "another-name"), (4,)) == {
        ("all-gather", "data"): [(4 * 16 * 4, 1, True)]
    }


@pytest.mark.parametrize(
    "instruction",
    [
        "ROOT %y = f32[16]{0} shuffle-across(%x), channel_id=1, replica_groups={{0,1},{2,3}}",
        "ROOT %y = f32[16]{0} all-reduce(%x), channel_id=1, replica_groups=something_new(4), to_apply=%add",
        "%t = token[] after-all()\n  ROOT %y = (f32[16]{0}, u32[], token[]) send(%x, %t), channel_id=1",
    ],
    ids=("operation", "groups", "send"),
)
def test_what_cannot_be_named_is_called_unknown(instruction: str) -> None:
    assert [kind for kind, _ in found(line_of(instruction), (2, 2))] in ([UNKNOWN], [f"{UNKNOWN} between slices"])


@pytest.mark.parametrize(
    ("attributes", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, x", ((0, 2), (1, 3))),
        ("replica_groups={}, x", ((0, 1, 2, 3, 4, 5, 6, 7),)),
        ("replica_groups=[2,4]<=[8], x", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}, x", ((0, 1, 2, 3, 4, 5, 6, 7),)),
        ("replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}, x", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("replica_groups=mesh['a'=8] {'a':(2)4}, x", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("replica_groups=mesh['a'=8] {'a':(1)2}, x", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("source_target_pairs={{0,1},{1,0}}, x", ((0, 1), (1, 0))),
        ("channel_id=1", None),
    ],
)
def test_the_ways_of_writing_groups(attributes: str, groups: tuple | None) -> None:
    assert replica_groups(attributes, 8) == groups


@pytest.mark.parametrize(
    ("groups", "axes", "whole"),
    [
        (((0, 1), (2, 3), (4, 5), (6, 7)), ("fsdp",), True),
        (((0, 2), (1, 3), (4, 6), (5, 7)), ("data",), False),  # half of the data axis
        (((0, 2, 4, 6), (1, 3, 5, 7)), ("data",), True),
        ((tuple(range(8)),), ("data", "fsdp"), True),
        (((0, 3), (1, 2), (4, 7), (5, 6)), ("data", "fsdp"), False),
    ],
)
def test_groups_belong_to_axes(groups: tuple, axes: tuple[str, ...], whole: bool) -> None:
    assert mesh_axes(groups, {"data": 4, "fsdp": 2}) == (axes, whole)

import math
import pathlib

import jax
import jax.numpy as jnp
import pytest

from jaxfm.analysis import hlo

RECORDED = pathlib.Path(__file__).parents[1] / "planning" / "recorded"
LAYERS, WIDTH, ROWS = 6, 1024, 512


def text_of(function, *arguments) -> str:
    return jax.jit(function).lower(*arguments).compile().as_text() or ""


def flops(module: hlo.Module) -> int:
    return sum(call.times * hlo.matmul_flops(call) for call in module.calls())


@pytest.mark.parametrize(
    ("name", "devices"), [("v5e_fsdp", 8), ("v5e_tensor", 16), ("v5e_two_slices", 16), ("v4_data_fsdp", 8)]
)
def test_a_recorded_tpu_program_does_the_products_that_its_source_says(name: str, devices: int) -> None:
    module = hlo.parse((RECORDED / f"{name}.txt").read_text())
    # Forward, and for the gradient the same again for inputs and for weights: nothing repeated, nothing left out.
    assert flops(module) == 3 * 2 * LAYERS * ROWS * WIDTH * WIDTH // devices


def test_loops_of_a_recorded_program_run_as_often_as_there_are_layers() -> None:
    def trips(name: str) -> list[int | None]:
        module = hlo.parse((RECORDED / f"{name}.txt").read_text())
        loops = [call for call in module.calls() if call.instruction.opcode == "while"]
        return [module.trip_count(call.instruction, call.computation) for call in loops]

    assert trips("v5e_fsdp") == [6, 6]
    assert trips("v5e_two_slices") == [6, 5]  # of the second the compiler took one round out


def test_cycles_of_kernels_count_as_often_as_these_run() -> None:
    module = hlo.parse((RECORDED / "v5e_fsdp.txt").read_text())
    calls = [call for call in module.calls() if hlo.estimated_cycles(call)]
    assert {call.times for call in calls} == {1, 6}
    assert all(call.caller is None for call in calls)
    once = sum(hlo.estimated_cycles(call) for call in calls)
    assert sum(call.times * hlo.estimated_cycles(call) for call in calls) > 3 * once


def test_products_in_nested_loops() -> None:
    def chain(x: jax.Array) -> jax.Array:
        def inner(h, _):
            return jnp.tanh(h @ x), None

        def outer(h, _):
            return jax.lax.scan(inner, h, None, length=3)[0], None

        return jax.lax.scan(outer, x, None, length=5)[0]

    assert flops(hlo.parse(text_of(chain, jnp.ones((16, 16))))) == 3 * 5 * 2 * 16**3


def test_a_loop_that_ends_when_values_say_so_counts_once() -> None:
    def halved(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda h: jnp.sum(h) > 1.0, lambda h: 0.5 * jnp.tanh(h @ h), x)

    module = hlo.parse(text_of(halved, jnp.ones((16, 16))))
    assert len(module.uncounted_loops()) == 1
    assert flops(module) == 2 * 16**3


def test_a_batched_product_counts_each_of_the_batch() -> None:
    left, right = jnp.ones((7, 8, 16)), jnp.ones((7, 16, 32))
    text = text_of(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), left, right)
    assert flops(hlo.parse(text)) == 2 * 7 * 8 * 16 * 32


# As the TPU compiler writes them: a head axis as a reversed and padded window, batch and head axes as dilated ones.
CONVOLUTIONS = {
    "projection to two heads": (
        "%c = bf16[16,128,2,64]{3,2,1,0} convolution(%x, %w), window={size=1x2 pad=0_0x1_1 rhs_reversal=0x1}, "
        "dim_labels=0bf1_i1o0->0b1f",
        "bf16[16,128,128,1]",
        "bf16[128,2,64,1]",
        2 * (16 * 128) * 128 * 128,
    ),
    "scores of each head": (
        "%c = f32[16,2,128,128]{3,2,1,0} convolution(%x, %w), window={size=16x2 stride=15x1 lhs_dilate=16x2}, "
        "dim_labels=0b1f_0o1i->01bf",
        "bf16[16,128,2,64]",
        "bf16[16,128,2,64]",
        2 * 16 * 2 * 128 * 128 * 64,
    ),
    "plain": (
        "%c = f32[64,256]{1,0} convolution(%x, %w), dim_labels=bf_io->bf",
        "f32[64,32]",
        "f32[32,256]",
        2 * 64 * 32 * 256,
    ),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_products_written_as_convolutions(case: str) -> None:
    line, left, right, expected = CONVOLUTIONS[case]
    text = f"ENTRY %main (x: {left}, w: {right}) -> f32[] {{\n  %x = {left} parameter(0)\n  %w = {right} parameter(1)\n"
    module = hlo.parse(f"{text}  ROOT {line}\n}}\n")
    assert flops(module) == expected


def test_traffic_of_an_elementwise_program_is_its_arrays() -> None:
    size = 4 * 1000 * 1000
    module = hlo.parse(text_of(lambda a, b: a * b + 1.0, jnp.ones((1000, 1000)), jnp.ones((1000, 1000))))
    assert sum(call.times * hlo.traffic(call, module) for call in module.calls()) == 3 * size


def test_of_a_stack_that_a_loop_walks_each_slice_counts_once() -> None:
    stack = jnp.ones((8, 256, 256))
    module = hlo.parse(text_of(lambda s: jax.lax.scan(lambda h, w: (h * w, None), s[0], s)[0], stack))
    total = sum(call.times * hlo.traffic(call, module) for call in module.calls())
    layer = 4 * 256 * 256
    # Read the slice and the carry, write the carry: 3 a round, and a few copies at the ends; not 8 stacks of 8.
    assert 3 * 8 * layer <= total < 40 * layer


def test_what_is_kept_near_the_compute_units_is_no_traffic() -> None:
    def text(layout: str) -> str:
        return (
            f"ENTRY %main (x: f32[64]) -> f32[64] {{\n  %x = f32[64]{{0{layout}}} parameter(0)\n"
            f"  ROOT %y = f32[64]{{0{layout}}} negate(%x)\n}}\n"
        )

    def total(layout: str) -> int:
        module = hlo.parse(text(layout))
        return sum(hlo.traffic(call, module) for call in module.calls())

    assert total(":T(256)") == 2 * 64 * 4
    assert total(":T(256)S(1)") == 0


@pytest.mark.parametrize(("to", "sizes"), [("S(1)", 1), ("", 2)])
def test_a_copy_to_near_memory_is_read_alone(to: str, sizes: int) -> None:
    text = (
        f"ENTRY %main (x: f32[64]) -> f32[64] {{\n  %x = f32[64]{{0}} parameter(0)\n"
        f"  %s = (f32[64]{{0:T(256){to}}}, f32[64]{{0}}, u32[]{{:S(2)}}) copy-start(%x)\n"
        f"  ROOT %d = f32[64]{{0:T(256){to}}} copy-done(%s)\n}}\n"
    )
    module = hlo.parse(text)
    assert sum(hlo.traffic(call, module) for call in module.calls()) == sizes * 64 * 4


def test_of_a_large_array_a_slice_is_fetched() -> None:
    text = (
        "ENTRY %main (x: f32[1024]) -> f32[64] {\n  %x = f32[1024]{0} parameter(0)\n"
        "  %s = ((f32[1024]{0}), f32[64]{0:T(256)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:64]}\n"
        "  ROOT %d = f32[64]{0:T(256)S(1)} slice-done(%s)\n}\n"
    )
    module = hlo.parse(text)
    assert sum(hlo.traffic(call, module) for call in module.calls()) == 64 * 4


def test_a_tuple_has_the_bytes_of_its_parts() -> None:
    text = (
        "ENTRY %main (x: bf16[4,8]) -> (bf16[4,8], f32[3]) {\n  %x = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)\n"
        '  ROOT %y = (bf16[4,8]{1,0:T(8,128)(2,1)}, /*index=1*/f32[3]{0}) custom-call(%x), custom_call_target="f"\n}\n'
    )
    root = hlo.parse(text).computations["main"].root
    assert root is not None and root.size == 2 * 4 * 8 + 4 * 3 and root.operands == ("x",)


def test_text_without_an_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule nothing\n")


def test_fori_loop_that_does_not_start_at_zero() -> None:
    x = jnp.ones((8, 8))
    text = text_of(lambda a: jax.lax.fori_loop(2, 9, lambda _, h: jnp.tanh(h @ a), a), x)
    assert flops(hlo.parse(text)) == 7 * 2 * math.prod((8, 8, 8))


SAID = r"""frontend_attributes={kernel_metadata={
"xprof_metadata":"{\"block_q_dq\": 128, \"block_kv_dq\": 128, \"q_layout\": 1}"
}}"""
LAYOUTS = "{s8[1,2,2]{2,1,0}, s8[1,2,2]{2,1,0}, bf16[2,3,256,64]{3,2,1,0}}"
KERNEL = f"""HloModule jit_apply

ENTRY %main (p: s8[1,2,2], q: bf16[2,3,256,64]) -> bf16[2,3,256,64] {{
  %p = s8[1,2,2]{{2,1,0}} parameter(0)
  %q = bf16[2,3,256,64]{{3,2,1,0}} parameter(1)
  %splash_mha_dq_segmented_no_residuals.4 = (f32[2,128,64]{{2,1,0}}, bf16[2,3,256,64]{{3,2,1,0}}) \
custom-call(%p, %p, %q), custom_call_target="tpu_custom_call", operand_layout_constraints={LAYOUTS}, {SAID}
  ROOT %found = bf16[2,3,256,64]{{3,2,1,0}} get-tuple-element(%splash_mha_dq_segmented_no_residuals.4), index=1, {SAID}
}}
"""


def test_a_kernel_of_splash_attention_is_read_and_its_products_counted() -> None:
    """What it says of itself stands on a line of its own, as v5e's compiler wrote it; three products a block."""
    module = hlo.parse(KERNEL)
    root = module.computations["main"].root
    assert root is not None and root.name == "found"
    assert flops(module) == 2 * 3 * (2 * 3) * 4 * 128 * 128 * 64
    assert flops(hlo.parse(KERNEL.replace("splash_mha_dq", "other"))) == 0


ATTENTION = """HloModule step
ENTRY %main (q: bf16[4,512,12,64]) -> bf16[4,12,512,64] {
  %q = bf16[4,512,12,64]{3,2,1,0} parameter(0)
  %all = (bf16[4,12,512,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$TARGET", \
operand_layout_constraints={bf16[4,512,12,64]{3,2,1,0}, bf16[4,512,12,64]{3,2,1,0}, bf16[4,512,12,64]{3,2,1,0}}
  ROOT %found = bf16[4,12,512,64]{3,1,2,0} get-tuple-element(%all), index=0
}
"""


@pytest.mark.parametrize(
    ("kernel", "products"),
    [("fmhaSoftmax", 2), ("fmhaScaleBiasSoftmax", 2), ("fmhaScaleBiasSoftmaxBackward", 5), ("convForward", 0)],
)
def test_the_products_of_cudnns_attention_are_counted(kernel: str, products: int) -> None:
    module = hlo.parse(ATTENTION.replace("TARGET", kernel))
    assert sum(hlo.matmul_flops(call) for call in module.calls()) == 2 * products * 4 * 12 * 512 * 512 * 64

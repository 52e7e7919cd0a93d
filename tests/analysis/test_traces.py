import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from jaxfm.analysis import hlo, traces
from jaxfm.analysis.profiling import Recording
from jaxfm.analysis.traces import Event, Operation, Program, Summary, part_of, self_seconds, summarise, trace_of, union
from jaxfm.data.text import masking
from jaxfm.parallel.mesh import make_mesh
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from jaxfm.training.session import make_session
from tests import tiny

# A program as XLA writes it: a product that something else is fused to, a loop, an optimizer, a copy without a name.
PROGRAM = """HloModule jit_train_step, is_scheduled=true

%fused (a: f32[4,8], b: f32[8,4]) -> f32[4,4] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[8,4]{1,0} parameter(1)
  %big = f32[4,8]{1,0} exponential(%a), metadata={op_name="jit(train_step)/jvp(head)/encoder/attention/dropout/exp"}
  %huge = f32[4,8]{1,0} negate(%big), metadata={op_name="jit(train_step)/jvp(head)/encoder/attention/dropout/neg"}
  ROOT %dot.1 = f32[4,4]{1,0} dot(%huge, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}, \
metadata={op_name="jit(train_step)/jvp(head)/encoder/while/body/ffn/dot_general"}
}

%fused.1 (c: f32[4,4]) -> f32[4] {
  %c = f32[4,4]{1,0} parameter(0)
  %scaled = f32[4,4]{1,0} multiply(%c, %c), metadata={op_name="jit(train_step)/transpose(jvp(head))/norm/mul"}
  %slice = f32[4,1]{1,0} slice(%scaled), slice={[0:4], [0:1]}, metadata={op_name="jit(train_step)/optimizer/slice"}
  ROOT %flat = f32[4]{0} bitcast(%slice), metadata={op_name="jit(train_step)/optimizer/reshape"}
}

%body (d: (s32[], f32[4,4])) -> (s32[], f32[4,4]) {
  %d = (s32[], f32[4,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%d), index=0
  %m = f32[4,4]{1,0} get-tuple-element(%d), index=1
  %tanh.5 = f32[4,4]{1,0} tanh(%m), metadata={op_name="jit(train_step)/jvp(head)/encoder/while/body/attention/tanh"}
  ROOT %t = (s32[], f32[4,4]{1,0}) tuple(%i, %tanh.5)
}

%condition (e: (s32[], f32[4,4])) -> pred[] {
  %e = (s32[], f32[4,4]{1,0}) parameter(0)
  %j = s32[] get-tuple-element(%e), index=0
  %three = s32[] constant(3)
  ROOT %less = pred[] compare(%j, %three), direction=LT
}

ENTRY %main (x: f32[4,8], y: f32[8,4]) -> f32[4] {
  %x = f32[4,8]{1,0} parameter(0)
  %y = f32[8,4]{1,0} parameter(1)
  %copy.1 = f32[8,4]{0,1} copy(%y)
  %loop_fusion = f32[4,4]{1,0} fusion(%x, %copy.1), kind=kOutput, calls=%fused, \
metadata={op_name="jit(train_step)/jvp(head)/encoder/attention/dropout/exp"}
  %zero = s32[] constant(0)
  %start = (s32[], f32[4,4]{1,0}) tuple(%zero, %loop_fusion)
  %while.2 = (s32[], f32[4,4]{1,0}) while(%start), condition=%condition, body=%body, \
metadata={op_name="jit(train_step)/jvp(head)/encoder/while"}
  %got = f32[4,4]{1,0} get-tuple-element(%while.2), index=1
  ROOT %fusion.7 = f32[4]{0} fusion(%got), kind=kLoop, calls=%fused.1, metadata={op_name="jit(train_step)/optimizer/x"}
}
"""

Recorded = tuple[str, float, float, Mapping[str, Any]]  # name, start and length in microseconds, stats


def plane(name: str, lines: Mapping[str, Sequence[Recorded]]) -> str:
    """A plane of an XSpace as text."""
    names: dict[str, int] = {}
    stats: dict[str, int] = {}
    text = ""
    for line, events in lines.items():
        inside = ""
        for event, start, length, values in events:
            shown = ""
            for key, value in values.items():
                kind = f'str_value: "{value}"' if isinstance(value, str) else f"int64_value: {value}"
                shown += f"stats {{ metadata_id: {stats.setdefault(key, len(stats) + 1)} {kind} }} "
            number = names.setdefault(event, len(names) + 1)
            times = f"offset_ps: {round(start * 1e6)} duration_ps: {round(length * 1e6)}"
            inside += f"events {{ metadata_id: {number} {times} {shown}}}\n"
        text += f'lines {{ id: {len(text)} name: "{line}" timestamp_ns: 1000 {inside} }}\n'
    for kind, table in (("event_metadata", names), ("stat_metadata", stats)):
        for key, number in table.items():
            text += f'{kind} {{ key: {number} value {{ id: {number} name: "{key}" }} }}\n'
    return f'planes {{ name: "{name}" {text} }}\n'


def read(*planes: str) -> traces.Trace:
    return trace_of(ProfileData.from_text_proto("".join(planes)))


def host(*waits: tuple[float, float]) -> str:
    return plane("/host:CPU", {"python": [(traces.WAITING, start, length, {}) for start, length in waits]})


def microseconds(summary: traces.Summary) -> dict[str, Any]:
    spent = {operation.name: 1e6 * operation.seconds for operation in summary.operations}
    return {name: pytest.approx(value, abs=1e-3) for name, value in spent.items()}


def test_a_tpu() -> None:
    # Two steps of 100 us, 20 us apart; the while loop contains its body's operation three times.
    steps = []
    for start in (10.0, 130.0):
        steps += [
            ("%copy.1 = f32[8,4]{0,1} copy(%y)", start, 10, {}),
            ("%loop_fusion = f32[4,4] fusion", start + 10, 40, {}),
        ]
        steps += [("%while.2 = (s32[], f32[4,4]) while(%start)", start + 50, 35, {})]
        steps += [("%tanh.5 = f32[4,4] tanh(%m)", start + 51 + 11 * turn, 10, {}) for turn in range(3)]
        steps += [("fusion.7", start + 85, 15, {})]
    modules = [
        ("jit_train_step(123)", 10, 100, {}),
        ("jit_other(5)", 112, 5, {}),
        ("jit_train_step(123)", 130, 100, {}),
    ]
    other = [("%fusion.7 = f32[1] fusion()", 112, 5, {})]
    found = summarise(
        read(
            plane("/device:TPU:0", {"XLA Modules": modules, "XLA Ops": sorted([*steps, *other], key=lambda e: e[1])}),
            plane("/device:TPU:0 SparseCore 0", {"XLA Ops": [("%x", 0, 500, {})]}),
            host((105, 10), (300, 50)),
        ),
        PROGRAM,
        steps=2,
    )
    assert microseconds(found) == {
        "loop_fusion": 40, "tanh.5": 30, "fusion.7": 15, "copy.1": 10, "while.2": 5, "jit_other: fusion.7": 2.5,
    }  # fmt: skip
    assert (found.steps, found.devices) == (2, 1)
    assert found.seconds == pytest.approx(110e-6)  # 220 us from the first operation to the last
    assert found.busy == pytest.approx(102.5e-6)
    assert found.waiting == pytest.approx(1e-6)  # of 105 .. 115: idle from 110 to 112
    assert found.idle == pytest.approx(7.5e-6)
    by_name = {operation.name: operation for operation in found.operations}
    assert by_name["tanh.5"].count == 3
    assert by_name["loop_fusion"].kind == "fusion of dot"
    assert by_name["loop_fusion"].shape == "f32[4,4]"
    assert by_name["jit_other: fusion.7"].kind == "other program"


def test_gpus() -> None:
    def stats(op: str) -> dict[str, Any]:
        return {"hlo_op": op, "hlo_module": "jit_train_step", "correlation_id": 7}

    planes = []
    for number, late in ((0, 0), (1, 10)):
        compute = [
            ("void cutlass::gemm", 0 + late, 30, stats("loop_fusion")),
            # Inside a CUDA graph the kernel's name is all there is.
            ("loop_fusion", 30 + late, 4, {}),
            ("loop_fusion", 34 + late, 3, stats("command_buffer_1")),
            ("tanh_5", 37 + late, 3, stats("call.4")),
            ("nvjet_tst", 40 + late, 5, stats("call.4")),
            ("fusion_7", 60 + late, 10, stats("fusion.7")),
        ]
        copies = [("MemcpyH2D", 20 + late, 20, {})]  # beside the kernels
        derived = [("loop_fusion", 0, 40, stats("loop_fusion"))]
        lines = {"Stream #13(Compute)": compute, "Stream #14(MemcpyH2D)": copies, "XLA Ops": derived}
        planes.append(plane(f"/device:GPU:{number}", lines))
    graph = "  %call.4 = f32[4,4]{1,0} call(%got), to_apply=%body\n  ROOT %fusion.7"
    found = summarise(read(*planes), PROGRAM.replace("  ROOT %fusion.7", graph), steps=1)
    spent = {"loop_fusion": 37, "tanh.5": 3, "MemcpyH2D": 20, "fusion.7": 10, "nvjet_tst": 5}
    assert microseconds(found) == spent
    assert (found.devices, found.seconds, found.busy) == (2, pytest.approx(70e-6), pytest.approx(55e-6))
    kinds = {operation.name: (operation.kind, operation.part) for operation in found.operations}
    assert kinds["MemcpyH2D"] == ("transfer", "input")
    assert kinds["nvjet_tst"] == ("kernel", "other")


def test_operations_on_cpu_may_end_in_another_thread() -> None:
    def stats(op: str, number: int) -> dict[str, Any]:
        return {"hlo_op": op, "hlo_module": "jit_train_step", "device_ordinal": 0, "_p": number}

    lines = {
        "caller": [("loop_fusion", 0, 10, stats("loop_fusion", 1)), ("while.2", 40, 10, stats("while.2", 2))],
        "worker": [
            ("end: loop_fusion", 40, 1, {"_c": 1}),
            ("tanh.5", 50, 20, stats("tanh.5", 3)),
            ("end: tanh.5", 69, 1, {"_c": 3}),
            ("end: while.2", 75, 1, {"_c": 2}),
        ],
    }
    found = summarise(read(plane("/host:CPU", lines)), PROGRAM, steps=1)
    # What a loop does in another thread is the time of the operations there, not its own once more.
    assert microseconds(found) == {"loop_fusion": 40, "tanh.5": 20, "while.2": 10}
    assert found.busy == pytest.approx(70e-6)


def test_a_recording_of_this_device(tmp_path: pathlib.Path) -> None:
    def step(x: jax.Array) -> jax.Array:
        def loss(x: jax.Array) -> jax.Array:
            with jax.named_scope("ffn"):
                x = jnp.tanh(x @ x)
            with jax.named_scope("norm"):
                return jnp.sum(x / jnp.sum(jnp.abs(x), axis=-1, keepdims=True))

        return x - jax.grad(loss)(x)

    x = jnp.eye(64)
    compiled = jax.jit(step).lower(x).compile()
    jax.block_until_ready(compiled(x))
    for name in ("first", "first", "second"):  # a name may come again: the older recording is gone then
        recording = Recording(tmp_path, name)
        for _ in range(3):
            x = compiled(x)
        jax.block_until_ready(x)
        file = recording.stop()
    assert sorted(each.name for each in (tmp_path / "plugins" / "profile").iterdir()) == ["first", "second"]
    found = summarise(traces.read_trace(file), compiled.as_text() or "", steps=3)
    products = [operation for operation in found.operations if "dot" in operation.kind]
    assert sum(operation.count for operation in products) == 3  # forward, and for both factors
    assert {operation.part for operation in products} == {"ffn"}
    assert found.parts["ffn"] > 0 and found.parts["norms"] > 0
    assert 0 < found.busy <= found.seconds


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("jit(train_step)/jvp(head)/encoder/while/body/attention/dropout/mul", "dropout, random"),
        ("jit(train_step)/transpose(jvp(head))/encoder/while/body/attention/BTD,DNH->BTNH/dot_general", "attention"),
        ("jit(train_step)/transpose(jvp(head))/embeddings/norm/mul", "norms"),
        ("jit(train_step)/transpose(jvp(head))/mul", "head"),
        ("jit(train_step)/jvp(head)/encoder/while/body/dynamic_slice", "other"),
        ("jit(train_step)/jvp(head)/jit(_threefry_split)/while", "dropout, random"),
        ("jit(train_step)/optimizer/cond/branch_1_fun/mul", "optimizer"),
        ("jit(train_step)/jvp(head)/masking/sort", "input"),
        ("jit(train_step)/heads/add", "other"),
        ("", "other"),
    ],
)
def test_the_innermost_scope_decides(source: str, part: str) -> None:
    assert part_of(source) == part


def test_a_fusion_is_for_its_products_or_else_for_most_of_its_numbers() -> None:
    program = Program(PROGRAM)
    assert program.describe("loop_fusion").part == "ffn"  # though its own name, and most of it, is dropout
    assert program.describe("fusion.7").part == "norms"  # 16 numbers against 8 of the optimizer
    assert program.describe("copy.1").part == "dropout, random"  # by the source of its reader
    assert program.describe("while.2").part == "other"


def test_time_inside_others_counts_once() -> None:
    def event(start: float, end: float, lane: str = "a") -> Event:
        return Event("d", lane, "x", "", "", start, end, end)

    events = [event(0, 10), event(1, 4), event(2, 3), event(4, 6), event(10, 11), event(0, 9, "b")]
    assert self_seconds(events) == [5, 2, 1, 2, 1, 9]
    assert union([(5, 6), (0, 2), (1, 3), (3, 4)]) == [(0, 4), (5, 6)]


@pytest.fixture(scope="module")
def train_step(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    config = tiny.masked_lm_config(tmp_path_factory.mktemp("traces"), model__dropout=0.1, model__scan_layers=False)
    task, _ = registry.create(config, resolve(config.model))
    mesh = make_mesh(config.parallel.mesh, jax.devices()[:1])
    session = make_session(config, task.objective, mesh, total_steps=10)
    return config, session.compiled(config.train.batch_size).as_text() or ""


@pytest.mark.slow
def test_products_of_a_step_are_told_forward_and_backward(train_step: tuple[Any, str]) -> None:
    config, text = train_step
    encoder, rows = tiny.ENCODER, config.train.batch_size
    tokens, width = rows * config.data.row_length, encoder.hidden_size
    places = {}
    for call in hlo.parse(text).calls():
        part = part_of(traces.source_of(call.instruction))
        places[part] = places.get(part, 0) + call.times * hlo.matmul_flops(call)
    layers, gradients_of_biases = encoder.num_layers, places.pop("other", 0)
    attention = layers * 6 * tokens * (4 * width**2 + 2 * config.data.row_length * width)
    assert places["attention"] == attention
    assert places["ffn"] == layers * 6 * tokens * 2 * width * encoder.ffn_size
    places_a_row = places.pop("head") / (6 * rows * width * (encoder.padded_vocab_size + width))
    assert places_a_row == masking.max_predictions("token", 0.15, config.data.row_length)
    assert set(name for name, flops in places.items() if flops) == {"attention", "ffn"}
    # Products with ones on CPU, 2 of them a number, that the compiler gives no name; `Program` asks their readers.
    biases = layers * (4 * width + width + encoder.ffn_size)
    assert gradients_of_biases <= 2 * tokens * (biases + width)


@pytest.mark.slow
def test_every_part_of_a_step_has_a_name(train_step: tuple[Any, str]) -> None:
    _, text = train_step
    program = Program(text)
    computed = dict.fromkeys(traces.PARTS, 0)
    free = ("parameter", "tuple", "get-tuple-element", "constant")
    for call in hlo.parse(text).calls():
        if call.caller is None and call.instruction.opcode not in free:
            part = program.describe(call.instruction.name).part
            computed[part] += sum(array.count for array in call.instruction.arrays)
    assert all(count > 0 for part, count in computed.items() if part != "other"), computed
    assert computed["other"] < 0.1 * sum(computed.values()), computed


def test_tables_and_record() -> None:
    steps = [("%loop_fusion = f32[4,4] fusion", 0, 30, {}), ("%fusion.7 = x", 40, 10, {})]
    summary = summarise(read(plane("/device:TPU:0", {"XLA Ops": steps})), PROGRAM, steps=1)
    parts = traces.part_table(summary)
    shown = {row[0]: row[1:] for row in parts.rows}
    assert shown["ffn"] == (pytest.approx(0.03), pytest.approx(0.75))
    assert shown["device busy"] == (pytest.approx(0.04), pytest.approx(0.8))
    assert shown["step"] == (pytest.approx(0.05), 1.0)
    (longest,) = traces.operation_table(summary, 1).rows
    assert longest[:4] == ("loop_fusion", "fusion of dot", "f32[4,4]", "ffn")
    record = traces.to_record(summary, 1)
    assert record["idle_milliseconds"] == 0.01
    assert [each["name"] for each in record["operations"]] == ["loop_fusion"]


def test_kernels_that_do_not_tell_what_they_are_for() -> None:
    def summary(unknown: float) -> Summary:
        operations = (
            Operation("fusion.1", "fusion", "", "ffn", "", 1.0 - unknown, 1.0),
            Operation("nvjet_tst", "kernel", "", "other", "", unknown, 1.0),
        )
        return Summary(1, 1, 1.0, 1.0, 0.0, operations)

    assert traces.warnings(summary(0.04)) == []
    (remark,) = traces.warnings(summary(0.3))
    assert remark.startswith("30% ") and "--xla_gpu_enable_command_buffer=" in remark


def test_without_a_device_or_a_program() -> None:
    nothing = summarise(read(host((0, 5))), PROGRAM, steps=1)
    assert (nothing.devices, nothing.seconds, nothing.operations) == (0, 0.0, ())
    assert "CUPTI" in traces.warnings(nothing)[0]
    unknown = summarise(read(plane("/device:TPU:0", {"XLA Ops": [("%fusion.7 = x", 0, 10, {})]})), "", steps=1)
    assert microseconds(unknown) == {"fusion.7": 10}
    assert unknown.parts["other"] == pytest.approx(1e-5)

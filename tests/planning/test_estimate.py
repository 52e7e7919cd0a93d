import dataclasses
import functools
import json
import math

import jax
import pytest

from jaxfm.errors import UserError
from jaxfm.planning import estimate, hardware, output
from jaxfm.planning.advice import advise
from jaxfm.planning.estimate import CollectiveTotals, Memory, Plan, Subject, make_plan
from jaxfm.planning.hardware import parse_topology
from jaxfm.planning.roofline import LinkSeconds, Times
from tests.planning import small

# 2 layers of 128, ffn 512, 500 words padded to 512, 512 positions, 2 types, by hand: see tests/models/test_presets.py.
ENCODER = (512 + 512 + 2) * 128 + 2 * 128 + 2 * (4 * (128**2 + 128) + 2 * 128 * 512 + 512 + 128 + 4 * 128)
HEAD = 128**2 + 128 + 2 * 128 + 512


@functools.cache
def compiled(**overrides: int) -> Plan:
    with pytest.MonkeyPatch.context() as monkeypatch:
        small.stand_in(monkeypatch)
        sets = {f"parallel__mesh__{name}": size for name, size in overrides.items()}
        return make_plan(Subject.of(small.config(**sets)), parse_topology("v5e:2x2"))


def test_parameters_and_moments_are_counted_exactly() -> None:
    plan = compiled()
    padding = 12 * (128 + 1)
    assert plan.parameters == ENCODER + HEAD - padding
    assert plan.memory.parameters == 4 * (ENCODER + HEAD)
    counters = 2 * 4  # of Adam and of the schedule
    assert plan.memory.optimizer == 8 * (ENCODER + HEAD) + counters
    assert plan.memory.batch == 3 * 4 * 8 * 16 // 4  # masks and targets are made on the device


@pytest.mark.slow
def test_what_is_cut_over_fsdp_takes_its_part() -> None:
    whole, part = compiled().memory, compiled(data=1, fsdp=4).memory
    # All but norms and small biases.
    assert whole.parameters / 4 < part.parameters < whole.parameters / 3.8
    assert part.peak is not None and whole.peak is not None and part.peak < whole.peak


FSDP, FSDP_AND_TENSOR = (("fsdp", 2),), (("fsdp", 2), ("tensor", 2))


@pytest.mark.parametrize(
    "mesh", [(), *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in (FSDP, FSDP_AND_TENSOR))], ids=str
)
def test_every_collective_of_a_train_step_has_a_name(mesh: tuple[tuple[str, int], ...]) -> None:
    plan = compiled(**dict(mesh))
    assert plan.collectives
    axes = {"data", *dict(mesh)} if math.prod(dict(mesh).values()) < 4 else set(dict(mesh))
    for row in plan.collectives:
        assert not row.kind.startswith("unknown") and row.axes != "?"
        assert set(row.axes.removesuffix(" (part)").split("+")) <= axes, row
    assert output.to_dict(plan, None)["unknown_collectives"] == 0


def test_gradients_of_a_data_parallel_step_are_summed_once() -> None:
    (summed,) = [row for row in compiled().collectives if row.kind == "all-reduce" and row.size > 1e5]
    # Every parameter, in f32 on a CPU; of the word embedding what comes from lookup and from head, each for itself.
    assert summed.axes == "data" and summed.size == pytest.approx(4 * (ENCODER + HEAD + 512 * 128), rel=0.01)
    assert summed.sent == pytest.approx(summed.size * 2 * 3 / 4)


def test_products_of_the_program_are_those_of_the_formula() -> None:
    plan = compiled()
    assert plan.matmul_flops is not None and plan.xla_flops is not None
    # The head is computed for a few more places than are hidden, and gradients of embeddings need none.
    assert plan.model_flops < plan.matmul_flops < 1.3 * plan.model_flops


def test_times_are_of_the_chip() -> None:
    plan = compiled()
    assert plan.times is not None and plan.matmul_flops is not None
    assert plan.times.compute == pytest.approx(plan.matmul_flops / 197e12)
    assert plan.times.kernels == 0  # a CPU's compiler estimates none
    assert plan.times.step >= plan.times.bound > 0
    assert plan.mfu == pytest.approx(plan.model_flops / 197e12 / plan.times.step)
    assert plan.tokens_per_second == pytest.approx(8 * 16 / plan.times.step)


def test_more_memory_than_there_is_does_not_end_in_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    small.stand_in(monkeypatch)

    def fail(self: jax.stages.Lowered) -> None:
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (20.50G) "
            "exceeds available HBM (15.75G)."
        )

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    plan = make_plan(Subject.of(small.config()), parse_topology("v5e:2x2"))
    assert not plan.memory.fits and plan.memory.peak == int(20.5 * 2**30)
    assert plan.times is plan.mfu is plan.tokens_per_second is None
    assert "remat=dots" in advise(plan)[0] and "20.5 GiB" in advise(plan)[0]
    json.dumps(output.to_dict(plan, 1.0), allow_nan=False)


def test_another_error_of_the_compiler_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    small.stand_in(monkeypatch)

    def fail(self: jax.stages.Lowered) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        make_plan(Subject.of(small.config()), parse_topology("v5e:2x2"))


def test_without_their_compiler_gpus_are_planned_by_lowering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_gpu_compiler", lambda: False)
    config = small.config(parallel__mesh__fsdp=2, parallel__mesh__tensor=2)
    plan = make_plan(Subject.of(config), parse_topology("gpu:h100:4"))
    assert plan.memory.temporaries is None and plan.memory.fits is None and "lowered" in " ".join(plan.notes)
    assert "jaxfm-encoders[cuda]" in " ".join(plan.notes)
    positions, dense = 4 * 512 * 128, 4 * 128**2  # cut over fsdp alone
    assert plan.memory.parameters == pytest.approx(ENCODER + HEAD + (positions + dense) / 4, rel=0.02)
    kinds = {(row.kind, row.axes): row for row in plan.collectives}
    assert set(kinds) == {("all-gather", "fsdp"), ("reduce-scatter", "fsdp"), ("all-reduce", "tensor")}
    # bf16 weights of half a model, gathered twice; activations [8 / 2, 16, 128] summed four times a layer.
    assert kinds["all-gather", "fsdp"].size == pytest.approx(2 * (ENCODER + HEAD), rel=0.01)
    assert kinds["all-reduce", "tensor"].size == 2 * 4 * (2 * 4 * 16 * 128)
    assert plan.times is not None and plan.tokens_per_second is not None and plan.mfu is None
    # Neither a verdict nor a prediction is printed.
    found = {table.title: dict(row[:2] for row in table.rows) for table in output.tables(plan, 2.0)}
    memory = found["Memory of a chip: whether it fits is not known without a compiler"]
    assert memory["activations, gradients"] is memory["peak"] is None and memory["left for activations, gradients"] > 0
    times = found["Time of a step, a lower bound"]
    assert times["MFU"] == "not known without a compiler" and "step at the least" in times
    assert "tokens a second at the most" in times and "USD for 1e9 tokens at 2 a chip hour at the least" in times
    assert "without a compiler neither activations nor the time of kernels are known" in advise(plan)[0]
    values = json.loads(json.dumps(output.to_dict(plan, 2.0), allow_nan=False))
    assert values["memory"]["fits"] is values["mfu"] is None and values["compiled"] is False
    # What does not fit even without activations does not fit.
    tight = dataclasses.replace(plan.memory, capacity=plan.memory.least - 1)
    assert tight.fits is False and dataclasses.replace(plan.memory, refused=True).fits is False


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"parallel__mesh__fsdp": 3}, "config.parallel.mesh"),
        ({"train__batch_size": 6}, "config.train.batch_size"),
        ({"train__batch_size": "auto"}, "config.train.batch_size: is auto.*a number"),
        ({"model__preset": ""}, "config.model.preset"),
    ],
)
def test_mistakes_of_a_config_are_said(
    overrides: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.stand_in(monkeypatch)
    with pytest.raises(UserError, match=words):
        make_plan(Subject.of(small.config(**overrides)), parse_topology("v5e:2x2"))


def test_a_vocabulary_is_that_of_the_tokenizer_to_be_learned() -> None:
    assert Subject.of(small.config()).objective.spec.encoder.vocab_size == 500
    subject = Subject.of(small.config(model__tokenizer="hf:nobody/nothing"))
    assert subject.objective.spec.encoder.vocab_size == 30522 and "30522" in subject.notes[0]


@pytest.mark.parametrize("task", [pytest.param("replaced_token", marks=pytest.mark.slow), "ner"])
def test_every_objective_is_built_without_data(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_gpu_compiler", lambda: False)
    config = small.config(task, **({"task__overlap": 4} if task == "ner" else {}))
    plan = make_plan(Subject.of(config), parse_topology("gpu:a100:1"))
    assert plan.collectives == () and plan.memory.fits is None


MEMORY = Memory(2**30, 2 * 2**30, 2**20, 2**30, 2**20, 5 * 2**30, 16 * 2**30)


def plan(**changes: object) -> Plan:
    return dataclasses.replace(
        Plan(
            topology=parse_topology("v5e:16x16", 2),
            mesh={"data": 32, "fsdp": 16, "tensor": 1, "sequence": 1},
            settings={"model": "bert_base", "task": "masked_lm", "batch_size": 64, "row_length": 128, "accumulate": 1}
            | {"remat": "none"},
            parameters=10**8,
            memory=MEMORY,
            model_flops=4e12,
            matmul_flops=5e12,
            xla_flops=1e12,
            times=Times(
                compute=0.05, memory=0.03, links=LinkSeconds(0.01, 0.0), waiting=LinkSeconds(0.001, 0.0), kernels=0.06
            ),
            collectives=(CollectiveTotals("all-reduce", "data", 4, 10**8, 2e8, 0.01, 0.001),),
            compile_seconds=60.0,
            notes=(),
            versions={"jax": "0"},
        ),
        **changes,
    )


def test_state_that_does_not_fit_is_cut_further() -> None:
    heavy = dataclasses.replace(MEMORY, parameters=8 * 2**30, optimizer=16 * 2**30, peak=30 * 2**30)
    (sentence,) = advise(plan(memory=heavy, times=None))
    assert "parameters and optimizer alone take 150%" in sentence and "fsdp=64" in sentence
    hopeless = dataclasses.replace(heavy, parameters=10**13)
    assert "more chips" in advise(plan(memory=hopeless, times=None))[0]


@pytest.mark.parametrize(
    ("remat", "words"), [("none", "remat=dots"), ("dots", "remat=full"), ("full", "not fit.*: --config.train.accum")]
)
def test_activations_that_do_not_fit_are_recomputed(remat: str, words: str) -> None:
    full = dataclasses.replace(MEMORY, peak=20 * 2**30)
    settings = plan().settings | {"remat": remat}
    with pytest.raises(UserError, match=words):
        raise UserError(advise(plan(memory=full, times=None, settings=settings))[0])


def test_a_step_that_waits_names_the_collective() -> None:
    times = Times(compute=0.05, memory=0.03, links=LinkSeconds(0.03, 0.0), waiting=LinkSeconds(0.02, 0.0), kernels=0.06)
    rows = (
        CollectiveTotals("all-reduce", "data", 4, 1, 1, 0.01, 0.001),
        CollectiveTotals("all-gather", "tensor", 4, 1, 1, 0.02, 0.019),
    )
    (sentence,) = advise(plan(times=times, collectives=rows))
    assert "25% of a step waits" in sentence and "all-gather over tensor" in sentence and "smaller tensor" in sentence


def test_slow_networks_and_slow_kernels_are_told_apart() -> None:
    times = Times(compute=0.05, memory=0.03, links=LinkSeconds(0.01, 0.08), waiting=LinkSeconds(), kernels=0.06)
    assert "network between slices" in advise(plan(times=times))[0]
    slow = Times(compute=0.05, memory=0.03, links=LinkSeconds(), waiting=LinkSeconds(), kernels=0.12)
    assert "2.4 times as long" in advise(plan(times=slow))[0]
    assert "nothing stands out" in advise(plan())[0]


def test_what_is_printed() -> None:
    text = output.headline(plan())
    assert "2 slices of v5e:16x16, 512 chips as 32 data x 16 fsdp" in text and "64 rows of 128 tokens (8,192)" in text
    titles = [table.title for table in output.tables(plan(), price=1.2)]
    assert titles == ["Memory of a chip: fits", "Collectives of a step and chip, as compiled", "Time of a step"]
    assert output.tables(plan(memory=dataclasses.replace(MEMORY, peak=17 * 2**30)), None)[0].title.endswith("NOT FIT")
    rows = dict(output.tables(plan(), price=1.2)[-1].rows)  # type: ignore[arg-type]
    # 61 ms a step of 8,192 tokens: 134,295 a second; 512 chips at 1.2 USD are 614.4 USD an hour.
    assert rows["PREDICTED STEP"] == "61.00 ms" and rows["tokens a second"] == "134,295"
    assert rows["USD for 1e9 tokens at 1.2 a chip hour"] == "1,270.83"


def test_the_whole_plan_as_json() -> None:
    values = json.loads(json.dumps(output.to_dict(plan(), 1.2), allow_nan=False))
    assert values["topology"]["chips"] == 512 and values["memory"]["fits"] is True
    assert values["times"]["step"] == pytest.approx(0.061) and values["times"]["limited_by"] == "compute"
    assert values["cost_per_billion_tokens"] == pytest.approx(1270.83, abs=0.01)
    assert values["collectives"][0]["kind"] == "all-reduce" and values["unknown_collectives"] == 0


def test_the_list_of_large_allocations_is_read() -> None:
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 17.02G of "
        "15.75G hbm. Exceeded hbm capacity by 1.27G.\n\nLargest program allocations in hbm:\n\n  1. Size: 3.00G\n"
        '     Operator: op_name="jit(train_step)/while" source_file="x.py"\n'
        "     Shape: f32[12,64,12,512,512]{4,3,2,1,0}\n"
        "     Unpadded size: 3.00G\n     Allocation type: HLO temp\n     ==========\n\n  2. Size: 1.50G\n"
        "     Shape: bf16[12,64,512,3072]{3,2,1,0}\n     Unpadded size: 1.50G\n"
    )
    assert estimate._bytes_wanted(message) == int(17.02 * 2**30)
    assert estimate._largest_allocations(message) == [
        "would need 3.00G for f32[12,64,12,512,512]{4,3,2,1,0} (jit(train_step)/while)",
        "would need 1.50G for bf16[12,64,512,3072]{3,2,1,0} (no operation)",
    ]

import pathlib
from collections.abc import Callable

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfm import files
from jaxfm.config import AUTO, BY_EXAMPLES, Config, MeshConfig
from jaxfm.core.batch import Volume
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.training import batch_size, initial
from jaxfm.training import workdir as workdirs
from jaxfm.training.session import make_session
from tests import tiny
from tests.planning import small

AMPLE = 2**50


def test_sizes_to_choose_from() -> None:
    assert batch_size.candidates(1, 20) == [*range(1, 17), 18, 20]
    assert batch_size.candidates(4, 50) == [4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48]
    assert batch_size.candidates(4, 3) == [4]  # fewer rows than devices: the mesh decides
    big = batch_size.candidates(6, 10**6)
    assert all(size % 6 == 0 for size in big) and big == sorted(set(big)) and 800_000 < big[-1] <= 10**6
    assert all(above / below <= 1.125 for below, above in zip(big[7:], big[8:], strict=False))
    assert len(big) < 150


def test_a_batch_that_grows_doubles_up_to_one_of_them() -> None:
    assert batch_size.candidates(4, 100, first=12) == [24, 48, 96]
    assert batch_size.candidates(4, 96, first=12) == [24, 48, 96]
    assert batch_size.candidates(4, 5, first=12) == [24]


def searched(peak: Callable[[int], float], limit: int, most: int = 5000) -> batch_size.BatchSizeSearch:
    sizes = batch_size.candidates(1, most)
    fit = batch_size.search_batch_size(sizes, peak, limit)
    fitting = [size for size in sizes if peak(size) <= limit]
    assert fit.size == max(fitting, default=None)
    return fit


@given(st.integers(0, 10**6), st.integers(1, 10**4), st.integers(1, 10**8))
def test_where_memory_is_affine_few_are_compiled(fixed: int, a_row: int, limit: int) -> None:
    fit = searched(lambda size: fixed + a_row * size, limit)
    # Two to predict from, and those on both sides of the limit; one more where it lies beyond 64 times the second.
    assert len(fit.peaks) <= 5


@given(st.integers(1, 10**6), st.integers(1, 10**4), st.integers(1, 10**7))
def test_where_the_optimizer_outweighs_small_batches_a_few_more(floor: int, a_row: int, limit: int) -> None:
    # Over 150,000 floors and limits it was 5 on average and 11 at the most, where a floor ends just below the limit.
    assert len(searched(lambda size: max(floor, a_row * size), limit).peaks) <= 12


@given(st.lists(st.integers(0, 500), min_size=150, max_size=150), st.integers(1, 40_000))
def test_whatever_memory_does_the_search_ends_at_the_limit(growth: list[int], limit: int) -> None:
    sizes = batch_size.candidates(1, 5000)
    peaks = {size: float(sum(growth[: place + 1])) for place, size in enumerate(sizes)}
    searched(peaks.__getitem__, limit)


def test_a_compiler_that_refuses_is_no_end() -> None:
    fit = searched(lambda size: float("inf") if size > 300 else 10.0 * size, 10**6)
    assert fit.size == 288 and "320 rows would not compile" in fit.describe()


def test_a_few_rows_may_all_fit() -> None:
    fit = searched(lambda size: 5 + size, 10**9, most=100)
    assert fit.size == 96 and len(fit.peaks) <= 3


def settled(config: Config, limit: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Config, str]:
    monkeypatch.setattr(batch_size, "memory_limit", lambda: limit)
    objective = registry.abstract_objective(config, initial.shape(config.model)[0])
    found, (note,) = batch_size.autotune_batch_size(config, objective, make_mesh(config.parallel.mesh), most=4096)
    return found, note


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_largest_batch_that_fits_and_no_larger_one(accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small.config(train__batch_size="auto", train__accumulate=accumulate)
    assert config.train.batch_size == AUTO
    limit = 30 * 2**20
    found, note = settled(config, limit, monkeypatch)
    size, unit = found.train.batch_size, 4 * accumulate
    sizes = batch_size.candidates(unit, 4096)
    following = sizes[sizes.index(size) + 1]
    assert unit < size and size % unit == 0
    objective = registry.abstract_objective(found, initial.shape(found.model)[0])
    step = make_session(found, objective, make_mesh(MeshConfig()), total_steps=10)
    # A program of its own, not what the search has noted down.
    assert (batch_size.peak_bytes(step.lower(size).compile()) or 0) <= limit
    assert (batch_size.peak_bytes(step.lower(following).compile()) or 0) > limit
    assert f"batch size auto: {size} rows" in note and f"{following} rows would need" in note


def test_a_number_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small.config(train__batch_size=12)
    objective = registry.abstract_objective(config, initial.shape(config.model)[0])
    assert batch_size.autotune_batch_size(config, objective, make_mesh(MeshConfig()), most=4) == (
        config,
        (),
    )


def test_not_even_one_row_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "_peak_of", lambda lowered: 5.0 * 2**30)
    with pytest.raises(UserError, match=r"batch_size: is auto.*4 rows of 16 tokens.*5\.00 of 4\.00 GiB.*remat.*fsdp"):
        settled(small.config(train__batch_size="auto"), 2**32, monkeypatch)


def test_memory_of_a_cpu_is_shared_by_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size.host_memory, "available", lambda: 8 * 2**30)
    assert batch_size.memory_limit() == 2**30  # half, over 4 devices


def test_a_device_that_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        platform, device_kind = "gpu", "some GPU"

        def __init__(self, stats: dict[str, int] | None):
            self.memory_stats = lambda: stats

    monkeypatch.setattr(jax, "local_devices", lambda: [Device({"bytes_limit": 1000, "bytes_in_use": 100})])
    assert batch_size.memory_limit() == 810
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(None)])
    with pytest.raises(UserError, match="some GPU does not say"):
        batch_size.memory_limit()


@pytest.mark.slow
def test_a_run_keeps_the_batch_it_began_with(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny.config(tmp_path, train__batch_size="auto", train__steps=2, checkpoint__keep_optimizer=True)
    workdir = tmp_path / "run"
    monkeypatch.setattr(batch_size, "memory_limit", lambda: AMPLE)
    first = train(config, workdir)
    said = capsys.readouterr().out
    size = workdirs.read_config(workdir).train.batch_size
    rows = first["training"]["steps"] * size / first["training"]["epochs"]  # that there are
    assert size % 4 == 0 and size <= rows < size * 1.125 + 4  # all fit: as many as there are
    assert f"batch size auto: {size} rows" in said and f"2 steps of {size} rows" in said
    # Half-way again, on a machine that has less memory now: the same command, the same batch.
    monkeypatch.setattr(batch_size, "memory_limit", lambda: pytest.fail("asked again"))
    (workdir / "report.json").unlink()
    again = train(config, workdir)
    assert workdirs.read_config(workdir).train.batch_size == size
    assert again["splits"] == first["splits"]
    # What it found is one of the numbers that may be given; another one is another config.
    assert train(tiny.replaced(config, train__batch_size=size), workdir) == files.read_json(workdir / "report.json")
    with pytest.raises(UserError, match="another config .*train.batch_size"):
        train(tiny.replaced(config, train__batch_size=size + 4), workdir)


def rows_of(each: float) -> Volume:
    return Volume("tokens", 128, 100.0, examples_per_row=each)


@pytest.mark.parametrize(
    ("examples", "a_row", "accumulate", "rows"),
    [(16, 4.4, 1, 4), (16, 1.0, 1, 16), (16, 40.0, 1, 1), (32, 3.0, 1, 11), (16, 4.4, 3, 3), (16, 4.0, 2, 4)],
)
def test_rows_hold_so_many_examples_on_average(examples: int, a_row: float, accumulate: int, rows: int) -> None:
    config = replaced(
        Config(),
        {"train.batch_size": BY_EXAMPLES, "train.batch_examples": examples, "train.accumulate": accumulate},
    )
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    chosen, (note,) = batch_size.batch_of_examples(config, rows_of(a_row), mesh)
    assert chosen.train.batch_size == rows
    assert f"hold{'s' * (rows == 1)} {rows * a_row:.1f} examples on average (train.batch_examples: {examples})" in note


def test_every_device_gets_a_row_and_numbers_stay() -> None:
    config = replaced(Config(), {"train.batch_size": BY_EXAMPLES})
    chosen, _ = batch_size.batch_of_examples(config, rows_of(4.0), make_mesh(MeshConfig(data=4)))
    assert chosen.train.batch_size == 4
    chosen, _ = batch_size.batch_of_examples(config, rows_of(10.0), make_mesh(MeshConfig(data=4)))
    assert chosen.train.batch_size == 4
    fixed = replaced(Config(), {"train.batch_size": 7})
    assert batch_size.batch_of_examples(fixed, rows_of(4.0), make_mesh(MeshConfig(data=1), jax.devices()[:1])) == (
        fixed,
        (),
    )


def test_rows_of_running_text_hold_no_examples() -> None:
    config = replaced(Config(), {"train.batch_size": BY_EXAMPLES})
    with pytest.raises(UserError, match="not made of labelled examples. Give the number of rows, or auto"):
        batch_size.batch_of_examples(config, rows_of(0.0), make_mesh(MeshConfig(data=1), jax.devices()[:1]))

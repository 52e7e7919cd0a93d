"""Checkpoints: what is saved is what is restored, on any mesh, or it is not used."""

import gc
import logging
import pathlib
import shutil
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxfm.config import MeshConfig
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.training.checkpoint import Checkpoints, _is_no_abandoned_read, _WithoutAbandonedReads, array_hashes
from jaxfm.training.state import TrainState

# Where one of Orbax's reads fails, it leaves the others behind unfinished.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

MESHES = ((4, 1, 1), (2, 2, 1), (1, 2, 2))
SPECS = {"kernel": PartitionSpec("fsdp", "tensor"), "bias": PartitionSpec("tensor"), "scale": PartitionSpec()}
SHAPES = {"kernel": (8, 6), "bias": (6,), "scale": (3,)}


@pytest.fixture(autouse=True)
def collect_unfinished_reads() -> Iterator[None]:
    yield
    gc.collect()  # here, where their warnings are ignored, and not in a later test


def mesh_of(sizes: tuple[int, int, int]) -> Mesh:
    return make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])


def state_on(mesh: Mesh, step: int) -> tuple[TrainState, dict[str, jax.Array]]:
    """A state whose numbers depend on the step, with a NaN, an infinity, a denormal and a -0.0 among them."""
    draw = np.random.default_rng(step)

    def values() -> dict[str, jax.Array]:
        made = {name: draw.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
        made["bias"][:4] = (np.nan, np.inf, 1e-40, -0.0)
        return {name: jax.device_put(value, NamedSharding(mesh, SPECS[name])) for name, value in made.items()}

    def whole(value: Any) -> jax.Array:
        return jax.device_put(value, NamedSharding(mesh, PartitionSpec()))

    state = TrainState(
        step=whole(np.int32(step)),
        params={"encoder": values()},
        opt_state=({"mu": values(), "nu": values()}, {"count": whole(np.int32(step))}),
        key=whole(draw.integers(0, 2**32, 2, dtype=np.uint32)),
    )
    return state, {"loss": whole(np.float32([step, 2.0]))}


def abstract(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


def raw(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def save(directory: pathlib.Path, steps: tuple[int, ...], best: int | None = None, keep_last: int = 2) -> None:
    checkpoints = Checkpoints(directory, keep_last=keep_last)
    for step in steps:
        state, sums = state_on(mesh_of((2, 2, 1)), step)
        checkpoints.save(state, sums, {"fingerprint": f"of step {step}"}, keep=(best,) if best else ())
    checkpoints.close()


def restore(directory: pathlib.Path, sizes: tuple[int, int, int] = (2, 2, 1)) -> Any:
    checkpoints = Checkpoints(directory, keep_last=2)
    try:
        return checkpoints.restore_latest(*abstract(state_on(mesh_of(sizes), 0)))
    finally:
        checkpoints.close()


@pytest.mark.parametrize("sizes", [*MESHES, (1, 1, 1)])
def test_a_state_comes_back_bit_for_bit_onto_another_mesh(sizes: tuple[int, int, int], tmp_path: pathlib.Path) -> None:
    save(tmp_path / "run", (5,))
    state, sums, meta = restore(tmp_path / "run", sizes)
    wanted, wanted_sums = state_on(mesh_of(sizes), 5)
    assert raw((state, sums)) == raw((wanted, wanted_sums))
    assert raw(state) != raw(state_on(mesh_of(sizes), 4)[0])
    assert jax.tree.all(jax.tree.map(lambda got, leaf: got.sharding == leaf.sharding, state, wanted))
    assert meta["fingerprint"] == "of step 5"


def test_no_checkpoint_is_no_state(tmp_path: pathlib.Path) -> None:
    assert restore(tmp_path / "run") is None


def test_the_last_and_the_best_are_kept(tmp_path: pathlib.Path) -> None:
    save(tmp_path, (1, 2, 3, 4, 5), best=2)
    checkpoints = Checkpoints(tmp_path, keep_last=2)
    assert checkpoints.steps() == [2, 4, 5]
    params = abstract(state_on(mesh_of((1, 2, 2)), 0)[0].params)
    assert raw(checkpoints.restore_params(2, params)) == raw(state_on(mesh_of((1, 2, 2)), 2)[0].params)
    with pytest.raises(UserError, match="no checkpoint of step 3"):
        checkpoints.restore_params(3, params)
    checkpoints.close()
    save(tmp_path, (6,), best=5, keep_last=1)  # the best of before is no longer needed
    checkpoints = Checkpoints(tmp_path, keep_last=1, read_only=True)
    assert checkpoints.steps() == [5, 6]
    checkpoints.close()


def test_hashes_are_the_same_on_any_mesh() -> None:
    wanted = array_hashes(state_on(mesh_of((1, 1, 1)), 3)[0])
    assert set(wanted) >= {"params/encoder/kernel", "params/encoder/bias", "step", "key"}
    for sizes in MESHES:
        assert array_hashes(state_on(mesh_of(sizes), 3)[0]) == wanted
    # Other contents, other hashes; only `step` and the optimizer's count hold the same number.
    assert len(set(wanted.values())) == len(wanted) - 1


def test_hashes_tell_one_flipped_bit_and_two_swapped_elements() -> None:
    draw = np.random.default_rng(0)
    value = draw.standard_normal((16, 12)).astype(np.float32)

    def hash_of(value: np.ndarray) -> int:
        return array_hashes({"value": jnp.asarray(value)})["value"]

    wanted = hash_of(value)
    for _ in range(100):
        place, bit = draw.integers(value.size), draw.integers(32)
        bits = value.copy().view(np.uint32)
        bits.flat[place] ^= np.uint32(1 << int(bit))
        assert hash_of(bits.view(np.float32)) != wanted, (place, bit)
        one, two = draw.choice(value.size, 2, replace=False)
        swapped = value.copy()
        swapped.flat[[one, two]] = swapped.flat[[two, one]]
        assert hash_of(swapped) != wanted, (one, two)
    assert hash_of(np.float32([0.0])) != hash_of(np.float32([-0.0]))
    assert hash_of(value.T.copy()) != wanted


def files_of(directory: pathlib.Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("saved")
    save(directory, (1, 2))
    return directory


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 3, 2 * len(content) // 3 + 1):
        content[place] ^= 0xFF
    path.write_bytes(content)


def flip_last_bit(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damaged(saved: pathlib.Path, folder: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """Copies of the two checkpoints with one file of the newer one damaged, each file in each way."""
    for name in files_of(saved / "2"):
        for damage in (flip, flip_last_bit, truncate, pathlib.Path.unlink):
            copy = folder / "copy"
            shutil.copytree(saved, copy)
            if (copy / "2" / name).stat().st_size:
                damage(copy / "2" / name)
                yield f"{damage.__name__} {name}", copy
            shutil.rmtree(copy)


def test_damaged_files_never_come_back_as_a_state(
    saved: pathlib.Path, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever byte of the newest checkpoint is wrong: either its state is whole, or the one before is taken."""
    wanted = {step: raw(state_on(mesh_of((2, 2, 1)), step)) for step in (1, 2)}
    fell_back = set()
    for what, copy in damaged(saved, tmp_path):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="jaxfm"):
            state, sums, meta = restore(copy)
        step = int(state.step)
        assert raw((state, sums)) == wanted[step], what
        assert meta["fingerprint"] == f"of step {step}", what
        if step == 1:
            fell_back.add(what)
            (record,) = [record for record in caplog.records if record.name.startswith("jaxfm")]
            assert f"{copy / '2'}:" in record.getMessage() and "checkpoint before" in record.getMessage()
            assert (copy / "damaged" / "2").is_dir() and not (copy / "2").exists(), what
    data = {what for what in fell_back if "/d/" in what}
    assert len(data) >= 8 and {what.split()[0] for what in data} == {"flip", "flip_last_bit", "truncate", "unlink"}


def test_without_a_whole_checkpoint_the_user_is_told(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    for step in ("1", "2"):
        for name in files_of(copy / step):
            if "/d/" in name:
                flip(copy / step / name)
    with pytest.raises(UserError, match=r"none of the checkpoints \[1, 2\] is whole"):
        restore(copy)


def test_a_damaged_checkpoint_is_one_line_and_details_are_asked_for(
    saved: pathlib.Path,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def restore_damaged(name: str) -> pathlib.Path:
        caplog.clear()
        copy = tmp_path / name
        shutil.copytree(saved, copy)
        flip(copy / "2" / "params" / "manifest.ocdbt")
        (copy / "2" / "_CHECKPOINT_METADATA").write_text('{"item')  # Orbax logs that as an error
        restore(copy)
        return copy

    copy = restore_damaged("copy")
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage() == (
        f"{copy / '2'}: the checkpoint cannot be read (data loss: {copy / '2' / 'params' / 'manifest.ocdbt'}). It is "
        f"set aside, in {copy / 'damaged' / '2'}; the checkpoint before, of step 1, is taken."
    )
    time.sleep(0.2)  # for the reads that were given up
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err
    monkeypatch.setenv("JAXFM_DEBUG", "1")
    restore_damaged("other")
    assert any(record.exc_info for record in caplog.records if record.name.startswith("jaxfm"))
    shutil.copytree(saved, tmp_path / "third")
    copy = tmp_path / "third"
    checkpoints = Checkpoints(copy, read_only=True)
    truncate(copy / "2" / "meta" / "metadata")
    with pytest.raises(UserError, match=r"third/2: the checkpoint cannot be read \("):
        checkpoints.meta(2)
    checkpoints.close()


def test_a_checkpoint_that_was_copied_in_part_is_told_by_its_manifest(
    saved: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def reason(damage: Callable[[pathlib.Path], None]) -> str:
        copy = tmp_path / damage.__name__
        shutil.copytree(saved / "2", copy / "2")
        path = next(copy / "2" / name for name in files_of(copy / "2") if name.startswith("params/d/"))
        damage(path)
        with pytest.raises(UserError) as error:
            restore(copy)
        assert f"({path}: " in str(error.value)
        return str(error.value)

    assert "no such file, but manifest.json has it with" in reason(pathlib.Path.unlink)
    assert "bytes, not the" in reason(truncate)


def test_what_is_set_aside_replaces_nothing(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for number in range(2):
        shutil.copytree(saved / "2", tmp_path / "2", dirs_exist_ok=True)
        (tmp_path / "2" / "number").write_text(str(number))
        checkpoints = Checkpoints(tmp_path)
        assert checkpoints.set_aside(2).is_dir() and checkpoints.steps() == []
        checkpoints.close()
    assert [(tmp_path / "damaged" / name / "number").read_text() for name in ("2", "2.1")] == ["0", "1"]


def test_weights_alone_and_checkpoints_of_before_have_no_full_manifest(
    saved: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "2" / "rest")
    (tmp_path / "1" / "manifest.json").unlink()
    checkpoints = Checkpoints(tmp_path, read_only=True)
    for step in (1, 2):
        wanted = state_on(mesh_of((2, 2, 1)), step)[0].params
        assert raw(checkpoints.restore_params(step, abstract(wanted))) == raw(wanted)
    checkpoints.close()


def test_other_news_of_threads_still_come_through() -> None:
    said: list[str] = []
    hook = _WithoutAbandonedReads(lambda unraisable: said.append(str(unraisable.exc_value)))
    for error in (RuntimeError("Event loop is closed"), RuntimeError("other"), ValueError("Event loop is closed")):
        hook(types.SimpleNamespace(exc_value=error, object=None))
    assert said == ["other", "Event loop is closed"]

    # Reads of Orbax, by the file of their code, are dropped whatever they raise; other coroutines are not.
    for file, count in ((ocp.__file__, 2), (__file__, 3)):
        code = types.SimpleNamespace(co_filename=file)
        hook(types.SimpleNamespace(exc_value=Exception("a read"), object=types.SimpleNamespace(cr_code=code)))
        assert len(said) == count
    for text, kept in (("Future exception was never retrieved", True), ("Future ... TensorStore({'base'", False)):
        assert _is_no_abandoned_read(logging.LogRecord("asyncio", logging.ERROR, "", 0, text, (), None)) == kept

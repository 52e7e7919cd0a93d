import importlib.util
from types import SimpleNamespace

import pytest
from jax.experimental import topologies

from jaxfm.errors import UserError
from jaxfm.parallel.chips import CHIPS
from jaxfm.parallel.target import Target
from jaxfm.planning import hardware
from jaxfm.planning.hardware import SLICES, describe_devices, device_locations, parse_topology, target_of


@pytest.mark.parametrize(
    ("name", "slices", "chip", "shape", "size"),
    [
        ("v5e:16x16", 1, "v5e", (16, 16), 256),
        ("v5e:16x16", 2, "v5e", (16, 16), 512),
        ("v5p:4x4x8", 1, "v5p", (4, 4, 8), 128),
        ("gpu:h100:16", 1, "h100", (16,), 16),
        ("gpu:a100:4", 1, "a100", (4,), 4),
    ],
)
def test_names_are_read(name: str, slices: int, chip: str, shape: tuple[int, ...], size: int) -> None:
    topology = parse_topology(name, slices)
    assert (topology.chip.name, topology.shape, topology.size) == (chip, shape, size)


@pytest.mark.parametrize("name", ["v5e:3x5", "v5e", "v9:2x2", "tpu", "", "v5e:16x16x16", "v5p:2x2"])
def test_an_unknown_topology_lists_those_there_are(name: str) -> None:
    with pytest.raises(UserError) as error:
        parse_topology(name)
    message = str(error.value)
    assert f"--topology={name}:" in message
    assert all(f"{family}:{shape}" in message for family, shapes in SLICES.items() for shape in shapes)
    assert "gpu:h100:COUNT" in message


@pytest.mark.parametrize(
    ("name", "slices", "words"),
    [
        ("gpu:h10:8", 1, "h100"),
        ("gpu:h100:12", 1, "nodes of 8"),
        ("gpu:h100:0", 1, "nodes of 8"),
        ("gpu:h100:16", 2, "no slices"),
        ("v5e:4x4", 0, "at least 1"),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, slices: int, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_topology(name, slices)


def test_every_slice_of_the_list_is_read() -> None:
    for family, shapes in SLICES.items():
        for shape in shapes:
            assert parse_topology(f"{family}:{shape}").chip is CHIPS[family]


@pytest.mark.parametrize(
    ("name", "wraps"),
    [
        ("v5e:16x16", (True, True)),
        ("v5e:8x16", (False, True)),
        ("v5e:4x4", (False, False)),
        ("v5p:4x4x8", (True, True, True)),
        ("v5p:2x4x4", (False, False, False)),
    ],
)
def test_which_axes_of_a_torus_close(name: str, wraps: tuple[bool, ...]) -> None:
    assert parse_topology(name).wraps == wraps


def test_without_the_compiler_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jaxfm-encoders\[tpu\]'"):
        describe_devices(parse_topology("v5e:2x2"))


needs_gpu_compiler = pytest.mark.skipif(
    not hardware.has_gpu_compiler(), reason="XLA for GPUs (the extra cuda) is not installed"
)


def test_gpus_need_as_many_devices_to_stand_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_gpu_compiler", lambda: False)
    assert len(describe_devices(parse_topology("gpu:h100:4"))) == 4
    with pytest.raises(UserError, match="device_count=16"):
        describe_devices(parse_topology("gpu:h100:16"))


def test_gpus_lie_in_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_gpu_compiler", lambda: False)
    topology = parse_topology("gpu:h100:4")
    assert [location.slice for location in device_locations(describe_devices(topology), topology)] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("name", "shape", "facts"),
    [
        ("gpu:h200:16", "1x2x8", ("core_count: 132", "major: 9 minor: 0", "device_memory_size: 141000000000")),
        ("gpu:a100:4", "1x1x4", ("core_count: 108", "major: 8 minor: 0", "shared_memory_per_block_optin: 166912")),
    ],
)
def test_the_compiler_is_told_of_gpus(
    name: str, shape: str, facts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {}

    def describe(**options: str) -> SimpleNamespace:
        told.update(options)
        return SimpleNamespace(devices=[object()] * parse_topology(name).size)

    monkeypatch.setattr(hardware, "has_gpu_compiler", lambda: True)
    monkeypatch.setattr(topologies, "get_topology_desc", describe)
    describe_devices(parse_topology(name))
    assert told["platform"] == "cuda" and told["topology"] == shape
    assert all(fact in told["target_config"] for fact in facts)
    assert target_of(parse_topology(name)) == Target("gpu", (9, 0) if "h200" in name else (8, 0))


def test_without_their_compiler_gpus_are_traced_for_with_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_gpu_compiler", lambda: False)
    assert target_of(parse_topology("gpu:h100:8")) == Target("gpu")
    assert target_of(parse_topology("v5e:2x2")) == Target("tpu")


@needs_gpu_compiler
@pytest.mark.parametrize("name", ["gpu:a100:1", "gpu:h100:16", "gpu:h200:8"])
def test_gpus_are_described_as_the_compiler_sees_them(name: str) -> None:
    topology = parse_topology(name)
    devices = describe_devices(topology)
    locations = device_locations(devices, topology)
    assert len(set((each.slice, each.coordinates) for each in locations)) == topology.size
    assert [each.slice for each in locations] == [device.process_index for device in devices]
    major, minor = target_of(topology).cuda_capability or (0, 0)
    assert devices[0].compute_capability == f"{major}.{minor}"


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu (the extra tpu) is not installed")
@pytest.mark.parametrize(("name", "slices"), [("v4:2x2x2", 1), ("v5e:4x4", 2), ("v5p:2x2x1", 1), ("v6e:16x16", 1)])
def test_devices_are_described_as_the_table_says(name: str, slices: int) -> None:
    topology = parse_topology(name, slices)
    locations = device_locations(describe_devices(topology), topology)
    assert len(locations) == topology.size == len(set((each.slice, each.coordinates) for each in locations))
    assert {each.slice for each in locations} == set(range(slices))
    corner = tuple(max(each.coordinates[axis] for each in locations) + 1 for axis in range(len(topology.shape)))
    assert corner == topology.shape

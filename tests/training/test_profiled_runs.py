"""What a run says of its speed, and the recording of some of its steps."""

import json
import pathlib
from typing import Any

import jax
import pytest

from jaxfm.analysis import traces
from jaxfm.analysis.profiling import StepProfile, parse_steps
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.observe.wall_clock import WallClock
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel import chips
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from tests import tiny

pytestmark = pytest.mark.slow

STEPS = (3, 5)
BASE = {"train__steps": 6, "log__every_steps": 1, "eval__every_steps": 6}
# What depends on the clock and on whether a peak is known.
OF_SPEED = ("useful_tokens_per_second", "mfu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("profiled")


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    return tiny.config(folder, **BASE)


@pytest.fixture(scope="module")
def plain(config: Config, folder: pathlib.Path) -> pathlib.Path:
    train(config, folder / "plain")
    return folder / "plain"


@pytest.fixture(scope="module")
def profiled(config: Config, folder: pathlib.Path) -> tuple[pathlib.Path, str]:
    """A run that is recorded, on a device that passes for an H200; its folder and what it said."""
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setitem(chips._KINDS, jax.devices()[0].device_kind, "h200")
        patch.setattr(Progress, "say", lambda self, text: said.append(text))
        train(tiny.replaced(config, profile__steps=f"{STEPS[0]}:{STEPS[1]}"), folder / "profiled")
    return folder / "profiled", "\n".join(said)


def curve(workdir: pathlib.Path) -> list[dict[str, Any]]:
    lines = read_metrics(workdir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in OF_SPEED} for line in lines]


def test_a_recording_changes_nothing(plain: pathlib.Path, profiled: tuple[pathlib.Path, str]) -> None:
    assert curve(profiled[0]) == curve(plain)
    assert len(curve(plain)) == 7
    assert not (plain / "profile").exists()


def test_a_recording_holds_these_steps_and_no_others(profiled: tuple[pathlib.Path, str]) -> None:
    workdir, said = profiled
    (file,) = (workdir / "profile").rglob("*.xplane.pb")
    assert str(file) in said and f"xprof --logdir={workdir / 'profile'}" in said
    counts: dict[tuple[str, str], int] = {}
    for event in traces.read_trace(file).events:
        if event.program == "jit_train_step":
            counts[event.device, event.name] = counts.get((event.device, event.name), 0) + 1
    assert len({device for device, _ in counts}) == jax.device_count()
    # Every instruction outside loops runs once a step and device, and these are the most.
    assert sorted(counts.values())[len(counts) // 2] == STEPS[1] - STEPS[0]
    marks = [
        dict(event.stats)["step_num"]
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    assert marks == [3, 4]
    assert list(file.parent.glob("*.trace.json.gz"))


def test_the_time_of_a_recording_is_told_apart(profiled: tuple[pathlib.Path, str], plain: pathlib.Path) -> None:
    spent = [json.loads((each / "report.json").read_text())["training"]["goodput"] for each in (profiled[0], plain)]
    assert spent[0]["profile"] > 0 and spent[1]["profile"] == 0


def test_mfu_is_the_formula_over_the_peak(config: Config, profiled: tuple[pathlib.Path, str]) -> None:
    task, _ = registry.create(config, resolve(config.model))
    of_row = task.objective.flops_per_row(config.adapt)
    of_token = of_row / config.data.row_length / (989.4e12 * jax.device_count())
    lines = [line for line in read_metrics(profiled[0] / "metrics.jsonl") if line["split"] == "train"]
    for line in lines:
        assert line["mfu"] == pytest.approx(line["useful_tokens_per_second"] * of_token, rel=1e-6)
    training = json.loads((profiled[0] / "report.json").read_text())["training"]
    assert training["mfu"] == pytest.approx(training["useful_tokens_per_second"] * of_token, rel=1e-6)
    assert "(MFU)" in (profiled[0] / "report.md").read_text()


def test_without_a_known_peak_there_is_no_mfu(plain: pathlib.Path) -> None:
    assert not any("mfu" in line for line in read_metrics(plain / "metrics.jsonl"))
    assert "mfu" not in json.loads((plain / "report.json").read_text())["training"]
    assert "MFU" not in (plain / "report.md").read_text()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("10", "START:STOP"),
        ("10-15", "START:STOP"),
        ("-1:5", "START:STOP"),
        ("1:2:3", "START:STOP"),
        (" 1:2", "START:STOP"),
        ("5:5", "greater than START"),
        ("6:5", "greater than START"),
        ("0:21", "the run has 20 updates"),
    ],
)
def test_other_steps_are_refused(text: str, rule: str) -> None:
    with pytest.raises(UserError, match=rule) as error:
        parse_steps(text, 20)
    assert str(error.value).startswith("config.profile.steps: ") and repr(text) in str(error.value)


def test_steps_are_read() -> None:
    assert parse_steps("", 20) == range(0)
    assert parse_steps("0:20", 20) == range(20)
    assert parse_steps("10:15", 20) == range(10, 15)


def test_a_refused_run_leaves_nothing_behind(config: Config, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="config.profile.steps"):
        train(tiny.replaced(config, profile__steps="4:7"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def run(steps: range, first: int, last: int, folder: pathlib.Path, *, stopped_at: int | None = None) -> str:
    """Runs updates first .. last - 1 of something small; returns what was said."""
    said: list[str] = []
    state = jax.numpy.zeros(())
    compiled = jax.jit(lambda x: x + 1).lower(state).compile()
    text = compiled.as_text() or ""
    with Progress(last) as progress, pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "say", said.append)
        patch.setattr(progress, "table", lambda table: said.append(table.title))
        with StepProfile(steps, first, folder, lambda: text, progress=progress, wall_clock=WallClock()) as profile:
            for step in range(first, last):
                if step == stopped_at:
                    break
                state = compiled(state)
                profile.after(step + 1, state)
    return "\n".join(said)


@pytest.mark.parametrize("steps", [range(0, 2), range(2, 4), range(0, 4)])
def test_the_first_and_the_last_update_can_be_recorded(steps: range, tmp_path: pathlib.Path) -> None:
    assert f"mean of {len(steps)} steps" in run(steps, 0, 4, tmp_path)


def test_a_run_that_goes_on(tmp_path: pathlib.Path) -> None:
    assert "the run goes on from 5, nothing is recorded" in run(range(2, 4), 5, 8, tmp_path / "behind")
    assert not (tmp_path / "behind").exists()
    assert "mean of 1 steps" in run(range(2, 4), 3, 8, tmp_path / "within")


def test_a_run_that_is_stopped_ends_its_recording(tmp_path: pathlib.Path) -> None:
    assert "cut short" in run(range(1, 6), 0, 8, tmp_path, stopped_at=3)
    assert "mean of 2 steps" in run(range(1, 3), 0, 8, tmp_path)  # another one can be made

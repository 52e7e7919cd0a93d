"""Several runs in one program: each is the run that its config gives alone, and all go on where they were stopped."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.models.kernels import KERNELS
from jaxfm.observe.shown import Report
from jaxfm.observe.writers import to_json
from jaxfm.parallel.mesh import make_mesh
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.tasks.ner.objective import NerObjective
from jaxfm.tasks.ner.scorer import NerScorer
from jaxfm.training import grid, stepping
from jaxfm.training import several as several_runs
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.initial import resolve
from tests import tiny
from tests.training.whole_run import BASE, COMPILES, CrashError, crash, lines, terminate

RATES = (0.01, 0.003)
NAMES = ("seed0_rate0.01", "seed1_rate0.01", "seed0_rate0.003", "seed1_rate0.003")
# Losses of a run among others and of the same run alone: what rounding in another order comes to in 12 updates.
RTOL = 1e-5


@dataclasses.dataclass
class Several:
    """Runs that nothing stopped: what they saved (folder, step -> bytes), and how often the step was traced."""

    workdir: pathlib.Path
    report: Report
    saved: dict[tuple[str, int], bytes]
    traces: int
    compiled: int


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Of one run: dropout, packed rows, accumulation, a LoRA, and an average of the weights."""
    folder = tmp_path_factory.mktemp("several")
    return tiny.config(folder, **BASE, adapt__lora__rank=2, adapt__ema=0.9, optim__weight_decay=0.1)


@pytest.fixture(scope="module")
def config(alone: Config) -> Config:
    return tiny.replaced(alone, train__seeds=2, train__learning_rates=RATES)


@pytest.fixture(scope="module")
def several(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Several]:
    traces = programs = 0
    plain = NerObjective.loss

    def loss(*arguments: Any) -> Any:
        nonlocal traces
        traces += 1
        return plain(*arguments)

    def count(event: str, duration_secs: float, **_: Any) -> None:
        nonlocal programs
        programs += event == COMPILES

    with pytest.MonkeyPatch.context() as patch:
        saved, counts = record(patch), list[int]()
        patch.setattr(NerObjective, "loss", loss)
        compile_step = stepping.StackedRuns.compiled

        def compiled(self: stepping.StackedRuns, size: int) -> Any:
            before = programs
            result = compile_step(self, size)
            counts.append(programs - before)
            return result

        patch.setattr(stepping.StackedRuns, "compiled", compiled)
        jax.monitoring.register_event_duration_secs_listener(count)
        workdir = tmp_path_factory.mktemp("whole") / "runs"
        report = train(config, workdir)
        jax.monitoring.unregister_event_duration_listener(count)
    yield Several(workdir, report, saved, traces, sum(counts))


def record(patch: pytest.MonkeyPatch) -> dict[tuple[str, int], bytes]:
    """Returns a dict that fills with the bytes of every state that is saved, by folder and step."""
    saved: dict[tuple[str, int], bytes] = {}
    plain = Checkpoints.save

    def save(self: Checkpoints, state: Any, sums: Any, meta: Any, *, keep: Any) -> None:
        leaves = jax.tree.leaves((state, sums))
        where = (self._directory.parent.name, int(state.step))
        saved[where] = b"".join(np.asarray(leaf).tobytes() for leaf in leaves)
        plain(self, state, sums, meta, keep=keep)

    patch.setattr(Checkpoints, "save", save)
    return saved


def at_update(patch: pytest.MonkeyPatch, step: int, action: Callable[[], Any], first: int = 0) -> None:
    """Has `action` called before update `step`; `first` are done before."""
    done, plain = first, stepping.StackedRuns.shard

    def shard(self: stepping.StackedRuns, batches: Any) -> Any:
        nonlocal done
        done += 1
        if done == step:
            action()
        return plain(self, batches)

    patch.setattr(stepping.StackedRuns, "shard", shard)


def own_config(config: Config, name: str) -> Config:
    return next(run.config for run in grid.runs_of(config) if run.name == name)


@pytest.mark.parametrize("name", ["seed1_rate0.003", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES)])
def test_each_run_is_the_one_that_its_config_gives_alone(
    several: Several, config: Config, alone: Config, tmp_path: pathlib.Path, name: str
) -> None:
    rate = float(name.partition("rate")[2])
    own = tiny.replaced(alone, seed=int(name[4]), optim__learning_rate=rate)
    report = train(own, tmp_path / name)
    workdir = several.workdir / name
    assert own == own_config(config, name)
    files = [json.loads((folder / "config.json").read_text()) for folder in (workdir, tmp_path / name)]
    assert files[0] == files[1]
    for ours, theirs in zip(lines(workdir), lines(tmp_path / name), strict=True):
        assert ours.pop("split") == theirs.pop("split")
        assert ours == pytest.approx(theirs, rel=RTOL)
    ours = json.loads((workdir / "report.json").read_text())
    assert ours["data"] == report["data"] and ours["training"]["chosen_step"] == report["training"]["chosen_step"]
    for split in ("valid", "test"):
        assert ours["splits"][split]["loss"] == pytest.approx(report["splits"][split]["loss"], rel=RTOL)

    def parts(folder: pathlib.Path) -> set[str]:
        """What it holds; names of event files and of arrays' files have times and hashes."""
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        return {each for each in found if "events" not in each and "/d/" not in each}

    assert parts(workdir) == parts(tmp_path / name)


def test_one_step_is_compiled_for_all(several: Several) -> None:
    assert several.compiled == 1
    # For shapes of the metrics, and for the step: no more for four runs than for one.
    assert several.traces <= 3


def test_seeds_and_rates_differ_and_the_table_has_all(several: Several) -> None:
    report = several.report
    assert list(report["settings"]) == ["rate0.01", "rate0.003"]
    assert report["seeds"] == [0, 1] and set(report["runs"]) == {"0", "1"}
    last = {several.saved[name, 12] for name in NAMES}
    assert len(last) == 4
    best = report["setting"]
    means = {name: each["splits"]["valid"]["f1"]["mean"] for name, each in report["settings"].items()}
    assert means[best] == max(means.values())
    other = next(name for name in means if name != best)
    test = report["comparisons"][other]["test"]
    assert test["a"] == best and test["count"] == 2 and test["metrics"]["f1"]["least_p"] >= 0.5  # two seeds
    assert json.loads((several.workdir / "seeds.json").read_text()) == to_json(report)
    text = (several.workdir / "seeds.md").read_text()
    assert f"p against {best}" in text and all(f"({name}/report.md)" in text for name in NAMES)
    assert "best of 2 settings by valid" in repr(report)


def test_a_run_is_scored_as_any_other(several: Several) -> None:
    own = json.loads((several.workdir / NAMES[1] / "report.json").read_text())
    assert evaluate(several.workdir / NAMES[1], "test").metrics["loss"] == own["splits"]["test"]["loss"]
    assert own["seed"] == 1


def test_stopped_runs_go_on_to_the_same_end(
    several: Several, config: Config, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "runs"
    with pytest.MonkeyPatch.context() as patch:
        saved = record(patch)
        with pytest.MonkeyPatch.context() as stop:
            at_update(stop, 7, terminate)
            with pytest.raises(Preempted):
                train(config, workdir)
        assert {step for _, step in saved} == {5, 7}
        with pytest.MonkeyPatch.context() as stop:  # between the saves of two runs
            plain, calls = Checkpoints.save, 0

            def save(self: Checkpoints, *arguments: Any, **more: Any) -> None:
                nonlocal calls
                calls += 1
                if calls == 3:
                    crash()
                plain(self, *arguments, **more)

            stop.setattr(Checkpoints, "save", save)
            with pytest.raises(CrashError):
                train(config, workdir)
        assert not (workdir / "seeds.json").exists()
        capsys.readouterr()
        report = train(config, workdir)
        assert "resuming after step 7 of 12" in capsys.readouterr().out
    for name in NAMES:
        assert saved[name, 12] == several.saved[name, 12]
        assert lines(workdir / name) == lines(several.workdir / name)
        assert (workdir / name / "predictions" / "test.jsonl").read_bytes() == (
            several.workdir / name / "predictions" / "test.jsonl"
        ).read_bytes()
    assert report["splits"] == several.report["splits"]
    # Once more: all are finished, and nothing is done but the table.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxfm.programs.train._train", lambda *_: pytest.fail("something was trained"))
        assert train(config, workdir)["splits"] == report["splits"]


@pytest.mark.slow
def test_a_damaged_checkpoint_of_one_run_sends_all_back(
    several: Several, config: Config, tmp_path: pathlib.Path
) -> None:
    workdir = tmp_path / "runs"
    with pytest.MonkeyPatch.context() as patch:
        at_update(patch, 11, crash)
        with pytest.raises(CrashError):
            train(config, workdir)
    for path in (workdir / NAMES[2] / "checkpoints" / "10" / "params").rglob("*"):
        if path.is_file() and "/d/" in path.as_posix():
            path.write_bytes(b"x" + path.read_bytes()[1:])
    with pytest.MonkeyPatch.context() as patch:
        saved = record(patch)
        train(config, workdir)
    assert min(step for _, step in saved) == 10  # done again from 5 on
    assert all(saved[name, 12] == several.saved[name, 12] for name in NAMES)


def scripted(patch: pytest.MonkeyPatch, of_runs: dict[int, dict[int, float]], first: list[int]) -> None:
    """Has validations give F1 of (run, step): the runs are scored in turns while they go on."""
    plain = NerScorer.metrics
    order = iter(first)

    def metrics(self: NerScorer, outputs: Any) -> Any:
        coded = next(order)
        return {**plain(self, outputs), "f1": of_runs[coded // 100][coded % 100]}

    patch.setattr(NerScorer, "metrics", metrics)


@pytest.mark.parametrize("stopped", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_run_that_gives_up_leaves_the_others_alone(alone: Config, tmp_path: pathlib.Path, stopped: bool) -> None:
    config = tiny.replaced(alone, train__seeds=2, eval__every_steps=2, eval__patience=2, eval__metric="f1")
    values = {0: {2: 0.5, 4: 0.4, 6: 0.3}, 1: {2: 0.1, 4: 0.2, 6: 0.3, 8: 0.4, 10: 0.2, 12: 0.5}}
    workdir = tmp_path / "runs"
    turns = [2, 102, 4, 104, 6, 106, 108, 110, 112]
    with pytest.MonkeyPatch.context() as patch:
        scripted(patch, values, turns)
        if stopped:
            with pytest.MonkeyPatch.context() as stop:
                at_update(stop, 10, crash)
                with pytest.raises(CrashError):
                    train(config, workdir)
            scripted(patch, values, [110, 112])  # from 8 on, of the one that goes on
        train(config, workdir)
    steps = {
        run: [line["step"] for line in lines(workdir / f"seed{run}") if line["split"] == "valid"] for run in (0, 1)
    }
    assert steps == {run: sorted(of) for run, of in values.items()}
    reports = [json.loads((workdir / f"seed{run}" / "report.json").read_text())["training"] for run in (0, 1)]
    assert [(each["steps"], each["chosen_step"]) for each in reports] == [(6, 2), (12, 12)]
    assert [line["step"] for line in lines(workdir / "seed0") if line["split"] == "train"] == [4]


@pytest.mark.slow
def test_growing_batches_and_a_spike_guard(alone: Config, tmp_path: pathlib.Path) -> None:
    own = tiny.replaced(
        alone,
        adapt__lora__rank=0,
        adapt__average_best=2,
        adapt__unfreeze_every=1,
        eval__first=True,
        optim__spike_factor=3.0,
        optim__spike_window=8,
        train__accumulate=1,
        train__first_batch_size=4,
        train__batch_warmup_steps=4,
    )
    train(tiny.replaced(own, train__seeds=2, train__weight_decays=(0.0, 0.3)), tmp_path / "runs")
    train(tiny.replaced(own, seed=1, optim__weight_decay=0.3), tmp_path / "alone")
    both = [lines(folder) for folder in (tmp_path / "runs" / "seed1_decay0.3", tmp_path / "alone")]
    for ours, theirs in zip(*both, strict=True):
        assert ours.pop("split") == theirs.pop("split")
        assert ours == pytest.approx(theirs, rel=RTOL)


@pytest.mark.slow
def test_a_run_that_gives_up_between_evaluations_is_found_ended(alone: Config, tmp_path: pathlib.Path) -> None:
    config = tiny.replaced(
        alone,
        train__seeds=2,
        train__steps=0,
        train__epochs=3.0,
        train__min_steps=5,
        eval__every_steps=2,
        eval__patience=1,
        eval__metric="f1",
    )
    values = {0: {2: 0.5, 4: 0.4}, 1: {2: 0.1, 4: 0.2, 6: 0.3, 8: 0.4, 10: 0.5, 12: 0.6}}
    workdir = tmp_path / "runs"
    with pytest.MonkeyPatch.context() as patch:
        saved = record(patch)
        scripted(patch, values, [2, 102, 4, 104, 106, 108])
        at_update(patch, 9, crash)
        with pytest.raises(CrashError):
            train(config, workdir)
        assert [step for name, step in saved if name == "seed0"] == [2, 4, 5]
    with pytest.MonkeyPatch.context() as patch:
        saved = record(patch)
        scripted(patch, values, [110, 112])
        train(config, workdir)
        assert {name for name, _ in saved} == {"seed1"} and min(step for _, step in saved) == 10
    reports = [json.loads((workdir / f"seed{run}" / "report.json").read_text())["training"] for run in (0, 1)]
    assert [(each["steps"], each["chosen_step"]) for each in reports] == [(5, 2), (12, 12)]


def test_a_run_that_diverges_says_which_it_is(alone: Config, tmp_path: pathlib.Path) -> None:
    values = {"train__stop_after_skips": 2, "log__every_steps": 2}
    config = tiny.replaced(alone, **values, train__learning_rates=(1e-3, 1e18), adapt__ema=0.0, optim__clip_norm=0.0)
    with pytest.raises(UserError, match=r"seed0_rate1e\+18: training diverged: .* goes on with the other"):
        train(config, tmp_path / "runs")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train__learning_rates": (0.0,)}, r"config\.train\.learning_rates: is \(0\.0,\), but each must be above 0"),
        ({"train__weight_decays": (-0.1,)}, r"weight_decays: is \(-0\.1,\), but each must be at least 0"),
        ({"train__learning_rates": (1e-3, 1e-3)}, "0.001 is given twice"),
        ({"train__verify_every_steps": 2}, "cannot have config.train.verify_every_steps=2. Set it to 0"),
        ({"train__batch_size": 0}, "cannot have config.train.batch_size=auto. Give the rows"),
        ({"profile__steps": "1:3"}, "cannot have config.profile.steps=1:3. Record"),
        ({"checkpoint__mirror": "gs://a/b"}, "cannot have config.checkpoint.mirror=gs://a/b. Leave it empty"),
        ({"checkpoint__keep_last": 1}, "cannot have config.checkpoint.keep_last=1. Keep 2"),
        ({"train__batch_size": 7}, "config.train.batch_size: 7 rows cannot be divided"),
    ],
)
def test_what_cannot_be_stacked_is_refused_before_anything_is_written(
    alone: Config, tmp_path: pathlib.Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny.replaced(alone, train__seeds=2, **values), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_tracker_and_several_processes_are_refused(alone: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    several = tiny.replaced(alone, train__seeds=2)
    with pytest.raises(
        UserError, match=r"config\.train\.seeds: several runs .* cannot have config\.log\.tracker=wandb"
    ):
        grid.runs_of(tiny.replaced(several, log__tracker="wandb"))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match=r"cannot have 2 processes of a run\. Start one"):
        grid.runs_of(several)


def test_runs_of_other_lengths_are_refused(
    alone: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def updates(config: Config, batches: Any) -> tuple[int, tuple[str, ...]]:
        return 10 + config.seed, ()

    monkeypatch.setattr("jaxfm.training.setup.count_updates", updates)
    message = "seed0 has 10 updates and seed1 has 11 updates. .* --config.train.steps=11"
    with pytest.raises(UserError, match=message):
        train(tiny.replaced(alone, train__seeds=2), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_is_a_run_is_refused(alone: Config, tmp_path: pathlib.Path) -> None:
    workdirs.write_config(tmp_path, alone)
    with pytest.raises(UserError, match="holds a run itself"):
        train(tiny.replaced(alone, train__seeds=2), tmp_path)


def test_one_seed_is_an_ordinary_run(alone: Config) -> None:
    (only,) = grid.runs_of(alone)
    assert only.name == "" and only.config is alone
    names = [run.name for run in grid.runs_of(tiny.replaced(alone, train__weight_decays=(0.0, 0.01), seed=3))]
    assert names == ["seed3_decay0", "seed3_decay0.01"]
    assert math.isclose(
        grid.runs_of(tiny.replaced(alone, train__weight_decays=(0.2,)))[0].config.optim.weight_decay, 0.2
    )


@pytest.mark.parametrize("packed", [True, False])
def test_a_kernel_with_a_mask_is_refused(alone: Config, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    config = tiny.replaced(alone, data__packed=packed, model__dropout=0.0)
    task, _ = registry.create(config, resolve(config.model))
    kernel = dataclasses.replace(KERNELS["cudnn"], platforms=("cpu",), unsupported_reason=lambda problem: None)
    monkeypatch.setitem(KERNELS, "cudnn", kernel)
    mesh = make_mesh(config.parallel.mesh)
    if packed:
        with pytest.raises(UserError, match=r"config\.model\.attention: the kernel 'cudnn' needs a mask .* 'xla'"):
            several_runs._check_kernels(config, task.objective, mesh)
    else:
        several_runs._check_kernels(config, task.objective, mesh)

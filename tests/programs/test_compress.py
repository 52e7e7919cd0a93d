"""The best smaller form of a run: what is tried, in which order, what is written, and what is refused."""

import json
import pathlib
from typing import Any

import pytest

from jaxfm.errors import UserError
from jaxfm.planning.targets import Target, read_targets
from jaxfm.programs import compress as program
from jaxfm.programs import compress_forms
from jaxfm.programs.compress import TARGETS, compress
from jaxfm.programs.compress_forms import Tried, best_of, nearest, numbers_of_front, size_on_disk
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.model import Model
from jaxfm.training.saved_run import open_run
from tests import tiny

TEXTS = ["ada met boole in the old town .", "gauss went near ghent and left"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("compress")


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    return tiny.write_runs(folder, ("classification",))["classification"]


@pytest.fixture(scope="module")
def small(run: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Found among all methods but the vocabulary."""
    methods = ("quantise", "prune")
    with pytest.MonkeyPatch.context() as patch:  # the others are made alike, and each takes its time
        patch.setattr(program, "_ROUNDINGS", {name: program._ROUNDINGS[name] for name in ("weights8", "dynamic")})
        return compress(run, folder / "small", ["size:0.95", "loss:1"], methods=methods, budgets=[0.5], every=True)


def facts_of(folder: pathlib.Path) -> dict[str, Any]:
    return json.loads((folder / "compress.json").read_text())


def test_the_form_that_is_written_is_one_of_those_that_were_measured(
    small: pathlib.Path, run: pathlib.Path, folder: pathlib.Path
) -> None:
    facts = facts_of(small)
    forms = {each["name"]: each for each in facts["forms"]}
    assert list(forms)[:3] == ["first model", "weights8", "dynamic"]
    rounded = [name for name in forms if name.startswith("pruned-50+")]
    assert list(forms)[3:5] == ["pruned-50", *rounded] and len(rounded) == 1
    assert "pruned-size-0.95" in forms
    chosen = forms[facts["chosen"]]
    within = [each for name, each in forms.items() if each["reaches"] and name != "first model"]
    assert chosen in within and chosen["size_share"] <= 0.95
    costs = [each["size_share"] * each["latency_share"] for each in within]
    assert chosen["size_share"] * chosen["latency_share"] == min(costs)
    home = folder / "small-candidates"
    for name, each in forms.items():
        where = run if name == "first model" else home / name
        assert each["size"] == size_on_disk(open_run(where))
        if name != "first model":
            metric = evaluate(where, "valid").metrics[facts["metric"]]
            assert metric == pytest.approx(each["score"], abs=1e-6)
    assert evaluate(small, "valid").metrics[facts["metric"]] == pytest.approx(chosen["score"], abs=1e-6)
    assert Model(small)(TEXTS) == Model(home / facts["chosen"])(TEXTS)
    assert (small / "pareto.png").stat().st_size > 10_000 and "Smaller forms" in (small / "compress.md").read_text()
    assert str(home) not in (small / "report.md").read_text() if (small / "report.md").is_file() else True


def test_forms_that_are_there_are_used_again_and_a_target_out_of_reach_names_the_nearest(
    small: pathlib.Path, run: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "quantise", lambda *_, **__: pytest.fail("made again"))
    monkeypatch.setattr(program, "prune", lambda *_, **__: pytest.fail("made again"))
    (small / ".unfinished").touch()  # as if it had been killed
    monkeypatch.setattr(program, "_ROUNDINGS", {name: program._ROUNDINGS[name] for name in ("weights8", "dynamic")})
    methods = ("quantise",)
    with pytest.raises(
        UserError, match=r"--target=size:0.01: no form reaches it.*the nearest is \w+: size 0\.\d+ \(at"
    ):
        compress(run, small, "size:0.01", methods=methods)
    assert (folder / "small-candidates" / "compress.md").is_file()
    with pytest.raises(UserError, match=r"holds forms of another command \(source None\)"):
        compress(run, small, "size:0.01", source="tsv:other")
    (small / ".unfinished").unlink()


def test_no_more_methods_are_tried_than_are_needed(
    run: pathlib.Path, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(_: pathlib.Path, output: pathlib.Path, **options: Any) -> None:
        assert options["max_loss"] > 1
        names.append(output.name)
        raise UserError("not now")

    names: list[str] = []
    monkeypatch.setattr(program, "quantise", made)
    monkeypatch.setattr(program, "prune", made)
    with pytest.raises(UserError, match=r"no smaller form can be made. vocabulary: not now; weights8: not now"):
        compress(run, folder / "none", "size:0.5", budgets=[0.5], recover_epochs=1.0)
    roundings = ["weights8", "weights4", "dynamic", "static"]
    pruned = ["pruned-50", "pruned-size-0.5"]
    assert names == ["vocabulary", *roundings, *pruned, *(f"{name}-trained" for name in pruned)]
    assert not (folder / "none").exists()


def form(name: str, score: float, size: float, latency: float) -> Tried:
    return Tried(name, "", score, 0.9 - score, None, int(1000 * size), size, latency, latency)


FORMS = [form("first", 0.9, 1, 1), form("a", 0.88, 0.5, 0.9), form("b", 0.87, 0.4, 0.5), form("c", 0.86, 0.6, 0.9)]


@pytest.mark.parametrize(
    ("targets", "name"),
    [
        (["size:0.55"], "a"),
        (["latency:0.6"], "b"),
        (["loss:0.05"], "b"),
        (["loss:0.025"], "a"),
        (["size:0.45KB"], "b"),
        (["size:0.5", "loss:0.01"], None),
    ],
)
def test_which_form_is_written(targets: list[str], name: str | None) -> None:
    found = best_of(FORMS[1:], read_targets(targets, TARGETS))
    assert (found and found.name) == name


def test_the_front_and_the_nearest() -> None:
    assert numbers_of_front(FORMS, True) == {0, 1, 2}
    assert nearest(FORMS[1:], (Target("size", 0.3),)) == "the nearest is b: size 0.4 (at most 0.3)"
    shown = compress_forms.drawn(FORMS, {0, 1, 2}, "b")
    assert [each.is_chosen for each in shown] == [False, False, True, False] and shown[0].is_first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": ()}, "--target is missing"),
        ({"target": "flops:0.5"}, "'flops:0.5': is no target here; write latency"),
        ({"methods": ["prun"]}, "--methods=prun: 'prun': Did you mean 'prune'"),
        ({"methods": []}, "--methods: is empty"),
        ({"budgets": [1.0]}, "--budgets: 1 must be a share"),
        ({"rounds": 0}, "--rounds=0: must be at least 1"),
        ({"rounds": 2}, "--rounds=2: is of the training after pruning"),
        ({"overrides": {"train.steps": 2}}, "--config.train.steps: is of the training after pruning"),
        ({"recover_epochs": -1.0}, "--recover_epochs=-1.0: must be 0 or more"),
        ({"keep_from": ["nobody"]}, "--keep_from=nobody"),
    ],
)
def test_what_is_asked_wrongly_is_refused(
    changes: dict[str, Any], message: str, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=message):
        compress(run, tmp_path / "never", **{"target": "size:0.5", **changes})
    assert not any(tmp_path.iterdir())

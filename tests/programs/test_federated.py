"""`jaxfm federated`: a whole simulation, what it leaves, exact restarts, and what is refused."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

import jaxfm
from jaxfm import files
from jaxfm.config import Config
from jaxfm.core.build import Build
from jaxfm.errors import UserError
from jaxfm.federation.client import Client
from jaxfm.observe.progress import Progress
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.federated import federated
from jaxfm.programs.predict import predict
from jaxfm.schema import replaced
from jaxfm.training.saved_run import available_mesh, open_run
from jaxfm.training.session import compute_dtype
from tests import tiny

OPTIONS: dict[str, Any] = {
    **dict(clients=3, rounds=2, local_steps=1, min_examples=4, method="scaffold", server_optimizer="adam"),
    **dict(server_rate=0.01, slow="1:0.5", leave="2:2", quorum=2, tolerance=1.0, deadline=2.0),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return tiny.config(
        tmp_path_factory.mktemp("corpus"),
        train__batch_size=4,
        adapt__lora__rank=2,
        parallel__mesh__data=1,
        parallel__mesh__fsdp=-1,
    )


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict[str, Any]]:
    """A finished simulation, with what it is compared with."""
    workdir = tmp_path_factory.mktemp("runs") / "f"
    return workdir, federated(config, workdir, **OPTIONS, beside="local,central", progress=Progress(None, quiet=True))


def test_the_report(run: tuple[pathlib.Path, dict[str, Any]]) -> None:
    workdir, found = run
    assert found == files.read_object(workdir / "federated.json")
    assert [each["round"] for each in found["rounds"]] == [1, 2] and found["kept"] in (1, 2)
    last = found["rounds"][-1]
    assert last["dropped"] == {"2": "gone since round 2"} and last["answered"] == [0, 1]
    assert len(last["votes"]) == 2 and last["accepted"]
    assert set(found["result"]) == {"valid", "test", "held_out"} and set(found["beside"]) == {"local", "central"}
    for scores in (found["result"], *found["beside"].values()):
        held = scores["held_out"]
        assert set(held["clients"]) == {"0", "1", "2"} and held["mean"] >= held["worst"]
        assert held["gap"] == pytest.approx(held["mean"] - held["worst"])
    assert [each["examples"] + each["held_out"] for each in found["clients"]] == [20, 20, 20]
    assert [each["rounds"] for each in found["clients"]] == [2, 2, 1]
    text = (workdir / "federated.md").read_text()
    assert "client 2: gone since round 2 (round 2)" in text and "each by itself" in text
    assert (workdir / "plots" / "federated.png").stat().st_size > 10_000


def test_adapters_alone_travel_and_are_counted(run: tuple[pathlib.Path, dict[str, Any]], config: Config) -> None:
    _, found = run
    traffic = found["traffic"]
    # SCAFFOLD sends as much again for its control variates; in round 2 one client of three is gone.
    assert traffic["values"] < 0.2 * traffic["parameters"] and traffic["bytes_of_values"] == 4 * traffic["values"]
    assert traffic["bytes_up"] == traffic["bytes_down"] == (3 + 2) * 2 * traffic["bytes_of_values"]


def test_the_result_is_a_run_like_any_other(run: tuple[pathlib.Path, dict[str, Any]]) -> None:
    workdir, found = run
    assert evaluate(workdir, "test").metrics["f1"] == pytest.approx(found["result"]["test"]["f1"])
    assert predict(workdir, "ada met boole in hull .")["text"] == "ada met boole in hull ."
    report = json.loads((workdir / "report.json").read_text())
    assert report["splits"]["valid"]["f1"] == pytest.approx(found["result"]["valid"]["f1"])


def test_the_same_call_again_reports(run: tuple[pathlib.Path, dict[str, Any]], config: Config) -> None:
    workdir, found = run
    assert federated(config, workdir, **OPTIONS, beside="central") == found
    with pytest.raises(UserError, match=r"another command \(rounds 2, now 3\)"):
        federated(config, workdir, **{**OPTIONS, "rounds": 3})


def params_of(workdir: pathlib.Path) -> list[Any]:
    run = open_run(workdir)
    mesh, _ = available_mesh(run.config)
    return jax.tree.leaves(jax.device_get(run.restore(mesh, Build(compute_dtype("f32"), False)).params))


@pytest.mark.slow  # tests/federation/test_rounds.py and test_storage.py have the parts of it
def test_killed_in_the_midst_of_a_round_it_goes_on_to_the_same_bits(
    run: tuple[pathlib.Path, dict[str, Any]], config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir, found = run
    train = Client.train

    def dies(self: Client, values: Any, round: int, **others: Any) -> Any:
        if round == 1 and self.number == 1:
            raise KeyboardInterrupt
        return train(self, values, round, **others)

    with monkeypatch.context() as patch:
        patch.setattr(Client, "train", dies)
        with pytest.raises(KeyboardInterrupt):
            federated(config, tmp_path / "k", **OPTIONS)
    assert not (tmp_path / "k").exists()  # no half of a run; the rounds are beside it
    with pytest.raises(UserError, match=r"k-rounds holds rounds of another command \(method 'scaffold', now "):
        federated(config, tmp_path / "k", **{**OPTIONS, "method": "fedavg"})
    again = federated(config, tmp_path / "k", **OPTIONS)
    assert again["rounds"] == found["rounds"] and again["result"] == found["result"]
    for one, other in zip(params_of(workdir), params_of(tmp_path / "k"), strict=True):
        assert np.array_equal(one, other)


def test_other_data_do_not_go_on_with_the_rounds(
    config: Config, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").mkdir()
    source = tiny.write_corpus(tmp_path / "corpus")
    own = replaced(config, {"data.source": source})

    def dies(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Client, "train", dies)
        with pytest.raises(KeyboardInterrupt):
            federated(own, tmp_path / "k", **OPTIONS)
    path = tmp_path / "corpus" / "train.conll"
    path.write_text(path.read_text() + "\nada B-PER\n")
    with pytest.raises(UserError, match="holds rounds over other data: another command"):
        federated(own, tmp_path / "k", **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"client": 3}, "client: is no option of federated training. Did you mean 'clients'"),
        ({"clients": 40, "min_examples": 2}, "At most 30 clients"),
        ({"method": "fedprox"}, "--proximal=0: must be above 0"),
        ({"split": "files"}, "--clients=3: names a folder with --split=files"),
        ({"poison": "3:sign_flip"}, "--poison: there is no client 3; they are 0 to 2"),
        ({"per_round": "0.0"}, "--per_round=0.0"),
        ({"quorum": 4}, "--quorum=4: is more than the 3 clients"),
        ({"beside": "locals"}, "Did you mean 'local'"),
    ],
)
def test_what_is_refused_leaves_nothing(
    config: Config, tmp_path: pathlib.Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        federated(config, tmp_path / "r", **{"clients": 3, "rounds": 1, **options})
    assert not list(tmp_path.iterdir())


def test_keys_of_one_run_are_refused(config: Config, tmp_path: pathlib.Path) -> None:
    for key, value, message in (
        ("train.seeds", 2, "config.train.seeds"),
        ("checkpoint.mirror", "s3://b/a", "config.checkpoint.mirror"),
        ("adapt.ema", 0.9, "config.adapt.ema=0.9: is an average over one run's updates"),
        ("supernet.depths", (1,), "config.supernet.depths"),
    ):
        with pytest.raises(UserError, match=message):
            federated(replaced(config, {key: value}), tmp_path / "r", clients=3, rounds=1, min_examples=4)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_task_without_classes_is_refused(tmp_path: pathlib.Path) -> None:
    config = tiny.masked_lm_config(tmp_path)
    with pytest.raises(UserError, match="config.task.name: 'masked_lm' has no class per record"):
        federated(config, tmp_path / "r", clients=2, rounds=1)
    assert not (tmp_path / "r").exists() and not (tmp_path / "r-rounds").exists()


def test_a_public_name() -> None:
    assert jaxfm.federated is federated

"""Whole tiny runs of replaced-token detection: stopped, scored again, exported, and as the start of other runs."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.spec import SPEC_VERSION
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.tasks.replaced_token.predictor import ReplacedTokenPredictor
from jaxfm.tasks.replaced_token.task import ReplacedTokenTask
from jaxfm.training import session
from jaxfm.training.initial import resolve
from jaxfm.training.paths import path_name
from jaxfm.training.saved_run import open_run
from jaxfm.training.setup import set_up
from tests import tiny
from tests.tasks.replaced_token.test_objective import Bench
from tests.tasks.replaced_token.test_task import config, created

MESH = MeshConfig()
TEXTS = ("ada met boole in the old town .", "", "  the   town [MASK] near", " ".join(["gauss left hull"] * 40))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("rtd")


@pytest.fixture(scope="module")
def bench(folder: pathlib.Path) -> Bench:
    return Bench(created(folder))


def flat(params: Any) -> dict[str, np.ndarray]:
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


class StopError(Exception):
    """Ends a run between two steps."""


@dataclasses.dataclass(frozen=True)
class Runs:
    """A run from start to end."""

    whole: pathlib.Path
    report: dict[str, Any]


@pytest.fixture(scope="module")
def runs(folder: pathlib.Path) -> Runs:
    values = config(folder, eval__select="last")
    report = train(values, folder / "whole")
    return Runs(folder / "whole", report)


def lines(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    return [
        {name: value for name, value in line.items() if "per_second" not in name}
        for line in read_metrics(workdir / "metrics.jsonl")
    ]


def restored(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    found = open_run(workdir).restore(make_mesh(MESH), DEFAULT_BUILD)
    assert found.step == 6
    return found.to_host()


def test_a_run_learns(runs: Runs) -> None:
    trained = [line for line in lines(runs.whole) if line["split"] == "train"]
    assert {"generator_loss", "discriminator_loss", "precision", "recall"} <= set(trained[-1])
    assert trained[-1]["discriminator_loss"] < trained[0]["discriminator_loss"]


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit(runs: Runs, folder: pathlib.Path) -> None:
    values, stopped = config(folder, eval__select="last"), folder / "stopped"
    with pytest.MonkeyPatch.context() as patch:
        done, plain = 0, session.meshes.shard_batch

        def shard_batch(*arguments: Any) -> Any:
            nonlocal done
            done += 1
            if done == 5:  # what was saved last is step 3
                raise StopError
            return plain(*arguments)

        patch.setattr(session.meshes, "shard_batch", shard_batch)
        with pytest.raises(StopError):
            train(values, stopped)
    resumed_report = train(values, stopped)
    assert repr(lines(runs.whole)) == repr(lines(stopped))  # a precision over no token at all is NaN
    assert runs.report["splits"] == resumed_report["splits"]
    whole, resumed = restored(runs.whole), restored(stopped)
    for name, value in whole.items():
        np.testing.assert_array_equal(value, resumed[name], err_msg=name)


def test_a_trained_run_is_scored_again(runs: Runs) -> None:
    values = json.loads((runs.whole / "task.json").read_text())
    assert (values["task"], values["version"]) == ("replaced_token", SPEC_VERSION)
    evaluation = evaluate(runs.whole, "valid")
    wanted = runs.report["splits"]["valid"]
    for name in ReplacedTokenTask.directions:
        np.testing.assert_allclose(evaluation.metrics[name], wanted[name], rtol=1e-5, err_msg=name)
    # The training text is not read again: its counts lie in the run.
    again = evaluation.scores["units"]["token"]["unigram_loss"]
    assert again == pytest.approx(wanted["units"]["token"]["unigram_loss"])


@pytest.mark.slow
def test_accumulated_micro_batches_add_up_exactly(bench: Bench, runs: Runs, folder: pathlib.Path) -> None:
    values = config(folder)
    task, loaded = registry.create(values, resolve(values.model))
    setup = set_up(values, task, loaded, make_mesh(MESH))
    state = setup.initial_state()
    params = {name: jnp.asarray(value) for name, value in flat(state.params).items()}
    batch = setup.batches.batch(0)
    keys = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(np.asarray(state.key)), 0), 2)
    parts = [
        bench.value_and_grad(params, {name: value[part::2] for name, value in batch.items()}, keys[part], 0.0, 50.0)
        for part in (0, 1)
    ]
    ((first, (first_weight, _)), first_gradient), ((second, (second_weight, _)), second_gradient) = parts
    # Means of means would be another number.
    assert first_weight != second_weight
    weight = first_weight + second_weight
    logged = next(line for line in lines(runs.whole) if line["split"] == "train")
    assert logged["step"] == 1
    np.testing.assert_allclose(logged["loss"], (first + second) / weight, rtol=1e-5)
    gradient = jax.tree.map(lambda a, b: (a + b) / weight, first_gradient, second_gradient)
    np.testing.assert_allclose(logged["gradient_norm"], optax.tree.norm(gradient), rtol=1e-4)


def test_each_token_of_a_text_gets_one_probability(runs: Runs) -> None:
    model = Model(runs.whole)
    results = model(TEXTS)
    predictor = open_run(runs.whole).predictor()
    assert isinstance(predictor, ReplacedTokenPredictor)
    tokenizer = predictor.tokenizer
    for text, result in zip(TEXTS, results, strict=True):
        assert result["text"] == text
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = result["tokens"]
        assert [token["token"] for token in tokens] == tokenizer.convert_ids_to_tokens(encoded["input_ids"])
        assert [(token["start"], token["end"]) for token in tokens] == encoded["offset_mapping"]
        assert all(0 < token["probability"] < 1 for token in tokens)
    assert len(results[3]["tokens"]) > tiny.ENCODER.max_positions  # several windows
    shown = model.lines(results[0])
    assert shown[0] == TEXTS[0] and len(shown) == 6
    worst = max(results[0]["tokens"], key=lambda token: token["probability"])
    assert shown[1].split() == [f"{worst['start']}-{worst['end']}", f"{worst['probability']:.3f}", worst["token"]]
    assert model.lines(results[1]) == ["", "  (no tokens)"]


def test_transformers_computes_the_same_probabilities(runs: Runs, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    folder = export(runs.whole, tmp_path / "hf")
    model, info = transformers.AutoModelForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "ElectraForPreTraining" and {name for name, found in info.items() if found} == set()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model.eval()(**tokenizer(TEXTS[0], return_tensors="pt")).logits[0, 1:-1]
    ours = [token["probability"] for token in Model(runs.whole)([TEXTS[0]])[0]["tokens"]]
    np.testing.assert_allclose(torch.sigmoid(logits).numpy(), ours, atol=1e-4)  # given to four digits
    assert np.ptp(ours) > 0.001


def test_ner_from_a_run_takes_the_encoder_and_says_what_it_leaves(runs: Runs, folder: pathlib.Path) -> None:
    values = tiny.config(folder, model__init=f"run:{runs.whole}")
    initial = resolve(values.model)
    task, loaded = registry.create(values, initial)
    trained = restored(runs.whole)
    assert {name for name in trained if name.startswith("encoder/")} == set(loaded)
    for name, value in loaded.items():
        np.testing.assert_array_equal(value, trained[name])
    assert "weights not used: detector, generator (of pretraining)" in task.notes
    state = set_up(values, task, loaded, make_mesh(MESH)).initial_state()
    for name, value in flat(state.params).items():
        assert name.startswith("head/") or np.array_equal(value, trained[name])


def test_pretraining_goes_on_from_a_run(runs: Runs, folder: pathlib.Path) -> None:
    values = config(folder, model__init=f"run:{runs.whole}")
    initial = resolve(values.model)
    task, loaded = registry.create(values, initial)
    assert isinstance(task, ReplacedTokenTask) and set(loaded) == set(restored(runs.whole))
    assert any("loaded beside the encoder: detector, generator" in note for note in task.notes)
    # Another depth: the generator is new. Another task: so is the masked-LM head.
    _, deeper = registry.create(tiny.replaced(values, task__generator_depth=1.0), initial)
    assert {name.partition("/")[0] for name in deeper} == {"encoder", "detector"}
    other = tiny.masked_lm_config(folder, model__init=f"run:{runs.whole}", data__source=values.data.source)
    _, masked_lm = registry.create(other, resolve(other.model))
    assert {name.partition("/")[0] for name in masked_lm} == {"encoder"}

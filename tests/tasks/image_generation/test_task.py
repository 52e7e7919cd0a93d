"""A model that makes images, from files to scores, a judge's opinion, predictions and an export; what is refused."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import LossContext
from jaxfm.core.spec import SPEC_FILE
from jaxfm.data.images.codebook import FILE
from jaxfm.errors import UserError
from jaxfm.parallel import mesh as meshes
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.model_options import Writing
from jaxfm.programs.train import train
from jaxfm.tasks.image_generation.rows import picture
from jaxfm.tasks.registry import create, default_config, definition, from_config_dict, read_spec
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import open_run
from tests import tiny
from tests.training.whole_run import at_step, record_saves, terminate


def generation_config(folder: pathlib.Path, **overrides: Any) -> Config:
    """A run over dark and light images of 8 x 8 pixels, 16 codes each."""
    values = default_config("image_generation")
    values.model.init, values.model.preset = "scratch", "bert_tiny"
    values.model.num_layers, values.model.hidden_size, values.model.num_heads, values.model.ffn_size = 1, 16, 2, 32
    values.data.source = tiny.image_config(folder).data.source
    values.task.image_size, values.task.patch_size, values.task.codes = 8, 2, 6
    values.task.valid_made, values.task.test_made, values.task.unmasking.steps = 4, 6, 3
    values.train.batch_size, values.train.steps, values.train.min_steps = 8, 20, 0
    values.optim.learning_rate = 3e-3
    values.eval.batch_size, values.eval.every_steps, values.log.every_steps = 8, 10, 10
    return tiny.replaced(from_config_dict(values), **overrides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture(scope="module")
def judge(folder: pathlib.Path) -> pathlib.Path:
    train(tiny.image_config(folder), folder / "judge")
    return folder / "judge"


@pytest.fixture(scope="module")
def run(folder: pathlib.Path, judge: pathlib.Path) -> pathlib.Path:
    train(generation_config(folder, task__judge=f"run:{judge}"), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def model(run: pathlib.Path) -> Model:
    return Model(run, writing=Writing({"samples": "3", "steps": "2"}))


def test_a_run_learns_and_its_images_are_judged(run: pathlib.Path, judge: pathlib.Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "valid"]
    assert losses[-1] < losses[0] and all(0 <= line["recognised"] <= 1 for line in lines if line["split"] == "valid")
    scores = json.loads((run / "report.json").read_text())["splits"]["test"]
    assert scores["made"] == 6 and scores["frechet"] > 0 and scores["codebook_error"] > 0
    # The split's own images are recognised as often as the judge is right.
    right = json.loads((judge / "report.json").read_text())["splits"]["test"]["accuracy"]
    real = scores["real_images"]
    assert real["real images of the split"] == {"images": tiny.SIZES["test"], "recognised": pytest.approx(right)}
    assert real["training images"]["images"] == 6 and real["training images"]["frechet"] > 0
    made = [json.loads(line) for line in (run / "predictions" / "test.jsonl").read_text().splitlines()]
    assert [line["class"] for line in made] == ["dark"] * 3 + ["light"] * 3
    spec: Any = open_run(run).spec
    assert all(len(line["codes"]) == 16 and max(line["codes"]) < spec.codes <= 6 for line in made)
    assert (run / "plots" / "test_samples.png").stat().st_size > 5_000
    again = evaluate(run, split="test").metrics
    assert {name: again[name] for name in ("loss", "recognised", "frechet")} == pytest.approx(
        {name: scores[name] for name in ("loss", "recognised", "frechet")}
    )


def test_images_of_classes_that_are_asked_for(model: Model, run: pathlib.Path) -> None:
    light, blank, dark = model(["light", " ", "dark"])
    assert light["class"] == "light" and len(light["images"]) == len(light["scores"]) == 3 and blank["images"] == []
    predictor: Any = model.predictor
    entries = {tuple(entry) for entry in predictor.codebook.entries.tolist()}
    for image in [*light["images"], *dark["images"]]:
        pixels = np.asarray(image)
        assert pixels.shape == (8, 8)
        cells = pixels.reshape(4, 2, 4, 2).transpose(0, 2, 1, 3).reshape(16, 4)
        assert {tuple(cell) for cell in cells.tolist()} <= entries
    assert model("dark") == dark  # what else was asked for changes nothing
    assert model.lines(light)[1].startswith("  3 images of 8 x 8 pixels, score -")
    assert model.lines(blank) == ["  (nothing)"]
    (drawn,) = model.pictures(["light"])
    assert list(drawn) == ["light (1)", "light (2)", "light (3)"]
    np.testing.assert_array_equal(np.stack(list(drawn.values()))[..., 0], light["images"])
    with pytest.raises(UserError, match="text 2: 'lihgt' is not a class of this model. Did you mean 'light'"):
        model(["dark", "lihgt"])
    for asked, words in (({"step": "2"}, "Did you mean 'steps'"), ({"steps": "0"}, "steps")):
        with pytest.raises(UserError, match=words):
            Model(run, writing=Writing(asked))
    with pytest.raises(UserError, match="knows no controls"):
        Model(run, writing=Writing({}, {"length": "short"}))


def test_an_export_says_what_the_run_says(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is the oracle")
    transformers = pytest.importorskip("transformers")
    export(run, tmp_path / "hf")
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "hf").eval()
    spec: Any = open_run(run).spec
    restored = open_run(run).restore(meshes.make_mesh(MeshConfig(), jax.devices()[:1]), DEFAULT_BUILD)
    ours: Any = nnx.merge(restored.graphdef, restored.params)
    tokens = np.asarray([[spec.class_token(1), *[spec.mask] * 8, *range(4), *range(4)]], np.int32)
    batch = {"tokens": tokens, "segment_ids": np.ones_like(tokens), "positions": np.arange(17)[None]}
    logits = ours.logits(ours.hidden({name: jnp.asarray(values) for name, values in batch.items()}))
    with torch.no_grad():
        wanted = theirs(input_ids=torch.from_numpy(tokens.astype(np.int64))).logits.numpy()
    np.testing.assert_allclose(logits[..., : wanted.shape[-1]], wanted[..., : logits.shape[-1]], atol=2e-4)
    assert (tmp_path / "hf" / FILE).read_bytes() == (run / FILE).read_bytes()


def test_loss_and_images_are_the_same_on_four_devices_and_packed(folder: pathlib.Path) -> None:
    if len(jax.devices()) < 4:
        pytest.skip("needs four devices")
    found = {}
    for packed in (False, True):
        config = generation_config(folder, data__packed=packed, task__unmasking__guidance=1.0)
        task, _ = create(config, resolve(config.model))
        objective, rows = task.objective, task.datasets["test"]
        spec: Any = objective.spec
        assert spec.segments == (15 if packed else 1)

        def make(spec: Any = spec) -> nnx.Module:
            return spec.make_model(DEFAULT_BUILD, nnx.Rngs(0))

        graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
        state = nnx.State(
            jax.tree.map(lambda value: nnx.Param(jnp.asarray(value)), tiny.nested(tiny.drawn(make, spec.encoder, 0)))
        )
        every = rows.take(np.arange(len(rows)))
        padding = -len(rows) % 4
        batch = {name: np.concatenate([each, each[:1].repeat(padding, axis=0)]) for name, each in every.items()}

        def compute(state: Any, batch: Any, objective: Any = objective, graphdef: Any = graphdef) -> Any:
            model = nnx.merge(graphdef, state)
            # A row is an image or several, so what is masked differs; the loss is compared among devices alone.
            loss = objective.loss(model, batch, LossContext(jax.random.key(0)))
            return objective.outputs(model, batch), loss.total

        alone, loss = jax.jit(compute)(state, batch)
        mesh = meshes.make_mesh(MeshConfig(), jax.devices()[:4])
        cut = jax.sharding.NamedSharding(mesh, meshes.spec("batch"))
        whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        given = jax.device_put(state, whole), {name: jax.device_put(each, cut) for name, each in batch.items()}
        with jax.set_mesh(mesh):
            sharded, total = jax.jit(compute)(*given)
        np.testing.assert_allclose(total, loss, rtol=1e-5)
        for name, values in alone.items():
            np.testing.assert_allclose(sharded[name], values, rtol=1e-4, atol=1e-5)
        split: Any = task
        held_out = split.held_out["test"].rows
        outputs = {name: np.asarray(values)[: len(rows)] for name, values in alone.items()}
        found[packed] = held_out.sums(outputs)["loss"], np.asarray(held_out.written(outputs))
    np.testing.assert_allclose(found[True][0], found[False][0], rtol=1e-4)
    np.testing.assert_array_equal(found[True][1], found[False][1])


@pytest.mark.slow
def test_a_stopped_run_is_the_run_that_was_not(tmp_path: pathlib.Path) -> None:
    config = generation_config(tmp_path, train__steps=6, eval__every_steps=3, model__dropout=0.1)
    with pytest.MonkeyPatch.context() as patch:
        saved = record_saves(patch)
        report = train(config, tmp_path / "whole")
        wanted = dict(saved)
        saved.clear()
        with pytest.MonkeyPatch.context() as stopping:
            at_step(stopping, 4, terminate)
            with pytest.raises(Preempted):
                train(config, tmp_path / "run")
        assert train(config, tmp_path / "run")["splits"] == report["splits"]
        assert saved[6] == wanted[6] and min(saved) < 6


def test_grey_levels_give_images_back(folder: pathlib.Path) -> None:
    config = generation_config(
        folder, task__codebook="levels", task__codes=256, task__patch_size=1, task__image_size=4, task__valid_made=0
    )
    task, _ = create(config, resolve(config.model))
    scorer: Any = task.scorer("valid")
    assert scorer.error == 0 and scorer.spec.cells == 16 and scorer.spec.codes == 256
    made: Any = task
    rows = made.held_out["valid"]
    assert len(rows.made) == len(rows.rows.blank) == 0
    codes = rows.rows.scored.take(np.arange(1))["labels"][0, 1:]
    location = rows.rows.scored.example_locations[:, 0].tolist().index(0)
    np.testing.assert_array_equal(picture(scorer.spec, scorer.codebook, codes), rows.pixels.image(location))


def test_what_is_refused(folder: pathlib.Path, run: pathlib.Path, judge: pathlib.Path) -> None:
    for change, words in (
        ({"task__codebook": "levels"}, r"task\.patch_size: is 2, but grey levels .* set it to 1"),
        ({"task__codebook": "levels", "task__patch_size": 1, "task__codes": 300}, "there are 256 grey levels at most"),
        ({"task__patch_size": 3}, "patch"),
        ({"task__patch_size": 4}, "16"),
        ({"model__preset": "vit_nano"}, "reads patches.*preset=bert_tiny"),
        ({"model__preset": "modern_base"}, "no table with a row for each position"),
        ({"data__row_length": 16}, r"row_length: is 16, but an image has 17 tokens"),
        ({"task__judge": "run:nowhere"}, r"task\.judge: 'run:nowhere' is not a trained run"),
        ({"task__judge": f"run:{run}"}, "a run of the task image_generation, which does not judge images"),
    ):
        if change.get("model__preset"):
            change |= {f"model__{name}": 0 for name in ("num_layers", "hidden_size", "num_heads", "ffn_size")}
        with pytest.raises(UserError, match=words):
            config = generation_config(folder, **change)
            create(config, resolve(config.model))
    others = folder / "others"
    tiny.write_images(others)
    for split in tiny.SIZES:
        (others / split / "dark").rename(others / split / "grey")
    config = generation_config(folder, data__source=f"images:{others}", task__judge=f"run:{judge}")
    with pytest.raises(UserError, match=r"does not know the class 'grey' of the data; it knows dark, light"):
        create(config, resolve(config.model))


def test_a_damaged_run_says_so(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / SPEC_FILE).write_bytes((run / SPEC_FILE).read_bytes())
    saved = open_run(run)
    with pytest.raises(UserError, match=r"codebook\.safetensors: cannot be read"):
        saved.definition.predictor(tmp_path, saved.spec)
    values = json.loads((run / SPEC_FILE).read_text())
    for change, words in (
        ({"codes": values["codes"] + 1}, "do not fit the encoder's vocabulary"),
        ({"patch_size": 0}, "do not fit the encoder's vocabulary"),
        ({"segments": 2}, "images of 16 cells do not fit its rows"),
    ):
        (tmp_path / SPEC_FILE).write_text(json.dumps(values | change))
        with pytest.raises(UserError, match=words):
            read_spec(tmp_path, {})


def test_what_a_person_should_know_before_training(folder: pathlib.Path) -> None:
    config = generation_config(folder)
    found = definition("image_generation").check(config, resolve(config.model))
    levels = {finding.check: finding.level for finding in found.findings}
    assert levels["sizes"] == "ok" and "error" not in levels.values()
    small = generation_config(folder, task__image_size=32)
    found = definition("image_generation").check(small, resolve(small.model))
    assert {finding.check: finding.level for finding in found.findings}["sizes"] == "warning"

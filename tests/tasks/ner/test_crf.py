"""Runs with a CRF and words pooled by their mean: trained, resumed, scored, used, adapted; and what they refuse."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import LossContext
from jaxfm.data.text.tagging import entity_spans, write_tags
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.export import export
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.tasks.ner.decoding import read_words
from jaxfm.tasks.ner.task import NerTask
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import open_run
from tests import tiny

BOTH = {"task__head": "crf", "task__word_pooling": "mean"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a trained run, "run"."""
    folder = tmp_path_factory.mktemp("crf")
    train(tiny.config(folder, **BOTH, train__steps=6, eval__every_steps=3), folder / "run")
    return folder


def made(folder: pathlib.Path, **overrides: Any) -> tuple[NerTask, Any, Any]:
    """A task, its model's graph definition and wide random parameters, those of transitions among them."""
    config = tiny.config(folder, model__dropout=0.0, **{**BOTH, **overrides})
    task, _ = registry.create(config, resolve(config.model))
    assert isinstance(task, NerTask)
    make = lambda: task.objective.spec.make_model(DEFAULT_BUILD, nnx.Rngs(0))  # noqa: E731
    graphdef, abstract = build_abstract(make, make_mesh(config.parallel.mesh))
    draw = np.random.default_rng(0)

    def value(path: Any, leaf: Any) -> np.ndarray:
        return ((path[-1].key == "scale") + 0.3 * draw.normal(size=leaf.shape)).astype(np.float32)

    return task, graphdef, jax.tree_util.tree_map_with_path(value, abstract)


def computed(task: NerTask, graphdef: Any, params: Any, split: str = "test") -> tuple[dict[str, np.ndarray], Any, Any]:
    rows = task.datasets[split]
    batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}

    def both(params: Any) -> tuple[Any, Any]:
        loss = task.objective.loss(nnx.merge(graphdef, params), batch, LossContext(jax.random.key(0)))
        return loss.total, (loss, task.objective.outputs(nnx.merge(graphdef, params), batch))

    grads, (loss, outputs) = jax.jit(jax.grad(both, has_aux=True))(params)
    return {name: np.asarray(value) for name, value in outputs.items()}, loss, grads


def test_loss_and_scores_agree_and_every_parameter_learns(folder: pathlib.Path) -> None:
    short = [sentence for sentence in tiny.sentences(60, seed=5) if len(sentence[0]) < 7]
    for split in ("train", "test"):
        tiny.write_conll(folder / "short" / f"{split}.conll", short)
    task, graphdef, params = made(folder, data__source=f"conll:{folder / 'short'}")
    assert len(task.encoded["test"].windows.tokens) == len(short)  # none is cut
    outputs, loss, grads = computed(task, graphdef, params)
    metrics = task.scorer("test").metrics(outputs)
    assert metrics["loss"] == pytest.approx(float(loss.total / loss.weight), rel=1e-5)
    assert float(loss.weight) == sum(len(sentence.words) for sentence in task.sentences["test"])
    assert all(np.abs(each).max() > 0 for each in jax.tree.leaves(grads["chain"]))
    words = read_words(task.objective.spec, task.encoded["test"], outputs)
    for logits_WC in words.logits:
        np.testing.assert_allclose(np.exp(logits_WC).sum(axis=-1), 1.0)
    found = task.scorer("test").report(outputs)
    for record in found.predictions:
        assert write_tags(entity_spans(record["predicted"]), len(record["words"])) == record["predicted"]
    units = found.bootstrap_data
    assert units is not None and units.metrics(np.arange(units.count)) == pytest.approx(dict(found.metrics), rel=1e-6)


def test_packed_rows_compute_what_rows_of_one_sentence_do(folder: pathlib.Path) -> None:
    packed, alone = made(folder), made(folder, data__packed=False)
    assert len(packed[0].datasets["test"]) < len(alone[0].datasets["test"])
    rows = [computed(*each)[1:] for each in (packed, alone)]
    np.testing.assert_allclose(rows[0][0].total, rows[1][0].total, rtol=1e-5)
    for one, other in zip(jax.tree.leaves(rows[0][1]), jax.tree.leaves(rows[1][1]), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_a_sentence_cut_into_windows_is_one_chain(folder: pathlib.Path) -> None:
    long = tiny.sentences(3, seed=4)
    words, tags = [sum((sentence[part] for sentence in long), []) for part in (0, 1)]
    for split in ("train", "test"):
        tiny.write_conll(folder / "long" / f"{split}.conll", [(words, tags)])
    values = {"data__source": f"conll:{folder / 'long'}", "data__holdout": 0.0, "task__overlap": 2}
    task, graphdef, params = made(folder, **values, data__window=14)
    windows = task.encoded["test"].windows
    assert len(windows.tokens) > 2 and task.encoded["test"].word_counts == (len(words),)
    bounds = [each[each >= 0] for each in (rows for rows in task.datasets["test"].token_fields["bounds"])]
    assert sorted(np.concatenate(bounds).tolist()) == [*[0] * (len(words) - 2), 1, 2]
    outputs, loss, _ = computed(task, graphdef, params)
    scores = read_words(task.objective.spec, task.encoded["test"], outputs)
    assert [len(each) for each in scores.decode("viterbi")] == [len(words)]
    # A cut leaves out the transition between its words, so that the loss of windows is not that of the sentence.
    assert np.isfinite(float(loss.total)) and 0 < float(loss.total) < 1e6
    assert abs(float(loss.total) - task.scorer("test").metrics(outputs)["loss"] * len(words)) > 1e-3


def test_the_mean_of_pieces_is_not_the_first_piece(folder: pathlib.Path) -> None:
    task, graphdef, params = made(folder, task__head="softmax")
    first = dataclasses.replace(task.objective, spec=dataclasses.replace(task.objective.spec, word_pooling="first"))
    pooled, plain = (
        computed(dataclasses.replace(task, objective=objective), graphdef, params)[0]["logits"]
        for objective in (task.objective, first)
    )
    encoded = task.encoded["test"]
    for tokens, means, firsts, at in zip(
        encoded.windows.tokens,
        encoded.windows.word_pieces,
        encoded.windows.words,
        encoded.rows.example_locations,
        strict=True,
    ):
        row, _, start = at
        for place in np.flatnonzero(firsts >= 0):
            pieces = np.flatnonzero(means == firsts[place])
            np.testing.assert_allclose(
                pooled[row, start + place], plain[row, start + pieces].mean(axis=0), rtol=1e-5, atol=1e-5
            )
        assert len(tokens) == len(means)
    assert np.abs(pooled - plain)[encoded.rows.labels >= 0].max() > 0.1


def test_a_run_is_used_by_every_program(folder: pathlib.Path) -> None:
    evaluation = evaluate(folder / "run", "test")
    report = json.loads((folder / "run" / "report.json").read_text())
    assert report["splits"]["test"]["f1"] == pytest.approx(evaluation.metrics["f1"])
    spec = json.loads((folder / "run" / "task.json").read_text())
    assert (spec["head"], spec["word_pooling"], spec["decoding"]) == ("crf", "mean", "viterbi")
    records = list(evaluation.predictions)
    results = Model(folder / "run").stream([{"tokens": record["words"]} for record in records])
    for record, result in zip(records, results, strict=True):
        found = [(e["start_word"], e["end_word"], e["type"]) for e in result["entities"]]
        assert found == entity_spans(record["predicted"])
        assert all(0 < e["score"] <= 1 for e in result["entities"])
    assert [result["entities"] for result in Model(folder / "run")(["", " "])] == [[], []]


def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(folder: pathlib.Path) -> None:
    config = tiny.config(folder, **BOTH, train__steps=6, eval__every_steps=3)
    whole = open_run(folder / "run").restore(make_mesh(config.parallel.mesh), DEFAULT_BUILD).to_host()
    with pytest.MonkeyPatch.context() as patch:
        stopped_run(patch)
        with pytest.raises(KeyboardInterrupt):
            train(config, folder / "stopped")
    train(config, folder / "stopped")
    again = open_run(folder / "stopped").restore(make_mesh(config.parallel.mesh), DEFAULT_BUILD).to_host()
    for name, value in whole.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)
    assert np.abs(whole["chain/pairs"]).max() > 0


def stopped_run(patch: pytest.MonkeyPatch) -> None:
    """Has the first run end after its first evaluation, which the next one goes on from."""
    from jaxfm.tasks.ner.scorer import NerScorer

    metrics, calls = NerScorer.metrics, []

    def counted(self: NerScorer, outputs: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return metrics(self, outputs)

    patch.setattr(NerScorer, "metrics", counted)


def test_a_next_run_takes_the_transitions_and_low_rank_updates_go_with_them(folder: pathlib.Path) -> None:
    config = tiny.config(folder, **BOTH, model__init=f"run:{folder / 'run'}", train__steps=2, adapt__lora__rank=2)
    _, loaded = registry.create(config, resolve(config.model))
    assert {"chain/start", "chain/end", "chain/pairs"} <= set(loaded)
    train(config, folder / "next")
    assert 0 <= evaluate(folder / "next", "test").metrics["f1"] <= 1
    plain = dataclasses.replace(config, task=dataclasses.replace(config.task, head="softmax"))
    task, loaded = registry.create(plain, resolve(plain.model))
    assert not any(name.startswith("chain/") for name in loaded)
    assert any("weights not used: chain" in note for note in task.notes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task__decoding", "argmax"),
        ("task__loss__label_smoothing", 0.1),
        ("task__loss__class_weights", "balanced"),
        ("task__loss__focal_gamma", 2.0),
        ("task__loss__r_drop", 1.0),
    ],
)
def test_what_means_nothing_to_a_crf_is_refused(folder: pathlib.Path, key: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"config\.{key.replace('__', '.')}: (is )?{value!r}.*config\.task\.head"):
        made(folder, **{key: value})
    config = tiny.config(folder, **BOTH, **{key: value})
    with pytest.raises(UserError, match=r"config\.task\.head"):
        registry.abstract_objective(config, tiny.ENCODER)


def test_an_export_that_would_lose_the_transitions_is_refused(folder: pathlib.Path) -> None:
    for format in ("hf", "onnx"):
        with pytest.raises(UserError, match=r"no class for a tagger with a CRF \(task\.head=crf\)"):
            export(folder / "run", folder / "exported", format)
    spec = dataclasses.replace(open_run(folder / "run").spec, head="softmax")  # type: ignore[type-var]
    predictor = registry.definition("ner").predictor(folder / "run", spec)
    assert "the mean of all of them (task.word_pooling)" in predictor.hf_problem()
    export(folder / "run", folder / "program", "stablehlo")
    assert not (folder / "exported").exists()

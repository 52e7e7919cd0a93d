"""Changed words in training: substitutes against the masked LM itself, exact runs, and what the changes leave alone."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import Config
from jaxfm.core.objective import LossContext
from jaxfm.data.text.word_changes import choose_words, row_keys
from jaxfm.errors import UserError
from jaxfm.observe.writers import read_metrics
from jaxfm.parallel.mesh import make_mesh
from jaxfm.parallel.preemption import Paused
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.training import augmentation, mixup
from jaxfm.training.initial import find_teachers, resolve
from jaxfm.training.session import Session, make_session
from jaxfm.training.teachers import tokenizer_of
from tests import tiny

MASK = tiny.VOCABULARY.index("[MASK]")
UNKNOWN = tiny.VOCABULARY.index("[UNK]")
SPECIALS = 5
NONE: dict[str, Any] = {
    **{f"augment__{name}": 0.0 for name in ("word_dropout", "substitute", "start")},
    **{"augment__masked_lm": "", "augment__stop": 1.0},
}
CONTINUES = np.asarray([piece.startswith("##") for piece in tiny.VOCABULARY])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    made = tmp_path_factory.mktemp("augmentation")
    tiny.write_masked_lm_weights(made / "masked_lm")
    return made


@pytest.fixture(scope="module")
def config(folder: pathlib.Path) -> Config:
    """A classifier whose training words are hidden and replaced, without dropout."""
    return tiny.classification_config(
        folder,
        augment__word_dropout=0.3,
        augment__substitute=0.25,
        augment__masked_lm=f"dir:{folder / 'masked_lm'}",
        model__dropout=0.0,
        train__batch_size=8,
        train__steps=6,
        eval__every_steps=3,
        log__every_steps=1,
        checkpoint__keep_optimizer=True,
    )


@pytest.fixture(scope="module")
def run(config: Config, folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A run of all kinds at once, in a part of its updates."""
    train(everything(config), folder / "run")
    yield folder / "run"


def everything(config: Config) -> Config:
    return tiny.replaced(config, augment__mixup=0.5, augment__start=0.2, augment__stop=0.8)


def created(config: Config) -> Any:
    return registry.create(config, resolve(config.model))


def session_of(config: Config, task: Any, devices: Any = None) -> Session:
    mesh = make_mesh(config.parallel.mesh, devices)
    return make_session(
        config,
        task.objective,
        mesh,
        total_steps=6,
        teachers=find_teachers(config),
        find_tokenizer=lambda: tokenizer_of(task),
    )


def rows_of(task: Any, count: int = 8) -> dict[str, jax.Array]:
    return {name: jnp.asarray(value) for name, value in tiny.batch_of(task.datasets["train"], count).items()}


def changer(session: Session, batch: Any) -> Callable[..., np.ndarray]:
    """Returns (number of the step's key, progress) -> the tokens of a batch as training sees them."""
    changes, constants = session.changes, session.constants
    assert changes is not None

    @jax.jit
    def tokens(batch: Any, step: Any, progress: Any, constants: Any) -> Any:
        return changes.apply(batch, LossContext(jax.random.key(99), progress, constants, jax.random.key(step)))[0]

    return lambda step, progress=0.5: np.asarray(tokens(batch, step, progress, constants)["tokens"])


def test_hidden_words_are_a_share_of_whole_words(config: Config) -> None:
    config = tiny.replaced(config, augment__substitute=0.0, augment__masked_lm="")
    task, _ = created(config)
    batch = rows_of(task, len(task.datasets["train"]))
    for name, token in (("mask", MASK), ("unknown", UNKNOWN)):
        session = session_of(tiny.replaced(config, augment__dropped_to=name), task)
        tokens = np.asarray(batch["tokens"])
        free = tokens >= SPECIALS
        changed, seen, hidden = changer(session, batch), 0, 0
        for step in range(30):
            found = changed(step)
            different = found != tokens
            assert (found[different] == token).all() and not different[~free].any()
            # A piece that goes on with a word is hidden where the piece before it is.
            goes_on = CONTINUES[tokens[:, 1:]]
            assert (different[:, 1:] == different[:, :-1])[goes_on].all()
            seen, hidden = seen + free.sum(), hidden + different.sum()
        assert hidden / seen == pytest.approx(0.3, abs=0.02)


def test_substitutes_have_the_probabilities_of_the_masked_lm(config: Config, folder: pathlib.Path) -> None:
    """Against the softmax of transformers' own model of these weights, at the places that were masked together."""
    import torch
    import transformers

    temperature = 0.7
    config = tiny.replaced(config, augment__word_dropout=0.0, augment__temperature=temperature, data__packed=False)
    task, _ = created(config)
    session = session_of(config, task)
    changes, batch = session.changes, rows_of(task)
    assert changes is not None and changes.masked_lm is not None
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder / "masked_lm").eval()
    segments, tokens = np.asarray(batch["segment_ids"]), np.asarray(batch["tokens"])
    vocabulary, changed = changes.vocabulary, changer(session, batch)

    @jax.jit
    def masked_at(step: Any) -> Any:
        keys = row_keys(jax.random.fold_in(jax.random.key(step), augmentation._AUGMENT), batch["tokens"])
        first = jax.vmap(lambda key: jax.random.split(key, 3)[0])(keys)
        return choose_words(first, batch["tokens"], batch["segment_ids"], vocabulary, 0.25, limit=24)

    z, places = [], 0
    for step in range(80):
        masked, labels = masked_at(step)
        at, found = np.asarray(labels) >= 0, changed(step)
        assert (found == np.where(at, found, tokens)).all() and (CONTINUES[found[at]] == CONTINUES[tokens[at]]).all()
        assert (found[at] >= SPECIALS).all()
        with torch.no_grad():
            given = {"input_ids": torch.tensor(np.asarray(masked)).long(), "attention_mask": torch.tensor(segments)}
            logits = model(**given).logits.numpy()[..., : len(tiny.VOCABULARY)][at] / temperature
        allowed = (np.arange(len(tiny.VOCABULARY)) >= SPECIALS) & (CONTINUES == CONTINUES[tokens[at]][:, None])
        weights = np.where(allowed, np.exp(logits - logits.max(axis=1, keepdims=True)), 0.0)
        probabilities = weights / weights.sum(axis=1, keepdims=True)
        drawn = probabilities[np.arange(len(probabilities)), found[at]]
        mean, square = (probabilities**2).sum(axis=1), (probabilities**3).sum(axis=1)
        z.append(((drawn - mean).sum(), (square - mean**2).sum()))
        places += at.sum()
    total, variance = np.sum(z, axis=0)
    assert places > 1500 and abs(total) < 4 * np.sqrt(variance)


def test_words_of_entities_stay(folder: pathlib.Path) -> None:
    config = tiny.config(
        folder, augment__substitute=0.5, augment__masked_lm=f"dir:{folder / 'masked_lm'}", train__batch_size=8
    )
    task, _ = created(config)
    session, batch = session_of(config, task), rows_of(task, 16)
    tokens, labels = np.asarray(batch["tokens"]), np.asarray(batch["labels"])
    entity = np.zeros(tokens.shape, bool)
    for row, length in np.ndindex(tokens.shape):
        of = labels[row, length]
        is_piece = CONTINUES[tokens[row, length]] and length > 0
        entity[row, length] = entity[row, length - 1] if is_piece else of >= 0 and tiny.LABELS[of] != "O"
    assert entity.sum() > 30
    changed = changer(session, batch)
    different = np.stack([changed(step) != tokens for step in range(10)])
    assert not different[:, entity].any() and different[:, ~entity & (tokens >= SPECIALS)].any(axis=0).mean() > 0.8


def numbers(workdir: pathlib.Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if "second" not in key and "time" not in key}
        for line in read_metrics(workdir / "metrics.jsonl")
    ]


def test_a_run_that_is_stopped_goes_on_to_the_same_bits(
    config: Config, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    config = everything(config)
    with pytest.raises(Paused):
        train(config, tmp_path / "run", pause=lambda step, _: step == 3)
    train(config, tmp_path / "run")
    assert numbers(run) == numbers(tmp_path / "run")
    reports = [json.loads((workdir / "report.json").read_text())["splits"] for workdir in (run, tmp_path / "run")]
    assert reports[0] == reports[1]
    shares = [line["mixup_share"] for line in numbers(run) if line["split"] == "train"]
    assert [share > 0 for share in shares] == [False, False, True, True, True, False]


def gradients(config: Config, devices: Any = None) -> Any:
    task, _ = created(config)
    session = session_of(config, task, devices)
    state, constants = session.initial_state(0), session.constants
    batch = session.shard(tiny.batch_of(task.datasets["train"], 8))
    with jax.set_mesh(session.mesh):
        found = jax.jit(session.gradients)(state.params, state, batch, constants)
    return jax.tree.map(lambda leaf: np.asarray(leaf / found.weight), found.grads)


def assert_same(found: Any, wanted: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-6), found, wanted)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted)) > 1e-3


def test_micro_batches_and_meshes_change_nothing(config: Config) -> None:
    cut = {"train__accumulate": 2, "parallel__mesh__fsdp": 2, "parallel__mesh__tensor": 2, "parallel__mesh__data": 1}
    assert_same(gradients(tiny.replaced(config, **cut)), gradients(config, jax.devices()[:1]))


@pytest.mark.slow
def test_a_loss_that_compares_all_rows_has_them_changed_alike(folder: pathlib.Path) -> None:
    config = tiny.embedding_config(folder, augment__word_dropout=0.4, model__dropout=0.0, train__batch_size=8)
    whole = gradients(config)
    assert_same(gradients(tiny.replaced(config, train__accumulate=2)), whole)
    plain = gradients(tiny.replaced(config, augment__word_dropout=0.0))
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(*map(jax.tree.leaves, (whole, plain)), strict=True))


def lowered(config: Config) -> str:
    task, _ = created(config)
    return session_of(config, task).lower(8).as_text()


def test_without_changes_the_program_is_that_of_a_trainer_without_them(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny.replaced(config, **NONE)
    found = lowered(config)
    monkeypatch.setattr(augmentation, "text_changes", lambda *_: None)
    monkeypatch.setattr(mixup, "around", lambda _, objective: objective)
    assert found == lowered(config)
    monkeypatch.undo()
    assert found != lowered(tiny.replaced(config, augment__word_dropout=0.1))


def test_rows_are_changed_in_a_part_of_the_run_and_never_when_it_is_scored(config: Config) -> None:
    config = tiny.replaced(config, augment__start=0.25, augment__stop=0.75)
    task, loaded = created(config)
    session = session_of(config, task)
    batch = rows_of(task)
    changed = changer(session, batch)
    for progress, is_changed in ((0.0, False), (0.24, False), (0.25, True), (0.7, True), (0.75, False)):
        assert (changed(0, progress) != np.asarray(batch["tokens"])).any() == is_changed
    params = session.initial_state(0, loaded).params
    found = session.evaluator(8)(params, task.datasets["valid"])
    usual = make_session(tiny.replaced(config, **NONE), task.objective, session.mesh, total_steps=6)
    for name, values in usual.evaluator(8)(params, task.datasets["valid"]).items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["distil", "exits", "supernet"])
def test_every_objective_is_given_the_changed_rows(config: Config, folder: pathlib.Path, other: str) -> None:
    """Early heads, subnets and teachers see what the model sees."""
    given: dict[str, Any] = {
        "exits": {"exits__every": 1, "exits__distillation": 0.5},
        "supernet": {"supernet__depths": (1,)},
        "distil": {"distil__teacher": f"dir:{folder / 'weights'}", "distil__soft": 0.0, "distil__hidden": 1.0},
    }[other]
    config = tiny.replaced(config, **given)
    task, _ = created(config)
    session, batch = session_of(config, task), rows_of(task)
    state, constants = session.initial_state(0), session.constants
    objective, changes = session.objective, session.changes
    assert changes is not None

    @jax.jit
    def both(state: Any, batch: Any, constants: Any) -> Any:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        context = LossContext(key, 0.0, constants, key)
        model = nnx.merge(session.graphdef, state.params)
        before = objective.loss(model, *changes.apply(batch, context))
        plain = objective.loss(model, batch, context._replace(constants=constants.inner))
        return before.total, session.gradients(state.params, state, batch, constants).loss, plain.total

    with jax.set_mesh(session.mesh):
        wanted, found, plain = both(state, batch, constants)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert abs(float(plain - wanted)) > 1e-3


@pytest.mark.slow
def test_several_seeds_share_one_masked_lm(config: Config, tmp_path: pathlib.Path) -> None:
    config = everything(tiny.replaced(config, train__seeds=2))
    train(config, tmp_path / "both")
    (second,) = tmp_path.glob("both/*1")
    train(tiny.replaced(config, train__seeds=1, seed=1), tmp_path / "one")
    found, wanted = (
        [line["loss"] for line in numbers(each) if line["split"] == "train"] for each in (second, tmp_path / "one")
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_weights_that_are_no_masked_lm_are_refused(
    config: Config, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(UserError, match=r"config.augment.masked_lm: 'dir:.*weights' is not a masked LM: it lacks "):
        train(tiny.replaced(config, augment__masked_lm=f"dir:{folder / 'weights'}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"config.augment.masked_lm: 'run:.*holds no run of jaxfm"):
        train(tiny.replaced(config, augment__masked_lm=f"run:{tmp_path / 'none'}"), tmp_path / "run")


@pytest.mark.parametrize("kind", ["tokenizer", "positions"])
def test_a_masked_lm_that_cannot_read_the_rows_is_refused(
    config: Config, folder: pathlib.Path, tmp_path: pathlib.Path, kind: str
) -> None:
    other = tmp_path / "masked_lm"
    short = dataclasses.replace(tiny.ENCODER, max_positions=16)
    tiny.write_masked_lm_weights(other, short if kind == "positions" else tiny.ENCODER)
    message = r"config.augment.masked_lm: 'dir:.*' has 16 positions, but an example of this run may have \d+ tokens"
    if kind == "tokenizer":
        words = (other / "vocab.txt").read_text().split()
        (other / "vocab.txt").write_text("\n".join([*words[:5], *words[6:], words[5]]) + "\n")
        message = (
            r"config.augment.masked_lm: .* has another tokenizer than this run .* Name a masked LM of the tokenizer"
        )
    with pytest.raises(UserError, match=message):
        train(tiny.replaced(config, augment__masked_lm=f"dir:{other}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()

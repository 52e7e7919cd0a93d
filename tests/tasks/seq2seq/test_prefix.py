"""A prefix language model: its loss against numpy, what its tokens see, and its texts against whole passes."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.objective import LossContext
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.tasks import registry
from jaxfm.tasks.seq2seq.encoding import blank_rows, encoded_pairs, training_rows
from jaxfm.tasks.seq2seq.task import Seq2SeqTask
from jaxfm.training.initial import resolve
from tests import tiny

PARAMS = tiny.nested(tiny.random_masked_lm(tiny.ENCODER, seed=5))
KEY = jax.random.key(12)
SOURCES = ((5, 6, 7), (8, 9), (10, 11, 12, 5), (6, 6))
TARGETS = ((7, 6, 5), (9, 8), (5, 12, 11, 10), (6, 6))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Seq2SeqTask:
    config = tiny.seq2seq_config(tmp_path_factory.mktemp("prefix"), model__dropout=0.0, task__way="prefix")
    return registry.create(config, resolve(config.model))[0]  # type: ignore[return-value]


@pytest.fixture(scope="module")
def graph(task: Seq2SeqTask) -> Any:
    make = task.objective.spec.make_model
    return build_abstract(lambda: make(DEFAULT_BUILD, nnx.Rngs(0)), make_mesh(MeshConfig()))[0]


def rows_of(task: Seq2SeqTask) -> dict[str, Any]:
    spec, tokens = task.objective.spec, task.objective.tokens
    rows = training_rows(spec, tokens, encoded_pairs(spec, SOURCES, TARGETS), None)
    return {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}


def test_each_place_predicts_the_next_token_of_the_target_alone(task: Seq2SeqTask) -> None:
    spec, tokens = task.objective.spec, task.objective.tokens
    rows = training_rows(spec, tokens, encoded_pairs(spec, SOURCES, TARGETS), None)
    for source, target, (row, segment, start) in zip(SOURCES, TARGETS, rows.example_locations.tolist(), strict=True):
        size, before = len(source) + 2 + len(target), len(source) + 2
        inside = slice(start, start + size)
        assert rows.tokens[row, inside].tolist() == [tokens.opening, *source, tokens.separator, *target]
        assert rows.labels[row, inside].tolist() == [-1] * (before - 1) + [*target, tokens.separator]
        horizons = rows.token_fields["horizons"][row, inside].tolist()
        assert horizons == [before - 1] * before + list(range(before, size))
        assert (rows.segment_ids[row, inside] == segment + 1).all()
        assert rows.type_ids is not None and rows.type_ids[row, inside].tolist() == [0] * before + [1] * len(target)
    assert task.objective.spec.encoder.sight == "prefix"


def test_the_loss_is_that_of_numpy(task: Seq2SeqTask, graph: Any) -> None:
    """Each pair alone in a row, and the probability of each next token given a row that ends before it."""
    spec, batch = task.objective.spec, rows_of(task)
    loss = jax.jit(lambda params: task.objective.loss(nnx.merge(graph, params), batch, LossContext(KEY)))(PARAMS)
    total = 0.0
    for source, target in zip(SOURCES, TARGETS, strict=True):
        tokens = task.objective.tokens
        before = [tokens.opening, *source, tokens.separator]
        for index, wanted in enumerate((*target, tokens.separator)):
            row = [*before, *target[:index]]
            logits = whole_logits(graph, row, len(before))[-1]
            total += float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[wanted])
    assert float(loss.total) == pytest.approx(total, rel=1e-4)
    assert float(loss.weight) == sum(len(target) + 1 for target in TARGETS)
    assert spec.targets >= max(len(target) for target in TARGETS)


def whole_logits(graph: Any, row: list[int], before: int) -> np.ndarray:
    """The vocabulary's logits [T, V] of one segment, whose first `before` tokens are the prefix, in float64."""
    size = len(row)
    batch = {
        "tokens": jnp.asarray([row]),
        "segment_ids": jnp.ones((1, size), jnp.int32),
        "positions": jnp.arange(size)[None],
        "type_ids": (jnp.arange(size) >= before).astype(jnp.int32)[None],
        "horizons": jnp.maximum(jnp.arange(size), before - 1)[None],
    }
    model = nnx.merge(graph, PARAMS)
    return np.asarray(model.logits(model.hidden(batch))[0], np.float64)


def test_no_token_sees_a_later_one_or_another_segment(task: Seq2SeqTask, graph: Any) -> None:
    batch = rows_of(task)
    segments, labels = np.asarray(batch["segment_ids"]), np.asarray(batch["labels"])
    positions, horizons = np.asarray(batch["positions"]), np.asarray(batch["horizons"])
    words = jax.random.normal(KEY, (*segments.shape, tiny.ENCODER.hidden_size))

    def loss_at(words: jax.Array, place: Any) -> jax.Array:
        model = nnx.merge(graph, PARAMS)
        log_p = jax.nn.log_softmax(model.logits(model.hidden({**batch, "word_vectors": words})))
        return jnp.take_along_axis(log_p, jnp.maximum(batch["labels"], 0)[..., None], -1)[..., 0][0, place]

    gradient = jax.jit(jax.grad(loss_at))
    for place in np.flatnonzero(labels[0] >= 0):
        seen = np.abs(np.asarray(gradient(words, int(place)))).sum(-1)[0] > 0
        expected = (segments[0] == segments[0, place]) & (positions[0] <= horizons[0, place])
        np.testing.assert_array_equal(seen, expected)
        if labels[0, place - 1] >= 0:  # the source's separator sees its source whole; a target token nothing later
            assert not seen[place + 1 :].any()


def greedy_alone(task: Seq2SeqTask, graph: Any, source: tuple[int, ...]) -> list[int]:
    """One source, a whole pass for each token."""
    spec, tokens = task.objective.spec, task.objective.tokens
    before = [tokens.opening, *source, tokens.separator]
    row = list(before)
    while len(row) - len(before) < spec.lengths.most:
        logits = whole_logits(graph, row, len(before))[-1]
        logits[[tokens.opening, tokens.padding, tokens.mask]] = -np.inf
        best = int(logits[: spec.encoder.vocab_size].argmax())
        if best == tokens.separator:
            break
        row.append(best)
    return row[len(before) :]


def written(task: Seq2SeqTask, graph: Any, sources: Any, **decoding: Any) -> list[list[int]]:
    spec = task.objective.spec
    objective = dataclasses.replace(
        task.objective, spec=dataclasses.replace(spec, decoding=dataclasses.replace(spec.decoding, **decoding))
    )
    rows = blank_rows(spec, objective.tokens, sources)
    batch = {name: jnp.asarray(value) for name, value in rows.take(np.arange(len(rows))).items()}
    found = jax.jit(lambda params: objective.write(nnx.merge(graph, params), batch))(PARAMS)
    tokens = np.asarray(found.tokens_BSM)
    return [
        [token for token in tokens[row, segment].tolist() if token >= 0]
        for row, segment, _ in rows.example_locations.tolist()
    ]


def test_greedy_texts_of_packed_sources_are_those_of_whole_passes(task: Seq2SeqTask, graph: Any) -> None:
    assert written(task, graph, SOURCES) == [greedy_alone(task, graph, source) for source in SOURCES]


def test_beams_find_no_less_likely_texts_and_draws_are_of_the_source_alone(task: Seq2SeqTask, graph: Any) -> None:
    drawn = {"method": "sample", "temperature": 1.5, "top_p": 0.9, "seed": 3}
    assert written(task, graph, SOURCES, **drawn)[1] == written(task, graph, SOURCES[1:2], **drawn)[0]
    assert written(task, graph, SOURCES, **drawn) != written(task, graph, SOURCES, **{**drawn, "seed": 4})

    def likelihood(source: tuple[int, ...], target: list[int]) -> float:
        tokens = task.objective.tokens
        before = [tokens.opening, *source, tokens.separator]
        logits = whole_logits(graph, [*before, *target], len(before))
        log_p = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        log_p -= logits.max(-1, keepdims=True)
        ended = [*target, tokens.separator] if len(target) < task.objective.spec.lengths.most else target
        return float(sum(log_p[len(before) - 1 + place, token] for place, token in enumerate(ended)))

    greedy = written(task, graph, SOURCES)
    beams = written(task, graph, SOURCES, method="beam", beams=16, length_penalty=0.0)
    for source, one, other in zip(SOURCES, greedy, beams, strict=True):
        assert likelihood(source, other) >= likelihood(source, one) - 1e-4

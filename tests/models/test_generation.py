"""Texts written token by token: greedy and sampled, their rules, and what they are beside transformers' own."""

# B rows, S segments, M new tokens, V vocabulary

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.decoding_config import Decoding
from jaxfm.errors import UserError
from jaxfm.models.generation import Generated, check_lengths, generate, sample
from jaxfm.parallel import mesh as meshes
from tests.models import decoders
from tests.models.decoders import END

SPECIAL = (0, 1, 2, 4, 5, 6, 7)


def but(*tokens: int) -> tuple[int, ...]:
    """Returns all tokens but these."""
    return tuple(token for token in range(96) if token not in tokens)


@functools.cache
def program(config: EncoderConfig, settings: Decoding, segments: int, **given: Any) -> Any:
    """Returns jitted (params, batch) -> Generated."""
    graphdef, _ = decoders.model(config)

    def run(params: Any, batch: Any, numbers_BS: Any = None) -> Generated:
        model = nnx.merge(graphdef, params)
        return generate(model, batch, settings, end_id=END, segments=segments, numbers_BS=numbers_BS, **given)

    return jax.jit(run)


def written(config: EncoderConfig, settings: Decoding, batch: Any, numbers_BS: Any = None, **given: Any) -> Any:
    segments = int(batch["segment_ids"].max())
    found = program(config, settings, segments, **given)(decoders.model(config)[1], batch, numbers_BS)
    return jax.tree.map(np.asarray, found)


def texts(found: Any) -> list[list[tuple[int, ...]]]:
    """Returns the tokens of each text without its end, row by row; checks that after the end there is nothing else."""
    for tokens, lengths in zip(found.tokens, found.lengths, strict=True):
        for text, length in zip(tokens, lengths, strict=True):
            assert (text[length:] == END).all() and END not in text[:length]
    return [
        [tuple(map(int, text[:length])) for text, length in zip(tokens, lengths, strict=True)]
        for tokens, lengths in zip(found.tokens, found.lengths, strict=True)
    ]


def greedy(whole: decoders.Uncached, prompt: Sequence[int], settings: Decoding, forbidden: Sequence[int] = ()) -> Any:
    """Returns (tokens without the end, sum of log probabilities) by whole texts, each rule in its plainest form."""
    new: list[int] = []
    total, size = 0.0, settings.no_repeat_ngram
    while len(new) < settings.max_tokens:
        log_probs = whole.log_probs([*prompt, *new])
        banned = set(forbidden) | ({END} if len(new) < settings.min_tokens else set())
        if size:
            seen = {tuple(new[i : i + size]) for i in range(len(new) - size + 1)}
            banned |= {token for token in range(96) if (*new[len(new) - size + 1 :], token)[-size:] in seen}
        allowed = [token for token in range(96) if token not in banned] or [END]
        token = max(allowed, key=lambda each: log_probs[each])
        total += log_probs[token]
        if token == END:
            break
        new.append(token)
    return tuple(new), total


RULES = {
    "plain": (Decoding(max_tokens=12), ()),
    "longer": (Decoding(max_tokens=12, min_tokens=6), SPECIAL),
    "no token twice": (Decoding(max_tokens=12, no_repeat_ngram=1, min_tokens=11), SPECIAL),
    "no pair twice": (
        Decoding(max_tokens=20, no_repeat_ngram=2, min_tokens=4),
        but(3, 20, 21, 22),
    ),
    "no triple twice": (Decoding(max_tokens=20, no_repeat_ngram=3), but(3, 30, 31)),
    "nothing left": (Decoding(max_tokens=8, no_repeat_ngram=1, min_tokens=6), but(3, 40, 41)),
    "one token": (Decoding(max_tokens=1), ()),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("config", [decoders.BERT, decoders.MODERN], ids=["bert", "modernbert"])
def test_greedy_is_what_whole_texts_give(config: EncoderConfig, name: str) -> None:
    settings, forbidden = RULES[name]
    found, whole = written(config, settings, decoders.packed(), forbidden=forbidden), decoders.Uncached(config)
    ours = texts(found)
    for row, prompts in enumerate(decoders.ROWS):
        for segment, prompt in enumerate(prompts):
            expected, total = greedy(whole, decoders.prompts()[prompt], settings, forbidden)
            assert ours[row][segment] == expected
            np.testing.assert_allclose(found.scores[row, segment], total, atol=1e-3)
    assert found.lengths[0, 2] == 0 and found.scores[0, 2] == 0  # the first row has two segments
    if name == "nothing left":
        assert set(found.lengths[1]) == {2}


def test_texts_end_by_themselves_and_what_has_ended_stays() -> None:
    favoured = raised_end(decoders.BERT, 2.5)
    found = program(decoders.BERT, Decoding(max_tokens=20), 3)(favoured, decoders.packed())
    found = jax.tree.map(np.asarray, found)
    lengths = [*found.lengths[0, :2], *found.lengths[1]]
    assert len(set(lengths)) > 2 and min(lengths) < 6 and max(lengths) > 9
    texts(found)
    shorter = program(decoders.BERT, Decoding(max_tokens=7), 3)(favoured, decoders.packed())
    np.testing.assert_array_equal(shorter.tokens, found.tokens[..., :7])
    np.testing.assert_array_equal(shorter.lengths, np.minimum(found.lengths, 7))


def raised_end(config: EncoderConfig, by: float) -> Any:
    """Returns the model's parameters with a greater bias of the end token."""
    params = jax.tree.map(np.array, decoders.model(config)[1])
    params["decoder"]["bias"][END] += by
    return params


def test_packed_with_others_is_alone() -> None:
    together = Decoding(max_tokens=10)
    for settings in (together, dataclasses.replace(together, method="sample", top_p=0.9, temperature=1.3)):
        found = texts(written(decoders.GEMMA, settings, decoders.packed()))
        for row, prompts in enumerate(decoders.ROWS):
            for segment, prompt in enumerate(prompts):
                alone = decoders.batch_of([[decoders.prompts()[prompt]]], 24)
                assert texts(written(decoders.GEMMA, settings, alone))[0][0] == found[row][segment]


def test_one_compilation_serves_every_batch_of_a_shape() -> None:
    traced = []
    graphdef, params = decoders.model(decoders.BERT)

    @jax.jit
    def run(params: Any, batch: Any) -> Generated:
        traced.append(1)
        return generate(nnx.merge(graphdef, params), batch, Decoding(max_tokens=4), end_id=END, segments=3)

    first = run(params, decoders.packed())
    second = run(params, decoders.packed(((1,), (4, 0))))
    assert len(traced) == 1 and (first.tokens[0, 1] == second.tokens[0, 0]).all()


def test_the_same_on_four_devices() -> None:
    four = (*decoders.ROWS, (1,), (0, 4))
    graphdef, params = decoders.model(decoders.EURO)
    for settings in (Decoding(max_tokens=6), Decoding(method="beam", max_tokens=6, beams=2, no_repeat_ngram=2)):

        def run(params: Any, batch: Any, settings: Decoding = settings) -> Generated:
            return generate(nnx.merge(graphdef, params), batch, settings, end_id=END, segments=3)

        expected = jax.jit(run)(params, decoders.packed(four))
        mesh = meshes.make_mesh(MeshConfig(data=4), jax.devices()[:4])
        with jax.set_mesh(mesh):
            rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
            found = jax.jit(run)(params, jax.device_put(decoders.packed(four), rows))
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_array_equal(found.lengths, expected.lengths)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def test_a_text_ends_where_positions_end() -> None:
    config = dataclasses.replace(decoders.BERT, max_positions=12)
    found = written(config, Decoding(max_tokens=8, min_tokens=7), decoders.packed(), forbidden=SPECIAL)
    whole = decoders.Uncached(config, 12)
    for row, prompts in enumerate(decoders.ROWS):
        for segment, prompt in enumerate(prompts):
            room = min(8, 12 - len(decoders.prompts()[prompt]))
            expected, _ = greedy(
                whole, decoders.prompts()[prompt], Decoding(max_tokens=room, min_tokens=room - 1), SPECIAL
            )
            assert found.lengths[row, segment] in (room, room - 1)
            assert texts(found)[row][segment] == expected
    with pytest.raises(
        UserError, match=r"task.max_tokens: is 8, .* has 9 tokens .* 12 positions. At most 3 new tokens"
    ):
        check_lengths(config, Decoding(max_tokens=8), 9, "task.")
    with pytest.raises(UserError, match="Shorten the prefix"):
        check_lengths(config, Decoding(max_tokens=8), 12)
    check_lengths(config, Decoding(max_tokens=3), 9)


@pytest.mark.parametrize("top_p, temperature", [(1.0, 1.0), (0.8, 1.0), (0.35, 2.0), (1e-6, 1.0)])
def test_tokens_are_drawn_by_their_probabilities(top_p: float, temperature: float) -> None:
    logits = np.array([1.0, -0.5, 2.0, 0.3, -30.0, 1.4, 0.0, -1e30])
    scaled = np.exp(logits / temperature - (logits / temperature).max())
    expected = scaled / scaled.sum()
    order, kept, total = np.argsort(-expected), np.zeros(8, bool), 0.0
    for token in order:
        if total >= top_p:
            break
        kept[token], total = True, total + expected[token]
    expected = np.where(kept, expected, 0) / expected[kept].sum()
    draws = 20_000
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(1), n))(jnp.arange(draws))[None]
    drawn = jax.jit(sample, static_argnums=(3, 4))(
        keys, jnp.broadcast_to(jnp.float32(logits), (1, draws, 8)), 3, temperature, top_p
    )
    counts = np.bincount(np.asarray(drawn)[0], minlength=8)
    possible = expected * draws > 1e-3
    assert counts[~possible].sum() == 0
    statistic = ((counts - expected * draws)[possible] ** 2 / (expected * draws)[possible]).sum()
    # The 99.9 % quantiles of chi-square with 0 to 6 degrees of freedom.
    assert statistic <= (1e-9, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46)[possible.sum() - 1]


def test_whole_texts_are_drawn_by_their_probabilities() -> None:
    """All texts of two tokens over four: 3000 draws of one prefix against the products of their probabilities."""
    forbidden, prompt, draws = but(3, 20, 21, 22), decoders.prompts()[0], 3000
    batch = decoders.batch_of([[prompt] * 3] * (draws // 3), 16)
    numbers = np.arange(draws).reshape(-1, 3)
    settings = Decoding(method="sample", max_tokens=2, temperature=5.0, seed=11)
    rows = texts(written(decoders.BERT, settings, batch, numbers, forbidden=forbidden))
    found = [text for row in rows for text in row]
    whole, chances = decoders.Uncached(decoders.BERT), {}

    def chance(text: Sequence[int]) -> dict[int, float]:
        weights = {token: np.exp(whole.log_probs(text)[token] / 5.0) for token in (3, 20, 21, 22)}
        return {token: weight / sum(weights.values()) for token, weight in weights.items()}

    for first, of_first in chance(prompt).items():
        if first == END:
            chances[()] = of_first
            continue
        for second, of_second in chance([*prompt, first]).items():
            text = (first,) if second == END else (first, second)
            chances[text] = chances.get(text, 0.0) + of_first * of_second
    assert set(found) <= set(chances) and len(chances) == 13
    statistic = sum((found.count(text) - draws * p) ** 2 / (draws * p) for text, p in chances.items())
    assert statistic < 32.91  # the 99.9 % quantile of chi-square with 12 degrees of freedom
    assert sum(draws * p > 20 for p in chances.values()) > 6


def test_seeds_and_numbers_decide_what_is_drawn() -> None:
    settings = Decoding(method="sample", max_tokens=10, temperature=3.0)
    other = dataclasses.replace(settings, seed=1)
    first, again, second = (
        written(decoders.BERT, each, decoders.packed()).tokens for each in (settings, settings, other)
    )
    assert (first == again).all() and (first != second).any(axis=-1)[0, :2].all()
    same = decoders.batch_of([[decoders.prompts()[0]] * 2], 16)
    equal, numbered = (written(decoders.BERT, settings, same, numbers) for numbers in (None, np.array([[0, 1]])))
    assert (equal.tokens[0, 0] == equal.tokens[0, 1]).all() and (equal.tokens[0, 0] == first[0, 0]).all()
    assert (numbered.tokens[0, 0] != numbered.tokens[0, 1]).any()


def test_sampling_near_temperature_zero_and_of_one_token_is_greedy() -> None:
    expected = written(decoders.BERT, Decoding(max_tokens=10), decoders.packed()).tokens
    cold = Decoding(method="sample", max_tokens=10, temperature=0.001)
    for settings in (cold, Decoding(method="sample", max_tokens=10, top_p=1e-6)):
        np.testing.assert_array_equal(written(decoders.BERT, settings, decoders.packed()).tokens, expected)


MISTAKES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "method": ({"method": "beams"}, {}, "decoding.method: is 'beams'. Did you mean 'beam'?"),
    "max_tokens": ({"max_tokens": 0}, {}, "decoding.max_tokens: is 0, but must be at least 1"),
    "min_tokens": ({"max_tokens": 4, "min_tokens": 4}, {}, "must be below decoding.max_tokens (4)"),
    "beams": ({"method": "beam", "beams": 1}, {}, "decoding.beams: is 1, but must be at least 2"),
    "temperature": ({"temperature": 0.0}, {}, "decoding.temperature: is 0.0"),
    "top_p": ({"top_p": 1.5}, {}, "decoding.top_p: is 1.5, but must be at most 1.0"),
    "stop": ({"stop": "never"}, {}, "decoding.stop: is 'never'"),
    "end": ({}, {"end_id": 96}, "end_id: has 96, but tokens are from 0 to 95"),
    "forbidden": ({}, {"end_id": 3, "forbidden": (5, 100)}, "forbidden: has 100"),
    "no end": ({}, {"end_id": 3, "forbidden": (3,)}, "forbidden: has 3, which is the end token"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said(name: str) -> None:
    values, given, part = MISTAKES[name]
    model, batch = nnx.merge(*decoders.model(decoders.BERT)), decoders.packed()
    with pytest.raises(UserError) as caught:
        generate(model, batch, Decoding(**values), **{"end_id": END, "segments": 3, **given})
    assert part in str(caught.value)

"""Layers with a cache give, token by token, what they give for whole texts without one."""

# B rows, S segments, R texts a segment, M new tokens, V vocabulary

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.encoder_config import CAUSAL, FULL, PREFIX, EncoderConfig
from jaxfm.errors import UserError
from jaxfm.models.cached_layers import CachedLayers, Step, unsupported_reason
from jaxfm.parallel import mesh as meshes
from tests.models import decoders

CONFIGS = {
    "bert": decoders.BERT,
    "modernbert": decoders.MODERN,
    "eurobert": decoders.EURO,
    "gemma": decoders.GEMMA,
    "albert": decoders.ALBERT,
    "bert, prefix": dataclasses.replace(decoders.BERT, sight=PREFIX),
    "modernbert, prefix": dataclasses.replace(decoders.MODERN, sight=PREFIX),
    "adapters": dataclasses.replace(decoders.BERT, adapter_size=4, lora_rank=2, lora_targets=("query", "value")),
}
TOKENS = 6


def stepwise(
    config: EncoderConfig, batch: Any, new_BSRM: np.ndarray, parents: Sequence[Sequence[int]] = (), **given: Any
) -> list[np.ndarray]:
    """Returns the logits [B, S, R, V] after the prefixes and after each new token; `parents`: whom text r takes over.

    `parents[m]` is what happens before new token m is read.
    """
    graphdef, params = decoders.model(config, **given.pop("model", {}))
    segments, (rows, _, texts, tokens) = int(batch["segment_ids"].max()), new_BSRM.shape

    @jax.jit
    def start(params: Any) -> Any:
        model = nnx.merge(graphdef, params)
        layers = CachedLayers(model.encoder, segments, **given)
        prefixes = layers.prefixes(batch)
        return model.logits(prefixes.hidden_BSD), prefixes, layers.nothing_written(prefixes, texts, tokens)

    @jax.jit
    def step(params: Any, prefixes: Any, written: Any, step: Step) -> Any:
        model = nnx.merge(graphdef, params)
        hidden, written = CachedLayers(model.encoder, segments, **given).step(prefixes, written, step)
        return model.logits(hidden.reshape(rows, -1, hidden.shape[-1])).reshape(*hidden.shape[:3], -1), written

    logits, prefixes, written = start(params)
    found = [np.repeat(np.asarray(logits)[:, :, None], texts, axis=2)]
    slots = np.zeros((rows, segments, texts, tokens), np.int32)
    for number in range(tokens):
        if parents:
            slots = slots[:, :, list(parents[number])]
        logits, written = step(
            params, prefixes, written, Step(jnp.asarray(new_BSRM[..., number]), jnp.int32(number), jnp.asarray(slots))
        )
        slots[..., number] = np.arange(texts)
        found.append(np.asarray(logits))
    return [each[..., :96] for each in found]


def new_tokens(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).integers(8, 96, shape).astype(np.int32)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_of_every_step_are_those_of_whole_texts(name: str) -> None:
    batch, new = decoders.packed(), new_tokens(2, 3, 1, TOKENS)
    found, whole = stepwise(CONFIGS[name], batch, new), decoders.Uncached(CONFIGS[name])
    for row, prompts in enumerate(decoders.ROWS):
        for segment, prompt in enumerate(prompts):
            text = [*decoders.prompts()[prompt], *new[row, segment, 0]]
            expected = whole.logits(text, len(text) - TOKENS)[-TOKENS - 1 :]
            ours = np.stack([logits[row, segment, 0] for logits in found])
            np.testing.assert_allclose(ours, expected, atol=2e-5 * np.abs(expected).max())
            assert np.abs(np.diff(expected, axis=0)).max() > 0.1


@pytest.mark.parametrize("name", ["bert", "modernbert", "gemma"])
def test_texts_of_one_prefix_share_it_and_take_over_what_others_wrote(name: str) -> None:
    parents = ((0, 0, 0), (0, 0, 2), (2, 1, 0), (1, 1, 1), (0, 2, 1), (2, 2, 0))
    batch, new = decoders.packed(), new_tokens(2, 3, 3, TOKENS)
    found, whole = stepwise(CONFIGS[name], batch, new, parents), decoders.Uncached(CONFIGS[name])
    for row, prompts in enumerate(decoders.ROWS):
        for segment, prompt in enumerate(prompts):
            texts = [list(decoders.prompts()[prompt])] * 3
            for number, taken in enumerate(parents):
                texts = [[*texts[taken[text]], new[row, segment, text, number]] for text in range(3)]
                for text in range(3):
                    expected = whole.logits(texts[text])[-1]
                    ours = found[number + 1][row, segment, text]
                    np.testing.assert_allclose(ours, expected, atol=2e-5 * np.abs(expected).max())


def test_another_sight_than_the_encoders_own() -> None:
    batch, new = decoders.packed(), new_tokens(2, 3, 1, 3)
    of = {sight: dataclasses.replace(decoders.MODERN, sight=sight) for sight in (FULL, CAUSAL, PREFIX)}
    for sight in (CAUSAL, PREFIX):
        for ours, own in zip(stepwise(of[FULL], batch, new, sight=sight), stepwise(of[sight], batch, new), strict=True):
            np.testing.assert_array_equal(ours, own)
    # Horizons of a batch are followed: those of a causal encoder make a prefix causal.
    causal = batch | {"horizons": batch["positions"]}
    for ours, own in zip(stepwise(of[PREFIX], causal, new), stepwise(of[CAUSAL], batch, new), strict=True):
        np.testing.assert_allclose(ours[0, :2], own[0, :2], atol=1e-4)


def test_new_tokens_have_the_type_that_is_given() -> None:
    batch, new = decoders.packed(((0,),)), new_tokens(1, 1, 1, 3)
    graphdef, params = decoders.model(decoders.BERT)
    text = [*decoders.prompts()[0], *new[0, 0, 0]]
    whole = decoders.batch_of([[text]], 16) | {"type_ids": np.array([[0] * 5 + [1] * 3 + [0] * 8], np.int32)}
    model = nnx.merge(graphdef, params)
    expected = np.asarray(model.logits(model.hidden(whole)))[0, 4:8, :96]
    found = [np.stack([each[0, 0, 0] for each in stepwise(decoders.BERT, batch, new, type_id=of)]) for of in (1, 0)]
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    assert np.abs(found[1][1:] - expected[1:]).max() > 0.1


def test_bf16_is_as_near_to_f32_as_whole_texts_in_bf16_are() -> None:
    batch, new, half = decoders.packed(), new_tokens(2, 3, 1, TOKENS), Build(jnp.dtype(jnp.bfloat16))
    exact, ours = (stepwise(decoders.GEMMA, batch, new, model={"build": build}) for build in (Build(), half))
    text = [*decoders.prompts()[0], *new[0, 0, 0]]
    whole = [decoders.Uncached(decoders.GEMMA, build=build).logits(text)[4 : 5 + TOKENS] for build in (Build(), half)]
    error = np.abs(np.stack([each[0, 0, 0] for each in ours]) - np.stack([each[0, 0, 0] for each in exact]))
    assert 0 < error.mean() < 1.5 * np.abs(whole[1] - whole[0]).mean()


@pytest.mark.parametrize("sizes", [{"data": 4}, {"data": 2, "tensor": 2}, {"fsdp": 2, "sequence": 2}], ids=str)
def test_the_same_on_a_mesh(sizes: dict[str, int]) -> None:
    four = (*decoders.ROWS, (1,), (0, 4))
    batch, new = decoders.packed(four), new_tokens(4, 3, 2, 3)
    expected = stepwise(decoders.EURO, batch, new)
    with jax.set_mesh(meshes.make_mesh(MeshConfig(**{"data": 1, **sizes}), jax.devices()[:4])):
        found = stepwise(decoders.EURO, batch, new)
    for row, prompts in enumerate(four):
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours[row, : len(prompts)], theirs[row, : len(prompts)], atol=1e-4)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "sees all": ({"sight": "full"}, "model.sight=causal"),
    "relative bias": (
        {"relative_positions": "bias", "relative_buckets": 8, "relative_distance": 16}, "relative positions (bias)"
    ),
    "disentangled": (
        {"relative_positions": "disentangled", "relative_distance": 16, "relative_terms": ("c2p",)}, "(disentangled)"
    ),
    "prefix": ({"prefix_length": 2}, "adapt.prefix_length"),
    "token dropout": ({"token_dropout_id": 4}, "token_dropout_id"),
    "padding": ({"reads_padding": True}, "reads padding"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_kept_is_refused(name: str) -> None:
    changes, part = REFUSED[name]
    config = dataclasses.replace(decoders.BERT, **changes)
    with pytest.raises(UserError, match="token by token") as caught:
        stepwise(config, decoders.packed(), new_tokens(2, 3, 1, 1))
    assert part in str(caught.value)


def test_encoders_of_images_are_refused_and_types_that_are_not_there() -> None:
    from jaxfm.families.registry import preset

    assert unsupported_reason(preset("vit_base")) == "it reads images"
    with pytest.raises(UserError, match="type_id: is 2, but this encoder has the types 0 to 1"):
        stepwise(decoders.BERT, decoders.packed(), new_tokens(2, 3, 1, 1), type_id=2)

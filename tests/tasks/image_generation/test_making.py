"""Which codes are masked, and how masks are filled, against slow versions that look at one image after the other."""

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
from jaxfm.parallel import mesh as meshes
from jaxfm.tasks.image_generation.making import drop_classes, make_images, mask_codes, open_after
from jaxfm.tasks.image_generation.objective import ImageGenerationObjective
from jaxfm.tasks.image_generation.rows import blank_rows, held_out_masks, held_out_rows, numbers_of, training_rows
from jaxfm.tasks.image_generation.spec import ImageGenerationSpec, ImageUnmaskingConfig, vocabulary_size
from tests import tiny

CODES, CELLS, CLASSES = 5, 16, 3


def spec_of(segments: int = 2) -> ImageGenerationSpec:
    encoder = dataclasses.replace(
        tiny.ENCODER, vocab_size=vocabulary_size(CODES, CLASSES), max_positions=CELLS + 1, num_layers=1, hidden_size=16,
        ffn_size=32, dropout=0.0, attention_dropout=0.0, initializer_range=0.3,
    )  # fmt: skip
    return ImageGenerationSpec(
        classes=("a", "b", "c"), encoder=encoder, image_size=4, patch_size=1, channels=1, resize="squash", codes=CODES,
        row_length=segments * (CELLS + 1) + 2, segments=segments, packed=segments > 1,
        unmasking=ImageUnmaskingConfig(),
    )  # fmt: skip


SPEC = spec_of()


def model_of(spec: ImageGenerationSpec) -> Any:
    def make() -> nnx.Module:
        return spec.make_model(DEFAULT_BUILD, nnx.Rngs(0))

    graphdef, _ = meshes.build_abstract(make, meshes.make_mesh(MeshConfig()))
    params = tiny.nested(tiny.drawn(make, spec.encoder, 0))
    return nnx.merge(graphdef, nnx.State(jax.tree.map(lambda value: nnx.Param(jnp.asarray(value)), params)))


MODEL = model_of(SPEC)


def batch_of(rows: Any) -> dict[str, jax.Array]:
    return {name: jnp.asarray(values) for name, values in rows.take(np.arange(len(rows))).items()}


def made(classes: list[int], numbers: list[int], settings: ImageUnmaskingConfig, spec: Any = SPEC) -> np.ndarray:
    """The codes [n, G] of images."""
    rows = blank_rows(spec, np.asarray(classes), np.asarray(numbers))
    written = jax.jit(lambda batch: make_images(MODEL, batch, spec, settings).tokens_BSM)(batch_of(rows))
    row, segment, _ = rows.example_locations.T
    return np.asarray(written)[row, segment]


def slowly_made(kind: int, number: int, settings: ImageUnmaskingConfig) -> tuple[np.ndarray, float]:
    """The codes of one image, pass by pass and cell by cell."""

    def logits(first: int, codes: np.ndarray) -> np.ndarray:
        tokens = np.asarray([[first, *codes]], np.int32)
        batch = {"tokens": tokens, "segment_ids": np.ones_like(tokens), "positions": np.arange(CELLS + 1)[None]}
        hidden = MODEL.hidden({name: jnp.asarray(values) for name, values in batch.items()})
        return np.asarray(MODEL.logits(hidden), np.float64)[0, 1:, :CODES]

    key = jax.random.fold_in(jax.random.key(settings.seed, impl="threefry2x32"), SPEC.class_token(kind))
    key = jax.random.fold_in(key, number)
    codes, scores, padded = np.full(CELLS, SPEC.mask), np.zeros(CELLS), SPEC.encoder.padded_vocab_size
    for step in range(settings.steps):
        told, untold = logits(SPEC.class_token(kind), codes), logits(SPEC.no_class, codes)
        mixed = (1 + settings.guidance) * told - settings.guidance * untold
        log = mixed - np.log(np.exp(mixed).sum(axis=-1, keepdims=True))
        order = {}
        drawn = {}
        for cell in np.flatnonzero(codes == SPEC.mask).tolist():
            own = jax.random.fold_in(jax.random.fold_in(key, step), cell)
            noise = np.asarray(jax.random.gumbel(own, (padded,)))[:CODES]
            drawn[cell] = int(np.argmax(log[cell] / settings.temperature + noise))
            chance = float(jax.random.gumbel(jax.random.fold_in(own, 1)))
            order[cell] = log[cell][drawn[cell]] + settings.order_noise * (1 - (step + 1) / settings.steps) * chance
        after = (
            int(np.floor(np.cos(np.pi / 2 * (step + 1) / settings.steps) * CELLS)) if step + 1 < settings.steps else 0
        )
        for cell in sorted(order, key=lambda cell: -order[cell])[: max(len(order) - after, 1)]:
            codes[cell], scores[cell] = drawn[cell], log[cell][drawn[cell]]
    return codes, scores.mean()


def test_images_are_those_of_a_slow_version() -> None:
    for steps, guidance in ((1, 0.0), (4, 1.5), (20, 0.0)):
        settings = ImageUnmaskingConfig(steps=steps, temperature=0.7, order_noise=2.0, guidance=guidance, seed=3)
        rows = blank_rows(SPEC, np.asarray([2, 0, 2]), np.asarray([0, 0, 1]))
        found = jax.jit(lambda batch, own=settings: make_images(MODEL, batch, SPEC, own))(batch_of(rows))
        for place, (kind, number) in zip(rows.example_locations.tolist(), ((2, 0), (0, 0), (2, 1)), strict=True):
            codes, score = slowly_made(kind, number, settings)
            np.testing.assert_array_equal(found.tokens_BSM[place[0], place[1]], codes)
            assert float(found.score_BS[place[0], place[1]]) == pytest.approx(score, abs=1e-4)


def test_what_else_is_in_a_row_changes_nothing() -> None:
    settings = ImageUnmaskingConfig(steps=3)
    together = made([0, 1, 2, 1, 1], [0, 0, 0, 1, 2], settings)
    each = ((0, 0), (1, 0), (2, 0), (1, 1), (1, 2))
    alone = np.concatenate([made([kind], [number], settings) for kind, number in each])
    np.testing.assert_array_equal(together, alone)
    single = made([0, 1, 2, 1, 1], [0, 0, 0, 1, 2], settings, spec_of(1))
    np.testing.assert_array_equal(together, single)
    assert len(np.unique(together, axis=0)) == 5
    assert (together != made([0, 1, 2, 1, 1], [0, 0, 0, 1, 2], dataclasses.replace(settings, seed=1))).any()


def test_at_temperature_0_without_noise_nothing_is_drawn() -> None:
    settings = ImageUnmaskingConfig(steps=4, temperature=0.0, order_noise=0.0)
    found = made([0, 0, 1], [0, 1, 0], settings)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found, made([0, 0, 1], [0, 1, 0], dataclasses.replace(settings, seed=9)))


class Constant:
    """A model that says the same of every cell."""

    def hidden(self, batch: Any) -> jax.Array:
        return jnp.zeros((*batch["tokens"].shape, 1))

    def logits(self, hidden: jax.Array) -> jax.Array:
        shares = jnp.asarray([0.5, 0.25, 0.125, 0.0625, 0.0625, 9.0, 9.0])  # nothing but codes is ever drawn
        return jnp.broadcast_to(jnp.log(jnp.pad(shares, (0, 121), constant_values=1e-9)), (*hidden.shape[:-1], 128))


def test_codes_are_drawn_by_their_probability() -> None:
    model = Constant()
    for temperature, power in ((1.0, 1.0), (0.5, 2.0)):
        settings = ImageUnmaskingConfig(steps=1, temperature=temperature)
        rows = batch_of(blank_rows(SPEC, np.zeros(300, int), np.arange(300)))
        found = np.asarray(make_images(model, rows, SPEC, settings).tokens_BSM)
        shares = np.asarray([0.5, 0.25, 0.125, 0.0625, 0.0625]) ** power
        shares /= shares.sum()
        counts = np.bincount(found.ravel(), minlength=CODES)
        assert counts.sum() == 300 * CELLS
        assert (np.abs(counts - shares * 4800) < 4.5 * np.sqrt(4800 * shares * (1 - shares))).all()


def test_the_schedule_of_passes() -> None:
    assert open_after(16, 1).tolist() == [0]
    assert open_after(16, 4).tolist() == [14, 11, 6, 0]
    assert open_after(64, 12)[-1] == 0 and (np.diff(open_after(64, 12)) < 0).all()


def codes_and_batch(images: int = 40) -> tuple[np.ndarray, dict[str, jax.Array]]:
    codes = np.random.default_rng(0).integers(0, CODES, (images, CELLS)).astype(np.int32)
    return codes, batch_of(training_rows(SPEC, codes, np.arange(images) % CLASSES, 0))


def test_masks_follow_the_cosine_and_each_image_has_one() -> None:
    codes, batch = codes_and_batch(600)
    seen, masked = mask_codes(jax.random.key(0), batch, SPEC)
    masked = np.asarray(masked)
    labels = np.asarray(batch["labels"])
    np.testing.assert_array_equal(seen["tokens"], np.where(masked, SPEC.mask, batch["tokens"]))
    np.testing.assert_array_equal(seen["labels"], np.where(masked, labels, -1))
    assert not masked[labels < 0].any()
    segments = np.asarray(batch["segment_ids"])
    counts = np.stack([(masked & (segments == number)).sum(axis=1) for number in (1, 2)], axis=1)
    assert counts.min() >= 1 and counts.max() == CELLS
    shares = counts.ravel() / CELLS
    # Of cos(pi u / 2), u from U(0, 1): its mean is 2 / pi, and half of the shares are above cos(pi / 4).
    assert shares.mean() == pytest.approx(2 / np.pi, abs=0.04)
    assert (shares > np.cos(np.pi / 4)).mean() == pytest.approx(0.5, abs=0.06)


def test_classes_that_are_not_told() -> None:
    _, batch = codes_and_batch(400)
    tokens = np.asarray(batch["tokens"])
    classes = (np.asarray(batch["positions"]) == 0) & (np.asarray(batch["segment_ids"]) > 0)
    found = np.asarray(drop_classes(jax.random.key(1), batch, SPEC, 0.25)["tokens"])
    np.testing.assert_array_equal(found[~classes], tokens[~classes])
    assert (found[classes] == SPEC.no_class).mean() == pytest.approx(0.25, abs=0.08)
    kept = found[classes] != SPEC.no_class
    np.testing.assert_array_equal(found[classes][kept], tokens[classes][kept])


def test_the_loss_is_of_masked_codes_alone() -> None:
    _, batch = codes_and_batch()
    context = LossContext(jax.random.key(2))
    found = ImageGenerationObjective(SPEC).loss(MODEL, batch, context)
    seen, masked = mask_codes(jax.random.split(context.key, 3)[0], batch, SPEC)
    log = jax.nn.log_softmax(MODEL.logits(MODEL.hidden(seen)))
    labels = np.maximum(np.asarray(batch["labels"]), 0)
    said = np.take_along_axis(np.asarray(log), labels[..., None], axis=-1)[..., 0]
    masked = np.asarray(masked)
    assert float(found.weight) == masked.sum()
    assert float(found.total) == pytest.approx(-said[masked].sum(), rel=1e-5)
    right, weight = found.metrics["accuracy"]
    assert float(right) == (np.asarray(log).argmax(axis=-1) == labels)[masked].sum() and float(weight) == masked.sum()


def test_held_out_images_have_the_same_masks_and_sums_of_their_own() -> None:
    masks = held_out_masks(50, CELLS)
    np.testing.assert_array_equal(masks[:20], held_out_masks(20, CELLS))
    assert masks.sum(axis=1).min() >= 1 and masks.mean() == pytest.approx(2 / np.pi, abs=0.05)
    codes = np.random.default_rng(1).integers(0, CODES, (5, CELLS)).astype(np.int32)
    kinds = np.asarray([0, 1, 2, 1, 0])
    rows = held_out_rows(SPEC, codes, kinds, np.asarray([2, 2, 0]))
    computed = ImageGenerationObjective(SPEC).outputs(MODEL, batch_of(rows))
    outputs = {name: np.asarray(values) for name, values in computed.items()}
    sums = rows.sums(outputs)
    for image in range(5):
        hidden = np.where(masks[image] == 1, SPEC.mask, codes[image])
        tokens = np.asarray([[SPEC.class_token(int(kinds[image])), *hidden]], np.int32)
        own = {"tokens": tokens, "segment_ids": np.ones_like(tokens), "positions": np.arange(CELLS + 1)[None]}
        log = np.asarray(jax.nn.log_softmax(MODEL.logits(MODEL.hidden({n: jnp.asarray(v) for n, v in own.items()}))))
        cells = np.flatnonzero(masks[image])
        wanted = -log[0, 1 + cells, codes[image][cells]].sum()
        assert sums["loss"][image] == pytest.approx(wanted, rel=1e-5) and sums["weight"][image] == len(cells)
    made_codes = np.asarray(rows.written(outputs))
    np.testing.assert_array_equal(made_codes, made([2, 2, 0], [0, 1, 0], SPEC.unmasking))
    assert numbers_of(np.asarray([2, 2, 0, 2])).tolist() == [0, 1, 0, 2]

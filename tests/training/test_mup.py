"""muP: factors against the paper's table, coordinate checks, the equivalence behind tied decoders, what is refused."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxfm.config import Config, MeshConfig
from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families.registry import FAMILIES, preset
from jaxfm.models.electra import ReplacedTokenModel
from jaxfm.models.embedder import Embedder
from jaxfm.models.heads import MaskedLM, PairClassifier, SequenceClassifier, SpanClassifier, TokenClassifier
from jaxfm.models.image_classifier import ImageClassifier
from jaxfm.models.initializers import kernel_init
from jaxfm.models.word_spans import WordSpanClassifier
from jaxfm.optim_config import OptimConfig
from jaxfm.parallel.mesh import build_abstract, make_mesh
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.training import mup
from jaxfm.training.initial import resolve
from jaxfm.training.optim import make_optimizer
from jaxfm.training.rate_schedules import make_schedule
from jaxfm.training.session import Session, make_session
from jaxfm.training.setup import set_up
from profiles.coordinate_check import Probed, at_width, measure, measure_masked_lm, slopes
from profiles.training_parity import LENGTH, ROWS, VOCABULARY, PlainMaskedLM, PlainSpec, batches
from tests import tiny

ENCODER = dataclasses.replace(tiny.ENCODER, dropout=0.0, attention_dropout=0.0)  # 32 wide, 2 heads of 16, ffn 64
WIDE = at_width(ENCODER, 64)
HALF = {"init": 2**-0.5, "rate": 0.5}
OUTPUT = {"init": 0.5, "rate": 0.5}
HIDDEN_LAYERS = (
    *(f"layers/attention/{name}/kernel" for name in ("query", "key", "value", "output")),
    *("layers/ffn/up/kernel", "layers/ffn/down/kernel"),
)
ENCODER_LAYERS = {f"encoder/{path}": HALF for path in HIDDEN_LAYERS}
GENERATOR_LAYERS = {f"generator/{path}": HALF for path in HIDDEN_LAYERS}
TIED = {"transform/dense/kernel": HALF, "transform/norm/scale": OUTPUT, "transform/norm/bias": OUTPUT}


def masked_lm(encoder: EncoderConfig) -> nnx.Module:
    return MaskedLM(encoder, DEFAULT_BUILD, nnx.Rngs(0))


def tagger(encoder: EncoderConfig) -> nnx.Module:
    return TokenClassifier(encoder, 5, DEFAULT_BUILD, nnx.Rngs(0))


def classifier(encoder: EncoderConfig) -> nnx.Module:
    return SequenceClassifier(encoder, 3, DEFAULT_BUILD, nnx.Rngs(0), segments=2)


def detector(encoder: EncoderConfig) -> nnx.Module:
    return ReplacedTokenModel(encoder, 1, DEFAULT_BUILD, nnx.Rngs(0))


def spans(encoder: EncoderConfig) -> nnx.Module:
    return SpanClassifier(encoder, DEFAULT_BUILD, nnx.Rngs(0))


def pairs(encoder: EncoderConfig) -> nnx.Module:
    return PairClassifier(encoder, 3, DEFAULT_BUILD, nnx.Rngs(0), head_starts=(1,), tail_starts=(2,), segments=2)


def images(encoder: EncoderConfig) -> nnx.Module:
    pooling = encoder.patches.pooling
    return ImageClassifier(encoder, 3, DEFAULT_BUILD, nnx.Rngs(0), pooling=pooling, segments=1)


def word_spans(encoder: EncoderConfig) -> nnx.Module:
    return WordSpanClassifier(encoder, 3, 2, 16, DEFAULT_BUILD, nnx.Rngs(0))


def vectors(encoder: EncoderConfig) -> nnx.Module:
    return Embedder(encoder, DEFAULT_BUILD, nnx.Rngs(0), pooling="mean", segments=2, normalize=True)


def factors(make: Callable[[EncoderConfig], nnx.Module], encoder: EncoderConfig, base: int, **changes: Any) -> Any:
    """Path -> {"init", "rate"} of what is not 1 in both."""
    _, params = build_abstract(lambda: make(encoder), make_mesh(MeshConfig()))
    found = mup.make_factors(replaced(Config(), {"optim.mup": base, **changes}), encoder, params)
    paths = {*found.init, *found.rate}
    return {path: {"init": found.init.get(path, 1.0), "rate": found.rate.get(path, 1.0)} for path in paths}


UNTIED = dataclasses.replace(WIDE, tied_decoder=False)
NARROW_TABLES = dataclasses.replace(WIDE, embedding_size=16)
SHARED = dataclasses.replace(NARROW_TABLES, layer_groups=1)
WITH_TRANSFORM = dataclasses.replace(WIDE, classifier_transform=True, gated=True)
CASES: Mapping[str, tuple[Callable[[EncoderConfig], nnx.Module], EncoderConfig, Mapping[str, Any]]] = {
    "tied masked LM": (masked_lm, WIDE, ENCODER_LAYERS | TIED),
    "untied masked LM": (
        masked_lm,
        UNTIED,
        ENCODER_LAYERS | {"transform/dense/kernel": HALF, "decoder/embedding": OUTPUT},
    ),
    "classes of tokens": (tagger, WIDE, ENCODER_LAYERS | {"head/kernel": OUTPUT}),
    "classes of texts": (classifier, WIDE, ENCODER_LAYERS | {"pooler/kernel": HALF, "head/kernel": OUTPUT}),
    "classes after a transform": (
        classifier,
        WITH_TRANSFORM,
        ENCODER_LAYERS
        | {"encoder/layers/ffn/gate/kernel": HALF, "transform/dense/kernel": HALF, "head/kernel": OUTPUT},
    ),
    "spans": (spans, WIDE, ENCODER_LAYERS | {"spans/kernel": OUTPUT}),
    "pairs": (pairs, WIDE, ENCODER_LAYERS | {"dense/kernel": HALF, "head/kernel": OUTPUT}),
    "narrow tables": (tagger, NARROW_TABLES, ENCODER_LAYERS | {"head/kernel": OUTPUT}),
    "shared layers": (tagger, SHARED, ENCODER_LAYERS | {"head/kernel": OUTPUT}),
    "replaced tokens": (
        detector,
        WIDE,
        ENCODER_LAYERS
        | GENERATOR_LAYERS
        | {f"generator/{path}": value for path, value in TIED.items()}
        | {"detector/dense/kernel": HALF, "detector/head/kernel": OUTPUT},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_factors_are_those_of_the_paper(name: str) -> None:
    make, encoder, wanted = CASES[name]
    found = factors(make, encoder, 32)
    assert found.keys() == wanted.keys()
    for path, values in wanted.items():
        assert found[path] == pytest.approx(values), path


def test_kernels_that_are_drawn_by_their_size_need_less() -> None:
    encoder = at_width(preset("vit_nano"), 128)
    found = factors(images, encoder, 32)
    hidden = {path: value for path, value in found.items() if "/layers/" in path}
    assert len(hidden) == 6 and all(value == {"init": 1.0, "rate": 0.25} for value in hidden.values())
    assert found["head/kernel"] == {"init": 0.25, "rate": 0.25}

    def deviation(shape: EncoderConfig) -> float:
        draw = kernel_init(shape, shape.patches.values, shape.hidden_size)
        return float(jnp.std(draw(jax.random.key(0), (shape.patches.values, shape.hidden_size), jnp.float32)))

    # Patches have a fixed size: they are drawn as at the base width.
    factor = found["encoder/embeddings/kernel"]["init"]
    assert factor * deviation(encoder) == pytest.approx(deviation(at_width(encoder, 32)), rel=0.1)
    assert factor > 1.2 and found["encoder/embeddings/kernel"]["rate"] == 1.0
    assert not found.keys() - {"head/kernel", "encoder/embeddings/kernel", *hidden}


def test_a_narrower_model_takes_rates_over_from_a_wider_one() -> None:
    found = factors(tagger, ENCODER, 64)
    assert found["head/kernel"] == {"init": 2.0, "rate": 2.0}
    assert found["encoder/layers/ffn/up/kernel"] == pytest.approx({"init": 2**0.5, "rate": 2.0})


def test_the_base_width_itself_has_no_factors() -> None:
    assert factors(masked_lm, WIDE, 64) == {}


# Preset -> why muP is refused for a model of it.
NOT_FOR_DECODERS = {"albert_base": "transform/dense/kernel"}
NOT_AT_ALL = {"embedding_gemma": "family 'gemma3_text', which scales its embeddings by its width"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_of_every_family_has_a_rule(family: str) -> None:
    name, encoder = next(iter(FAMILIES[family].presets.items()), ("", None))
    if encoder is None:
        pytest.skip("the family has no shapes of its own: those of others have its parameters")
    base = encoder.hidden_size // np.gcd.reduce(
        [encoder.hidden_size, encoder.num_heads, encoder.kv_heads, encoder.ffn_size]
    )
    makes = [images] if encoder.reads_images else [tagger, classifier, masked_lm, detector]
    for make in makes:
        reason = NOT_AT_ALL.get(name) or (NOT_FOR_DECODERS.get(name) if make in (masked_lm, detector) else None)
        if reason is not None:
            with pytest.raises(UserError, match=reason):
                factors(make, encoder, int(base))
            continue
        found = factors(make, encoder, int(base))
        multiple = encoder.hidden_size / base
        assert found and {round(value["rate"] * multiple, 6) for value in found.values()} <= {1.0, round(multiple, 6)}


@pytest.mark.parametrize(
    ("make", "encoder", "base", "changes", "message"),
    [
        (tagger, WIDE, 40, {}, r"config\.optim\.mup: 40, but .* must be a multiple of 16\. The nearest is 32"),
        (tagger, WIDE, 5, {}, r"The nearest is 16"),
        (word_spans, WIDE, 32, {}, r"muP knows no rule for ends/bias, ends/kernel, head/kernel, .* and 1 more"),
        (vectors, WIDE, 32, {}, "neither an output layer that muP knows"),
        (masked_lm, NARROW_TABLES, 32, {}, r"no rule for transform/dense/kernel"),
        (
            masked_lm,
            dataclasses.replace(WIDE, vocabulary_transform=False),
            32,
            {},
            "nor a norm directly before the word embedding",
        ),
        (tagger, dataclasses.replace(WIDE, embedding_scale=8.0), 32, {}, "scales its embeddings by its width"),
        (tagger, WIDE, 32, {"adapt.lora.rank": 2}, r"contradicts config\.adapt\.lora\.rank=2"),
        (tagger, WIDE, 32, {"adapt.adapter_size": 8}, r"contradicts config\.adapt\.adapter_size=8"),
        (tagger, WIDE, 32, {"adapt.prefix_length": 8}, r"contradicts config\.adapt\.prefix_length=8"),
    ],
)
def test_what_the_rules_do_not_hold_for_is_refused(
    make: Callable[[EncoderConfig], nnx.Module],
    encoder: EncoderConfig,
    base: int,
    changes: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(UserError, match=message):
        factors(make, encoder, base, **changes)


def test_optimizers_that_follow_the_size_of_gradients_are_refused() -> None:
    for name in ("adamw", "stable_adamw", "lion", "schedule_free_adamw"):
        mup.check_optimizer(name)
    for name in ("sgd", "lamb", "adafactor", "muon"):
        with pytest.raises(UserError, match=rf"config\.optim\.name: '{name}', but config\.optim\.mup holds only for"):
            mup.check_optimizer(name)


def test_loaded_weights_are_refused(tmp_path: pathlib.Path) -> None:
    config = replaced(tiny.config(tmp_path), {"optim.mup": 32})
    task, loaded = registry.create(config, resolve(config.model))
    with pytest.raises(UserError, match=r"config\.optim\.mup: 32, but the run starts from weights that are loaded"):
        set_up(config, task, loaded, make_mesh(config.parallel.mesh))
    set_up(config, task, {}, make_mesh(config.parallel.mesh))


def plain_session(encoder: EncoderConfig, base: int, mesh: Sequence[int] = (1, 1, 1, 1), **changes: Any) -> Session:
    values = {"train.batch_size": ROWS, "train.precision": "f32", "data.row_length": LENGTH, "model.scan_layers": True}
    values |= {"optim.learning_rate": 1e-2, "optim.mup": base, "optim.weight_decay": 0.1, **changes}
    sizes = MeshConfig(*mesh)
    devices = jax.devices()[: int(np.prod(mesh))]
    objective = PlainMaskedLM(PlainSpec(encoder, LENGTH))
    return make_session(replaced(Config(), values), objective, make_mesh(sizes, devices), total_steps=10)


def trained(session: Session, steps: int) -> dict[str, np.ndarray]:
    with jax.set_mesh(session.mesh):
        for stepped in session.steps(session.initial_state(0), batches(0)[:steps]):
            state = stepped.state
    return {path: np.asarray(leaf) for path, leaf in flax.traverse_util.flatten_dict(state.params, sep="/").items()}


TEXT = dataclasses.replace(WIDE, vocab_size=VOCABULARY)


def test_at_the_base_width_a_run_is_the_standard_one_bit_by_bit() -> None:
    standard, same = (trained(plain_session(TEXT, base), 3) for base in (0, 64))
    for path, value in standard.items():
        np.testing.assert_array_equal(same[path], value, err_msg=path)
    other = trained(plain_session(TEXT, 32), 3)
    assert not np.array_equal(other["encoder/layers/ffn/up/kernel"], standard["encoder/layers/ffn/up/kernel"])


def test_a_sharded_run_is_that_of_one_device() -> None:
    meshes = ((1, 1, 1, 1), (1, 2, 2, 1))
    one, cut = (trained(plain_session(TEXT, 32, mesh, **{"optim.learning_rate": 1e-3}), 3) for mesh in meshes)
    for path, value in one.items():
        if not path.endswith("key/bias"):  # softmax takes it away: its gradient is rounding, which Adam makes large
            np.testing.assert_allclose(cut[path], value, atol=2e-5, err_msg=path)


def test_fresh_parameters_are_those_of_the_standard_run_times_their_factors() -> None:
    standard, session = plain_session(TEXT, 0), plain_session(TEXT, 32)
    with jax.set_mesh(session.mesh):
        plain, scaled = (flat(each.initial_state(0).params) for each in (standard, session))
    assert set(session.factors.init) == {*ENCODER_LAYERS, *TIED}
    for path, value in plain.items():
        np.testing.assert_allclose(scaled[path], value * session.factors.init.get(path, 1.0), rtol=1e-6, err_msg=path)


def flat(params: Any) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in flax.traverse_util.flatten_dict(params, sep="/").items()}


def test_decay_times_rate_does_not_depend_on_the_factor() -> None:
    params = {"a": {"kernel": jnp.full((2, 2), 3.0)}, "b": {"kernel": jnp.full((2, 2), 3.0)}}
    config = OptimConfig(learning_rate=0.1, weight_decay=0.5, warmup_fraction=0.0, schedule="constant", clip_norm=0.0)
    optimizer = make_optimizer(config, make_schedule(config, 10), params, rates={"b/kernel": 0.25})
    update = optax.with_extra_args_support(optimizer).update
    updates: Any = update(jax.tree.map(jnp.ones_like, params), optimizer.init(params), params, norm=jnp.ones(()))[0]
    # Adam's first direction is 1; decay adds 0.5 * 3.
    np.testing.assert_allclose(updates["a"]["kernel"], -0.1 * (1.0 + 1.5), rtol=1e-5)
    np.testing.assert_allclose(updates["b"]["kernel"], -0.1 * (0.25 + 1.5), rtol=1e-5)


def test_the_norm_before_a_tied_decoder_carries_the_factor_of_the_logits() -> None:
    """20 updates beside an explicit factor 1 / m of the logits, whose norm is drawn and updated like any other."""
    multiple, steps = 4, 20
    encoder = dataclasses.replace(at_width(TEXT, 128), decoder_bias=False)  # the factor is not of the bias
    session = plain_session(encoder, 32, **{"optim.clip_norm": 0.0, "optim.eps": 1e-30, "optim.no_decay": ()})
    norms = {"transform/norm/scale", "transform/norm/bias"}
    rates = {path: rate for path, rate in session.factors.rate.items() if path not in norms}
    config = OptimConfig(learning_rate=1e-2, weight_decay=0.1, clip_norm=0.0, eps=1e-30, no_decay=())
    with jax.enable_x64(True), jax.set_mesh(session.mesh):
        start = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), session.initial_state(0).params)
        given = batches(0)[:steps]
        results = []
        for factor, own in ((1.0, session.factors.rate), (1.0 / multiple, rates)):
            params: Any = flax.traverse_util.flatten_dict(start, sep="/")
            if factor != 1.0:
                params |= {path: params[path] * multiple for path in norms}
            params = flax.traverse_util.unflatten_dict(params, sep="/")
            optimizer = make_optimizer(config, make_schedule(config, steps), params, rates=own)
            results.append(descend(session, optimizer, params, given, factor))
    (losses, ours), (theirs, explicit) = results
    assert losses[0] - losses[-1] > 0.1
    assert np.max(np.abs(ours["transform/norm/scale"] - 1.0 / multiple)) > 0.01  # it has learned
    np.testing.assert_allclose(losses, theirs, rtol=1e-9)
    for path, value in ours.items():
        scale = multiple if path in norms else 1.0
        np.testing.assert_allclose(value * scale, explicit[path], atol=1e-7, err_msg=path)


def descend(
    session: Session, optimizer: Any, params: Any, given: Sequence[Mapping[str, Any]], factor: float
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Trains a masked LM whose logits are multiplied by `factor`; returns the losses and the parameters."""

    def loss_of(params: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
        model, labels_BT = nnx.merge(session.graphdef, params), batch["labels"]
        logits_BTV = factor * model.logits(model.hidden(batch))[..., :VOCABULARY].astype(jnp.float64)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits_BTV), jnp.maximum(labels_BT, 0)[..., None], axis=-1)
        return -jnp.sum(jnp.where(labels_BT >= 0, picked[..., 0], 0.0)) / jnp.sum(labels_BT >= 0)

    @functools.partial(jax.jit, compiler_options=tiny.AS_USERS_COMPILE)
    def step(params: Any, state: Any, batch: Mapping[str, jax.Array]) -> Any:
        loss, grads = jax.value_and_grad(loss_of)(params, batch)
        update = optax.with_extra_args_support(optimizer).update
        updates, state = update(grads, state, params, norm=jnp.ones(()))
        return loss, optax.apply_updates(params, updates), state

    state, losses = optimizer.init(params), []
    for batch in given:
        loss, params, state = step(params, state, batch)
        losses.append(float(loss))
    return losses, flat(params)


# Slopes of log size over log width. By theory changes have slope 0 under muP in the limit of wide models; parts that
# are not aligned with the gradient fall with slope -1/2, which is why weights are drawn with the published deviation
# of 0.02, beside which a few updates count. Standard changes of logits have slope 1 while they are small; those of
# hidden states, which are normalised, less.
BAND, GROWS = 0.2, {"hidden": 0.25, "logits": 0.5}
WIDTHS, SEEDS, STEPS = (64, 128, 256), (0, 1), 3
POST_NORM = dataclasses.replace(TEXT, initializer_range=0.02)
SHAPES = {
    "post-norm, tied": POST_NORM,
    "post-norm, untied": dataclasses.replace(POST_NORM, tied_decoder=False),
    "pre-norm, gated, rope": dataclasses.replace(
        preset("modern_tiny"), num_layers=2, num_heads=12, vocab_size=VOCABULARY, dropout=0.0, attention_dropout=0.0
    ),
    "no transform, untied": dataclasses.replace(
        preset("eurobert_210m"), num_layers=2, num_heads=48, num_kv_heads=48, vocab_size=VOCABULARY, dropout=0.0
    ),
}


def mean_slopes(sizes: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Name of an activation -> slope of the deviation at step 0 and of the change after each step, over seeds."""
    return {name: slopes(WIDTHS, np.stack([size[name] for size in sizes])).mean(axis=0) for name in sizes[0]}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_changes_of_a_masked_lm_are_alike_at_all_widths(name: str) -> None:
    found = {}
    for base in (0, WIDTHS[0]):
        changes = {"optim.learning_rate": 1e-3, "optim.mup": base}
        encoders = [at_width(SHAPES[name], width) for width in WIDTHS]
        found[base] = mean_slopes([measure_masked_lm(encoder, changes, SEEDS, STEPS) for encoder in encoders])
    standard, scaled = found.values()
    for activation in ("hidden", "logits"):
        assert np.all(np.abs(scaled[activation][1:]) < BAND), (activation, scaled)
        assert np.all(standard[activation][1:] > GROWS[activation]), (activation, standard)
    # At step 0: hidden states are alike; the logits of random vectors fall by the law of large numbers, or rise.
    assert abs(scaled["hidden"][0]) < 0.1
    assert scaled["logits"][0] == pytest.approx(-0.5, abs=0.1) and standard["logits"][0] == pytest.approx(0.5, abs=0.1)


def read_tags(model: Any, batch: Mapping[str, jax.Array]) -> Probed:
    logits_BTC = model(batch)
    return {"logits": (logits_BTC, batch["segment_ids"] > 0)}


def read_segments(model: Any, batch: Mapping[str, jax.Array]) -> Probed:
    logits_BSC = model(batch)
    of_segment_S1T = jnp.arange(1, logits_BSC.shape[1] + 1)[:, None] == batch["segment_ids"][:, None, :]
    return {"logits": (logits_BSC, of_segment_S1T.any(axis=-1))}


def read_detector(model: Any, batch: Mapping[str, jax.Array]) -> Probed:
    hidden_BTD, valid_BT = model.hidden(batch), batch["segment_ids"] > 0
    return {
        "detector": (model.replaced(batch), valid_BT),
        "generator": (model.logits(hidden_BTD)[..., : model.generator_config.vocab_size], valid_BT),
    }


TASKS: Mapping[str, tuple[Callable[[pathlib.Path], Config], Callable[..., Probed], EncoderConfig]] = {
    "ner": (tiny.config, read_tags, ENCODER),
    "classification": (tiny.classification_config, read_segments, ENCODER),
    "replaced_token": (lambda folder: tiny.masked_lm_config(folder, "replaced_token"), read_detector, ENCODER),
    "image_classification": (
        tiny.image_config,
        read_segments,
        dataclasses.replace(preset("vit_nano"), dropout=0.0, attention_dropout=0.0),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_changes_of_a_tasks_outputs_are_alike_at_all_widths(name: str, tmp_path: pathlib.Path) -> None:
    make, probe, shape = TASKS[name]
    config = replaced(make(tmp_path), {"optim.warmup_fraction": 0.0, "optim.learning_rate": 1e-3})
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    initial = resolve(config.model)
    shape = dataclasses.replace(shape, vocab_size=initial.encoder.vocab_size, patches=initial.encoder.patches)
    found = {}
    for base in (0, WIDTHS[0]):
        sizes = []
        for width in WIDTHS:
            fresh = dataclasses.replace(initial, encoder=at_width(shape, width), params={})
            with jax.set_mesh(mesh):
                run = replaced(config, {"optim.mup": base})
                task, loaded = registry.create(run, fresh)
                assert not loaded
                setup = set_up(run, task, loaded, mesh)
                given = [setup.batches.batch(step) for step in range(STEPS)]
                sizes.append(measure(setup.session, probe, dict.fromkeys(SEEDS, given)))
        found[base] = mean_slopes(sizes)
    standard, scaled = found.values()
    for activation in standard:
        assert np.all(np.abs(scaled[activation][1:]) < BAND), (activation, scaled)
        # Of the first update alone: by the third, classes of wide standard models have overshot and are saturated.
        assert standard[activation][1] > GROWS["logits"], (activation, standard)

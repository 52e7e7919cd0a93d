"""Which kernel a layer takes, and what the user is told of it."""

# B batch, T tokens, N heads, H head dim, S keys

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jaxfm.config import ATTENTION, MeshConfig
from jaxfm.core.build import DEFAULT_BUILD, AttentionConfig, Build
from jaxfm.core.encoder_config import CAUSAL, PREFIX
from jaxfm.errors import UserError
from jaxfm.models.kernels import (
    KERNELS,
    AttentionProblem,
    attention_problems,
    choose,
    describe,
    unsupported_reasons,
)
from jaxfm.parallel import mesh as meshes
from jaxfm.parallel import target
from jaxfm.tasks.registry import from_config_dict
from tests.models.test_kernels import AUTO, ENCODER, RADIUS, T


def problem(platform: str, **changes: Any) -> AttentionProblem:
    """Rows of one segment in bf16, which every kernel can compute on its own device."""
    base = AttentionProblem(platform, jnp.dtype(jnp.bfloat16), tokens=256, head_dim=64, one_segment=True)
    return dataclasses.replace(base, **changes)


@pytest.mark.usefixtures("cudnn_here")
def test_what_causal_attention_runs_on() -> None:
    causal = problem("gpu", sight=CAUSAL)
    assert choose(AUTO, causal) == "cudnn" and KERNELS["cudnn"].needs_mask(causal)
    assert choose(AUTO, problem("tpu", sight=CAUSAL)) == "splash"
    assert choose(AUTO, problem("tpu", sight=PREFIX)) == "xla"
    with pytest.raises(UserError, match="'splash' cannot compute .* is not told where a prefix ends"):
        choose(AttentionConfig("splash"), problem("tpu", sight=PREFIX))
    encoder = dataclasses.replace(ENCODER, local_window=0, sight=CAUSAL)
    (found,) = attention_problems(encoder, DEFAULT_BUILD, T, meshes.make_mesh(MeshConfig()), training=True)
    assert found.sight == CAUSAL


UNSUPPORTED = [
    ("gpu", {"one_segment": False, "tokens": 255}, "even number of tokens for a mask, not 255 .config.data.row_length"),
    ("gpu", {"window_radius": 64, "tokens": 255}, "even number of tokens"),
    ("gpu", {"dtype": jnp.dtype(jnp.float32)}, "float32 .config.train.precision"),
    ("gpu", {"head_dim": 36}, "multiple of 8"),
    ("gpu", {"head_dim": 264}, "at most 256"),
    ("gpu", {"dropout": 0.1}, "config.model.attention_dropout=0"),
    ("gpu", {"prefix": True}, "config.adapt.prefix_length"),
    ("gpu", {"sequence_parts": 2}, "config.parallel.mesh.sequence=2"),
    ("tpu", {"tokens": 192}, "multiple of 128 tokens, not 192 .config.data.row_length"),
    ("tpu", {"dtype": jnp.dtype(jnp.float16)}, "float16"),
    ("tpu", {"dropout": 0.1}, "config.model.attention_dropout=0"),
    ("tpu", {"prefix": True}, "config.adapt.prefix_length"),
    ("tpu", {"sight": PREFIX}, "is not told where a prefix ends"),
    ("tpu", {"sequence_parts": 2}, "config.parallel.mesh.sequence=2"),
]


@pytest.mark.usefixtures("cudnn_here")
@pytest.mark.parametrize(("platform", "changes", "words"), UNSUPPORTED)
def test_what_a_kernel_does_not_support(platform: str, changes: dict[str, Any], words: str) -> None:
    name = {"gpu": "cudnn", "tpu": "splash"}[platform]
    other = {"gpu": "splash", "tpu": "cudnn"}[platform]
    able, unable = problem(platform), problem(platform, **changes)
    assert (
        choose(AUTO, able) == choose(AttentionConfig(name), able) == name
        and choose(AttentionConfig("xla"), able) == "xla"
    )
    assert choose(AUTO, unable) == "xla"
    with pytest.raises(UserError, match=f"config.model.attention: '{name}' .*{words}.*Nearest that can: 'xla'"):
        choose(AttentionConfig(name), unable)
    with pytest.raises(UserError, match=f"'{other}' .*does not run on {platform}. Nearest that can: '{name}'"):
        choose(AttentionConfig(other), able)


@pytest.mark.usefixtures("cudnn_here")
def test_windows_and_packed_rows_are_supported() -> None:
    assert choose(AUTO, problem("tpu", window_radius=64, one_segment=False, dtype=jnp.dtype(jnp.float32))) == "splash"
    assert choose(AUTO, problem("gpu", window_radius=64, one_segment=False)) == "cudnn"
    assert choose(AUTO, problem("gpu", tokens=255)) == "cudnn"  # needs no mask


def test_cpu_has_no_kernel_and_older_gpus_less(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(AUTO, problem("cpu")) == "xla"
    with pytest.raises(UserError, match="'splash' .*does not run on cpu. Nearest that can: 'xla'"):
        choose(AttentionConfig("splash"), problem("cpu"))
    for capability, able in (((9, 0), True), ((8, 6), False), ((7, 5), False), (None, False)):
        monkeypatch.setattr(target, "cuda_capability", lambda capability=capability: capability)
        assert (unsupported_reasons(problem("gpu", head_dim=160))["cudnn"] is None) == able
    assert "8.0" in str(unsupported_reasons(problem("gpu"))["cudnn"])  # traced for a GPU on a machine without one


def test_gpus_that_are_absent_are_known_by_their_capability() -> None:
    with target.tracing_for(target.Target("gpu", (8, 0))):
        assert choose(AUTO, problem(target.platform(), head_dim=128)) == "cudnn"
        assert "at most 128" in str(unsupported_reasons(problem("gpu", head_dim=160))["cudnn"])


@pytest.mark.usefixtures("cudnn_here")
def test_the_line_for_the_user() -> None:
    mesh = meshes.make_mesh(MeshConfig())

    def line(platform: str, attention: AttentionConfig, **changes: Any) -> str:
        config = dataclasses.replace(ENCODER, **changes)
        with target.tracing_for(platform):
            return describe(config, Build(jnp.bfloat16, attention=attention), T, mesh)

    packed, alone = AttentionConfig(), AttentionConfig(one_segment=True)
    assert line("cpu", packed, local_window=0) == "attention: xla (the only path on cpu)"
    assert line("tpu", packed) == "attention: splash; splash in layers with a local window"
    assert line("gpu", packed) == line("gpu", alone) == "attention: cudnn; cudnn in layers with a local window"
    assert line("gpu", AttentionConfig("xla"), local_window=0) == "attention: xla"
    dropping = line("tpu", packed, local_window=0, attention_dropout=0.1)
    assert "xla (splash: has no dropout on attention weights, here 0.1" in dropping
    assert dropping.endswith(". Evaluation: splash")
    with pytest.raises(UserError, match="attention of this model: needs a head dimension that is a multiple of 8"):
        line("gpu", AttentionConfig("cudnn"), num_heads=8)


def test_an_unknown_path_is_refused() -> None:
    with pytest.raises(UserError, match="config.model.attention: is 'splsh'. Did you mean 'splash'?"):
        from_config_dict({"task": {"name": "ner"}, "model": {"attention": "splsh"}})
    assert {"auto", "xla", *KERNELS} == set(ATTENTION)


def test_a_prefix_and_a_cut_row_are_parts_of_the_problem() -> None:
    mesh = meshes.make_mesh(MeshConfig(sequence=2, data=1), jax.devices()[:2])
    config = dataclasses.replace(ENCODER, prefix_length=3, attention_dropout=0.2)
    whole, local = attention_problems(config, DEFAULT_BUILD, T, mesh, training=True)
    assert whole.prefix and whole.sequence_parts == 2 and whole.dropout == 0.2 and not whole.one_segment
    assert (whole.window_radius, local.window_radius) == (0, RADIUS)
    assert attention_problems(config, DEFAULT_BUILD, T, mesh, training=False)[0].dropout == 0.0

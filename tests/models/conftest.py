"""Fixtures for tests of models."""


# B batch, T tokens, N heads, H head dim, S keys

import jax
import pytest

from jaxfm.parallel import target


@pytest.fixture
def cudnn_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hopper GPU and a cuDNN of now, as far as tracing goes."""
    if jax.default_backend() != "gpu":
        from jax._src.cudnn import fused_attention_stablehlo

        monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91400)
    monkeypatch.setattr(target, "cuda_capability", lambda: (9, 0))

"""A run directory of vectors of texts without training: weights of a directory or a package, and a spec."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from jaxfm.core.spec import write_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.tasks.embedding.spec import NAME, EmbeddingSpec
from jaxfm.tasks.registry import default_config, from_config_dict
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints
from jaxfm.training.initial import resolve
from jaxfm.training.state import TrainState
from tests import tiny


def write(workdir: pathlib.Path, init: str, *, row_length: int = 48, scale: float = 1.0, **fields: Any) -> pathlib.Path:
    """Writes a run of mean pooling; `scale` multiplies one weight, so that runs differ."""
    values = default_config(NAME)
    values.model.init, values.data.row_length, values.eval.batch_size = init, row_length, 8
    values.model.scan_layers = True
    config = from_config_dict(values)
    initial = resolve(config.model)
    assert initial.tokenizer is not None
    given = {"query_prompt": "", "document_prompt": "", "projected": 0, "normalize": True, **fields}
    spec = EmbeddingSpec(
        kind="pairs",
        encoder=initial.encoder,
        pooling="mean",
        row_length=row_length,
        window=row_length,
        texts=2,
        groups=8,
        positives=0,
        learned_scale=0.0,
        **given,
    )
    workdirs.write_config(workdir, config)
    load_tokenizer(initial.tokenizer).save_pretrained(workdir / TOKENIZER_DIR)
    write_spec(workdir, NAME, spec)
    params = {name: value for name, value in initial.params.items() if name.startswith("encoder/")}
    arrays = jax.tree.map(jnp.asarray, tiny.nested(params))
    arrays = jax.tree.map(lambda leaf: leaf * scale, arrays)
    state = TrainState(jnp.int32(1), arrays, {"count": jnp.int32(1)}, jnp.zeros(2, jnp.uint32))
    checkpoints = Checkpoints(workdir / workdirs.CHECKPOINTS_DIR, keep_last=1)
    meta = {"fingerprint": "", "best": {"step": 1, "value": 0.5, "waited": 0}, "goodput": {}}
    checkpoints.save(state, {"loss": jnp.zeros(2)}, meta, keep=(1,))
    checkpoints.close()
    return workdir

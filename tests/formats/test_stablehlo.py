"""StableHLO: the folder, its program for other devices, and weights that it does not need left out."""

import json
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxfm.core.build import DEFAULT_BUILD
from jaxfm.errors import UserError
from jaxfm.formats import stablehlo
from jaxfm.formats.inference import IDS, MASK, TYPES, make_inference
from jaxfm.models.electra import ReplacedTokenModel
from jaxfm.parallel.mesh import initialise
from tests.formats.test_onnx_models import of_random
from tests.tiny import ENCODER

IDS_BT = np.arange(5, 25).reshape(2, 10)
GIVEN = {IDS: IDS_BT, MASK: (IDS_BT < 22).astype(np.int64), TYPES: IDS_BT * 0}


def test_a_program_is_one_function_for_all_shapes_and_platforms(tmp_path: pathlib.Path) -> None:
    inference = of_random(ENCODER)
    stablehlo.write(tmp_path, inference, ["a", "b", "c"])
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.stablehlo", "weights.safetensors", "model.json", "run.py"}
    program = stablehlo.read(tmp_path)
    expected = np.asarray(inference(inference.params, GIVEN)["logits"])
    np.testing.assert_allclose(program(GIVEN)["logits"], expected, atol=1e-5)
    short = {name: array[:1, :3] for name, array in GIVEN.items()}
    assert program(short)["logits"].shape == (1, 3, 3)
    exported = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    described = json.loads((tmp_path / "model.json").read_text())
    assert described["inputs"] == [IDS, MASK, TYPES] and described["head"] == "token_classes"


def test_a_generator_stays_at_home(tmp_path: pathlib.Path) -> None:
    params = jax.device_get(initialise(lambda: ReplacedTokenModel(ENCODER, 1, DEFAULT_BUILD, nnx.Rngs(0))))
    flat = {
        "/".join(str(entry.key) for entry in path): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    inference = make_inference(lambda build, rngs: ReplacedTokenModel(ENCODER, 1, build, rngs), ENCODER, flat)
    stablehlo.write(tmp_path, inference, [])
    weights = safetensors.numpy.load_file(tmp_path / "weights.safetensors")
    assert {name.partition("/")[0] for name in weights} == {"encoder", "detector"}
    assert {name for name in flat if not name.startswith("generator/")} == set(weights)
    assert weights["encoder/embeddings/word/embedding"].shape == (ENCODER.vocab_size, ENCODER.hidden_size)
    expected = np.asarray(inference(inference.params, GIVEN)["logits"])
    np.testing.assert_allclose(stablehlo.read(tmp_path)(GIVEN)["logits"], expected, atol=1e-5)


def test_a_folder_of_a_newer_jaxfm_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.json").write_text('{"version": 99}')
    with pytest.raises(UserError, match="update jaxfm"):
        stablehlo.read(tmp_path)

"""Rounded parameters: which are rounded, what the file keeps of them, and files that are not whole."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from jaxfm.core.encoder_config import DYNAMIC, NONE, STATIC, Quantisation
from jaxfm.errors import UserError
from jaxfm.models.adapters import plain_weights
from jaxfm.training.quantised_weights import (
    REPORT_FILE,
    TABLE,
    WEIGHTS_FILE,
    Rounded,
    as_stored,
    kept_units,
    maps_of,
    only_units,
    read_weights,
    round_params,
    stored_params,
    units_of,
    write_weights,
)
from tests import tiny

PARAMS = tiny.random_params(tiny.ENCODER, 3, 0)
DOWN = "encoder/layers/ffn/down/kernel"
RANGES = {path.removesuffix("/kernel"): np.asarray([2.0, 3.0], np.float32) for path in maps_of(PARAMS).values()}


def test_units_are_the_maps_of_each_layer_and_the_words() -> None:
    units = units_of(PARAMS)
    assert len(units) == 1 + 2 * 6 and units[0] == "embeddings/word"
    assert {"layers/0/attention/query", "layers/1/ffn/down"} <= set(units)
    assert kept_units(units, ["layers/1/*", "*/down"], "--keep") == {
        *(unit for unit in units if unit.startswith("layers/1/")),
        "layers/0/ffn/down",
    }
    with pytest.raises(UserError, match=r"--keep=layers/1/ffn/dwon: names nothing.*layers/1/ffn/down"):
        kept_units(units, ["layers/1/ffn/dwon"], "--keep")


@pytest.mark.parametrize("quantisation", [Quantisation(8, STATIC), Quantisation(4, NONE, 32), Quantisation(8, DYNAMIC)])
def test_a_file_is_read_as_it_was_written(quantisation: Quantisation, tmp_path: pathlib.Path) -> None:
    kept = frozenset({"layers/1/ffn/down"})
    ranges = RANGES if quantisation.inputs == STATIC else {}
    rounded = round_params(PARAMS, quantisation, kept, ranges)
    digest = write_weights(tmp_path / WEIGHTS_FILE, PARAMS, rounded, 7)
    (tmp_path / REPORT_FILE).write_text(json.dumps({"sha256": digest}))
    floats, found, step = read_weights(tmp_path)
    assert step == 7 and found.keys() == rounded.keys() == {*maps_of(PARAMS).values(), TABLE}
    for path, each in rounded.items():
        for field in dataclasses.fields(Rounded):
            np.testing.assert_array_equal(getattr(found[path], field.name), getattr(each, field.name))
        np.testing.assert_array_equal(found[path].values(), each.values())
        steps = each.scale.max()
        assert each.values().shape == PARAMS[path].shape
        assert 0 < np.abs(each.values() - PARAMS[path]).max() <= steps / 2 * 1.01
    np.testing.assert_array_equal(rounded[DOWN].values()[1], PARAMS[DOWN][1])
    assert rounded[DOWN].layers == (0,) and not np.array_equal(rounded[DOWN].values()[0], PARAMS[DOWN][0])
    assert floats.keys() == PARAMS.keys() - rounded.keys()
    size = (tmp_path / WEIGHTS_FILE).stat().st_size
    assert size < (0.6 if quantisation.weights == 8 else 0.55) * sum(array.nbytes for array in PARAMS.values())

    encoder = as_stored(tiny.ENCODER, quantisation, rounded)
    assert encoder.quantisation.switched == quantisation.rounds_inputs
    params = stored_params(PARAMS, rounded, encoder.quantisation)
    back, plain = plain_weights(encoder, params)
    assert back == tiny.ENCODER and plain.keys() == PARAMS.keys()
    for path, array in plain.items():
        np.testing.assert_array_equal(array, rounded[path].values() if path in rounded else PARAMS[path])


def test_integers_in_memory_stand_for_the_same_weights() -> None:
    quantisation = Quantisation(8, STATIC)
    rounded = round_params(PARAMS, quantisation, frozenset(), RANGES)
    encoder = as_stored(tiny.ENCODER, quantisation, rounded)
    assert encoder.quantisation.has_integers
    params = stored_params(PARAMS, rounded, encoder.quantisation)
    assert params[DOWN].dtype == np.int8 and params["encoder/layers/ffn/down/kernel_scale"].shape == (2, 32)
    np.testing.assert_array_equal(
        params["encoder/layers/ffn/down/input_scale"], np.asarray([2, 3], np.float32) * np.float32(1 / 127)
    )
    _, plain = plain_weights(encoder, params)
    for path, each in rounded.items():
        np.testing.assert_array_equal(plain[path], each.values())


def test_a_map_that_is_left_in_floats_everywhere_is_no_map_that_is_rounded() -> None:
    kept = kept_units(units_of(PARAMS), ["*/down"], "--keep")
    quantisation = as_stored(
        tiny.ENCODER, Quantisation(8, STATIC), round_params(PARAMS, Quantisation(8, STATIC), kept, RANGES)
    ).quantisation
    assert quantisation.maps == ("key", "output", "query", "up", "value") and quantisation.has_integers
    alone = round_params(PARAMS, Quantisation(8), frozenset(units_of(PARAMS)[1:]), {})
    assert alone.keys() == {TABLE} and not as_stored(tiny.ENCODER, Quantisation(8), alone).quantisation.weights


def test_one_part_alone_is_rounded() -> None:
    quantisation = Quantisation(8, STATIC)
    rounded = round_params(PARAMS, quantisation, frozenset(), RANGES)
    some = only_units(rounded, frozenset({"layers/1/ffn/down"}), PARAMS)
    stored = as_stored(tiny.ENCODER, quantisation, rounded, switched=True).quantisation
    params = stored_params(PARAMS, some, stored)
    np.testing.assert_array_equal(params["encoder/layers/ffn/down/input_scale"][0], np.inf)
    assert np.isfinite(params["encoder/layers/ffn/down/input_scale"][1])
    np.testing.assert_array_equal(params[DOWN][0], PARAMS[DOWN][0])
    np.testing.assert_array_equal(params[DOWN][1], rounded[DOWN].values()[1])
    assert np.isinf(params["encoder/layers/ffn/up/input_scale"]).all()
    np.testing.assert_array_equal(params[TABLE], PARAMS[TABLE])
    assert only_units(rounded, frozenset({"embeddings/word"}), None).keys() == {TABLE}


def test_a_damaged_file_is_not_read(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=f"has no {WEIGHTS_FILE}"):
        read_weights(tmp_path)
    digest = write_weights(tmp_path / WEIGHTS_FILE, PARAMS, round_params(PARAMS, Quantisation(8), frozenset(), {}), 1)
    with pytest.raises(UserError, match=f"has no {REPORT_FILE}"):
        read_weights(tmp_path)
    (tmp_path / REPORT_FILE).write_text(json.dumps({"sha256": digest}))
    content = bytearray((tmp_path / WEIGHTS_FILE).read_bytes())
    content[-1] ^= 1
    (tmp_path / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(UserError, match="not those that were written"):
        read_weights(tmp_path)

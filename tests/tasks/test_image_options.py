"""The encoder, the pixels and the rows that a config of images asks for."""

import pathlib
from typing import Any

import pytest

from jaxfm.config import Config
from jaxfm.core.initial import ImageLayout
from jaxfm.errors import UserError
from jaxfm.families.registry import preset
from jaxfm.tasks.image_options import Reading, augmentation
from tests import tiny


def config(folder: pathlib.Path, **changes: Any) -> Config:
    return tiny.image_config(folder, **changes)


def test_from_scratch_sizes_are_free(tmp_path: pathlib.Path) -> None:
    made = config(tmp_path, model__preset="vit_mini", task__image_size=24, task__patch_size=3, task__channels=1)
    reading = Reading.of(made, preset("vit_mini"))
    patches = reading.encoder.patches
    assert (patches.size, patches.channels, patches.grid) == (3, 1, (8, 8))
    assert reading.row_length == reading.encoder.max_positions == 65 and reading.layout.side == 24


def test_weights_decide_patches_and_say_what_a_picture_becomes(tmp_path: pathlib.Path) -> None:
    given = ImageLayout(32, "crop", 36, (0.1,) * 3, (0.2,) * 3)
    made = config(tmp_path, model__init="dir:x", model__preset="")
    reading = Reading.of(made, preset("vit_mini"), given)
    assert reading.layout == given and reading.row_length == 65
    larger = Reading.of(
        config(tmp_path, model__init="dir:x", model__preset="", task__image_size=64), preset("vit_mini"), given
    )
    # The table of positions stays that of the weights and is read between its entries.
    assert larger.encoder.patches.grid == (8, 8) and larger.row_length == 257 and larger.layout.shorter_side == 0
    with pytest.raises(UserError, match=r"task\.channels: is 1, but the weights have 3"):
        Reading.of(config(tmp_path, model__init="dir:x", model__preset="", task__channels=1), preset("vit_mini"), given)


def test_rows_of_several_images(tmp_path: pathlib.Path) -> None:
    packed = config(tmp_path, data__packed=True, task__resize="native")
    assert Reading.of(packed, preset("vit_nano")).row_length == 256
    assert Reading.of(config(tmp_path, data__packed=True), preset("vit_tiny")).row_length == 256
    asked = config(tmp_path, data__packed=True, data__row_length=40)
    assert Reading.of(asked, preset("vit_nano")).row_length == 40


def test_what_is_done_to_training_images(tmp_path: pathlib.Path) -> None:
    assert augmentation(config(tmp_path)) is None
    assert augmentation(config(tmp_path, task__augment__magnitude=3.0)) is None
    found = augmentation(config(tmp_path, task__augment__flip=True, task__augment__operations=2))
    assert found is not None and found.flip and found.rand_augment == (2, 9.0) and not found.mixes
    for change, words in (
        ({"data__packed": True}, "each row must be one image"),
        ({"train__batch_size": 6, "train__accumulate": 2}, "a batch has 3 rows"),
    ):
        with pytest.raises(UserError, match=words):
            augmentation(config(tmp_path, task__augment__mixup=0.5, **change))

"""What preprocessor_config.json says of images, both ways."""

import json
import pathlib
from typing import Any

import pytest

from jaxfm.core.initial import ImageLayout
from jaxfm.errors import UserError
from jaxfm.hub.image_processors import read_image_processor, write_image_processor

VIT = {"size": {"height": 224, "width": 224}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
DINO = {
    "do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256},
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 0.00392156862745098,
}  # fmt: skip


def read(folder: pathlib.Path, values: Any) -> ImageLayout | None:
    (folder / "preprocessor_config.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return read_image_processor(folder)


def test_published_files(tmp_path: pathlib.Path) -> None:
    assert read_image_processor(tmp_path) is None
    assert read(tmp_path, VIT) == ImageLayout(224, "squash", 0, (0.5,) * 3, (0.5,) * 3)
    assert read(tmp_path, {"size": 384, "image_mean": [0.5], "image_std": [0.5]}) == ImageLayout(
        384, "squash", 0, (0.5,), (0.5,)
    )
    found = read(tmp_path, DINO)
    assert found == ImageLayout(224, "crop", 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert read(tmp_path, {**VIT, "do_normalize": False}) == ImageLayout(224, "squash", 0, (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("layout", [
    ImageLayout(32, "squash", 0, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
    ImageLayout(8, "squash", 0, (0.3,), (0.4,)),
    ImageLayout(224, "crop", 256, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
])  # fmt: skip
def test_what_is_written_is_read(layout: ImageLayout, tmp_path: pathlib.Path) -> None:
    write_image_processor(tmp_path, layout)
    assert read_image_processor(tmp_path) == layout


@pytest.mark.parametrize(("values", "words"), [
    ("[1", "is not JSON"),
    ("[1]", "is JSON, but not an object"),
    ({**VIT, "rescale_factor": 1.0}, "rescale_factor 1.0"),
    ({**VIT, "do_rescale": False}, "pixels are scaled from 0..255"),
    ({**VIT, "image_std": [0.5, 0.0, 0.5]}, "deviations are above 0"),
    ({**VIT, "image_mean": ["a"]}, "a number a channel"),
])  # fmt: skip
def test_what_is_refused(values: Any, words: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=words):
        read(tmp_path, values)

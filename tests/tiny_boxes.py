"""Tiny runs on images with boxes, and their images."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm.config import Config
from jaxfm.tasks.registry import default_config, from_config_dict
from tests.tiny import SIZES, replaced


def write_boxes(directory: pathlib.Path, sizes: Mapping[str, int] = SIZES, side: int = 16) -> str:
    """Writes COCO's form of small pictures with one or two dark or light squares on grey, all learnable; its URI."""
    from PIL import Image

    for seed, (split, count) in enumerate(sizes.items()):
        draw, found, folder = np.random.default_rng(seed), [], directory / split
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.full((side, side, 3), 128, np.uint8)
            for left in (0, side // 2)[: 1 + number % 2]:
                kind, top, size = number % 3 // 2, int(draw.integers(0, side // 2)), int(draw.integers(4, side // 2))
                pixels[top : top + size, left : left + size] = (20, 240)[kind]
                box = [left, top, size, size]
                found.append({"id": len(found), "image_id": number, "category_id": kind + 1, "bbox": box})
            Image.fromarray(pixels).save(folder / f"{number}.png")
        images = [{"id": each, "file_name": f"{each}.png", "width": side, "height": side} for each in range(count)]
        classes = [{"id": 1, "name": "dark"}, {"id": 2, "name": "light"}]
        values = {"images": images, "annotations": found, "categories": classes}
        (folder / "_annotations.coco.json").write_text(json.dumps(values))
    return f"coco:{directory}"


def detection_config(directory: pathlib.Path, **overrides: Any) -> Config:
    """A run over those images, made at the first call; keys as `train__steps=4`."""
    values = default_config("detection")
    values.model.init, values.model.preset = "scratch", "yolos_nano"
    values.model.num_layers, values.model.hidden_size, values.model.ffn_size = 2, 32, 64
    values.model.scan_layers = True
    values.data.source = f"coco:{directory / 'boxes'}"
    values.task.image_size, values.task.patch_size, values.task.detection_tokens = 16, 4, 4
    values.task.small_data = True
    values.train.batch_size = 8
    values.train.steps = 12
    values.train.min_steps = 0
    values.eval.batch_size = 8
    values.log.every_steps = 4
    if not (directory / "boxes").exists():
        write_boxes(directory / "boxes")
    return replaced(from_config_dict(values), **overrides)

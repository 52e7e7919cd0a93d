"""How many images a second are decoded, made into rows, read by the pipeline, and augmented on the device.

  python -m profiles.image_data --sizes=32,224 --output=profiles/results/image_data.json

Images are noise with smooth colours, as PNG and JPEG files in memory, of each size (H = W). Measured are: decoding
(file -> uint8), decoding and resizing to `--side`, `build_image_rows` (decoding in threads), batches of rows that are
in memory and that are decoded anew (grain's threads), and `augment` of a batch, compiled, on this machine's device.
"""

import argparse
import io
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxfm import files
from jaxfm.data.images.decoding import decode, resize
from jaxfm.data.images.rows import ImageRows, build_image_rows
from jaxfm.data.images.stored import StoredImage
from jaxfm.data.pipeline import TrainBatches
from jaxfm.errors import UserError
from jaxfm.models.inputs.augmentation import Augmentation, augment
from jaxfm.observe.tables import Table, to_markdown
from profiles import command_line
from profiles.quality import machine, shown_command

KINDS = ("PNG", "JPEG")
CHANNELS = 3
AUGMENTATIONS = {
    "flip": Augmentation(flip=True),
    "crop and flip": Augmentation(crop=0.2, flip=True),
    "crop, flip, 2 operations of 9, erasing": Augmentation(crop=0.2, flip=True, rand_augment=(2, 9.0), erase=0.25),
}


def picture(size: int, seed: int, kind: str) -> bytes:
    """A file of a smooth image with some noise, as photographs have it."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (5, 5, CHANNELS)).astype(np.uint8)).resize((size, size))
    pixels = np.asarray(coarse, np.float64) + draw.normal(0, 8, (size, size, CHANNELS))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, kind)
    return file.getvalue()


def rates(work: Callable[[], Any], count: int, turns: int) -> dict[str, float]:
    """Returns the median, least and most of count / seconds over some turns, after one that is not counted."""
    work()
    seconds = []
    for _ in range(turns):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    found = [count / each for each in seconds]
    return {"per_second": statistics.median(found), "least": min(found), "most": max(found)}


def pipeline(rows: ImageRows, batch_size: int, steps: int) -> None:
    """Reads batches as a run does."""
    for _ in TrainBatches(rows, batch_size=batch_size, seed=0).iterate(0, steps):
        pass


def of_files(images: list[StoredImage], side: int, patch: int, batch_size: int, turns: int) -> dict[str, Any]:
    """Returns the rates of files of one kind and size."""
    settings: dict[str, Any] = {"rule": "squash", "side": side, "patch": patch, "channels": CHANNELS, "prefix": 1}
    steps = max(len(images) // batch_size, 1) * 2

    def decoded() -> None:
        for image in images:
            decode(image, CHANNELS)

    def resized() -> None:
        for image in images:
            resize(decode(image, CHANNELS), side, side)

    kept, lazy = (build_image_rows(images, **settings, memory_bytes=limit) for limit in (1 << 40, 0))
    return {
        "decode": rates(decoded, len(images), turns),
        "decode_resize": rates(resized, len(images), turns),
        "build_rows": rates(lambda: build_image_rows(images, **settings), len(images), turns),
        "batches_in_memory": rates(lambda: pipeline(kept, batch_size, steps), steps * batch_size, turns),
        "batches_decoded_anew": rates(lambda: pipeline(lazy, batch_size, steps), steps * batch_size, turns),
    }


def of_augmentation(side: int, patch: int, batch_size: int, turns: int) -> dict[str, Any]:
    """Returns the rates of augmentations of a batch on the device."""
    draw = np.random.default_rng(0)
    images = [
        StoredImage("", array=draw.integers(0, 256, (side, side, CHANNELS)).astype(np.uint8)) for _ in range(batch_size)
    ]
    rows = build_image_rows(images, rule="squash", side=side, patch=patch, channels=CHANNELS, prefix=1)
    batch = {name: jnp.asarray(values) for name, values in rows.take(np.arange(batch_size)).items()}
    found = {}
    for name, augmentation in AUGMENTATIONS.items():

        def changed(batch: Any, key: Any, augmentation: Augmentation = augmentation) -> Any:
            return augment(batch, augmentation, patch, CHANNELS, key, segments=1)

        begun = time.perf_counter()
        program = jax.jit(changed).lower(batch, jax.random.key(0)).compile()
        compiling = time.perf_counter() - begun
        work = rates(
            lambda program=program: jax.block_until_ready(program(batch, jax.random.key(0))), batch_size, turns
        )
        found[name] = {**work, "compile_seconds": compiling}
    return found


def cpu_name() -> str:
    """Returns the processor's name as Linux has it."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def shown(result: dict[str, Any]) -> str:
    """Returns the rates as tables."""
    rows = [
        (size, kind, *(f"{rate['per_second']:,.0f}" for rate in found.values()))
        for size, kinds in result["files"].items()
        for kind, found in kinds.items()
    ]
    heads = ("size", "file", "decode", "and resize", "build rows", "batches in memory", "decoded anew")
    tables = [to_markdown(Table("Images a second", heads, rows))]
    for size, found in result["augment"].items():
        lines = [(name, f"{each['per_second']:,.0f}", f"{each['compile_seconds']:.1f}") for name, each in found.items()]
        tables.append(to_markdown(Table(f"Augmented, {size} pixels", ("what", "images a second", "compile s"), lines)))
    return "\n\n".join(tables)


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--sizes", default="32,224", help="sides of the images in pixels")
    parser.add_argument("--images", type=int, default=256, help="images of each kind and size")
    parser.add_argument("--batch", type=int, default=64, help="rows of a batch")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file to write")
    arguments: argparse.Namespace
    arguments, _ = command_line.parse(parser, argv)
    sizes = command_line.integers("--sizes", arguments.sizes.split(","))
    if bad := [size for size in sizes if size < 16 or size % 16]:
        raise UserError(f"--sizes={arguments.sizes}: {bad[0]} is not a multiple of 16.")
    result: dict[str, Any] = {
        "command": shown_command(sys.argv),
        "machine": {**machine(), "cpu": cpu_name()},
        "images": arguments.images,
        "batch": arguments.batch,
        "files": {},
        "augment": {},
    }
    for size in sizes:
        patch = 16 if size >= 128 else size // 8
        result["files"][str(size)] = {}
        for kind in KINDS:
            images = [StoredImage(f"{seed}", data=picture(size, seed, kind)) for seed in range(arguments.images)]
            result["files"][str(size)][kind] = of_files(images, size, patch, arguments.batch, arguments.turns)
        result["augment"][str(size)] = of_augmentation(size, patch, arguments.batch, arguments.turns)
    files.write_json(arguments.output, result)
    print(shown(result))


if __name__ == "__main__":
    command_line.run(main)

"""The image sets of the shared data as parquet files of PNG bytes, for measurements.

  python -m profiles.image_sets --data=DIR/cifar10-subset --output=DIR

Reads the .npz of a set (x_train, y_train, x_test, y_test, class_names) and writes train.parquet and test.parquet with
the columns image ({"bytes", "path"}, as the package `datasets` has it), label (a class by its name) and, where there is
a captions.train.tsv, its columns (caption, category ...).
"""

import argparse
import io
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from jaxfm import files
from jaxfm.data.records.registry import open_file
from jaxfm.errors import UserError
from profiles import command_line

SPLITS = ("train", "test")


def png(pixels: np.ndarray) -> bytes:
    """Returns the bytes of a PNG file of pixels uint8 [H, W], [H, W, 1] or [H, W, 3]."""
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).save(file, "PNG")
    return file.getvalue()


def read_npz(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of the one .npz in a folder. Raises UserError where there is none, or several."""
    found = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if len(found) != 1:
        raise UserError(f"--data={folder}: must be a folder with one .npz file of images; it has {len(found)}.")
    with np.load(found[0], allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def columns_of(arrays: dict[str, np.ndarray], folder: pathlib.Path, split: str) -> dict[str, list[Any]]:
    """Returns the columns of a split."""
    columns: dict[str, list[Any]] = {
        "image": [
            {"bytes": png(pixels), "path": f"{split}{number}.png"} for number, pixels in enumerate(arrays[f"x_{split}"])
        ]
    }
    if f"y_{split}" in arrays:
        names = arrays["class_names"].tolist()
        columns["label"] = [names[number] for number in arrays[f"y_{split}"].tolist()]
    captions = folder / f"captions.{split}.tsv"
    if captions.is_file():
        table = open_file(captions)
        rows = [row.values for row in table.read(None)]
        columns |= {name: [row[name] for row in rows] for name in table.columns}
    return columns


def write_set(folder: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
    """Writes the splits of a set below `output`/NAME, unless they are there; returns where."""
    target = output / folder.name
    if all((target / f"{split}.parquet").is_file() for split in SPLITS):
        return target
    arrays = read_npz(folder)
    features = {"info": {"features": {"image": {"_type": "Image"}}}}
    for split in SPLITS:
        table = pyarrow.table(columns_of(arrays, folder, split))
        with files.atomic_write(target / f"{split}.parquet", binary=True) as file:
            pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), file)
    return target


def main(argv: Sequence[str] | None = None) -> None:
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of a set: one .npz, and captions")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder in which the set's folder is made")
    arguments: argparse.Namespace
    arguments, _ = command_line.parse(parser, argv)
    print(write_set(arguments.data, arguments.output))


if __name__ == "__main__":
    command_line.run(main)

"""A set of images and captions becomes parquet files that `read_images` reads."""

import numpy as np
import pytest

from jaxfm.data.images.decoding import decode
from jaxfm.data.images.examples import read_images
from profiles.image_sets import write_set


@pytest.mark.parametrize("channels", [1, 3])
def test_a_set_is_written_and_read_back(tmp_path, channels):
    folder = tmp_path / "toys"
    folder.mkdir()
    draw = np.random.default_rng(0)
    arrays = {f"x_{split}": draw.integers(0, 256, (4, 6, 5, channels)).astype(np.uint8) for split in ("train", "test")}
    labels = {f"y_{split}": np.asarray([0, 1, 1, 0], np.uint8) for split in ("train", "test")}
    np.savez(folder / "toys.npz", class_names=np.asarray(["cat", "dog"]), **arrays, **labels)
    for split in ("train", "test"):
        lines = "".join(f"{split} picture {number}\tpets\n" for number in range(4))
        (folder / f"captions.{split}.tsv").write_text("caption\tkind\n" + lines)
    target = write_set(folder, tmp_path / "out")
    read = read_images(f"parquet:{target}", None, labels="single", texts=True)
    for split, found in read.items():
        assert [example.labels[0] for example in found.examples] == ["cat", "dog", "dog", "cat"]
        assert [example.text for example in found.examples] == [f"{split} picture {number}" for number in range(4)]
        for example, pixels in zip(found.examples, arrays[f"x_{split}"], strict=True):
            np.testing.assert_array_equal(decode(example.image, channels), pixels)
    before = (target / "train.parquet").stat().st_mtime_ns
    assert write_set(folder, tmp_path / "out") == target
    assert (target / "train.parquet").stat().st_mtime_ns == before

"""Images with boxes from COCO's JSON, from YOLO's text files and drawn; what is wrong with a record is one message."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jaxfm.data.images.boxed_sources import largest, read_boxed
from jaxfm.data.images.boxes import image_size
from jaxfm.data.images.shapes import CLASSES, draw_split
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]


def picture(path: pathlib.Path, width: int = 40, height: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3)).astype(np.uint8)).save(path)


def write_coco(folder: pathlib.Path, change: Callable[[dict[str, Any]], None] = lambda values: None) -> pathlib.Path:
    for split in ("train", "val"):
        for name in ("a.png", "b.png"):
            picture(folder / f"{split}2017" / name)
        values: dict[str, Any] = {
            "images": [{"id": 5, "file_name": "a.png", "width": 40, "height": 30}, {"id": 9, "file_name": "b.png"}],
            "annotations": [
                {"id": 1, "image_id": 5, "category_id": 7, "bbox": [1, 2, 10, 20], "area": 150, "iscrowd": 0},
                {"id": 2, "image_id": 5, "category_id": 3, "bbox": [20, 0, 20.5, 30], "iscrowd": 1},
            ],
            "categories": [dict(each) for each in CATEGORIES],
        }
        if split == "train":
            change(values)
        path = folder / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(values))
    return folder


def test_coco_as_it_is_published(tmp_path: pathlib.Path) -> None:
    read = read_boxed(f"coco:{write_coco(tmp_path)}", None)
    assert list(read) == ["train", "valid"] and read["train"].classes == ("cat", "dog")
    first, second = read["train"].examples
    assert first.labels == ("dog", "cat") and first.size == (30, 40) and first.crowds.tolist() == [False, True]
    np.testing.assert_allclose(first.boxes, [[1, 2, 11, 22], [20, 0, 40, 30]])
    np.testing.assert_allclose(first.areas, [150, 600])
    assert second.labels == () and second.boxes.shape == (0, 4)
    note = read["train"].note
    assert "2 images with 1 objects, 1 images without any, 1 crowds" in note and "1 boxes cut at the edge" in note
    assert largest(read) == (1, first)


def test_other_layouts_of_coco(tmp_path: pathlib.Path) -> None:
    picture(tmp_path / "images" / "a.png")
    values = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": CATEGORIES}
    for name in ("valid.json", "other.json"):
        (tmp_path / name).write_text(json.dumps(values))
    assert list(read_boxed(f"coco:{tmp_path}", None)) == ["valid"]
    assert list(read_boxed(f"coco:{tmp_path / 'other.json'}", None, holdout=0)) == ["train"]
    with pytest.raises(UserError, match="no split 'test'; it has: valid"):
        read_boxed(f"coco:{tmp_path}", ("test",))


def put(where: str, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        values[where][0][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("annotations", "bbox", [1, 2, 0, 5]), r"train2017\.json: annotation 1: the box .* has no area \(0 x 5"),
        (
            put("annotations", "bbox", [35, 2, 10, 5]),
            r"the box .*: 35, 2, 45, 7\) lies outside its image of",
        ),
        (put("annotations", "bbox", [1, 2, 3]), r"annotation 1: bbox is \[1, 2, 3\]; it must be \[left, top, width"),
        (put("annotations", "category_id", 4), r"annotation 1: category_id 4 is not among the categories: 3, 7"),
        (put("annotations", "image_id", 4), "annotation 1: image_id 4 is not among the images"),
        (put("images", "file_name", "c.png"), r"image 5: the file 'c\.png' is absent \(looked in "),
        (put("images", "file_name", "../../c.png"), "is absent"),
        (put("images", "width", 30), r"image 5 \(a\.png\): width and height are 30 x 30, but the file has 40 x 30"),
        (lambda values: values.pop("categories"), "is not COCO's form"),
        (put("categories", "name", "cat"), "needs one record a class, each with an id and its own name"),
    ],
)
def test_a_wrong_record_of_coco_is_one_message(tmp_path: pathlib.Path, change: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_boxed(f"coco:{write_coco(tmp_path, change)}", None)


def test_bad_boxes_and_broken_images_are_left_out_and_counted(tmp_path: pathlib.Path) -> None:
    folder = write_coco(tmp_path, put("annotations", "bbox", [1, 2, 0, 5]))
    (folder / "train2017" / "b.png").write_bytes(b"no image")
    source = f"coco:{folder}"
    with pytest.raises(UserError, match=r"b\.png.*is not an image.*broken_images=skip"):
        read_boxed(source, ("train",), bad="skip")
    read = read_boxed(source, ("train",), bad="skip", broken="skip")["train"]
    assert len(read.examples) == 1 and read.examples[0].labels == ("cat",)
    assert "1 boxes without area or outside their image left out; 1 broken images left out" in read.note


def write_yolo(folder: pathlib.Path, lines: str = "0 0.5 0.5 0.25 0.5\n1 0.1 0.1 0.2 0.2\n") -> pathlib.Path:
    (folder / "data.yaml").write_text("names: {0: cat, 1: dog}\nnc: 2\n")
    for name in ("a", "b"):
        picture(folder / "images" / "train" / f"{name}.png")
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "labels" / "train" / "a.txt").write_text(lines)
    return folder


def test_yolo(tmp_path: pathlib.Path) -> None:
    read = read_boxed(f"yolo:{write_yolo(tmp_path)}", None, holdout=0)["train"]
    assert read.classes == ("cat", "dog") and "1 images have no text file: they have no objects" in read.note
    np.testing.assert_allclose(read.examples[0].boxes, [[15, 7.5, 25, 22.5], [0, 0, 8, 6]])
    assert read.examples[0].labels == ("cat", "dog") and read.examples[1].labels == ()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0 0.5 0.5 0.25 0.5\n2 0.5 0.5 0.1 0.1\n", r"a\.txt:2: the class 2 is not one of 0 to 1: cat, dog"),
        ("0 0.5 0.5 0.25\n", r"a\.txt:1: '0 0\.5 0\.5 0\.25' is not a class and four numbers"),
        ("0 0.5 0.5 0.25 nan\n", r"a\.txt:1: the box .* a number that is not finite"),
        ("0 0.5 0.5 0 0.1\n", r"a\.txt:1: the box .* has no area"),
        ("0 0.9 0.5 0.4 0.1\n", r"a\.txt:1: the box .* lies outside its image of 40 x 30"),
    ],
)
def test_a_wrong_line_of_yolo_is_one_message(tmp_path: pathlib.Path, lines: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_boxed(f"yolo:{write_yolo(tmp_path, lines)}", None)


def test_wrong_files_of_yolo(tmp_path: pathlib.Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "c.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(UserError, match=r"c\.txt: is without its image"):
        read_boxed(f"yolo:{tmp_path}", None)
    (tmp_path / "data.yaml").write_text("names: [cat, cat]\n")
    with pytest.raises(UserError, match="must be a list of the classes, each once"):
        read_boxed(f"yolo:{tmp_path}", None)
    (tmp_path / "data.yaml").write_text("names: [cat]\ntrain: /elsewhere\n")
    with pytest.raises(UserError, match="train: '/elsewhere' is no folder inside"):
        read_boxed(f"yolo:{tmp_path}", None)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(UserError, match=r"has no data\.yaml"):
        read_boxed(f"yolo:{tmp_path}", None)


def test_a_share_is_held_out_by_a_hash(tmp_path: pathlib.Path) -> None:
    write_yolo(tmp_path)
    for number in range(20):
        picture(tmp_path / "images" / "train" / f"{number}.png", width=50 + number)
    read = read_boxed(f"yolo:{tmp_path}", None, holdout=0.25)
    names = [{each.origin for each in read[split].examples} for split in ("train", "valid")]
    assert not names[0] & names[1] and len(names[0] | names[1]) == 22 and 4 <= len(names[1]) <= 8


def test_drawn_shapes_are_the_same_each_time_and_inside_their_boxes() -> None:
    few, more = draw_split("train", 3), draw_split("train", 30)
    for one, other in zip(few.examples, more.examples, strict=False):
        np.testing.assert_array_equal(one.image.array, other.image.array)
        np.testing.assert_array_equal(one.boxes, other.boxes)
    assert not np.array_equal(few.examples[0].image.array, draw_split("test", 1).examples[0].image.array)
    for example in more.examples:
        assert 1 <= len(example.labels) <= 4 and set(example.labels) <= set(CLASSES)
        assert example.boxes.min() >= 0 and example.boxes.max() <= 64
    # Without noise, the box of a shape is exactly where its pixels are.
    from jaxfm.data.images import shapes

    for kind in range(3):
        for side in (8, 13, 44):
            rows, columns = np.nonzero(shapes._mask(kind, side))
            assert (rows.min(), columns.min(), rows.max(), columns.max()) == (0, 0, side - 1, side - 1)


def test_the_size_of_a_turned_photograph_is_that_which_is_seen(tmp_path: pathlib.Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    assert image_size(StoredImage("turned", path=tmp_path / "turned.jpg")) == (40, 30)

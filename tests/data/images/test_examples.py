"""Images of tables, of data in memory and of the quickstart, with labels and texts."""

import json
import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from jaxfm.data.images.decoding import decode
from jaxfm.data.images.examples import ImageColumns, read_images
from jaxfm.data.images.stored import StoredImage
from jaxfm.data.records.in_memory import provided
from jaxfm.errors import UserError
from tests.data.images.image_files import image_bytes


def pixels(example):
    return decode(example.image, 3)


def test_a_csv_of_paths(write):
    root = write("pics/a.png", "b.jpg", train__csv='file,label,caption\npics/a.png,cat,A cat\nb.jpg,dog,"A dog, old"\n')
    read = read_images(f"csv:{root}/train.csv", ["train"], labels="single", texts=True)
    first, second = read["train"].examples
    assert (first.labels, first.text, first.origin) == (("cat",), "A cat", f"{root}/train.csv:2")
    assert (second.labels, second.text) == (("dog",), "A dog, old")
    assert first.image.origin == f"{root}/train.csv:2 (pics/a.png)"
    np.testing.assert_array_equal(pixels(first), np.asarray(Image.open(root / "pics/a.png")))


def test_jsonl_of_several_classes(write):
    lines = [{"file_name": "a.png", "tags": ["x", "y"]}, {"file_name": "b.png", "tags": []}]
    root = write("a.png", "b.png", train__jsonl="\n".join(map(json.dumps, lines)))
    read = read_images(f"jsonl:{root}", None, labels="multi")
    assert [example.labels for example in read["train"].examples] == [("x", "y"), ()]


def test_several_label_columns_of_marks(write):
    root = write("a.png", "b.png", train__csv="image,sun,sea\na.png,1,0\nb.png,1,1\n")
    read = read_images(f"csv:{root}", None, columns=ImageColumns(label="sun,sea"), labels="multi")
    assert [example.labels for example in read["train"].examples] == [("sun",), ("sun", "sea")]
    assert read["train"].classes == ("sun", "sea")


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_of_bytes(tmp_path, nested):
    files = [image_bytes(number) for number in range(4)]
    values = [{"bytes": data, "path": "a.png"} for data in files] if nested else files
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pyarrow.table({"image": values, "label": [0, 1, 0, 1]}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    read = read_images(f"parquet:{tmp_path}", None, labels="single")
    assert [example.labels for example in read["train"].examples] == [("cat",), ("dog",), ("cat",), ("dog",)]
    for example, data in zip(read["train"].examples, files, strict=True):
        np.testing.assert_array_equal(pixels(example), decode(StoredImage("a", data=data), 3))


def test_a_split_without_labels_is_left_out(write):
    root = write("a.png", "b.png", train__csv="image,label\na.png,x\nb.png,y\n", test__csv="image,label\na.png,\n")
    read = read_images(f"csv:{root}", None, labels="single")
    assert list(read) == ["train"] and "test is left out: no labels" in read["train"].note
    assert list(read_images(f"csv:{root}", None)) == ["train", "test"]


@pytest.mark.parametrize(
    ("table", "asked", "message"),
    [
        ("image,label\na.png,x\nabsent.png,y\n", {}, r"train\.csv:3: the image 'absent\.png' in 'image' is absent"),
        ("image,label\n../a.png,x\n", {}, r"train\.csv:2: '\.\./a\.png' in 'image' leads out of"),
        ("image,label\n/etc/passwd,x\n", {}, r"train\.csv:2: '/etc/passwd' in 'image' leads out of"),
        ("image,label\nlink.png,x\n", {}, r"'link\.png' in 'image' leads out of"),
        ("image,label\npics,x\n", {}, r"the image 'pics' in 'image' is a folder"),
        ("image,label\nhttps://x.org/a.png,x\n", {}, r"is a URL; images are not fetched"),
        ("image,label\na.png,x\na.png,\n", {"labels": "single"}, r"train\.csv:3: without a label in 'label'"),
        ("image,label\na.png,x\n,y\n", {}, r"train\.csv:3: without an image in 'image'"),
        ("image,text\na.png,x\na.png,  \n", {"texts": True}, r"train\.csv:3: without a text in 'text'"),
        ("image,label\na.png,x\na.png,x\n", {"labels": "single"}, "all 2 training images have the class x"),
        ("image\na.png\n", {"labels": "single"}, "no column for the label"),
        ("picture,path\na.png,a.png\n", {}, "'picture' and 'path' could both be the image: set data.image_column"),
        ("image,label\n", {}, "the split 'train' is empty"),
    ],
)
def test_tables_that_are_wrong(write, tmp_path, table, asked, message):
    root = write("in/a.png", "in/pics/b.png", "out.png")
    (root / "in/train.csv").write_text(table)
    os.symlink(root / "out.png", root / "in/link.png")
    with pytest.raises(UserError, match=message):
        read_images(f"csv:{root}/in", None, **asked)


def test_columns_with_a_class_of_their_own_each_are_not_classes(write):
    names = [f"{number}.png" for number in range(25)]
    root = write(*names, train__csv="image,label\n" + "".join(f"{name},{name}\n" for name in names))
    with pytest.raises(UserError, match="'label' has 25 values in 25 training images, hardly any of them twice"):
        read_images(f"csv:{root}", None, labels="single")


def test_the_quickstart_is_the_digits_of_scikit_learn():
    pytest.importorskip("sklearn")
    read = read_images("quickstart", None, labels="single")
    sizes = {name: len(split.examples) for name, split in read.items()}
    assert sum(sizes.values()) == 1797 and 240 <= sizes["valid"] <= 300 and 240 <= sizes["test"] <= 300
    images = np.stack([decode(example.image, 1) for example in read["train"].examples])
    assert images.shape[1:] == (8, 8, 1) and images.min() == 0 and images.max() == 255
    assert {example.labels[0] for example in read["test"].examples} == set("0123456789")
    assert {example.image.digest() for example in read["train"].examples}.isdisjoint(
        example.image.digest() for example in read["test"].examples
    )


def test_holdout_keeps_equal_images_on_one_side_and_every_class():
    images = [np.full((4, 4), value, np.uint8) for value in range(20) for _ in range(2)]
    data = {"image": images, "label": [str(number // 2 % 2) for number in range(40)]}
    with provided(data) as source:
        read = read_images(source, None, labels="single", holdout=0.2)
        again = read_images(source, ["valid"], labels="single", holdout=0.2)
    assert len(read["valid"].examples) == 8 and len(read["train"].examples) == 32
    assert {e.image.digest() for e in read["valid"].examples} & {
        e.image.digest() for e in read["train"].examples
    } == set()
    assert [e.origin for e in again["valid"].examples] == [e.origin for e in read["valid"].examples]
    assert {e.labels for e in read["valid"].examples} == {("0",), ("1",)}
    assert "20.0% of train, chosen by a hash" in read["valid"].note


def test_images_in_memory_of_every_kind():
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    rows = [
        {"image": grey, "label": "a"},
        {"image": Image.fromarray(grey), "label": "b"},
        {"image": image_bytes(3), "label": "a"},
        {"image": {"bytes": image_bytes(4), "path": None}, "label": "b"},
    ]
    with provided({"train": rows, "test": {"image": np.stack([grey, grey + 1]), "label": ["a", "b"]}}) as source:
        read = read_images(source, None, labels="single")
    for example in read["train"].examples[:2]:
        np.testing.assert_array_equal(decode(example.image, 1)[..., 0], grey)
    np.testing.assert_array_equal(decode(read["test"].examples[1].image, 1)[..., 0], grey + 1)
    assert read["train"].examples[0].origin == "train row 0"


def test_data_in_memory_are_named_by_their_pixels():
    def name(image):
        with provided([{"image": image, "label": "a"}]) as source:
            return source

    one, two = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    values = [one, two, one.reshape(2, 8), Image.fromarray(one), Image.fromarray(two), image_bytes(1), image_bytes(2)]
    assert len(set(map(name, values))) == len(values)
    assert name(one) == name(one.copy())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("a.png", "is a path, but there is no folder"),
        (3, r"train row 0: 3 in 'image' is of type int, but an image is a path"),
        ([[1, 2], [3, 4]], "is of type list, but an image is"),
        (None, "train row 0: without an image"),
        ({"bytes": None, "path": None}, "train row 0: without an image"),
    ],
)
def test_images_in_memory_that_are_wrong(image, message):
    with provided([{"image": image}]) as source, pytest.raises(UserError, match=message):
        read_images(source, None)


def test_splits_that_a_source_does_not_have(write):
    root = write("a.png")
    with pytest.raises(UserError, match=r"images:.* has no split 'test'; it has: train"):
        read_images(f"images:{root}", ["test"])
    with pytest.raises(UserError, match="unknown split 'tset'"):
        read_images(f"images:{root}", ["tset"])

"""Folders of images: classes, splits, captions, and what is wrong with them."""

import pathlib

import pytest

from jaxfm.data.images.examples import read_images
from jaxfm.errors import UserError


def labels(split):
    return [example.labels for example in split.examples]


def test_a_folder_a_class_in_splits(write):
    root = write("train/cat/1.png", "train/cat/deep/2.JPG", "train/dog/1.png", "val/cat/1.png", "val/dog/9.webp")
    read = read_images(f"images:{root}", None, labels="single")
    assert list(read) == ["train", "valid"]
    assert labels(read["train"]) == [("cat",), ("cat",), ("dog",)]
    assert read["train"].examples[1].origin == str(root / "train/cat/deep/2.JPG")
    assert read["train"].examples[1].image.path == root / "train/cat/deep/2.JPG"
    assert read["train"].note == (
        f"train: 3 images from {root}/train (image -> label); cat 2, dog 1"
    )  # fmt: skip


def test_a_folder_a_class_without_splits_is_train_or_what_it_is_called(write):
    root = write("pets/cat/1.png", "pets/dog/1.png", "test/cat/1.png", "test/dog/1.png")
    assert list(read_images(f"images:{root}/pets", None, labels="single")) == ["train"]
    assert list(read_images(f"images:{root}/test", None, labels="single")) == ["test"]
    named = read_images(f"images:train={root}/pets,valid={root}/test", None, labels="single")
    assert list(named) == ["train", "valid"]


def test_images_without_classes(write):
    root = write("a.png", "b/c.png", ".hidden.png", "notes.md", "d.txt")
    read = read_images(f"images:{root}", ["train"])
    assert [example.image.path for example in read["train"].examples] == [root / "a.png", root / "b/c.png"]
    assert "other files left out: 1 of .md, 1 of .txt" in read["train"].note
    assert labels(read["train"]) == [(), ()]


def test_captions_beside_the_images(write):
    root = write("a.png", "b.jpg", a__txt="a red cat\n", b__txt="\ufeffein gr\u00fcner Hund")
    read = read_images(f"images:{root}", ["train"], texts=True)
    assert [example.text for example in read["train"].examples] == ["a red cat", "ein gr\u00fcner Hund"]


@pytest.mark.parametrize(
    ("files", "asked", "message"),
    [
        (("a.png",), {"labels": "single"}, r"a\.png: lies in no folder of a class: .*CLASS/a\.png\."),
        (("cat/a.png",), {"labels": "single"}, "all 1 training images have the class cat.*nothing to learn"),
        (("cat/a.png",), {"labels": "multi"}, "a folder gives an image one class"),
        (("train/cat/a.png", "car/a.png"), {"labels": "single"}, r"'train' name splits, but beside them .*'car'"),
        (("train/cat/a.png", "b.png"), {"labels": "single"}, r"beside them are the images 'b\.png'"),
        (("val/a.png", "dev/b.png"), {}, "could be the split 'valid'"),
        (("cat/a.png", "dog/notes.md"), {"labels": "single"}, "dog: the folder of a class holds no image"),
        (("notes.md",), {}, r"holds no image \(a file that ends in \.png .*holds notes\.md"),
        (("a.png", "a.txt", "b.txt"), {"texts": True}, r"b\.txt: a caption without its image"),
        (("a.png", "a.txt", "b.png"), {"texts": True}, r"b\.png: an image without its caption"),
        (("a.png", "a.jpg", "a.txt"), {"texts": True}, r"a\.png: the caption a\.txt would be that of a\.jpg too"),
    ],
)
def test_folders_that_are_wrong(write, files, asked, message):
    root = write(*files)
    with pytest.raises(UserError, match=message):
        read_images(f"images:{root}", None, **asked)


def test_an_image_in_no_class_beside_a_table_names_the_table(write):
    root = write("a.png", metadata__csv="file_name,label\na.png,cat\n")
    with pytest.raises(UserError, match=rf"if metadata\.csv has the labels, write csv:{root}/metadata\.csv"):
        read_images(f"images:{root}", None, labels="single")


def test_no_folder_an_empty_one_and_a_file(write, tmp_path: pathlib.Path):
    root = write("a.png")
    (tmp_path / "empty").mkdir()
    for source, message in (
        (f"images:{root}/absent", "no such folder; the folder .* holds a.png, empty"),
        (f"images:{root}/empty", "holds no image.*holds nothing"),
        (f"images:{root}/a.png", "is a file; images: takes a folder"),
        ("images:", "needs a folder"),
        (f"{root}", f"For files write .*images:{root}"),
    ):
        with pytest.raises(UserError, match=message):
            read_images(source, None)

"""Tar shards: records by the names of their members, read where they lie."""

import io
import json
import tarfile

import numpy as np
import pytest

from jaxfm.data.images.decoding import decode
from jaxfm.data.images.examples import ImageColumns, read_images
from jaxfm.data.images.stored import StoredImage
from jaxfm.errors import UserError
from tests.data.images.image_files import image_bytes


def shard(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def pairs(count, first=0):
    members = {}
    for number in range(first, first + count):
        members[f"x/{number:04}.png"] = image_bytes(number)
        members[f"x/{number:04}.cls"] = str(number % 2).encode()
        members[f"x/{number:04}.txt"] = f"picture {number}\n".encode()
        members[f"x/{number:04}.json"] = json.dumps(
            {"kind": "ab"[number % 2], "tags": ["u", "v"][: number % 3]}
        ).encode()
    return members


def test_classes_and_captions_of_shards(tmp_path):
    shard(tmp_path / "train-000000.tar", pairs(3))
    shard(tmp_path / "train-000001.tar", pairs(2, first=3))
    shard(tmp_path / "valid-000000.tar", pairs(2, first=5))
    read = read_images(f"webdataset:{tmp_path}", None, labels="single", texts=True)
    assert [len(split.examples) for split in read.values()] == [5, 2]
    example = read["train"].examples[4]
    assert (example.labels, example.text) == (("0",), "picture 4")
    assert example.origin == f"{tmp_path}/train-000001.tar/x/0004"
    expected = decode(StoredImage("a", data=image_bytes(4)), 3)
    np.testing.assert_array_equal(decode(example.image, 3), expected)
    assert example.image.data is None and example.image.path == tmp_path / "train-000001.tar"
    by_name = read_images(f"webdataset:{tmp_path}", ["train"], columns=ImageColumns(label="kind"), labels="single")
    assert [each.labels for each in by_name["train"].examples] == [("a",), ("b",), ("a",), ("b",), ("a",)]
    several = read_images(f"webdataset:{tmp_path}", ["train"], labels="multi")
    assert [each.labels for each in several["train"].examples] == [(), ("u",), ("u", "v"), (), ("u",)]


def test_one_shard_alone_is_train(tmp_path):
    path = shard(tmp_path / "shard.tar", pairs(2))
    assert list(read_images(f"webdataset:{path}", None)) == ["train"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": b"1", "a.jpg": b"2"}, r"shard\.tar/a: has two images, a\.png and a\.jpg"),
        ({"a.png": b"1", "b.png": b"2", "a.txt": b"3"}, r"shard\.tar/a: its members lie apart"),
        ({"a.png": b"1", "a.txt": b"t", "b.txt": b"t"}, r"shard\.tar/b: without an image in 'image'"),
        ({"a.png": b"1", "a.txt": b"t", "b.png": b"t"}, r"shard\.tar/b: without a text in 'txt'"),
        ({"a.png": b"1", "a.txt": b"\xff\xfe\x00"}, r"shard\.tar/a\.txt: not UTF-8"),
        ({"a.png": b"1", "a.json": b"{"}, r"shard\.tar/a\.json: not JSON"),
        ({"a.png": b"1", "a.json": b"[1]"}, r"shard\.tar/a\.json: a list, but it must be one object"),
    ],
)
def test_records_that_are_wrong(tmp_path, members, message):
    path = shard(tmp_path / "shard.tar", members)
    with pytest.raises(UserError, match=message):
        read_images(f"webdataset:{path}", None, texts=True)


def test_shards_that_are_cut_compressed_or_no_tar(tmp_path):
    whole = shard(tmp_path / "shard.tar", pairs(3)).read_bytes()
    for name, data in (
        ("cut", whole[: whole.index(b"x/0002.png") + 600]),
        ("text", b"not a tar at all " * 100),
        ("gz", b"\x1f\x8b" + bytes(600)),
    ):
        path = tmp_path / f"{name}.tar"
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"{name}\.tar: the tar file is damaged, cut or compressed: "):
            read_images(f"webdataset:{path}", None)


def test_no_shards(tmp_path):
    with pytest.raises(UserError, match=r"webdataset:.*: no file with one of the suffixes \.tar"):
        read_images(f"webdataset:{tmp_path}", None)

"""What a person may call an image, on a command line and in Python."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxfm.data.images.decoding import decode
from jaxfm.errors import UserError
from jaxfm.programs.image_input import argument_records, image_record, is_one_image, read_images_of
from tests import tiny

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)


def refusal(value: object) -> str:
    with pytest.raises(UserError) as caught:
        image_record(value, "image 3")
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "more").mkdir()
    for name in ("b.png", "a.png", "more/c.png"):
        Image.fromarray(PIXELS).save(tmp_path / name)
    (tmp_path / "note.txt").write_text("no image")
    return tmp_path


def test_an_image_by_any_name(folder: pathlib.Path) -> None:
    path = folder / "a.png"
    for value in (path, str(path), path.read_bytes(), PIXELS, Image.fromarray(PIXELS), {"image": PIXELS, "id": 7}):
        record = image_record(value, "image 1")
        np.testing.assert_array_equal(decode(record["image"], 3), PIXELS)
        assert record.get("id") == (7 if isinstance(value, dict) else None)
        assert is_one_image(value) == (not isinstance(value, str | dict))
    assert not is_one_image([PIXELS]) and not is_one_image(np.stack([PIXELS, PIXELS]))


def test_what_is_not_an_image(folder: pathlib.Path) -> None:
    assert refusal({"text": "a"}) == 'image 3: has no "image".'
    assert refusal(str(folder / "z.png")).endswith("z.png' is not a file.")
    assert "but an image is a path, the bytes of a file" in refusal(3)


def test_arguments_are_files_and_folders(folder: pathlib.Path) -> None:
    records = argument_records([str(folder / "b.png"), str(folder)], texts=False)
    names = [pathlib.Path(record["image"].origin).name for record in records]
    assert names == ["b.png", "a.png", "b.png", "c.png"]
    with pytest.raises(UserError, match=r"z\.png: there is no such file or folder"):
        argument_records(["z.png"], texts=False)
    assert argument_records(["a red heart"], texts=True) == [{"text": "a red heart"}]
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no image"):
        argument_records([str(folder / "empty")], texts=False)


def test_tables_have_paths_and_ids(folder: pathlib.Path) -> None:
    table = folder / "list.csv"
    table.write_text("id,path\nfirst,b.png\nsecond,more/c.png\n")
    records = list(read_images_of(table))
    assert [record["id"] for record in records] == ["first", "second"]
    np.testing.assert_array_equal(decode(records[1]["image"], 3), PIXELS)
    table.write_text("name,where\nfirst,b.png\n")
    with pytest.raises(UserError, match="--image_column"):
        list(read_images_of(table))
    assert len(list(read_images_of(table, "where"))) == 1
    table.write_text("path\n../secret.png\n")
    with pytest.raises(UserError, match=r"list\.csv:2: '\.\./secret\.png' in 'path' leads out of"):
        list(read_images_of(table))
    assert len(list(read_images_of(folder))) == 3
    assert len(list(read_images_of(folder / "a.png"))) == 1


def test_a_model_of_texts_takes_no_folder(tmp_path: pathlib.Path) -> None:
    from jaxfm.programs.predict import predict_file

    run = tiny.write_runs(tmp_path, ("classification",))["classification"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="is a directory; name a file"):
        predict_file(run, tmp_path / "folder", tmp_path / "out.jsonl")

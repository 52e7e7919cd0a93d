"""Small image files for tests."""

import pathlib
from collections.abc import Callable

import pytest

from tests.data.images.image_files import image_bytes


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Writes files below tmp_path: names ending like images get noise, each another one; returns tmp_path."""

    def write(*names: str, **texts: str) -> pathlib.Path:
        for number, name in enumerate(names):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image_bytes(len(list(tmp_path.rglob("*"))) + 1000 * number))
        for name, text in texts.items():
            (tmp_path / name.replace("__", ".")).write_text(text, encoding="utf-8")
        return tmp_path

    return write

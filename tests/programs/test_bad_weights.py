"""Weights and tokenizers that cannot be used: one message, before a run directory is made."""

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from jaxfm.errors import UserError
from jaxfm.programs.train import train
from tests import tiny


def edit(path: pathlib.Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def pickled(folder: pathlib.Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")


def cut(folder: pathlib.Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def long_header(folder: pathlib.Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((2**50).to_bytes(8, "little") + path.read_bytes()[8:])


def overlapping(folder: pathlib.Path) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    first, second, *_ = (name for name in header if name != "__metadata__")
    header[second]["data_offsets"] = header[first]["data_offsets"]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def another_shape(folder: pathlib.Path) -> None:
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["bert.embeddings.position_embeddings.weight"] = np.zeros((9, 32), np.float32)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


def without_tokenizer(folder: pathlib.Path) -> None:
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer_config.json").unlink()


CASES: dict[str, tuple[Callable[[pathlib.Path], None], str]] = {
    "pickle": (pickled, "has pytorch_model.bin but no model.safetensors"),
    "cut": (cut, "is not a whole safetensors file"),
    "long header": (long_header, "is not a whole safetensors file"),
    "overlapping": (overlapping, "is not a whole safetensors file"),
    "another shape": (another_shape, "has shape [9, 32], but config.json asks for [64, 32]"),
    "family": (lambda folder: edit(folder / "config.json", model_type="berd"), "Did you mean 'bert'?"),
    "remote code": (
        lambda folder: edit(folder / "config.json", model_type="mine", auto_map={"AutoModel": "m.M"}),
        "is never run",
    ),
    "gaps": (lambda folder: edit(folder / "config.json", id2label={"0": "O", "2": "B"}), "without gaps: '1' is not"),
    "no tokenizer": (without_tokenizer, "no tokenizer here"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("bad")
    tiny.config(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_one_message_and_no_run_directory(case: str, made: pathlib.Path, tmp_path: pathlib.Path) -> None:
    damage, words = CASES[case]
    shutil.copytree(made / "weights", tmp_path / "weights")
    damage(tmp_path / "weights")
    config = tiny.replaced(tiny.config(made), model__init=f"dir:{tmp_path / 'weights'}")
    with pytest.raises(UserError) as caught:
        train(config, tmp_path / "run")
    text = str(caught.value)
    assert words in text and str(tmp_path / "weights") in text and "\n" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_no_network(made: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    config = tiny.replaced(tiny.config(made), model__init="hf:owner/name@v1")
    with pytest.raises(UserError, match=r"^config\.model\.init: 'hf:owner/name@v1' could not be had"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()

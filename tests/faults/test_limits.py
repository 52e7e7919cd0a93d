"""What headers claim is compared with what files have, and no name in a file leads out of its folder."""

import dataclasses
import json
import pathlib
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.numpy

from jaxfm import files
from jaxfm.core.encoder_config import LARGEST, EncoderConfig, UnfitShapeError
from jaxfm.core.spec import SPEC_FILE
from jaxfm.data.corpora import shards
from jaxfm.data.corpora.array_files import map_array
from jaxfm.data.images.decoding import decode
from jaxfm.data.images.examples import read_images
from jaxfm.data.images.stored import BadImageError, StoredImage
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.registry import open_file
from jaxfm.data.records.sources import read_tagged
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.hub.sentence_transformers import read_sentence_transformers
from jaxfm.hub.tensor_files import INDEX_FILE, SINGLE_FILE, open_tensors
from jaxfm.observe.report import read_report_file
from jaxfm.programs.trainer_script import read
from jaxfm.training import retention
from jaxfm.training.saved_run import open_run
from profiles.faults import hub_readers, run_readers


def header_of(path: pathlib.Path, **tensors: Any) -> None:
    """Writes a safetensors file of 16 bytes of numbers with that header."""
    text = json.dumps(tensors).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))


@pytest.mark.parametrize("length", [2**63, 2**40, 100_000_001, 5000])
def test_the_header_of_safetensors_is_no_longer_than_its_file(length: int, tmp_path: pathlib.Path) -> None:
    (tmp_path / SINGLE_FILE).write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(
        UserError, match=rf"{SINGLE_FILE}: says that its header has {length:,} bytes, but the file has 10"
    ):
        open_tensors(tmp_path)


@pytest.mark.parametrize(
    ("shape", "end"), [([2**40], 2**42), ([4, 2], 32), ([2**62, 2**62, 0], 0), ([1] * 70, 4), ([-4], 16), ([4.0], 16)]
)
def test_tensors_are_no_larger_than_their_file(shape: list[Any], end: int, tmp_path: pathlib.Path) -> None:
    header_of(tmp_path / SINGLE_FILE, x={"dtype": "F32", "shape": shape, "data_offsets": [0, end]})
    with pytest.raises(UserError, match=SINGLE_FILE):
        open_tensors(tmp_path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "a/b.safetensors", "..", "x\0", ""])
def test_an_index_of_shards_names_files_beside_it(name: str, tmp_path: pathlib.Path) -> None:
    safetensors.numpy.save_file({"x": np.ones(2, np.float32)}, tmp_path / "outside.safetensors")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / INDEX_FILE).write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(UserError, match=f"{INDEX_FILE}"):
        open_tensors(tmp_path / "model")


def test_an_index_has_no_endless_list_of_shards(tmp_path: pathlib.Path) -> None:
    names = {f"x{number}": f"{number}.safetensors" for number in range(10_001)}
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(UserError, match="names 10,001 files; no checkpoint has more than 10,000"):
        open_tensors(tmp_path)


def test_modules_lie_below_their_directory(tmp_path: pathlib.Path) -> None:
    for path in ("../1_Pooling", "/1_Pooling", "a/../../b"):
        (tmp_path / "modules.json").write_text(json.dumps([{"type": "x.Pooling", "path": path}]))
        with pytest.raises(UserError, match=r"modules.json: names .*, which is outside"):
            read_sentence_transformers(tmp_path)


@pytest.mark.parametrize("key", ["vocab", "merges", "vocab_file"])
def test_a_tokenizer_reads_no_file_elsewhere(key: str, tmp_path: pathlib.Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    hub_readers.write_vocabulary(own)
    (tmp_path / "secret.txt").write_text(hub_readers.VOCABULARY + "secret\n")
    values = files.read_object(own / "tokenizer_config.json") | {key: str(tmp_path / "secret.txt")}
    (own / "tokenizer_config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"tokenizer_config.json: {key} is "):
        load_tokenizer(own)


def test_json_files_have_a_largest_size(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "task.json"
    with path.open("wb") as file:
        file.truncate(files.MOST_JSON_BYTES + 1)  # takes no disk
    for reader in (files.read_json, files.read_object):
        with pytest.raises(UserError, match="has 268,435,457 bytes, but files of its kind have at most 256 MiB"):
            reader(path)


def npy(shape: str, descr: str = "'<i8'", data: bytes = bytes(16)) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy("(9999999999999,)"), "has 144 bytes of the 80,000,000,000,119 that its header says"),
        (npy("(2,)", "'|O'"), "does not begin as an array of numbers"),
        (npy("(2,)", "'<f8'"), "holds float64 of shape"),
        (npy("(2, 1)"), r"of shape \[2, 1\], but must hold int64"),
        (npy("__import__('os').getcwd()"), "does not begin as an array of numbers"),
        (npy("(" * 500), "does not begin as an array of numbers"),
        (b"\x93NUMPY\x02\x00" + bytes(100), "does not begin as an array of numbers"),
        (b"", "does not begin as an array of numbers"),
    ],
)
def test_headers_of_arrays(content: bytes, words: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.npy: "):
        map_array(path, np.dtype("<i8"), ())
    if "144 bytes" not in words:
        with pytest.raises(UserError, match=words):
            map_array(path, np.dtype("<i8"), ())


def test_arrays_that_numpy_wrote_are_read(tmp_path: pathlib.Path) -> None:
    for array in (np.arange(3), np.zeros((0, 4), np.float32), np.ones((2, 4), np.float32)):
        np.save(tmp_path / "x.npy", array)
        np.testing.assert_array_equal(map_array(tmp_path / "x.npy", array.dtype, array.shape[1:]), array)


def test_shards_of_a_corpus_have_plain_names(tmp_path: pathlib.Path) -> None:
    for name, content in run_readers.corpus_files().items():
        (tmp_path / name).write_bytes(content)
    manifest = files.read_object(tmp_path / shards.MANIFEST)
    for name in ("../rows-00000.array_record", "/etc/passwd", "rows-00000.array_record/../x"):
        manifest["shards"][0]["name"] = name
        manifest["checksum"] = files.json_digest({**manifest, "checksum": ""})
        (tmp_path / shards.MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(UserError, match=r"shards\[0\]: .* is not the name of a shard"):
            shards.ShardedRows(tmp_path)


def test_a_report_names_a_step_and_no_path(tmp_path: pathlib.Path) -> None:
    for part in ("params", "rest"):
        (tmp_path / "other" / part).mkdir(parents=True)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    kept = {"step": "../../other", "averaged": False, "weights_only": True}
    with pytest.raises(UserError, match="step is '../../other', but must be a whole number"):
        retention.drop_surplus(tmp_path / "run", {"checkpoint": kept})
    assert (tmp_path / "other" / "rest").is_dir()
    (tmp_path / "report.json").write_text(
        json.dumps({"splits": {}, "training": {"steps": 1, "seconds": 1}, "checkpoint": kept})
    )
    with pytest.raises(UserError, match="report.json: checkpoint: step is"):
        read_report_file(tmp_path / "report.json")


def picture(width: int, height: int) -> bytes:
    """A PNG file that claims any size and holds one row."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(3 * width + 1))),
        (b"IEND", b""),
    ]
    found = b"\x89PNG\r\n\x1a\n"
    for kind, data in parts:
        found += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return found


def test_images_have_a_largest_size() -> None:
    with pytest.raises(BadImageError, match="has more than 89,478,485 pixels"):
        decode(StoredImage("a.png", data=picture(40_000, 40_000)), 3)


def test_a_small_parquet_file_of_many_rows_takes_little_memory(tmp_path: pathlib.Path) -> None:
    rows = 300_000  # of one text, which take some kilobytes
    column = pyarrow.DictionaryArray.from_arrays(np.zeros(rows, np.int32), ["x" * 200])
    table = pyarrow.table({"text": column})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    assert (tmp_path / "train.parquet").stat().st_size < 100_000
    tracemalloc.start()
    number = sum(1 for _ in open_file(tmp_path / "train.parquet").read(None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == rows and peak < 30 << 20


def test_sizes_of_an_encoder_have_a_limit(tmp_path: pathlib.Path) -> None:
    for name in ("num_layers", "hidden_size", "vocab_size", "max_positions"):
        with pytest.raises(UnfitShapeError, match=f"{name} must be from 0 to {LARGEST[name]:,}, but is"):
            dataclasses.replace(EncoderConfig(num_heads=1), **{name: LARGEST[name] + 1})
    config, spec = run_readers.runs_of_tasks()["ner"]
    values = json.loads(spec)
    values["encoder"]["num_layers"] = 10**9
    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / SPEC_FILE).write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"task.json: encoder: num_layers must be from 0 to 1,000"):
        open_run(tmp_path)


def test_yaml_has_no_aliases(tmp_path: pathlib.Path) -> None:
    pairs = zip("abcdefghi", "bcdefghij", strict=True)
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]", *(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairs)]
    (tmp_path / "arguments.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"arguments.yaml:2: is not YAML: an alias \(\*NAME\)"):
        read(tmp_path / "arguments.yaml")


def test_links_among_images_of_a_table_stay_inside(tmp_path: pathlib.Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "outside.png").write_bytes(picture(2, 1))
    (tmp_path / "data" / "link.png").symlink_to("../outside.png")
    (tmp_path / "data" / "train.csv").write_text("image,label\nlink.png,a\n")
    with pytest.raises(UserError, match=r"train.csv:2: 'link.png' in 'image' leads out of"):
        read_images(f"csv:{tmp_path / 'data'}", None, labels="single")


def test_annotations_of_brat_name_no_files(tmp_path: pathlib.Path) -> None:
    (tmp_path / "train.txt").write_text("Ada met Bob")
    (tmp_path / "train.ann").write_text("T1\tPER 0 3\t../../etc/passwd\n")
    with pytest.raises(UserError, match=r"train.ann:1: the entity 0..3 \(PER\) says '../../etc/passwd'"):
        read_tagged(f"brat:{tmp_path}", None)


def test_messages_are_for_people(tmp_path: pathlib.Path) -> None:
    (tmp_path / "train.csv").write_text(f"{'x' * 100_000},label\na,b\n")
    with pytest.raises(UserError) as error:
        read_examples(f"csv:{tmp_path}", None, columns=ExampleColumns(), kind="single")
    assert len(str(error.value)) < 4000 and "characters) ..." in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'train.csv'}: no column for the text")

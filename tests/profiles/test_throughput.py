import json
import pathlib

import pytest

from jaxfm.errors import UserError
from profiles import throughput

# ml_collections loads config files in a way that Python 3.12 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
SMALL = ["--config=configs/mlm.py:bert_tiny", "--config.model.tokenizer=train:wordpiece/500"]
SMALL += ["--config.model.scan_layers=True", "--steps=3", "--warm-up=1"]


def test_combinations() -> None:
    assert list(throughput.variants([])) == [{}]
    both = throughput.variants(["data.row_length,train.batch_size=16,8:32,4", "model.remat=none:dots"])
    assert list(both) == [
        {"data.row_length": "16", "train.batch_size": "8", "model.remat": "none"},
        {"data.row_length": "16", "train.batch_size": "8", "model.remat": "dots"},
        {"data.row_length": "32", "train.batch_size": "4", "model.remat": "none"},
        {"data.row_length": "32", "train.batch_size": "4", "model.remat": "dots"},
    ]


@pytest.mark.parametrize("word", ["data.row_length", "data.row_length,train.batch_size=16,8:32"])
def test_what_is_no_combination(word: str) -> None:
    with pytest.raises(UserError, match="--vary"):
        list(throughput.variants([word]))


@pytest.mark.slow
def test_one_table_of_several_shapes(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.json"
    vary = "--vary=data.row_length,train.batch_size=16,8:32,4"
    throughput.main([*SMALL, vary, f"--output={output}", "--peak-flops=1e12"])
    result = json.loads(output.read_text())
    first, second = result["points"]
    assert (first["batch_size"], first["row_length"]) == (8, 16)
    assert (second["batch_size"], second["row_length"]) == (4, 32)
    assert first["tokens"] == second["tokens"] == 128
    assert first["useful_share"] == 1.0
    assert first["mfu"] == pytest.approx(first["achieved_tflops"])
    assert result["platform"] == "cpu" and result["rows"] == "full" and result["peak_flops"] == 1e12
    table = capsys.readouterr().out
    assert "| bert_tiny | 8 x 16 " in table and "| bert_tiny | 4 x 32 " in table


def test_on_a_device_of_unknown_peak_there_is_no_mfu() -> None:
    assert throughput.peak_flops(None) is None  # a CPU
    assert throughput.peak_flops(5e11) == 5e11


def test_what_does_not_fit_is_a_row_of_its_own() -> None:
    point = {"config": "configs/mlm.py:bert_large", "changes": ["seed=1"], "batch_size": 4, "row_length": 8}
    (row,) = throughput.table([point | {"error": "does not fit into memory"}]).rows
    assert row[:3] == ("bert_large", "4 x 8", "does not fit into memory")


def test_a_misspelt_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        throughput.main([*SMALL, "--batch=3"])
    assert "--batch=3" in capsys.readouterr().err

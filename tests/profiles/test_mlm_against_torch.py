import json
import pathlib

import pytest

from profiles import mlm_against_torch

# ml_collections loads config files in a way that Python 3.12 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
SMALL = ["--config=configs/mlm.py:bert_tiny", "--config.model.tokenizer=train:wordpiece/500"]
SMALL += ["--config.data.row_length=16", "--config.train.batch_size=4", "--config.model.scan_layers=True"]


@pytest.mark.slow
def test_both_take_the_same_rows_of_the_same_shape(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("torch")
    output = tmp_path / "out.json"
    mlm_against_torch.main(
        [*SMALL, f"--output={output}", "--turns=1", "--steps=2", "--warm-up=1", "--torch=--no-compile"]
    )
    result = json.loads(output.read_text())
    (ours,), (theirs,) = result["turns"]["jaxfm"], result["turns"]["torch"]
    assert ours["tokens"] == 4 * 16 and len(theirs["seconds"]) == 2
    assert 5 < ours["loss"] < 8 and 5 < theirs["loss"] < 8  # about ln 500 both
    rates = result["tokens_per_second"]
    assert result["ratio"] == pytest.approx(rates["jaxfm"] / rates["torch"])


def test_a_misspelt_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        mlm_against_torch.main([*SMALL, "--output=x", "--turn=1"])
    assert "--turn=1" in capsys.readouterr().err

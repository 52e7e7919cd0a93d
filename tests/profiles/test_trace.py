import json
import pathlib

import pytest

from profiles import trace

# ml_collections loads config files in a way that Python 3.12 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
SMALL = ["--config=configs/mlm.py:bert_tiny", "--config.model.tokenizer=train:wordpiece/500"]
SMALL += ["--config.model.scan_layers=True", "--config.data.row_length=16", "--config.train.batch_size=8"]


@pytest.mark.slow
def test_parts_and_operations_of_a_step(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, kept = tmp_path / "out.json", tmp_path / "kept"
    trace.main([*SMALL, "--steps=2", "--warm-up=1", "--top=7", f"--keep={kept}", f"--output={output}"])
    result = json.loads(output.read_text())
    assert (result["steps"], result["devices"], result["batch_size"], result["row_length"]) == (2, 4, 8, 16)
    spent = result["parts_milliseconds"]
    assert all(spent[part] > 0 for part in ("attention", "ffn", "norms", "embeddings", "head", "optimizer", "input"))
    assert spent["dropout, random"] > 0
    assert spent["other"] < 0.2 * sum(spent.values())
    assert 0 < result["busy_milliseconds"] <= result["step_milliseconds"]
    longest = result["operations"]
    assert len(longest) == 7
    assert [each["milliseconds"] for each in longest] == sorted((e["milliseconds"] for e in longest), reverse=True)
    printed = capsys.readouterr().out
    assert "The 7 longest operations" in printed and "device idle otherwise" in printed
    (file,) = kept.rglob("*.xplane.pb")
    assert str(file) in printed


@pytest.mark.parametrize("words", [["--step=3"], ["--steps=0"], ["--warm-up=-1"]])
def test_a_wrong_option_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        trace.main([*SMALL, *words])
    assert "--step" in capsys.readouterr().err

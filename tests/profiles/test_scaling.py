import json
import pathlib

import pytest

from jaxfm.errors import UserError
from profiles import scaling
from profiles.scaling import Growth

# ml_collections loads config files in a way that Python 3.12 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
SMALL = ["--config=configs/mlm.py:bert_tiny", "--config.model.tokenizer=train:wordpiece/500", "--turns=2", "--steps=2"]
SMALL += ["--config.model.scan_layers=True", "--config.train.batch_size=2", "--config.data.row_length=16"]


@pytest.mark.parametrize(
    ("power", "fixed", "verdict"),
    [(1, 0, "linear"), (2, 0, "more than linear"), (1, 1000, "less than linear"), (0, 1, "less than linear")],
)
def test_exponents_are_those_of_the_law(power: float, fixed: float, verdict: str) -> None:
    work = [100, 200, 400, 800]
    growth = Growth.of(work, [1e-3 * (fixed + each**power) for each in work])
    assert growth.verdict == verdict
    if not fixed:
        assert growth.exponent == pytest.approx(power) == growth.last
    else:
        assert growth.exponent < growth.last + 1e-9 <= 1


@pytest.mark.slow
def test_series_are_added_to_those_that_are_there(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "scaling.json"
    scaling.main([*SMALL, f"--output={output}", "--series=batch", "--batches=4,2"])
    scaling.main([*SMALL, f"--output={output}", "--series=devices", "--devices=1,2"])
    found = json.loads(output.read_text())["series"]
    assert list(found) == ["batch", "devices"]
    assert [point["value"] for point in found["batch"]["points"]] == ["2", "4"]  # by tokens
    assert [point["tokens"] for point in found["batch"]["points"]] == [32, 64]
    assert [(point["devices"], point["tokens"]) for point in found["devices"]["points"]] == [(1, 32), (2, 64)]
    assert found["batch"]["against"] == "tokens"
    seconds = [point["step_seconds"]["median"] for point in found["batch"]["points"]]
    assert found["batch"]["exponent"] == pytest.approx(Growth.of([32, 64], seconds).exponent)
    table = capsys.readouterr().out
    assert "| batch   | 4 " in table and "| devices | seconds over tokens" in table
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_more_devices_than_there_are() -> None:
    with pytest.raises(UserError, match="--devices=64: only 4 are available.*device_count=64"):
        scaling.make_step("configs/mlm.py:bert_tiny", [], "devices", "64")


@pytest.mark.parametrize("words", [["--series=depth"], ["--batch=3"], ["--series=batch", "--batches=4"]])
def test_a_wrong_option_is_refused(words: list[str], tmp_path: pathlib.Path) -> None:
    with pytest.raises(SystemExit):
        scaling.main([f"--output={tmp_path / 'out.json'}", *words])

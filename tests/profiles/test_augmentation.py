"""Gains beside scipy's own interval, examples that are drawn anew with each seed, and runs that are made once."""

import json
import pathlib
from typing import Any

import pytest
from scipy import stats

from jaxfm.config import Config
from jaxfm.errors import UserError
from profiles import augmentation
from profiles.augmentation import NONE, SETS, changes_of, gain, run_once, summary, table, write_data


def test_a_gain_is_that_of_a_paired_t_test() -> None:
    scores, without = {"0": 71.0, "1": 74.5, "2": 73.0, "9": 1.0}, {"0": 70.0, "1": 72.0, "2": 73.5}
    found = gain(scores, without)
    test = stats.ttest_rel([71.0, 74.5, 73.0], [70.0, 72.0, 73.5]).confidence_interval()
    assert found["seeds"] == 3 and found["interval"] == pytest.approx([test.low, test.high])
    assert gain({"0": 3.0}, {"0": 1.0}) == {"mean": 2.0, "interval": None, "seeds": 1}


def test_the_table_has_a_row_for_each_kind() -> None:
    runs = {
        "trec 8": {
            NONE: {"0": {"test": 50.0}, "1": {"test": 60.0}},
            "mixup": {"0": {"test": 55.0}, "1": {"test": 63.0}},
        }
    }
    rows = table(summary(runs)).rows
    assert rows[0][:4] == ("trec 8", NONE, 2, 55.0) and rows[1][1:5] == ("mixup", 2, 59.0, 4.0)


def test_only_sets_with_entities_have_them_exchanged() -> None:
    assert changes_of("entities", SETS["trec"], 0.1, 0.4, "run:lm") is None
    whole = changes_of("mixture", SETS["wnut17"], 0.1, 0.4, "run:lm")
    assert whole == {
        "augment.word_dropout": 0.1,
        "augment.substitute": 0.1,
        "augment.masked_lm": "run:lm",
        "augment.mixup": 0.4,
        "task.perturb.kinds": "entities=5",
    }


def write_trec(folder: pathlib.Path) -> None:
    lines = [
        "coarse_label\tfine_label\tquestion",
        *(f"{'ABC'[at % 3 if at < 60 else 2]}\tx\tword{at}" for at in range(90)),
    ]
    (folder / "trec").mkdir(parents=True)
    for split in ("train", "test"):
        (folder / "trec" / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def test_each_seed_draws_its_own_examples_with_every_class(tmp_path: pathlib.Path) -> None:
    write_trec(tmp_path / "data")
    texts = []
    for seed in (0, 1):
        uri = write_data(SETS["trec"], tmp_path / "data", tmp_path / str(seed), 10, seed)
        assert uri == f"jsonl:{tmp_path / str(seed)}"
        records = {
            split: [json.loads(line) for line in (tmp_path / str(seed) / f"{split}.jsonl").read_text().splitlines()]
            for split in ("train", "valid", "test")
        }
        assert [len(each) for each in records.values()] == [10, 2, 90]
        assert {each["label"] for each in records["train"]} == {"A", "B", "C"}
        texts.append({each["text"] for each in records["train"]})
        assert not texts[-1] & {each["text"] for each in records["valid"]}
    assert texts[0] != texts[1]
    with pytest.raises(UserError, match="--sizes=80: trec has 90 examples, but 96 are needed"):
        write_data(SETS["trec"], tmp_path / "data", tmp_path / "more", 80, 0)


def test_a_run_is_made_once_and_its_folder_removed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def train(config: Any, workdir: pathlib.Path) -> dict[str, Any]:
        calls.append(config)
        workdir.mkdir()
        splits = {"valid": {"accuracy": 0.5}, "test": {"accuracy": 0.625}}
        return {"splits": splits, "training": {"steps": 7}}

    monkeypatch.setattr(augmentation, "train", train)
    found = [run_once(Config(), "accuracy", tmp_path, "trec_8_none_0") for _ in range(2)]
    assert found[0] == found[1] and found[0]["test"] == 62.5 and len(calls) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["trec_8_none_0.json"]

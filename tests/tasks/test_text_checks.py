"""What repeats, contradicts, is rare or too long, on texts made to be just that."""

import numpy as np
import pytest

from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.tasks import text_checks
from jaxfm.tasks.text_checks import CheckedText, LabelCounts, check_labels, check_lengths, check_texts
from tests import tiny


def texts(split: str, *pairs: tuple[str, str]) -> list[CheckedText]:
    return [CheckedText(text, label, f"{split}.csv:{line}") for line, (text, label) in enumerate(pairs, start=2)]


def different(split: str, count: int) -> list[CheckedText]:
    return texts(split, *((f"{split} {number}", "a") for number in range(count)))


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {found.check: found for found in findings}


def test_nothing_is_found_where_nothing_repeats() -> None:
    found = check_texts({"train": different("train", 30), "test": different("test", 10)}, "texts")
    assert {each.check: each.level for each in found} == dict.fromkeys(("duplicates", "leaks", "contradictions"), "ok")


def test_duplicates_are_counted_in_each_split_whatever_their_case_and_space() -> None:
    train = different("train", 8) + texts("more", ("TRAIN  0", "a"), ("train 1 ", "a"))
    found = by_check(check_texts({"train": train, "test": different("test", 5)}, "texts"))["duplicates"]
    assert (found.level, found.message) == ("warning", "texts that occur again in their split: train 2 of 10 (20.0%)")
    assert found.examples == ("more.csv:2: as train.csv:2: TRAIN 0", "more.csv:3: as train.csv:3: train 1")


def test_few_duplicates_among_many_are_said_and_no_fault() -> None:
    train = different("train", 200) + texts("more", ("train 0", "a"))
    found = by_check(check_texts({"train": train}, "texts"))["duplicates"]
    assert (found.level, found.message) == ("ok", "texts that occur again in their split: train 1 of 201 (0.5%)")


@pytest.mark.parametrize(("shared", "level"), [(1, "warning"), (3, "error")])
def test_leaks_are_an_error_from_a_tenth_of_a_split(shared: int, level: str) -> None:
    test = different("test", 20 - shared) + texts("test2", *((f"train {number}", "a") for number in range(shared)))
    found = by_check(check_texts({"train": different("train", 30), "valid": [], "test": test}, "texts"))["leaks"]
    assert found.level == level
    assert found.message == f"{shared} of the 20 texts of test ({shared / 20:.1%}) are in train as well"
    assert found.examples[0] == "test2.csv:2: as train.csv:2: train 0"


def test_one_text_with_two_labels_is_found_across_splits() -> None:
    splits = {"train": texts("train", ("good", "pos"), ("fine", "pos")), "test": texts("test", ("Good", "neg"))}
    found = by_check(check_texts(splits, "texts"))["contradictions"]
    assert (found.level, found.examples) == ("warning", ("train.csv:2: pos, test.csv:2: neg: good",))
    assert by_check(check_texts(splits, "texts", lambda labels: False))["contradictions"].level == "ok"


def counts(**labels: int) -> LabelCounts:
    return LabelCounts.of([(name, f"at:{name}") for name, number in labels.items() for _ in range(number)])


def test_a_label_that_training_never_sees_is_an_error() -> None:
    found = by_check(check_labels({"train": counts(a=20, b=20), "test": counts(a=1, b=1, c=2)}, "labels"))
    assert found["unseen labels"].level == "error" and found["unseen labels"].examples == ("at:c: c",)
    assert "refuses: c" in found["unseen labels"].message
    assert found["rare labels"].level == "ok" and "labels not scored" not in found


def test_rare_labels_and_those_that_a_split_does_not_score() -> None:
    found = by_check(check_labels({"train": counts(a=20, b=9, c=1), "test": counts(a=1)}, "labels"))
    assert found["unseen labels"].level == "ok"
    assert found["rare labels"].message == "fewer than 10 training examples have c (1), b (9)"
    assert found["labels not scored"].message == "test has none of b, c: its score says nothing of them"


def test_a_table_of_many_labels_sums_up_the_rarest() -> None:
    many = {f"l{number:02}": 100 - number for number in range(40)}
    table = text_checks.label_table({"train": counts(**many)}, "Labels", "label")
    assert table.rows[0] == ("l00", 100) and len(table.rows) == 31
    assert table.rows[-1] == ("(10 others)", sum(list(many.values())[30:]))


def test_lengths_name_the_row_length_that_would_do() -> None:
    train = np.asarray([20] * 90 + [200] * 10)

    def check(window: int, positions: int) -> Finding:
        return check_lengths({"train": train}, window, positions, "cut", {"train": "train.csv:9"})

    found = check(128, 512)
    assert (found.level, found.fix) == ("warning", "--config.data.row_length=200")
    assert found.message.endswith("so cut: train 10 (10.0%)") and found.examples == ("train.csv:9: 200 tokens",)
    assert "the encoder has 128 positions" in check(128, 128).fix
    assert check(256, 512).level == "ok"
    train = np.asarray([20] * 199 + [200])
    assert check(128, 512).level == "ok" and "train 1 (0.5%)" in check(128, 512).message


def test_unknown_tokens_are_counted(tmp_path) -> None:  # noqa: ANN001
    from jaxfm.data.text.tokenization import encode_texts, load_tokenizer

    tiny.write_tokenizer(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    pieces = {"train": encode_texts(tokenizer, ["met in the", "saw ♜"]), "test": encode_texts(tokenizer, ["the"])}
    found = text_checks.check_unknown(pieces, tokenizer)
    assert found.level == "warning" and found.message.endswith("train 20.00%, test 0.00%")
    assert text_checks.check_unknown({"test": pieces["test"]}, tokenizer).level == "ok"


def test_a_check_as_json_has_rows_with_names_and_at_most_three_examples() -> None:
    table = text_checks.label_table({"train": counts(a=2), "test": counts(a=1)}, "Labels", "label")
    finding = Finding("warning", "x", "y", "z", tuple("abcd"))
    told = DataCheck((table,), (finding, Finding("ok", "x", "none"))).to_dict()
    assert told["tables"] == {"Labels": [{"label": "a", "train": 2, "test": 1}]}
    assert (told["errors"], told["warnings"]) == (0, 1) and told["findings"][0]["examples"] == ("a", "b", "c")

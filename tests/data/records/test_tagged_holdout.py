"""A validation split made of whole documents of the training split."""

import pathlib

import pytest

from jaxfm.data.records.sources import TaggedSplit
from jaxfm.data.records.tagged_builder import USUAL_COLUMNS
from jaxfm.data.records.tagged_holdout import read_splits
from tests import tiny


def read(source: str, splits: list[str] | None = None, holdout: float = 0.2) -> dict[str, TaggedSplit]:
    return read_splits(source, splits, columns=USUAL_COLUMNS, holdout=holdout)


def words(split: TaggedSplit) -> list[str]:
    return [" ".join(sentence.words) for sentence in split.sentences]


@pytest.mark.parametrize("documents", [0, 5])
def test_whole_documents_become_valid(tmp_path: pathlib.Path, documents: int) -> None:
    tiny.write_corpus(tmp_path, {"train": 400, "test": 3}, documents=documents)
    source = f"conll:{tmp_path}"
    whole, both = read(source, holdout=0)["train"], read(source)
    train, valid = words(both["train"]), words(both["valid"])
    assert not set(train) & set(valid) or documents  # equal sentences of other documents may be on both sides
    assert sorted(train + valid) == sorted(words(whole))
    assert 0.1 < len(valid) / 400 < 0.3
    numbers = [{sentence.origin for sentence in both[name].sentences} for name in ("train", "valid")]
    place = {sentence.origin: sentence.document for sentence in whole.sentences}
    assert not {place[origin] for origin in numbers[0]} & {place[origin] for origin in numbers[1]}
    assert (
        f"of the {80 if documents else 400} {'documents' if documents else 'sentences'} of train" in both["valid"].note
    )
    assert both["train"].note.endswith(f"; without the {len(valid):,} of valid")
    # Asked for by themselves, for evaluation, the splits are the same.
    assert words(read(source, ["dev"])["valid"]) == valid and words(read(source, ["train"])["train"]) == train
    assert list(read(source, ["test"])) == ["test"]


def test_it_depends_on_no_order(tmp_path: pathlib.Path) -> None:
    content = tiny.sentences(200, 3)
    tiny.write_conll(tmp_path / "a" / "train.conll", content)
    tiny.write_conll(tmp_path / "b" / "train.conll", content[::-1])
    a, b = (read(f"conll:{tmp_path / name}") for name in "ab")
    assert sorted(words(a["valid"])) == sorted(words(b["valid"]))


def test_the_only_entities_of_a_type_stay_in_train(tmp_path: pathlib.Path) -> None:
    content = [([f"w{number}", "x"], [f"B-T{number // 2}", "O"]) for number in range(60)]
    tiny.write_conll(tmp_path / "train.conll", content)
    both = read(f"conll:{tmp_path}", holdout=0.5)
    types = {tag for sentence in both["train"].sentences for tag in sentence.tags}
    assert types == {"O", *(f"B-T{number}" for number in range(30))}
    assert (
        10 <= len(both["valid"].sentences) <= 30
        and "stay in train, which has some types nowhere else" in both["valid"].note
    )


def test_small_sources_say_what_is_held_out(tmp_path: pathlib.Path) -> None:
    tiny.write_conll(tmp_path / "few" / "train.conll", tiny.sentences(30, 0))
    few = read(f"conll:{tmp_path / 'few'}", holdout=0.001)
    assert len(few["valid"].sentences) == 1 and "a score of so few says little" in few["valid"].note
    tiny.write_conll(tmp_path / "one" / "train.conll", [(["ada", "met"], ["B-PER", "O"])])
    one = read(f"conll:{tmp_path / 'one'}")
    assert list(one) == ["train"] and "nothing held out as valid" in one["train"].note


def test_a_source_with_valid_and_a_share_of_0_are_left_alone(tmp_path: pathlib.Path) -> None:
    source = tiny.write_corpus(tmp_path)
    assert {name: len(split.sentences) for name, split in read(source).items()} == tiny.SIZES
    (tmp_path / "valid.conll").unlink()
    assert list(read(source, holdout=0)) == ["train", "test"]

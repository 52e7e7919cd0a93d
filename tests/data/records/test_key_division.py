"""Splits kept apart by groups and times, against brute force; leaks refused, dropped or allowed; every reader."""

import csv
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxfm import config
from jaxfm.config import DataConfig
from jaxfm.data.audio.examples import read_sounds
from jaxfm.data.corpora.corpus import open_corpus
from jaxfm.data.images.boxed_sources import read_boxed
from jaxfm.data.images.examples import read_images
from jaxfm.data.records import in_memory
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.group_columns import GroupColumns
from jaxfm.data.records.key_division import LeakError, divide_by_keys, key_notes, leak_warnings
from jaxfm.data.records.questions import read_questions
from jaxfm.data.records.record_times import moment_of
from jaxfm.data.records.relations import read_relations
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.records.split_keys import LEAKS, NO_KEYS, Key, SplitKeys
from jaxfm.data.records.tagged_builder import USUAL_COLUMNS
from jaxfm.data.records.tagged_holdout import read_splits
from jaxfm.data.records.text_groups import read_groups
from jaxfm.data.records.text_pairs import read_text_pairs
from jaxfm.errors import UserError
from tests import tiny

BY_GROUP, BY_TIME = SplitKeys(group="who"), SplitKeys(time="when")
GROUPS = 12


def with_columns(path, extra):
    """Adds columns to a file of JSON lines."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | extra(number)) + "\n" for number, row in enumerate(rows)))
    return len(rows)


def who(number):
    return {"who": f"p{number * 7 % GROUPS}", "when": f"2024-01-{1 + number % 28:02}"}


def keys_of(path):
    """Brute force: place -> columns, read by nothing of jaxfm."""
    return {f"{path}:{number}": json.loads(line) for number, line in enumerate(path.read_text().splitlines(), start=1)}


def examples(source, by, splits=None, holdout=0.25, **columns):
    return read_examples(source, splits, columns=ExampleColumns(**columns), kind="single", holdout=holdout, by=by)


# --- every reader: nothing on two sides, the same records as without ---


def tagged(folder):
    rows = [{"tokens": words, "ner_tags": tags} for words, tags in tiny.sentences(60, seed=1)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{folder}"


TRAIN = {"train": 60}
READERS = {
    "classes": (
        lambda folder: tiny.write_examples(folder, "single", pairs=False, sizes=TRAIN),
        lambda source, by: {name: split.examples for name, split in examples(source, by).items()},
        lambda each: each.origin,
    ),
    "scores": (
        lambda folder: tiny.write_examples(folder, "regression", pairs=True, sizes=TRAIN),
        lambda source, by: {
            name: split.examples
            for name, split in read_examples(
                source, None, columns=ExampleColumns(), kind="regression", holdout=0.25, by=by
            ).items()
        },
        lambda each: each.origin,
    ),
    "tagged": (
        tagged,
        lambda source, by: {
            name: split.sentences
            for name, split in read_splits(source, None, columns=USUAL_COLUMNS, holdout=0.25, by=by).items()
        },
        lambda each: each.origin,
    ),
    "questions": (
        lambda folder: tiny.write_questions(folder, TRAIN),
        lambda source, by: {
            name: split.questions for name, split in read_questions(source, None, holdout=0.25, by=by).items()
        },
        lambda each: each.origin.partition(" (id")[0],
    ),
    "relations": (
        lambda folder: tiny.write_relations(folder, TRAIN),
        lambda source, by: {
            name: split.examples for name, split in read_relations(source, None, holdout=0.25, by=by).items()
        },
        lambda each: each.origin,
    ),
    "groups of texts": (
        lambda folder: tiny.write_groups(folder, TRAIN),
        lambda source, by: {
            name: split.groups
            for name, split in read_groups(
                source, None, columns=GroupColumns(), kind="pairs", holdout=0.25, by=by
            ).items()
        },
        lambda each: each.origin,
    ),
    "pairs of texts": (
        lambda folder: tiny.write_text_pairs(folder, TRAIN),
        lambda source, by: {
            name: split.pairs for name, split in read_text_pairs(source, None, holdout=0.25, by=by).items()
        },
        lambda each: each.origin,
    ),
    "documents": (
        lambda folder: tiny.write_examples(folder, "single", pairs=False, sizes=TRAIN),
        lambda source, by: {
            name: list(read()) for name, read in open_corpus(source, holdout=0.25, by=by).splits.items()
        },
        lambda each: each.origin,
    ),
}


@pytest.mark.parametrize("by", [BY_GROUP, BY_TIME], ids=["group", "time"])
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_keeps_groups_whole_and_times_in_order(tmp_path, reader, by):
    write, read, place = READERS[reader]
    source = write(tmp_path / "data") if reader != "tagged" else write(tmp_path)
    (path,) = [each for each in tmp_path.rglob("train.jsonl")]
    count = with_columns(path, who)
    known = keys_of(path)
    found = read(source, by)
    assert list(found) == ["train", "valid"]
    places = {split: [place(each) for each in own] for split, own in found.items()}
    assert len({*places["train"], *places["valid"]}) == count
    whole = read(source, NO_KEYS)
    assert sum(map(len, found.values())) == sum(map(len, whole.values()))
    if by.group:
        assert not {known[each]["who"] for each in places["train"]} & {known[each]["who"] for each in places["valid"]}
        assert abs(len(set(places["valid"])) - count / 4) <= count / GROUPS / 2 + 1
    else:
        assert max(known[each]["when"] for each in places["train"]) < min(
            known[each]["when"] for each in places["valid"]
        )


def paint(path, shade):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), shade).save(path)


def test_images_sound_and_boxes_have_groups_too(tmp_path):
    for number in range(20):
        paint(tmp_path / f"{number}.png", number)
    rows = [f"{number}.png,{'ab'[number % 2]},{number // 4}" for number in range(20)]
    (tmp_path / "train.csv").write_text("image,label,who\n" + "\n".join(rows) + "\n")
    read = read_images(f"csv:{tmp_path}", None, holdout=0.2, labels="single", by=BY_GROUP)
    lines = {split: {int(each.origin.rpartition(":")[2]) for each in own.examples} for split, own in read.items()}
    held = {(line - 2) // 4 for line in lines["valid"]}
    assert len(lines["valid"]) == 4 and len(held) == 1 and not held & {(line - 2) // 4 for line in lines["train"]}
    source = tiny.write_audio(tmp_path / "sound")
    with pytest.raises(UserError, match="config.data.group_column='who': audio: has no columns"):
        read_sounds(source, None, labels="single", by=BY_GROUP)
    with pytest.raises(UserError, match="config.data.group_column='who': quickstart has no columns"):
        read_boxed("quickstart", None, drawn=4, by=BY_GROUP)


def test_boxes_of_coco_have_the_fields_of_their_images(tmp_path):
    images = [{"id": number, "file_name": f"{number}.png", "who": number // 3} for number in range(12)]
    boxes = [{"id": number, "image_id": number, "category_id": 1, "bbox": [0, 0, 4, 4]} for number in range(12)]
    for number in range(12):
        paint(tmp_path / f"{number}.png", 20 * number)
    values = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}
    (tmp_path / "train.json").write_text(json.dumps(values))
    read = read_boxed(f"coco:{tmp_path}", None, holdout=0.25, by=BY_GROUP)
    numbers = {split: [int(each.origin.split()[-2]) // 3 for each in own.examples] for split, own in read.items()}
    assert len(numbers["valid"]) == 3 and not set(numbers["valid"]) & set(numbers["train"])
    with pytest.raises(UserError, match=r"train.json: images: no record has the field 'whom'. Did you mean 'who'\?"):
        read_boxed(f"coco:{tmp_path}", None, by=SplitKeys(group="whom"))


# --- tables ---


@pytest.fixture
def write(tmp_path):
    """Writes a csv of a split; returns the source of the folder."""

    def write(split, rows, header=("text", "label", "who", "when")):
        with open(tmp_path / f"{split}.csv", "w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return f"csv:{tmp_path}"

    return write


def table(count, first=0, day=1, groups=10):
    return [
        (f"text {first + n}", "ab"[n % 2], f"p{(first + n) % groups}", f"2024-02-{day + n % 9:02}")
        for n in range(count)
    ]


def refused(message, *arguments, error=UserError, **options):
    with pytest.raises(error, match=message) as caught:
        examples(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_the_keys_splits_are_what_they_were(write, tmp_path):
    rows = table(80)
    source = write("train", rows)
    plain = read_examples(source, None, columns=ExampleColumns(), kind="single", holdout=0.2)
    assert examples(source, split_keys(DataConfig()), holdout=0.2) == plain
    assert config.LEAKS == LEAKS and not split_keys(DataConfig())
    assert not key_notes([split.note for split in plain.values()])


def test_columns_are_not_taken_for_texts_or_labels(write):
    header = ("message", "sentence", "topic", "category")  # which of two is the text, and which the label?
    source = write("train", table(40), header=("message", "topic", "sentence", "category"))
    with pytest.raises(UserError, match="could both be"):
        examples(source, NO_KEYS)
    found = examples(source, SplitKeys(group="sentence", time="category", leaks="drop"), holdout=0.0)
    first = found["train"].examples[0]
    assert (first.text, first.target) == ("text 0", "a") and header
    asked = examples(source, SplitKeys(group="sentence"), holdout=0.2, text="sentence", label="topic")
    assert asked["train"].examples[0].text.startswith("p")


def test_groups_in_two_splits_are_refused_with_numbers_and_places(write, tmp_path):
    write("train", table(40))
    source = write("test", table(6, first=100, groups=12))  # p4 .. p9: 6 records; in train 4 each
    said = refused(r"6 groups by 'who' \(data.group_column\) are in more than one split", source, BY_GROUP)
    assert "24 of the 40 records of train and 6 of the 6 records of test" in said
    assert f"'p4' ({tmp_path}/train.csv:6 and {tmp_path}/test.csv:2)" in said and said.count(".csv:") == 6
    assert "config.data.leaks=drop to leave out the records that leak (24 of train)" in said
    dropped = examples(source, SplitKeys(group="who", leaks="drop"), holdout=0.0)
    assert {len(split.examples) for split in dropped.values()} == {16, 6}
    assert "24 records left out that leak (config.data.leaks=drop)" in dropped["train"].note
    allowed = examples(source, SplitKeys(group="who", leaks="allow"), holdout=0.0)
    assert len(allowed["train"].examples) == 40
    (warning,) = leak_warnings([split.note for split in allowed.values()])
    assert warning.startswith("6 groups by 'who'") and warning.endswith("(config.data.leaks=allow)")


def test_test_alone_and_other_sources_need_no_columns(write):
    source = write("test", [row[:2] for row in table(6)], header=("text", "label"))
    assert len(examples(source, BY_GROUP, splits=["test"])["test"].examples) == 6


def test_training_on_what_comes_later_is_refused(write, tmp_path):
    write("train", [("a b", "a", "p", "2024-02-01"), ("c", "b", "p", "2024-03-01"), ("d", "a", "p", "2024-03-02")])
    source = write("test", [("e", "a", "q", "2024-03-05"), ("f", "b", "q", "2024-03-01")])
    said = refused("2 of the 3 records of train are not before the first record of test", source, BY_TIME, holdout=0.0)
    assert f"2024-03-01 ({tmp_path}/test.csv:3), by 'when' (data.time_column), 1 of them at that very time" in said
    assert f"such as 2024-03-01 ({tmp_path}/train.csv:3), 2024-03-02 ({tmp_path}/train.csv:4)" in said
    write("train", [("a b", "a", "p", "2024-02-01"), ("c", "b", "p", "2024-02-03"), ("d", "a", "p", "2024-03-02")])
    assert len(examples(source, SplitKeys(time="when", leaks="drop"), holdout=0.0)["train"].examples) == 2


def test_all_that_leaks_cannot_be_dropped(write):
    write("train", table(20, groups=2))
    source = write("test", table(6, groups=2))
    refused("leaves no record of train", source, SplitKeys(group="who", leaks="drop"), holdout=0.0)


@pytest.mark.parametrize("leaks", ["refuse", "drop", "allow"])
def test_with_both_columns_time_decides_and_groups_on_both_sides_leak(write, leaks):
    rows = [(f"t{n}", "ab"[n % 2], f"p{n // 4}", f"2024-01-{n + 1:02}") for n in range(28)]  # a group is 4 days
    source = write("train", rows)
    by = SplitKeys("who", "when", leaks)
    if leaks == "refuse":  # the last 6 of 28 days: p6 and half of p5
        said = refused("1 group by 'who'", source, by, holdout=6 / 28, error=LeakError)
        assert "Leave config.data.group_column or config.data.time_column empty" in said
        by = SplitKeys("who", "when")
        assert len(examples(source, by, holdout=8 / 28)["valid"].examples) == 8  # p5 and p6 whole
        return
    found = examples(source, by, holdout=6 / 28)
    assert len(found["valid"].examples) == 6
    assert len(found["train"].examples) == {"drop": 20, "allow": 22}[leaks]


def test_a_missing_value_and_a_wrong_one_name_their_line(write, tmp_path):
    rows = table(10)
    source = write("train", [*rows, ("late", "a", " ", "2024-02-01")])
    refused(rf"^{tmp_path}/train.csv:12: no value in 'who', the group \(config.data.group_column\)", source, BY_GROUP)
    source = write("train", [*rows, ("late", "a", "p1", "soon")])
    refused(rf"^{tmp_path}/train.csv:12: 'soon' in 'when' is no time", source, BY_TIME)
    source = write("train", [*rows, ("late", "a", "p1", "2024-02-01T10:00")])
    refused(rf"^{tmp_path}/train.csv:12: .* there is no order between them", source, BY_TIME)
    source = write("train", rows)
    refused(r"config.data.group_column='whom' is absent. Did you mean 'who'\?", source, SplitKeys(group="whom"))
    with pytest.raises(UserError, match="are both 'who': a group has records of several times"):
        split_keys(DataConfig(group_column="who", time_column="who"))


def test_what_cannot_be_held_out_is_refused(write):
    source = write("train", table(20, groups=1))
    refused("none of the 20 training records can be held out: there is one group by 'who'", source, BY_GROUP)
    source = write("train", [(f"t{n}", "ab"[n % 2], "p", "2024-01-01") for n in range(9)])
    refused("they have one time by 'when'", source, BY_TIME)
    source = write("train", [(f"t{n}", "ab"[n % 2], f"p{n % 2}", "2024-01-01") for n in range(8)])
    refused("each group by 'who' has the only records of some class", source, BY_GROUP)


@pytest.mark.parametrize("source", ["quickstart", "conll:DIR", "text:DIR", "semeval:DIR"])
def test_sources_without_columns_say_which_have_some(tmp_path, source):
    (tmp_path / "a.conll").write_text("Ada B-PER\n\nin O\nRome B-LOC\n")
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    lines = '1\t"<e1>a</e1> in <e2>b</e2>"\nOther\nComment:\n\n2\t"<e1>c</e1> of <e2>d</e2>"\nIs(e1,e2)\nComment:\n\n'
    (tmp_path / "TRAIN_FILE.TXT").write_text(lines)
    readers = {
        "conll": lambda source: read_splits(
            f"conll:train={tmp_path}/a.conll", None, columns=USUAL_COLUMNS, holdout=0.2, by=BY_GROUP
        ),
        "text": lambda source: open_corpus(source, by=BY_GROUP),
        "semeval": lambda source: read_relations(
            "semeval:train=" + str(tmp_path / "TRAIN_FILE.TXT"), None, by=BY_GROUP, holdout=0.2
        ),
        "quickstart": lambda source: examples(source, BY_GROUP),
    }
    with pytest.raises(UserError, match="has no columns, by which splits could be kept apart. Sources with columns"):
        readers[source.partition(":")[0]](source.replace("DIR", str(tmp_path)))


def test_tables_of_words_and_of_numbered_columns(tmp_path, write):
    header = ("word", "tag", "sentence_id", "who")
    rows = [
        (word, tag, n, f"p{n // 5}" if at == 0 else "")  # a group stands with the first word of its sentence
        for n, (words, tags) in enumerate(tiny.sentences(40, seed=2))
        for at, (word, tag) in enumerate(zip(words, tags, strict=True))
    ]
    source = write("train", rows, header=header)
    read = read_splits(source, None, columns=USUAL_COLUMNS, holdout=0.25, by=BY_GROUP)
    assert (len(read["train"].sentences), len(read["valid"].sentences)) == (30, 10)
    (tmp_path / "train.csv").write_text("".join(f"text {n},{'ab'[n % 2]},{n // 4}\n" for n in range(40)))
    found = examples(source, SplitKeys(group="2"), text="0", label="1", holdout=0.1)
    assert (len(found["train"].examples), len(found["valid"].examples)) == (36, 4)


def test_data_in_memory_and_fields_of_label_studio(tmp_path):
    rows = [{"text": f"t{n}", "label": "ab"[n % 2], "who": float(n // 4)} for n in range(40)]
    with in_memory.provided(rows) as source:
        found = examples(source, BY_GROUP, holdout=0.1)
    assert len(found["valid"].examples) == 4
    tasks = [
        {
            "data": {"text": f"t{n}", "who": f"p{n // 4}"},
            "annotations": [{"result": [{"from_name": "label", "value": {"choices": ["ab"[n % 2]]}}]}],
        }
        for n in range(40)
    ]
    (tmp_path / "train.json").write_text(json.dumps(tasks))
    found = examples(f"jsonl:{tmp_path}", BY_GROUP, holdout=0.1)
    assert len(found["valid"].examples) == 4 and len({each.text[1:] for each in found["valid"].examples}) == 4


def test_corpora_of_several_files_and_given_splits(tmp_path):
    for part in "ab":
        rows = [{"text": f"text {part}{n}", "who": f"{part}{n // 3}"} for n in range(9)]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "test.jsonl").write_text('{"text": "x", "who": "a2"}\n{"text": "y", "who": "z"}\n')
    with pytest.raises(LeakError, match="1 group by 'who' .* 3 of the 18 records of train and 1 of the 2 records of"):
        open_corpus(f"jsonl:{tmp_path}", by=BY_GROUP)
    corpus = open_corpus(f"jsonl:{tmp_path}", holdout=0.2, by=SplitKeys(group="who", leaks="drop"))
    texts = {split: [document.text for document in read()] for split, read in corpus.splits.items()}
    assert [len(texts[split]) for split in ("train", "valid", "test")] == [12, 3, 2]
    assert not {"text a6", "text a7", "text a8"} & {*texts["train"], *texts["valid"]}
    assert len(key_notes(corpus.notes)) == 3


# --- against brute force ---

RECORDS = st.lists(st.tuples(st.sampled_from("pqrstu"), st.integers(0, 9)), min_size=3, max_size=25)


@settings(max_examples=150, deadline=None)
@given(
    train=RECORDS,
    test=st.lists(st.tuples(st.sampled_from("stuvw"), st.integers(5, 14)), max_size=6),
    group=st.booleans(),
    time=st.booleans(),
    holdout=st.sampled_from([0.0, 0.3]),
    leaks=st.sampled_from(["refuse", "drop"]),
)
def test_what_comes_through_never_leaks(train, test, group, time, holdout, leaks):
    by = SplitKeys("who" if group else "", "when" if time else "", leaks)
    rows = {"train": train, "test": test} if test else {"train": train}
    keys = {
        split: {
            f"{split}:{n}": Key(one if group else None, moment_of(two, "when", "x") if time else None)
            for n, (one, two) in enumerate(own)
        }
        for split, own in rows.items()
    }
    places = {split: list(own) for split, own in keys.items()}
    by_place = {f"{split}:{n}": each for split, own in rows.items() for n, each in enumerate(own)}
    try:
        found = divide_by_keys("x", places, by, lambda: keys, given=rows, holdout=holdout, origin=lambda one: one).read
    except UserError as error:
        assert leaks == "drop" or not isinstance(error, LeakError) or leaking(places, by_place, by) or holdout
        return
    if leaks == "refuse":
        assert not leaking(places, by_place, by) and sum(map(len, found.values())) == sum(map(len, rows.values()))
    assert not leaking(found, by_place, by)
    assert found.get("test", []) == places.get("test", [])
    assert ("valid" in found) == bool(holdout)
    # Nothing is dropped but what leaks, by brute force of the rule without a holdout.
    if leaks == "drop" and not holdout:
        first = min((when for _, when in test), default=99)
        own = {who for who, _ in test}
        kept = [n for n, (who, when) in enumerate(train) if not (time and when >= first) and not (group and who in own)]
        assert found["train"] == [f"train:{n}" for n in kept]


def leaking(parts, by_place, by):
    names = list(parts)
    for split in names:
        for other in names:
            if (
                split != other
                and by.group
                and {by_place[x][0] for x in parts[split]} & {by_place[x][0] for x in parts[other]}
            ):
                return True
    others = [by_place[x][1] for split in names if split != "train" for x in parts[split]]
    return bool(by.time and others and max(by_place[x][1] for x in parts["train"]) >= min(others))


def test_the_draw_depends_on_no_order(write):
    rows = table(60, groups=13)
    source = write("train", rows)
    texts = {split: {each.text for each in own.examples} for split, own in examples(source, BY_GROUP).items()}
    random.Random(3).shuffle(rows)
    source = write("train", rows)
    assert texts == {split: {each.text for each in own.examples} for split, own in examples(source, BY_GROUP).items()}

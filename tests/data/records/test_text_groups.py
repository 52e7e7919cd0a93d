"""Groups of texts: real files with the counts their makers give, every layout that published sets have, refusals."""

import json

import pytest

from jaxfm.data.records.dialogues import DialogueOptions
from jaxfm.data.records.group_columns import GroupColumns
from jaxfm.data.records.in_memory import provided
from jaxfm.data.records.text_groups import TextGroup, read_groups
from jaxfm.errors import UserError

NONE = GroupColumns()


@pytest.fixture
def folder(tmp_path):
    """Writes a file whose lines (or objects) are given; returns its folder as a source."""

    def folder(name, lines):
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        (tmp_path / name).write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        return f"{name.rpartition('.')[2]}:{tmp_path}"

    return folder


def read(source, split="train", kind="pairs", label_rule="", **columns):
    return read_groups(source, [split], columns=GroupColumns(**columns), kind=kind, label_rule=label_rule)[split]


def memory(rows, **options):
    with provided(rows) as source:
        return [(group.anchor, group.others, group.scores) for group in read(source, **options).groups]


def refused(message, source, **options):
    with pytest.raises(UserError, match=message) as caught:
        read(source, **options)
    assert "\n" not in str(caught.value)


# --- real data ---


def test_entailments_of_snli_with_the_contradictions_of_their_premise(shared_data):
    source = f"tsv:{shared_data / 'snli-subset'}"
    found = read_groups(source, None, columns=NONE, kind="pairs", label_rule="nli")
    assert [len(split.groups) for split in found.values()] == [3329, 1671, 1697]  # the README's entailments
    assert "3,278 negatives (265 of them" in found["train"].note and "3,235 neither" in found["train"].note
    first = found["train"].groups[0]
    assert first.others == ("Two woman are holding packages .", "The men are fighting outside a deli .")
    assert first.origin.endswith("train.tsv:3") and first.scores == ()
    refused("task.label_rule: nli .*binary .*all", source)
    assert len(read(source, label_rule="all").groups) == 9842
    refused("train.tsv:2: .neutral. .*binary knows", source, label_rule="binary")


def test_scored_pairs_of_stsb(shared_data):
    found = read_groups(f"tsv:{shared_data / 'stsb'}", None, columns=NONE, kind="scored")
    assert [len(split.groups) for split in found.values()] == [5749, 1500, 1379]
    assert "scores 0 to 5, 2.701 on average" in found["train"].note
    first = found["train"].groups[0]
    assert first.others == ("An air plane is taking off.",) and first.scores == (5.0,)


def test_a_holdout_keeps_an_anchor_on_one_side_and_does_not_depend_on_the_order(shared_data, tmp_path):
    lines = (shared_data / "snli-subset" / "train.tsv").read_text().splitlines()
    sides = []
    for number, order in enumerate((lines[1:1200], lines[1199:0:-1])):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "train.tsv").write_text("\n".join([lines[0], *order]) + "\n")
        source = f"tsv:{tmp_path / str(number)}"
        found = read_groups(source, ["train", "valid"], columns=NONE, kind="pairs", label_rule="all", holdout=0.1)
        train, valid = ({group.anchor for group in found[split].groups} for split in ("train", "valid"))
        assert not train & valid and 90 <= len(found["valid"].groups) <= 150
        assert "without the" in found["train"].note and "10.0% of train" in found["valid"].note
        sides.append(valid)
    assert sides[0] == sides[1]


def test_dialogues_are_pairs_of_context_and_response(shared_data):
    source = f"dialogue:{shared_data / 'sgd-dialogue'}"
    options = DialogueOptions(turns=2, separator=" | ", responder="SYSTEM")
    found = read_groups(source, ["test"], columns=NONE, kind="pairs", dialogue=options)["test"]
    assert len(found.groups) == 5880 // 2  # the README's turns, of which every second is the system's
    assert found.groups[1].anchor.startswith("Any preference") and found.groups[1].anchor.count(" | ") == 1
    refused("gives pairs without scores", source, kind="scored")
    refused("no columns to choose from, but 'turns'", source, anchor="turns")


def test_a_dialogue_is_on_one_side_of_a_holdout(folder):
    talks = [{"turns": [f"{word} one", "yes", f"{word} three", "no"]} for word in "abcdefghij"]
    source = "dialogue:" + folder("train.jsonl", talks).partition(":")[2]
    found = read_groups(source, None, columns=NONE, kind="pairs", holdout=0.3, dialogue=DialogueOptions(turns=1))
    assert list(found) == ["train", "valid"]
    sides = [{group.origin.partition("[")[0] for group in found[name].groups} for name in found]
    assert not sides[0] & sides[1] and len(sides[1]) == 3
    assert "dialogues chosen by a hash" in found["valid"].note


# --- layouts ---

LAYOUTS = [
    ({"anchor": "q", "positive": "p"}, ("p",)),
    ({"query": "q", "positive": "p", "negative": "n"}, ("p", "n")),
    ({"negative_10": "c", "negative_2": "b", "negative_1": "a", "query": "q", "positive": "p"}, ("p", "a", "b", "c")),
    ({"query": "q", "passage": "p", "negatives": ["a", "b"]}, ("p", "a", "b")),
    ({"query": "q", "pos": ["p"], "neg": ["a", "b"], "pos_scores": [1], "neg_scores": [2, 3]}, ("p", "a", "b")),
    ({"question": "q", "answer": "p", "hard_negative_1": "a", "hard_negative_2": None}, ("p", "a")),
    ({"query": "q", "positive": "p", "negatives": '["a", "b"]'}, ("p", "a", "b")),  # printed into a cell
    ({"premise": "q", "hypothesis": "p"}, ("p",)),
    ({"text": "q", "pair": "p", "more": 3}, ("p",)),
    ({"query": "q", "positive": "p", "negatives": ["p", "q", "a"]}, ("p", "a")),  # the positive is not a negative
]


@pytest.mark.parametrize(("row", "others"), LAYOUTS)
def test_layouts_of_pairs(row, others):
    other = {name: f"{value}!" if isinstance(value, str) and value[0] != "[" else value for name, value in row.items()}
    assert memory([row, other])[0] == ("q", others, ())


def test_a_list_of_positives_is_a_group_for_each():
    rows = [{"query": "q", "pos": ["p", "r"], "neg": ["a", "r"]}]
    assert memory(rows) == [("q", ("p", "a"), ()), ("q", ("r", "a"), ())]


TEACHERS = [
    ({"query": "q", "positive": "p", "negative": "n", "score": 4.0}, (0.0, -4.0)),  # a margin
    ({"query": "q", "positive": "p", "negative": "n", "score": [9.0, 5.0]}, (9.0, 5.0)),
    ({"query": "q", "positive": "p", "negative_1": "n", "negative_2": "m", "label": [4.0, 1.0]}, (0.0, -4.0, -1.0)),
    ({"query": "q", "passages": ["p", "n", "m"], "scores": [9.0, 5.0, 8.0]}, (9.0, 5.0, 8.0)),
    ({"query": "q", "positive": "p", "negative": "n", "scores": "[9.0, 5.0]"}, (9.0, 5.0)),
    ({"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [9.0], "neg_scores": [5.0, 8.0]}, (9.0, 5.0, 8.0)),
    ({"query": "q", "positive": "p", "negative": "n", "score_positive": 9, "score_negative": "5"}, (9.0, 5.0)),
]


@pytest.mark.parametrize(("row", "scores"), TEACHERS)
def test_layouts_of_teacher_scores(row, scores):
    ((anchor, others, found),) = memory([row], kind="teacher")
    assert (anchor, others[:2], found) == ("q", ("p", "n"), scores) and len(others) == len(scores)


def test_binary_labels_gather_the_negatives_of_an_anchor():
    rows = [{"question": "q", "answer": answer, "label": label} for answer, label in (("a", 0), ("b", 1), ("c", 0))]
    rows.append({"question": "r", "answer": "d", "label": 0})
    assert memory(rows, label_rule="binary") == [("q", ("b", "a", "c"), ())]


def test_columns_by_name_and_by_number(folder):
    source = folder("train.csv", ["a,b,c,d", "w,x,y,z", "k,l,m,n"])
    found = read(source, anchor="1", positive="0", negatives="3,2").groups
    assert [(group.anchor, group.others) for group in found] == [
        ("b", ("a", "d", "c")),
        ("x", ("w", "z", "y")),
        ("l", ("k", "n", "m")),
    ]
    found = read(source, anchor="c", positive="a").groups
    assert found[0] == TextGroup("y", ("w",), (), found[0].origin) and found[0].origin.endswith("train.csv:2")


def test_parquet_and_a_split_without_negatives(tmp_path):
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    rows = [{"anchor": "q", "positive": "p", "negatives": ["a", "b"]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    pq.write_table(pa.Table.from_pylist([{"anchor": "r", "positive": "s"}]), tmp_path / "test.parquet")
    found = read_groups(f"parquet:{tmp_path}", None, columns=NONE, kind="pairs")
    assert found["train"].groups[0].others == ("p", "a", "b") and found["test"].groups[0].others == ("s",)


def test_a_data_set_of_the_hub_leaves_out_and_counts(monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = {"premise": ["a", "b", "", "a"], "hypothesis": ["x", "y", "z", "w"], "label": [0, -1, 1, 2]}
    features = datasets.Features(
        premise=datasets.Value("string"),
        hypothesis=datasets.Value("string"),
        label=datasets.ClassLabel(names=["entailment", "neutral", "contradiction"]),
    )
    data = datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features=features))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: data)
    found = read("hf:someone/nli", label_rule="nli")
    assert [group.others for group in found.groups] == [("x", "w")]
    assert "1 without a text left out" in found.note and "1 neither" in found.note


def test_a_split_without_scores_counts_as_absent(folder):
    folder("train.csv", ["sentence1,sentence2,score", "a,b,1", "c,d,2"])
    source = folder("test.csv", ["sentence1,sentence2", "a,b"])
    found = read_groups(source, None, columns=NONE, kind="scored")
    assert list(found) == ["train"] and "test is left out: no column 'score'" in found["train"].note
    refused("no split 'test'.*no column 'score'", source, split="test", kind="scored")


# --- what is refused ---

REFUSED = [
    ("train.csv:3: nan.*not a score|train.csv:3: 'nan'", "scored", ["text1,text2,score", "a,b,1", "c,d,nan"]),
    ("train.csv:3: no number in 'score'", "scored", ["text1,text2,score", "a,b,1", "c,d,"]),
    ("train.csv:2: the text in 'text2' is empty", "scored", ["text1,text2,score", "a, ,1"]),
    ("train.csv:2: the text in 'negative' is empty", "pairs", ["anchor,positive,negative", "a,b, "]),
    ("no column for the label .looked for score", "scored", ["text1,text2,value", "a,b,1"]),
    ("no two columns that usually hold an anchor", "pairs", ["left,right", "a,b"]),
    ("question.answer and question.context could both", "pairs", ["question,answer,context", "a,b,c"]),
    ("all texts of its 2 groups are 'a'", "pairs", ["anchor,positive", "a,a", "a,a"]),
    ("the positive of all 2 pairs is 'b'", "pairs", ["anchor,positive", "a,b", "c,b"]),
    ("all scores of its 2 groups are 1", "scored", ["text1,text2,score", "a,b,1", "c,d,1"]),
    (
        "train.csv:2: 3 numbers in 'scores' do not fit 2",
        "teacher",
        ["query,positive,negative,scores", '"q",p,n,"[1,2,3]"'],
    ),
    ("train.csv:2: 1 passage, but a teacher compares", "teacher", ["query,positive,score", "q,p,1"]),
    ("the split 'train' is empty", "pairs", ["anchor,positive"]),
]


@pytest.mark.parametrize(("message", "kind", "lines"), REFUSED)
def test_bad_files(folder, message, kind, lines):
    refused(message, folder("train.csv", lines), kind=kind)


def test_bad_columns_and_rules(folder):
    source = folder("train.csv", ["anchor,positive,negative,label", "a,b,c,1", "d,e,f,0"])
    refused("data.text_column='ancor' is absent. Did you mean 'anchor'", source, anchor="ancor")
    refused("task.negative_columns='negativ' is absent. Did you mean 'negative'", source, negatives="negativ")
    refused("both 'anchor'", source, anchor="anchor", positive="anchor")
    refused("task.label_rule=all for these", source, label_rule="binary")
    refused("task.label_rule='nly': Did you mean 'nli'", source, label_rule="nly")
    refused("have 'label' beside them", source, scores="label")
    refused("is for pairs", source, kind="teacher", label_rule="nli")
    refused("have no negatives", source, kind="scored", negatives="negative")
    refused("unknown data source 'dialog:x'.*dialogue:DIR.*Did you mean 'dialogue'", "dialog:x")
    refused("single texts", "tfds:glue/sst2")


def test_wrong_types(folder):
    refused("jsonl:1: 3 in 'positive' is of type int", folder("train.jsonl", [{"anchor": "a", "positive": 3}]))
    refused("a list of texts in 'anchor'", folder("train.jsonl", [{"anchor": ["a"], "positive": "b"}]))
    lists = [{"query": "q", "passages": ["a", "b"], "scores": [1.0]}]
    refused(
        "1 numbers in 'scores' do not fit 2 passages: there must be 2", folder("train.jsonl", lists), kind="teacher"
    )

"""Changes of inputs: what stays true of every record, whatever the kind, and what a severity means."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from jaxfm.core.records import IMAGE, TEXTS, WORDS, ImageRecord, Record, TextsRecord, WordsRecord
from jaxfm.data.perturbations.kinds import (
    GROUPS,
    KINDS,
    SEVERITIES,
    SPAN_SHARES,
    WORD_SHARES,
    Resources,
    chosen,
    kinds_for,
    perturbed,
    words_of_record,
)
from jaxfm.data.text.tagging import entity_spans
from jaxfm.errors import UserError

RESOURCES = Resources(
    {"PER": [("Ada", "Lovelace"), ("Bob",)], "LOC": [("Rome",), ("New", "York", "City")]},
    lambda words, at: [words[at] + "ish"],
)
OF_TEXTS = [kind.name for kind in KINDS.values() if TEXTS in kind.reads]
OF_WORDS = [kind.name for kind in KINDS.values() if WORDS in kind.reads]
OF_IMAGES = [kind.name for kind in KINDS.values() if IMAGE in kind.reads]
WORD = strategies.text(strategies.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=8)
SPAN = strategies.tuples(strategies.sampled_from(["", "PER", "LOC"]), strategies.lists(WORD, min_size=1, max_size=3))


@strategies.composite
def tagged(draw: strategies.DrawFn) -> WordsRecord:
    words: list[str] = []
    tags: list[str] = []
    for kind, found in draw(strategies.lists(SPAN, min_size=1, max_size=5)):
        words += found
        tags += [f"{'B' if at == 0 else 'I'}-{kind}" for at in range(len(found))] if kind else ["O"] * len(found)
    return WordsRecord(tuple(words), tuple(tags))


@hypothesis.given(
    tagged(), strategies.sampled_from(OF_WORDS), strategies.sampled_from(SEVERITIES), strategies.integers(0, 9)
)
@hypothesis.settings(max_examples=300, deadline=None)
def test_tags_stay_true(record: WordsRecord, kind: str, severity: int, seed: int) -> None:
    found = perturbed(record, kind, severity, seed, RESOURCES)
    assert isinstance(found, WordsRecord) and len(found.words) == len(found.tags) and all(found.words)
    before, after = entity_spans(record.tags), entity_spans(found.tags)
    assert [each for *_, each in after] == [
        each for *_, each in before
    ]  # as many entities, of the same types, in order
    if kind not in ("length", "entities", "origins"):
        assert found.tags == record.tags
    if kind in ("length", "synonyms"):  # entities as they were
        texts = [
            [each.words[first:end] for first, end, _ in spans] for each, spans in ((record, before), (found, after))
        ]
        assert texts[0] == texts[1]
    if kind in ("entities", "origins"):  # and all else as it was
        others = [
            [word for word, tag in zip(each.words, each.tags, strict=True) if tag == "O"] for each in (record, found)
        ]
        assert others[0] == others[1]


@hypothesis.given(
    strategies.lists(strategies.text(max_size=40), min_size=1, max_size=2),
    strategies.sampled_from(OF_TEXTS),
    strategies.sampled_from(SEVERITIES),
)
@hypothesis.settings(max_examples=300, deadline=None)
def test_texts_stay_texts(texts: list[str], kind: str, severity: int) -> None:
    record = TextsRecord(tuple(texts))
    found = perturbed(record, kind, severity, 0, RESOURCES)
    assert isinstance(found, TextsRecord) and len(found.texts) == len(texts)
    for before, after in zip(texts, found.texts, strict=True):
        assert bool(after.strip()) or not before.strip()  # nothing is lost as a whole
        after.encode("utf-8")
        if kind == "length":
            assert before in after


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_is_a_function_of_its_arguments_alone(kind: str) -> None:
    records: list[Record] = [
        TextsRecord(("The film about Emma Smith was good , and long .", "It is a story of Leeds .")),
        WordsRecord(("Ada", "saw", "the", "old", "Rome", "."), ("B-PER", "O", "O", "O", "B-LOC", "O")),
        ImageRecord(np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)),
    ]
    (record, *_) = (
        each for each, reads in zip(records, (TEXTS, WORDS, IMAGE), strict=True) if reads in KINDS[kind].reads
    )

    def key(found: Record) -> object:
        return found.pixels.tobytes() if isinstance(found, ImageRecord) else found

    same = {key(perturbed(record, kind, 4, 7, RESOURCES)) for _ in range(3)}
    assert len(same) == 1
    assert perturbed(record, kind, 0, 7, RESOURCES) is record
    others = {key(perturbed(record, kind, 4, 7, RESOURCES, copy=copy)) for copy in range(20)}
    assert len(others) > 1 or kind in ("blur", "contrast")
    assert any(each != key(record) for each in others)


def test_a_severity_is_a_share_of_the_words() -> None:
    words = tuple(f"word{chr(97 + number % 26)}" for number in range(2000))
    record = WordsRecord(words, ("O",) * len(words))
    for kind in ("keyboard", "swaps", "ocr", "case", "punctuation", "whitespace", "lookalikes"):
        for severity, share in zip(SEVERITIES, WORD_SHARES, strict=True):
            found = words_of_record(perturbed(record, kind, severity, 0, RESOURCES))
            assert sum(map(str.__ne__, found, words)) / len(words) == pytest.approx(share, abs=0.005)


def test_a_severity_is_a_share_of_the_entities() -> None:
    record = WordsRecord(("Zoe", "in") * 500, ("B-PER", "O") * 500)
    for kind in ("entities", "origins"):
        for severity, share in zip(SEVERITIES, SPAN_SHARES, strict=True):
            found = perturbed(record, kind, severity, 0, RESOURCES)
            assert isinstance(found, WordsRecord)
            kept = sum(found.words[first:end] == ("Zoe",) for first, end, _ in entity_spans(found.tags))
            assert 1 - kept / 500 == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("new", "delhi"), ("saint", "john's")),
        (("EU",), ("SAINT", "JOHN'S")),
        (("Leeds",), ("Saint", "John's")),
        (("X",), ("Saint", "John's")),
        (("U.S.",), ("SAINT", "JOHN'S")),
        (("2024",), ("Saint", "John's")),
    ],
)
def test_exchanged_entities_have_the_letters_of_those_before(words: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    record = WordsRecord(("in", *words), ("O", "B-LOC", *["I-LOC"] * (len(words) - 1)))
    resources = Resources({"LOC": [("Saint", "John's"), words], "PER": [("Ada",)]})
    assert perturbed(record, "entities", 5, 0, resources) == WordsRecord(("in", *wanted), ("O", "B-LOC", "I-LOC"))


def test_what_is_left_of_a_whole_word_is_a_chance() -> None:
    generator = np.random.default_rng(0)
    counts = [len(chosen(range(5), 0.1, generator)) for _ in range(4000)]
    assert np.mean(counts) == pytest.approx(0.5, abs=0.03) and set(counts) == {0, 1}


def test_names_of_one_origin_take_the_place_of_names() -> None:
    record = TextsRecord(("Emma Smith met Klaus Weber's friend in Leeds .",))
    found = perturbed(record, "origins", 5, 1, RESOURCES)
    assert isinstance(found, TextsRecord)
    assert found.texts[0].split()[2] == "met" and found.texts[0].split()[4].endswith("'s")
    assert not {"Emma", "Klaus"} <= set(found.texts[0].split())


@pytest.mark.parametrize(
    ("reads", "names", "resources", "message"),
    [
        (TEXTS, ["keybord"], RESOURCES, "--kinds: unknown kind 'keybord'. Did you mean 'keyboard'?"),
        (TEXTS, ["blur"], RESOURCES, "'blur' changes image, but the records of this task are texts"),
        (TEXTS, ["entities"], RESOURCES, "'entities' changes words"),
        (TEXTS, ["synonyms"], Resources(), "needs a masked language model: name a run by --synonyms"),
        (WORDS, ["entities"], Resources(), "needs the entities of the training split"),
    ],
)
def test_a_kind_that_cannot_be_is_refused(reads: str, names: list[str], resources: Resources, message: str) -> None:
    with pytest.raises(UserError) as caught:
        kinds_for(reads, names, "--kinds", resources)
    assert message in str(caught.value)


def test_groups_are_written_out_and_what_lacks_something_is_left_out() -> None:
    assert kinds_for(TEXTS, ["case", "typos", "ocr"], "--kinds", Resources()) == ["case", *GROUPS["typos"]]
    assert kinds_for(IMAGE, [], "--kinds", Resources()) == OF_IMAGES
    assert set(OF_WORDS) - set(kinds_for(WORDS, [], "--kinds", Resources())) == {"entities", "synonyms"}

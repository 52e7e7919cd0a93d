"""Tag schemes against seqeval's reading and an encoder written per scheme."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from jaxfm.data.text.tagging import SCHEMES, TAG, allowed_tags, detect_scheme, entity_spans, split_tag, write_tags
from jaxfm.errors import UserError

TYPES = ("PER", "LOC", "creative-work")


@st.composite
def sentences_with_spans(draw):
    """Returns (spans in order, number of words); spans often touch."""
    spans, position = [], 0
    for _ in range(draw(st.integers(0, 5))):
        position += draw(st.integers(0, 2))
        end = position + draw(st.integers(1, 4))
        spans.append((position, end, draw(st.sampled_from(TYPES))))
        position = end
    return spans, position + draw(st.integers(0, 2))


def encode(spans, length, scheme):
    """Tags word by word, from the definition of each scheme."""
    tags = []
    for word in range(length):
        tag = "O"
        for start, end, kind in spans:
            if not start <= word < end:
                continue
            touches = any(other[1] == start and other[2] == kind for other in spans)
            alone, first, last = end - start == 1, word == start, word == end - 1
            prefix = {
                "IO": "I",
                "IOB1": "B" if first and touches else "I",
                "BIO": "B" if first else "I",
                "BIOES": "S" if alone else "B" if first else "E" if last else "I",
                "BILOU": "U" if alone else "B" if first else "L" if last else "I",
            }[scheme]
            tag = f"{prefix}-{kind}"
        tags.append(tag)
    return tags


def merge_touching(spans):
    merged = []
    for start, end, kind in spans:
        if merged and merged[-1][1] == start and merged[-1][2] == kind:
            start = merged.pop()[0]
        merged.append((start, end, kind))
    return merged


@pytest.mark.parametrize("scheme", SCHEMES)
@given(case=sentences_with_spans())
def test_every_scheme_is_read_back_and_becomes_bio(scheme, case):
    spans, length = case
    if scheme == "IO":
        spans = merge_touching(spans)  # IO cannot say that they are two
    tags = encode(spans, length, scheme)
    assert entity_spans(tags) == spans
    assert strict_bio(tags) == encode(spans, length, "BIO")
    assert write_tags(spans, length, scheme) == tags


def strict_bio(tags):
    return write_tags(entity_spans(tags), len(tags))


random_tags = st.lists(
    st.sampled_from(["O", *(f"{prefix}-{kind}" for prefix in "BIES" for kind in TYPES)]), max_size=12
)


@given(random_tags)
def test_any_tags_are_read_as_seqeval_reads_them(tags):
    expected = [(start, end + 1, kind) for kind, start, end in get_entities(tags)]
    assert entity_spans(tags) == expected
    assert entity_spans(strict_bio(tags)) == expected


@given(random_tags)
def test_bio_is_strict_and_stays_as_it_is(tags):
    strict = strict_bio(tags)
    for before, tag in zip(["O", *strict], strict, strict=False):
        assert not tag.startswith("I-") or before[2:] == tag[2:]
    assert strict_bio(strict) == strict


@given(st.lists(sentences_with_spans(), min_size=1), st.sampled_from(SCHEMES))
def test_the_scheme_of_clean_data_is_found(cases, scheme):
    sequences = [encode(spans, length, scheme) for spans, length in cases]
    prefixes = {tag[0] for tags in sequences for tag in tags} - {"O"}
    found = detect_scheme(sequences)
    if not prefixes:
        assert found == "BIO"
    elif scheme in ("BIOES", "BILOU"):
        assert found == (scheme if prefixes & set("ESLU") else "BIO")
    elif scheme in ("IO", "IOB1"):
        assert found == ("IOB1" if "B" in prefixes else "IO")
    else:
        assert found == "BIO"


@pytest.mark.parametrize(
    ("sequences", "scheme"),
    [
        ([["O", "O"]], "BIO"),
        ([], "BIO"),
        ([["B-PER", "I-PER", "O", "B-LOC"], ["I-LOC"]], "BIO"),  # one stray I-: the votes are 2 to 1
        ([["B-PER", "O", "I-LOC"]], "BIO"),  # a tie
        ([["I-PER", "B-PER", "O", "I-LOC"], ["B-LOC"], ["I-LOC"]], "IOB1"),  # one stray B-
        ([["I-PER", "I-LOC"]], "IO"),
        ([["I-PER", "O"], ["O", "S-PER"]], "BIOES"),  # a later sentence decides for all
        ([["B-PER", "L-PER"]], "BILOU"),
    ],
)
def test_detection_of_doubtful_data(sequences, scheme):
    assert detect_scheme(sequences) == scheme


def test_two_schemes_in_one_source_are_refused():
    with pytest.raises(UserError, match="E-/S- belong to BIOES, L-/U- to BILOU"):
        detect_scheme([["S-PER"], ["U-PER"]])


@pytest.mark.parametrize("tag", ["", "o", "PER", "B", "B-", "B- ", "B_PER", "X-PER", "b-PER", "B-PER ", "NN"])
def test_what_is_no_tag(tag):
    assert not TAG.fullmatch(tag)
    with pytest.raises(UserError, match="is not a tag: a tag is O or PREFIX-TYPE"):
        split_tag(tag)


def test_a_type_may_hold_hyphens():
    assert split_tag("B-creative-work") == ("B", "creative-work")


# A scheme -> labels of two types in it.
LABELS = {
    "BIO": ("O", "B-X", "I-X", "B-Y", "I-Y"),
    "BIOES": ("O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y"),
    "BILOU": ("O", "U-X", "B-X", "I-X", "L-X"),
}


@pytest.mark.parametrize("scheme", sorted(LABELS))
def test_allowed_are_exactly_the_sequences_that_the_scheme_writes(scheme: str) -> None:
    labels = LABELS[scheme]
    start, end, pairs = allowed_tags(labels)
    for length in (1, 2, 3, 4):
        for path in itertools.product(range(len(labels)), repeat=length):
            tags = [labels[index] for index in path]
            allowed = start[path[0]] and end[path[-1]] and all(pairs[pair] for pair in itertools.pairwise(path))
            assert allowed == (write_tags(entity_spans(tags), length, scheme) == tags), tags


def test_a_type_without_b_starts_with_what_it_has() -> None:
    labels = ("O", "I-X", "B-Y", "I-Y")  # IO beside BIO
    start, end, pairs = allowed_tags(labels)
    assert start.tolist() == [True, True, True, False] and end.all()
    assert pairs[:, 1].all() and pairs[:, 3].tolist() == [False, False, True, True]
    assert allowed_tags(("O", "I-X", "E-X")).start.tolist() == [True, True, True]  # IOE: a word alone is E
    assert allowed_tags(("O", "I-X", "E-X")).end.tolist() == [True, False, True]

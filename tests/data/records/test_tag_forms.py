"""Tags as published files write them: which form fits all of a source, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxfm.data.records.tag_forms import find_form, fitting_form
from jaxfm.data.text import tagging
from jaxfm.errors import UserError


def places(tags):
    return {tag: f"f:{number}" for number, tag in enumerate(tags.split(), 1)}


@pytest.mark.parametrize(
    ("tags", "read", "note"),
    [
        ("O B-PER I-PER", "O B-PER I-PER", ""),
        ("O", "O", ""),
        ("O B_PER I_PER", "O B-PER I-PER", "B_PER as B-PER"),
        ("o b-per I-per", "O B-per I-per", "o as O, b-per as B-per"),
        ("0 B-PER I-PER", "O B-PER I-PER", "0 as O"),
        ("B-NAME M-NAME E-NAME S-LOC O", "B-NAME I-NAME E-NAME S-LOC O", "M-NAME as I-NAME"),
        ("B-X M-X E-X W-X O", "B-X I-X E-X S-X O", "M-X as I-X, W-X as S-X"),
        ("- PER_B PER_I", "O B-PER I-PER", "- as O, PER_B as B-PER"),
        ("O LOC-B LOC-I", "O B-LOC I-LOC", "LOC-B as B-LOC"),
        ("B I O", "B-ENTITY I-ENTITY O", "every entity is of the type ENTITY"),
        ("B M E S O", "B-ENTITY I-ENTITY E-ENTITY S-ENTITY O", "ENTITY"),
        ("I O", "I-ENTITY O", "ENTITY"),
        ("PER O LOC", "I-PER O I-LOC", "no prefix, so a run of one tag is one entity"),
        ("creative-work O person", "I-creative-work O I-person", "no prefix"),
        ("0 geo", "O I-geo", "0 as O, geo as I-geo"),
        ("0", "O", "0 as O"),
        ("_ B-PER", "O B-PER", "_ as O"),
    ],
)
def test_forms_of_published_files(tags, read, note):
    form = find_form(places(tags))
    assert [form.names[tag] for tag in tags.split()] == read.split()
    assert form.usual == (not note)
    assert note in form.note


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ("O B-PER PERSON", r"^f:3: 'PERSON' is not a tag: a tag is O or PREFIX-TYPE"),
        ("O B-PER BPER", r"^f:3: 'BPER' is not a tag: .* Did you mean 'B-PER'\?"),
        ("PERSON", r"^f:1: 'PERSON' is not a tag: .* Tags without a prefix are read where O is among them\. H$"),
        ("O B-PER 7", r"^f:3: '7' is not a tag"),
        ("O 1 2", r"^f:2: '1' is not a tag"),
        ("O B-PER B", r"^f:3: 'B' is not a tag"),
        ("O B-PER -", r"^f:3: '-' is not a tag"),
        ("NNP VBD .", r"^f:1: 'NNP' is not a tag"),
    ],
)
def test_tags_that_are_none(tags, message):
    with pytest.raises(UserError, match=message):
        find_form(places(tags), "H")


@given(st.dictionaries(st.text(max_size=6), st.just("f:1"), min_size=1, max_size=6))
def test_a_form_gives_tags_or_there_is_none(tags):
    form = fitting_form(tags)
    if form is None:
        with pytest.raises(UserError, match="is not a tag"):
            find_form(tags)
        return
    assert set(form.names) == set(tags)
    assert all(map(tagging.TAG.fullmatch, form.names.values()))

"""Templates and terms: the file that comes with jaxfm, sentences, and what is wrong with other files."""

import pathlib

import pytest

from jaxfm.data.records.counterfactual_terms import read_attributes
from jaxfm.errors import UserError

GOOD = """
[[attribute]]
name = "kinds"
place = "who"
groups = {a = ["Ann", "Al"], b = ["Bo"]}
[templates]
who = ["{who} left.", "I saw {who}"]
"""


def read(folder: pathlib.Path, text: str) -> object:
    path = folder / "terms.toml"
    path.write_text(text)
    return read_attributes(path)


def test_the_shipped_file_has_names_of_equal_numbers_and_places_once() -> None:
    found = read_attributes(None)
    assert len(found) == 5
    for attribute in found:
        assert len({len(terms) for terms in attribute.groups.values()}) == 1
        for group, terms in attribute.groups.items():
            sentences = list(attribute.sentences(group))
            assert len(sentences) == len(terms) * len(attribute.templates)
            assert {each.text[each.start : each.end] for each in sentences} == set(terms)


def test_sentences_are_in_the_order_of_terms(tmp_path: pathlib.Path) -> None:
    (found,) = read(tmp_path, GOOD)  # type: ignore[misc]
    assert [each.text for each in found.sentences("a")] == ["Ann left.", "I saw Ann", "Al left.", "I saw Al"]
    assert [(each.start, each.end) for each in found.sentences("b")] == [(0, 2), (6, 8)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[[attribute]]", "[[atribute]]", "unknown key 'atribute'. Did you mean 'attribute'"),
        ('place = "who"', 'place = "whom"', "no templates for the place 'whom'. Did you mean 'who'"),
        ('place = "who"', "", "attribute 1: needs name, place and groups"),
        ('b = ["Bo"]', 'b = ["Al"]', "'Al' is in a and in b: a term has one group"),
        (', b = ["Bo"]', "", "attribute 1: needs two groups at least"),
        ('b = ["Bo"]', 'b = ["Bo", "Bo"]', "groups.b: has 'Bo' twice"),
        ('b = ["Bo"]', "b = []", "groups.b: must be a list of texts that are not blank"),
        ('"{who} left."', '"{whom} left."', r"must have \{who\} once, and no other place"),
        ("[templates]", "[templates", "is not TOML"),
        ('name = "kinds"', "name = 3", "its name must be text"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: pathlib.Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(UserError, match=message):
        read(tmp_path, GOOD.replace(old, new))
    with pytest.raises(UserError, match="No such file"):
        read_attributes(tmp_path / "absent.toml")

"""Raw text to words: where each rule cuts, and what holds for any text."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxfm.data.text.words import COARSE, FINE, SPLITTERS, nearest_splitter, words_of
from jaxfm.errors import UserError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ada Lovelace met Charles Babbage in London.", "Ada|Lovelace|met|Charles|Babbage|in|London|."),
        ("(Mr. Smith's U.N. visit)", "(|Mr.|Smith|'s|U.N.|visit|)"),
        ("don't e-mail 3.5 a@b.com", "don't|e-mail|3.5|a@b.com"),
        ("the U.S., e.g. Acme Inc.", "the|U.S.|,|e.g.|Acme|Inc."),
        ("Wait... what?! No--", "Wait|...|what|?|!|No|--"),
        ("“Ada’s” dogs' 's", "“|Ada|’s|”|dogs|'|'s"),
        ("@ada #maths -5 +1 - #", "@ada|#maths|-5|+1|-|#"),
        ("我在東京に行く。OK", "我|在|東|京|に|行|く|。|OK"),
        ("한국어 문장", "한국어|문장"),
        ("love❤️ ❤️you e\u0301a!", "love|❤️|❤️|you|e\u0301a|!"),
        ("  \t\n\u3000 ", ""),
        ("", ""),
    ],
)
def test_coarse_words(text: str, words: str) -> None:
    assert "|".join(text[start:end] for start, end in words_of(text, COARSE)) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("New York-based O'Brien's U.N.", "New|York|-|based|O|'|Brien|'|s|U|.|N|."),
        ("e-mail 3.5 IL-2 http://x.com/a", "e|-|mail|3|.|5|IL|-|2|http|:|/|/|x|.|com|/|a"),
        ("#tag @user_x (NATO) [a/b] “Ada’s”", "#|tag|@|user|_|x|(|NATO|)|[|a|/|b|]|“|Ada|’|s|”"),
        ("$5 €100 50% 10km 5mg 3.5kg 3M 4G B12", "$|5|€|100|50|%|10|km|5|mg|3|.|5|kg|3M|4G|B12"),
        ("l'Oréal km² CO2 °C", "l|'|Oréal|km²|CO2|°|C"),
        ("我在東京に行く。OK", "我|在|東|京|に|行|く|。|OK"),
        ("ภาษา ไทย", "ภ|า|ษ|า|ไ|ท|ย"),
        ("한국어는 नमस्ते cafe\u0301 soft\u00adhyphen", "한국어는|नमस्ते|cafe\u0301|soft\u00adhyphen"),
        ("❤\ufe0fx 👩\u200d👩\u200d👧! 👍🏽 🇬🇧🇫🇷", "❤\ufe0f|x|👩\u200d👩\u200d👧|!|👍🏽|🇬🇧|🇫🇷"),
        ("\ufeffzero\u200bwidth \x00nul\u202e", "zero|width|nul"),
        ("  \t\n\u3000\u2028 ", ""),
        ("", ""),
    ],
)
def test_fine_words(text: str, words: str) -> None:
    assert "|".join(text[start:end] for start, end in words_of(text)) == words
    assert words_of(text) == words_of(text, FINE)


ANY_TEXT = st.one_of(
    st.text(), st.text(alphabet="aA1.'s-,#@ \u2019\u4e00\u00ad\u0301❤\ufe0f\t\u200d\u200b5mg\U0001f1e6\x00_")
)


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT)
@example("\u0301'")
@example("\x1c\x85\u2028a")
def test_every_visible_character_is_in_exactly_one_word(text: str) -> None:
    for splitter in SPLITTERS:
        covered = 0
        for start, end in (*words_of(text, splitter), (len(text), len(text))):
            word, between = text[start:end], text[covered:start]
            assert covered <= start and (start < end or end == len(text))
            assert not re.search(r"\s", word)
            if splitter == COARSE:
                assert between.strip() == ""  # nothing but space
            else:
                assert not any(character.isprintable() and character != " " for character in between)
            covered = end


@settings(max_examples=100, deadline=None)
@given(ANY_TEXT, ANY_TEXT)
def test_fine_words_can_end_at_every_mark(before: str, after: str) -> None:
    """Whatever is around it, a punctuation mark is a word: entities can start and end beside it."""
    for mark in "-/([{'\"$€,.:@#%’”":
        text = before + mark + after
        words = words_of(text)
        starts, ends = {start for start, _ in words}, {end for _, end in words}
        assert len(before) in starts or before.endswith("\u200d")
        if after[:1].isalnum():
            assert len(before) + 1 in starts & ends


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UserError, match="'finer'.*'fine'"):
        words_of("a", "finer")


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["New", "York-based", "U.N.", "staff"], COARSE),
        (["New", "York", "-", "based", "U", ".", "N", "."], FINE),
        (["Ada", "met", "Charles", "."], COARSE),
        (["He", "-", "a", "3.5", "and", "e-mail"], COARSE),
    ],
)
def test_the_words_of_a_corpus_choose_the_rule(words: list[str], nearest: str) -> None:
    assert nearest_splitter([words]) == nearest

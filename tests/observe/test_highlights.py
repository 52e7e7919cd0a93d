"""Words in colours: nothing of a text is lost or taken for markup, whatever it holds."""

import html
import pathlib
import re

import numpy as np
import PIL.Image

from jaxfm.observe.highlights import Highlight, Passage, Word, draw, on_terminal, to_html, word_table
from jaxfm.observe.tables import to_plain

TEXT = "<script>alert(1)</script> the\nold $town$ 東京"
WORDS = (Word(0, 8, 0.5), Word(26, 29, -1.0), Word(30, 33, 0.01), Word(28, 33, 2.0), Word(41, 43, 0.25))
FOUND = Highlight("label <b>", "score 1.0", (Passage("text", TEXT, WORDS), Passage("pair", "", ())))


def test_pieces_are_the_text_and_no_word_is_in_another() -> None:
    pieces = FOUND.passages[0].pieces()
    assert "".join(part for part, _ in pieces) == TEXT
    assert [share for _, share in pieces if share is not None] == [0.5, -1.0, 0.01, 0.25]


def test_the_page_shows_the_text_and_runs_nothing() -> None:
    page = to_html("a <title>", ["a <note>"], [("file<1>", [FOUND]), ("nothing", [])])
    assert "<script>" not in page and "label <b>" not in page and "a <note>" not in page
    (shown,) = re.findall(r'<p class="text">(.*?)</p>', page.replace("\n", "\v"))[:1]
    assert html.unescape(re.sub("<[^>]*>", "", shown)).replace("\v", "\n") == TEXT
    assert 'title="+0.5000"' in page and "Nothing in its result" in page
    assert "http" not in page and " src=" not in page


def test_a_terminal_has_colours_for_strong_words_alone() -> None:
    text = on_terminal(FOUND)
    assert text.plain == TEXT + "\n"
    assert len([span for span in text.spans if "on #" in str(span.style)]) == 3  # not the word of 0.01
    table = to_plain(word_table(FOUND))
    assert "<script>" in table and "-1.0000" in table
    many = Highlight("t", "", (Passage("text", "a " * 60, tuple(Word(2 * i, 2 * i + 1, i / 60) for i in range(60))),))
    assert "the 40 largest of 60 words" in word_table(many).title and len(word_table(many).rows) == 40


def test_pictures_of_texts_and_images(tmp_path: pathlib.Path) -> None:
    pixels = np.full((8, 8, 3), 120, np.uint8)
    image = Highlight("label cat", "score 2", (), pixels, np.asarray([[1.0, 0.0], [-0.5, 0.0]]))
    latin = Highlight("label", "", (Passage("text", "the $old$ 東京 town " * 20, (Word(0, 3, 1.0),)),))
    draw([latin, image] * 10, tmp_path / "a.png", title="twenty parts")
    drawn = np.asarray(PIL.Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    assert (drawn == drawn[0]).all(axis=-1).mean() < 0.99
    page = to_html("t", [], [("cat.png", [image])])
    assert page.count("data:image/png;base64,") == 1

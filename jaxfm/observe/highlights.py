"""Texts whose words have a colour by what they are worth: on a terminal, as a page, as a picture."""

import base64
import dataclasses
import io
import os
import pathlib
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from rich.cells import cell_len
from rich.text import Text

from jaxfm.observe.plots import COLOURS, GRID, INK, new_figure, save_figure
from jaxfm.observe.tables import Table

MOST_DRAWN = 12  # targets of a picture
_MOST_ROWS = 40  # words of a table on a terminal
_TEMPLATE = pathlib.Path(__file__).parent / "highlights.html.jinja"
FOR, AGAINST = COLOURS[0], COLOURS[1]
_WORDS = re.compile(r"\S+\s*|\s+")
_LINE = 96  # characters of a line of a picture, about
_LEAST = 0.06  # share of the strongest word below which a word has no colour


class Word(NamedTuple):
    """A stretch of a text in characters, end exclusive, and its share."""

    start: int
    end: int
    share: float


@dataclasses.dataclass(frozen=True)
class Passage:
    """A text with its words, in order and not one over the other."""

    name: str
    text: str
    words: tuple[Word, ...]

    def pieces(self) -> list[tuple[str, float | None]]:
        """Returns (part, its share or None), which together are the text."""
        found: list[tuple[str, float | None]] = []
        end = 0
        for word in self.words:
            if word.start < end:
                continue  # a word that begins inside another: its share is in the table, its colour nowhere
            found += [(self.text[end : word.start], None), (self.text[word.start : word.end], word.share)]
            end = word.end
        return [each for each in [*found, (self.text[end:], None)] if each[0]]


@dataclasses.dataclass(frozen=True, eq=False)
class Highlight:
    """A part of a result and what it is due to.

    Attributes:
      title: what it is.
      facts: a line below.
      passages: texts with the shares of their words.
      pixels: uint8 [H, W, C], of an image that has none.
      shares: [rows, columns] of its patches.
    """

    title: str
    facts: str
    passages: tuple[Passage, ...] = ()
    pixels: np.ndarray | None = None
    shares: np.ndarray | None = None

    @property
    def strongest(self) -> float:
        """The largest share, whatever its sign; 1 where all are 0."""
        shares = [abs(word.share) for passage in self.passages for word in passage.words]
        if self.shares is not None:
            shares.append(float(np.abs(self.shares).max()))
        return max(shares, default=0.0) or 1.0


def on_terminal(found: Highlight) -> Text:
    """Returns the texts in colours: blue speaks for the result, orange against it."""
    shown = Text()
    for number, passage in enumerate(found.passages):
        if number:
            shown.append("\n")
        for part, share in passage.pieces():
            shown.append(part, "" if share is None else _terminal_style(share / found.strongest))
    return shown


def word_table(found: Highlight) -> Table:
    """Returns the words with their shares in the order of the texts; of many those whose share is largest."""
    words = [
        (abs(word.share), (passage.name, passage.text[word.start : word.end], word.share))
        for passage in found.passages
        for word in passage.words
    ]
    least = sorted((size for size, _ in words), reverse=True)[:_MOST_ROWS][-1] if words else 0.0
    rows = [row for size, row in words if size >= least]
    several = len(found.passages) > 1
    title = found.title if len(rows) == len(words) else f"{found.title} (the {len(rows)} largest of {len(words)} words)"
    columns = ("text", "word", "share") if several else ("word", "share")
    return Table(title, columns, [row if several else row[1:] for row in rows], formats={"share": "+.4f"})


def to_html(title: str, notes: Sequence[str], records: Sequence[tuple[str, Sequence[Highlight]]]) -> str:
    """Returns a page that needs nothing else. The template escapes all that is shown.

    Args:
      title: of the page.
      notes: lines below it.
      records: (name, parts of its result).
    """
    import jinja2  # not at the start of every program

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(alpha=_alpha, picture=_picture, rgb={"for": _rgb(FOR), "against": _rgb(AGAINST)})
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title, notes=notes, records=records
    )


def draw(found: Sequence[Highlight], path: str | os.PathLike[str], *, title: str) -> None:
    """Draws the first 12 as a PNG file; OSError where it cannot be written."""
    shown = found[:MOST_DRAWN]
    assert shown, "nothing to draw"
    lines = [_lines(each) for each in shown]
    heights = [
        2.6 if each.pixels is not None else 0.62 + 0.24 * len(own) for each, own in zip(shown, lines, strict=True)
    ]
    figure = new_figure(0.5 + sum(heights))
    figure.suptitle(title, color=INK, fontsize=11, x=0.02, ha="left", parse_math=False)
    panels = figure.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
    for axes, each, own in zip(panels, shown, lines, strict=True):
        if each.pixels is not None:
            axes.imshow(_beside(each), interpolation="nearest")
            axes.set_anchor("W")
        else:
            _draw_lines(axes, own, each.strongest)
        axes.set_axis_off()
        facts = f"{each.title}   {each.facts}"
        axes.set_title(_cut(facts, 120), loc="left", color=INK, fontsize=8.5, parse_math=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a script that the font lacks: the page has it
        save_figure(figure, path)


def lit_by_sign(found: Highlight) -> np.ndarray:
    """Returns an image in grey, blue where its patches speak for the result and orange where they speak against it."""
    assert found.pixels is not None and found.shares is not None
    height, width = found.pixels.shape[0] // len(found.shares), found.pixels.shape[1] // found.shares.shape[1]
    strength = np.repeat(np.repeat(found.shares / found.strongest, height, axis=0), width, axis=1)[..., None]
    grey = found.pixels.mean(axis=-1, keepdims=True) * 0.6 + 90
    colour = np.where(strength > 0, np.asarray(_rgb(FOR)), np.asarray(_rgb(AGAINST)))
    alpha = 0.7 * np.abs(strength)
    return np.clip(grey * (1 - alpha) + colour * alpha, 0, 255).astype(np.uint8)


def _beside(found: Highlight) -> np.ndarray:
    """Returns an image and, on its right, what its patches are worth."""
    assert found.pixels is not None
    height, width, channels = found.pixels.shape
    pixels = np.repeat(found.pixels, 3, axis=2) if channels == 1 else found.pixels
    gap = np.full((height, max(1, width // 16), 3), 255, np.uint8)
    return np.concatenate([pixels, gap, lit_by_sign(found)], axis=1)


def _lines(found: Highlight) -> list[list[tuple[str, float | None]]]:
    """Returns the texts in lines of a picture, cut between words."""
    lines: list[list[tuple[str, float | None]]] = []
    for passage in found.passages:
        line: list[tuple[str, float | None]] = []
        length = 0
        # What has no share may be a long piece of text, which is cut between its words.
        words = ((word, share) for part, share in passage.pieces() for word in _WORDS.findall(part))
        for part, share in words:
            part = " ".join(part.split("\n"))
            if length + cell_len(part) > _LINE and line:
                lines.append(line)
                line, length, part = [], 0, part.lstrip()
            line.append((part, share))
            length += cell_len(part)
        lines.append(line)
    return lines[:12]


def _draw_lines(axes: "object", lines: Sequence[Sequence[tuple[str, float | None]]], strongest: float) -> None:
    """Draws words in a font whose letters are all as wide, so that their places are known."""
    axes.set_xlim(0, _LINE + 4)  # type: ignore[attr-defined]
    axes.set_ylim(len(lines), 0)  # type: ignore[attr-defined]
    for number, line in enumerate(lines):
        at = 0
        for part, share in line:
            if share is not None and _alpha(share, strongest):
                colour = FOR if share > 0 else AGAINST
                box = {"width": cell_len(part), "height": 0.84, "facecolor": colour, "edgecolor": "none"}
                axes.add_patch(_rectangle((at, number + 0.08), alpha=_alpha(share, strongest), **box))  # type: ignore[attr-defined]
            drawn = axes.text(  # type: ignore[attr-defined]
                at + cell_len(part) / 2, number + 0.5, part, ha="center", va="center", fontsize=9.5, color=INK,
                family="monospace", parse_math=False,
            )  # fmt: skip
            drawn.set_in_layout(False)  # a word longer than a line must not take the width from all of them
            at += cell_len(part)
    axes.axhline(len(lines), color=GRID, linewidth=0.8)  # type: ignore[attr-defined]


def _rectangle(place: tuple[float, float], **style: object) -> object:
    from matplotlib.patches import Rectangle

    return Rectangle(place, **style)  # type: ignore[arg-type]


def _picture(found: Highlight) -> str:
    """Returns the coloured image as base64 of a PNG file, enlarged without smoothing."""
    import PIL.Image

    pixels = _beside(found)
    times = max(1, 224 // len(pixels))
    file = io.BytesIO()
    PIL.Image.fromarray(np.repeat(np.repeat(pixels, times, axis=0), times, axis=1)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _alpha(share: float, strongest: float) -> float:
    """Returns how strong a word's colour is, 0 to 0.8."""
    relative = abs(share) / strongest
    return round(0.8 * relative, 3) if relative >= _LEAST else 0.0


def _terminal_style(relative: float) -> str:
    if abs(relative) < _LEAST:
        return ""
    strength = 0.25 + 0.75 * min(abs(relative), 1.0)
    red, green, blue = (round(strength * value) for value in _rgb(FOR if relative > 0 else AGAINST))
    return f"white on #{red:02x}{green:02x}{blue:02x}"


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _cut(line: str, most: int) -> str:
    return line if len(line) <= most else f"{line[: most - 1]}…"

"""How a column gives several classes of an example: names, class numbers, a 0 or 1 for each class, or {name: 0 or 1}.

A whole column has one form. It is found from all of its values, as a single one is ambiguous: [0, 1] may be the
classes 0 and 1, or the second of two.
"""

import dataclasses
import re
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

from jaxfm.data.records import targets
from jaxfm.data.records.printed_labels import bit_of, no_bit, printed_value, word_value
from jaxfm.errors import UserError

_APART = re.compile(r"[,;|\s]+")
_WRITTEN = {
    "text": "text",
    "value": "single values",
    "list": "lists",
    "object": "objects",
    "printed list": "lists printed as text",
    "printed object": "objects printed as text",
}


def _text_bits(text: str) -> list[int] | None:
    """The zeros and ones that a cell is made of, with `,` `;` `|` or white space between them."""
    bits = [bit for word in _APART.split(text.strip()) if (bit := bit_of(word)) is not None]
    return bits if len(bits) == len(_APART.split(text.strip())) else None


def _is_soft(text: str) -> bool:
    """Whether a cell holds several numbers, some of them between 0 and 1."""
    numbers = [word_value(word) for word in _APART.split(text.strip())]
    return len(numbers) > 1 and all(map(_is_share, numbers)) and not all(number in (0, 1) for number in numbers)


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _parsed(value: Any) -> tuple[str, Any]:
    """How a value is written (a key of _WRITTEN; "" for an empty cell), and what it holds."""
    if isinstance(value, dict):
        return "object", value
    if isinstance(value, list):
        return "list", value
    if not isinstance(value, str):
        return "value", value
    if not value.strip():
        return "", ""
    printed = printed_value(value)
    if printed is None:
        return "text", value
    return ("printed object" if isinstance(printed, dict) else "printed list"), printed


@dataclasses.dataclass(frozen=True)
class LabelForm:
    """How one field says the classes of an example.

    Attributes:
      field: its name.
      kind: "names" (of classes, or class numbers), "vector" (0 or 1 for each class), "digits" (the same as a text of
        digits, 010), "marks" ({name: 0 or 1}).
      classes: of a vector and of marks: all classes, in order; empty for names.
      names: of class numbers, where the source has any.
    """

    field: str
    kind: str = "names"
    classes: tuple[str, ...] = ()
    names: Sequence[str] | None = None

    @property
    def note(self) -> str:
        """What the log says; empty for names."""
        listed = ", ".join(self.classes[:8]) + (" ..." if len(self.classes) > 8 else "")
        how = {"vector": "lists of 0 and 1", "digits": "digits 0 and 1", "marks": "0 or 1 by name"}.get(self.kind)
        return f"{self.field!r} holds {how}, for {len(self.classes)} classes: {listed}" if how else ""

    def classes_of(self, value: Any, origin: str) -> tuple[str, ...]:
        """Returns the classes of an example. Raises UserError naming `origin` for what is none."""
        content = _parsed(value)[1]
        if self.kind == "marks" and isinstance(content, dict):
            return self._marked(content, value, origin)
        if self.kind == "names":
            return targets.classes_of(content, self.names, self.field, origin)
        if isinstance(content, str):
            content = list(content.strip()) if self.kind == "digits" else _text_bits(content)
        if not isinstance(content, list) or len(content) != len(self.classes):
            raise UserError(f"{origin}: {reprlib.repr(value)} in {self.field!r} is not as the others: {self.note}.")
        return self._marked(dict(zip(self.classes, content, strict=True)), value, origin)

    def _marked(self, marks: dict[str, Any], value: Any, origin: str) -> tuple[str, ...]:
        found = []
        for name, item in marks.items():
            bit = bit_of(item)
            if bit is None:
                raise UserError(f"{origin}: {reprlib.repr(value)} in {self.field!r}: {no_bit(item)}.")
            if bit:
                found.append(str(name).strip())
        return tuple(found)


def find_form(values: Iterable[tuple[str, Any]], field: str, names: Sequence[str] | None) -> LabelForm:
    """Returns the form of a field of several classes an example.

    Lists of one length, at least 2, of 0 and 1 (true and false) alone are vectors, as are such cells and their prints.
    Position i is called `names[i]` where the numbers of both agree, else label_i.

    Args:
      values: (where it was read, value) of every example with a label.
      field: its name, for messages.
      names: of class numbers, where the source has any.

    Raises:
      UserError: values of several forms in one field, naming the first of each.
    """
    seen = _Seen(field)
    for origin, value in values:
        seen.add(value, origin)
    return seen.form(names)


class _Seen:
    """What the values of a field have in common."""

    def __init__(self, field: str):
        self.field = field
        self.written: dict[str, str] = {}  # how -> where first, of all below
        self.keys: dict[str, None] = {}
        self.lengths: dict[int, str] = {}
        self.items: dict[str, str] = {}  # "text" or "number"
        self.digits: dict[int, str] = {}
        self.only_bits = self.only_digits = True
        self.repeats = self.booleans = self.leading_zero = ""
        self.soft = ""

    def add(self, value: Any, origin: str) -> None:
        """Looks at one more value."""
        written, content = _parsed(value)
        if not written:
            self.lengths.setdefault(0, origin)
            self.digits.setdefault(0, origin)
            return
        self.written.setdefault(written, origin)
        if isinstance(content, dict):
            self.keys |= dict.fromkeys(str(key).strip() for key in content)
        elif isinstance(content, list):
            self._add_items(content, origin)
        elif written == "text":
            self._add_text(content, origin)
        else:
            self.only_bits = self.only_digits = False

    def _add_text(self, text: str, origin: str) -> None:
        bits = _text_bits(text)
        self.only_bits &= bits is not None
        if bits is not None:
            self.lengths.setdefault(len(bits), origin)
            self.repeats = self.repeats or (origin if len(set(bits)) < len(bits) else "")
        elif _is_soft(text):
            self.soft = self.soft or origin
        text = text.strip()
        self.only_digits &= re.fullmatch("[01]+", text) is not None
        self.digits.setdefault(len(text), origin)
        self.leading_zero = self.leading_zero or (origin if text.startswith("0") else "")

    def _add_items(self, items: list[Any], origin: str) -> None:
        self.only_digits = False
        self.lengths.setdefault(len(items), origin)
        self.only_bits &= all(bit_of(item) is not None for item in items)
        hashable = [item for item in items if isinstance(item, str | int | float)]
        self.repeats = self.repeats or (origin if len(set(hashable)) < len(hashable) else "")
        for item in hashable:
            self.items.setdefault("text" if isinstance(item, str) else "numbers", origin)
            self.booleans = self.booleans or (origin if isinstance(item, bool) else "")
            self.soft = self.soft or (origin if isinstance(item, float) and 0 < item < 1 else "")

    def form(self, names: Sequence[str] | None) -> LabelForm:
        """Returns the form. Raises UserError where the values have several."""
        self._refuse_several(self.written, _WRITTEN)
        if self.keys:
            return LabelForm(self.field, "marks", tuple(self.keys))
        if "text" in self.written and self.only_digits and len(self.digits) == 1 and self.leading_zero:
            (length,) = self.digits
            if length > 1:
                return LabelForm(self.field, "digits", _places(length, names))
        named = names is not None and len(names) > 0
        lengths = dict(self.lengths)
        is_vector = self.only_bits and bool(lengths) and "value" not in self.written
        if is_vector and len(lengths) == 1 and max(lengths) > 1:
            (length,) = lengths
            # Class numbers that have names are vectors only where they cannot be class numbers.
            if not named or (length == len(names or ()) and (self.repeats or self.booleans)):
                return LabelForm(self.field, "vector", _places(length, names))
        if (is_vector and len(lengths) > 1 and self.repeats) or self.booleans or self.soft:
            self._refuse_vectors(lengths)
        self._refuse_several(self.items, {"text": "lists of text", "numbers": "lists of numbers"})
        if "numbers" in self.items and self.repeats:
            raise UserError(
                f"{self.repeats}: one number twice in the list in {self.field!r}: a list holds the numbers of the "
                "example's classes, each once, or 0 or 1 for every class."
            )
        return LabelForm(self.field, "names", (), names)

    def _refuse_several(self, origins: dict[str, str], words: dict[str, str]) -> None:
        if len(origins) > 1:
            (one, first), (other, then), *_ = origins.items()
            raise UserError(
                f"{then}: {self.field!r} holds {words[other]} here, but {words[one]} at {first}: write all labels of a "
                "field in one form."
            )

    def _refuse_vectors(self, lengths: dict[int, str]) -> None:
        origin = self.soft or self.booleans
        if len(lengths) > 1 and not self.soft:
            (one, first), (other, origin), *_ = lengths.items()
            raise UserError(
                f"{origin}: a list of {other} in {self.field!r}, but of {one} at {first}: lists of 0 and 1 (false and "
                "true) have a position for each class, so all have one length."
            )
        why = (
            no_bit(0.5).replace("0.5", "a number between 0 and 1")
            if self.soft
            else ("true and false may be in lists only with one position for each class, at least two")
        )
        raise UserError(f"{origin}: the labels in {self.field!r}: {why}.")


def _places(length: int, names: Sequence[str] | None) -> tuple[str, ...]:
    if names is not None and len(names) == length:
        return tuple(names)
    return tuple(f"label_{number}" for number in range(length))

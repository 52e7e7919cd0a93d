"""Label values that are written as text: prints of lists and objects, and what stands for 0 and 1."""

import json
import re
import reprlib
from typing import Any

_ENDS = {"[": "]", "(": ")", "{": "}"}
_CALL = re.compile(r"(?:np\.|numpy\.|torch\.)?(?:array|tensor)\((.*?)(?:,\s*dtype=[\w.']+)?\)", re.DOTALL)
_ITEM = re.compile(r"""\s*(?:('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|([^\s,:'"\[\](){}]+))\s*([,:]?)""", re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U(000[0-9a-fA-F]{5}|0010[0-9a-fA-F]{4})|(.))", re.DOTALL
)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
NO_VALUE = object()
_BITS = {"0": 0, "1": 1, "false": 0, "true": 1}


def printed_value(text: str) -> list[Any] | dict[Any, Any] | None:
    """Returns the list or object that a text is the print of (JSON, Python, numpy), None for any other text.

    Its items are numbers, true, false, null and texts in quotes; `[other]` is a text like any other.
    """
    text = text.strip()
    call = _CALL.fullmatch(text)
    if call is not None:
        text = call[1].strip()
    if len(text) < 2 or text[-1] != _ENDS.get(text[0]):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _python_value(text)
    return value if isinstance(value, list | dict) else None


def _python_value(text: str) -> list[Any] | dict[Any, Any] | None:
    items: list[Any] = []
    signs: list[str] = []
    body, start = text[1:-1].strip(), 0
    while start < len(body):
        match = _ITEM.match(body, start)
        if match is None:
            return None
        quoted, word, sign = match.groups()
        item = _ESCAPE.sub(_unescaped, quoted[1:-1]) if quoted is not None else word_value(word)
        if item is NO_VALUE:
            return None
        items.append(item)
        signs.append(sign)
        start = match.end()
    if ":" not in signs:
        # A text in brackets, (1) say, is the print of a tuple only with its comma.
        return None if text[0] == "(" and items and "," not in signs else items
    keys, values = items[::2], items[1::2]
    if text[0] != "{" or len(keys) != len(values) or set(signs[::2]) != {":"} or not set(signs[1:-1:2]) <= {","}:
        return None
    return dict(zip(keys, values, strict=True))


def word_value(word: str) -> Any:
    """Returns the number, truth value or None that a word is the print of; NO_VALUE for any other word."""
    if word in _WORDS:
        return _WORDS[word]
    try:
        return int(word) if re.fullmatch("[+-]?[0-9]{1,18}", word) else float(word)
    except ValueError:
        return NO_VALUE


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    return chr(int(code, 16)) if code else _ESCAPED.get(match[4], match[4])


def bit_of(value: Any) -> int | None:
    """Returns 0 or 1 where a value says that (numbers, truth values, or a text of either), else None."""
    if isinstance(value, str):
        return _BITS.get(re.sub(r"\.0*$", "", value.strip().lower()))
    if isinstance(value, bool | int | float):
        return int(value) if value in (0, 1) else None
    return None


def no_bit(item: Any) -> str:
    """Returns a clause for a message: why a value is neither 0 nor 1."""
    number = word_value(item.strip()) if isinstance(item, str) else item
    if isinstance(number, float) and 0 < number < 1:
        return (
            f"{number:g} is neither 0 nor 1: labels that hold in part (soft labels) cannot be learned. Round them, or "
            "learn one of them as a score (config.classification.kind=regression)"
        )
    return f"{reprlib.repr(item)} is neither 0 nor 1"

"""A text that says the opposite, by a few rules of English grammar: for tests of direction, never for scores."""

import re

_VERBS = "is are was were am can could will would shall should must may might has have had do does did".split()
_WITH_NOT = re.compile(rf"\b({'|'.join(_VERBS)})\b", re.IGNORECASE)
_NEGATED = re.compile(r"\s+not\b|\s*\bn['\u2019]t\b|(?<=\w)n['\u2019]t\b", re.IGNORECASE)
_SHORTENED = tuple(
    (re.compile(rf"\b{short}\s?n['\u2019]t\b", re.IGNORECASE), whole)
    for short, whole in (("ca", "can"), ("wo", "will"))
)
_FRONT = "It is not true that "


def negated(text: str) -> str:
    """Returns the text with its first "not" taken out or, where it has none, with one after its first auxiliary verb.

    Without either it is put after "It is not true that".
    """
    for shortened, whole in _SHORTENED:
        if (found := shortened.search(text)) is not None:
            return text[: found.start()] + whole + text[found.end() :]
    if (found := _NEGATED.search(text)) is not None:
        return text[: found.start()] + text[found.end() :]
    if (found := _WITH_NOT.search(text)) is not None:
        return f"{text[: found.end()]} not{text[found.end() :]}"
    first, rest = text[:1], text[1:]
    return _FRONT + (first if rest[:1].isupper() or text[:2] == "I " else first.lower()) + rest

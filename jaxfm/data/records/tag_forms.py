"""The ways in which published files write tags, read as the tags of `jaxfm.data.text.tagging`.

A form is looked for that fits every tag of a source: nothing is guessed tag by tag, so a misspelt tag is an error.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping

from jaxfm.data.text import tagging
from jaxfm.errors import UserError

ONLY_TYPE = "ENTITY"  # of tags that are a prefix alone
_PREFIX = "BIESLUMW"
_PREFIX_READ = {"M": "I", "W": "S"}  # BMES, BMEWO
_PREFIXED = re.compile(rf"([{_PREFIX}{_PREFIX.lower()}])[-_](\S(?:.*\S)?)", re.DOTALL)
_SUFFIXED = re.compile(rf"(\S(?:.*\S)?)[-_]([{_PREFIX}])", re.DOTALL)
_NAME = re.compile(r"[^\W\d_](?:[\w .,&/+:()-]{0,58}[\w)])?")
_OUTSIDE = ("O", "o", "0")
_BLANK = ("-", "_")  # these mean O where nothing else does
_MOST_NAMES = 500  # a column with more different names in it holds no tags


@dataclasses.dataclass(frozen=True)
class TagForm:
    """How to read the tags of a source.

    Attributes:
        names: tag as written -> tag as `tagging.TAG` has it.
        note: for the log, what was read as what; empty for the usual form.
    """

    names: Mapping[str, str]
    note: str

    @property
    def usual(self) -> bool:
        """Whether every tag is as it stands."""
        return not self.note


def find_form(tags: Mapping[str, str], hint: str = "") -> TagForm:
    """Returns the form that fits all tags of a source; `tags` gives where each was first seen.

    The forms, the first that fits: B-PER; B_PER, b-per, M- for I- and W- for S-; PER-B and PER_B; B alone, which is
    read as B-ENTITY; PER alone, as I-PER. O may be written o or 0, and - or _ where no other tag means it.
    Raises UserError with the origin of the first tag that fits none, and `hint`.
    """
    form = fitting_form(tags)
    if form is not None:
        return form
    odd = [tag for tag in tags if not tagging.TAG.fullmatch(tag)]
    tag = next((tag for tag in odd if tag not in _OUTSIDE and not _PREFIXED.fullmatch(tag)), odd[0])
    advice = ""
    if glued := re.fullmatch(rf"([{_PREFIX}])([A-Z]\w+)", tag):
        advice = f" Did you mean '{glued[1]}-{glued[2]}'?" if f"B-{glued[2]}" in tags or f"I-{glued[2]}" in tags else ""
    elif _NAME.fullmatch(tag) and len(odd) == len(tags):
        advice = " Tags without a prefix are read where O is among them."
    raise UserError(f"{tags[tag]}: {tag!r} is not a tag: {tagging.TAG_RULE}.{advice}{' ' * bool(hint)}{hint}")


def fitting_form(tags: Mapping[str, str]) -> TagForm | None:
    """Returns the form of `find_form`, None where no form fits."""
    if all(map(tagging.TAG.fullmatch, tags)):
        return TagForm({tag: tag for tag in tags}, "")
    outside = [tag for tag in tags if tag in _OUTSIDE] or [tag for tag in tags if tag in _BLANK]
    entities = [tag for tag in tags if tag not in outside]
    for form, note in _FORMS:
        names = {tag: read for tag in entities if (read := form(tag))}
        named = form is not _named or (outside and len(names) <= _MOST_NAMES)
        if not entities or len(names) < len(entities) or not named:
            continue
        return TagForm({**names, **dict.fromkeys(outside, "O")}, _note(names, outside, note))
    if set(tags) <= set(_OUTSIDE):
        return TagForm(dict.fromkeys(tags, "O"), _note({}, outside, ""))
    return None


def _prefixed(tag: str) -> str | None:
    match = _PREFIXED.fullmatch(tag)
    return f"{_letter(match[1])}-{match[2]}" if match else None


def _suffixed(tag: str) -> str | None:
    match = _SUFFIXED.fullmatch(tag)
    return f"{_letter(match[2])}-{match[1]}" if match else None


def _bare(tag: str) -> str | None:
    return f"{_letter(tag)}-{ONLY_TYPE}" if len(tag) == 1 and tag.upper() in _PREFIX else None


def _named(tag: str) -> str | None:
    return f"I-{tag}" if _NAME.fullmatch(tag) and not _PREFIXED.fullmatch(tag) else None


def _letter(prefix: str) -> str:
    return _PREFIX_READ.get(prefix.upper(), prefix.upper())


_FORMS: tuple[tuple[Callable[[str], str | None], str], ...] = (
    (_prefixed, ""),
    (_suffixed, ""),
    (_bare, f"they name no type, so every entity is of the type {ONLY_TYPE}"),
    (_named, "they have no prefix, so a run of one tag is one entity"),
)


def _note(names: Mapping[str, str], outside: list[str], why: str) -> str:
    read: dict[str, str] = {}  # one example of each change
    for tag, name in names.items():
        if tag != name:
            read.setdefault(f"{tag[0]}{tag[1:2]}", f"{tag} as {name}")
    shown = [f"{tag} as O" for tag in outside if tag != "O"] + list(read.values())
    listed = ", ".join(shown[:4]) + (" and so on" if len(shown) > 4 else "")
    return f"tags read otherwise than written: {listed}" + (f"; {why}" if why else "")

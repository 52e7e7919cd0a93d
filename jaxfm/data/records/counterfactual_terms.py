"""Templates with a place, and groups of terms to put there: a file of `jaxfm bias`, and the one that comes with it."""

import dataclasses
import pathlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from jaxfm import files
from jaxfm.errors import UserError, did_you_mean

SHIPPED = "counterfactual_terms.toml"
_PLACE = re.compile(r"\{(\w+)\}")


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A filled template.

    Attributes:
      text: the sentence.
      start: of the term, in characters.
      end: of the term, end exclusive.
    """

    text: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Attribute:
    """Groups of terms that are exchanged, and the templates that have a place for them.

    Attributes:
      name: "gender of names".
      groups: name -> terms.
      templates: texts with the place in braces, once each.
    """

    name: str
    groups: Mapping[str, tuple[str, ...]]
    templates: tuple[str, ...]

    def sentences(self, group: str) -> Iterator[Sentence]:
        """Yields the sentences of a group: all templates of its first term, then of the next."""
        for term in self.groups[group]:
            for template in self.templates:
                place = _PLACE.search(template)
                assert place is not None, "see _template"
                text = template[: place.start()] + term + template[place.end() :]
                yield Sentence(text, place.start(), place.start() + len(term))


def read_attributes(path: pathlib.Path | None) -> tuple[Attribute, ...]:
    """Reads a file of attributes; None: the one that comes with jaxfm.

    TOML: a table `templates` (place -> texts that have it in braces), and tables `[[attribute]]` with `name`, `place`
    and `groups` (name -> terms), two groups at least.

    Raises UserError for a file that cannot be read or is not of this form, and names what is wrong.
    """
    where = SHIPPED if path is None else str(path)
    try:
        if path is None:
            text = (resources.files("jaxfm.data") / SHIPPED).read_text(encoding="utf-8")
        else:
            files.check_size(path)
            text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"--templates={where}: {error.strerror}.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{where}: is not TOML: {error}.") from None
    return _attributes(values, where)


def _attributes(values: Mapping[str, Any], where: str) -> tuple[Attribute, ...]:
    for name in values:
        if name not in ("templates", "attribute"):
            raise UserError(f"{where}: unknown key {name!r}. {did_you_mean(name, ('templates', 'attribute'))}")
    places, listed = values.get("templates"), values.get("attribute")
    if not isinstance(places, dict) or not places:
        raise UserError(f"{where}: needs a table [templates], a list of texts for each place.")
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{where}: needs [[attribute]] with name, place and groups.")
    templates = {
        place: tuple(_template(text, place, where) for text in _texts(texts, f"{where}: templates.{place}"))
        for place, texts in places.items()
    }
    found = tuple(_attribute(each, number, templates, where) for number, each in enumerate(listed, start=1))
    names = [each.name for each in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{where}: two attributes are called {twice!r}.")
    return found


def _attribute(value: Any, number: int, templates: Mapping[str, tuple[str, ...]], where: str) -> Attribute:
    at = f"{where}: attribute {number}"
    if not isinstance(value, dict) or set(value) != {"name", "place", "groups"}:
        raise UserError(f"{at}: needs name, place and groups, and nothing else.")
    name, place, groups = value["name"], value["place"], value["groups"]
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{at}: its name must be text.")
    if place not in templates:
        raise UserError(f"{at}: there are no templates for the place {place!r}. {did_you_mean(str(place), templates)}")
    if not isinstance(groups, dict) or len(groups) < 2:
        raise UserError(f"{at}: needs two groups at least, each a list of terms.")
    terms = {group: _texts(found, f"{at}: groups.{group}") for group, found in groups.items()}
    owner: dict[str, str] = {}
    for group, found in terms.items():
        for term in found:
            if owner.setdefault(term, group) != group:
                raise UserError(f"{at}: {term!r} is in {owner[term]} and in {group}: a term has one group.")
    return Attribute(name, terms, templates[place])


def _texts(value: Any, at: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise UserError(f"{at}: must be a list of texts that are not blank.")
    if len(set(value)) < len(value):
        raise UserError(f"{at}: has {next(text for text in value if value.count(text) > 1)!r} twice.")
    return tuple(value)


def _template(text: str, place: str, where: str) -> str:
    if _PLACE.findall(text) != [place]:
        raise UserError(f"{where}: templates.{place}: {text!r} must have {{{place}}} once, and no other place.")
    return text

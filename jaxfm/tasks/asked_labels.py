"""Labels that a person names, for models that compare inputs with any texts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxfm.errors import UserError


class Label(NamedTuple):
    """A label: the name that results have, and the text that the encoder reads."""

    name: str
    text: str


def asked_labels(asked: Sequence[str], text_of: Callable[[str], str]) -> tuple[Label, ...]:
    """Returns the labels that a person asks for, each "NAME" or "NAME: TEXT".

    Args:
      asked: as the flag --labels has them.
      text_of: what is read of a name; of "NAME: TEXT" all is read.

    Raises:
      UserError: none, an empty one, or two of one name or one text.
    """
    found: list[Label] = []
    for each in asked:
        name, colon, described = each.partition(":")
        if not name.strip() or (colon and not described.strip()):
            raise UserError(f"--labels: {each!r} is empty. A label is a text, or a name and a text: NAME: TEXT.")
        label = Label(name.strip(), " ".join(each.split()) if colon else text_of(each.strip()))
        for other in found:
            if label.name == other.name or label.text == other.text:
                raise UserError(f"--labels: {other.name!r} and {label.name!r} are the same label. Name each once.")
        found.append(label)
    if not found:
        raise UserError("--labels: is empty. Give one label at least, with commas between several.")
    return tuple(found)

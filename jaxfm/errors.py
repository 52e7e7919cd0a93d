"""The one error that means "the user's mistake": programs print it without a traceback and exit with 2."""

import difflib
import os
import pathlib
import re
import traceback
from collections.abc import Iterable

DISTRIBUTION = "jaxfm-encoders"  # what package indexes call it


_CREDENTIALS = re.compile(r"(?<=://)[^/\s@'\"?#]{1,1000}@")
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
_SECRET = 8  # characters: shorter values are words that any text may have
# Of a message: more than any sentence here needs, and less than a line of data of megabytes would fill.
_START, _END = 2500, 1000


class UserError(ValueError):
    """Bad input, said in full: the key or file:line, the value, the rule and the nearest valid choice.

    The middle of a very long message, which quotes a value from a file, is left out, and so are passwords in URLs.
    """

    def __init__(self, message: str = "") -> None:
        """Takes the message."""
        left_out = len(message) - _START - _END
        if left_out > 0:
            message = f"{message[:_START]} ... ({left_out:,} characters) ... {message[-_END:]}"
        super().__init__(without_secrets(message))


def has_password(text: str) -> bool:
    """Returns whether a text has a URL with a user's name or token in it: https://user:token@host/."""
    return _CREDENTIALS.search(text) is not None


def without_secrets(text: str) -> str:
    """Returns a text without what is before the @ of URLs, and without the values of secrets in the environment."""
    text = _CREDENTIALS.sub("***@", text)
    for name, value in os.environ.items():
        if len(value) >= _SECRET and _SECRET_NAME.search(name) and value in text:
            text = text.replace(value, "***")
    return text


def did_you_mean(value: str, choices: Iterable[str]) -> str:
    """Returns a sentence naming the nearest of `choices`, or all of them when none is near (at most 20)."""
    names = sorted(str(choice) for choice in choices)
    if not names:
        return "There is nothing to choose from."
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]!r}?"
    listed = ", ".join(repr(name) for name in names[:20])
    rest = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"Valid choices: {listed}{rest}."


def where_raised(error: BaseException) -> str:
    """Returns "FILE.py:LINE" of the innermost code that raised an error, the import machinery of Python left out."""
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<frozen")]
    return f"{pathlib.Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def install_hint(extra: str = "") -> str:
    """Returns the command that installs jaxfm, with one of its extras ("hf").

    The name of the distribution stands here alone: the package index has another project called jaxfm.
    """
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"

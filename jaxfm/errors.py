"""The one error that means "the user's mistake": programs print it without a traceback and exit with 2."""

import difflib
import pathlib
import traceback
from collections.abc import Iterable

DISTRIBUTION = "jaxfm-encoders"  # what package indexes call it


class UserError(ValueError):
    """Bad input, said in full: the key or file:line, the value, the rule and the nearest valid choice."""


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

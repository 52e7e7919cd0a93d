"""The words of a command line, in whatever order and form they came, as flags and texts."""

import re
from collections.abc import Callable, Iterable

from jaxfm.errors import UserError

# A letter follows the dash: "-5 degrees" and "- an item" are texts.
_FLAG = re.compile(r"--?([A-Za-z][\w.-]*)(=.*)?", re.DOTALL)
_HELP = re.compile(r"--?(h|help|helpshort|helpfull)")


def split(words: Iterable[str], is_switch: Callable[[str], bool]) -> tuple[list[str], list[str]]:
    """Splits the words after a program's name into flags and texts, which may be mixed.

    Args:
      words: as the shell gives them; all that follows a -- is text.
      is_switch: flag name -> whether it has no value (a boolean); raises UserError for an unknown name.

    Returns:
      The flags, each as --NAME=VALUE or, where `is_switch` says so, --NAME; and the texts. Both in the given order.

    Raises:
      UserError: as `is_switch` does; or a flag that needs a value has none.
    """
    flags: list[str] = []
    texts: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if word == "--":
            texts += waiting
            break
        match = _FLAG.fullmatch(word)
        if match is None:
            texts.append(word)
            continue
        name, value = match[1], match[2]
        if value is None and not is_switch(name):
            following = next(waiting, None)
            if following is None:
                raise UserError(f"--{name}: its value is missing: --{name}=VALUE.")
            if _FLAG.fullmatch(following) or following == "--":
                raise UserError(
                    f"--{name}: its value is missing. If {following!r} is the value, write --{name}={following}."
                )
            value = f"={following}"
        elif value is not None:
            is_switch(name)  # raises for an unknown flag
        flags.append(f"--{name}{value or ''}")
    return flags, texts


def asks_help(words: Iterable[str]) -> bool:
    """Returns whether a word before any -- asks how the program is used."""
    for word in words:
        if word == "--":
            return False
        if _HELP.fullmatch(word):
            return True
    return False


def without_help(words: Iterable[str]) -> list[str]:
    """Returns the words but those that ask how the program is used."""
    return [word for word in words if not _HELP.fullmatch(word)]


def config_first(flags: Iterable[str], texts: Iterable[str]) -> tuple[list[str], list[str]]:
    """Puts --config before the flags that set its keys, where config_flags wants it; a first text may be its value.

    --data=URI is another name of --config.data.source=URI.

    Raises:
      UserError: two configs.
    """
    flags, texts = [_long(flag) for flag in flags], list(texts)
    configs = [flag for flag in flags if flag.startswith("--config=")]
    if not configs and texts:
        configs = [f"--config={texts.pop(0)}"]
    if len(configs) > 1:
        raise UserError(f"{configs[0]} and {configs[1]}: there can be one config only.")
    return [*configs, *(flag for flag in flags if flag not in configs)], texts


def _long(flag: str) -> str:
    return f"--config.data.source={flag.removeprefix('--data=')}" if flag.startswith("--data=") else flag

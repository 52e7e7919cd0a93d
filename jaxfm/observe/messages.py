"""How messages look: "NOTE:" and "WARNING:" at the start of a line have one colour each, on terminals alone."""

import logging
import re
import sys

from rich.console import Console
from rich.text import Text

STYLES = {"NOTE": "bold cyan", "WARNING": "bold yellow"}
_WORD = re.compile(r"^(NOTE|WARNING):", re.MULTILINE)


def styled(text: str) -> Text:
    """Returns a message as it is, its leading word in the colour of its kind; brackets stay brackets."""
    message = Text(text)
    for found in _WORD.finditer(text):
        message.stylize(STYLES[found[1]], *found.span())
    return message


class WarningHandler(logging.Handler):
    """Writes log records to standard error as "WARNING: ..." lines, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record; one that cannot be formatted goes to `handleError`, as in all handlers of logging."""
        try:
            # sys.stderr of now: a bar on the terminal takes its place while it is shown.
            stream = sys.stderr
            text = f"WARNING: {self.format(record)}"
            if stream.isatty():
                Console(file=stream, soft_wrap=True).print(styled(text))
            else:
                stream.write(f"{text}\n")
                stream.flush()
        except Exception:  # as logging.StreamHandler: a log line never ends a program
            self.handleError(record)

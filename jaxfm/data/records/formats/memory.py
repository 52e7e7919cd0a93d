"""`memory:NAME` data that a Python program gives, `jaxfm.train(..., data=...)`; nobody writes it by hand."""

from collections.abc import Mapping

from jaxfm.data.records.in_memory import SCHEME, open_provided
from jaxfm.data.records.table import SetFormat, Tables


def open_memory(rest: str, names: Mapping[str, str], files: str) -> Tables:
    """Returns the splits of the data of that name; UserError where nobody provides them now. See `SetFormat`."""
    del names, files  # a program names its splits itself
    return open_provided(rest)


# Without a form: messages that list what a person may write leave it out.
FORMAT = SetFormat(SCHEME, "", open_memory)

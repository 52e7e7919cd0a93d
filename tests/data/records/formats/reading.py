"""Tables of files, read whole."""

import pytest

from jaxfm.data.records.registry import open_tables
from jaxfm.errors import UserError


def read(kind, rest, fields, split="train", **options):
    return list(open_tables(kind, str(rest), **options).splits[split]().values(fields))


def values(*arguments, **options):
    return [record for _, record in read(*arguments, **options)]


def refused(message, kind, rest, fields=("a",), **options):
    with pytest.raises(UserError, match=message) as caught:
        table = open_tables(kind, str(rest), **options).splits["train"]()
        list(table.values(fields))
    assert "\n" not in str(caught.value)

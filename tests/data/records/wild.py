"""Runs one small file of a published or exported format through a source, for the tests of such files."""

import gzip
import io
import re

import pytest

from jaxfm.data.records.sources import Columns, available_splits, read_tagged
from jaxfm.errors import UserError


def read(folder, source, content, columns=Columns()):  # noqa: B008
    """Returns the sentences of `source` ("conll:train.conll") as "word/TAG ..." and the note of the log."""
    kind, _, name = source.partition(":")
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (split,) = available_splits(f"{kind}:{path}", columns)
    found = read_tagged(f"{kind}:{path}", [split], columns=columns)[split]
    return [" ".join(map("/".join, zip(s.words, s.tags, strict=True))) for s in found.sentences], found.note


def check(folder, source, content, sentences, note="", columns=Columns()):  # noqa: B008
    """Asserts sentences, separated by " | ", and a part of the note; or the pattern of a UserError after "!"."""
    if sentences.startswith("!"):
        with pytest.raises(UserError, match=sentences[1:]) as error:
            read(folder, source, content, columns)
        assert str(folder) in str(error.value)
        return
    found, said = read(folder, source, content, columns)
    assert found == sentences.split(" | ")
    assert re.search(note, said), said


def parquet(columns, features=None):
    """Returns the bytes of a parquet file, with the metadata of `datasets` where features are given."""
    import json

    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out)
    return out.getvalue()

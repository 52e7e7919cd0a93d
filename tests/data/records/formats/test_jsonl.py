"""JSON objects by line, and their places."""

from jaxfm.data.records.registry import open_tables
from tests.data.records.formats.reading import refused


def test_jsonl_fields_may_be_absent(write):
    path = write("train.jsonl", '{"a": 1}\n\n{"b": [1, null], "a": "\\u00e9"}\n{"b": NaN}\n')
    table = open_tables("jsonl", str(path)).splits["train"]()
    assert table.columns == ("a", "b")
    found = list(table.values(("b", "a")))
    assert found[:2] == [(f"{path}:1", (None, 1)), (f"{path}:3", ([1, None], "é"))]
    assert str(found[2]) == f"('{path}:4', (nan, None))"
    refused(r"train\.jsonl:2: not JSON", "jsonl", write("train.jsonl", '{"a": 1}\n{"a"\n'))
    refused(r"train\.jsonl:1: a list, but each record must be one JSON object", "jsonl", write("train.jsonl", "[1]\n"))

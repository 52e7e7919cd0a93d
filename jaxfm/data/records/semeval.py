"""`semeval:` the files of SemEval-2010 task 8 as they were published: a sentence, its relation, perhaps a comment.

    1	"The system has its greatest application in an <e1>configuration</e1> of antenna <e2>elements</e2>."
    Component-Whole(e2,e1)
    Comment: Not a collection: there is structure here.

An empty line ends each example. As published these are TRAIN_FILE.TXT and TEST_FILE_FULL.TXT.
"""

import functools
import pathlib
import re
from collections.abc import Iterator, Sequence

from jaxfm.data.records.source_files import file_names, files_size, find_split_files, numbered_lines
from jaxfm.data.records.table import Row, Table, Tables
from jaxfm.errors import UserError

SCHEME = "semeval"
_COLUMNS = ("id", "sentence", "relation")
_SENTENCE = re.compile(r"([0-9]+)\s+\"(.*)\"\s*")
_COMMENT = "comment"


def open_semeval(rest: str) -> Tables:
    """Returns the splits as tables of id, sentence (with its markers) and relation.

    Raises:
      UserError: no such files, two for one split; when they are read, a line that is neither a sentence nor a relation.
    """
    files, found = find_split_files(rest, SCHEME, (".txt",))
    return Tables({split: functools.partial(_open, path) for split, path in files.items()}, found)


def _open(path: pathlib.Path) -> Table:
    return Table(file_names([path]), _COLUMNS, functools.partial(_read, path), size=files_size([path]))


def _read(path: pathlib.Path, asked: Sequence[str] | None) -> Iterator[Row]:
    number, sentence, first = "", "", 0
    for line_number, line in numbered_lines(path):
        line = line.strip()
        if not line or line.lower().startswith(_COMMENT):
            continue
        match = _SENTENCE.fullmatch(line)
        if match and sentence:
            raise _without_relation(path, first)
        if match:
            (number, sentence), first = match.groups(), line_number
        elif not sentence:
            raise UserError(
                f'{path}:{line_number}: {line[:60]!r} is not a sentence: number, tab, sentence in "quotes"; its '
                "relation is the next line."
            )
        else:
            values = {"id": number, "sentence": sentence, "relation": line}
            yield Row(f"{path}:{first}", {name: values[name] for name in asked or _COLUMNS})
            sentence = ""
    if sentence:
        raise _without_relation(path, first)


def _without_relation(path: pathlib.Path, line: int) -> UserError:
    return UserError(
        f"{path}:{line}: the sentence has no relation in the line after it. The published file with relations is "
        "TEST_FILE_FULL.TXT."
    )

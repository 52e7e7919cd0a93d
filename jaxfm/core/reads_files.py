"""A further role of predictors: records that are files of a medium, which they read themselves."""

import pathlib
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class ReadsFiles(Protocol):
    """What a predictor is beside `Predictor` where a record is a file of another medium, which it reads itself."""

    def input_records(self, path: pathlib.Path, argument: str, column: str) -> list[dict[str, Any]]:
        """Returns the records of a file, a folder or a table of such files.

        `argument` is what messages call it, `column` the table's, "" for one with a usual name. Raises UserError for
        what is none of these.
        """
        ...

    def record_of(self, value: Any, origin: str) -> dict[str, Any]:
        """Returns the record of what a person may give: a path, or what else it reads. Raises UserError."""
        ...

    def example_record(self) -> dict[str, Any]:
        """Returns any record, to compile the program with."""
        ...

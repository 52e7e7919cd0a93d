"""What a task says of models that write texts, or make images, for a record."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from jaxfm.core.task import Predictor


@runtime_checkable
class WritesTexts(Protocol):
    """What a predictor is beside `Predictor` where a text is written for a record, or images are made for its name.

    Some do so only after `with_writing`.
    """

    @property
    def record_fields(self) -> tuple[str, ...]:
        """Fields of a record, beside its text, that `encode` reads: they say how to write."""
        ...

    def with_writing(self, decoding: Mapping[str, str], controls: Mapping[str, str]) -> Predictor:
        """Returns the same that writes otherwise; UserError for an unknown name or a value that it cannot have.

        `decoding` are settings of how tokens are chosen, `controls` fields of records that lack them.
        """
        ...

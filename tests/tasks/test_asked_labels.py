"""Labels that a person names."""

import pytest

from jaxfm.errors import UserError
from jaxfm.tasks.asked_labels import Label, asked_labels


def test_labels_that_a_person_asks_for() -> None:
    assert asked_labels(["Creative work", "group: a  band"], str.lower) == (
        Label("Creative work", "creative work"),
        Label("group", "group: a band"),
    )
    for asked, message in (
        ([], "is empty"),
        (["city", " "], "' ' is empty"),
        (["city", "town:"], "'town:' is empty"),
        (["city", "city: a town"], "'city' and 'city' are the same label"),
        (["Person", "person"], "'Person' and 'person' are the same label"),
    ):
        with pytest.raises(UserError, match=f"--labels: .*{message}"):
            asked_labels(asked, str.lower)

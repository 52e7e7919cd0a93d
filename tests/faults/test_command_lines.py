"""A mistake in the command line of a script of faults is one message, before anything is run."""

import pytest

from jaxfm.errors import UserError
from profiles.faults import damage, disk, kills


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (kills.main, ["--cases=nre"], "--cases: 'nre' is none of ner, masked_lm, classification, embedding, prepare"),
        (kills.main, ["--kills=0"], "--kills=0: must be at least 1"),
        (damage.main, ["--flips=0"], "--flips=0: must be at least 1"),
        (disk.main, ["--faults=full"], "--faults: 'full' is none of full_disk, closed_directory"),
        (disk.main, ["--config.seed=1"], "--config.seed=1: is no flag of this script"),
    ],
)
def test_a_mistake_is_one_message(main: object, words: list[str], message: str) -> None:
    assert callable(main)
    with pytest.raises(UserError, match=f"^{message}"):
        main([*words, "--output=absent.json"])

"""What a killed attempt spent after its last checkpoint."""

import pathlib

import pytest

from jaxfm.observe.spent import SPENT_FILE, SpentTime
from jaxfm.observe.wall_clock import ACTIVITIES


def of(**seconds: float) -> dict[str, float]:
    return dict.fromkeys(ACTIVITIES, 0.0) | {name.replace("_", " "): value for name, value in seconds.items()}


def test_what_is_done_again_is_replayed_and_the_rest_is_what_it_was(tmp_path: pathlib.Path) -> None:
    saved = of(start=1.0, compile=10.0, train=100.0, evaluate=5.0, replayed=7.0)
    SpentTime(tmp_path).write(
        of(start=3.0, compile=14.0, train=130.0, wait_for_data=2.0, evaluate=6.0, checkpoint=1.0, replayed=7.5)
    )
    assert SpentTime(tmp_path).lost_since(saved) == of(start=2.0, compile=4.0, replayed=30.0 + 2.0 + 1.0 + 1.0 + 0.5)
    # Killed before the first checkpoint.
    assert SpentTime(tmp_path).lost_since({})["replayed"] == 130.0 + 2.0 + 6.0 + 1.0 + 7.5
    assert [path.name for path in tmp_path.iterdir()] == [SPENT_FILE]


def test_a_checkpoint_that_is_later_than_the_file_has_lost_nothing(tmp_path: pathlib.Path) -> None:
    SpentTime(tmp_path).write(of(train=90.0))
    assert SpentTime(tmp_path).lost_since(of(train=100.0, compile=1.0)) == of()


@pytest.mark.parametrize(
    "content", [None, "", '{"train": 1', "[1]", '{"train": "a"}', '{"other": 3}', '{"train": null}']
)
def test_a_file_that_says_nothing_is_nothing(tmp_path: pathlib.Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / SPENT_FILE).write_text(content)
    assert SpentTime(tmp_path).lost_since({}) == of()


def test_a_shorter_line_leaves_nothing_of_the_longer_one(tmp_path: pathlib.Path) -> None:
    SpentTime(tmp_path).write(of(train=100_000.123))
    longer = (tmp_path / SPENT_FILE).stat().st_size
    SpentTime(tmp_path).write(of(train=1.0))
    assert (tmp_path / SPENT_FILE).stat().st_size < longer
    with (tmp_path / SPENT_FILE).open("a") as file:
        file.write("123}\n")  # killed in between
    assert SpentTime(tmp_path).lost_since({}) == of(replayed=1.0)


def test_one_process_alone_writes_and_a_full_disk_ends_nothing(tmp_path: pathlib.Path) -> None:
    SpentTime(tmp_path, silent=True).write(of(train=1.0))
    SpentTime(tmp_path / "absent").write(of(train=1.0))
    assert list(tmp_path.iterdir()) == []
    SpentTime(tmp_path).write(of(train=1.0))
    assert SpentTime(tmp_path, silent=True).lost_since({}) == of()

"""Libraries are quiet while a function runs, and everything is as before afterwards."""

import logging
import os
import warnings

import pytest

from jaxfm.observe.quiet import libraries_quieted


def state() -> tuple[object, ...]:
    root = logging.getLogger()
    levels = [logging.getLogger(name).level for name in ("orbax", "transformers", "absl", "jaxfm")]
    return root.level, root.handlers[:], levels, warnings.filters[:], dict(os.environ)


def test_everything_is_put_back_also_after_an_error() -> None:
    before = state()
    with pytest.raises(ZeroDivisionError), libraries_quieted():
        assert logging.getLogger("orbax").level == logging.ERROR
        assert state()[:2] == before[:2] and os.environ == before[4]  # root and environment are the caller's
        _ = 1 / 0
    assert state() == before


def test_a_librarys_lines_are_kept_away_and_jaxfms_own_are_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever an earlier test of this process has left: a program raises these levels for good.
    caplog.set_level(logging.WARNING)
    caplog.set_level(logging.WARNING, logger="orbax")
    caplog.set_level(logging.WARNING, logger="jaxfm")
    monkeypatch.setattr(logging.getLogger("jaxfm"), "propagate", True)
    # One that does not propagate has pytest's handler of its own, beside the root's.
    monkeypatch.setattr(logging.getLogger("jaxfm"), "handlers", [])
    with libraries_quieted():
        logging.getLogger("orbax.checkpoint").warning("chatter")
        logging.getLogger("jaxfm.training").warning("a damaged checkpoint")
        logging.getLogger("mine").warning("the caller's")
    logging.getLogger("orbax.checkpoint").warning("later")
    assert [record.message for record in caplog.records] == ["a damaged checkpoint", "the caller's", "later"]


def test_a_library_that_is_quieter_already_stays_so() -> None:
    logger = logging.getLogger("datasets")
    before, logger.level = logger.level, logging.CRITICAL
    try:
        with libraries_quieted():
            assert logger.level == logging.CRITICAL
        assert logger.level == logging.CRITICAL
    finally:
        logger.setLevel(before)


def test_only_warnings_of_libraries_are_left_out() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with libraries_quieted():
            warnings.warn_explicit("chatter", UserWarning, "orbax.py", 1, module="orbax.checkpoint")
            warnings.warn_explicit("the caller's", UserWarning, "mine.py", 1, module="mine")
    assert [str(each.message) for each in seen] == ["the caller's"]

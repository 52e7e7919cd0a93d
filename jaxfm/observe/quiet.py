"""Keeps other packages' chatter off the screen; their errors still come through as exceptions."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

from absl import logging as absl_logging

from jaxfm.observe.messages import WarningHandler

_LIBRARIES = ("orbax", "transformers", "huggingface_hub", "datasets", "tensorflow_datasets")
# tqdm warns of a notebook without ipywidgets, where jaxfm shows no bar of its making.
_WARN = "(orbax|tensorflow_datasets|transformers|tqdm).*"


def quiet_libraries() -> None:
    """Quiets them for good, and shows jaxfm's own warnings as plain lines: for programs, which own their process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    absl_logging.set_verbosity(absl_logging.ERROR)
    # What jaxfm itself warns of (a damaged checkpoint, say) must not be quieted with them.
    own = logging.getLogger("jaxfm")
    if not own.handlers:
        own.addHandler(WarningHandler())
        own.propagate = False
        own.setLevel(logging.WARNING)  # else the root's level holds, which absl has just raised
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=_WARN)


@contextlib.contextmanager
def libraries_quieted() -> Iterator[None]:
    """Quiets them while the context lasts, and puts everything back: for functions, which are guests in a process.

    The root logger, its handlers and the environment are not touched. A library that the caller has made quieter still
    stays so.
    """
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    loggers.append(absl_logging.get_absl_logger())
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(max(logger.level, logging.ERROR))
    try:
        # Filters are of the whole process. Two threads in here may leave this one in place, which does no harm.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=_WARN)
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

"""What all programs share: flags in, exit codes out.

0 done · 2 the user's mistake, said in one message · 69 another process of the run failed or is gone
(docs/multi_host.md) · 75 stopped by preemption after a good save (launchers start it again) · 130 stopped by Ctrl-C,
after a save where there is something to save · 143 stopped by SIGTERM where there is nothing to save.
"""

import dataclasses
import errno
import io
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from jaxfm import files
from jaxfm.config import DataConfig
from jaxfm.errors import UserError
from jaxfm.observe.messages import WarningHandler
from jaxfm.parallel import distributed
from jaxfm.parallel.compilation import keep_compiled_programs
from jaxfm.parallel.distributed import EXIT_INTERRUPTED, EXIT_USER_MISTAKE
from jaxfm.parallel.host_memory import keep_freed_memory

EXIT_PREEMPTED = 75
_OF_THE_USER = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
)


def quiet_libraries() -> None:
    """Keeps other packages' chatter off the terminal; their errors still come through as exceptions."""
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
    for name in ("orbax", "transformers", "huggingface_hub", "datasets", "tensorflow_datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="(orbax|tensorflow_datasets|transformers).*")


def run(main: Callable[..., None], usage: str, *, takes_arguments: bool = False) -> None:
    """Parses the flags, calls `main` and exits with the code that the module's first lines explain.

    Args:
      main: reads flags by itself; with takes_arguments it is called with the list of the other words.
      usage: how to call the program, shown with a wrong flag.
      takes_arguments: whether words without a dash may follow the flags.
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal of another encoding than UTF-8 is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        argv = _parsed(sys.argv, usage, takes_arguments)
        quiet_libraries()  # after the flags: parsing them sets the verbosity anew
        keep_freed_memory()
        keep_compiled_programs()
        arguments = [argv[1:]] if takes_arguments else []
        with distributed.ProcessGroup():
            app.run(lambda _: _translating(main, *arguments), argv=argv, flags_parser=lambda argv: argv)
    except UserError as error:
        _stop(str(error), EXIT_USER_MISTAKE)
    except KeyboardInterrupt:
        _stop("stopped by Ctrl-C", EXIT_INTERRUPTED)
    except files.Terminated:
        _stop("stopped by SIGTERM; nothing half-written is left", files.EXIT_TERMINATED)
    except BrokenPipeError:  # whoever read the output (head, say) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def _translating(main: Callable[..., None], *arguments: Sequence[str]) -> None:
    """Calls `main`; a disk that is full or may not be written to, or a path that cannot be, is the user's to mend."""
    try:
        main(*arguments)
    except OSError as error:
        if error.errno not in _OF_THE_USER:
            raise
        raise UserError(
            f"{error.filename or 'writing'}: {error.strerror}. What was written before is whole."
        ) from error


def stopped_by_signal(number: int) -> int:
    """Returns the exit code for a run that saved itself on that signal."""
    return EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_PREEMPTED


def _parsed(argv: Sequence[str], usage: str, takes_arguments: bool) -> list[str]:
    """Parses absl flags; everything wrong with them becomes a UserError."""
    for word in argv[1:]:
        if match := re.match(r"--?(?:no)?config\.([\w.]+)", word):
            from jaxfm.tasks import registry  # late: programs without a config start faster

            registry.check_key(match[1])
    try:
        rest = flags.FLAGS(list(argv))
        if getattr(flags.FLAGS, "config", None) is not None:
            flags.FLAGS.config.is_locked  # noqa: B018  (config_flags keeps a missing file's error until it is looked at)
    # config_flags runs the config file and sets its keys while it parses: what it raises is about the user's words.
    except (flags.Error, KeyError, AttributeError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{_config_advice(error, argv) or _reason(error)}\n{usage}") from error
    if rest[1:] and not takes_arguments:
        raise UserError(f"unexpected argument {rest[1]!r} (a flag starts with --).\n{usage}")
    return rest


def _config_advice(error: Exception, argv: Sequence[str]) -> str:
    """Returns what is wrong with a key of a config file, or of the command line, where config_flags says too little."""
    from jaxfm.tasks import registry  # late: programs without a config start faster

    text = str(error)
    if "field 'task'" in text:
        return registry.TASK_IS_A_GROUP
    if not isinstance(error, KeyError | AttributeError) or not (found := re.search(r"'(\w+)\\?'", text)):
        return ""
    for word in argv[1:]:
        if (match := re.match(r"--?(?:no)?config\.(task\.[\w.]+)", word)) and match[1].endswith(f".{found[1]}"):
            return f"config.{match[1]}: is a key of another task than the one of --config."
    return registry.where_moved(found[1])


def _reason(error: Exception) -> str:
    """Returns an error's own words in one line, without what config_flags wraps around them."""
    if isinstance(error, OSError) and error.__cause__ is not None:
        return f"the file of --config cannot be read: {' '.join(str(error.__cause__).split())}"
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if "Traceback (most recent call last)" in text:  # of the config file: its last line says what was wrong
        return text.strip().splitlines()[-1].removeprefix("jaxfm.errors.UserError: ")
    return " ".join(text.split())


def define_config_flag() -> flags.FlagHolder[object]:
    """Defines --config=FILE[:ARG] and --config.KEY=VALUE."""
    return config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/ner.py or configs/ner.py:wnut17.")


def define_column_flags(names: Iterable[str]) -> None:
    """Defines --config.data.NAME for keys of a run's config that name columns of data; `given_columns` reads them."""
    docs = {field.name: field.metadata["doc"] for field in dataclasses.fields(DataConfig)}
    for name in names:
        flags.DEFINE_string(f"config.data.{name}", None, f"{docs[name]}. As the run's config says, if not given.")


def given_columns(names: Iterable[str]) -> dict[str, str]:
    """Returns those of `define_column_flags` that the command line sets."""
    found = {name: flags.FLAGS[f"config.data.{name}"].value for name in names}
    return {name: value for name, value in found.items() if value is not None}


def define_process_flags() -> None:
    """Defines the flags of a program that several processes may run together; `join` reads them."""
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where a run has several processes.")
    flags.DEFINE_integer("num_processes", None, "How many; 1 alone: look for no cluster.")
    flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
    flags.DEFINE_float("start_timeout", distributed.START_SECONDS, "Seconds to wait for the others.", lower_bound=1.0)
    flags.DEFINE_float(
        "heartbeat_timeout",
        distributed.SILENCE_SECONDS,
        "Seconds after which a process that says nothing counts as lost.",
        lower_bound=2.0,
    )


def join() -> None:
    """Joins the other processes of the run, if there are any, as the flags of `define_process_flags` say."""
    values = flags.FLAGS
    distributed.start(
        values.coordinator,
        values.num_processes,
        values.process_id,
        start_timeout=values.start_timeout,
        heartbeat_timeout=values.heartbeat_timeout,
    )
    if not distributed.is_main():
        # What it would warn of, process 0 says as well.
        logging.getLogger("jaxfm").setLevel(logging.ERROR)


def _stop(message: str, code: int) -> None:
    print(f"error: {message}" if code == EXIT_USER_MISTAKE else message, file=sys.stderr)
    sys.exit(code)

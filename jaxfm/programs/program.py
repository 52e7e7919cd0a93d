"""What all programs share: flags in, exit codes out.

0 done · 1 `check` found errors in the data, or `doctor` in the installation · 2 the user's mistake, said in one
message · 3 the gate of `stress` failed, or `drift` says to train again · 4 `drift` says to look · 69 another process of
the run failed or is gone (docs/multi_host.md) · 75 stopped by preemption after a good save (launchers start it again) ·
130 stopped by Ctrl-C, after a save where there is something to save · 143 stopped by SIGTERM where there is nothing to
save.
"""

import contextlib
import contextvars
import dataclasses
import errno
import importlib
import io
import logging
import os
import pathlib
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence

from absl import app, flags
from ml_collections import config_flags

from jaxfm import files
from jaxfm.config import DataConfig
from jaxfm.errors import UserError
from jaxfm.observe.quiet import quiet_libraries
from jaxfm.parallel import distributed
from jaxfm.parallel.compilation import keep_compiled_programs
from jaxfm.parallel.distributed import EXIT_INTERRUPTED, EXIT_USER_MISTAKE
from jaxfm.parallel.host_memory import keep_freed_memory
from jaxfm.parallel.preemption import Preempted
from jaxfm.programs import arguments, plugins, shipped, usage
from jaxfm.programs.keys import explain

EXIT_PREEMPTED = 75
# Flags of a program that several processes run together; see `define_process_flags`.
_OF_PROCESSES = ("coordinator", "num_processes", "process_id", "start_timeout", "heartbeat_timeout")
# Where `definition_of` asks for a program's definition, which is put here in place of running it.
_ASKED: contextvars.ContextVar[list[usage.Definition] | None] = contextvars.ContextVar("asked", default=None)
_OF_THE_USER = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE),
)
_ADVICE = {errno.EMFILE: " Allow more open files: ulimit -n 1024."}
_LEAVE_SECONDS = 10.0


def run(main: Callable[..., None], usage_line: str, *, takes_arguments: bool = False) -> None:
    """Parses the flags, calls `main` and exits with the code that the module's first lines explain.

    Args:
      main: reads flags by itself; with takes_arguments it is called with the list of the other words.
      usage_line: how to call the program as `python -m jaxfm.NAME`, shown with a wrong flag.
      takes_arguments: whether words without a dash may stand beside the flags.
    """
    definition = _definition(main, usage_line, takes_arguments)
    if (asked := _ASKED.get()) is not None:
        asked.append(definition)
        return
    for stream in (sys.stdout, sys.stderr):  # a terminal of another encoding than UTF-8 is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with _ending_in_time():
        _run(main, definition, takes_arguments)


def _run(main: Callable[..., None], definition: usage.Definition, takes_arguments: bool) -> None:
    try:
        if arguments.asks_help(sys.argv[1:]):
            _print_help(definition)
            return
        plugins.load_named(sys.argv)  # before the flags: keys and values of the config may be what they register
        argv = parse(sys.argv, definition)
        files.allow_open_files()
        quiet_libraries()  # after the flags: parsing them sets the verbosity anew
        keep_freed_memory()
        keep_compiled_programs()
        texts = [argv[1:]] if takes_arguments else []
        with distributed.ProcessGroup():
            app.run(lambda _: _translating(main, *texts), argv=argv, flags_parser=lambda argv: argv)
    except UserError as error:
        _stop(str(error), EXIT_USER_MISTAKE)
    except KeyboardInterrupt:
        _stop("stopped by Ctrl-C", EXIT_INTERRUPTED)
    except files.Terminated:
        _stop("stopped by SIGTERM; nothing half-written is left", files.EXIT_TERMINATED)
    except BrokenPipeError:  # whoever read the output (head, say) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


@contextlib.contextmanager
def _ending_in_time() -> Iterator[None]:
    """Ends the process where it fails and a library's threads would keep it from ending.

    Threads of Orbax whose save failed wait for each other for ten minutes, and Python for them.
    """
    before = set(threading.enumerate())
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        started = [each for each in threading.enumerate() if each not in before and not each.daemon] if code else []
        deadline = time.monotonic() + _LEAVE_SECONDS
        while any(thread.is_alive() for thread in started) and time.monotonic() < deadline:
            time.sleep(0.05)  # not by joining them: Orbax' threads raise what they will, there too
        if any(thread.is_alive() for thread in started):
            if not isinstance(error, SystemExit):
                traceback.print_exception(error)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
        raise


def _translating(main: Callable[..., None], *arguments: Sequence[str]) -> None:
    """Calls `main`; a disk that is full or may not be written to, or a path that cannot be, is the user's to mend.

    A run that a signal has stopped, and that has saved itself, ends with the exit code for that signal.
    """
    try:
        main(*arguments)
    except Preempted as stop:
        if distributed.is_main():
            print(f"{stop}. The same command goes on from there.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED if stop.signal_number == signal.SIGINT else EXIT_PREEMPTED)
    except OSError as error:
        if error.errno not in _OF_THE_USER:
            raise
        raise UserError(
            f"{error.filename or 'writing'}: {error.strerror}. What was written before is whole."
            f"{_ADVICE.get(error.errno, '')}"
        ) from error


def definition_of(name: str) -> usage.Definition:
    """Returns the flags of the program of that module of `jaxfm.programs`, which is not run; UserError if it has none.

    The flags of this process are afterwards as before.
    """
    module = importlib.import_module(f"jaxfm.programs.{name}")
    before, asked = set(flags.FLAGS), []  # now: what it imports may have defined flags of other packages
    token = _ASKED.set(asked)
    try:
        module.run()
    finally:
        _ASKED.reset(token)
        for each in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, each)
    return asked[0]


def _definition(main: Callable[..., None], usage_line: str, takes_texts: bool) -> usage.Definition:
    """Returns the flags that jaxfm's modules and the script itself define; those of other packages are left out."""
    module = sys.modules[main.__module__]
    by_module = flags.FLAGS.flags_by_module_dict()
    # A script's own flags are those of the module that absl calls by its path.
    own = [
        flag
        for name, found in by_module.items()
        if name.startswith("jaxfm.") or (main.__module__ == "__main__" and name == sys.argv[0])
        for flag in found
    ]
    return usage.Definition(
        name=main.__module__.rpartition(".")[2].replace("_", "-"),
        usage=usage_line,
        doc=module.__doc__ or "",
        flags=tuple(
            usage.Flag(
                name=flag.name,
                doc=re.sub(r";\s+repeat this option .*", "", flag.help or ""),  # added by absl
                default=str(flag.default_as_str).strip("'") if flag.default not in (None, []) else None,
                switch=bool(flag.boolean),
                shared=flag.name in _OF_PROCESSES,
            )
            for flag in own
        ),
        takes_config="config" in flags.FLAGS,
        takes_texts=takes_texts,
    )


def _print_help(definition: usage.Definition) -> None:
    """Prints how a program is used, with the keys of a config where one is given."""
    configs = shipped.listing() if definition.takes_config else {}
    print(usage.as_called(usage.help_text(definition, configs), sys.argv[0]))
    words = arguments.without_help(sys.argv[1:])
    if definition.takes_config and words:
        from jaxfm.tasks import registry  # late: programs without a config start faster

        parse([sys.argv[0], *words], definition)
        if flags.FLAGS.config is not None:
            print(f"\nkeys of {config_path()}:")
            print("\n".join(explain(registry.from_config_dict(flags.FLAGS.config))))


# What config_flags and Python's own parser of values raise.
_OF_WORDS = (KeyError, AttributeError, TypeError, ValueError, OSError, SyntaxError, RecursionError, OverflowError)


def parse(argv: Sequence[str], definition: usage.Definition) -> list[str]:
    """Parses the flags, in whatever order they are; everything wrong with them becomes a UserError.

    Returns the program's name and the words that are not flags.
    """
    try:
        words = flags.FLAGS.read_flags_from_files(list(argv[1:]), force_gnu=True)
        found, texts = arguments.split(words, lambda name: _is_switch(name, definition))
        if definition.takes_config:
            found, texts = arguments.config_first(found, texts)
            if found and found[0].startswith("--config="):
                found[0] = f"--config={shipped.config_file(found[0].removeprefix('--config='))}"
        if texts and not definition.takes_texts:
            raise UserError(f"unexpected argument {texts[0]!r} (a flag starts with --).")
        ordered = [argv[0], *found, "--", *texts]
        with _as_argv(ordered):  # in which config_flags looks for keys
            rest = flags.FLAGS(ordered)
        if getattr(flags.FLAGS, "config", None) is not None:
            flags.FLAGS.config.is_locked  # noqa: B018  (config_flags keeps a missing file's error until it is looked at)
    except UserError as error:
        raise UserError(f"{_reason(error)}\n{definition.usage}") from error
    # config_flags runs the config file and sets its keys while it parses: what it raises is about the user's words.
    except (*_OF_WORDS, flags.Error) as error:
        raise UserError(f"{_config_advice(error, argv) or _reason(error)}\n{definition.usage}") from error
    return rest


def _is_switch(name: str, definition: usage.Definition) -> bool:
    """Returns whether a flag has no value; UserError for one that the program lacks."""
    values = flags.FLAGS
    if name in values:
        return bool(values[name].boolean)
    if name.startswith("no") and name[2:] in values and values[name[2:]].boolean:
        return True
    if name == "data" and definition.takes_config:
        return False
    if not definition.takes_config:
        raise UserError(usage.unknown_flag(name, definition, ()))
    from jaxfm.tasks import registry  # late: programs without a config start faster

    keys = registry.all_keys()
    found = re.fullmatch(r"(?:no)?config\.([\w.]+)", name)
    if found is None:
        raise UserError(usage.unknown_flag(name, definition, tuple(keys)))
    registry.check_key(found[1])
    return found[1] in keys and keys[found[1]].allowed.startswith("bool")


@contextlib.contextmanager
def _as_argv(words: list[str]) -> Iterator[None]:
    """Sets `sys.argv` in the block."""
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before


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
    """Defines --config=FILE[:ARG], --config.KEY=VALUE and --plugin=FILE.py, whose names a config may have."""
    plugins.define_plugin_flag()
    return config_flags.DEFINE_config_file("config", None, "A name (ner, ner:files) or FILE.py[:variant].")


def config_path() -> str:
    """Returns the path of the config file that --config named, with its variant: "/a/configs/ner.py:files"."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


def say_shipped_config() -> None:
    """Prints which file the config is, where that is one that comes with an installed jaxfm: it is not in sight."""
    path = config_path()
    here = pathlib.Path(path).resolve().is_relative_to(pathlib.Path.cwd())
    if distributed.is_main() and shipped.is_shipped(path) and not here:
        print(f"config: {path}")


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
    message = usage.as_called(message, sys.argv[0])
    print(f"error: {message}" if code == EXIT_USER_MISTAKE else message, file=sys.stderr)
    sys.exit(code)

"""One hostile input given to one reader: what it is, and what came of it."""

import contextlib
import dataclasses
import pathlib
import random
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

from jaxfm.errors import UserError
from profiles.faults.mutations import mutated
from profiles.faults.readers import Reader

SLOW_SECONDS = 5.0
"""Of processor time, for one input of at most a mebibyte."""
STOP_SECONDS = 20.0
LONGEST_MESSAGE = 4000
"""Characters of an error, which is a sentence or two for a person."""
_ROOT = pathlib.Path(__file__).resolve().parents[2]


class TooSlowError(BaseException):
    """A reader is stopped. Not an Exception, which a reader might take for damage of its file."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of an input.

    Attributes:
      kind: "read", "told" or "find".
      signature: of a find, the same for the same fault: the exception and the line it came from.
      detail: of a find, for a person: the last lines of the traceback.
    """

    kind: str
    signature: str = ""
    detail: str = ""


def input_of(reader: Reader, seed: int, number: int) -> bytes:
    """Returns input `number` of a reader: a function of the seed, the reader's name and that number alone."""
    return mutated(random.Random(f"{seed}/{reader.name}/{number}"), reader.seeds(), reader.mutations)


def prepare(reader: Reader, folder: pathlib.Path) -> None:
    """Makes a reader's folder with all that lies beside its file."""
    folder.mkdir(parents=True)
    reader.prepare(folder)
    (folder / reader.file).parent.mkdir(parents=True, exist_ok=True)


def attempt(reader: Reader, folder: pathlib.Path, data: bytes) -> Outcome:
    """Writes an input, reads it and judges what came of it: a value, an error for the user, or a find."""
    (folder / reader.file).write_bytes(data)
    memory, begun = _peak_mebibytes(), time.process_time()
    try:
        with stopped_after(STOP_SECONDS), warnings.catch_warnings():
            warnings.simplefilter("error")
            # Of ml_collections, when it loads a config file.
            warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
            reader.read(folder)
        outcome = Outcome("read")
    except UserError as error:
        outcome = _judged(str(error), reader, folder)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of Rust is one
        outcome = Outcome("find", _signature(error), "".join(traceback.format_exception(error, limit=-6))[-3000:])
    seconds = time.process_time() - begun
    if outcome.kind != "find" and seconds > SLOW_SECONDS:
        return Outcome("find", "slow", f"{seconds:.1f} s of processor time for {len(data):,} bytes")
    grown = _peak_mebibytes() - memory
    if outcome.kind != "find" and grown > reader.mebibytes:
        return Outcome("find", "memory", f"{grown:,.0f} MiB for {len(data):,} bytes")
    return outcome


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raises TooSlowError in the block once it has taken so much processor time."""

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise TooSlowError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def minimized(reader: Reader, folder: pathlib.Path, data: bytes, signature: str, attempts: int = 300) -> bytes:
    """Returns a shorter input with the same fault: pieces are left out as long as it stays."""
    size = max(len(data) // 2, 1)
    while size and attempts:
        at = 0
        while at < len(data) and attempts:
            attempts -= 1
            shorter = data[:at] + data[at + size :]
            if attempt(reader, folder, shorter).signature == signature:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def _judged(message: str, reader: Reader, folder: pathlib.Path) -> Outcome:
    if len(message) > LONGEST_MESSAGE:
        return Outcome("find", f"a message of too many characters: {message[len(str(folder)) :][:40]}", message[:1000])
    if str(folder) in message or any(place in message for place in reader.places):
        return Outcome("told")
    return Outcome("find", f"a message without its place: {message[:40]}", message[:1000])


def _signature(error: BaseException) -> str:
    frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename != __file__]
    own = [frame for frame in frames if pathlib.Path(frame.filename).is_relative_to(_ROOT / "jaxfm")] or frames
    where = f"{pathlib.Path(own[-1].filename).name}:{own[-1].lineno}" if own else "nowhere"
    return f"{type(error).__name__} at {where}"


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def forget_peak() -> Any:
    """Lets the peak of memory begin anew from what is in use, where the system can."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")

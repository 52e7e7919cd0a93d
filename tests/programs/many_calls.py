"""Many calls of one program in one process: importing jax takes longer than most of them."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
_SCRIPT = """
import contextlib, importlib, io, json, runpy, sys
from absl.testing import flagsaver
given = json.load(sys.stdin)
for module in given["imports"]:  # now: what they import may define flags, which are to remain
    importlib.import_module(module)
results = []
for arguments in given["calls"]:
    sys.argv = [f"{given['program']}.py", *arguments]
    output, errors = io.StringIO(), io.StringIO()
    with flagsaver.flagsaver(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            runpy.run_module(f"jaxfm.{given['program']}", run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    results.append((code, output.getvalue(), errors.getvalue()))
json.dump(results, sys.stdout)
"""


def call_many(
    program: str,
    calls: Sequence[Sequence[str]],
    *,
    imports: Sequence[str] = ("jaxfm.programs.program", "jaxfm.tasks.registry", "jaxfm.training.saved_run"),
) -> list[tuple[int | str, str, str]]:
    """Calls `python -m jaxfm.PROGRAM` with each list of arguments; nothing may be said beside what the calls say.

    Returns of each call its exit code (or the error that came out), stdout and stderr.
    """
    given = {"program": program, "calls": calls, "imports": imports}
    done = subprocess.run(
        [sys.executable, "-B", "-c", _SCRIPT],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [tuple(result) for result in json.loads(done.stdout)]

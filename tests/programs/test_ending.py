"""How a program ends that fails while a library's threads wait: at once, with its own code and one message."""

import subprocess
import sys
import textwrap
import time

import pytest

PROGRAM = """
'''A program. It fails.'''
import sys, threading, time
from jaxfm.errors import UserError
from jaxfm.programs import program

program._LEAVE_SECONDS = 0.3

def main():
    for seconds in {threads}:
        threading.Thread(target=time.sleep, args=(seconds,)).start()
    {ending}

program.run(main, "usage: none")
"""


@pytest.mark.parametrize(
    ("threads", "ending", "code", "said"),
    [
        ("(60, 60)", "raise UserError('the disk is gone')", 2, "error: the disk is gone\n"),
        ("(60,)", "sys.exit(75)", 75, ""),
        ("(60,)", "raise ZeroDivisionError", 1, "Traceback"),
        ("(0.1,)", "raise UserError('the disk is gone')", 2, "error: the disk is gone\n"),
        ("(1.5,)", "pass", 0, ""),  # a program that is done waits for what is still written
    ],
)
def test_a_program_ends_whatever_threads_wait(threads: str, ending: str, code: int, said: str) -> None:
    script = textwrap.dedent(PROGRAM).format(threads=threads, ending=ending)
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert done.returncode == code, done.stderr
    assert done.stderr == said if said != "Traceback" else said in done.stderr
    assert time.monotonic() - start < 50

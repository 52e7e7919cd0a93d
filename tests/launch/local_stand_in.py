"""A training that only does what it is told, for test_local.py: python -m tests.launch.local_stand_in FLAGS.

process-N=WHAT says what process N does: ends with that number, "waits" to be stopped, is "deaf" to that, is "killed",
or ends with 75 the first time alone ("75-once"; mark=FILE remembers).
"""

import os
import pathlib
import signal
import sys
import time

words = dict(word.split("=", 1) for word in sys.argv[1:])
number = words["--process_id"]
what = words.get(f"process-{number}", "0")
print(f"process {number} of {words['--num_processes']} with {os.environ['JAX_NUM_CPU_DEVICES']} devices", flush=True)


def stopped(number: int, frame: object) -> None:
    print(f"saved on {signal.Signals(number).name}", flush=True)
    sys.exit(75 if number == signal.SIGTERM else 130)


if what == "75-once":
    mark = pathlib.Path(words["mark"])
    if mark.exists():
        sys.exit(0)
    time.sleep(0.5)  # so that all of them have looked
    mark.touch()
    sys.exit(75)
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(60)
if what == "waits":
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, stopped)
    print("ready", flush=True)
    time.sleep(60)
    sys.exit(3)
if what != "0":
    print(f"process {number} has a mistake", file=sys.stderr, flush=True)
sys.exit(int(what))

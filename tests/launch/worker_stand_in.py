"""A worker that only does what it is told, for test_workers.py: python -m tests.launch.worker_stand_in FLAGS.

Trials are files of --folder=DIR that are made under a lock: workers make --trials=N of them one after the other, as
those of a search do, and end with 0 once all are there. --crash=T,T: whoever makes such a trial for the first time is
killed in it. --mistake ends with 2; --waits waits for a signal.
"""

import os
import pathlib
import signal
import sys
import time

from jaxfm import files
from jaxfm.errors import UserError

words: dict[str, str] = {}
for word in sys.argv[1:]:
    name, _, value = word.lstrip("-").partition("=")
    words[name] = value
folder = pathlib.Path(words["folder"])
devices = os.environ.get("CUDA_VISIBLE_DEVICES", os.environ.get("JAX_NUM_CPU_DEVICES", ""))
(folder / f"worker-{os.getpid()}").write_text(devices)
if "mistake" in words:
    print("error: --space=x: there is no such file.", flush=True)
    sys.exit(2)
if "waits" in words:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(words["waits"])))
    print("ready", flush=True)
    (folder / f"ready-{os.getpid()}").touch()
    time.sleep(60)
crashing = words.get("crash", "").split(",")
while True:
    left = [number for number in range(int(words["trials"])) if not (folder / f"trial-{number}").exists()]
    if not left:
        break
    for number in left:
        try:
            with files.held(folder / f"{number}.lock", f"trial {number}"):
                if (folder / f"trial-{number}").exists():
                    continue
                if str(number) in crashing and not (folder / f"crashed-{number}").exists():
                    (folder / f"crashed-{number}").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(0.05)
                (folder / f"trial-{number}").write_text(str(os.getpid()))
        except UserError:  # another worker's
            continue
    time.sleep(0.02)

"""jaxfm.train with a fault at one update: run by processes.py, which sets FAULT, FAULT_STEP and FAULT_SECONDS.

Without FAULT it is jaxfm.train. At the fault it prints "FAULT at TIME", in seconds since the epoch.
"""

import importlib.metadata
import os
import runpy
import signal
import sys
import time
from typing import Any

MARK = "FAULT at "
SIGNALS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP, "asked to stop": signal.SIGTERM}


def act(fault: str, seconds: float) -> None:
    """Does to this process what the fault says."""
    print(f"{MARK}{time.time()}", flush=True)
    if fault in SIGNALS:
        os.kill(os.getpid(), SIGNALS[fault])
    elif fault == "fails":
        raise ZeroDivisionError("made on purpose")
    elif fault == "slow":
        time.sleep(seconds)


def at_update(step: int, fault: str, seconds: float) -> None:
    """Has the fault come while the batch of an update is put on the devices."""
    from jaxfm.training import session

    plain, done = session.meshes.shard_batch, 0

    def shard_batch(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done == step:
            act(fault, seconds)
        return plain(*arguments)

    session.meshes.shard_batch = shard_batch


def of_another_version(package: str) -> None:
    """Has `package` say that it is another version than the one installed."""
    plain = importlib.metadata.version
    importlib.metadata.version = lambda name: "0.0.1" if name == package else plain(name)


if __name__ == "__main__":
    chosen = os.environ.get("FAULT", "")
    if chosen == "other version":
        of_another_version("optax")
    elif chosen:
        at_update(int(os.environ["FAULT_STEP"]), chosen, float(os.environ["FAULT_SECONDS"]))
    sys.argv[0] = "jaxfm/train.py"
    runpy.run_module("jaxfm.train", run_name="__main__", alter_sys=True)

"""One process of a run that only counts, for test_distributed.py."""

import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxfm.errors import UserError
from jaxfm.parallel import distributed
from jaxfm.parallel.preemption import PreemptionFlag

coordinator, count, process, start_timeout, what, who = sys.argv[1:]
me = process == who

try:
    distributed.start(coordinator, int(count), int(process), start_timeout=float(start_timeout), heartbeat_timeout=3)
except UserError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
distributed.say_when_lost(lambda: "The last checkpoint is of step 7.")
with distributed.ProcessGroup():
    if what == "missing file" and me:
        raise UserError("/data/train.conll: no such file")
    distributed.agree("start", {"config.seed": 5 if what == "differs" and me else 0, "jax": "1"}, soon=True)
    assert distributed.all_processes("all", True) and not distributed.all_processes("one", process == "0")
    assert distributed.min_over_processes("rows", 10 - int(process)) == 11 - int(count)
    mesh = jax.make_mesh((jax.device_count(),), ("data",))
    step = jax.jit(lambda counts: counts + counts.sum(), out_shardings=NamedSharding(mesh, PartitionSpec("data")))
    counts = jax.jit(lambda: jnp.zeros(jax.device_count()), out_shardings=NamedSharding(mesh, PartitionSpec("data")))()
    with PreemptionFlag(distributed.shared_stop()) as flag:
        flag.passed(0)
        for done in range(1, 10**6 if what in ("killed", "stopped", "terminated", "fails") else 4):
            counts = step(counts)
            jax.block_until_ready(counts)
            time.sleep(0.02)
            if me and done == 10 and what == "killed":
                print(f"killed at {time.time()}", flush=True)
                os.kill(os.getpid(), signal.SIGKILL)
            if me and done == 10 and what == "stopped":
                print(f"stopped at {time.time()}", flush=True)
                os.kill(os.getpid(), signal.SIGSTOP)
            if me and done == 10 and what == "fails":
                raise ZeroDivisionError("of its own")
            if me and done == 10 and what == "terminated":
                os.kill(os.getpid(), signal.SIGTERM)
            if flag.passed(done):
                print(f"saved step {done}", flush=True)
                sys.exit(75)
    print(f"done as {'the first' if distributed.is_main() else 'another'}", flush=True)

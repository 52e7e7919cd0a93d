"""Several processes as one run: how they are found, and what each is told when something is wrong."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import pytest
from jax._src import clusters
from jax._src.distributed import global_state

from jaxfm.errors import UserError
from jaxfm.parallel import distributed, rendezvous

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOST = socket.gethostname()


class Ended(NamedTuple):
    """How a process ended: its exit code, all it wrote, and when."""

    code: int
    text: str
    at: float


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run(
    count: int, what: str, *, who: int = 0, only: Sequence[int] | None = None, start_timeout: float = 120
) -> dict[int, Ended]:
    """Runs tests/parallel/member.py as `count` processes, or those of `only`."""
    environment = {**os.environ, "XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "1", "PYTHONWARNINGS": "error"}
    place = (f"127.0.0.1:{free_port()}", str(count))
    started = {
        process: subprocess.Popen(
            [sys.executable, "-m", "tests.parallel.member", *place, str(process), str(start_timeout), what, str(who)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in (range(count) if only is None else only)
    }
    ended: dict[int, Ended] = {}
    deadline = time.monotonic() + 240
    while len(ended) < len(started):
        for process, child in started.items():
            if process not in ended and child.poll() is not None:
                now = time.time()
                ended[process] = Ended(child.returncode, child.communicate()[0], now)
        if what == "stopped" and set(started) - set(ended) == {who}:
            os.kill(started[who].pid, signal.SIGCONT)  # harmless where it has gone on already
        if time.monotonic() > deadline:
            for child in started.values():
                child.kill()
                child.communicate()
            raise AssertionError(f"not ended: {sorted(set(started) - set(ended))}; {ended}")
        time.sleep(0.02)
    return ended


def said(ended: Ended) -> list[str]:
    """The lines of a process without those of gloo, which says on connecting what nobody asked for."""
    return [line for line in ended.text.splitlines() if not line.startswith("[Gloo]")]


def test_processes_come_together_agree_compute_and_part() -> None:
    ended = run(2, "nothing")
    assert [said(ended[process]) for process in (0, 1)] == [["done as the first"], ["done as another"]]
    assert [ended[process].code for process in (0, 1)] == [0, 0]


def test_a_difference_is_named_on_every_process() -> None:
    ended = run(3, "differs", who=2)
    message = (
        f"error: the processes of this run do not agree: config.seed is 5 on process 2 ({HOST}), but 0 on process 0 "
        f"({HOST}), process 1 ({HOST}). Start all of them the same."
    )
    assert [(code, said(ended[process])) for process, (code, *_) in sorted(ended.items())] == [(2, [message])] * 3


@pytest.mark.parametrize("who", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_mistake_of_one_stops_the_others_before_they_agree(who: int) -> None:
    ended = run(2, "missing file", who=who)
    assert {process: (code, said(ended[process])) for process, (code, *_) in ended.items()} == {
        who: (2, ["error: /data/train.conll: no such file"]),
        1 - who: (2, [f"process {who} ({HOST}) stopped the run: /data/train.conll: no such file."]),
    }


def test_a_failure_of_one_has_a_traceback_there_and_one_line_elsewhere() -> None:
    ended = run(2, "fails", who=1)
    assert ended[1].code == 1 and said(ended[1])[0].startswith("Traceback")
    assert said(ended[1])[-1] == "ZeroDivisionError: of its own"
    line = f"process 1 ({HOST}) failed: ZeroDivisionError: of its own. The last checkpoint is of step 7."
    assert (ended[0].code, said(ended[0])[-1]) == (69, line)
    assert len(said(ended[0])) <= 2


def test_sigterm_on_one_stops_all_after_the_same_step() -> None:
    ended = run(2, "terminated", who=1)
    assert {code for code, *_ in ended.values()} == {75}
    lines = {line for process in ended for line in said(ended[process])}
    assert len(lines) == 1 and re.fullmatch(r"saved step \d+", *lines)


def test_a_killed_process_ends_the_others_in_time() -> None:
    ended = run(3, "killed", who=2)
    (line,) = said(ended[2])
    line, killed_at = line.split(" at ")
    assert (ended[2].code, line) == (-9, "killed")
    for process in (0, 1):
        # heartbeat_timeout is 3 s; the rest is for a busy machine.
        assert ended[process].at - float(killed_at) < 30
        message = (
            f"process 2 ({HOST}) has not been heard of for 3 s: it was killed or stopped, or its machine is gone. "
            "The last checkpoint is of step 7."
        )
        # Beside it, from another thread, perhaps that a collective failed.
        assert ended[process].code == 69 and message in said(ended[process])
        assert len(said(ended[process])) <= 2


def test_a_stopped_process_ends_the_others_in_time_and_itself_once_it_is_continued() -> None:
    ended = run(2, "stopped", who=1)
    line = f"process 1 ({HOST}) has not been heard of for 3 s: it was killed or stopped, or its machine is gone."
    assert ended[0].code == 69 and any(text.startswith(line) for text in said(ended[0]))
    (stopped,) = [text for text in said(ended[1]) if text.startswith("stopped at ")]
    assert 1.5 < ended[0].at - float(stopped.split(" at ")[1]) < 30
    # It finds the others gone, and says that this is its own doing.
    own = rf"this process, 1 \({HOST}\), stood still for \d+ s: .* The others end without it after 3 s\. The last"
    assert ended[1].code == 69 and re.match(own, said(ended[1])[-1])


@pytest.mark.slow
def test_a_stopped_coordinator_ends_the_others_in_time() -> None:
    """Its connections stay open, and no call to its store returns."""
    ended = run(3, "stopped", who=0)
    (stopped,) = [text for text in said(ended[0]) if text.startswith("stopped at ")]
    for process in (1, 2):
        assert 1.5 < ended[process].at - float(stopped.split(" at ")[1]) < 30
        line = (
            r"process 0, the coordinator at [\d.:]+, has not answered for 3 s: it was stopped, or its machine hangs\."
        )
        assert ended[process].code == 69 and any(re.match(line, text) for text in said(ended[process]))
    assert ended[0].code == 69 and f"his process, 0 ({HOST}), stood still for " in said(ended[0])[-1]


def test_a_killed_coordinator_ends_the_others_at_once() -> None:
    ended = run(2, "killed", who=0)
    assert ended[0].code == -9 and ended[1].code == 69
    assert ended[1].at - float(said(ended[0])[0].split(" at ")[1]) < 15
    *of_jax, last = said(ended[1])
    assert re.fullmatch(r"process 0, the coordinator at 127.0.0.1:\d+, is gone: .* The last checkpoint is .* 7\.", last)
    # What the coordination service's own C++ says of it cannot be kept from the terminal.
    assert len(of_jax) < 40 and not any("File " in line for line in of_jax)


def test_who_waits_in_vain_says_for_whom_and_gives_up() -> None:
    began = time.time()
    ended = run(4, "nothing", only=(0, 2), start_timeout=6)
    (first,), (other,) = said(ended[0]), said(ended[2])
    address = r"127\.0\.0\.1:\d+"
    assert re.fullmatch(
        rf"error: gave up after 6 s: process 0 \({HOST}\) of 4: 1 of the 3 others have come to {address} "
        r"\(from 127\.0\.0\.1\); 2 have not\.",
        first,
    )
    reachable = rf"process 0 (is|was) reachable \({address}\)"
    assert re.match(rf"error: gave up after 6 s: process 2 \({HOST}\) of 4: {reachable}", other)
    assert {code for code, *_ in ended.values()} == {2}
    assert max(at for *_, at in ended.values()) - began < 60


@pytest.mark.parametrize(
    ("process", "message"),
    [
        (0, r"process 0 .* of 3: no other process has come to 127\.0\.0\.1:\d+; missing: processes 1, 2\."),
        pytest.param(
            2,
            r"process 2 .* of 3: process 0 cannot be reached at 127\.0\.0\.1:\d+ \(Connection refused\)\.",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_lone_process_gives_up(process: int, message: str) -> None:
    ended = run(3, "nothing", only=(process,), start_timeout=2)[process]
    (line,) = said(ended)
    assert ended.code == 2 and re.fullmatch(rf"error: gave up after 2 s: {message}", line)


def test_a_port_in_use_is_a_message_and_no_crash() -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"^process 0 cannot listen on port {port} of this machine: Address"):
            distributed.start(f"127.0.0.1:{port}", 2, 0)
        rendezvous.check_port(f"127.0.0.1:{port}", 1)  # of another machine


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a:1", 2, None), r"^--process_id missing: give all of --coordinator=HOST:PORT, .* or none of them"),
        (("a:1", None, None), r"^--num_processes and --process_id missing"),
        ((None, 4, None), r"^--coordinator and --process_id missing"),
        ((None, 1, 0), r"^--coordinator missing"),
        (("a", 2, 0), r"^--coordinator=a: must be HOST:PORT"),
        (("a:b", 2, 0), r"^--coordinator=a:b: must be HOST:PORT"),
        (("a:70000", 2, 0), r"^--coordinator=a:70000: must be HOST:PORT"),
        (("a:1", 0, 0), r"^--num_processes=0: must be at least 1"),
        (("a:1", 2, 2), r"^--process_id=2: must be from 0 to 1"),
        (("a:1", 2, -1), r"^--process_id=-1: must be from 0 to 1"),
    ],
)
def test_flags_that_do_not_go_together(arguments: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        distributed.start(*arguments)
    assert not jax.distributed.is_initialized()


SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "node[001-004]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
GKE_TPU = {
    "TPU_WORKER_HOSTNAMES": "localhost,tpu-1",
    "TPU_WORKER_ID": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "localhost:8080",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "TPU_", "MEGASCALE_", "JOB_COMPLETION", "JAX_COORD")):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, None),
        (SLURM, ("node001:61440", 4, 3)),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}, None),  # the batch script
        (OPEN_MPI, ("10.96.0.1:62624", 8, 5)),
        (OPEN_MPI | {"JAX_COORDINATOR_PORT": "1234"}, ("10.96.0.1:1234", 8, 5)),
        (KUBERNETES, None),  # an ordinary pod, which may not ask for its job
    ],
)
def test_clusters_are_found_by_their_variables(
    environment: pytest.MonkeyPatch, variables: dict[str, str], found: tuple[str, int, int] | None
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    assert distributed._detected(5) == found


def test_slices_of_tpus_on_gke_are_found(environment: pytest.MonkeyPatch) -> None:
    for name, value in GKE_TPU.items():
        environment.setenv(name, value)
    environment.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
    assert distributed._detected(5) == ("localhost:8482", 4, 3)


def test_tpus_without_a_metadata_server_are_an_ordinary_process(environment: pytest.MonkeyPatch) -> None:
    def not_reached(key: str) -> None:
        raise ConnectionError(key)

    environment.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
    environment.setattr("jax._src.clusters.cloud_tpu_cluster.get_metadata", not_reached)
    assert distributed._detected(5) is None


def test_open_mpi_5_which_hides_its_coordinator_is_no_silent_run_of_singles(environment: pytest.MonkeyPatch) -> None:
    for name, value in OPEN_MPI.items():
        if name != "OMPI_MCA_orte_hnp_uri":
            environment.setenv(name, value)
    with pytest.raises(UserError, match=r"Open MPI.*--process_id=\$OMPI_COMM_WORLD_RANK"):
        distributed.start()
    distributed.start(num_processes=1)  # asked for
    assert distributed.is_main() and distributed.shared_stop() is None


def test_a_cluster_that_does_not_answer_is_a_message(environment: pytest.MonkeyPatch) -> None:
    for name, value in (SLURM | {"SLURM_NTASKS": "four"}).items():
        environment.setenv(name, value)
    with pytest.raises(UserError, match=r"part of a cluster \(slurm\).*invalid literal.*--num_processes=1"):
        distributed.start()


def test_a_single_process_agrees_with_itself() -> None:
    distributed.agree("start", {"x": 1})
    assert distributed.all_processes("x", True) and not distributed.all_processes("x", False)
    assert distributed.min_over_processes("x", 3) == 3
    distributed.tell_status(lambda: "alone")
    assert distributed.process_name() == distributed.statuses_of_others() == ""
    with distributed.ProcessGroup():
        pass


def test_what_others_do_is_asked_in_vain_of_a_process_0_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked:
        def __init__(self, statuses: Callable[[], dict[int, str]]) -> None:
            self.statuses, self.hosts = statuses, lambda: {0: "a", 1: "b"}

    answers = threading.Event()
    run = types.SimpleNamespace(process=1, host="b", watch=Asked(lambda: {0: "an evaluation", 1: "a step"}))
    monkeypatch.setattr(distributed, "_run", run)
    monkeypatch.setattr(distributed, "_ANSWER_SECONDS", 0.05)
    assert distributed.process_name() == "process 1 (b)"
    assert distributed.statuses_of_others() == "process 0 (a): an evaluation"
    run.watch = Asked(lambda: {0: str(answers.wait(20))})
    assert distributed.statuses_of_others() == "process 0, which knows of them, does not answer"
    answers.set()


def test_what_is_used_of_jax_without_a_public_name_is_still_there() -> None:
    assert {"client", "initialize"} <= set(dir(global_state))
    client = jax._src.distributed._jax.DistributedRuntimeClient
    assert {"key_value_set", "key_value_dir_get", "blocking_key_value_get"} <= set(dir(client))
    kinds = clusters.ClusterEnv._cluster_types
    assert {kind.name for kind in kinds} >= {"ompi", "slurm", "gketpu", "gcetpu"} and clusters.K8sCluster in kinds
    for name in ("is_env_present", "get_coordinator_address", "get_process_count", "get_process_id"):
        assert all(hasattr(kind, name) for kind in kinds)
    assert jax.config.jax_enable_preemption_service in (True, False)

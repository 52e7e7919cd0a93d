"""Metrics for a tracker of experiments (W&B, MLflow, trackio), beside metrics.jsonl, which always has all of them.

A run that goes on is the same run there: WORKDIR/tracker.json keeps what the tracker calls it. A tracker that fails
(a network that is down) never stops training: a warning says so once, and nothing more is sent.
"""

import contextlib
import importlib.util
import io
import logging
import math
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from jaxfm import files
from jaxfm.errors import UserError, install_hint

TRACKER_FILE = "tracker.json"
WANDB, MLFLOW, TRACKIO = TRACKERS = ("wandb", "mlflow", "trackio")
_log = logging.getLogger(__name__)


class _Sender(Protocol):
    """A run of a tracker."""

    def send(self, step: int, numbers: Mapping[str, float]) -> None:
        """Sends numbers of a step."""
        ...

    def end(self, failed: bool) -> None:
        """Says that the process ends; the run may go on in another one."""
        ...


def check_tracker(kind: str) -> None:
    """Raises UserError where the package of a tracker is absent; "" is none."""
    if kind and importlib.util.find_spec(kind) is None:
        raise UserError(f"config.log.tracker={kind}: the package {kind} is not installed: {install_hint('trackers')}.")


class Tracker:
    """A run of a tracker, as `MetricsWriter` uses it."""

    def __init__(
        self, kind: str, project: str, workdir: pathlib.Path, config: Mapping[str, Any], *, resume_step: int | None
    ):
        """Opens the run of a run directory, or goes on with it.

        Args:
          kind: one of `TRACKERS`.
          project: what the tracker files it under.
          workdir: whose name the run has there.
          config: dotted key -> value.
          resume_step: steps done before; None: this is a new run, also where the directory had one before.
        """
        self._kind, self._path = kind, workdir / TRACKER_FILE
        known = files.read_object(self._path) if resume_step is not None and self._path.exists() else {}
        same = known.get("kind") == kind and known.get("project") == project
        self._sent = int(known["step"]) if same else -1  # what was sent before is not sent twice: it would be equal
        self._sender: _Sender | None = None
        try:
            opened = _OPEN[kind](project, workdir, dict(config), str(known["id"]) if same else "")
        except Exception as error:
            self._give_up("cannot be opened", error)
            return
        self._sender, self._id, self._project, self._step = opened[0], opened[1], project, self._sent
        self._keep()

    def write(self, step: int, split: str, numbers: Mapping[str, Any]) -> None:
        """Sends finite numbers as "SPLIT/NAME"."""
        if self._sender is None or step <= self._sent:
            return
        finite = {f"{split}/{name}": float(number) for name, number in numbers.items() if math.isfinite(number)}
        self._try("a metric cannot be sent", lambda sender: sender.send(step, finite))
        self._step = max(self._step, step)

    def flush(self) -> None:
        """Remembers what was sent."""
        if self._sender is not None:
            self._keep()

    def close(self, failed: bool = False) -> None:
        """Ends the process' part; a second call does nothing."""
        self.flush()
        self._try("the run cannot be ended", lambda sender: sender.end(failed))
        self._sender = None

    def _keep(self) -> None:
        values = {"kind": self._kind, "project": self._project, "id": self._id, "step": self._step}
        files.write_json(self._path, values)

    def _try(self, what: str, act: Callable[[_Sender], None]) -> None:
        if self._sender is not None:
            try:
                act(self._sender)
            except Exception as error:
                self._give_up(what, error)

    def _give_up(self, what: str, error: Exception) -> None:
        self._sender = None
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        _log.warning("%s: %s (%s); the run goes on without it, metrics.jsonl has everything", self._kind, what, reason)


# --- each tracker: (project, run directory, config, id of the run to go on with, or "") -> the run and its id ---


def _open_wandb(project: str, workdir: pathlib.Path, config: dict[str, Any], known: str) -> tuple[_Sender, str]:
    import wandb  # pyright: ignore[reportMissingImports]

    name = known or secrets.token_hex(4)
    run = wandb.init(
        project=project,
        id=name,
        name=workdir.name,
        dir=str(workdir),
        config=config,
        resume="allow",
        settings=wandb.Settings(console="off", silent=True),
    )

    class Sender:
        def send(self, step: int, numbers: Mapping[str, float]) -> None:
            run.log(dict(numbers), step=step)

        def end(self, failed: bool) -> None:
            run.finish(exit_code=int(failed))

    return Sender(), name


def _open_mlflow(project: str, workdir: pathlib.Path, config: dict[str, Any], known: str) -> tuple[_Sender, str]:
    from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    client = MlflowClient()
    if known:
        name = known
        client.update_run(name, status="RUNNING")
    else:
        experiment = client.get_experiment_by_name(project)
        identity = client.create_experiment(project) if experiment is None else experiment.experiment_id
        name = client.create_run(identity, run_name=workdir.name).info.run_id
        params = [Param(key, str(value)[:6000]) for key, value in config.items()]
        for first in range(0, len(params), 100):  # as many as a request may have
            client.log_batch(name, params=params[first : first + 100])

    class Sender:
        def send(self, step: int, numbers: Mapping[str, float]) -> None:
            now = int(1000 * time.time())
            # It takes no @, as in ndcg@10.
            client.log_batch(name, [Metric(key.replace("@", "_at_"), each, now, step) for key, each in numbers.items()])

        def end(self, failed: bool) -> None:
            client.set_terminated(name, "FAILED" if failed else "FINISHED")

    return Sender(), name


def _open_trackio(project: str, workdir: pathlib.Path, config: dict[str, Any], known: str) -> tuple[_Sender, str]:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import trackio  # pyright: ignore[reportMissingImports]

    name = known or f"{workdir.name}-{secrets.token_hex(2)}"
    with contextlib.redirect_stdout(io.StringIO()):  # where its dashboard is, in eight lines
        run = trackio.init(project=project, name=name, config=config, resume="allow", embed=False)

    class Sender:
        def send(self, step: int, numbers: Mapping[str, float]) -> None:
            run.log(dict(numbers), step=step)

        def end(self, failed: bool) -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                run.finish()

    return Sender(), name


_OPEN: Mapping[str, Callable[[str, pathlib.Path, dict[str, Any], str], tuple[_Sender, str]]] = {
    WANDB: _open_wandb,
    MLFLOW: _open_mlflow,
    TRACKIO: _open_trackio,
}

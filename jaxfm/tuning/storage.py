"""Where the trials of a search are kept: a study of Optuna in a database or a journal file.

Any worker may write; who works on a trial is decided by the lock of its run directory, never here. Whatever a killed
worker left half-done is done again by the next one, with the same result.
"""

import contextlib
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxfm.errors import UserError, without_secrets
from jaxfm.tuning.optuna_sampling import Drawn, directions, distributions, import_optuna, quiet
from jaxfm.tuning.space import Dimension
from jaxfm.tuning.trials import Generation, State, Trial

JOURNAL = "journal:"
_SQLITE_SECONDS = 60.0


class Store:
    """The trials of one search."""

    def __init__(self, url: str, space: Sequence[Dimension], more_is_better: Sequence[bool]) -> None:
        """Opens a storage; `enter` names the search in it.

        Args:
          url: of a database as SQLAlchemy names it (sqlite:///FILE, postgresql://HOST/NAME), or journal:FILE.
          space: that is searched.
          more_is_better: of each objective.

        Raises:
          UserError: the storage cannot be reached, or is not one that Optuna knows.
        """
        self._optuna, self._url = import_optuna(), url
        self._distributions = distributions(space)
        self._states = self._optuna.trial.TrialState
        kinds = self._optuna.study.StudyDirection
        self._directions = [kinds[name.upper()] for name in directions(more_is_better)]
        with quiet(), self._explained():
            self._storage = self._open(url)
        self._study = -1
        self._ids: dict[int, int] = {}

    def enter(self, study: str) -> None:
        """Opens the study of that name, which is made where there is none yet."""
        with quiet(), self._explained():
            try:
                self._study = self._storage.create_new_study(self._directions, study)
            except self._optuna.exceptions.DuplicatedStudyError:  # made before, or by another worker
                self._study = self._storage.get_study_id_from_name(study)

    def close(self) -> None:
        """Lets go of connections."""
        backend = getattr(self._storage, "_backend", None)
        engine = getattr(backend, "engine", None)
        if engine is not None:
            self._storage.remove_session()
            engine.dispose()

    def trials(self) -> dict[int, Trial]:
        """Returns all trials by number."""
        with quiet(), self._explained():
            found = self._storage.get_all_trials(self._study, deepcopy=False)
        self._ids = {each.number: each._trial_id for each in found}
        return {each.number: self._read(each) for each in found}

    def take(self, number: int) -> Trial:
        """Makes the trial of that number where there is none yet, says that it runs, and returns it.

        To be called by whoever holds the lock of its run directory.
        """
        trials = self.trials()
        while number not in trials:  # several workers may do so at once: they make some later ones, too
            with quiet(), self._explained():
                waiting = self._optuna.trial.create_trial(state=self._states.WAITING)
                self._storage.create_new_trial(self._study, template_trial=waiting)
            trials = self.trials()
        if not trials[number].is_over:
            self._set_state(number, self._states.RUNNING)
        return self.trials()[number]

    def set_params(self, number: int, drawn: Drawn) -> None:
        """Keeps the values of a trial, and what later trials need of them first: a trial with all values has both."""
        with quiet(), self._explained():
            for name, value in drawn.attributes.items():
                self._storage.set_trial_system_attr(self._ids[number], name, value)
            for key, value in drawn.params.items():
                kind = self._distributions[key]
                self._storage.set_trial_param(self._ids[number], key, kind.to_internal_repr(value), kind)

    def note(self, number: int, curve: Sequence[tuple[int, float]], facts: Mapping[str, Any]) -> None:
        """Keeps the scores of a trial so far, and facts: its "total_steps", "seconds", "rung_scores", "error",
        "generations", "costs".
        """
        with quiet(), self._explained():
            for step, score in curve:
                self._storage.set_trial_intermediate_value(self._ids[number], step, score)
            for name, value in facts.items():
                self._storage.set_trial_user_attr(self._ids[number], name, value)

    def wait(self, number: int) -> None:
        """Says that a trial stands at a rung."""
        self._set_state(number, self._states.WAITING)

    def stop(self, number: int) -> None:
        """Says that a trial was stopped for good."""
        self._set_state(number, self._states.PRUNED)

    def fail(self, number: int) -> None:
        """Says that a trial failed."""
        self._set_state(number, self._states.FAIL)

    def finish(self, number: int, values: Sequence[float]) -> None:
        """Keeps the objectives of a finished trial."""
        self._set_state(number, self._states.COMPLETE, list(values))

    def _set_state(self, number: int, state: Any, values: list[float] | None = None) -> None:
        with quiet(), self._explained():
            self._storage.set_trial_state_values(self._ids[number], state, values)

    def _read(self, found: Any) -> Trial:
        states: dict[Any, State] = {
            self._states.WAITING: "waiting",
            self._states.RUNNING: "running",
            self._states.PRUNED: "stopped",
            self._states.FAIL: "failed",
            self._states.COMPLETE: "finished",
        }
        facts = found.user_attrs
        is_whole = set(found.params) == set(self._distributions)
        return Trial(
            number=found.number,
            state=states[found.state],
            params={key: found.params[key] for key in self._distributions} if is_whole else {},
            curve=tuple(sorted(found.intermediate_values.items())),
            total_steps=int(facts.get("total_steps", 0)),
            rung_scores=tuple(math.nan if score is None else score for score in facts.get("rung_scores", ())),
            values=tuple(found.values or ()) if found.state == self._states.COMPLETE else (),
            seconds=float(facts.get("seconds", 0.0)),
            error=str(facts.get("error", "")),
            attributes=dict(found.system_attrs),
            generations=tuple(Generation(**each) for each in facts.get("generations", ())),
            costs=dict(facts.get("costs", {})),
        )

    def _open(self, url: str) -> Any:
        storages = self._optuna.storages
        if not url.startswith(JOURNAL):
            if url.startswith("sqlite"):  # other workers may be writing
                options: dict[str, Any] = {"connect_args": {"timeout": _SQLITE_SECONDS}}
            else:  # between two trials hours may pass, in which a server lets go of idle connections
                options = {"pool_pre_ping": True}
            return storages.get_storage(storages.RDBStorage(url, engine_kwargs=options))
        path = pathlib.Path(url.removeprefix(JOURNAL))
        path.parent.mkdir(parents=True, exist_ok=True)
        return storages.JournalStorage(storages.journal.JournalFileBackend(str(path)))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Makes what goes wrong with a storage one message that names it."""
        try:
            yield
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            self._refuse(error)
        except Exception as error:
            if not type(error).__module__.startswith(("sqlalchemy", "optuna")):
                raise
            self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--storage={without_secrets(self._url)}: cannot be used ({type(error).__name__}: {first}). It is "
            f"sqlite:///FILE, postgresql://HOST/NAME or another URL of SQLAlchemy, or {JOURNAL}FILE. Trials that have "
            "begun go on with the same command once it can be reached."
        ) from error

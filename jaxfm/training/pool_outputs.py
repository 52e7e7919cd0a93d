"""What a run, or an ensemble of several, says of unlabelled records: probabilities, features and results."""

# U units (words of a record, or 1), C classes, D features

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.task import GivesProbabilities, Predictor
from jaxfm.errors import UserError
from jaxfm.parallel.mesh import make_mesh
from jaxfm.training.ensemble import Ensemble, make_ensemble, open_members
from jaxfm.training.evaluation import Evaluator, bucket
from jaxfm.training.saved_run import SavedRun
from jaxfm.training.session import compute_dtype


@dataclasses.dataclass(frozen=True, eq=False)
class Seen:
    """A record as a model sees it.

    Attributes:
      probabilities: f64 [U, C], calibrated; of an ensemble the mean.
      members: the same of each member of an ensemble, f64 [M, U, C]; None for one run.
      logit_probabilities: f64 [U, C], not calibrated; None where features were not asked for.
      features: what the last layer reads, f32 [U, D]; None where they were not asked for.
      result: of the predictor.
    """

    probabilities: np.ndarray
    members: np.ndarray | None
    logit_probabilities: np.ndarray | None
    features: np.ndarray | None
    result: Mapping[str, Any]


class PoolModel:
    """A run, or a folder of several as an ensemble, over any records.

    Attributes:
      runs: one, or the members of an ensemble.
      predictor: what reads records and decodes outputs.
      gives: the same as what gives probabilities.
    """

    def __init__(self, workdir: pathlib.Path):
        """Restores the chosen checkpoints; UserError where there is none, and for a task without probabilities."""
        runs = open_members(workdir)
        run, several = runs[0], len(runs) > 1
        self.workdir, self.runs = workdir, runs
        self._ensemble: Ensemble | None = make_ensemble(workdir, runs) if several else None
        predictor: Predictor = run.predictor() if self._ensemble is None else self._ensemble.predictor
        name = run.config.task.name
        if not isinstance(predictor, GivesProbabilities):
            raise UserError(
                f"--workdir={workdir}: is a run of the task {name}, whose records have no probabilities of classes "
                "(core.task.GivesProbabilities); ner and classification have them."
            )
        if not predictor.probability:
            raise UserError(
                f"--workdir={workdir}: its model gives numbers (config.task.kind), which have no probabilities."
            )
        self.predictor, self.gives = predictor, predictor
        self._mesh = make_mesh(MeshConfig())
        build = Build(compute_dtype(run.config.train.precision))
        self._restored = tuple(each.restore(self._mesh, build) for each in self.runs)
        self._evaluators: dict[tuple[int, bool], Evaluator] = {}

    @property
    def run(self) -> SavedRun:
        """The run, or the first one of an ensemble."""
        return self.runs[0]

    @property
    def is_ensemble(self) -> bool:
        """Whether it is made of several runs."""
        return self._ensemble is not None

    @property
    def step(self) -> int:
        """Of the checkpoint of the run, or the first one of an ensemble."""
        return self._restored[0].step

    def fingerprint(self) -> str:
        """Returns a hash of all that results depend on."""
        return "-".join(run.fingerprint(each) for run, each in zip(self.runs, self._restored, strict=True))

    def see(self, records: Iterable[Mapping[str, Any]], *, features: bool = False) -> Iterator[Seen]:
        """Yields what it sees in each record, in order, as many at a time as the task says.

        `features` are those of one model: an ensemble has none.
        """
        assert not (features and self.is_ensemble)
        iterator = iter(records)
        while chunk := list(itertools.islice(iterator, self.predictor.records_at_once)):
            encoded = self.predictor.encode(chunk)
            outputs = [self._outputs(each.params, encoded.rows, features) for each in self._restored]
            yield from self._seen(encoded, outputs, features)

    def _seen(self, encoded: Any, outputs: Sequence[Mapping[str, np.ndarray]], features: bool) -> Iterator[Seen]:
        gives, together, members = self.gives, outputs[0], None
        if self._ensemble is not None:
            together = self._ensemble.mean_outputs(outputs)
            of_members = [gives.unit_probabilities(encoded, each) for each in self._ensemble.calibrated(outputs)]
            members = [np.stack(each) for each in zip(*of_members, strict=True)]
        found = gives.unit_probabilities(encoded, together)
        results = self.predictor.decode(encoded, together)
        raw = gives.unit_probabilities(encoded, together, calibrated=False) if features else None
        vectors = gives.unit_features(encoded, together) if features else None
        for number, (probabilities, result) in enumerate(zip(found, results, strict=True)):
            yield Seen(
                probabilities,
                None if members is None else members[number],
                None if raw is None else raw[number],
                None if vectors is None else vectors[number],
                result,
            )

    def _outputs(self, params: Any, rows: Any, features: bool) -> Mapping[str, np.ndarray]:
        size = bucket(self.run.config.eval.batch_size, len(rows), self._mesh)
        if (size, features) not in self._evaluators:
            function = self.gives.features if features else self.predictor.outputs
            self._evaluators[size, features] = Evaluator(function, self._restored[0].graphdef, self._mesh, size)
        return self._evaluators[size, features](params, rows)

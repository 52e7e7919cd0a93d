"""A loaded model whose examples leave early: by which threshold, and how many layers they took."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from jax.sharding import Mesh

from jaxfm.core.batch import Units
from jaxfm.errors import UserError
from jaxfm.evaluation.exits import read_rule
from jaxfm.training.early_exit import EarlyExit, Layers
from jaxfm.training.exit_scores import heads_of, places_of
from jaxfm.training.saved_run import Restored, SavedRun

NEVER = "never"


class ModelExits:
    """Computes encoded inputs by as few layers as each needs.

    Attributes:
      layers: that inputs have taken so far.
    """

    def __init__(self, engine: EarlyExit, params: Any, layers: int):
        """Begins with no input."""
        self._engine, self._params = engine, params
        self.layers = Layers(of=layers)

    def outputs(self, encoded: Any) -> tuple[dict[str, Any], Units]:
        """Returns what `decode` needs of a predictor's encoded inputs, and the tokens of their rows."""
        places = places_of(encoded.rows, encoded)
        found = self._engine(self._params, encoded.rows, places.read)
        self.layers += Layers(len(found.left), int(found.left.sum()), self.layers.of)
        return found.outputs, found.units

    def warm(self, rows: int) -> Iterator[str]:
        """Compiles the programs for up to `rows` rows; yields what is done next."""
        for size, length in self._engine.shapes(rows):
            yield f"compiling for {size} x {length} tokens"
            self._engine.compile(self._params, size, length)


def open_exits(
    runs: Sequence[SavedRun], restored: Restored, mesh: Mesh, batch_size: int, exit: float | str | None
) -> tuple[ModelExits | None, str]:
    """Returns what lets inputs leave early, None where none does, and a sentence that says so; "": no early heads.

    Args:
      runs: that the model is made of.
      restored: weights of the first.
      mesh: of the devices.
      batch_size: rows that are computed together.
      exit: confidence from which an input leaves; `NEVER`; None: as the run's exits.json says.

    Raises:
      UserError: a number that is no confidence, or one for a model whose inputs cannot leave early.
    """
    run = runs[0]
    heads = heads_of(run.spec)
    if exit is not None and exit != NEVER:
        if not heads:
            raise UserError(
                f"--exit={exit}: the model of {run.workdir} has no early heads: leave out the flag, or train one with "
                "config.exits.every (docs/early_exit.md)."
            )
        if len(runs) > 1:
            raise UserError(f"--exit={exit}: an ensemble of {len(runs)} runs is computed by all layers. Name one run.")
        if isinstance(exit, str) or not 0 <= exit <= 1:
            raise UserError(f"--exit={exit}: must be a confidence from 0 (all leave at the first head) to 1.")
    if not heads or exit == NEVER:
        return None, ""
    if len(runs) > 1:
        return None, f"no input leaves early: an ensemble of {len(runs)} runs is computed by all layers"
    rule = read_rule(run.workdir, heads)
    if exit is not None:
        rule = dataclasses.replace(rule, threshold=float(exit), why="")
    if rule.threshold is None:
        return None, f"no input leaves early: {rule.why}"
    engine = EarlyExit(run.spec, restored.graphdef, mesh, batch_size, rule)
    return ModelExits(engine, restored.params, heads[-1]), f"inputs leave early from a confidence of {rule.threshold:g}"

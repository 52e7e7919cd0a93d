"""The state that training for rounded weights starts from: first weights, and ranges of inputs measured with them."""

import functools
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm.core.batch import Dataset
from jaxfm.core.encoder_config import STATIC, TRAINED
from jaxfm.core.initial import HostArray
from jaxfm.data.pipeline import eval_batches
from jaxfm.models.adapters import LOG2_RANGE
from jaxfm.parallel.mesh import host_rows
from jaxfm.training.evaluation import whole_batches
from jaxfm.training.input_ranges import input_ranges
from jaxfm.training.range_choice import MINMAX
from jaxfm.training.session import Session
from jaxfm.training.state import TrainState

# Training rows whose inputs are measured; the ranges are learned from there on.
_ROWS = 64


def start_state(
    session: Session, rows: Dataset, batch_size: int, seed: int, loaded: Mapping[str, HostArray]
) -> TrainState:
    """Returns the state of step 0: a function of rows, seed and loaded weights alone, also with measured ranges.

    Args:
      session: of the run.
      rows: that are trained on.
      batch_size: rows computed at once.
      seed: of the run.
      loaded: path -> the first weights that come from elsewhere.
    """
    spec, mesh = session.objective.spec, session.mesh
    quantisation = spec.encoder.quantisation
    if quantisation.form != TRAINED or quantisation.inputs != STATIC:
        return session.initial_state(seed, loaded)
    size = whole_batches(batch_size, min(len(rows), _ROWS), mesh)

    def batches() -> Any:
        of_host = functools.partial(host_rows, mesh)
        return itertools.islice(eval_batches(rows, size, of_host), max(_ROWS // size, 1))

    params = session.initial_state(seed, loaded).params
    ranges = input_ranges(spec, params, batches, mesh, quantisation.maps, MINMAX)
    del params
    # Some optimizers keep what they were made with, so the state is made anew.
    measured = {f"{path}/{LOG2_RANGE}": np.log2(range_L).astype(np.float32) for path, range_L in ranges.items()}
    return session.initial_state(seed, {**loaded, **measured})

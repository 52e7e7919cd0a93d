"""Weights in 8 bits for onnxruntime, and what they cost in scores."""

import dataclasses
import logging
import pathlib
import tempfile
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxfm.core.batch import Dataset
from jaxfm.core.task import Task
from jaxfm.data.pipeline import eval_batches
from jaxfm.formats.onnx_files import write_onnx
from jaxfm.formats.single_rows import Run, StandIn
from jaxfm.models.heads import MaskedLM

INT8 = "int8"
# What is quantised, the smallest file first: the first that keeps the score is taken. The inputs of products that
# narrow (the second of a feed-forward part) have outliers, and one scale: left in f32 logits err by a quarter less.
ALL, WIDENING = "all weights", "all weights but those of narrowing products"
EXTENTS = (ALL, WIDENING)
# Operators whose weights are quantised: products, and the tables of embeddings, which are much of a small model.
_OPERATORS = ("MatMul", "Gather")


@dataclasses.dataclass(frozen=True)
class Gate:
    """The metric of a quantised file beside that of the file it was made of.

    Attributes:
      split: that was scored.
      metric: that chose the run's checkpoint.
      greater_is_better: its direction.
      before: its value by the f32 file.
      after: by the quantised file.
      max_loss: most that may be lost, in the metric's own units.
      extent: what is quantised: of `EXTENTS`, or how inputs are.
      form: of the integers.
    """

    split: str
    metric: str
    greater_is_better: bool
    before: float
    after: float
    max_loss: float
    extent: str
    form: str = INT8

    @property
    def lost(self) -> float:
        """What the quantised file is worse by; negative where it is better."""
        return self.before - self.after if self.greater_is_better else self.after - self.before

    @property
    def passes(self) -> bool:
        """Whether no more is lost than may be; a value that is not a number never passes."""
        return self.lost <= self.max_loss

    def __str__(self) -> str:
        word = "loses" if self.lost >= 0 else "gains"
        return (
            f"{self.form}, {self.extent}: {self.metric} on {self.split} is {self.after:.4f}, and {self.before:.4f} in "
            f"f32: {word} {abs(self.lost):.4f}, at most {self.max_loss:g} may be lost"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values."""
        return dataclasses.asdict(self) | {"lost": self.lost}


def quantise(source: pathlib.Path, target: pathlib.Path, extent: str) -> None:
    """Writes `target`, the ONNX file `source` with weights in 8 bits and activations quantised as they come.

    Weights have a scale a column ("per channel"), which errs less than half as much as one scale a matrix, and 7 of the
    8 bits, 7 % more error: on x86 CPUs without VNNI two products of 8 bits are added in 16 bits and cut, so that a file
    with all 8 bits would score less there than it did here (docs/exporting.md has the measurements).

    Args:
      source: weights in f32; large ones beside it (`onnx_files.write_onnx`).
      target: to write, likewise.
      extent: of `EXTENTS`.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source, load_external_data=False).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    narrowing = [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and len(shape := shapes.get(node.input[1], ())) == 2 and shape[0] > shape[1]
    ]
    root = logging.getLogger()
    level = root.level
    with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=target.parent) as folder:
        warnings.simplefilter("ignore")
        large = source.with_name(f"{source.name}_data").exists()
        made = pathlib.Path(folder) / target.name
        try:
            root.setLevel(logging.ERROR)  # it advises through the root logger
            quantize_dynamic(
                source,
                made,
                op_types_to_quantize=list(_OPERATORS),
                nodes_to_exclude=narrowing if extent == WIDENING else [],
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=large,
            )
        finally:
            root.setLevel(level)
        write_onnx(target, onnx.load(made))


def score(task: Task, split: str, model: Any, run: Run, vocabulary: int) -> Mapping[str, float]:
    """Returns the metrics of a split whose logits a program computes.

    Args:
      task: of the run, with this split.
      split: its name.
      model: of the run, for what the program does not compute (`StandIn`).
      run: the program.
      vocabulary: rows of the padded word embedding.
    """
    rows: Dataset = task.datasets[split]
    stand_in = StandIn(model, run, vocabulary)
    size = 1 if isinstance(model, MaskedLM) else min(8, len(rows))  # logits [B, T, V] are large
    batches: Any = eval_batches(rows, size)  # of the host: what JAX does with them is little
    parts = [jax.device_get(task.objective.outputs(stand_in, batch)) for batch in batches]
    outputs = {name: np.concatenate([part[name] for part in parts])[: len(rows)] for name in parts[0]}
    return task.scorer(split).metrics(outputs)

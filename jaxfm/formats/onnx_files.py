"""ONNX files: written, opened, run. The layout is what transformers.js and optimum look for."""

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxfm.errors import UserError
from jaxfm.formats.inference import BATCH, SEQUENCE, Inference
from jaxfm.formats.onnx_lowering import to_onnx

# transformers.js looks into this folder for these names (dtype fp32 and q8); optimum finds "model.onnx" in any folder.
FOLDER, MODEL, QUANTISED = "onnx", "model.onnx", "model_quantized.onnx"
# A protobuf message ends at 2 GiB: larger weights lie beside the graph, in the file that both libraries expect.
_LARGEST = 2**31 - 2**24


def require_onnx(needed_by: str) -> None:
    """Raises UserError where a package of the extra `onnx` is not installed."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"{needed_by}: needs the package {package}. Install it: pip install 'jaxfm-encoders[onnx]'."
            )


def model_proto(inference: Inference) -> Any:
    """Returns an inference function as an onnx.ModelProto with any number of texts of any length."""
    axes = ((BATCH, SEQUENCE), np.int64)
    return to_onnx(inference, inference.params, dict.fromkeys(inference.inputs, axes))


def write_onnx(path: pathlib.Path, model: Any, largest: int = _LARGEST) -> None:
    """Writes a ModelProto; weights of more than `largest` bytes into a second file, NAME.onnx_data.

    The model is checked: types and shapes of every node.
    """
    import onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > largest:
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}_data")
    else:
        onnx.save_model(model, path)
    onnx.checker.check_model(str(path), full_check=True)


class Session:
    """An ONNX file that onnxruntime runs on the CPU."""

    def __init__(self, path: pathlib.Path, threads: int = 0):
        """Opens the file; `threads`: 0 leaves their number to onnxruntime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class but this
            raise UserError(f"{path}: onnxruntime cannot open it: {str(error).splitlines()[0]}") from error
        self.inputs = tuple(each.name for each in self._session.get_inputs())
        self.outputs = tuple(each.name for each in self._session.get_outputs())

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the outputs by name; inputs that the model does not have are left out."""
        given = {name: np.asarray(inputs[name], np.int64) for name in self.inputs}
        found = self._session.run(list(self.outputs), given)
        return {name: np.asarray(array) for name, array in zip(self.outputs, found, strict=True)}

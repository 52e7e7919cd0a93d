"""A sentence encoder with a linear head in the layout of sentence-transformers: a text's "vector" is its logits.

That library has no classifier, and SetFit keeps its own in a pickle, which can run any code. A Dense module after
pooling and normalisation computes the same numbers.
"""

# D model, C classes

import pathlib

import numpy as np

from jaxfm import files
from jaxfm.hub.sentence_transformers import (
    IDENTITY,
    MODULES_FILE,
    modules_of,
    write_module,
    write_sentence_transformers,
)
from jaxfm.hub.tensor_writing import write_f32


def write_sentence_classifier(
    folder: pathlib.Path, *, pooling: str, normalize: bool, max_length: int, kernel: np.ndarray, bias: np.ndarray
) -> None:
    """Writes what `SentenceTransformer(folder).encode(texts)` gives logits by, beside `write_model` with `head=""`.

    Args:
      folder: with the transformer's files.
      pooling: "mean" or "cls".
      normalize: vectors have length 1 before the head.
      max_length: tokens of a text that are read, special ones included.
      kernel: f32 [D, C].
      bias: f32 [C].
    """
    width, classes = kernel.shape
    write_sentence_transformers(
        folder,
        width=width,
        pooling=pooling,
        normalize=normalize,
        prompts={},
        max_length=max_length,
        similarity="dot",
    )
    number = len(modules_of(folder))
    values = {"in_features": width, "out_features": classes, "bias": True, "activation_function": IDENTITY}
    inside = write_module(folder, number, "Dense", values)
    shapes = {"linear.weight": (classes, width), "linear.bias": (classes,)}
    arrays = {"linear.weight": np.asarray(kernel, np.float32).T, "linear.bias": np.asarray(bias, np.float32)}
    write_f32(inside / "model.safetensors", shapes, lambda name: [arrays[name]])
    listed = files.read_json(folder / MODULES_FILE)
    module = {"idx": number, "name": str(number), "path": inside.name, "type": "sentence_transformers.models.Dense"}
    files.write_json(folder / MODULES_FILE, [*listed, module])

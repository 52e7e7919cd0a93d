"""How a parameter of ours is laid out in a checkpoint of transformers, and tables of such entries."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor's name in the checkpoint, and how our parameter is laid out in it.

    Attributes:
      name: {} stands for the layer.
      inputs: how many leading axes of ours are inputs of a linear map. 0: same layout. n: theirs is [out, in]; ours
        has n axes of inputs, then those of outputs.
      part: index of ours among the `parts` that theirs has along its first axis.
      parts: number of our parameters that lie in this one tensor.
      by_head: the parts lie side by side in each head, not one after the other.
      pairs: the features of a head that are rotated together are neighbours there; here they are half a head apart.
      last: full name of our last layer's tensor where it has another name; `name` then counts layers from 1.
      conv: theirs is the kernel [out, channels, rows, columns] of a convolution, ours [rows, columns, channels, out].
      ones: theirs has that many leading axes of size 1 before those of ours; -1: it lacks our first one.
    """

    name: str
    inputs: int = 0
    part: int = 0
    parts: int = 1
    by_head: bool = False
    pairs: bool = False
    last: str = ""
    conv: bool = False
    ones: int = 0

    def take(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns our parameter of that shape, of one layer, from theirs: its own part unless `by_head`."""
        if self.conv:
            return np.ascontiguousarray(value.transpose(2, 3, 1, 0))
        if self.by_head:
            heads, width = shape[self.inputs :]
            value = value.reshape(heads, self.parts, width, -1)[:, self.part]
            if self.pairs:
                value = np.swapaxes(value.reshape(heads, width // 2, 2, -1), 1, 2)
            value = value.reshape(heads * width, -1)
        return (value.T if self.inputs else value).reshape(shape)

    def put(self, value: np.ndarray) -> np.ndarray:
        """Returns our parameter of one layer as theirs has it; with `by_head` [N, H, inputs], to be joined."""
        if self.conv:
            return value.transpose(3, 2, 0, 1)
        if not self.inputs:
            return value
        outputs = value.shape[self.inputs :]
        value = value.reshape(math.prod(value.shape[: self.inputs]), -1).T
        if not self.by_head:
            return value
        heads, width = outputs
        value = value.reshape(heads, width, -1)
        return np.swapaxes(value.reshape(heads, 2, width // 2, -1), 1, 2).reshape(value.shape) if self.pairs else value

    @property
    def layered(self) -> bool:
        """Whether each layer has its tensor, stacked in ours."""
        return "{}" in self.name

    def names(self, num_layers: int) -> list[str]:
        """Returns the names of all layers in order, or the one name."""
        if self.last:
            return [*(self.name.format(layer) for layer in range(1, num_layers)), self.last]
        return [self.name.format(layer) for layer in range(num_layers if self.layered else 1)]

    def under(self, prefix: str) -> "Tensor":
        """Returns the entry with `prefix` before its names."""
        return dataclasses.replace(self, name=prefix + self.name, last=self.last and prefix + self.last)

    def without(self, prefix: str) -> "Tensor":
        """Returns the entry without `prefix` before its names, where they have it."""
        return dataclasses.replace(self, name=self.name.removeprefix(prefix), last=self.last.removeprefix(prefix))


def linear(ours: str, theirs: str, inputs: int = 1, part: int = 0, parts: int = 1) -> dict[str, Tensor]:
    """Returns the entries of a linear map: kernel and bias here, weight and bias in the checkpoint."""
    return {
        f"{ours}/kernel": Tensor(f"{theirs}.weight", inputs, part, parts),
        f"{ours}/bias": Tensor(f"{theirs}.bias", 0, part, parts),
    }


def norm(ours: str, theirs: str, last: str = "") -> dict[str, Tensor]:
    """Returns the entries of a layer norm: scale and bias here, weight and bias in the checkpoint."""
    names = {"scale": "weight", "bias": "bias"}
    return {f"{ours}/{o}": Tensor(f"{theirs}.{t}", last=last and f"{last}.{t}") for o, t in names.items()}


# Our path of the table that masked-LM heads share with the encoder.
WORD_EMBEDDING = "encoder/embeddings/word/embedding"
# The last layer of ForTokenClassification, of the same name in all families so far.
CLASSIFIER = linear("head", "classifier")
# Starts and ends of answers, likewise.
SPANS = linear("spans", "qa_outputs")
# Last layers of classes of transformers of other tasks, of the same names in all families so far.
OTHER_HEADS = ("classifier.weight", "classifier.bias", "qa_outputs.weight", "qa_outputs.bias")

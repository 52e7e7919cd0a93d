"""What a run starts from: an encoder's shape, the weights at hand, and the tokenizer that fits them."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxfm.core.encoder_config import EncoderConfig


class HostArray(Protocol):
    """An array on the host: numpy's, or one whose numbers are read from a file when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers that `__getitem__` returns."""
        ...

    def __len__(self) -> int:
        """Size of the first axis."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """Returns a part as numpy does."""
        ...

    def __array__(self, dtype: Any = None, /, *, copy: bool | None = None) -> np.ndarray:
        """Returns the whole."""
        ...


@runtime_checkable
class StoredArray(HostArray, Protocol):
    """A HostArray of which each `__getitem__` reads what it returns, and little more, from a file."""

    @property
    def rows_apart(self) -> bool:
        """Whether reading the first axis in blocks reads each number of the file once."""
        ...


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where weights were first read from: what config.json of a run keeps, so that it can be done again.

    Attributes:
      init: URI of the weights, as it was given.
      revision: commit of the Hugging Face hub; "" for what is not from there.
      tokenizer_revision: the same of a tokenizer from elsewhere; "" where it is that of the weights.
      vocab_size: rows of the word embedding there.
    """

    init: str
    revision: str = ""
    tokenizer_revision: str = ""
    vocab_size: int = 0


@dataclasses.dataclass(frozen=True)
class TokenLayout:
    """How the files beside weights say that a text becomes a vector a token (PyLate, sentence-transformers 6).

    Attributes:
      lengths: "query" and "document" -> tokens of such a text that are read; without one it is not said.
      expansion: what fills short queries up to their length: "none", or mask tokens to which others attend ("attended")
        or do not ("unattended").
      skipped: tokens of documents that are not compared.
      markers: beginnings of prompts that are one token each, though the tokenizer may cut them.
      unread: what of it jaxfm does not compute, in words, for a task to refuse.
    """

    lengths: Mapping[str, int] = dataclasses.field(default_factory=dict)
    expansion: str = "none"
    skipped: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class SentenceLayout:
    """How the files beside weights say that a text becomes a vector (the layout of sentence-transformers).

    Attributes:
      pooling: "mean", "cls" or "last".
      normalize: vectors have length 1, or are compared as if they had.
      prompts: "query" and "document" -> what is put before such a text.
      max_length: tokens of a text that are read; 0: not said.
      similarity: "cosine" or "dot".
      unread: what of it jaxfm does not compute, in words ("the pooling max"), for a task to refuse.
      tokens: how a vector a token is made, where that is what the files say; `unread` then says so too.
    """

    pooling: str = "mean"
    normalize: bool = False
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    max_length: int = 0
    similarity: str = "cosine"
    unread: tuple[str, ...] = ()
    tokens: TokenLayout | None = None


@dataclasses.dataclass(frozen=True)
class ImageLayout:
    """How an image becomes the pixels that weights know: what the files beside them say, and a run keeps.

    Attributes:
      side: of the square that is read, in pixels; 0: not said.
      rule: "squash" to the square, "crop" its middle, or "native": the image's own shape, in whole patches, as many as
        the square has at most.
      shorter_side: of "crop": what the shorter side is resized to first; 0: `side`.
      mean: of each channel, of values from 0 to 1, that is subtracted.
      std: of each channel, that is divided by.
    """

    side: int = 0
    rule: str = "squash"
    shorter_side: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class SoundLayout:
    """How a recording becomes the log-mel frames that weights know; see `models.inputs.frames.log_mel`.

    Attributes:
      rate: samples a second.
      frames: the most that are read of a clip, 10 ms apart; 0: not said.
      padded: whether every clip is filled up to `frames` with frames of zeros, as transformers' extractor does.
      mean: of all numbers of training frames, which is subtracted.
      std: half of what is divided by then (Gong et al. 2021, AST, section 2.1); 0: not said.
    """

    rate: int = 16_000
    frames: int = 0
    padded: bool = False
    mean: float = 0.0
    std: float = 0.0


@runtime_checkable
class HasLayout(Protocol):
    """What the spec of a run is beside `core.spec.Spec` where the run reads images or sound."""

    @property
    def layout(self) -> ImageLayout | SoundLayout:
        """How an image becomes pixels, or a recording frames."""
        ...


@dataclasses.dataclass(frozen=True)
class Initial:
    """What `config.model` resolves to.

    Attributes:
      encoder: shape and dropout of the encoder.
      params: path -> array of every parameter that is not drawn at random; empty for scratch. Those of a checkpoint are
        read from its files when they are put on devices.
      labels: class names of the head in `params`; empty when it carries none.
      tokenizer: directory of the tokenizer's files; None where scratch names none.
      notes: sentences for the log.
      origin: where the weights were first read from; None for scratch.
      sentence: how they make vectors of texts; None where no file says it.
      images: how they read images; None where no file says it.
      sound: how they read recordings; None where no file says it.
    """

    encoder: EncoderConfig
    params: Mapping[str, HostArray]
    labels: tuple[str, ...]
    tokenizer: pathlib.Path | None
    notes: tuple[str, ...]
    origin: Origin | None = None
    sentence: SentenceLayout | None = None
    images: ImageLayout | None = None
    sound: SoundLayout | None = None

    def left_over(self, used: tuple[str, ...]) -> tuple[str, ...]:
        """Returns a sentence for the log that names the parts not under the path prefixes `used`; none: nothing."""
        unused = sorted({name.partition("/")[0] for name in self.params if not name.startswith(used)})
        return (f"weights not used: {', '.join(unused)} (of pretraining)",) if unused else ()

"""What a task says of its models on a model card; what all cards share is in `programs.model_card`."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class CardPart:
    """A task's part of README.md of an exported model.

    A predictor gives it by a method `card()`; without that method a card has no such part.

    Attributes:
      title: its heading.
      pipeline_tag: the task's name on the Hugging Face hub; "" where the hub has none.
      summary: what the model does, a sentence or two.
      code: Python that loads it with transformers; DIRECTORY stands for where it lies.
      details: Markdown that follows the code.
      front_matter: further keys of the front matter.
    """

    title: str
    pipeline_tag: str
    summary: str
    code: str
    details: str = ""
    front_matter: Mapping[str, Any] = dataclasses.field(default_factory=lambda: types.MappingProxyType({}))

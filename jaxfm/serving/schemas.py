"""What requests and answers look like: OpenAPI is made of these."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

# What one input may be. Results are JSON of the task, as jaxfm.predict writes it.
_INPUT = (
    "A text; a pair of texts as [text, pair]; or an object with `text`, `pair`, `tokens` (words), `entities`, `id`, or "
    "`image` (a file's bytes in base64), as the model reads."
)
Input = str | list[str] | dict[str, Any]


class PredictRequest(BaseModel):
    """One input or several."""

    model_config = ConfigDict(extra="forbid")
    inputs: str | dict[str, Any] | list[Input] = Field(description=f"One input, or a list. {_INPUT}")


class ExplainRequest(BaseModel):
    """One input."""

    model_config = ConfigDict(extra="forbid")
    input: Input = Field(description=_INPUT)


class StreamRequest(BaseModel):
    """A document of any length."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(description="Each of its lines is a text.")


class RankRequest(BaseModel):
    """A text and others to compare with it."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(min_length=1)
    texts: list[str] = Field(min_length=1)


class PredictReply(BaseModel):
    """A result for each input, in order."""

    model: str
    results: list[dict[str, Any]]
    truncated: list[bool] = Field(
        description="Of each input: is a part of it not read? Never so for a model that reads every word."
    )


class ExplainReply(BaseModel):
    """What each part of a result is due to."""

    model: str
    result: dict[str, Any]
    targets: list[dict[str, Any]]


class RankReply(BaseModel):
    """The texts, the most similar first."""

    model: str
    ranking: list[dict[str, Any]]


class ModelInfo(BaseModel):
    """What a model is and reads."""

    name: str
    task: str
    labels: list[str]
    step: int
    reads: list[str] = Field(description="Of `text`, `pair`, `image`.")
    explains: bool
    ranks: bool
    limits: dict[str, int]


class Models(BaseModel):
    """The models that are served."""

    models: list[ModelInfo]


class Status(BaseModel):
    """Whether the server answers."""

    status: str


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str

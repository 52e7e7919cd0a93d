"""Classification from few labels: its config keys, what does not go together, and what the first weights decide."""

import dataclasses

from jaxfm.config import Config
from jaxfm.core.few_labels import FitPlan
from jaxfm.core.initial import Initial
from jaxfm.data.records.contrastive_pairs import SAMPLINGS
from jaxfm.errors import UserError
from jaxfm.evaluation.logistic import check_library
from jaxfm.schema import field, replaced

GRADIENT, REGRESSION, SETFIT, NONE = FITS = ("gradient", "logistic_regression", "setfit", "none")
FAMILY, LINEAR = HEADS = ("family", "linear")
POOLINGS = ("cls", "mean")
AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class ContrastiveConfig:
    """Pairs of training examples by which the encoder learns first, where task.fit is setfit."""

    sampling: str = field(
        "oversampling",
        "unique: each pair once; oversampling: as many alike as unlike ones, the fewer again and again; undersampling: "
        "as many as there are of the fewer; iterations: iterations x examples of each",
        choices=SAMPLINGS,
    )
    iterations: int = field(
        20, "where sampling is iterations: pairs alike, and as many unlike, for each example", at_least=1
    )
    most_pairs: int = field(0, "pairs in all; 0: any number", at_least=0)


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """A pattern with a mask by whose words a masked language model names the classes."""

    pattern: str = field(
        "",
        "'{text} It was {mask}.', of pairs '{text}? {mask}, {text_b}': what the model reads; empty: no prompt",
    )
    words: str = field(
        "",
        "the word, one token, that stands at the mask for each class: negative=terrible|bad,positive=great; of several "
        "the mean; empty: the names of the classes",
    )


def fit_plan(config: Config) -> FitPlan | None:
    """See core.few_labels.PlansFit."""
    fit = config.task.fit
    if fit == GRADIENT:
        return None
    return FitPlan(f"config.task.fit={fit}", pairs=fit == SETFIT, head=fit != NONE)


def grow_problem(config: Config) -> str:
    """See core.grown_head.GrowsHead."""
    task = config.task
    if task.kind == "regression":
        return "config.task.kind is 'regression', whose head gives one number"
    if task.prompt.pattern:
        return "config.task.prompt.pattern is set, and the masked-LM head of the weights has no rows of classes"
    return "" if task.fit == GRADIENT else f"config.task.fit={task.fit} fits the last layer anew"


def check_keys(config: Config) -> None:
    """Raises UserError for keys of learning from few labels that do not go together."""
    task, prompt = config.task, config.task.prompt
    if task.shots and task.kind == "regression":
        raise UserError("config.task.shots: are examples of each class, but config.task.kind is 'regression'.")
    if task.normalize and task.head != LINEAR:
        raise UserError(
            "config.task.normalize: True: is of a linear head; the dense layer of config.task.head="
            f"{task.head!r} was not trained on vectors of length 1. Set config.task.head=linear."
        )
    if task.fit in (REGRESSION, SETFIT):
        shown = f"config.task.fit={task.fit}"
        check_library(shown)
        if task.kind == "regression":
            raise UserError(
                f"config.task.kind: is 'regression', but {shown} fits classes. Set config.task.fit=gradient."
            )
        for key, value, needed in (("head", task.head, LINEAR), ("prompt.pattern", prompt.pattern, "")):
            if value != needed:
                raise UserError(
                    f"config.task.{key}: is {value!r}, but with {shown}, which fits the last layer alone, it must be "
                    f"{needed!r}."
                )
    if task.contrastive != ContrastiveConfig() and task.fit != SETFIT:
        raise UserError(f"config.task.contrastive: is of config.task.fit=setfit, but that is {task.fit!r}.")
    if not prompt.pattern:
        if prompt.words:
            raise UserError("config.task.prompt.words: are of a pattern, but config.task.prompt.pattern is empty.")
        return
    if task.kind != "single":
        raise UserError(
            f"config.task.kind: is {task.kind!r}, but one word stands at the mask of config.task.prompt.pattern: the "
            "kind must be 'single'."
        )
    if task.head != FAMILY:
        raise UserError(
            f"config.task.head: is {task.head!r}, but with config.task.prompt.pattern the masked-LM head of the "
            f"weights is the head. Leave it at {FAMILY!r}."
        )


def taken_over(config: Config, initial: Initial | None) -> Config:
    """Returns the config with a pooling and a normalisation where it leaves them open.

    Before a linear head those of the first weights' files (modules.json of sentence-transformers), without such files
    the mean and no normalisation; before the family's own head, which was trained on it, the first token's vector.

    Raises:
      UserError: the files say what is not computed here.
    """
    task, is_linear = config.task, config.task.head == LINEAR
    if task.fit == SETFIT and initial is not None and initial.sentence is not None and not initial.sentence.normalize:
        raise UserError(
            f"config.task.fit=setfit: learns cosines of vectors, but those of {config.model.init!r} are compared by "
            "their dot product, as the files beside the weights say. Set config.task.fit=logistic_regression."
        )
    layout = initial.sentence if initial is not None and is_linear else None
    values: dict[str, object] = {}
    if task.normalize is None:
        values["task.normalize"] = layout is not None and layout.normalize
    if task.pooling == AUTO:
        values["task.pooling"] = "mean" if is_linear else "cls"
    if task.pooling == AUTO and layout is not None and initial is not None:
        maps = any(name.startswith("projection/") for name in initial.params)
        unread = [*layout.unread, *(["a linear map"] if maps else [])]
        unread += [] if layout.pooling in POOLINGS else [f"the pooling {layout.pooling}"]
        if unread:
            raise UserError(
                f"config.task.pooling: is 'auto', but the files of {config.model.init!r} (modules.json) make vectors "
                f"by {' and '.join(unread)}, which a classifier does not have. Name a pooling: {', '.join(POOLINGS)}."
            )
        values["task.pooling"] = layout.pooling
    return replaced(config, values) if values else config

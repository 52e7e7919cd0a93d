"""The sets of GLUE (Wang et al. 2019): which columns they have, what is learned, and GLUE's own measure of each."""

import dataclasses
import re
from collections.abc import Mapping

# As `tfds:` and `hf:` write them; the hub has GLUE under both names.
_SOURCE = re.compile(r"(?:tfds:glue[:/]|hf:(?:nyu-mll/)?glue:)(\w+)")
_SPLITS = {"train": "train", "valid": "validation", "test": "test"}


@dataclasses.dataclass(frozen=True)
class GlueSet:
    """One set.

    Attributes:
        name: cola, sst2 ...
        kind: "single" (a class) or "regression" (a score), as in `read_examples`.
        text: column of the text, of the first one of a pair.
        pair: column of the second text; empty for single texts.
        metrics: GLUE's own, the first to choose a checkpoint by: accuracy, f1 (of the class `positive`), mcc
            (Matthews), pearson, spearman. GLUE's score of a set is their mean.
        positive: the class whose F1 is meant; empty where F1 is not measured.
        splits: train, valid and test -> the names that tfds and the hub have for them. GLUE does not publish
            the labels of its test splits. MNLI is scored on two: "valid" here is validation_matched, of the genres of the
            training examples, by which a checkpoint is chosen, and "test" is validation_mismatched, of other genres.
        label: column of the class or score.
        no_label: the score that means that the label is unknown.
    """

    name: str
    kind: str
    text: str
    pair: str
    metrics: tuple[str, ...]
    positive: str = ""
    splits: Mapping[str, str] = dataclasses.field(default_factory=lambda: _SPLITS)
    label: str = "label"
    no_label: float | None = None


_MNLI = {"train": "train", "valid": "validation_matched", "test": "validation_mismatched"}
_SETS = (
    GlueSet("cola", "single", "sentence", "", ("mcc",)),
    GlueSet("sst2", "single", "sentence", "", ("accuracy",)),
    GlueSet("mrpc", "single", "sentence1", "sentence2", ("f1", "accuracy"), positive="equivalent"),
    GlueSet("qqp", "single", "question1", "question2", ("f1", "accuracy"), positive="duplicate"),
    GlueSet("stsb", "regression", "sentence1", "sentence2", ("pearson", "spearman"), no_label=-1.0),
    GlueSet("mnli", "single", "premise", "hypothesis", ("accuracy",), splits=_MNLI),
    GlueSet("qnli", "single", "question", "sentence", ("accuracy",)),
    GlueSet("rte", "single", "sentence1", "sentence2", ("accuracy",)),
    GlueSet("wnli", "single", "sentence1", "sentence2", ("accuracy",)),
)
GLUE = {glue.name: glue for glue in _SETS}


def glue_set(source: str) -> GlueSet | None:
    """Returns the set that a source names (`tfds:glue/cola`, `hf:nyu-mll/glue:cola`), None for any other source."""
    match = _SOURCE.fullmatch(source)
    return GLUE.get(match[1]) if match else None

"""What a person may ask of a trained model beside its inputs: how words are split, other classes, a text's role."""

from collections.abc import Sequence

from jaxfm.core.task import ComparesLabels, Predictor
from jaxfm.errors import UserError, did_you_mean

RUN_WORDS = "run"


def split_by(predictor: Predictor, words: str) -> Predictor:
    """Returns the predictor with the asked way to split raw text into words; UserError where it has no such way."""
    if words == RUN_WORDS:
        return predictor
    if not predictor.splitters:
        raise UserError(
            f"--words={words}: only a model that reads a text word by word (named entities) has such a rule."
        )
    if words not in predictor.splitters:
        raise UserError(f"--words={words}: {did_you_mean(words, predictor.splitters)}")
    return predictor.with_splitter(words)


def labelled(predictor: Predictor, labels: Sequence[str]) -> Predictor:
    """Returns the predictor with other classes; UserError where its classes are those that it was trained on."""
    if not isinstance(predictor, ComparesLabels):
        raise UserError("--labels: the model of --workdir has its own classes: leave out the flag.")
    if len(set(labels)) < 2 or not all(label.strip() for label in labels):
        raise UserError(f"--labels={','.join(labels)}: give two different texts at least, with a comma between them.")
    return predictor.with_labels(tuple(label.strip() for label in labels))


def role_of(given: str, roles: Sequence[str]) -> str:
    """Returns the role of texts, the usual one where none is given; UserError for an unknown one."""
    role = given or roles[-1]
    if role not in roles:
        raise UserError(f"role: {role!r}. {did_you_mean(role, roles)}")
    return role

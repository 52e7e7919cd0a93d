"""How much a model could learn from the label of an example: uncertainty, and disagreement between models.

Each function takes probabilities [U, C] of a record's units (its words, or one unit of a whole text) and returns a
number a unit; the larger, the sooner the record is to be labelled. See Settles 2009, section 3, for the first three.
"""

# M models, U units (words of a text, or 1), C classes

from collections.abc import Callable, Mapping

import numpy as np

OVER = MEAN, MAX = ("mean", "max")
_TINY = 1e-300  # of a probability of 0, whose share of an entropy is 0


def as_classes(probabilities_UC: np.ndarray, probability: str) -> np.ndarray:
    """Returns probabilities of classes of which one holds; each label ("sigmoid") is a unit, [U C, 2]: yes or no."""
    probabilities_UC = np.asarray(probabilities_UC, np.float64)
    if probability != "sigmoid":
        return probabilities_UC
    return np.stack([probabilities_UC.reshape(-1), 1.0 - probabilities_UC.reshape(-1)], axis=-1)


def entropy(probabilities_UC: np.ndarray) -> np.ndarray:
    """Returns the entropy of each unit [U] in nats: 0 to log C."""
    return -(probabilities_UC * np.log(np.maximum(probabilities_UC, _TINY))).sum(axis=-1)


def margin(probabilities_UC: np.ndarray) -> np.ndarray:
    """Returns 1 less the distance between the two likeliest classes of each unit [U]: 0 (sure) to 1."""
    top_U2 = np.sort(probabilities_UC, axis=-1)[:, -2:]
    return 1.0 - (top_U2[:, 1] - top_U2[:, 0])


def least_confidence(probabilities_UC: np.ndarray) -> np.ndarray:
    """Returns 1 less the probability of the likeliest class of each unit [U]."""
    return 1.0 - probabilities_UC.max(axis=-1)


def negative_log_probability(probabilities_UC: np.ndarray) -> np.ndarray:
    """Returns minus the logarithm of the probability of the likeliest class of each unit [U].

    Its mean over the words of a text is that of MNLP (maximum normalized log-probability, Shen et al. 2017, section 4),
    by which a long text is not taken for its length.
    """
    return -np.log(np.maximum(probabilities_UC.max(axis=-1), _TINY))


def mutual_information(probabilities_MUC: np.ndarray) -> np.ndarray:
    """Returns what a label would tell about which of the models is right [U], in nats.

    The entropy of the mean probability less the mean entropy of the models (Houlsby et al. 2011: BALD; of ensembles
    Beluch et al. 2018). It is not below 0.
    """
    of_models = np.stack([entropy(each) for each in probabilities_MUC]).mean(axis=0)
    return np.maximum(entropy(np.mean(probabilities_MUC, axis=0)) - of_models, 0.0)


def vote_entropy(probabilities_MUC: np.ndarray) -> np.ndarray:
    """Returns the entropy of the models' votes for a class [U], in nats (Dagan and Engelson 1995)."""
    classes = probabilities_MUC.shape[-1]
    votes_MUC = np.eye(classes)[probabilities_MUC.argmax(axis=-1)]
    return entropy(votes_MUC.mean(axis=0))


ONE_MODEL: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "entropy": entropy,
    "margin": margin,
    "least_confidence": least_confidence,
    "mnlp": negative_log_probability,
}
SEVERAL_MODELS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "bald": mutual_information,
    "vote_entropy": vote_entropy,
}


def over_units(values_U: np.ndarray, over: str) -> float:
    """Returns a record's number: the mean over its units, or the greatest one; 0 for a record without units."""
    assert over in OVER, over
    if not len(values_U):
        return 0.0
    return float(values_U.mean() if over == MEAN else values_U.max())


def residuals(probabilities_UC: np.ndarray, probability: str) -> np.ndarray:
    """Returns the gradient [U, C] of the loss by the logits, as if the likeliest classes were the right ones.

    With the features h that the last layer reads, the loss's gradient by its weights is the outer product of both
    (Ash et al. 2020, section 3: BADGE).
    """
    if probability == "sigmoid":
        return probabilities_UC - (probabilities_UC >= 0.5)
    return probabilities_UC - np.eye(probabilities_UC.shape[-1])[probabilities_UC.argmax(axis=-1)]


def mean_gradient(residuals_UC: np.ndarray, features_UD: np.ndarray) -> np.ndarray:
    """Returns the gradient of a record's mean loss over its units by the weights of the last layer, f32 [C D]."""
    product_CD = residuals_UC.T @ features_UD.astype(np.float64)
    return (product_CD / max(len(residuals_UC), 1)).reshape(-1).astype(np.float32)

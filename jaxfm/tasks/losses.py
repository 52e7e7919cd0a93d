"""Losses over classes, labels and numbers."""

# ... any axes, C classes

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.extensions import Loss, loss_of
from jaxfm.errors import UserError, did_you_mean
from jaxfm.schema import field

# Logits -> loss and weight of each target; the loss is 0 where the weight is 0.
TargetLoss = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """What is minimised over classes (words of NER, examples of classification)."""

    label_smoothing: float = field(
        0.0, "share of the target spread over all classes", at_least=0.0, at_most=0.9, adjustable="always"
    )
    class_weights: str = field(
        "", "balanced: the rarer a class the more it counts; or CLASS=WEIGHT,...: others 1; empty: all alike"
    )
    focal_gamma: float = field(
        0.0,
        "exponent by which what is already right counts less (Lin et al. 2017: 2); 0: not at all",
        at_least=0,
        adjustable="always",
    )
    r_drop: float = field(
        0.0,
        "weight of the disagreement of two passes under other dropout (Liang et al. 2021: 1 to 5), at twice the cost; "
        "0: one pass",
        at_least=0,
    )
    function: str = field(
        "",
        "name of a loss over classes that jaxfm.register_loss was given, in place of cross-entropy; class_weights and "
        "r_drop apply to it",
    )


@dataclasses.dataclass(frozen=True)
class ClassLoss:
    """Cross-entropy and what may be done to it, or a registered loss.

    Attributes:
      smoothing: share of the target spread over all classes (Szegedy et al. 2016).
      focal_gamma: exponent of (1 - p), p the target's probability (focal loss, Lin et al. 2017); 0: plain.
      weights: of the classes; empty: all 1. As in torch the mean is over the targets' weights.
      registered: taken in place of cross-entropy, and then without the two first.
    """

    smoothing: float = 0.0
    focal_gamma: float = 0.0
    weights: tuple[float, ...] = ()
    registered: Loss | None = None

    @classmethod
    def of(cls, config: LossConfig, labels: Sequence[str], counts_C: np.ndarray | None) -> "ClassLoss":
        """Builds what `config.task.loss` says; `counts_C` are the training targets of each class (None: not known).

        Raises:
          UserError: class weights that are no weights of these classes; a loss that is not registered, does not give
            one number a target, or is asked for with what changes cross-entropy alone.
        """
        weights = class_weights(config, labels, counts_C)
        if not config.function:
            return cls(config.label_smoothing, config.focal_gamma, weights)
        for name in ("label_smoothing", "focal_gamma"):
            if value := getattr(config, name):
                raise UserError(
                    f"config.task.loss.{name}: is {value!r}, but changes cross-entropy alone, and "
                    f"config.task.loss.function is {config.function!r}."
                )
        loss = loss_of(config.function, "config.task.loss.function")
        _check_registered(loss, len(labels))
        return cls(weights=weights, registered=loss)

    def __call__(self, logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns loss and weight [...] of classes `labels` [...] (-1: none) under `logits` [..., C]."""
        valid = labels >= 0
        label = jnp.maximum(labels, 0)
        weights_C = jnp.asarray(self.weights, jnp.float32) if self.weights else None
        weight = valid.astype(jnp.float32) * (1.0 if weights_C is None else weights_C[label])
        if self.registered is not None:
            # Selected, not multiplied: a loss that is not finite where there is no target must not reach the sum.
            return jnp.where(valid, self.registered.function(logits, label), 0.0) * weight, weight
        log_probs = jax.nn.log_softmax(logits)
        picked = jnp.take_along_axis(log_probs, label[..., None], axis=-1)[..., 0]
        loss = -(1.0 - self.smoothing) * picked * weight
        if self.smoothing:
            spread = log_probs if weights_C is None else log_probs * weights_C
            loss -= self.smoothing * spread.mean(axis=-1) * valid
        return loss * _focus(picked, self.focal_gamma), weight


@dataclasses.dataclass(frozen=True)
class LabelLoss:
    """Binary cross-entropy of each of several labels that may hold together.

    Attributes:
      focal_gamma: as of `ClassLoss`.
      weights: of the labels where they hold (torch's pos_weight); empty: all 1.
    """

    focal_gamma: float = 0.0
    weights: tuple[float, ...] = ()

    def __call__(self, logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns loss and weight [..., C] of `labels` [..., C] (1, 0, or -1: not known) under `logits` [..., C]."""
        holds = labels == 1
        valid = (labels >= 0).astype(jnp.float32)
        picked = jax.nn.log_sigmoid(jnp.where(holds, logits, -logits))
        factor = jnp.where(holds, jnp.asarray(self.weights, jnp.float32), 1.0) if self.weights else 1.0
        return -picked * factor * valid * _focus(picked, self.focal_gamma), valid


def squared_error(values: jax.Array, targets: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns loss and weight [...] of numbers; `valid` says which are targets."""
    weight = valid.astype(jnp.float32)
    return (values - targets) ** 2 * weight, weight


def class_weights(config: LossConfig, labels: Sequence[str], counts_C: np.ndarray | None) -> tuple[float, ...]:
    """Reads `config.task.loss.class_weights`; empty where all classes weigh the same.

    "balanced" is n / (C n_c) for a class that has n_c of the n training targets, as in scikit-learn (King and Zeng
    2001); classes without any target weigh 1.
    """
    text = config.class_weights
    if not text:
        return ()
    if text == "balanced":
        if counts_C is None:
            return (1.0,) * len(labels)
        present_C = np.maximum(counts_C, 1)
        weights = np.where(counts_C > 0, counts_C.sum() / (np.count_nonzero(counts_C) * present_C), 1.0)
        return tuple(float(weight) for weight in weights)
    found = dict.fromkeys(labels, 1.0)
    for part in text.split(","):
        name, _, number = part.rpartition("=")
        if name.strip() not in found:
            raise UserError(
                f"config.task.loss.class_weights: {part.strip()!r} must be CLASS=NUMBER. "
                f"{did_you_mean(name.strip(), found)} Or 'balanced', or nothing."
            )
        try:
            found[name.strip()] = float(number)
        except ValueError:
            found[name.strip()] = -1.0
        if not 0 <= found[name.strip()] < float("inf"):
            raise UserError(f"config.task.loss.class_weights: {part.strip()!r}: a weight is a number of at least 0.")
    return tuple(found.values())


def _check_registered(loss: Loss, classes: int) -> None:
    """Raises UserError unless a registered loss can be traced, and gives one number a target."""
    logits = jax.ShapeDtypeStruct((2, 3, classes), jnp.float32)
    labels = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    try:
        found = jax.eval_shape(loss.function, logits, labels)
    # Whatever a user's function raises is his to mend.
    except Exception as error:
        raise UserError(
            f"the loss {loss.name!r} of {loss.origin} cannot be traced for logits f32 [2, 3, {classes}] and labels "
            f"int32 [2, 3]: {type(error).__name__}: {error}"
        ) from error
    if getattr(found, "shape", None) != labels.shape or not jnp.issubdtype(found.dtype, jnp.floating):
        raise UserError(
            f"the loss {loss.name!r} of {loss.origin} gives {found} for logits f32 [2, 3, {classes}] and labels int32 "
            "[2, 3], but must give one number a target: f32 [2, 3]."
        )


def with_r_drop(
    apply: Callable[[jax.Array], jax.Array],
    loss: TargetLoss,
    divergence: Callable[[jax.Array, jax.Array], jax.Array],
    key: jax.Array,
    alpha: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns logits, loss and weight with R-Drop (Liang et al. 2021): two passes under other dropout must agree.

    The loss is the mean of both, plus `alpha` times their `divergence`, at every target; `apply` takes a key.
    With alpha 0 there is one pass.
    """
    if not alpha:
        logits = apply(key)
        return logits, *loss(logits)
    first, second = (apply(one) for one in jax.random.split(key))
    (loss_1, weight), (loss_2, _) = loss(first), loss(second)
    return first, (loss_1 + loss_2) / 2 + alpha * divergence(first, second) * (weight > 0), weight


def symmetric_kl(first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns the mean of both Kullback-Leibler divergences [...] between classes under logits [..., C]."""
    one, other = jax.nn.log_softmax(first), jax.nn.log_softmax(second)
    return ((jnp.exp(one) - jnp.exp(other)) * (one - other)).sum(axis=-1) / 2


def symmetric_kl_of_labels(first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns the same [..., C] for labels that hold or not."""
    return (jax.nn.sigmoid(first) - jax.nn.sigmoid(second)) * (first - second) / 2


def soft_cross_entropy(logits: jax.Array, teacher: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Returns T^2 KL(teacher, model) [...] of the classes' probabilities at temperature T under logits [..., C].

    Hinton et al. 2015, section 2; without the teacher's entropy, which has no gradient, it would be the cross-entropy.
    """
    known, found = (jax.nn.log_softmax(each / temperature) for each in (teacher, logits))
    return temperature**2 * (jnp.exp(known) * (known - found)).sum(axis=-1)


def soft_cross_entropy_of_labels(logits: jax.Array, teacher: jax.Array, temperature: float = 1.0) -> jax.Array:
    """Returns the same [..., C] for labels that hold or not."""
    known, found = teacher / temperature, logits / temperature
    holds = jax.nn.sigmoid(known) * (jax.nn.log_sigmoid(known) - jax.nn.log_sigmoid(found))
    fails = jax.nn.sigmoid(-known) * (jax.nn.log_sigmoid(-known) - jax.nn.log_sigmoid(-found))
    return temperature**2 * (holds + fails)


def squared_difference(first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns the squared difference of numbers."""
    return (first - second) ** 2


def _focus(log_probability: jax.Array, gamma: float) -> jax.Array | float:
    # Behind a guard: the derivative of 0 ** gamma is infinite for gamma < 1.
    return jnp.maximum(-jnp.expm1(log_probability), 1e-6) ** gamma if gamma else 1.0

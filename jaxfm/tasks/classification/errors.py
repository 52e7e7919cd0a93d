"""The examples that a classifier has most wrong: what they say, what was asked for and what was predicted."""

# E examples, C classes

from collections.abc import Sequence

import numpy as np

from jaxfm.data.records.examples import Example
from jaxfm.observe.examples import SHOWN, View, WrongExample
from jaxfm.tasks.classification.spec import ClassifierSpec


def worst_examples(
    spec: ClassifierSpec, examples: Sequence[Example], found: np.ndarray, loss_E: np.ndarray
) -> tuple[WrongExample, ...]:
    """Returns what is predicted wrongly, that of the largest loss first, at most `SHOWN`.

    Args:
      spec: of the model.
      examples: with their targets.
      found: probabilities [E, C], or numbers [E] for regression, where every example but an exact one is wrong.
      loss_E: of each example (nats; the squared error for regression).
    """
    shown = []
    for index in np.argsort(-loss_E, kind="stable").tolist():
        if len(shown) == SHOWN:
            break
        facts = _facts(spec, examples[index], found[index])
        if facts:
            shown.append(_example(examples[index], (*facts, ("loss", float(loss_E[index])))))
    return tuple(shown)


def _facts(spec: ClassifierSpec, example: Example, found: np.ndarray) -> tuple[tuple[str, str | float], ...]:
    """Returns what is said of an example that is wrong; () for one that is right."""
    if spec.kind == "regression":
        gold, value = float(example.target), float(found)  # type: ignore[arg-type]
        error = value - gold
        return (("gold", gold), ("predicted", value), ("error", error)) if error else ()
    if spec.kind == "single":
        best = int(np.argmax(found))
        if spec.labels[best] == example.target:
            return ()
        of_gold = float(found[spec.labels.index(str(example.target))])
        return (
            ("gold", str(example.target)),
            ("predicted", spec.labels[best]),
            ("probability", float(found[best])),
            ("of the gold class", of_gold),
        )
    said = [label for label, share in zip(spec.labels, found, strict=True) if share >= spec.threshold]
    assert isinstance(example.target, tuple)
    if set(said) == set(example.target):
        return ()
    return (("gold", ", ".join(example.target) or "(no label)"), ("predicted", ", ".join(said) or "(no label)"))


def _example(example: Example, facts: tuple[tuple[str, str | float], ...]) -> WrongExample:
    if example.pair is None:
        return WrongExample(example.origin, (View("text", example.text),), facts)
    return WrongExample(example.origin, (View("text", example.text), View("pair", example.pair)), facts)

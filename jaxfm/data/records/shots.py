"""Few labelled examples of each class, drawn by a seed: what studies of learning from few labels train on."""

# E examples

import collections
from collections.abc import Sequence

import numpy as np

from jaxfm.errors import UserError


def draw_shots(targets: Sequence[str | tuple[str, ...]], shots: int, seed: int, key: str, source: str) -> list[int]:
    """Returns the numbers of the examples that are drawn, ascending: `shots` of each class.

    Examples are visited in an order that the seed draws, and taken while a class of theirs lacks some. Of one class an
    example (a str) that is exactly `shots` of each; of several labels an example (a tuple) each label is on at least
    `shots` examples, and on more where it comes along with another; examples without any label are not taken.

    Args:
      targets: class or labels of each of E examples.
      shots: at least 1.
      seed: of the draw; the same one draws the same examples of the same data.
      key: of the config, for messages.
      source: of the examples, for messages.

    Raises:
      UserError: a class has fewer examples.
    """
    labels = [(target,) if isinstance(target, str) else target for target in targets]
    counts = collections.Counter(label for each in labels for label in each)
    few = sorted((count, label) for label, count in counts.items() if count < shots)
    if few:
        count, label = few[0]
        raise UserError(
            f"{key}: {shots} examples of each class are wanted, but {source} has {count} of {label!r} in training"
            f"{f', and too few of {len(few) - 1} more classes' if len(few) > 1 else ''}. Set {key}={count} or less."
        )
    lacking = dict.fromkeys(counts, shots)
    taken = []
    for index in np.random.default_rng(seed).permutation(len(labels)).tolist():
        if any(lacking[label] > 0 for label in labels[index]):
            taken.append(index)
            for label in labels[index]:
                lacking[label] -= 1
    return sorted(taken)

"""The pairs for which a model has written something else: source, reference, and what it wrote."""

from collections.abc import Sequence

import numpy as np

from jaxfm.data.records.text_pairs import TextPair
from jaxfm.observe.examples import SHOWN, View, WrongExample


def worst_pairs(
    pairs: Sequence[TextPair], texts: Sequence[str], exact: np.ndarray, loss: np.ndarray
) -> tuple[WrongExample, ...]:
    """Returns the pairs that are not written as a reference says, that of the largest loss first, at most `SHOWN`.

    Args:
      pairs: with their references.
      texts: what was written.
      exact: bool [n], whether that is a reference.
      loss: nats a token of the first reference, [n].
    """
    wrong = [index for index in np.argsort(-loss, kind="stable").tolist() if not exact[index]]
    return tuple(
        WrongExample(
            pairs[index].origin,
            (
                View("source", pairs[index].source),
                View("reference", " | ".join(pairs[index].targets)),
                View("written", str(texts[index]) or "(nothing)"),
            ),
            (("loss of the reference", float(loss[index])),),
        )
        for index in wrong[:SHOWN]
    )

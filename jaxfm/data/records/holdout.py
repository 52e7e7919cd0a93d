"""How much of the training data becomes the validation split of a source without one."""

_FIFTH_UP_TO = 200  # examples of valid; a score of so many has an interval of some 6 points
_SHARE, _MOST = 0.05, 5_000  # of larger data; no more than that


def holdout_share(asked: float | None, count: int) -> float:
    """Returns the share of `count` labelled examples (or documents) that are held out.

    `asked` is `config.data.holdout`; None takes a fifth up to 200, then a twentieth, at most 5,000: few examples are
    worth more in training, and few in valid choose a checkpoint by chance.
    """
    if asked is not None or not count:
        return asked or 0.0
    wanted = min(max(_SHARE * count, min(0.2 * count, _FIFTH_UP_TO)), _MOST)
    return wanted / count

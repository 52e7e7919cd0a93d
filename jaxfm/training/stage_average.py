"""The mean of the weights after several stages of training, as a running mean, whose head may grow on the way."""

from collections.abc import Mapping

import numpy as np


def running_mean(mean: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    """Returns the mean over `count` models of which `mean` is that of all but the last, `new`: path -> array.

    What `new` has beside `mean` (rows of labels that the last stage brought, a whole head) is taken as it is: the
    earlier models say nothing of it. Numbers are added in f64 and rounded once.
    """
    found = {}
    for path, value in new.items():
        if path not in mean:
            found[path] = np.array(value)
            continue
        made, before = np.array(value), np.asarray(mean[path], np.float64)
        places = tuple(slice(0, size) for size in before.shape)
        made[places] = before + (np.asarray(value, np.float64)[places] - before) / count
        found[path] = made
    return found

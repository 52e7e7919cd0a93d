"""k-means on the host: the same centres of the same points wherever it is computed."""

# N points, C centres, F features

import math

import numpy as np

_AT_ONCE = 8192  # points whose distances are computed together


def fit_kmeans(points_NF: np.ndarray, count: int, *, seed: int, rounds: int) -> np.ndarray:
    """Returns centres f64 [C, F] (Lloyd 1982), begun by k-means++ (Arthur and Vassilvitskii 2007, of which the
    greedy form).

    A centre that no point is nearest to moves to the point that is farthest from its own.

    Args:
      points_NF: at least `count` of them.
      count: C.
      seed: of the first centres.
      rounds: of moving centres, at most; fewer where nothing moves any more.
    """
    points = np.asarray(points_NF, np.float64)
    assert len(points) >= count >= 1
    centres = _first_centres(points, count, np.random.Generator(np.random.PCG64(seed)))
    members = None
    for _ in range(rounds):
        found, distances = nearest(points, centres)
        if members is not None and np.array_equal(found, members):
            break
        members = found
        sums = np.zeros_like(centres)
        np.add.at(sums, members, points)
        sizes = np.bincount(members, minlength=count)
        centres = sums / np.maximum(sizes, 1)[:, None]
        farthest = np.argsort(-distances, kind="stable")
        empty = np.flatnonzero(sizes == 0)
        centres[empty] = points[farthest[: len(empty)]]
    return centres


def nearest(points_NF: np.ndarray, centres_CF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of the nearest centre of each point, int64 [N], and its squared distance, f64 [N].

    Of centres that are as near the first one is taken.
    """
    centres = np.asarray(centres_CF, np.float64)
    squares_C = np.square(centres).sum(axis=1)
    members, distances = np.zeros(len(points_NF), np.int64), np.zeros(len(points_NF))
    for start in range(0, len(points_NF), _AT_ONCE):
        points = np.asarray(points_NF[start : start + _AT_ONCE], np.float64)
        # |x - c|^2 without |x|^2, which is the same for all centres.
        apart_NC = squares_C - 2 * points @ centres.T
        own = apart_NC.argmin(axis=1)
        members[start : start + len(points)] = own
        found = apart_NC[np.arange(len(points)), own] + np.square(points).sum(axis=1)
        distances[start : start + len(points)] = np.maximum(found, 0.0)
    return members, distances


def _first_centres(points_NF: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws each further centre among the points by its squared distance from those that are drawn.

    Of some that are drawn the one is taken that leaves the least sum of distances.
    """
    chosen = [int(rng.integers(len(points_NF)))]
    distances = np.square(points_NF - points_NF[chosen[0]]).sum(axis=1)
    tries = 2 + int(math.log(count))
    for _ in range(count - 1):
        total = distances.sum()
        share = distances / total if total > 0 else np.full(len(points_NF), 1 / len(points_NF))
        tried = rng.choice(len(points_NF), tries, p=share).tolist()
        left = [np.minimum(distances, np.square(points_NF - points_NF[each]).sum(axis=1)) for each in tried]
        best = int(np.argmin([each.sum() for each in left]))
        chosen.append(tried[best])
        distances = left[best]
    return points_NF[chosen]

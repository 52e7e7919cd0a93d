"""The Fréchet distance of two sets of vectors, each taken for a normal distribution (Heusel et al. 2017, FID)."""

# N, M vectors, D features

import numpy as np


def frechet_distance(one_ND: np.ndarray, other_MD: np.ndarray) -> float:
    """Returns |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)) of means and covariances; NaN below two vectors each.

    The trace of the root is that of (R C2 R)^(1/2), R the root of C1, which is symmetric: its eigenvalues are real and
    not negative but for rounding. Estimates of few vectors are too large: compare sets of equal size alone.
    """
    if min(len(one_ND), len(other_MD)) < 2:
        return float("nan")
    (mean_1, covariance_1), (mean_2, covariance_2) = _moments(one_ND), _moments(other_MD)
    values, vectors = np.linalg.eigh(covariance_1)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance_2 @ root), 0.0)).sum()
    apart = np.square(mean_1 - mean_2).sum()
    return float(apart + np.trace(covariance_1) + np.trace(covariance_2) - 2.0 * roots)


def _moments(values_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean [D] and covariance [D, D] (of a sample: divided by N - 1) in f64."""
    values = np.asarray(values_ND, np.float64)
    mean = values.mean(axis=0)
    return mean, (values - mean).T @ (values - mean) / (len(values) - 1)

"""The mean of weights after stages, beside the mean of all of them at once; a head that grows on the way."""

import numpy as np

from jaxfm.training.stage_average import running_mean


def test_a_running_mean_is_the_mean_of_all() -> None:
    draw = np.random.default_rng(0)
    models = [{"encoder/a": draw.standard_normal((3, 2)).astype(np.float32)} for _ in range(4)]
    mean = models[0]
    for count, model in enumerate(models[1:], start=2):
        mean = running_mean(mean, model, count)
    whole = np.mean([model["encoder/a"] for model in models], axis=0)
    np.testing.assert_allclose(mean["encoder/a"], whole, rtol=1e-6, atol=1e-7)
    assert mean["encoder/a"].dtype == np.float32


def test_new_rows_of_a_head_are_taken_as_they_are() -> None:
    before = {"head/kernel": np.ones((2, 2), np.float32), "head/bias": np.zeros(2, np.float32)}
    new = {"head/kernel": np.full((2, 3), 3.0, np.float32), "head/bias": np.full(3, 4.0, np.float32)}
    new["pooler/kernel"] = np.full((1,), 7.0, np.float32)
    mean = running_mean(before, new, 2)
    np.testing.assert_array_equal(mean["head/kernel"], [[2, 2, 3], [2, 2, 3]])
    np.testing.assert_array_equal(mean["head/bias"], [2, 2, 4])
    np.testing.assert_array_equal(mean["pooler/kernel"], [7])
    assert new["head/bias"][0] == 4  # what is given is not changed

"""The keys of differentially private training: the config's group `privacy`."""

import dataclasses

from jaxfm.schema import field


@dataclasses.dataclass(frozen=True)
class PrivacyConfig:
    """Differential privacy of the training rows, by DP-SGD; see docs/federated_privacy.md."""

    clip_norm: float = field(
        0.0,
        "largest L2 norm of a row's gradient, over all trained parameters together; longer ones are scaled down "
        "(Abadi et al. 2016). 0: training is not private, and `epsilon` and `noise` are refused",
        at_least=0.0,
    )
    epsilon: float = field(
        0.0, "budget of the whole run: the noise is the least that keeps it; 0: `noise` says how much", at_least=0.0
    )
    delta: float = field(
        1e-6, "of (epsilon, delta)-privacy; below one divided by the number of rows", above=0.0, at_most=0.5
    )
    noise: float = field(
        0.0,
        "noise multiplier: standard deviation of the noise on a step's sum of gradients, in units of `clip_norm`; with "
        "`epsilon` the run computes it",
        at_least=0.0,
        at_most=1e4,
    )

"""The keys of the optimizers and their schedules: `config.optim`."""

import dataclasses

from jaxfm.schema import field


@dataclasses.dataclass(frozen=True)
class SgdConfig:
    """Gradient descent with momentum (Sutskever et al. 2013)."""

    momentum: float = field(
        0.9, "share of the last update that is kept; 0: none", at_least=0.0, below=1.0, adjustable="above 0"
    )
    nesterov: bool = field(False, "the gradient is looked up where the momentum leads")


@dataclasses.dataclass(frozen=True)
class LionConfig:
    """Signs of an interpolated momentum (Chen et al. 2023, algorithm 2)."""

    b1: float = field(0.9, "share of the momentum in an update", at_least=0.0, below=1.0, adjustable="always")
    b2: float = field(0.99, "decay of the momentum", at_least=0.0, below=1.0, adjustable="always")


@dataclasses.dataclass(frozen=True)
class AdafactorConfig:
    """Second moments by rows and columns (Shazeer and Stern 2018, algorithm 4), at the rate of the schedule."""

    decay_power: float = field(0.8, "c of the second moment's decay 1 - t^-c (section 7.2)", above=0.0, at_most=1.0)
    clip_rms: float = field(1.0, "root mean square above which a parameter's update is scaled down", above=0.0)


@dataclasses.dataclass(frozen=True)
class MuonConfig:
    """Orthogonal updates of the layers' matrices (Jordan et al. 2024; scale of Liu et al. 2025, section 2.2)."""

    momentum: float = field(
        0.95, "decay of the gradients' moving average", at_least=0.0, below=1.0, adjustable="always"
    )
    nesterov: bool = field(True, "the gradient is looked up where the momentum leads")
    iterations: int = field(5, "Newton-Schulz steps of an update", at_least=1, at_most=20)
    rms: float = field(
        0.2, "root mean square of a matrix' update before the rate; at 0.2 rates of AdamW carry over", above=0.0
    )


# `jaxfm/training/optimizers.py` says what each of them is.
OPTIMIZERS = ("adamw", "sgd", "lamb", "lion", "adafactor", "muon", "stable_adamw", "schedule_free_adamw")
SCHEDULES = ("linear", "cosine", "constant", "wsd", "inverse_sqrt", "polynomial", "one_cycle")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer, AdamW (Loshchilov and Hutter 2019) by default, and the schedule of its rate."""

    name: str = field("adamw", "the optimizer; see docs/optimizers.md for what each reads", choices=OPTIMIZERS)
    learning_rate: float = field(5e-5, "peak rate", above=0.0, adjustable="always")
    schedule: str = field(
        "linear",
        "shape after the warm-up; wsd: constant, then linear decay over the last decay_fraction",
        choices=SCHEDULES,
    )
    warmup_fraction: float = field(0.1, "share of all steps with rising rate", at_least=0.0, at_most=1.0)
    decay_fraction: float = field(0.2, "share of all steps with falling rate (wsd only)", at_least=0.0, at_most=1.0)
    decay_power: float = field(
        2.0, "the rate falls as (1 - share of the steps done) to this power (polynomial only)", above=0.0
    )
    final_fraction: float = field(
        0.0,
        "rate at the last step as a share of the peak; of inverse_sqrt the lowest rate",
        at_least=0.0,
        at_most=1.0,
        adjustable="always",
    )
    weight_decay: float = field(
        0.01, "decoupled decay, times the rate, of the parameters not in no_decay", at_least=0, adjustable="always"
    )
    no_decay: tuple[str, ...] = field(
        ("*/bias", "*norm/scale"),
        "path patterns (fnmatch) of parameters without decay; each that is not a default must match something",
    )
    b1: float = field(0.9, "decay of Adam's first moment", at_least=0.0, below=1.0, adjustable="always")
    b2: float = field(0.999, "decay of Adam's second moment", at_least=0.0, below=1.0, adjustable="always")
    eps: float = field(1e-8, "added to the root of Adam's second moment", above=0.0, adjustable="always")
    sgd: SgdConfig = dataclasses.field(default_factory=SgdConfig)
    lion: LionConfig = dataclasses.field(default_factory=LionConfig)
    adafactor: AdafactorConfig = dataclasses.field(default_factory=AdafactorConfig)
    muon: MuonConfig = dataclasses.field(default_factory=MuonConfig)
    clip_norm: float = field(
        1.0, "global gradient norm above which gradients are scaled down; 0: never", at_least=0, adjustable="above 0"
    )
    mup: int = field(
        0,
        "muP: the hidden_size of a small model whose learning rate holds for this one too (Yang et al. 2022), for "
        "models from scratch; 0: the standard parametrisation, whose best rate falls with the width",
        at_least=0,
    )
    spike_factor: float = field(
        0.0,
        "an update is skipped whose gradient norm, as a logarithm, lies more than so many robust deviations (1.4826 "
        "MAD) above the median of the last spike_window updates taken; 0: none is",
        at_least=0.0,
    )
    spike_window: int = field(
        64, "updates that a gradient norm is compared with, where spike_factor is set", at_least=8
    )

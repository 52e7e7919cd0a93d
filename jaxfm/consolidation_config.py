"""The keys of what a run is held to while it trains on: the config's group `consolidate`."""

import dataclasses

from jaxfm.schema import field


@dataclasses.dataclass(frozen=True)
class ConsolidationConfig:
    """What earlier training asks of later training, so that little of it is forgotten; see docs/continual.md."""

    importance: str = field(
        "",
        "a file of jaxfm.continual with the importance of each weight for earlier data, and its value there: important "
        "weights are held near that value (elastic weight consolidation, Kirkpatrick et al. 2017); empty: none",
    )
    weight: float = field(
        1.0, "factor of that penalty, weight / 2 * sum of importance * (weight - earlier weight)^2", at_least=0.0
    )
    orthogonal_to: str = field(
        "",
        "a file of jaxfm.continual with the low-rank updates (adapt.lora) of earlier stages: those that are trained "
        "now are kept orthogonal to them (O-LoRA, Wang et al. 2023, arXiv 2310.14152); empty: none",
    )
    orthogonal_weight: float = field(0.5, "factor of that penalty, the sum of (earlier A^T A)^2", at_least=0.0)

"""What a model costs, known before it is trained: names, limits, and whether a model is within them.

The numbers themselves come from above this room (`planning.config_costs`), as a function of a config.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from jaxfm.config import Config
from jaxfm.errors import UserError, did_you_mean

FLOPS, BYTES, PARAMETERS = "flops", "bytes", "parameters"
STEP_SECONDS, FORWARD_SECONDS = "step_seconds", "forward_seconds"
COSTS = (FLOPS, BYTES, PARAMETERS, STEP_SECONDS, FORWARD_SECONDS)
"""Operations of the forward pass a token, bytes of the weights, their number, and predicted seconds of one chip: of an
update, and of the forward pass of an evaluation batch."""
OF_A_CHIP = (STEP_SECONDS, FORWARD_SECONDS)
"""Those of `COSTS` that depend on a chip."""
FORMATS = {FLOPS: ",.0f", BYTES: ",.0f", PARAMETERS: ",.0f", STEP_SECONDS: ".3g", FORWARD_SECONDS: ".3g"}

CostModel = Callable[[Config], Mapping[str, float]]
"""Config -> the `COSTS` that are known; UserError where no model has its sizes together."""


def read_limits(words: Sequence[str], flag: str = "--most") -> dict[str, float]:
    """Reads limits, as ("flops=2e6", "parameters=5e6"): the most that a model may cost.

    Raises UserError for a word of another form, an unknown cost, one that is named twice, or a limit that is no number
    above 0.
    """
    found: dict[str, float] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in COSTS:
            hint = did_you_mean(name, COSTS) if equals else f"it must be COST=NUMBER, COST one of {', '.join(COSTS)}."
            raise UserError(f"{flag}={','.join(words)}: {word!r}: {hint}")
        if name in found:
            raise UserError(f"{flag}={','.join(words)}: names {name} twice.")
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = math.nan
        if not 0 < found[name] < math.inf:
            raise UserError(f"{flag}={','.join(words)}: {text!r} must be a number above 0, as {name}=2e6.")
    return found


def check_chip(chip: str, named: Iterable[str], flag: str) -> None:
    """Raises UserError where a cost of a chip is named, by `flag`, and no chip is."""
    for name in named:
        if name in OF_A_CHIP and not chip:
            raise UserError(f"{flag}: {name} is of a chip; say which one, as --chip=h100 or --chip=v5e.")


def above(costs: Mapping[str, float], limits: Mapping[str, float]) -> str:
    """Returns which limit a model is above, in words; "" where it is within all."""
    for name, limit in limits.items():
        if costs[name] > limit:
            return f"{name} {format(costs[name], FORMATS[name])} is above the limit of {format(limit, FORMATS[name])}"
    return ""

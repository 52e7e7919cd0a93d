"""What a smaller model is to come to: shares of the model that it is made of, a size in bytes, a loss of score."""

import dataclasses
from collections.abc import Sequence

from jaxfm.errors import UserError
from jaxfm.hub.tensor_writing import parse_size

FLOPS, SIZE, LATENCY, LOSS = "flops", "size", "latency", "loss"
EXAMPLES = {FLOPS: "flops:0.5", SIZE: "size:10MB or size:0.5", LATENCY: "latency:0.5", LOSS: "loss:0.005"}


@dataclasses.dataclass(frozen=True)
class Target:
    """The most that a model may have of something.

    Attributes:
      name: "flops", of the forward pass a token; "size", bytes of the weights; "latency", seconds of a forward pass;
        "loss", of the run's metric on the validation split, in its own units.
      limit: a share of the first model's; of "loss", and where `in_bytes`, a number by itself.
      in_bytes: whether it is a number of bytes.
    """

    name: str
    limit: float
    in_bytes: bool = False

    def __str__(self) -> str:
        return f"{self.name}:{f'{self.limit / 1e6:g}MB' if self.in_bytes else f'{self.limit:g}'}"

    def share_of(self, whole: float) -> float:
        """Returns the limit as a share of the first model's value."""
        return self.limit / whole if self.in_bytes else self.limit


def read_targets(words: Sequence[str], names: Sequence[str], flag: str = "--target") -> tuple[Target, ...]:
    """Reads targets, as ("flops:0.5", "size:10MB").

    Args:
      words: of the command line.
      names: those that there are.
      flag: for messages.

    Raises:
      UserError: a word of another form, an unknown name, one that is given twice, or a limit out of range.
    """
    found: dict[str, Target] = {}
    for word in words:
        name, colon, text = word.partition(":")
        examples = ", ".join(EXAMPLES[each] for each in names)
        if not colon or name not in names:
            raise UserError(f"{flag}={','.join(words)}: {word!r}: is no target here; write {examples}.")
        if name in found:
            raise UserError(f"{flag}={','.join(words)}: names {name} twice.")
        try:
            target = Target(name, float(text))
        except ValueError:
            if name != SIZE:
                raise UserError(f"{flag}={','.join(words)}: {text!r} must be a number, as {EXAMPLES[name]}.") from None
            target = Target(name, float(parse_size(f"{flag}: {name}", text)), in_bytes=True)
        largest = float("inf") if target.in_bytes else 1.0
        if not (0 <= target.limit <= largest if name == LOSS else 0 < target.limit < largest):
            rule = "0 or more, at most 1" if name == LOSS else "a share of the first model's: above 0 and below 1"
            raise UserError(f"{flag}={','.join(words)}: {word!r}: must be {rule}, as {EXAMPLES[name]}.")
        found[name] = target
    return tuple(found.values())

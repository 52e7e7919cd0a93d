"""The keys of how a model writes text, token by token: `Decoding`, a group that tasks include."""

import dataclasses

from jaxfm.errors import UserError
from jaxfm.schema import build, field

GREEDY, SAMPLE, BEAM = "greedy", "sample", "beam"
BEST, FIRST = "best", "first"


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How tokens are chosen from a model's scores of the vocabulary (docs/generation.md)."""

    method: str = field(
        GREEDY,
        "the likeliest token each time (greedy); one drawn by its probability (sample); or the likeliest text that a "
        "search over several at once finds (beam)",
        choices=(GREEDY, SAMPLE, BEAM),
    )
    max_tokens: int = field(
        64,
        "tokens of a text at most, its end token counted; decoding ends earlier where all texts have ended",
        at_least=1,
        at_most=1_000_000,
    )
    min_tokens: int = field(0, "tokens of a text at least, before its end token; below max_tokens", at_least=0)
    beams: int = field(4, "of beam: texts that are continued at once", at_least=2, at_most=1024)
    length_penalty: float = field(
        1.0,
        "of beam: texts are compared by the sum of their log probabilities over tokens^this, the end token counted; 0: "
        "the sum, which favours short texts, 1: the mean",
        at_least=-10.0,
        at_most=10.0,
    )
    stop: str = field(
        BEST,
        "of beam: a search ends when no text that goes on can still become the best (best), or as soon as there are as "
        "many finished texts as beams (first)",
        choices=(BEST, FIRST),
    )
    temperature: float = field(
        1.0,
        "of sample: scores are divided by it; below 1 likely tokens are drawn more often",
        at_least=1e-3,
        at_most=1e3,
    )
    top_p: float = field(
        1.0,
        "of sample: only the likeliest tokens are drawn from, the fewest that have this probability together "
        "(Holtzman et al. 2020, section 3.1)",
        above=0.0,
        at_most=1.0,
    )
    no_repeat_ngram: int = field(
        0, "no sequence of this number of tokens appears twice in what is written; 0: no such rule", at_least=0
    )
    seed: int = field(0, "of sample: the same seed draws the same texts", at_least=0, at_most=2**32 - 1)

    @property
    def width(self) -> int:
        """Number of texts that are continued at once for each prefix."""
        return self.beams if self.method == BEAM else 1

    def check(self, root: str = "decoding.") -> None:
        """Checks each value, and those that must fit each other; `root` is what keys begin with in messages.

        Raises:
          UserError: a value out of its range, or two that do not fit.
        """
        build(Decoding, dataclasses.asdict(self), root=root)
        if self.min_tokens >= self.max_tokens:
            raise UserError(
                f"{root}min_tokens: is {self.min_tokens}, but must be below {root}max_tokens ({self.max_tokens}), "
                f"which counts the end token too: at most {self.max_tokens - 1}."
            )

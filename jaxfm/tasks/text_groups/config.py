"""Config keys of every task over groups of texts: what is read, and what is minimised over similarities."""

import dataclasses

from jaxfm.schema import field

AUTO_PROMPT = "auto"  # what is put before texts is as the files of the first weights say
KINDS = ("pairs", "scored", "teacher")
LOSSES = {
    "pairs": ("infonce", "triplet"),
    "scored": ("cosent", "cosine"),
    "teacher": ("margin_mse", "kl", "infonce"),
}


def prompt_or(given: str, found: str) -> str:
    """Returns the prompt that a config gives, or where it is "auto" the one that was found beside the first weights."""
    return found if given == AUTO_PROMPT else given


@dataclasses.dataclass(frozen=True)
class SimilarityLossConfig:
    """What is minimised."""

    function: str = field(
        "auto",
        "infonce: the positive among all texts of the batch; triplet: closer than the group's negatives by a margin; "
        "cosent: the order of scored pairs; cosine: their scores themselves; margin_mse, kl: a teacher's scores; auto: "
        "infonce for pairs, cosent for scored pairs, margin_mse for a teacher's scores",
        choices=("auto", "infonce", "triplet", "cosent", "cosine", "margin_mse", "kl"),
    )
    temperature: float = field(
        0.05,
        "similarities are divided by it (not by triplet and cosine)",
        above=0.0,
        adjustable="unless learned_temperature",
    )
    learned_temperature: bool = field(False, "the temperature is trained, from `temperature` on")
    symmetric: bool = field(False, "infonce: also the anchor of each positive among all anchors, half each")
    margin: float = field(0.3, "triplet: how much more similar the positive must be", above=0.0)
    score_range: float = field(1.0, "cosine: scores are divided by it to lie between -1 and 1", above=0.0)


@dataclasses.dataclass(frozen=True)
class TextGroupsConfig:
    """What groups of texts are read."""

    kind: str = field(
        "pairs",
        "texts that belong together, with or without negatives (pairs); two texts and a number (scored); passages with "
        "the scores of another model (teacher)",
        choices=KINDS,
    )
    negative_columns: str = field(
        "", "pairs, teacher: columns of negatives, A,B,C, or one of lists; empty: negative, negative_1 ..., negatives"
    )
    label_rule: str = field(
        "",
        "pairs: what a label of two texts means: nli (entailment: positive, contradiction: negative), binary (1: "
        "positive), all (every row is a positive pair); empty: a source with such labels is refused",
        choices=("", "nli", "binary", "all"),
    )
    context_turns: int = field(3, "dialogues: turns before a response that are its context", at_least=1)
    context_separator: str = field(
        "", "dialogues: between the turns of a context; empty: the separator of the tokenizer"
    )
    responder: str = field("", "dialogues: the speaker whose turns are responses (SYSTEM); empty: every speaker")
    negatives: int = field(4, "most negatives of a group that are read; the first ones", at_least=0)

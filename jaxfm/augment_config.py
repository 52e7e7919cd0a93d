"""The keys of changed text in training: the config's group `augment`."""

import dataclasses

from jaxfm.schema import field

MASK, UNKNOWN = "mask", "unknown"


@dataclasses.dataclass(frozen=True)
class TextAugmentConfig:
    """Changes of the training rows, drawn anew at each step; see docs/augmentation.md."""

    word_dropout: float = field(
        0.0,
        "share of the words of a training row that are hidden from the model (Iyyer et al. 2015); 0: none",
        at_least=0.0,
        at_most=0.9,
    )
    dropped_to: str = field(
        MASK, "what a hidden word's tokens become: the tokenizer's mask or its unknown token", choices=(MASK, UNKNOWN)
    )
    substitute: float = field(
        0.0,
        "share of the words of a training row that are replaced by draws of a frozen masked LM (Kobayashi 2018); 0: "
        "none",
        at_least=0.0,
        at_most=0.5,
    )
    masked_lm: str = field(
        "",
        "URI of that masked LM's weights, of the same tokenizer: run:WORKDIR, hf:OWNER/NAME[@REVISION], dir:PATH or "
        "package:MODULE/SUBDIR",
    )
    temperature: float = field(
        1.0, "of its probabilities; below 1 likelier words are drawn more often", at_least=0.05, at_most=10.0
    )
    mixup: float = field(
        0.0,
        "both parameters of the beta distribution that the share of the other example is drawn from, where hidden "
        "states of two training examples are mixed (Verma et al. 2019; Chen et al. 2020, TMix); 0: none are",
        at_least=0.0,
    )
    mixup_layers: tuple[int, ...] = field(
        (),
        "numbers of layers after one of which, drawn at each step, hidden states are mixed; 0: the embeddings are. "
        "Empty: after 7/12, 9/12 and all of the layers (as TMix)",
    )
    start: float = field(
        0.0, "share of the run's updates before the first whose rows are changed", at_least=0.0, at_most=1.0
    )
    stop: float = field(
        1.0, "share of the run's updates after which rows are left as they are", at_least=0.0, at_most=1.0
    )

"""The keys of learning from a trained model: the config's group `distil`."""

import dataclasses

from jaxfm.schema import field

LAYER_LOSSES = HIDDEN, ATTENTION, RELATIONS = tuple("hidden attention relations".split())
"""Keys of the losses over what layers say; in one word, as a task has the name of the last one."""


@dataclasses.dataclass(frozen=True)
class DistilConfig:
    """A trained model, the teacher, that a run learns from beside its targets; see docs/distillation.md."""

    teacher: str = field(
        "",
        "URI of the teacher's weights: run:WORKDIR, hf:OWNER/NAME[@REVISION], dir:PATH or package:MODULE/SUBDIR; of "
        "several, separated by commas, the mean of their logits is learned from",
    )
    hard: float = field(0.5, "weight of the task's own loss, against the targets", at_least=0.0)
    soft: float = field(
        0.5,
        "weight of the loss against the teacher's outputs (Hinton et al. 2015): classes, labels, numbers",
        at_least=0.0,
    )
    temperature: float = field(2.0, "of the teacher's and the student's probabilities in that loss", above=0.0)
    hidden: float = field(
        0.0,
        "weight of the loss against the teacher's hidden states, after the embeddings and after each layer (Jiao et "
        "al. 2020, TinyBERT: 1)",
        at_least=0.0,
    )
    attention: float = field(
        0.0,
        "weight of the loss against the teacher's scores of attention, layer by layer (TinyBERT: 1); both models have "
        "the same number of heads",
        at_least=0.0,
    )
    relations: float = field(
        0.0,
        "weight of the loss against the relations among the queries, the keys and the values of one layer of the "
        "teacher (Wang et al. 2021, MiniLMv2: 1); any width and number of heads",
        at_least=0.0,
    )
    relation_heads: int = field(
        0, "heads that relations are computed by, which divide both models' widths; 0: the teacher's heads", at_least=0
    )
    relation_layer: int = field(
        0,
        "layer of the teacher, from 1, that the student's last layer learns the relations of; 0: its last",
        at_least=0,
    )
    layers: tuple[int, ...] = field(
        (),
        "for each layer of the student, the layer of the teacher, from 1, whose hidden states and attention it learns; "
        "0: none. Empty: evenly, where the student's number of layers divides the teacher's",
    )
    cache: bool = field(
        False,
        "the teacher's outputs for the training rows are computed once, before training, and kept on the disk, in the "
        "folder of data.cache, by the content of rows and teacher; only of the loss `soft`",
    )

    @property
    def teachers(self) -> tuple[str, ...]:
        """URI of each teacher."""
        return tuple(uri.strip() for uri in self.teacher.split(",") if uri.strip())

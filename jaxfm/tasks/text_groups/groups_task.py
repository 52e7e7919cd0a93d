"""A task over groups of texts, whatever a text becomes: its splits, and the rows of its training groups."""

# M groups

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from jaxfm.core.batch import Dataset
from jaxfm.core.objective import WholeBatchObjective
from jaxfm.core.spec import write_spec
from jaxfm.core.task import TOKENIZER_DIR
from jaxfm.data.records.text_groups import TextGroup
from jaxfm.data.text.grouped_rows import GroupedRows, known_positives, pack_groups
from jaxfm.tasks.text_groups.encoding import TextsSpec, unmarked
from jaxfm.tasks.text_groups.group_texts import EvaluatedGroups, TokenizedGroups, shortened, text_numbers
from jaxfm.tasks.text_groups.scorer import GroupsScorer, directions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Of an anchor's known positives at most so many are kept from being its negatives: an array of numbers a group.
MOST_POSITIVES = 64
_Spec = TypeVar("_Spec", bound=TextsSpec)


@dataclasses.dataclass(frozen=True)
class GroupsTask:
    """A model that compares texts, with the splits of one source (implements jaxfm.core.task.Task).

    Attributes:
      name: of the task.
      scorer_class: scores its splits.
      objective: model and loss.
      tokenizer: of the run.
      groups: of each split.
      train: rows of the training split; None in evaluation.
      evaluated: rows of each other split.
      notes: lines for the log.
      chosen: keys that the config left to the data.
    """

    name: str
    scorer_class: type[GroupsScorer]
    objective: WholeBatchObjective
    tokenizer: "PreTrainedTokenizerFast"
    groups: Mapping[str, tuple[TextGroup, ...]]
    train: GroupedRows | None
    evaluated: Mapping[str, EvaluatedGroups]
    notes: tuple[str, ...]
    chosen: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def directions(self) -> Mapping[str, bool]:
        """Metrics that may choose a checkpoint -> is more better?"""
        return directions(self._spec.kind)

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Split -> packed rows."""
        train: dict[str, Dataset] = {} if self.train is None else {"train": self.train}
        return train | {split: found.rows for split, found in self.evaluated.items()}

    def scorer(self, split: str) -> GroupsScorer:
        """Returns what scores a split."""
        return self.scorer_class(self._spec, self.groups[split], self.evaluated[split])

    def labelled_records(self, split: str) -> list[dict[str, Any]]:
        """See core.task.GivesRecords: each anchor with the first text that goes with it; gold is their score."""
        return [
            {"text": each.anchor, "pair": each.others[0], "origin": each.origin}
            | {"gold": each.scores[0] if each.scores else None}
            for each in self.groups[split]
        ]

    def save(self, workdir: pathlib.Path) -> None:
        """Writes task.json and the tokenizer's files."""
        self.tokenizer.save_pretrained(workdir / TOKENIZER_DIR)
        write_spec(workdir, self.name, self.objective.spec)

    @property
    def _spec(self) -> Any:
        return self.objective.spec  # a TextsSpec, which a Spec by itself need not be


def packed_training(
    spec: _Spec,
    groups: Sequence[TextGroup],
    tokenized: TokenizedGroups,
    tokenizer: "PreTrainedTokenizerFast",
    seed: int,
    function: str,
) -> tuple[_Spec, GroupedRows, tuple[str, ...]]:
    """Returns the spec with the most positives of an anchor, the shuffled rows of training groups, and notes.

    `function` is the name of the loss: infonce alone asks which texts are known to fit an anchor.
    """
    numbers = text_numbers(groups)
    positives, notes = None, ()
    if function == "infonce":
        positives, notes = _positives(numbers)
    scores = None
    if spec.kind != "pairs":
        scores = np.zeros((len(groups), spec.texts - 1), np.float32)
        for row, group in enumerate(groups):
            scores[row, : len(group.scores)] = group.scores
    pad_id = tokenizer.pad_token_id
    assert isinstance(pad_id, int), "see check_tokenizer"
    rows = unmarked(
        pack_groups(
            [shortened(group, spec.row_length) for group in tokenized.tokens],
            numbers,
            row_length=spec.row_length,
            texts=spec.texts,
            groups_per_row=spec.groups,
            pad_id=pad_id,
            seed=seed,
            scores=scores,
            positives=positives,
        )
    )
    width = 0 if positives is None else positives.shape[1]
    cut = int((tokenized.cut | (tokenized.lengths > spec.row_length)).sum())
    more = f"; {cut:,} groups have texts cut to fit (the rest is not read)" if cut else ""
    packed = f"train: {len(groups):,} groups of texts in {len(rows):,} rows, {len(groups) / len(rows):.1f} a row{more}"
    return dataclasses.replace(spec, positives=width), rows, (*notes, packed)  # type: ignore[type-var]


def _positives(numbers: Sequence[Sequence[int]]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Returns the numbers of the texts that fit each anchor, and notes; None: no anchor has a second one."""
    table, over = known_positives([one[0] for one in numbers], [one[1] for one in numbers], MOST_POSITIVES)
    if table is None:
        return None, ()
    if not over:
        return table, ("train: known positives of an anchor are never its negatives",)
    return table, (
        f"NOTE: train: {over:,} anchors have more than {MOST_POSITIVES} known positives; those after the first "
        f"{MOST_POSITIVES} may be taken for negatives where they meet in a batch",
    )

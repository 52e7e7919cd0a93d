"""Groups of texts of a config's source and the loss over them, for every task that compares texts."""

# M groups, K texts a group

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxfm.config import Config
from jaxfm.core.initial import Initial
from jaxfm.data.records.dialogues import DialogueOptions
from jaxfm.data.records.group_columns import GroupColumns
from jaxfm.data.records.source_keys import split_keys
from jaxfm.data.records.text_groups import GroupSplit, TextGroup, read_groups
from jaxfm.errors import UserError
from jaxfm.tasks.text_groups.encoding import DOCUMENT, TextsSpec
from jaxfm.tasks.text_groups.group_texts import EvaluatedGroups

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def check_training(source: str, kind: str, groups: Sequence[TextGroup], function: str) -> None:
    """Raises UserError where nothing can be learned from the training groups."""
    if len(groups) < 2:
        raise UserError(
            f"config.data.source: the training split of {source} has {len(groups)} group of texts, so that there is "
            "nothing to compare it with. Give two or more."
        )
    if function == "triplet" and not any(len(group.others) > 1 for group in groups):
        raise UserError(
            "config.task.loss.function: triplet needs a negative in each group, but no group has one. Take infonce, "
            "whose negatives are the other texts of the batch, or add a column `negative`."
        )
    if function == "infonce" and len({group.others[0] for group in groups}) == 1:
        raise UserError(
            f"config.data.source: all {len(groups):,} training pairs of {source} have one positive: "
            f"{groups[0].others[0]!r:.60}. There is nothing to tell apart."
        )
    if kind == "scored" and len({group.scores for group in groups}) == 1:
        raise UserError(
            f"config.data.source: all {len(groups):,} training pairs of {source} have the score "
            f"{groups[0].scores[0]:g}: there is nothing to learn."
        )


def read_source(
    config: Config, splits: Sequence[str] | None, tokenizer: "PreTrainedTokenizerFast"
) -> dict[str, GroupSplit]:
    """Reads the groups of a config's source with `task.negatives` negatives at most; None: of all its splits.

    The tokenizer says what separates turns.
    """
    data, task = config.data, config.task
    columns = GroupColumns(data.text_column, data.pair_column, task.negative_columns, data.label_column)
    separator = task.context_separator or f" {tokenizer.sep_token or tokenizer.eos_token or ''} "
    read = read_groups(
        data.source,
        splits,
        columns=columns,
        kind=task.kind,
        label_rule=task.label_rule,
        holdout=data.holdout,
        by=split_keys(data),
        dialogue=DialogueOptions(task.context_turns, separator, task.responder),
    )
    return {
        split: dataclasses.replace(found, groups=_capped(found.groups, task.negatives)) for split, found in read.items()
    }


def _capped(groups: Sequence[TextGroup], negatives: int) -> tuple[TextGroup, ...]:
    """Returns groups with at most so many negatives."""
    most = negatives + 1
    return tuple(
        group
        if len(group.others) <= most
        else dataclasses.replace(group, others=group.others[:most], scores=group.scores[:most])
        for group in groups
    )


def has_projection(initial: Initial, dimension: int) -> bool:
    """Whether the first weights have a linear map to so many numbers."""
    found = initial.params.get("projection/kernel")
    return bool(dimension) and found is not None and found.shape[-1] == dimension


def evaluated_note(split: str, found: EvaluatedGroups, spec: TextsSpec) -> str:
    """Returns a sentence for the log: the texts of a split."""
    cut = int(found.encoded.cut.sum())
    more = f"; {cut:,} texts cut to {spec.reading(DOCUMENT).length} tokens" if cut else ""
    if spec.kind == "scored":
        return f"{split}: {len(found.members):,} pairs of {len({*found.queries, *found.documents}):,} texts{more}"
    return f"{split}: {len(found.queries):,} queries, {len(found.documents):,} documents to rank for each{more}"

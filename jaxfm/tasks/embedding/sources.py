"""The groups of texts of a config's source, and what the log says of them."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxfm.config import Config
from jaxfm.data.records.dialogues import DialogueOptions
from jaxfm.data.records.group_columns import GroupColumns
from jaxfm.data.records.text_groups import GroupSplit, TextGroup, read_groups
from jaxfm.data.text.grouped_rows import known_positives
from jaxfm.tasks.embedding.group_texts import MOST_POSITIVES, EvaluatedGroups, TokenizedGroups, text_numbers
from jaxfm.tasks.embedding.spec import DOCUMENT, TextsSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def read_source(
    config: Config, splits: Sequence[str] | None, tokenizer: "PreTrainedTokenizerFast"
) -> dict[str, GroupSplit]:
    """Reads the groups of a config's source; None: of all its splits. The tokenizer says what separates turns."""
    data, task = config.data, config.task
    columns = GroupColumns(data.text_column, data.pair_column, task.negative_columns, data.label_column)
    separator = task.context_separator or f" {tokenizer.sep_token or tokenizer.eos_token or ''} "
    return read_groups(
        data.source,
        splits,
        columns=columns,
        kind=task.kind,
        label_rule=task.label_rule,
        holdout=data.holdout,
        dialogue=DialogueOptions(task.context_turns, separator, task.responder),
    )


def capped(groups: Sequence[TextGroup], negatives: int) -> tuple[TextGroup, ...]:
    """Returns groups with at most so many negatives."""
    most = negatives + 1
    return tuple(
        group
        if len(group.others) <= most
        else dataclasses.replace(group, others=group.others[:most], scores=group.scores[:most])
        for group in groups
    )


def most_positives(groups: Sequence[TextGroup], function: str) -> tuple[tuple[str, ...], int]:
    """Returns notes, and the most positives that an anchor is known to have; 0: no anchor has a second one."""
    if function != "infonce":
        return (), 0
    ids = text_numbers(groups)
    table, over = known_positives([one[0] for one in ids], [one[1] for one in ids], MOST_POSITIVES)
    if table is None:
        return (), 0
    notes = ("train: known positives of an anchor are never its negatives",)
    if over:
        notes = (
            f"NOTE: train: {over:,} anchors have more than {MOST_POSITIVES} known positives; those after the first "
            f"{MOST_POSITIVES} may be taken for negatives where they meet in a batch",
        )
    return notes, table.shape[1]


def cut_note(spec: TextsSpec, tokenized: TokenizedGroups) -> str:
    """Returns a clause for the log: how many groups have texts that are cut."""
    count = int((tokenized.cut | (tokenized.lengths > spec.row_length)).sum())
    return f"; {count:,} groups have texts cut to fit (the rest is not read)" if count else ""


def evaluated_note(split: str, found: EvaluatedGroups, spec: TextsSpec) -> str:
    """Returns a sentence for the log: the texts of a split."""
    cut = int(found.encoded.cut.sum())
    more = f"; {cut:,} texts cut to {spec.length(DOCUMENT)} tokens" if cut else ""
    if spec.kind == "scored":
        return f"{split}: {len(found.members):,} pairs of {len({*found.queries, *found.documents}):,} texts{more}"
    return f"{split}: {len(found.queries):,} queries, {len(found.documents):,} documents to rank for each{more}"

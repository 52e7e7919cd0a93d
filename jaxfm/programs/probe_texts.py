"""The labelled texts that probes are fitted to and scored on."""

from collections.abc import Mapping

from jaxfm.data.records.examples import Example, ExampleColumns, read_examples
from jaxfm.data.records.splits import require_split
from jaxfm.errors import UserError

COLUMNS = ("text_column", "label_column")


def read_labelled(
    source: str, split: str, columns: Mapping[str, str]
) -> tuple[dict[str, tuple[Example, ...]], str, list[str]]:
    """Returns the texts of train and of the split, the split's usual name, and lines about them.

    Raises UserError for the split train, pairs of texts, one label alone, no label that two texts share.
    """
    split = require_split(split)
    if split == "train":
        raise UserError("--split=train: the probe is fitted to train; name another split.")
    named = ExampleColumns(columns.get("text_column", ""), "", columns.get("label_column", ""))
    read = read_examples(source, ("train", split), columns=named, kind="single")
    found = {name: each.examples for name, each in read.items()}
    if found["train"][0].pair is not None:
        raise UserError(
            f"{found['train'][0].origin}: has two texts, but a vector is of one. Name the column of one of them: "
            "--config.data.text_column."
        )
    labels = {str(example.target) for example in found[split]}
    if len(labels) < 2:
        raise UserError(f"{source}: {split} has the label {next(iter(labels))!r} alone: nothing to tell apart.")
    if len(found[split]) <= len(labels):
        raise UserError(
            f"{source}: {split} has {len(found[split])} texts of {len(labels)} labels; clusters need labels that "
            "several texts share."
        )
    notes = [each.note for each in read.values()]
    if unseen := sorted(labels - {str(example.target) for example in found["train"]}):
        listed = ", ".join(unseen[:10]) + (" ..." if len(unseen) > 10 else "")
        notes.append(f"NOTE: {len(unseen)} labels of {split} do not occur in train, and are never predicted: {listed}")
    return found, split, notes

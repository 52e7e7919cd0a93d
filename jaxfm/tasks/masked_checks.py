"""Checks of running text before pretraining: sizes, repeats, documents in two splits, unknown tokens, padding."""

from collections.abc import Mapping

from jaxfm.config import Config
from jaxfm.core.data_check import DataCheck, Finding
from jaxfm.core.initial import Initial
from jaxfm.data.corpora.corpus import Corpus
from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.corpora.preparation_report import unknown_warning
from jaxfm.data.corpora.pretraining import open_documents, open_pretraining
from jaxfm.data.corpora.shards import ShardedRows
from jaxfm.observe.tables import Table
from jaxfm.tasks.text_checks import MANY_DUPLICATES, MANY_LEAKS, shown

LITTLE_FILLED = 0.8  # share of the tokens in rows that are text; packed running text has 0.95 and more
FEW_ROWS = 100  # of training: fewer teach a new encoder nothing


def check_text(config: Config, initial: Initial) -> DataCheck:
    """Opens the source of a pretraining run (prepares it first where it is plain text, as training does) and checks it.

    Raises UserError as `open_pretraining`.
    """
    data = open_pretraining(config.data, config.model.tokenizer, initial.tokenizer)
    rows = [
        (
            split,
            found.manifest["documents"],
            found.manifest["bytes"] / 1e6,
            sum(found.manifest["dropped"].values()),
            len(found),
            found.useful_share,
            found.manifest["unknown_share"],
        )
        for split, found in data.rows.items()
    ]
    columns = ("split", "documents", "MB", "left out", "rows", "filled", "unknown tokens")
    formats = {"MB": ",.2f", "filled": ".1%", "unknown tokens": ".2%"}
    corpus = open_documents(config.data)
    findings = (
        *(check_repeats(split, found) for split, found in data.rows.items() if found.manifest["documents"]),
        *(check_shared(corpus) if corpus is not None else ()),
        *(check_unknown(split, found) for split, found in data.rows.items()),
        *(check_fill(split, found) for split, found in data.rows.items()),
        check_size(data.rows),
    )
    return DataCheck((Table("Splits", columns, rows, formats=formats),), findings)


def check_repeats(split: str, rows: ShardedRows) -> Finding:
    """Says how many documents were left out, as copies of others or because they share text with a test set."""
    documents, dropped = rows.manifest["documents"], rows.manifest["dropped"]
    left_out = sum(dropped.values())
    if not left_out:
        return Finding("ok", f"duplicates of {split}", "no document was left out")
    share = left_out / documents
    why = ", ".join(f"{reason} {count:,}" for reason, count in dropped.items() if count)
    message = f"{left_out:,} of {documents:,} documents ({share:.1%}) were left out: {why}"
    if share <= MANY_DUPLICATES:
        return Finding("ok", f"duplicates of {split}", message)
    fix = "nothing, if that is right: they are not trained on; python -m jaxfm.prepare lists the first ones"
    return Finding("warning", f"duplicates of {split}", message, fix)


def check_shared(corpus: Corpus) -> list[Finding]:
    """Checks for documents of held-out splits that are in train as well."""
    held_out: dict[float, dict[str, tuple[str, str]]] = {}
    sizes: dict[str, int] = {}
    for split in (split for split in corpus.splits if split != "train"):
        for document in corpus.splits[split]():
            sizes[split] = sizes.get(split, 0) + 1
            held_out.setdefault(uniform_hash(document.text), {})[split] = (document.origin, document.text)
    shared: dict[str, list[str]] = {split: [] for split in sizes}
    for document in corpus.splits["train"]():
        for split, (origin, text) in held_out.get(uniform_hash(document.text), {}).items():
            shared[split].append(f"{origin}: as {document.origin}: {shown(text)}")
    findings = []
    for split, places in shared.items():
        if not places:
            findings.append(Finding("ok", f"leaks into {split}", "none of its documents is in train"))
            continue
        share = len(places) / sizes[split]
        findings.append(
            Finding(
                "error" if share >= MANY_LEAKS else "warning",
                f"leaks into {split}",
                f"{len(places):,} documents of train are among the {sizes[split]:,} of {split}",
                f"remove them from train: scores on {split} are too good otherwise",
                tuple(places),
            )
        )
    return findings


def check_unknown(split: str, rows: ShardedRows) -> Finding:
    """Checks what share of the text is unknown to the tokenizer."""
    found = unknown_warning(rows.manifest)
    if found is None:
        return Finding("ok", f"unknown tokens of {split}", f"{rows.manifest['unknown_share']:.2%} of the tokens")
    return Finding("warning", f"unknown tokens of {split}", *found)


def check_fill(split: str, rows: ShardedRows) -> Finding:
    """Checks how much of the rows is text rather than padding."""
    message = f"{rows.useful_share:.1%} of the {len(rows):,} rows of {rows.row_length} tokens is text, the rest padding"
    if rows.useful_share >= LITTLE_FILLED:
        return Finding("ok", f"fill of {split}", message)
    fix = "longer rows pack better (--config.data.row_length), and so does --config.data.packed=True"
    return Finding("warning", f"fill of {split}", message, fix)


def check_size(rows: Mapping[str, ShardedRows]) -> Finding:
    """Checks that there is something to learn from."""
    count = len(rows["train"])
    message = f"train has {count:,} rows, {count * rows['train'].row_length * rows['train'].useful_share:,.0f} tokens"
    if count >= FEW_ROWS:
        return Finding("ok", "size", message)
    return Finding("warning", "size", message, "take more text: so little teaches an encoder nothing new")

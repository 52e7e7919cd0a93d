"""What became of a corpus, for a person and for a program: report.md, report.json and a plot of document lengths."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm import files
from jaxfm.data.corpora import deduplication
from jaxfm.observe.plots import plot_histogram
from jaxfm.observe.progress import format_seconds
from jaxfm.observe.tables import Cell, Table, to_markdown

# Shares of unknown tokens, and of text in unknown tokens, from which a tokenizer is said not to fit.
MANY_UNKNOWN, MUCH_UNKNOWN = 0.01, 0.02
JSON_FILE, MARKDOWN_FILE, PLOT_FILE = "report.json", "report.md", "lengths.png"


def write_preparation_report(
    directory: pathlib.Path,
    content: Mapping[str, Any],
    run: Mapping[str, Any],
    dropped: Mapping[str, Sequence[str]],
) -> None:
    """Writes report.md, lengths.png and report.json into `directory`.

    Args:
      directory: the prepared corpus.
      content: what the manifest says.
      run: of the call that finished it: {"seconds", "megabytes_per_second", "found_finished", "workers"}.
      dropped: reason -> where the first documents that were left out for it are.
    """
    lengths = length_counts(content["histogram"])
    plot_histogram(
        lengths,
        directory / PLOT_FILE,
        title="Length of documents",
        x_label="pieces of a document",
        y_label="documents",
    )
    text = to_preparation_text(content, run, dropped)
    files.write_text(directory / MARKDOWN_FILE, text)
    values = {key: value for key, value in content.items() if key != "shards"}
    values |= {"shards": len(content["shards"]), "run": dict(run), "dropped_documents": dict(dropped)}
    files.write_json(directory / JSON_FILE, values)


def unknown_warning(content: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns what is unknown of a text to its tokenizer and what to do, if that is much; `content` of a manifest."""
    pieces, text = content["unknown_share"], content.get("unknown_text_share", 0.0)
    if pieces <= MANY_UNKNOWN and text <= MUCH_UNKNOWN:
        return None
    return (
        f"{pieces:.1%} of the pieces are the unknown token" + (f", which holds {text:.1%} of the text" if text else ""),
        "the tokenizer does not fit this text, or words are too long for it (WordPiece: more than 100 letters without "
        "a space). Take another, or train one on it: python -m jaxfm.tokenizer, or model.tokenizer=train:bpe/SIZE, "
        "which knows every character.",
    )


def length_counts(histogram: Sequence[int]) -> dict[str, int]:
    """Returns label -> documents, from the shortest class that has any to the longest."""
    labels = ["0", *(f"{2**b // 2:,}" if b == 1 else f"{2**b // 2:,}-{2**b - 1:,}" for b in range(1, len(histogram)))]
    filled = [index for index, count in enumerate(histogram) if count]
    if not filled:
        return {"0": 0}
    return {labels[index]: histogram[index] for index in range(filled[0], filled[-1] + 1)}


def to_preparation_text(
    content: Mapping[str, Any], run: Mapping[str, Any], dropped: Mapping[str, Sequence[str]]
) -> str:
    """Returns the text of report.md; arguments as for `write_preparation_report`."""
    settings = content["settings"]
    parts = [
        f"# Prepared corpus: {settings['source']}",
        f"{content['documents']:,} documents ({content['bytes'] / 1e6:,.1f} MB) became {content['rows']:,} rows of "
        f"{content['row_length']:,} tokens in {len(content['shards']):,} shards; {content['useful_share']:.1%} of the "
        "tokens in the rows are not padding.",
        to_markdown(_content_table(content)),
    ]
    if unknown := unknown_warning(content):
        parts.append(f"**{unknown[0]}**: {unknown[1]}")
    parts += ["## Left out", to_markdown(_dropped_table(content)), *_left_out(content, dropped)]
    lengths = [(label, count) for label, count in length_counts(content["histogram"]).items()]
    parts += [
        "## Length of documents",
        to_markdown(Table("Lengths", ("pieces", "documents"), lengths)),
        f"![length of documents](<{PLOT_FILE}>)",
        "## Settings",
        to_markdown(_settings_table(settings)),
        "## Cost",
        to_markdown(_cost_table(run)),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _content_table(content: Mapping[str, Any]) -> Table:
    kept = content["documents"] - sum(content["dropped"].values())
    rows: list[tuple[Cell, ...]] = [
        ("documents read", content["documents"]),
        ("documents kept", kept),
        ("characters read", content["characters"]),
        ("pieces of text", content["pieces"]),
        ("tokens, with [CLS] and [SEP]", content["tokens"]),
        ("rows", content["rows"]),
        ("useful share of the rows", f"{content['useful_share']:.2%}"),
        ("unknown pieces", f"{content['unknown_share']:.4%}"),
        ("text in unknown pieces (of a sample)", f"{content.get('unknown_text_share', 0.0):.4%}"),
        ("documents without a piece", content["histogram"][0]),
    ]
    return Table("Content", ("what", "how much"), [(name, _text(value)) for name, value in rows])


def _dropped_table(content: Mapping[str, Any]) -> Table:
    # By characters too: one long document may be much of a corpus.
    documents, characters = content["dropped"], content["dropped_characters"]
    rows = [
        (why, documents.get(why, 0), characters.get(why, 0), characters.get(why, 0) / content["characters"])
        for why in (deduplication.EXACT, deduplication.NEAR, deduplication.CONTAMINATED)
    ]
    columns = ("reason", "documents", "characters", "share of the characters")
    return Table("Left out", columns, rows, formats={columns[-1]: ".2%"})


def _left_out(content: Mapping[str, Any], dropped: Mapping[str, Sequence[str]]) -> list[str]:
    parts = []
    if content["settings"]["contamination"]:
        found = [(name, content["overlaps"].get(name, 0)) for name in content["settings"]["contamination"]]
        parts.append(to_markdown(Table("Overlaps", ("evaluation text", "documents that overlap"), found)))
    for reason, origins in dropped.items():
        more = content["dropped"][reason] - len(origins)
        parts.append(f"{reason}: {', '.join(origins)}" + (f" and {more:,} more" if more else ""))
    return parts


def _settings_table(settings: Mapping[str, Any]) -> Table:
    rows = [(name, _text(value)) for name, value in settings.items() if name != "contamination"]
    return Table("Settings", ("setting", "value"), rows)


def _cost_table(run: Mapping[str, Any]) -> Table:
    rows = [
        ("seconds", f"{run['seconds']:,.1f} ({format_seconds(run['seconds'])})"),
        ("MB of text a second", f"{run['megabytes_per_second']:,.2f}"),
        ("worker processes", _text(run["workers"])),
        ("shards found finished", _text(run["found_finished"])),
    ]
    return Table("Cost", ("of the last run", "value"), rows)


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)

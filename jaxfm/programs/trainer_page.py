"""The page docs/from_transformers.md, all arguments of transformers' Trainer, from the table of `trainer_arguments`."""

from collections.abc import Sequence

from jaxfm.programs.trainer_arguments import GROUPS, OTHERS, RENAMED, Argument

_HEAD = """\
# Coming from transformers' Trainer

jaxfm reads a script, without running it, and shows the command that does the same:

    jaxfm from-trainer train.py

It says of each argument of `TrainingArguments` what became of it, names with its line what is not written as a literal
value, and lists the Trainer's defaults that are others than jaxfm's. A JSON or YAML file of arguments
(`TrainingArguments.to_json_string()`) can be given as well, with `--base` for the config to start from:

    jaxfm from-trainer arguments.yaml --base classification:files --devices 2

jaxfm itself tokenizes words, aligns labels with them, packs examples into rows and masks tokens: a script's functions
for these have no counterpart. Data in memory (a `datasets.DatasetDict`, a DataFrame, lists of dicts) go to
`jaxfm.train(..., data=...)`: see [from Python](python.md). A finished run goes back to transformers by
`jaxfm export --workdir RUN --output DIR`.

Names and defaults are those of transformers 5; what only version 4 had is marked (4). The keys are explained in
[configuration](configuration.md).

This page is generated: `python -m jaxfm.reference --page=transformers --output=docs/from_transformers.md`.
"""


def transformers_page() -> str:
    """Returns docs/from_transformers.md: every argument of the Trainer and what it is in jaxfm."""
    parts = [_HEAD]
    for title, arguments in GROUPS.items():
        rows = [(_named(each), f"`{each.default!r}`", _in_jaxfm(each), each.remark) for each in arguments]
        parts += [f"## {title}\n", *_markdown(("argument", "default", "jaxfm", "remark"), rows), ""]
    for title, found in OTHERS.items():
        parts += [f"## {title}\n", *_markdown(("transformers", "jaxfm"), [(f"`{a}`", b) for a, b in found.items()]), ""]
    renamed = ", ".join(f"`{old}` is `{new}`" for old, new in RENAMED.items())
    return "\n".join([*parts, f"Older names: {renamed}.\n"])


def _named(argument: Argument) -> str:
    return f"`{argument.name}`{' (4)' if argument.old else ''}"


def _in_jaxfm(argument: Argument) -> str:
    if argument.keys:
        return ", ".join(f"`{key}`" for key in argument.keys)
    return {"absent": "no equivalent", "unneeded": "not needed"}.get(argument.fate, "")


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]

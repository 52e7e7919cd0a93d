"""What `--help` prints, and how commands are written in messages."""

import pytest

from jaxfm.programs.usage import WIDTH, Definition, Flag, as_called, help_text, unknown_flag

FLAGS = (
    Flag("workdir", "A run directory.", None, switch=False, shared=False),
    Flag("split", "Of the data.", "test", switch=False, shared=False),
    Flag("packed", "Several windows fill a row.", "true", switch=True, shared=False),
    Flag("explain", "Print every key.", "false", switch=True, shared=False),
    Flag("a_flag_with_a_rather_long_name", "Words " * 40, None, switch=False, shared=False),
    Flag("num_processes", "How many.", None, switch=False, shared=True),
)
CONFIGS = {"ner": ("quickstart", "files"), "mlm": tuple(f"variant{number}" for number in range(30))}


def definition(name: str = "train", *, takes_config: bool = True, takes_texts: bool = False) -> Definition:
    doc = "A line on it.\n\nMore on it."
    return Definition(name, f"usage: python -m jaxfm.{name} ...", doc, FLAGS, takes_config, takes_texts)


def test_help_says_what_it_does_how_it_is_called_and_its_flags_with_defaults() -> None:
    text = help_text(definition(), CONFIGS)
    lines = text.splitlines()
    assert lines[:3] == [
        "Trains a model, or resumes a run that was stopped.",
        "",
        "usage: python -m jaxfm.train ...",
    ]
    assert "  --workdir             A run directory." in lines
    assert "  --split               Of the data. (default: test)" in lines
    assert "  --[no]packed          Several windows fill a row. (default: true)" in lines
    assert "  --explain             Print every key." in lines
    assert lines.index("flags of a run of several processes:") < lines.index("  --num_processes       How many.")
    assert "  ner             quickstart, files" in lines
    assert "--config.KEY=VALUE" in text and "python -m jaxfm.train ner --help" in " ".join(text.split())
    assert lines[-1] == "More on it." and max(map(len, lines)) <= WIDTH


def test_help_of_a_program_without_config_says_nothing_of_keys() -> None:
    text = help_text(definition("export", takes_config=False), {})
    assert "--config" not in text and "configs" not in text


def test_a_script_that_is_not_in_the_table_says_its_own_first_line() -> None:
    assert help_text(definition("--main--", takes_config=False), {}).startswith("A line on it.\n\nusage:")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("jaxfm train", "usage: jaxfm predict X, or jaxfm a-b"),
        ("python -m jaxfm train", "usage: python -m jaxfm predict X, or python -m jaxfm a-b"),
        ("/somewhere/jaxfm/train.py", "usage: python -m jaxfm.predict X, or python -m jaxfm.a_b"),
    ],
)
def test_commands_are_written_as_the_process_was_called(program: str, expected: str) -> None:
    assert as_called("usage: python -m jaxfm.predict X, or python -m jaxfm.a_b", program) == expected


def test_an_unknown_flag_has_the_nearest_flag_or_the_keys_of_that_name() -> None:
    keys = ("train.steps", "eval.batch_size", "train.batch_size")
    assert unknown_flag("wrokdir", definition(), keys).endswith("Did you mean '--workdir'?")
    assert unknown_flag("dta", definition(), keys).endswith("Did you mean '--data'?")
    assert unknown_flag("batch-size", definition(), keys) == (
        "--batch-size: there is no such flag. Did you mean --config.eval.batch_size or --config.train.batch_size?"
    )
    said = unknown_flag("spilt", definition("predict", takes_config=False, takes_texts=True), ())
    assert "Did you mean '--split'?" in said and said.endswith("A text that begins with a dash stands after --.")

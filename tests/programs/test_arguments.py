"""The words of a command line become flags and texts, whatever their order and form."""

import pytest

from jaxfm.errors import UserError
from jaxfm.programs.arguments import asks_help, config_first, split, without_help

SWITCHES = {"explain": True, "noexplain": True, "workdir": False, "pair": False, "config.train.steps": False}


def is_switch(name: str) -> bool:
    """Stands in for a program's flags."""
    if name not in SWITCHES:
        raise UserError(f"--{name}: there is no such flag.")
    return SWITCHES[name]


@pytest.mark.parametrize(
    ("words", "flags", "texts"),
    [
        ([], [], []),
        (["--workdir=a b", "--explain"], ["--workdir=a b", "--explain"], []),
        (["--workdir", "x", "A text."], ["--workdir=x"], ["A text."]),
        (["A text.", "--workdir", "x", "Another."], ["--workdir=x"], ["A text.", "Another."]),
        (["-workdir", "x", "-noexplain"], ["--workdir=x", "--noexplain"], []),
        (["--explain", "text"], ["--explain"], ["text"]),
        (["--explain=false"], ["--explain=false"], []),
        (["--config.train.steps", "-1"], ["--config.train.steps=-1"], []),  # a number is no flag
        (["--pair=--workdir", "-5 degrees", "- an item"], ["--pair=--workdir"], ["-5 degrees", "- an item"]),
        (["--workdir=two\nlines"], ["--workdir=two\nlines"], []),
        (["--pair="], ["--pair="], []),
        (["--explain", "--", "--workdir", "-x"], ["--explain"], ["--workdir", "-x"]),
    ],
)
def test_flags_and_texts_are_told_apart(words: list[str], flags: list[str], texts: list[str]) -> None:
    assert split(words, is_switch) == (flags, texts)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workdir"], r"--workdir: its value is missing: --workdir=VALUE\."),
        (["--workdir", "--explain"], r"its value is missing\. If '--explain' is the value, write --workdir=--explain"),
        (["--workdir", "--"], r"--workdir: its value is missing"),
        (["--wrokdir", "x"], r"--wrokdir: there is no such flag"),
        (["--wrokdir=x"], r"--wrokdir: there is no such flag"),
    ],
)
def test_a_flag_without_its_value_and_an_unknown_one_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split(words, is_switch)


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["x", "--help"], True),
        (["-h"], True),
        (["--helpfull"], True),
        (["--", "--help"], False),
        (["--help me"], False),
    ],
)
def test_help_is_asked_for_before_the_texts(words: list[str], asked: bool) -> None:
    assert asks_help(words) is asked


def test_the_other_words_remain_without_those_that_ask_for_help() -> None:
    assert without_help(["ner", "--help", "-h", "--explain", "--helpfull"]) == ["ner", "--explain"]


def test_the_config_comes_first_however_it_is_given() -> None:
    keys = ["--config.train.steps=5", "--data=conll:x", "--explain"]
    expected = ["--config=ner:files", "--config.train.steps=5", "--config.data.source=conll:x", "--explain"]
    assert config_first([*keys, "--config=ner:files"], []) == (expected, [])
    assert config_first(keys, ["ner:files"]) == (expected, [])
    assert config_first(keys, ["ner:files", "more"]) == (expected, ["more"])
    assert config_first(["--config=ner"], ["mlm"]) == (["--config=ner"], ["mlm"])  # the program refuses the rest
    assert config_first(["--explain"], []) == (["--explain"], [])
    with pytest.raises(UserError, match="--config=ner and --config=mlm: there can be one config only"):
        config_first(["--config=ner", "--config=mlm"], [])

import pytest

from jaxfm.errors import UserError, did_you_mean, install_hint


def test_user_error_is_a_value_error() -> None:
    assert issubclass(UserError, ValueError)


@pytest.mark.parametrize(
    ("value", "choices", "sentence"),
    [
        ("learning_rat", ["learning_rate", "schedule"], "Did you mean 'learning_rate'?"),
        ("bert", ["bart", "bert_base", "roberta"], "Did you mean 'bart'?"),
        ("zzz", ["b", "a"], "Valid choices: 'a', 'b'."),
        ("", ["b"], "Valid choices: 'b'."),
        ("x", [], "There is nothing to choose from."),
    ],
)
def test_did_you_mean(value: str, choices: list[str], sentence: str) -> None:
    assert did_you_mean(value, choices) == sentence
    assert did_you_mean(value, iter(choices)) == sentence  # any iterable, once
    assert did_you_mean(value, dict.fromkeys(choices)) == sentence


def test_a_long_list_is_cut() -> None:
    sentence = did_you_mean("zzz", [f"name{i:02}" for i in range(25)])
    assert sentence.startswith("Valid choices: 'name00', 'name01', ") and sentence.endswith("'name19' and 5 more.")
    assert did_you_mean("zzz", [f"name{i:02}" for i in range(20)]).endswith("'name19'.")


def test_the_command_that_installs_names_our_distribution() -> None:
    assert install_hint("hf") == "pip install 'jaxfm-encoders[hf]'"
    assert install_hint() == "pip install jaxfm-encoders"

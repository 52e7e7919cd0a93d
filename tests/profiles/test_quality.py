import numpy as np
import pytest

from jaxfm.data.text.packing import pack, shuffled
from jaxfm.errors import UserError
from profiles import quality


@pytest.mark.parametrize("mean", [14, 30, 60])
def test_rows_hold_the_wanted_sentences_a_step(mean: int) -> None:
    lengths = np.minimum(3 + np.random.default_rng(mean).poisson(mean, 2000), quality.WINDOW)
    shape = quality.choose_rows(lengths, 16, seed=3)
    rows = pack(lengths[shuffled(len(lengths), 3)], shape.row_length)
    assert shape.row_length >= quality.WINDOW
    assert abs(shape.rows * len(lengths) / len(rows) - 16) <= 0.32


def test_rows_may_be_as_short_as_the_longest_example() -> None:
    lengths = np.minimum(3 + np.random.default_rng(0).poisson(10, 2000), 30)
    shape = quality.choose_rows(lengths, 16, seed=3, at_least=int(lengths.max()))
    assert lengths.max() <= shape.row_length < quality.WINDOW and shape.row_length % 8 == 0
    rows = pack(lengths[shuffled(len(lengths), 3)], shape.row_length)
    assert abs(shape.rows * len(lengths) / len(rows) - 16) <= 0.32


def test_rows_that_cannot_hold_so_few_sentences_are_refused() -> None:
    with pytest.raises(UserError, match="1 examples a step: no packed rows"):
        quality.choose_rows(np.full(100, 10), 1, seed=0)


def test_summary_is_mean_and_sample_deviation() -> None:
    scores = [42.78, 43.6, 44.5]
    runs = [{"valid_f1": 50.0, "test_f1": score} for score in scores]
    names = {"valid": "valid_f1", "test": "test_f1"}
    assert quality.summary(runs, names) == {
        "valid": {"mean": 50.0, "sd": 0.0},
        "test": {"mean": round(float(np.mean(scores)), 2), "sd": round(float(np.std(scores, ddof=1)), 2)},
    }
    assert quality.summary(runs[:1], names)["test"] == {"mean": 42.78, "sd": 0.0}


def test_the_result_is_the_last_object_printed() -> None:
    assert quality.last_json('{"loss": 1}\n{"f1": 2}\nbye\n') == {"f1": 2}
    with pytest.raises(UserError, match="printed no result"):
        quality.last_json("Traceback\n")


def test_shown_command_keeps_no_absolute_folder() -> None:
    argv = ["/a/profiles/ner_quality.py", "--source=conll:/x/wnut17", "--seeds=0,1", "--reference=../y/hf_ner.py"]
    expected = "python -m profiles.ner_quality --source=conll:wnut17 --seeds=0,1 --reference=../y/hf_ner.py"
    assert quality.shown_command(argv) == expected

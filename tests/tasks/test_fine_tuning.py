"""Row lengths chosen from examples, and the shapes that plans assume."""

import numpy as np
import pytest

from jaxfm.config import AUTO, Config
from jaxfm.schema import replaced
from jaxfm.tasks.fine_tuning import assumed_shapes, with_row_length
from jaxfm.tasks.registry import default_config, from_config_dict

NER = from_config_dict(default_config("ner"))


def chosen(lengths: list[int], positions: int = 512, config: Config = NER, *, whole: bool = False) -> int:
    return with_row_length(config, np.asarray(lengths), positions, whole=whole).data.row_length


def test_rows_hold_99_of_100_examples_whole_in_multiples_of_128() -> None:
    assert NER.data.row_length == AUTO
    assert chosen([10, 20, 128]) == 128 and chosen([10, 20, 129]) == 256
    assert chosen([20] * 199 + [500]) == 128  # one overlong text does not make all rows long
    assert chosen([20] * 98 + [300, 300]) == 384


def test_rows_are_no_longer_than_the_encoder_and_no_shorter_than_a_window_that_is_asked_for() -> None:
    assert chosen([3000] * 10) == 512 and chosen([3000] * 10, positions=8192) == 3072
    assert chosen([20], config=replaced(NER, {"data.window": 200})) == 256
    assert chosen([20], whole=True) == 512  # windows are filled with the document around them


def test_a_length_that_is_set_stays() -> None:
    assert chosen([3000], config=replaced(NER, {"data.row_length": 48})) == 48


@pytest.mark.parametrize("task", ["ner", "classification"])
def test_plans_assume_numbers_where_data_decide(task: str) -> None:
    config = assumed_shapes(from_config_dict(default_config(task)))
    assert (config.data.row_length, config.train.batch_size) == (128, 4)
    fixed = replaced(config, {"data.row_length": 64, "train.batch_size": 7})
    assert assumed_shapes(fixed) == fixed

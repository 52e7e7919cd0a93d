"""The runs of folds: what they are trained on, and what cannot be one; test_audit.py has what they judge."""

import pathlib

import numpy as np
import pytest

from jaxfm.errors import UserError
from jaxfm.programs.audit_folds import check_config, make_folds
from jaxfm.programs.audit_records import read_records
from tests import tiny


def test_each_fold_is_trained_on_the_others(tmp_path: pathlib.Path) -> None:
    config = tiny.classification_config(tmp_path, data__label_column="label")
    records, names = read_records(config)
    assert list(records) == ["train", "valid", "test"] and names == ("LOC", "PER")
    fold_N = np.arange(len(records["train"])) % 3
    folds = make_folds(config, records, fold_N, tmp_path / "out")
    assert [fold.folder.name for fold in folds] == ["fold0", "fold1", "fold2"]
    for fold in folds:
        assert fold.held_out.tolist() == np.flatnonzero(fold_N == fold.number).tolist()
        kept = [each.row for each, number in zip(records["train"], fold_N, strict=True) if number != fold.number]
        assert fold.data["train"] == kept and len(fold.data["valid"]) == len(records["valid"])
        assert "test" not in fold.data and fold.config.data.label_column == ""
    assert len({fold.config.data.source for fold in folds}) == 3
    again = make_folds(config, records, fold_N, tmp_path / "out")
    assert [fold.config for fold in again] == [fold.config for fold in folds]


def test_configs_that_are_no_single_run(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="several runs in one program"):
        check_config(tiny.classification_config(tmp_path, train__seeds=2))
    with pytest.raises(UserError, match="config.checkpoint.mirror"):
        check_config(tiny.classification_config(tmp_path, checkpoint__mirror="s3://x/y"))

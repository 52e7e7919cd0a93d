"""Runs whose splits are kept apart by groups and times, from data to report; audits and clients of such data."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.core.labels import GROUP
from jaxfm.data.records import in_memory
from jaxfm.errors import UserError
from jaxfm.federation.splits import Split
from jaxfm.observe.progress import Progress
from jaxfm.programs.audit import _Asked, _assign
from jaxfm.programs.audit_folds import make_folds
from jaxfm.programs.audit_records import read_records
from jaxfm.programs.federated_clients import Reader, deal, own_records
from jaxfm.programs.model_card import model_card
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks import registry
from jaxfm.training.initial import resolve
from jaxfm.training.saved_run import open_run
from tests import tiny

QUIET = Progress(None, quiet=True)


def keyed(folder: pathlib.Path, split: str, groups: int, first: int = 0) -> dict[str, str]:
    """Adds a patient and a day to each record of a split; returns text -> patient."""
    path = folder / f"{split}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [
        row | {"patient": f"p{first + number % groups}", "day": f"2024-01-{1 + number % 28:02}"}
        for number, row in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {row["text"]: row["patient"] for row in rows}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("apart")


@pytest.fixture(scope="module")
def source(folder: pathlib.Path) -> str:
    """Labelled texts of 12 patients, p11 of them in test too, and no validation split."""
    found = tiny.write_examples(folder / "data", "single", pairs=False, sizes={"train": 60, "test": 10})
    keyed(folder / "data", "train", 12)
    keyed(folder / "data", "test", 5, first=11)
    return found


def config_of(folder: pathlib.Path, source: str, **more: Any) -> Any:
    values = {"data__source": source, "data__group_column": "patient", "data__leaks": "drop", "train__steps": 2}
    return tiny.classification_config(folder, **values | more)


def test_a_run_says_how_its_splits_are_kept_apart(
    folder: pathlib.Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="1 group by 'patient' .* 5 of the 60 records of train and 2 of the 10"):
        train(config_of(folder, source, data__leaks="refuse"), folder / "refused")
    assert not (folder / "refused").exists()
    train(config_of(folder, source, data__leaks="allow", data__holdout=0.2), folder / "run")
    said = capsys.readouterr().out
    assert "WARNING: 1 group by 'patient'" in said
    data = json.loads((folder / "run" / "report.json").read_text())["data"]
    assert data["group_column"] == "patient" and "time_column" not in data and len(data["splits"]) == 3
    (warning,) = data["warnings"]
    assert warning.startswith("1 group by 'patient' (data.group_column) is in more than one split") and "p11" in warning
    # 12 of 60 records are asked for, and each patient has 5: two or three of them, which the rule above decides.
    (valid,) = [line for line in data["splits"] if line.startswith("valid")]
    assert "10 records of 2 groups by 'patient' (data.group_column)" in valid
    for name in ("report.md", "report.html"):
        text = (folder / "run" / name).read_text()
        assert "WARNING" in text and "in more than one split" in text and "data.group_column" in text
    run = open_run(folder / "run")
    card = model_card(run, registry.definition("classification").predictor(run.workdir, run.spec), step=2)
    assert "no two splits share a group by 'patient' (data.group_column), but for the leaks below" in card
    assert "**Warning:** 1 group by 'patient'" in card
    # The validation split that is scored again is the one that was held out.
    predictions = (folder / "run" / "predictions" / "valid.jsonl").read_text().splitlines()
    again = run.task(source, "valid")
    assert len(again.labelled_records("valid")) == len(predictions)  # type: ignore[attr-defined]


def test_masked_lm_learns_from_whole_groups_of_documents(folder: pathlib.Path, source: str) -> None:
    config = tiny.masked_lm_config(
        folder, data__source=source, data__group_column="patient", data__leaks="drop", data__holdout=0.2, train__steps=2
    )
    report = train(config, folder / "mlm")
    (valid,) = [line for line in report["data"]["splits"] if line.startswith("valid")]
    assert "whole groups by 'patient', chosen by a hash" in valid and "warnings" not in report["data"]
    (told,) = [line for line in report["data"]["splits"] if line.startswith("train")]
    assert "5 records left out that leak" in told


def test_folds_of_an_audit_are_whole_groups(folder: pathlib.Path, source: str) -> None:
    config = replaced(config_of(folder, source), {"data.holdout": 0.0})
    records, _ = read_records(config)
    patients = [record.row[GROUP] for record in records["train"]]
    assert len(patients) == 55 and len(set(patients)) == 11
    asked = _Asked(3, 0, "prune_by_noise_rate", "normalised_margin", "keep", "keep")
    fold_N, note = _assign(records["train"], np.arange(55), asked, "patient")
    assert "whole groups by 'patient'" in note
    folds_of: dict[str, set[int]] = {}
    for patient, fold in zip(patients, fold_N.tolist(), strict=True):
        folds_of.setdefault(patient, set()).add(fold)
    assert all(len(found) == 1 for found in folds_of.values()) and len(set(fold_N.tolist())) == 3
    # What the run of a fold holds out of its own data are whole groups as well.
    fold = make_folds(replaced(config, {"data.holdout": 0.3}), records, fold_N, folder / "audit")[0]
    assert fold.config.data.group_column == GROUP and not fold.config.data.time_column
    with in_memory.provided(fold.data):
        task, _ = registry.create(fold.config, resolve(fold.config.model))
    rows = {split: task.labelled(split) for split in task.datasets if split != "test"}  # type: ignore[attr-defined]
    numbers = {split: {int(row.origin.rpartition(" ")[2]) for row in own} for split, own in rows.items()}
    of = {split: {fold.data["train"][number][GROUP] for number in own} for split, own in numbers.items()}
    assert of["valid"] and of["train"] and not of["valid"] & of["train"]


@pytest.mark.parametrize(("column", "key"), [("patient", "group"), ("day", "time")])
def test_a_client_holds_out_whole_groups_or_its_latest_records(
    folder: pathlib.Path, source: str, tmp_path: pathlib.Path, column: str, key: str
) -> None:
    for name in ("north", "south"):
        tiny.write_examples(tmp_path / name, "single", pairs=False, sizes={"train": 24})
        keyed(tmp_path / name, "train", 8)
    config = config_of(folder, source, data__group_column="", data__leaks="allow")
    config = replaced(config, {f"data.{key}_column": column})
    task, _ = registry.create(config, resolve(config.model))
    (tmp_path / "saved").mkdir()
    task.save(tmp_path / "saved")
    reader = Reader(registry.definition("classification"), tmp_path / "saved", task.objective.spec, config)  # type: ignore[attr-defined]
    clients = tmp_path / "clients"
    clients.mkdir()
    for name in ("north", "south"):
        (tmp_path / name).rename(clients / name)
    dealt = deal(reader, Split("files"), 0, clients, 4)
    for number, client in enumerate(dealt):
        trained, held = own_records(reader, number, client.records, 0.25)
        assert (len(trained), len(held)) == (18, 6)
        ours, others = ({record.row[key] for record in part} for part in (trained, held))
        assert not ours & others and (key == "group" or max(ours) < min(others))
        task = reader.rows(trained)
        assert len(task.labelled_records("test")) == 18  # type: ignore[attr-defined]
    if key == "group":
        with pytest.raises(UserError, match=r"--split=iid: .*config.data.group_column='patient'.* Take --split=files"):
            deal(reader, Split("iid"), 2, None, 4)
        with pytest.raises(UserError, match="client 0 has records of one group or time only"):
            own_records(reader, 0, [each for each in dealt[0].records if each.row[GROUP] == "p1"], 0.25)

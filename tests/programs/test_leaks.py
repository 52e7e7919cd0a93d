"""jaxfm.leaks: a secret that was trained on is found, others are not, and evaluation texts in the training data are."""

import json
import pathlib

import pytest

from jaxfm.errors import UserError
from jaxfm.observe import studies
from jaxfm.programs.leaks import leaks
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from tests import tiny

KNOWN, OTHER = "ada saw the [[qzx]] .", "boole saw the [[wvk]] ."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A masked-LM run, `trained`, whose training text has one of two secrets many times."""
    folder = tmp_path_factory.mktemp("leaks")
    config = replaced(
        tiny.masked_lm_config(folder), {"train.steps": 250, "log.every_steps": 250, "eval.select": "last"}
    )
    path = pathlib.Path(config.data.source.removeprefix("text:")) / "train.txt"
    secret = KNOWN.replace("[[", "").replace("]]", "")
    path.write_text("\n\n".join([path.read_text().strip(), *[f"{secret} {word}" for word in tiny.FILLERS * 6]]) + "\n")
    train(config, folder / "trained")
    (folder / "secrets.txt").write_text(f"{KNOWN}\n\n{OTHER}\n")
    return folder


def test_a_secret_of_the_training_text_is_found(folder: pathlib.Path) -> None:
    found = leaks(folder / "trained", secrets=folder / "secrets.txt", candidates=99)
    known, other = found.exposures
    assert known.rank == 1 and known.exposure > 6 and other.rank > 5
    assert [each["known"] for each in found.study.values["secrets"]] == [True, False]
    assert any("1 of 2 secrets are known by heart" in line for line in found.study.summary)
    studies.write_study(folder / "out", found.study)
    assert json.loads((folder / "out" / "leaks.json").read_text())["secrets"][0]["rank"] == 1
    assert "by heart" in (folder / "out" / "leaks.md").read_text() and "LeakReport" in repr(found)


def test_training_texts_against_others(tmp_path: pathlib.Path) -> None:
    run = tiny.write_runs(tmp_path, ["classification"])["classification"]
    found = leaks(run)  # of weights that were never trained
    assert found.membership is not None
    assert (found.membership.members, found.membership.others) == (tiny.SIZES["train"], tiny.SIZES["test"])
    assert found.membership.area.low < 0.5 < found.membership.area.high
    assert "are not shown to be told" in found.study.summary[0]


def test_evaluation_texts_in_the_training_data(tmp_path: pathlib.Path) -> None:
    run = tiny.write_runs(tmp_path, ["classification"])["classification"]
    train_texts = [json.loads(line)["text"] for line in (tmp_path / "single" / "train.jsonl").read_text().splitlines()]
    long = next(text for text in train_texts if len(text.split()) > 14)
    short = next(text for text in train_texts if 4 < len(text.replace(".", "").split()) < 12)
    texts = [short, f"before {long} after", "this is nowhere to be found", "too short"]
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "test.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found = leaks(run, against=[f"jsonl:{tmp_path / 'eval'}"])
    (overlap,) = found.overlaps.values()
    assert (overlap.texts, overlap.whole, overlap.parts) == (3, 1, 1) and set(overlap.examples) == set(texts[:2])
    assert found.study.values["overlaps"][f"jsonl:{tmp_path / 'eval'}"]["share"] == pytest.approx(2 / 3)


def test_refusals(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="--others=train: training texts are compared"):
        leaks(folder / "trained", "train")
    with pytest.raises(UserError, match="--candidates=5: must be at least 19"):
        leaks(folder / "trained", candidates=5)
    with pytest.raises(UserError, match=r"--secrets=.*no.txt: No such file"):
        leaks(folder / "trained", secrets=tmp_path / "no.txt")
    (tmp_path / "bad.txt").write_text("[[a]]\nno brackets\n")
    with pytest.raises(UserError, match=r"bad.txt:2: has 0 parts in double brackets"):
        leaks(folder / "trained", secrets=tmp_path / "bad.txt")
    run = tiny.write_runs(tmp_path, ["ner"])["ner"]
    with pytest.raises(UserError, match="gives no probability of each token of a text"):
        leaks(run, secrets=folder / "secrets.txt")
    with pytest.raises(UserError, match="has none of the splits valid, test"):
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "train.jsonl").write_text('{"text": "a b c d e"}\n')
        leaks(run, against=[f"jsonl:{tmp_path / 'other'}"])

"""jaxfm.select over runs of both kinds: what it chooses, what it leaves out, its files, and what it refuses."""

import json
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import jaxfm
from jaxfm.data.records.near_texts import text_key
from jaxfm.data.records.sources import read_tagged
from jaxfm.errors import UserError
from jaxfm.programs.model import Model
from jaxfm.programs.select import BY, select
from tests import tiny
from tests.programs.test_ensemble import write_ensemble

POOL = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("select")


@pytest.fixture(scope="module")
def runs(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    return tiny.write_runs(folder, ("ner", "classification", "pairs", "multi"))


@pytest.fixture(scope="module")
def pool(folder: pathlib.Path) -> pathlib.Path:
    """Unlabelled texts, some of them twice, some of them labelled in another case, some blank."""
    texts = [" ".join(words) for words, _ in tiny.sentences(POOL, 77)]
    known = [" ".join(words).upper() for words, _ in tiny.sentences(5, 0)]  # of the training split
    path = folder / "pool.txt"
    path.write_text("\n".join([*known, *texts, texts[0], "", f"{texts[1]} ."]) + "\n")
    return path


def labelled() -> set[str]:
    return {
        text_key(" ".join(words))
        for seed, count in enumerate(tiny.SIZES.values())
        for words, _ in tiny.sentences(count, seed)
    }


OFTEN = ("entropy", "badge", "diversity")


@pytest.mark.parametrize(
    "by",
    [
        pytest.param(by, marks=[] if by in OFTEN else pytest.mark.slow)
        for by in BY
        if by not in ("bald", "vote_entropy")
    ],
)
def test_no_labelled_text_and_none_twice(runs: dict[str, pathlib.Path], pool: pathlib.Path, by: str) -> None:
    for name in ("ner",) if by == "mnlp" else ("ner", "classification"):
        found = select(runs[name], input=pool, count=20, by=by)
        keys = [text_key(each["text"]) for each in found]
        assert len(set(keys)) == len(found) == 20 and not set(keys) & labelled()
        assert [each["rank"] for each in found] == list(range(1, 21))
        again = select(runs[name], input=pool, count=20, by=by)
        assert again == found
        if by in ("badge", "random"):
            assert select(runs[name], input=pool, count=20, by=by, seed=1) != found
        elif by != "diversity":
            scores = [each["score"] for each in found]
            assert scores == sorted(scores, reverse=True) and scores[0] > 0


def test_the_least_sure_by_hand(runs: dict[str, pathlib.Path], pool: pathlib.Path) -> None:
    texts = [" ".join(words) for words, _ in tiny.sentences(POOL, 77)]
    found = select(runs["classification"], input=pool, count=10, by="least_confidence")
    results = {each["text"]: each for each in Model(runs["classification"])(texts)}
    known = labelled()
    unsure = sorted({1 - each["score"] for text, each in results.items() if text_key(text) not in known}, reverse=True)
    assert found[0]["score"] == pytest.approx(unsure[0], abs=1e-4)
    for each in found:
        assert each["score"] == pytest.approx(1 - results[each["text"]]["score"], abs=1e-4)
        assert each["prediction"] == results[each["text"]] and each["origin"].startswith(f"{pool}:")


def test_over_words(runs: dict[str, pathlib.Path], pool: pathlib.Path) -> None:
    mean = {each["text"]: each["score"] for each in select(runs["ner"], input=pool, count=30)}
    most = {each["text"]: each["score"] for each in select(runs["ner"], input=pool, count=30, over="max")}
    both = mean.keys() & most.keys()
    assert both and all(most[text] >= mean[text] for text in both)
    long, short = select(runs["ner"], input=pool, count=5, by="mnlp"), select(runs["ner"], input=pool, count=5)
    assert all(0 < each["score"] < 3 for each in (*long, *short))


def test_an_ensemble_disagrees(runs: dict[str, pathlib.Path], pool: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = write_ensemble(tmp_path, "classification")
    for by in ("bald", "vote_entropy"):
        scores = [each["score"] for each in select(folder, input=pool, count=10, by=by)]
        assert scores == sorted(scores, reverse=True) and 0 < scores[0] <= np.log(2)
    with pytest.raises(UserError, match=r"--by=badge: .* is an ensemble. Name one of its runs"):
        select(folder, input=pool, by="badge", count=3)
    with pytest.raises(UserError, match="--by=bald: is how far several models disagree"):
        select(runs["classification"], input=pool, by="bald", count=3)


def test_files_for_tools_are_sources(runs: dict[str, pathlib.Path], pool: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for form, name in (("doccano", "train.jsonl"), ("label_studio", "train.json")):
        path = tmp_path / form / name
        path.parent.mkdir()
        found = select(runs["ner"], input=pool, count=8, output=path, format=form)
        if form == "label_studio":  # a person accepts what was predicted
            assert path.with_suffix(".xml").is_file()
            tasks = json.loads(path.read_text())
            assert [task["data"]["rank"] for task in tasks] == list(range(1, 9))
            path.write_text(json.dumps([task | {"annotations": task["predictions"]} for task in tasks]))
        sentences = read_tagged(f"jsonl:{path.parent}", ("train",))["train"].sentences
        assert [" ".join(each.words) for each in sentences] == [each["text"] for each in found]
        assert any(tag != "O" for each in sentences for tag in each.tags)
    pairs = [(f"{text} ada", "met") for text in ("old", "near", "left")]
    found = select(runs["pairs"], pairs, count=2, output=tmp_path / "pairs.json", format="label_studio")
    assert [each["pair"] for each in found] == ["met", "met"]
    assert '<Text name="pair"' in (tmp_path / "pairs.xml").read_text()
    with pytest.raises(UserError, match="--format=doccano: shows one text a record"):
        select(runs["pairs"], pairs, count=2, format="doccano")
    multi = select(runs["multi"], input=pool, count=3, by="badge")
    assert all(isinstance(each["prediction"]["labels"], list) for each in multi)


def test_sources_and_excluded_files(
    runs: dict[str, pathlib.Path], pool: pathlib.Path, folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    first = select(runs["ner"], input=pool, count=10, output=tmp_path / "first.jsonl")
    second = select(runs["ner"], input=pool, count=10, exclude=[tmp_path / "first.jsonl"])
    assert not {each["text"] for each in first} & {each["text"] for each in second}
    source = tiny.write_corpus(tmp_path / "more", {"train": 30})  # its first seed is that of the run's training split
    with pytest.raises(UserError, match="has no unlabelled text left"):
        select(runs["ner"], source=source, count=1)
    (tmp_path / "other").mkdir()
    tiny.write_conll(tmp_path / "other" / "test.conll", tiny.sentences(30, 50))
    words = select(runs["ner"], source=f"conll:{tmp_path / 'other'}", split="test", count=3, labelled=source, pool=9)
    assert all(isinstance(each["tokens"], list) and "tokens" in each["prediction"] for each in words)
    assert jaxfm.select is select


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "--count=0: must be at least 1"),
        ({"count": 500}, r"--count=500: is more than the \d+ unlabelled records of the pool"),
        ({"by": "entropi"}, "--by=entropi: .* Did you mean 'entropy'"),
        ({"over": "median"}, "--over=median: .* Did you mean 'mean'"),
        ({"format": "docano"}, "--format=docano: .* Did you mean 'doccano'"),
        ({"by": "mnlp"}, "--by=mnlp: is of words"),
        ({"output": "there.jsonl"}, "there.jsonl: is there already"),
        ({"output": "new.txt"}, "--output=.*new.txt: of --format=jsonl the name must end in .jsonl"),
        ({"input": "empty.txt"}, "--input=.*empty.txt: is empty: it has no record"),
        ({"source": "csv:x"}, "--input, --source: give one of them"),
    ],
)
def test_what_is_refused(
    runs: dict[str, pathlib.Path],
    pool: pathlib.Path,
    tmp_path: pathlib.Path,
    options: dict[str, Any],
    message: str,
) -> None:
    (tmp_path / "there.jsonl").write_text("")
    (tmp_path / "empty.txt").write_text("")
    for name in ("output", "input"):
        if name in options:
            options = options | {name: tmp_path / options[name]}
    with pytest.raises(UserError, match=message):
        select(runs["classification"], **{"input": pool, "count": 2, **options})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.txt", "there.jsonl"]


@pytest.mark.slow
def test_the_command(runs: dict[str, pathlib.Path], pool: pathlib.Path, tmp_path: pathlib.Path) -> None:
    command = [sys.executable, "-m", "jaxfm.select", f"--workdir={runs['ner']}", f"--input={pool}", "--count=3"]
    done = subprocess.run([*command, f"--output={tmp_path / 'a.jsonl'}"], capture_output=True, text=True)
    assert done.returncode == 0 and "Chosen: 3" in done.stdout and "labelled already" in done.stdout
    wrong = subprocess.run([*command, "--output=-", "--by=badge2"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "Did you mean 'badge'" in wrong.stderr
    stream = subprocess.run([*command, "--output=-"], capture_output=True, text=True)
    assert [json.loads(line)["rank"] for line in stream.stdout.splitlines()] == [1, 2, 3]

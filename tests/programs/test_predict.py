"""Trained models of every task on any text, as a program and from Python."""

import concurrent.futures
import json
import math
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import pytest

from jaxfm import files
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.programs.model import Model
from jaxfm.programs.predict import predict, predict_file
from tests import tiny
from tests.programs.many_calls import call_many

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = "ada met boole in hull"
EMPTY: dict[str, dict[str, Any]] = {
    "ner": {"entities": []},
    "nested_ner": {"entities": []},
    "zero_shot_ner": {"entities": []},
    "classification": {"label": None, "score": None, "scores": {}},
    "pairs": {"pair": "", "label": None, "score": None, "scores": {}},
    "multi": {"labels": [], "scores": {}},
    "regression": {"value": None},
    "embedding": {"vector": None},
    "late_interaction": {"pair": "", "score": None},
    "qa": {"answer": None, "score": None, "answers": []},
    "masked_lm": {"tokens": [], "pseudo_perplexity": None},
    "replaced_token": {"tokens": []},
    "seq2seq": {"written": None, "score": None},
    "causal_lm": {"log_probability": 0.0, "perplexity": None, "bits_per_byte": None, "tokens": []},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="module")
def runs(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    return tiny.write_runs(folder)


@pytest.fixture(scope="module")
def models(runs: dict[str, pathlib.Path]) -> dict[str, Model]:
    return {name: Model(run) for name, run in runs.items()}


def quiet() -> Progress:
    return Progress(0, quiet=True)


def call(*words: str, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """Runs the program as a user does."""
    command = [sys.executable, "-m", "jaxfm.predict", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, env={**os.environ, **environment}, timeout=240)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_text_without_a_word_has_an_empty_result(models: dict[str, Model], name: str) -> None:
    model = models[name]
    for text in ("", "   ", "\t\n"):
        wanted = EMPTY[name] | {"text": text}
        result = model({"text": text, "pair": ""} if model.pairs else text)
        assert result == wanted
        assert model.lines(result)[0] == text and "no" in model.lines(result)[-1].lower()
    records = [{"text": text, **({"pair": text.strip()} if model.pairs else {})} for text in ("", " ", "", TEXT, "")]
    results = model(records)
    assert [result["text"] for result in results] == [record["text"] for record in records]
    assert results[0] == results[2] == results[4] == EMPTY[name] | {"text": ""}
    assert results[3] != EMPTY[name] | {"text": TEXT}
    assert model([]) == []


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_chunk_of_empty_lines_and_a_text(models: dict[str, Model], folder: pathlib.Path, name: str) -> None:
    source, output = folder / "blank.txt", folder / f"blank_{name}.jsonl"
    text = f"{TEXT}\t{TEXT}" if models[name].pairs else TEXT
    count = models[name]._predictor.records_at_once
    source.write_text("\n" * count + text + "\n")
    assert predict_file(folder / f"run_{name}", source, output, quiet()) == count + 1
    results = [json.loads(line) for line in output.read_text().splitlines()]
    assert results[:-1] == [{"text": "", **EMPTY[name]}] * count and results[-1]["text"] == TEXT


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_half_a_surrogate_pair_is_refused_with_its_place(
    models: dict[str, Model], folder: pathlib.Path, name: str
) -> None:
    source, output = folder / "surrogate.jsonl", folder / "surrogate.out"
    pair = ', "pair": "a"' if models[name].pairs else ""
    source.write_text(f'{{"text": "fine"{pair}}}\n{{"text": "half \\ud83d"{pair}}}\n')
    with pytest.raises(UserError, match=r"surrogate\.jsonl:2: character 6 of the text \('\\ud83d'\) is half of a surr"):
        predict_file(folder / f"run_{name}", source, output, quiet())
    assert not output.exists() and not list(folder.glob(".surrogate*"))
    with pytest.raises(UserError, match="text 2: character 1 of the text"):
        models[name]([{"text": "a", "pair": "b"} if models[name].pairs else "a", {"text": "\udc00", "pair": "b"}])


def test_one_text_has_one_result_and_several_have_a_list(
    models: dict[str, Model], runs: dict[str, pathlib.Path]
) -> None:
    ner, pairs = models["ner"], models["pairs"]
    assert ner([TEXT]) == [ner(TEXT)] == list(ner(text for text in (TEXT,))) == [ner({"text": TEXT})]
    assert predict(runs["ner"], TEXT) == ner(TEXT) and ner(TEXT)["text"] == TEXT
    assert pairs([("ada", "met"), {"text": "ada", "pair": "met"}]) == 2 * [pairs({"text": "ada", "pair": "met"})]
    assert ner({"text": TEXT, "id": 7}) == {"id": 7, **ner(TEXT)}
    assert [entity["text"] for entity in ner({"tokens": TEXT.split()})["entities"]] == [
        entity["text"] for entity in ner(TEXT)["entities"]
    ]


def test_several_texts_are_any_iterable(models: dict[str, Model]) -> None:
    pandas = pytest.importorskip("pandas")
    model, texts = models["classification"], ["ada met boole", "", "in hull"]
    wanted = model(texts)
    held = [
        tuple(texts),
        (text for text in texts),
        iter(texts),
        np.array(texts),
        np.array(texts, object),
        pandas.Series(texts, index=[7, 7, 9]),
        pandas.DataFrame({"text": texts})["text"],
        dict.fromkeys(texts).keys(),
    ]
    for each in held:
        assert model(each) == wanted, type(each)
    assert model(np.array("in hull")) == model(np.str_("in hull")) == wanted[2]
    json.dumps(model(np.array(texts)))  # plain texts, not NumPy's
    with pytest.raises(UserError, match=r"a DataFrame is neither a text nor a list of texts \(such as one column\)"):
        model(pandas.DataFrame({"text": texts}))
    with pytest.raises(UserError, match=r"text 2: the text is nan \(float\)"):
        model(pandas.Series(["ada", float("nan")]))


def test_a_model_says_what_it_is(models: dict[str, Model], runs: dict[str, pathlib.Path]) -> None:
    assert repr(models["classification"]) == (
        f"<jaxfm.Model: classification, labels: LOC, PER; step 1 of {str(runs['classification'])!r}>"
    )
    assert "masked_lm, labels: none;" in repr(models["masked_lm"])
    assert models["ner"].labels == tiny.LABELS


def test_threads_share_a_model(runs: dict[str, pathlib.Path]) -> None:
    """Texts of very different lengths, so that threads which mixed up tokenizers or programs would differ."""
    model = Model(runs["ner"])
    inputs = [[" ".join(words) for words, _ in tiny.sentences(count, seed)] for seed, count in enumerate((1, 9, 3, 30))]
    wanted = [Model(runs["ner"])(texts) for texts in inputs]
    with concurrent.futures.ThreadPoolExecutor(len(inputs)) as pool:
        for found in (pool.map(model, inputs), pool.map(model, inputs)):
            assert list(found) == wanted


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        ("ner", [TEXT, None], "text 2: the text is null, but must be text"),
        ("ner", [math.nan], r"text 1: the text is nan \(float\)"),
        ("ner", b"ada", "a bytes is neither a text nor a list of texts"),
        ("ner", 5, "an int is neither|a int is neither"),
        ("ner", [("ada", "met")], "text 1: this model judges single texts: leave the second one out"),
        ("ner", {"tokens": "ada met"}, "the text: the tokens are 'ada met'"),
        ("pairs", "ada", "the text: this model judges pairs of texts: give the second text too"),
        ("pairs", ("ada", "met"), "text 1: this model judges pairs of texts"),
        ("classification", {"tokens": ["ada"]}, "the text: this model reads text, not words"),
        ("masked_lm", {}, "the text: the text is null"),
    ],
)
def test_what_is_no_text_is_refused(models: dict[str, Model], name: str, texts: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        models[name](texts)


def test_files_give_what_texts_give(models: dict[str, Model], folder: pathlib.Path) -> None:
    output = folder / "out.jsonl"
    inputs = {
        "a.csv": (b'id,text\n7,"ada, met"\n', "ner", [{"id": "7", "text": "ada, met"}]),
        "a.conll": (b"ada O\nmet O\n", "ner", [{"tokens": ["ada", "met"]}]),
        "a.tsv": (b"sentence1\tsentence2\nada\tmet\n", "pairs", [("ada", "met")]),
        "a.json": (b'[{"text": "ada"}]', "masked_lm", ["ada"]),
    }
    for file, (content, name, texts) in inputs.items():
        (folder / file).write_bytes(content)
        assert predict_file(folder / f"run_{name}", folder / file, output, quiet()) == 1
        assert [json.loads(line) for line in output.read_text().splitlines()] == models[name](texts)
    (folder / "b.csv").write_text("a,b\nada,met\n")
    columns = {"text_column": "b", "pair_column": "a"}
    assert predict_file(folder / "run_pairs", folder / "b.csv", output, quiet(), columns) == 1
    assert json.loads(output.read_text())["text"] == "met"


def test_calls_of_any_number_of_rows_compile_few_programs(runs: dict[str, pathlib.Path]) -> None:
    model = Model(runs["ner"])
    assert model._batch_size == 8 and len(jax.devices()) == 4
    long = " ".join(["ada met boole in hull"] * 3)  # a row each
    for rows in range(1, 20):
        assert len(model([long] * rows)) == rows
    compiled = [evaluator._apply._cache_size() for evaluator in model._evaluators.values()]
    assert sorted(model._evaluators) == [4, 8] and compiled == [1, 1]


def test_outputs_that_cannot_be_are_refused_before_the_model_is_read(folder: pathlib.Path) -> None:
    (folder / "in.txt").write_text("ada\n")
    cases = {
        folder: "is a directory; name a file in it",
        folder / "in.txt" / "a": "is a file, not a directory",
        folder / "in.txt": "is the input itself",
        "gs://bucket/a.jsonl": "is a URL",
    }
    for output, message in cases.items():
        with pytest.raises(UserError, match=f"--output=.*{message}"):
            predict_file("/no/run", folder / "in.txt", output, quiet())
    with pytest.raises(UserError, match=r"--input=.*\.docx: the ending of the name"):
        predict_file("/no/run", folder / "in.docx", folder / "out", quiet())
    with pytest.raises(UserError, match="--workdir=/no/run: holds no run of jaxfm"):
        predict("/no/run", [TEXT])
    assert (folder / "in.txt").read_text() == "ada\n"


def test_two_predictions_into_one_file_do_not_mix(runs: dict[str, pathlib.Path], folder: pathlib.Path) -> None:
    (folder / "in.txt").write_text("ada\n")
    with files.held(files.lock_beside(folder / "both.jsonl"), "--output"):
        with pytest.raises(UserError, match=f"both.jsonl: process {os.getpid()} on .* is writing there"):
            predict_file(runs["ner"], folder / "in.txt", folder / "both.jsonl", quiet())
    assert not (folder / "both.jsonl").exists()


@pytest.mark.slow
def test_the_program_on_a_terminal_of_another_encoding(runs: dict[str, pathlib.Path]) -> None:
    done = call(f"--workdir={runs['ner']}", "h\u00fcll \u6771", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(rb"h\xfcll \u6771" + b"\n")


def test_the_program_refuses_in_one_message(runs: dict[str, pathlib.Path], folder: pathlib.Path) -> None:
    ner, pairs = (f"--workdir={runs[name]}" for name in ("ner", "pairs"))
    cases = [
        ([ner, "fine", os.fsdecode(b"ab\xff")], "text 2: byte 0xFF at position 3 is not UTF-8"),
        (
            [pairs, "one"],
            'text 1: this model judges pairs of texts: give the second one as --pair="TEXT" or --context=FILE, or',
        ),
        ([pairs, "one", "--pair", os.fsdecode(b"\xff")], "--pair: byte 0xFF at position 1"),
        ([ner, "one", "--pair=two"], "text 1: this model judges single texts"),
        ([ner], "give either texts, or both --input and --output"),
        (["--workdir=", "one"], "--workdir is missing"),
        ([ner, f"--input={folder}", "--output=out"], "is a directory; name a file"),
        ([ner, "one", "--config.data.txt_column=a"], "config.data.txt_column: there is no such flag"),
        ([ner, f"--input={folder}/{'n' * 300}.txt", "--output=out"], "File name too long"),
    ]
    ran = call_many("predict", [words for words, _ in cases])
    for (words, message), (code, output, errors) in zip(cases, ran, strict=True):
        assert (code, output) == (2, "") and errors.startswith("error: ") and message in errors, (words, code, errors)


def test_the_program_writes_to_a_stream_results_alone(runs: dict[str, pathlib.Path], folder: pathlib.Path) -> None:
    (folder / "two.csv").write_text("review\nada\nmet\n")
    done = call(f"--workdir={runs['ner']}", f"--input={folder / 'two.csv'}", "--output=/dev/stdout")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["ada", "met"]
    assert done.stderr == b"written: /dev/stdout (2 lines)\n"


def test_the_stream_that_a_shell_leads_into_a_file_stays(runs: dict[str, pathlib.Path], folder: pathlib.Path) -> None:
    (folder / "two.txt").write_text("ada\nmet\n")
    (folder / "redirected.jsonl").write_text('{"text": "before"}\n')
    command = [sys.executable, "-m", "jaxfm.predict", f"--workdir={runs['ner']}", f"--input={folder / 'two.txt'}"]
    with open(folder / "redirected.jsonl", "a") as file:
        done = subprocess.run([*command, "--output=-"], cwd=ROOT, stdout=file, stderr=subprocess.PIPE, timeout=240)
    assert done.returncode == 0, done.stderr
    lines = (folder / "redirected.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["before", "ada", "met"]
    assert pathlib.Path("/dev/stdout").is_symlink()


@pytest.mark.slow
def test_the_program_stopped_by_sigterm_leaves_nothing(runs: dict[str, pathlib.Path], folder: pathlib.Path) -> None:
    place = folder / "stopped"
    place.mkdir()
    os.mkfifo(folder / "endless.txt")
    words = [f"--workdir={runs['ner']}", f"--input={folder / 'endless.txt'}", f"--output={place / 'out.jsonl'}"]
    child = subprocess.Popen(
        [sys.executable, "-m", "jaxfm.predict", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not any(path.suffix == ".part" for path in place.iterdir()):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    second = call(*words)  # while the first one writes
    child.terminate()
    assert child.wait(timeout=60) == 143 and child.stderr is not None
    assert "stopped by SIGTERM" in child.stderr.read()
    child.stderr.close()
    assert second.returncode == 2 and f"process {child.pid} on".encode() in second.stderr
    assert not list(place.iterdir())

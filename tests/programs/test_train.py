"""The program `python -m jaxfm.train` as a user runs it: exit codes, messages, kills and restarts."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import Any

import ml_collections
import pytest

from jaxfm.observe.writers import read_metrics
from jaxfm.programs.prepare import prepare
from jaxfm.programs.train import train
from jaxfm.schema import to_dict
from jaxfm.training import workdir as workdirs
from jaxfm.training.checkpoint import Checkpoints
from tests import tiny
from tests.programs.many_calls import call_many

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("train")
    tiny.config(folder)
    return folder


def flags(folder: pathlib.Path) -> list[str]:
    """Corpus and weights of `folder` for configs/ner.py:files."""
    return [
        f"--config={ROOT / 'configs/ner.py'}:files",
        f"--config.model.init=dir:{folder / 'weights'}",
        f"--config.data.source=conll:{folder / 'corpus'}",
        "--config.data.row_length=48",
        "--config.task.overlap=8",
    ]


def bad_text(folder: pathlib.Path) -> dict[str, tuple[list[str], str]]:
    """The same for pretraining on text."""
    tiny.masked_lm_config(folder)
    good = [
        f"--config={ROOT / 'configs/mlm.py'}:continue",
        f"--workdir={folder / 'run'}",
        f"--config.model.init=dir:{folder / 'masked_lm'}",
        f"--config.data.cache={folder.parent / 'cache'}",
        "--config.data.row_length=48",
    ]

    def source(name: str, content: bytes) -> str:
        (folder / name).mkdir()
        (folder / name / "train.txt").write_bytes(content)
        return f"--config.data.source=text:{folder / name}"

    prepare(f"text:{folder / 'text'}", folder / "shards", f"dir:{folder / 'masked_lm'}", row_length=48, workers=1)
    shard = next((folder / "shards").glob("*.array_record"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    small = dataclasses.replace(tiny.ENCODER, vocab_size=50)
    tiny.write_masked_lm_weights(folder / "small", small)
    text = f"--config.data.source=text:{folder / 'text'}"
    return {
        "empty corpus": ([*good, source("empty", b" \n\n \n")], r"the split 'train' is empty"),
        "a binary file": (
            [*good, source("binary", b"ada met boole\n\x00\x01\x02\n")],
            re.escape(f"{folder / 'binary' / 'train.txt'}:2: "),
        ),
        "not UTF-8": (
            [*good, source("latin", b"ada met\n\xe9t\xe9 boole\n")],
            re.escape(f"{folder / 'latin' / 'train.txt'}:2: "),
        ),
        "a tokenizer that does not fit the vocabulary": (
            [*good, text, f"--config.model.init=dir:{folder / 'small'}"],
            r"the tokenizer has 69 entries, the word embedding 50 rows",
        ),
        "a shard with flipped bytes": (
            [*good, f"--config.data.source=array_record:{folder / 'shards'}"],
            re.escape(f"{shard}: its bytes have changed since it was written"),
        ),
        "no run to start from": ([*good, text, f"--config.model.init=run:{folder / 'full'}"], r"holds no run of jaxfm"),
        "unknown unit": ([*good, text, "--config.task.unit=spam"], r"config\.task\.unit.*'span'"),
        "unknown variant of mlm": (
            [f"--config={ROOT / 'configs/mlm.py'}:bert_smal", f"--workdir={folder / 'run'}"],
            r"no variant 'bert_smal'.*bert_small",
        ),
    }


def bad_input(folder: pathlib.Path) -> dict[str, tuple[list[str], str]]:
    """Name -> arguments of the program, pattern of its message."""
    good, workdir = flags(folder), f"--workdir={folder / 'run'}"
    (folder / "typo.py").write_text(
        "from jaxfm.tasks.registry import default_config\n\n\n"
        'def get_config():\n    config = default_config("ner")\n    config.train.stepz = 3\n    return config\n'
    )
    (folder / "extra.py").write_text(
        "import ml_collections\n\n\ndef get_config():\n"
        "    return ml_collections.ConfigDict({'task': {'name': 'ner'}, 'optim': {'learningrate': 1.0}})\n"
    )
    damaged = folder / "damaged"
    tiny.write_corpus(damaged)
    content = (damaged / "valid.conll").read_text().splitlines()
    damaged_line = next(number for number, line in enumerate(content) if number and " " in line)
    content[damaged_line] = content[damaged_line].replace(" ", "")
    (damaged / "valid.conll").write_text("\n".join(content) + "\n")
    other = folder / "other"
    workdirs.write_config(other, tiny.config(folder, seed=5))
    (folder / "file").write_text("")
    full = folder / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("")
    config = f"--config={folder / 'typo.py'}"
    return {
        "unknown key": (
            [*good, workdir, "--config.train.stepz=3"],
            r"config\.train\.stepz: there is no such key\. .*'steps'",
        ),
        "unknown group": ([*good, workdir, "--config.trian.steps=3"], r"config\.trian: .*'train'"),
        "unknown key in a file": ([config, workdir], r"stepz.*steps"),
        "unknown key of a file's own": (
            [f"--config={folder / 'extra.py'}", workdir],
            r"config\.optim\.learningrate.*'learning_rate'",
        ),
        "wrong type": ([*good, workdir, "--config.train.steps=many"], r"config\.train\.steps.*many"),
        "out of range": (
            [*good, workdir, "--config.model.dropout=1.5"],
            r"config\.model\.dropout: is 1\.5, but must be at most 0\.9",
        ),
        "unknown variant": ([f"--config={ROOT / 'configs/ner.py'}:wnut18", workdir], r"no variant 'wnut18'.*wnut17"),
        "no such config file": ([f"--config={folder / 'nothing.py'}", workdir], r"nothing\.py"),
        "no work directory": (good, r"--workdir is missing.*usage:"),
        "no config": ([workdir], r"--config is missing.*usage:"),
        "unknown flag": ([*good, "--wrokdir=x"], r"wrokdir"),
        "a stray word": ([*good, workdir, "runs/ner"], r"unexpected argument 'runs/ner'"),
        "no data": (
            [*good, workdir, "--config.data.source=conll:/no/such/folder"],
            r"conll:/no/such/folder: no such file",
        ),
        "a damaged line": (
            [*good, workdir, f"--config.data.source=conll:{damaged}"],
            re.escape(f"{damaged / 'valid.conll'}:{damaged_line + 1}: 1 column"),
        ),
        "no weights": ([*good, workdir, "--config.model.init=dir:/no/weights"], r"config\.model\.init.*/no/weights"),
        "no network": (
            [*good, workdir, "--config.model.init=hf:owner/name"],
            r"config\.model\.init.*hf download owner/name",
        ),
        "a work directory of another config": ([*good, f"--workdir={other}"], r"another config .*seed: 5 -> 0"),
        "a file": ([*good, f"--workdir={folder / 'file'}"], r"is a file"),
        "a directory of other things": ([*good, f"--workdir={full}"], r"holds no run of jaxfm"),
        "a batch that cannot be cut": (
            [*good, workdir, "--config.train.batch_size=6"],
            r"config\.train\.batch_size: 6 .*4 or 8",
        ),
        "impossible mesh": (
            [*good, workdir, "--config.parallel.mesh.fsdp=3"],
            r"config\.parallel\.mesh: .*devices, 4\.",
        ),
        "a pattern that matches nothing": (
            [*good, workdir, "--config.optim.no_decay=('*/bais',)"],
            r"config\.optim\.no_decay: pattern '\*/bais'",
        ),
        "unknown metric": ([*good, workdir, "--config.eval.metric=f2"], r"config\.eval\.metric: 'f2'.*'f1'"),
    }


def test_bad_input_ends_in_one_message(folder: pathlib.Path) -> None:
    cases = bad_input(folder) | bad_text(folder)
    before = sorted(folder.rglob("*"))
    ran = call_many("train", [arguments for arguments, _ in cases.values()])
    wrong = []
    for (name, (_, pattern)), (code, output, errors) in zip(cases.items(), ran, strict=True):
        said = " ".join(errors.split())
        if code != 2 or output or not errors.startswith("error: ") or "Traceback" in errors:
            wrong.append(f"{name}: exit {code}: {output[-500:]} {errors[-2000:]}")
        elif not re.search(pattern, said):
            wrong.append(f"{name}: {said} (not: {pattern})")
    assert not wrong, "\n\n".join(wrong)
    assert sorted(folder.rglob("*")) == before  # nothing half-written: not even the work directory


STEPS = 40


def long_config(folder: pathlib.Path) -> ml_collections.ConfigDict:
    """A config whose run takes long enough to be hit: a checkpoint every 5 steps."""
    values = tiny.config(
        folder,
        train__steps=STEPS,
        train__batch_size=8,
        train__accumulate=2,
        eval__every_steps=20,
        checkpoint__every_steps=5,
        checkpoint__keep_last=2,
        checkpoint__keep_optimizer=True,
        log__every_steps=3,
    )
    return ml_collections.ConfigDict(to_dict(values))


def command(folder: pathlib.Path, workdir: pathlib.Path) -> list[str]:
    (folder / "long.py").write_text(
        "import ml_collections\n\n\ndef get_config():\n"
        f"    return ml_collections.ConfigDict({long_config(folder).to_dict()!r})\n"
    )
    return [sys.executable, "-m", "jaxfm.train", f"--config={folder / 'long.py'}", f"--workdir={workdir}"]


def start(arguments: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: "subprocess.Popen[str]", workdir: pathlib.Path, saved: int) -> None:
    """Waits until a checkpoint of at least step `saved` is whole."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if any(step >= saved for step in steps_in(workdir)):
            return
        time.sleep(0.02)
    process.kill()
    raise AssertionError(f"no checkpoint of step {saved}: {process.communicate()[0]}")


def steps_in(workdir: pathlib.Path) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def hashes(workdir: pathlib.Path) -> Any:
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    try:
        return checkpoints.meta(STEPS)["hashes"]
    finally:
        checkpoints.close()


@pytest.mark.slow
def test_killed_damaged_and_terminated_the_same_command_ends_as_if_nothing_had_been(folder: pathlib.Path) -> None:
    workdir = folder / "hit"
    arguments = command(folder, workdir)

    killed = start(arguments)
    wait_for(killed, workdir, saved=10)
    time.sleep(int.from_bytes(os.urandom(2)) / 2**16 * 0.3)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    newest = workdir / "checkpoints" / str(steps_in(workdir)[-1])
    assert len(steps_in(workdir)) >= 2
    for path in (newest / "rest").rglob("d/*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    terminated = start(arguments)
    wait_for(terminated, workdir, saved=int(newest.name) + 10)
    terminated.terminate()
    output = terminated.communicate(timeout=120)[0]
    assert terminated.returncode == 75, output
    step = int(re.findall(r"stopped by SIGTERM after saving step (\d+)\. The same command goes on", output)[0])
    assert step in steps_in(workdir)
    assert f"{newest}: " in output and "the checkpoint before, of step" in output
    assert not (workdir / "report.json").exists()

    finished = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert finished.returncode == 0, finished.stderr
    assert f"resuming after step {step} of {STEPS}" in finished.stdout
    assert finished.stdout.endswith(f"run finished; report: {workdir}/report.md\n")
    summary = finished.stdout.splitlines()[-20:]
    assert any(re.match(r"test f1 \d\.\d{4} \(95% interval .* over 18 sentences\)", line) for line in summary)

    reference = train(long_config(folder), folder / "reference")
    assert hashes(workdir) == hashes(folder / "reference")
    assert json.loads((workdir / "report.json").read_text())["splits"] == reference["splits"]
    without_speed = [
        [{name: value for name, value in line.items() if "per_second" not in name} for line in read_metrics(path)]
        for path in (workdir / "metrics.jsonl", folder / "reference" / "metrics.jsonl")
    ]
    assert without_speed[0] == without_speed[1]

    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    again = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert (again.returncode, again.stderr) == (0, "")
    assert f"run finished; report: {workdir}/report.md" in again.stdout and "step" not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before

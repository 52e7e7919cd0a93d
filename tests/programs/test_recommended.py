"""What a run's report and messages tell a person to type can be typed."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests import tiny

pytestmark = pytest.mark.slow  # seven programs, each of which compiles

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Trains, runs what the report recommends, and the command that the refusal of more steps gives; all in one process, as
# imports take longer than all that follows. Prints (words, exit code, output, errors) of each.
SCRIPT = """
import contextlib, io, json, pathlib, re, runpy, shlex, sys
from absl.testing import flagsaver
import jaxfm.programs.program, jaxfm.tasks.registry, jaxfm.training.results

results = []

def call(line):
    words = shlex.split(line)
    assert words[:2] == ["python", "-m"], line
    sys.argv = words[2:]
    output, errors = io.StringIO(), io.StringIO()
    with flagsaver.flagsaver(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            runpy.run_module(words[2], run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    for name in list(jaxfm.programs.program.flags.FLAGS):  # each program defines its own
        if name not in known:
            delattr(jaxfm.programs.program.flags.FLAGS, name)
    results.append((line, code, output.getvalue(), errors.getvalue()))
    return results[-1]

known = set(jaxfm.programs.program.flags.FLAGS)
train, folder, placeholders = json.load(sys.stdin)
call(train)
block = re.search("```sh\\n(.*?)```", (pathlib.Path(folder) / "report.md").read_text(), re.S)[1]
for line in block.splitlines():
    for name, value in placeholders.items():
        line = line.replace(name, value)
    call(line)
_, _, _, said = call(train + " --config.train.steps=5")
call(said.strip().splitlines()[-1])
json.dump(results, sys.stdout)
"""


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, list[list[str]]]:
    """The commands that were run, with exit code, output and errors; the run's name needs quoting."""
    folder = tmp_path_factory.mktemp("recommended")
    tiny.config(folder)
    (folder / "corpus" / "test.conll").unlink()
    (folder / "in.txt").write_text("ada met emmy\n")
    workdir = folder / "it's $HOME" / "ner"
    quoted = "'" + str(workdir).replace("'", "'\"'\"'") + "'"
    values = (
        f"--config={ROOT / 'configs/ner.py'}:files --config.model.init=dir:{folder / 'weights'} "
        f"--config.data.source=conll:{folder / 'corpus'} --config.data.row_length=48 --config.task.overlap=8 "
        "--config.train.steps=2 --config.train.batch_size=4 --config.eval.batch_size=8"
    )
    placeholders = {"FILE": str(folder / "in.txt"), "OUT.jsonl": str(folder / "out.jsonl"), "DIR": str(folder / "hf")}
    ran = subprocess.run(
        [sys.executable, "-B", "-c", SCRIPT],
        input=json.dumps([f"python -m jaxfm.train {values} --workdir={quoted}", str(workdir), placeholders]),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""  # nothing is said beside the programs' own words
    return folder, json.loads(ran.stdout)


def test_all_that_a_report_recommends_works(called: tuple[pathlib.Path, list[list[str]]]) -> None:
    folder, results = called
    programs = {line.split()[2]: line for line, *_ in results[1:-2]}
    assert set(programs) == {"jaxfm.predict", "jaxfm.evaluate", "jaxfm.export"}
    assert "--split=valid" in programs["jaxfm.evaluate"]  # there is no test
    for line, code, output, errors in results[:-2]:
        assert code == 0, f"{line}\n{output}\n{errors}"
    assert (folder / "out.jsonl").read_text().count("\n") == 1 and (folder / "hf" / "config.json").is_file()


def test_a_finished_run_says_how_to_go_on(called: tuple[pathlib.Path, list[list[str]]]) -> None:
    folder, results = called
    (_, code, _, said), (line, second, output, errors) = results[-2:]
    first = folder / "it's $HOME" / "ner"
    assert code == 2 and "holds a finished run of another config (train.steps: 2 -> 5)" in said
    assert (second, errors) == (0, ""), errors
    assert "--config.train.steps=3" in line  # of the 5 asked for, 2 are done
    config = json.loads((first.parent / "ner-2" / "config.json").read_text())["config"]
    assert config["model"]["init"] == f"run:{first}" and config["train"]["steps"] == 3
    assert output.splitlines()[-1].startswith("run finished")

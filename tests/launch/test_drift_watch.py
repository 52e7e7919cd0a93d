"""launch/drift_watch.py with a stand-in for Python: what follows each verdict, what is gone on with, and the link."""

import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.stand_ins import LAUNCH, Outcome, StandIns

DRIFT, TRAIN = ("--data=jsonl:new", "--labelled"), ("--config=configs/ner.py", "--data=conll:a b; touch $(X)")


class Watched:
    """A run, a link to it, and the script."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.stand_ins = folder, StandIns(folder, "py")
        self.run, self.runs = folder / "run", folder / "runs"
        self.run.mkdir()
        (self.run / "config.json").write_text("{}")
        self.link = folder / "current"
        self.link.symlink_to(self.run)

    def reply(self, program: str, code: int) -> None:
        """Says how a program ends from now on."""
        self.stand_ins.rules = [rule for rule in self.stand_ins.rules if program not in rule["words"]]
        self.stand_ins.reply("py", program, replies=[("", "", code)])

    def call(self, *options: str, train: tuple[str, ...] | None = TRAIN) -> Outcome:
        own = (f"--run={self.link}", f"--runs={self.runs}", f"--python={self.stand_ins.folder / 'py'}", *options)
        return self.stand_ins.run("drift_watch.py", *own, "--", *DRIFT, *(() if train is None else ("--", *train)))

    @property
    def state(self) -> dict[str, object]:
        return json.loads((self.run / "drift" / "again.json").read_text())


@pytest.fixture
def watched(tmp_path: pathlib.Path) -> Watched:
    return Watched(tmp_path)


@pytest.mark.parametrize("code", [0, 4, 2, 1])
def test_without_that_verdict_nothing_is_trained(watched: Watched, code: int) -> None:
    watched.reply("jaxfm.drift", code)
    done = watched.call()
    (call,) = done.calls
    assert done.code == code and call.arguments == ["-m", "jaxfm.drift", f"--workdir={watched.run}", *DRIFT]
    assert not (watched.run / "drift" / "again.json").exists()


def test_a_run_is_trained_again_once(watched: Watched) -> None:
    watched.reply("jaxfm.drift", 3)
    done = watched.call()
    assert done.code == 0, done.stderr
    train = done.calls[1].arguments
    assert train[:-2] == ["-m", "jaxfm.train", *TRAIN] and train[-2] == f"--config.model.init=run:{watched.run}"
    workdir = pathlib.Path(train[-1].removeprefix("--workdir="))
    assert workdir.parent == watched.runs and watched.state == {"run": str(workdir), "done": True}
    assert watched.link.resolve() == watched.run  # without --switch
    again = watched.call()
    assert again.code == 4 and len(again.calls) == 1 and f"already, as {workdir}" in again.stdout


def test_without_flags_of_a_training_the_code_says_so(watched: Watched) -> None:
    watched.reply("jaxfm.drift", 3)
    done = watched.call(train=None)
    assert done.code == 3 and len(done.calls) == 1


def test_a_training_that_was_stopped_is_gone_on_with(watched: Watched) -> None:
    watched.reply("jaxfm.drift", 3)
    watched.reply("jaxfm.train", 75)
    first = watched.call()
    assert first.code == 75 and watched.state["done"] is False
    watched.reply("jaxfm.train", 1)
    second = watched.call()
    assert second.code == 1 and [call.arguments for call in second.calls] == [first.calls[1].arguments]
    watched.reply("jaxfm.train", 0)
    third = watched.call("--switch")
    assert third.code == 0 and third.calls[0].arguments == first.calls[1].arguments and watched.state["done"] is True
    workdir = str(watched.state["run"])
    assert str(watched.link.readlink()) == str(pathlib.Path(workdir).resolve())


def test_a_mistake_of_the_training_does_not_stay(watched: Watched) -> None:
    watched.reply("jaxfm.drift", 3)
    watched.reply("jaxfm.train", 2)
    assert watched.call().code == 2 and not (watched.run / "drift" / "again.json").exists()
    own = ("--config=configs/ner.py", "--config.model.init=hf:a/b")
    assert watched.call(train=own).calls[1].arguments[2:-1] == list(own)  # weights of one's own choice


def test_a_second_call_leaves_the_first_alone_and_signals_are_passed_on(watched: Watched) -> None:
    child = watched.stand_ins.folder / "slow"
    child.write_text(
        f"#!{sys.executable}\nimport pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        f"pathlib.Path({str(watched.folder / 'started')!r}).touch()\ntime.sleep(60)\n"
    )
    child.chmod(0o755)
    command = [sys.executable, str(LAUNCH / "drift_watch.py"), f"--run={watched.link}", f"--python={child}", "--"]
    first = subprocess.Popen([*command, *DRIFT], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not (watched.folder / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        second = watched.call()
        assert (second.code, second.calls) == (0, []) and "another call is at work" in second.stdout
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 75
    finally:
        first.kill()
        first.wait()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--", "--data=x"), "the following arguments are required: --run"),
        (("--run=absent", "--", "--data=x"), "--run=absent: holds no run of jaxfm"),
        (("--run=absent", "--", "--labelled"), "need --data=FILE or --data=URI"),
        (("--run=absent", "--", "--data=x", "--", "--config=a"), "--runs: is missing"),
        (("--run=absent", "--switch", "--", "--data=x"), "no flags of a training are given"),
        (("--run=absent", "--", "--data=x", "--workdir=y"), "--workdir: is not one of the flags of jaxfm.drift here"),
        (("--run=absent", "--", "--data=x", "--", "a", "--", "b"), "--: stands twice at most"),
    ],
)
def test_a_mistake_is_one_message(watched: Watched, arguments: tuple[str, ...], message: str) -> None:
    done = watched.stand_ins.run("drift_watch.py", *arguments)
    assert (done.code, done.calls) == (2, []) and message in done.stderr
    assert done.stderr.startswith("drift_watch.py: ") and "--help for the usage" in done.stderr


def test_a_link_is_needed_to_switch_and_a_damaged_state_is_named(watched: Watched) -> None:
    done = watched.stand_ins.run(
        "drift_watch.py", f"--run={watched.run}", f"--runs={watched.runs}", "--switch", "--", *DRIFT, "--", *TRAIN
    )
    assert done.code == 2 and "is not a link" in done.stderr
    (watched.run / "drift").mkdir(exist_ok=True)
    (watched.run / "drift" / "again.json").write_text("[]")
    done = watched.call()
    assert (done.code, done.calls) == (2, []) and "again.json: is not a file of this script" in done.stderr

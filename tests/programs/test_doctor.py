"""The program `jaxfm doctor`: what it shows, that it keeps secrets, and that it notices what does not work."""

import io
import json
import os
import pathlib
import subprocess
import sys
import tomllib
import types
from typing import Any

import pytest
from rich.console import Console

import jaxfm
from jaxfm.programs import doctor, self_test
from jaxfm.programs.self_test import Check, attempt
from jaxfm.programs.usage import WIDTH

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKEN, PASSWORD = "hf_notforanybody", "neverseen"


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@proxy:8080")
    monkeypatch.setenv("HF_HOME", "/somewhere/hf")


@pytest.fixture
def caches(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The folder of all caches: jaxfm's has 100 bytes, 40 of them compiled programs; the hub's has 10."""
    for name, size in {"jaxfm/compiled/a": 40, "jaxfm/corpora/b": 60, "hub/models/c": 10}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * size)
    (tmp_path / "hub" / "link").symlink_to(tmp_path / "hub" / "models" / "c")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jaxfm" / "compiled"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "absent"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def shown(found: Any) -> str:
    """What is printed of facts."""
    output = io.StringIO()
    doctor._show_facts(Console(file=output, highlight=False), found)
    return output.getvalue()


def test_the_facts_are_those_of_this_installation(caches: pathlib.Path) -> None:
    found = doctor.facts()
    assert found["versions"]["jaxfm"] == jaxfm.__version__
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "not installed" not in (found["versions"][name] for name in ("jax", "flax", "optax", "transformers"))
    assert found["machine"]["jaxfm is in"] == str(pathlib.Path(jaxfm.__file__).parent)
    assert found["machine"]["matrix units for bf16"] in ("yes", "no")
    assert {name: each["bytes"] for name, each in found["caches"].items()} == {
        "compiled programs": 40,
        "prepared corpora": 60,  # without the folder inside it that is shown by itself
        "Hugging Face hub": 10,  # the hub's links are no copies
        "tensorflow-datasets": 0,
    }
    assert found["caches"]["compiled programs"]["path"] == str(caches / "jaxfm" / "compiled")
    assert json.loads(json.dumps(found)) == found


def test_every_extra_for_users_is_known() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(doctor.EXTRAS) == set(extras) - {"test", "dev", "docs"}


def test_an_extra_that_is_not_installed_has_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EXTRAS", {"hf": (("no_such_module",), "hub data"), "prepare": (("json",), "copies")})
    found = doctor._extras()
    assert [each["installed"] for each in found.values()] == [False, True]
    assert doctor._extra("hf", found["hf"]) == "hub data; not installed: pip install 'jaxfm-encoders[hf]'"
    assert doctor._extra("prepare", found["prepare"]) == "copies; installed"


def test_no_secret_is_shown(secrets: None) -> None:
    found = doctor.facts()
    text = json.dumps(found) + shown(found)
    assert TOKEN not in text and PASSWORD not in text
    settings = found["settings"]
    assert settings["HF_TOKEN"] == settings["HTTPS_PROXY"] == "set" and settings["a token for the hub"] == "yes"
    assert settings["HF_HOME"] == "/somewhere/hf" and settings["HF_HUB_OFFLINE"] == "1"


def test_names_and_values_are_columns() -> None:
    lines = shown(doctor.facts()).splitlines()
    for name in (*doctor.SETTINGS, *doctor.PACKAGES):
        assert any(line.startswith(f"  {name}  ") for line in lines), name


def test_lines_fit_a_terminal_but_for_long_words() -> None:
    text = shown(doctor.facts())
    for line in text.splitlines():
        assert len(line) <= WIDTH or max(map(len, line.split())) > WIDTH - doctor._NAME_WIDTH, line
    for title in ("versions", "machine", "caches", "extras", "settings"):
        assert f"{title}\n" in text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (2048, "2 KiB"), (5 * 2**20, "5 MiB"), (1.5 * 2**30, "1.5 GiB")]
)
def test_sizes_are_for_a_person(count: float, text: str) -> None:
    assert doctor._size(count) == text


def test_what_fails_is_a_check_that_says_why(monkeypatch: pytest.MonkeyPatch, caches: pathlib.Path) -> None:
    def fail() -> str:
        print("chatter")
        raise OSError("the disk\n  is on fire")

    check = attempt("disk", fail)
    assert (check.name, check.passed, check.text) == ("disk", False, "OSError: the disk is on fire")
    assert attempt("disk", doctor._disk).passed
    monkeypatch.setattr(doctor, "_LEAST_DISK", 2**80)
    full = attempt("disk", doctor._disk)
    assert not full.passed and "are free in the cache folder or the temporary folder" in full.text


def test_the_self_test_ends_at_the_first_thing_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [{"split": "train", "loss": 2.0}, {"split": "train", "loss": 1.9}]
    monkeypatch.setattr(self_test, "train", lambda config, workdir: None)
    monkeypatch.setattr(self_test, "read_metrics", lambda path: losses)
    (check,) = self_test.self_test()
    assert not check.passed and "from 2.00 to 1.90" in check.text and "should have fallen below 50%" in check.text


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("passed", [False, True])
def test_the_exit_code_says_whether_all_is_well(
    as_json: bool, passed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = [Check("devices", True, "one", 0.1), Check("train", passed, "words " * 30, 2.0)]
    monkeypatch.setattr(
        doctor, "flags", types.SimpleNamespace(FLAGS=types.SimpleNamespace(json=as_json, self_test=True))
    )
    monkeypatch.setattr(doctor, "checks", lambda test: iter(done))
    if passed:
        doctor.main()
    else:
        with pytest.raises(SystemExit) as stop:
            doctor.main()
        assert stop.value.code == 1
    output = capsys.readouterr().out
    if as_json:
        found = json.loads(output)["checks"]
        assert [each["name"] for each in found] == ["devices", "train"] and found[1]["passed"] is passed
    else:
        assert output.endswith("\nAll is well.\n" if passed else "\nFailed: train.\n")
        assert f"  ok   {'devices':<22}" in output and ("  FAIL train" in output) is not passed


@pytest.mark.slow
def test_the_program_finds_all_well_here(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jaxfm", "doctor", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_TOKEN": TOKEN},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "") and TOKEN not in done.stdout
    checks = json.loads(done.stdout)["checks"]
    assert [each["name"] for each in checks] == ["devices", "disk", "train", "save", "load, predict"]
    assert all(each["passed"] for each in checks)
    assert list(tmp_path.iterdir()) == []

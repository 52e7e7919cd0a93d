"""`make audit`: what was not looked up never counts as safe."""

import importlib.util
import json
import pathlib
import sys
import types

import pytest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / ".ci" / "audit.py"


@pytest.fixture
def audit() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KNOWN = {"name": "a", "version": "1.0", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "Dependency not found on PyPI and could not be audited: b (2.0)"}
FOUND = [{"id": "PYSEC-1", "fix_versions": ["3.1"]}, {"id": "CVE-2", "fix_versions": []}]
BAD = {"name": "c", "version": "3.0", "vulns": FOUND}


def test_all_known_and_none_bad(audit: types.ModuleType) -> None:
    assert audit.judge(json.dumps({"dependencies": [KNOWN]}), "") == (0, ["1 packages, no known advisory"])


def test_what_could_not_be_looked_up_is_an_error(audit: types.ModuleType) -> None:
    code, lines = audit.judge(json.dumps({"dependencies": [KNOWN, SKIPPED]}), "No known vulnerabilities found")
    assert code == 2 and len(lines) == 1
    assert lines[0].startswith("error: 1 of 2 packages could not be looked up (b): the service of advisories was not")
    assert audit.judge('{"dependencies": []}', "")[0] == 2


def test_advisories_are_named(audit: types.ModuleType) -> None:
    code, lines = audit.judge(json.dumps({"dependencies": [KNOWN, BAD, SKIPPED]}), "")
    assert code == 1 and lines[:2] == ["c 3.0: PYSEC-1, repaired in 3.1", "c 3.0: CVE-2"]
    assert lines[2].startswith("error: 1 of 3 packages")


def test_a_service_out_of_reach_is_one_line(audit: types.ModuleType) -> None:
    code, lines = audit.judge("", "Traceback (most recent call last):\n  ...\nConnectionError: Max retries exceeded")
    assert code == 2
    assert lines == ["error: the advisories could not be looked up (ConnectionError: Max retries exceeded)."]


def test_the_program_it_needs_may_be_absent(
    audit: types.ModuleType, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert audit.main([]) == 2
    assert "pip-audit is not installed" in capsys.readouterr().err
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\necho '{json.dumps({'dependencies': [KNOWN]})}'\n")
    program.chmod(0o755)
    assert audit.main(["constraints.txt"]) == 0
    assert capsys.readouterr().out == "1 packages, no known advisory\n"

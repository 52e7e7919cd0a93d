"""launch/environment: what the launchers set, why, and that what it is for knows it."""

import importlib.util
import os
import re
import subprocess
import sys

import pytest

from tests.launch.stand_ins import LAUNCH, ROOT

FILES = sorted((LAUNCH / "environment").glob("*.env"))
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.py")])


def load_jobset():
    spec = importlib.util.spec_from_file_location("gke_jobset", LAUNCH / "gke_jobset.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_by_shell(path) -> dict[str, str]:
    code = 'source "$1"; read_environment "$2"; printf "%s\\n" "${environment[@]}"'
    done = subprocess.run(
        ["bash", "-c", code, "launch", str(LAUNCH / "lib.sh"), str(path)], capture_output=True, text=True, check=True
    )
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


def test_the_files_are_there():
    assert [path.name for path in FILES] == ["gpu.env", "tpu.env"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_value_says_why_and_where_that_is_written(path):
    blocks = path.read_text().split("\n\n")[1:]
    assert blocks
    for block in blocks:
        lines = block.strip().splitlines()
        assert re.match(r"[A-Z_]+=", lines[-1]) and all(line.startswith("# ") for line in lines[:-1]), block
        assert "https://" in block, block


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_shell_and_python_read_the_same(path):
    read = load_jobset().read_environment(path)
    assert read and read_by_shell(path) == read


def test_a_name_given_again_adds_to_its_value(tmp_path):
    path = tmp_path / "my.env"
    path.write_text("# why\nFLAGS=--a=1\n  # indented\n\nOTHER=x y=$HOME 'z' #no comment\nFLAGS=--b=2")
    read = load_jobset().read_environment(path)
    assert read == {"FLAGS": "--a=1 --b=2", "OTHER": "x y=$HOME 'z' #no comment"}
    assert read_by_shell(path) == read


@pytest.mark.parametrize("line", ["export A=1", "A", "1A=2", "A B=1", "=1"])
def test_a_line_that_is_no_value_is_refused_by_both(tmp_path, line):
    path = tmp_path / "my.env"
    path.write_text(f"A=1\n{line}\n")
    with pytest.raises(ValueError, match=r"my\.env:2: .* is not NAME=value"):
        load_jobset().read_environment(path)
    with pytest.raises(subprocess.CalledProcessError) as error:
        read_by_shell(path)
    assert error.value.returncode == 2 and "my.env:2: " in error.value.stderr


def start_jax(code: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    return subprocess.run(
        [sys.executable, "-c", code or "import jax; jax.numpy.zeros(3)"],
        env={**kept, "JAX_PLATFORMS": "cpu", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.slow
def test_xla_knows_the_flags_for_gpus():
    """XLA refuses to start with a flag that it does not know; flags for GPUs are known to every build of it."""
    flags = read_by_shell(LAUNCH / "environment" / "gpu.env")["XLA_FLAGS"]
    assert start_jax(XLA_FLAGS=flags).returncode == 0
    refused = start_jax(XLA_FLAGS=f"{flags} --xla_gpu_no_such_flag=true")
    assert refused.returncode != 0 and "Unknown flag" in refused.stderr


@pytest.mark.slow
def test_libtpu_knows_the_flags_for_tpus():
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed (extra `tpu`)")
    flags = read_by_shell(LAUNCH / "environment" / "tpu.env")["LIBTPU_INIT_ARGS"]
    code = "from jax.experimental import topologies as t; t.get_topology_desc(platform='tpu', topology_name='v5e:2x2')"
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    assert start_jax(code, LIBTPU_INIT_ARGS=flags, **quiet).returncode == 0
    refused = start_jax(code, LIBTPU_INIT_ARGS=f"{flags} --xla_tpu_no_such_flag=true", **quiet)
    assert refused.returncode != 0


@pytest.mark.parametrize("name", ["tpu_pod.sh", "gke_jobset.py", "gke_xpk.sh", "slurm.sh"])
def test_help_names_every_option(name):
    script = LAUNCH / name
    start = [sys.executable] if name.endswith(".py") else ["bash"]
    done = subprocess.run([*start, str(script), "--help"], capture_output=True, text=True, check=True, timeout=60)
    pattern = r'\badd\(\s*"(--[a-z-]+)"' if name.endswith(".py") else r"^    (--[a-z-]+)(?:=\*\)| \||\))"
    options = set(re.findall(pattern, script.read_text(), flags=re.MULTILINE))
    assert {"--dry-run", "--environment", "--name", "--python"} <= options
    assert [option for option in sorted(options) if option not in done.stdout] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_readme_names_every_file(script):
    assert script.name in (LAUNCH / "README.md").read_text()


def test_the_linter_checks_the_scripts():
    assert "shellcheck --external-sources .ci/run launch/*.sh" in (ROOT / "Makefile").read_text()

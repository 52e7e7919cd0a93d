import pathlib
import subprocess
import sys

import pytest

from jaxfm import files
from jaxfm.errors import UserError
from profiles import prepare_memory
from tests import tiny


def test_documents_are_distinct_runs_of_the_text_given(tmp_path: pathlib.Path) -> None:
    words = [f"w{number}" for number in range(5000)]
    count = prepare_memory.write_corpus(tmp_path / "a.txt", words, 1)
    lines = (tmp_path / "a.txt").read_text().splitlines()
    assert len(lines) == count == len(set(lines))
    assert 1.0 <= (tmp_path / "a.txt").stat().st_size / 1e6 < 1.02
    numbers = [int(word[1:]) for word in lines[0].split()]
    steps = [second - first for first, second in zip(numbers, numbers[1:], strict=False)]
    assert sum(step == 1 for step in steps) > 0.9 * len(steps) - 60


def test_text_files_are_found(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x.train.txt").write_text("one two\nthree\n")
    (tmp_path / "valid.txt").write_text("four\n")
    assert prepare_memory.read_words(tmp_path) == ["one", "two", "three"]
    with pytest.raises(UserError, match="has no file"):
        prepare_memory.read_words(tmp_path / "x")


@pytest.mark.slow
def test_memory_of_children_is_seen() -> None:
    hold = "import time; block = b'1' * {}; time.sleep(2)"
    inner = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {hold.format(150_000_000)!r}])"
    peak, seconds = prepare_memory.measure([sys.executable, "-c", f"{inner}; {hold.format(80_000_000)}; p.wait()"])
    assert 80 < peak.main < 130
    assert 230 < peak.together < 330
    assert peak.processes == 2 and seconds >= 2
    with pytest.raises(UserError, match="exit code 3: no"):
        prepare_memory.measure([sys.executable, "-c", "import sys; print('no', file=sys.stderr); sys.exit(3)"])


@pytest.mark.slow
def test_a_run_is_measured_and_kept(tmp_path: pathlib.Path) -> None:
    tiny.write_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "train.txt").write_text(" ".join(tiny.FILLERS * 200) + "\n")
    files.write_json(tmp_path / "out.json", {"runs": [{"name": "other"}]})
    words = [sys.executable, "-m", "profiles.prepare_memory", f"--text={tmp_path}", f"--output={tmp_path / 'out.json'}"]
    words += ["--sizes=1", "--deduplicate=exact", "--workers=1", f"--tokenizer=dir:{tmp_path / 'tokenizer'}"]
    root = pathlib.Path(__file__).resolve().parents[2]
    done = subprocess.run([*words, f"--workdir={tmp_path / 'work'}"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    other, run = files.read_json(tmp_path / "out.json")["runs"]
    assert other == {"name": "other"} and run["name"] == "1 MB, exact"
    assert 50 < run["peak_rss_main_mb"] <= run["peak_rss_together_mb"] < 1500
    assert run["rows"] > 0 and list((tmp_path / "work").iterdir()) == []

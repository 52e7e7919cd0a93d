"""The completion scripts: bash runs its own; those of the other shells are at least read where the shells exist."""

import pathlib
import shutil
import subprocess

import pytest
from absl import flags

from jaxfm.programs import catalog, completion

# Calls the completion function as bash does, with the cursor at the end, and prints what it offers.
ASK = """
source "$1"
COMP_LINE="$2"; COMP_POINT=${#COMP_LINE}
read -ra COMP_WORDS <<< "$COMP_LINE"
[[ $COMP_LINE == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_jaxfm
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def words() -> completion.Words:
    return completion.words()


@pytest.fixture(scope="module")
def script(words: completion.Words, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    path = tmp_path_factory.mktemp("completion") / "jaxfm.bash"
    path.write_text(completion.bash(words), encoding="utf-8")
    return path


def test_looking_at_the_flags_of_programs_leaves_those_of_this_process_alone(words: completion.Words) -> None:
    before = set(flags.FLAGS)  # what the programs import has defined its own by now
    assert completion.words() == words
    assert set(flags.FLAGS) == before and not {"workdir", "config", "input", "num_processes"} & before


def offered(script: pathlib.Path, line: str) -> list[str]:
    done = subprocess.run(["bash", "-c", ASK, "bash", script, line], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_what_can_follow_is_what_the_programs_have(words: completion.Words) -> None:
    assert list(words.programs) == [program.name for program in catalog.PROGRAMS]
    assert {"--workdir=", "--explain", "--data=", "--help"} <= set(words.flags["train"])
    assert "--num_processes=" in words.flags["evaluate"] and "--data=" not in words.flags["export"]
    assert {"ner", "ner:files", "mlm:continue"} <= set(words.configs["train"]) and set(words.configs) >= {"plan"}
    assert "--config.train.steps=" in words.keys and "--config.task.overlap=" in words.keys
    assert "--config.task.name=" not in words.keys  # the config's file says it
    assert words.first == {"completion": ("bash", "zsh", "fish"), "launch": [*words.first["launch"]]}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("jaxfm tr", ["train"]),
        ("jaxfm e", ["evaluate", "explain", "export"]),
        ("jaxfm train cl", ["classification"]),
        ("jaxfm train ner:f", ["files"]),  # what follows the colon, which readline keeps
        ("jaxfm train --work", ["--workdir="]),
        ("jaxfm train ner --expl", ["--explain"]),
        ("jaxfm train --config.train.ste", ["--config.train.steps="]),
        ("jaxfm plan ner --topo", ["--topology="]),
        ("jaxfm predict --config.data.text", ["--config.data.text_column="]),
        ("jaxfm completion z", ["zsh"]),
        ("jaxfm launch slu", ["slurm", "slurm_workers"]),
        ("jaxfm train --config=ner:wn", ["wnut17"]),
        ("jaxfm train --workdir=ru", []),  # readline completes files then
        ("jaxfm train --workdir ru", []),
        ("jaxfm train --workdir ", []),
        ("jaxfm predict --workdir x --in", ["--input="]),
        ("jaxfm nothing --x", []),
    ],
)
def test_bash_offers(script: pathlib.Path, line: str, expected: list[str]) -> None:
    found = offered(script, line)
    if line == "jaxfm train cl":
        assert found[0] == "classification" and all(each.startswith("cl") for each in found)
    else:
        assert sorted(found) == sorted(expected)


def test_bash_offers_everything_where_nothing_is_written(script: pathlib.Path, words: completion.Words) -> None:
    assert offered(script, "jaxfm ") == [*words.programs, "--help"]
    everything = offered(script, "jaxfm train ")
    assert {"ner", "ner:files", "--workdir="} <= set(everything)
    assert not [word for word in everything if word.startswith("--config.")]  # keys are many: only when begun
    assert set(offered(script, "jaxfm train --config.")) == set(words.keys)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_reads_its_script(words: completion.Words, shell: str, tmp_path: pathlib.Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    path = tmp_path / "script"
    path.write_text(completion._SHELLS[shell](words), encoding="utf-8")
    done = subprocess.run([shell, "-n", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_zsh_and_fish_have_every_program_flag_and_key(words: completion.Words) -> None:
    zsh, fish = completion.zsh(words), completion.fish(words)
    for name in words.programs:
        assert f"\n    {name})\n" in zsh and f"-a {name} -d " in fish
    for program, found in words.flags.items():
        for flag in found:
            assert f"__fish_seen_subcommand_from {program}' -l {flag[2:].rstrip('=')} " in fish
            assert f"{flag}:" in zsh
    for key in words.keys:
        assert f"{key}:" in zsh and f"-l {key[2:-1]} -r " in fish


def test_words_of_descriptions_are_quoted() -> None:
    assert completion._fish("it's a \\") == "'it\\'s a \\\\'"
    assert completion._described({"ner:files": "it's"}) == "'ner\\:files:it'\"'\"'s'"

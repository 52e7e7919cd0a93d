"""Every reader on some hundreds of hostile inputs, and a fuzz that finds what it is there to find."""

import json
import pathlib
import random

import pytest

from jaxfm import files
from profiles.faults import fuzz, mutations, pool, trial
from profiles.faults.readers import Reader, table
from tests.faults.broken_readers import FAULTS

BROKEN = ("tests.faults.broken_readers",)
SEED = 20
# Of readers that take a fraction of a millisecond, and of those that take several.
MANY, FEW = 300, 12


def count_of(reader: Reader) -> int:
    return MANY if reader.share >= 100 and "image" not in reader.name else FEW


@pytest.mark.parametrize("name", table())
def test_a_reader_gives_values_or_errors_with_their_place(name: str, tmp_path: pathlib.Path) -> None:
    reader = table()[name]
    folder = tmp_path / name / "input"
    trial.prepare(reader, folder)
    valid = [trial.attempt(reader, folder, seed).kind for seed in reader.seeds()]
    assert "read" in valid, "one seed at least is a valid file"
    tally = pool.fuzz_chunk(reader, folder, SEED, pool.Chunk(name, 0, count_of(reader)))
    assert not tally.finds, "\n".join(f"{fault}: {tally.details[fault]}" for fault in tally.finds)
    assert tally.inputs == tally.read + tally.told == count_of(reader)


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_reader_is_found(name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "STOP_SECONDS", 2.0)
    reader, fault = table(BROKEN)[name], FAULTS[name][1]
    trial.prepare(reader, tmp_path / "input")
    trial.forget_peak()
    assert trial.attempt(reader, tmp_path / "input", b"axb").kind == "read"
    outcome = trial.attempt(reader, tmp_path / "input", b"ab")
    assert outcome.kind == "find" and outcome.signature.startswith(fault)


def test_slowness_and_long_messages_are_found(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = table(BROKEN)["right"]
    trial.prepare(reader, tmp_path / "input")
    assert trial.attempt(reader, tmp_path / "input", b"ab").kind == "told"
    monkeypatch.setattr(trial, "LONGEST_MESSAGE", 10)
    assert trial.attempt(reader, tmp_path / "input", b"ab").signature.startswith("a message of too many characters")
    monkeypatch.setattr(trial, "SLOW_SECONDS", -1.0)
    assert trial.attempt(reader, tmp_path / "input", b"axb").signature == "slow"


def test_processes_that_die_are_found_and_replaced(tmp_path: pathlib.Path) -> None:
    found = pool.Fuzz(SEED, 1, tmp_path, BROKEN)
    try:
        done = list(found.run({"ends": 12, "right": 30}))
        right, ends = found.tallies["right"], found.tallies["ends"]
        assert done[-1] == 42 and right.inputs == 30 and not right.finds and right.read and right.told
        assert list(ends.finds) == ["process ended with 7"] and ends.inputs == 12 == ends.read + ends.found
        lacking = [number for number in range(12) if b"x" not in trial.input_of(table(BROKEN)["ends"], SEED, number)]
        assert sorted(ends.finds["process ended with 7"]) == lacking
    finally:
        found.close()


def test_a_find_is_made_shorter(tmp_path: pathlib.Path) -> None:
    reader = table(BROKEN)["raises"]
    trial.prepare(reader, tmp_path / "input")
    whole = b"a long input with nothing of it"
    fault = trial.attempt(reader, tmp_path / "input", whole).signature
    assert trial.minimized(reader, tmp_path / "input", whole, fault) == b""


def test_an_input_is_a_function_of_its_number() -> None:
    reader = table()["tagged_jsonl"]
    inputs = [trial.input_of(reader, SEED, number) for number in range(200)]
    assert inputs == [trial.input_of(reader, SEED, number) for number in range(200)]
    assert len(set(inputs)) > 180
    assert inputs[:5] != [trial.input_of(reader, SEED + 1, number) for number in range(5)]


@pytest.mark.parametrize(
    "mutation",
    [
        *(mutations.of_bytes, mutations.of_lines, mutations.of_json, mutations.of_json_lines),
        *(mutations.of_header, mutations.of_array_header),
    ],
)
def test_mutations_take_any_input(mutation: mutations.Mutation) -> None:
    draw = random.Random(SEED)
    for data in (b"", b"\n", b"{", b"[]", b'{"a": [1, {"b": 2}]}', b"\xff\xfe\x00", b"NaN", b"\xff" * 9):
        for _ in range(100):
            assert isinstance(mutation(draw, data, [data]), bytes)


def test_the_program_writes_what_it_found(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz.py"])
    output = tmp_path / "o.json"
    words = ["--inputs=40", "--reader=calibration", "--reader=lock", "--processes=1", f"--finds={tmp_path / 'finds'}"]
    with pytest.raises(SystemExit) as ended:
        fuzz.main([*words, f"--output={output}"])
    report = files.read_object(output)
    assert ended.value.code == 0 and report["inputs"] == 40 and report["finds"] == 0 and report["faults"] == []
    assert set(report["readers"]) == {"calibration", "lock"} and not (tmp_path / "finds").exists()
    assert json.dumps(report["readers"]["lock"]["inputs"]) == "13"


def test_shares_add_up() -> None:
    readers = list(table().values())
    for inputs in (1000, 2_000_000):
        counts = fuzz.counts_of(readers, inputs)
        assert sum(counts.values()) == inputs and min(counts.values()) >= 1

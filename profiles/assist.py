"""Customer service end to end (Schema-Guided Dialogue): share answered, share right, beside retrieval alone, by seeds.

  python -m profiles.assist --data=../shared/data/sgd-dialogue --output=profiles/results/assist.json \
      [--ways=trained,bm25] [--seeds=0,1,2]

Dialogues whose services training has. A run of intents learns from users' turns (MiniLM, with the turn before).
The stored answers are the system's turns of training, each with the intent of the user's turn before it. `trained`
finds them by a run of vectors that learned which turn follows three others; `bm25` by the words that the turns so far
share with those before the stored answer. An answer is right where service and acts are those of the turn that
followed (a stored answer has other names and times in it). The threshold is the score that --coverage of the validation
requests reach whose intent is sure. Test shares in percent; "no intents" is the same without the run of intents. What
is done is kept in --workdir.
"""

import collections
import dataclasses
import gzip
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.data.records.dialogues import DialogueOptions, context_of
from jaxfm.errors import UserError, did_you_mean
from jaxfm.evaluation.coverage import COVERAGE, THRESHOLD, fit_threshold
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.assist import open_assistant
from jaxfm.programs.assist_evaluation import AssistReport, evaluate_assistant
from jaxfm.programs.assistant import Assistant
from jaxfm.programs.given_config import resolve_config
from jaxfm.programs.train import train
from profiles import command_line, quality

TRAINED, WORDS = WAYS = ("trained", "bm25")
SPLITS = {"train": "train.jsonl.gz", "valid": "valid.jsonl", "test": "test.jsonl"}
REPLY = "reply"  # service and acts of a system's turn
NO_INTENTS = "no intents"
_INTENT_TURNS, _QUERY_TURNS = 1, 2  # before the user's
_SEPARATOR = " [SEP] "  # of MiniLM's tokenizer
_RESPONDER = "SYSTEM"
_LEAST = {TRAINED: -1.0, WORDS: 0.0}  # score: everything is answered

Dialogue = Mapping[str, Any]


def read_dialogues(data: pathlib.Path, limit: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """Returns the dialogues all of whose services training has, by split, the system's turns with their `REPLY`.

    `limit`: the first so many of each split; None: all.
    """
    read: dict[str, list[Dialogue]] = {}
    for split, name in SPLITS.items():
        with gzip.open(data / name, "rt") if name.endswith(".gz") else open(data / name) as file:
            read[split] = [json.loads(line) for line in file]
    known = {service for each in read["train"] for service in each["services"]}
    shares = intents_by_service(read["train"])
    return {
        split: [with_replies(each, shares) for each in found if set(each["services"]) <= known][:limit]
        for split, found in read.items()
    }


def intents_by_service(dialogues: Sequence[Dialogue]) -> dict[tuple[str, str], float]:
    """Returns (service, intent) -> the share of the dialogues with the service that have the intent."""
    services, both = collections.Counter[str](), collections.Counter[tuple[str, str]]()
    for each in dialogues:
        intents = {turn["intent"] for turn in each["turns"]} - {None}
        services.update(each["services"])
        both.update((service, intent) for service in each["services"] for intent in intents)
    return {pair: count / services[pair[0]] for pair, count in both.items()}


def with_replies(dialogue: Dialogue, shares: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    """Returns a dialogue whose system's turns have `REPLY`.

    The set names the services of a dialogue and not of a turn. That of a turn is the one of them whose dialogues most
    often have the user's last intent.
    """
    turns, service = [], dialogue["services"][0]
    for turn in dialogue["turns"]:
        if (intent := turn["intent"]) is not None:
            service = max(dialogue["services"], key=lambda each: shares.get((each, intent), 0.0))
        is_reply = turn["speaker"] == _RESPONDER
        turns.append(turn | ({REPLY: " ".join([service, *turn["acts"]])} if is_reply else {}))
    return {"dialogue_id": dialogue["dialogue_id"], "turns": turns}


def exchanges(dialogue: Dialogue) -> Iterator[tuple[list[str], dict[str, Any], dict[str, Any]]]:
    """Yields of each user's turn that the system answers: the texts so far, the user's turn, the system's."""
    turns = dialogue["turns"]
    for number in range(1, len(turns)):
        user, system = turns[number - 1], turns[number]
        if user["speaker"] != _RESPONDER and system["speaker"] == _RESPONDER:
            yield [turn["text"] for turn in turns[:number]], user, system


def intent_rows(dialogues: Sequence[Dialogue]) -> list[dict[str, str]]:
    """Returns what the run of intents learns from."""
    options = DialogueOptions(_INTENT_TURNS + 1, _SEPARATOR)
    return [
        {"text": context_of(texts, options), "label": user["intent"]}
        for dialogue in dialogues
        for texts, user, _ in exchanges(dialogue)
        if user["intent"] is not None
    ]


def stored_answers(dialogues: Sequence[Dialogue], way: str) -> list[dict[str, Any]]:
    """Returns the stored answers; what is searched is the answer, or by words the turns before it."""
    options = DialogueOptions(_QUERY_TURNS + 1, " ")
    rows: list[dict[str, Any]] = []
    for dialogue in dialogues:
        for texts, user, system in exchanges(dialogue):
            searched = system["text"] if way == TRAINED else context_of(texts, options)
            named = {} if user["intent"] is None else {"intent": user["intent"]}
            rows.append({"text": searched, "answer": system["text"], REPLY: system[REPLY], **named})
    return rows


def write_lines(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes JSON lines."""
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def prepare(dialogues: Mapping[str, Sequence[Dialogue]], folder: pathlib.Path) -> None:
    """Writes what is trained on, searched and answered."""
    for split, found in dialogues.items():
        write_lines(folder / "dialogues" / f"{split}.jsonl", found)
        if split != "test":
            write_lines(folder / "intents" / f"{split}.jsonl", intent_rows(found))
    for way in WAYS:
        write_lines(folder / f"answers_{way}.jsonl", stored_answers(dialogues["train"], way))


def train_run(config: str, changes: Mapping[str, Any], workdir: pathlib.Path) -> pathlib.Path:
    """Trains a run, unless it has ended before; returns its directory."""
    if not (workdir / "report.json").exists():
        train(resolve_config(config, dict(changes)), workdir)
    return workdir


def opened(way: str, folder: pathlib.Path, intents: pathlib.Path | None, retriever: pathlib.Path | None) -> Assistant:
    """Returns an assistant that answers everything that its intents allow."""
    return open_assistant(
        intents,
        folder / f"answers_{way}.jsonl",
        retriever,
        bm25=way == WORDS,
        index=None if retriever is None else retriever.parent / f"{retriever.name}_index",
        threshold=_LEAST[way],
        context_turns=_INTENT_TURNS,
        query_turns=_QUERY_TURNS,
        responder=_RESPONDER,
        match=REPLY,
    )


def scored(assistant: Assistant, folder: pathlib.Path, coverage: float) -> AssistReport:
    """Chooses the threshold on the validation dialogues; returns the shares of the test dialogues."""
    source = f"dialogue:{folder / 'dialogues'}"
    valid = evaluate_assistant(assistant, source, split="valid")
    found = fit_threshold(valid.scores[np.isfinite(valid.scores)], coverage)
    if not found:
        raise UserError(f"--limit: {len(valid.scores)} validation requests are too few to choose a threshold.")
    assistant.rules = dataclasses.replace(assistant.rules, threshold=found[THRESHOLD])
    return evaluate_assistant(assistant, source, split="test")


def run_seed(
    ways: Sequence[str], seed: int, folder: pathlib.Path, coverage: float, steps: int | None
) -> dict[str, dict[str, Any]]:
    """Trains the runs of a seed; returns the test shares by way, with intents and without."""
    shared: dict[str, Any] = {"seed": seed} | ({} if steps is None else {"train.steps": steps, "train.min_steps": 0})
    intents = train_run(
        "configs/classification.py:files",
        {"data.source": f"jsonl:{folder / 'intents'}", **shared},
        folder / f"intents_{seed}",
    )
    retriever = None
    if TRAINED in ways:
        asked = {"task.responder": _RESPONDER, "task.context_turns": _QUERY_TURNS + 1}
        source = {"data.source": f"dialogue:{folder / 'dialogues'}"}
        retriever = train_run("configs/embedding.py:dialogue", source | asked | shared, folder / f"retriever_{seed}")
    found = {}
    for way in ways:
        for name, run in ((way, intents), (f"{way}, {NO_INTENTS}", None)):
            report = scored(opened(way, folder, run, retriever if way == TRAINED else None), folder, coverage)
            found[name] = {key: round(100 * each.value, 2) for key, each in report.shares.items()}
            found[name]["handed_over"] = report.values["handed_over"]
            found[name]["intervals"] = to_json({key: [each.low, each.high] for key, each in report.shares.items()})
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("../shared/data/sgd-dialogue"))
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--coverage", type=float, default=COVERAGE)
    parser.add_argument("--limit", type=int, default=None, help="dialogues of each split; all if not given")
    parser.add_argument(
        "--steps", type=int, default=None, help="updates of both runs; as their configs say if not given"
    )
    parser.add_argument("--workdir", type=pathlib.Path, default=None)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    ways = arguments.ways.split(",")
    if unknown := [name for name in ways if name not in WAYS]:
        raise UserError(f"--ways: {unknown[0]!r} is none of them. {did_you_mean(unknown[0], WAYS)}")
    if not 0 < arguments.coverage <= 1:
        raise UserError(f"--coverage={arguments.coverage:g}: must be above 0, at most 1.")
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    dialogues = read_dialogues(arguments.data, arguments.limit)
    workdir = arguments.workdir or pathlib.Path(f"runs/quality/{arguments.output.stem}")
    prepare(dialogues, workdir)
    records: dict[str, list[dict[str, Any]]] = {}
    result: dict[str, Any] = {}
    for seed in seeds:
        kept = workdir / f"scores_{seed}.json"
        if not kept.exists():
            files.write_json(kept, run_seed(ways, seed, workdir, arguments.coverage, arguments.steps))
        for name, found in files.read_json(kept).items():
            records.setdefault(name, []).append(found)
            print(f"{name} {seed}: {found}", flush=True)
        result = {
            "command": quality.shown_command(sys.argv),
            **quality.machine(),
            "dialogues": {split: len(found) for split, found in dialogues.items()},
            "coverage": arguments.coverage,
            "seeds": seeds,
            "ways": {name: _summary(found) | {"runs": found} for name, found in records.items()},
        }
        files.write_json(arguments.output, result)
    print(to_markdown(_table(result["ways"])))


_SHOWN = {
    "answered": "answered",
    "right, of the answered": "right_of_answered",
    "right, of all": "right_of_all",
    "retrieval, all": "retrieval_right",
    "retrieval, as many": "retrieval_right_of_answered",
    "intents": "intent_accuracy",
}


def _summary(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return quality.summary(found, {key: key for key in _SHOWN.values() if key in found[0]})


def _table(ways: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [
        (
            name,
            *(f"{found[key]['mean']:.2f} ± {found[key]['sd']:.2f}" if key in found else "" for key in _SHOWN.values()),
        )
        for name, found in ways.items()
    ]
    return Table("On test, percent", ("way", *_SHOWN), rows)


if __name__ == "__main__":
    command_line.run(main)

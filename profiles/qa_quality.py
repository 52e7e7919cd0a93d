"""Quality of extractive question answering over several seeds: jaxfm beside transformers' Trainer, in one run.

  python -m profiles.qa_quality --source=jsonl:../shared/data/squad-v1.1-dev --workdir=runs/qa_quality \
      --output=profiles/results/qa_squad.json [--questions=4000] [--unanswered=0.33] [--seeds=0,1,2]

Both programs get the same files and weights (MiniLM), windows of 384 tokens that share 128, two epochs of batches of 16
windows at rate 1e-4, f32. The source's train is cut by article into train and valid, its valid is the test split.
--questions takes that many training questions, whole contexts in the order of a hash of their text. --unanswered makes
that share of the questions of each split anew: a question moved to another context of its article in which none of its
answers stands. Where there are such questions both programs leave a question unanswered above the threshold that is
best on valid. Scores are those of SQuAD's official script, in percent.
"""

import dataclasses
import json
import pathlib
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.questions import Question, read_questions
from jaxfm.errors import UserError
from jaxfm.evaluation.answers import best_threshold, score_answer
from jaxfm.hub.locate import locate
from profiles import command_line, quality

REFERENCE = "profiles/hf_qa.py"
EPOCHS, RATE, WINDOW, OVERLAP = 2.0, 1e-4, 384, 128
VALID = 0.1  # share of train's questions, whole articles
SCORES = ("f1", "exact_match")


def write_data(source: str, questions: int, unanswered: float, folder: pathlib.Path) -> dict[str, list[Question]]:
    """Writes train.jsonl, valid.jsonl and test.jsonl, the same at every call; returns their questions."""
    read = {split: list(found.questions) for split, found in read_questions(source, None).items()}
    if "valid" not in read:
        raise UserError(f"--source={source}: has no valid split, which is the test split here.")
    sizes: dict[str, int] = defaultdict(int)
    for each in read["train"]:
        sizes[each.title] += 1
    held, wanted = set[str](), VALID * len(read["train"])
    for title in sorted(sizes, key=uniform_hash):
        if sum(sizes[name] for name in held) < wanted:
            held.add(title)
    splits = {
        "train": [each for each in read["train"] if each.title not in held],
        "valid": [each for each in read["train"] if each.title in held],
        "test": read["valid"],
    }
    if questions:
        splits["train"] = sorted(splits["train"], key=lambda each: uniform_hash(each.context))[:questions]
    if unanswered:
        splits = {split: with_unanswered(found, unanswered) for split, found in splits.items()}
    for split, found in splits.items():
        rows = [
            {
                "id": each.id,
                "question": each.question,
                "context": each.context,
                "answers": {
                    "text": [answer.text for answer in each.answers],
                    "answer_start": [answer.start for answer in each.answers],
                },
            }
            for each in found
        ]
        files.write_text(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return splits


def with_unanswered(questions: Sequence[Question], share: float) -> list[Question]:
    """Moves a share of the questions to another context of their article that has none of their answers."""
    contexts: dict[str, list[str]] = defaultdict(list)
    for each in questions:
        if each.context not in contexts[each.title]:
            contexts[each.title].append(each.context)
    found = []
    for each in questions:
        if uniform_hash(each.id) < share:
            others = [text for text in contexts[each.title] if not any(a.text in text for a in each.answers)]
            if others:
                context = random.Random(each.id).choice(others)
                each = dataclasses.replace(each, context=context, answers=())
        found.append(each)
    return found


def jaxfm_run(folder: pathlib.Path, seed: int, workdir: pathlib.Path, windows: int) -> dict[str, Any]:
    """Trains jaxfm; returns scores of test in percent, and facts."""
    config = quality.recipe("qa")
    config.data.source = f"jsonl:{folder}"
    config.data.window = config.data.row_length = WINDOW
    config.task.overlap = OVERLAP
    config.train.epochs, config.optim.learning_rate = EPOCHS, RATE
    # So many rows that an update has 16 windows on average, as the reference's.
    config.train.batch_size = "examples"
    config.train.batch_examples = quality.REFERENCE_BATCH
    report, facts = quality.jaxfm_run(config, seed, windows, workdir)
    return {name: 100 * report["splits"]["test"][name] for name in SCORES} | facts


def reference_run(
    folder: pathlib.Path, data: Mapping[str, Sequence[Question]], seed: int, kept: pathlib.Path
) -> dict[str, Any]:
    """Trains the reference; returns scores of test in percent, and facts."""
    predictions = kept.with_suffix(".predictions.json")
    settings = {"epochs": EPOCHS, "lr": RATE, "batch": quality.REFERENCE_BATCH, "seed": seed}
    settings |= {"max_length": WINDOW, "stride": OVERLAP}
    command = [REFERENCE, str(locate(quality.MINILM, "config.model.init")), str(folder)]
    command += [f"--predictions={predictions}", *(f"--{name}={value:g}" for name, value in settings.items())]
    if not kept.is_file():
        files.write_json(kept, quality.last_json(quality.watched_run(command)))
    printed, found = files.read_json(kept), files.read_json(predictions)
    threshold = np.inf
    if any(not each.answers for each in data["train"]):
        valid = [found["valid"][each.id] for each in data["valid"]]
        right = [score_answer(one["text"], _gold(each)).f1 for one, each in zip(valid, data["valid"], strict=True)]
        has = np.asarray([bool(each.answers) for each in data["valid"]])
        threshold, _ = best_threshold(np.asarray([one["margin"] for one in valid]), np.asarray(right), has)
    answered = [found["test"][each.id] for each in data["test"]]
    said = ["" if one["margin"] > threshold else one["text"] for one in answered]
    scores = [score_answer(text, _gold(each)) for text, each in zip(said, data["test"], strict=True)]
    return {
        "f1": 100 * statistics.mean(score.f1 for score in scores),
        "exact_match": 100 * statistics.mean(score.exact for score in scores),
        "useful_tokens_per_second": printed["tokens_per_s"],
        "updates": round(EPOCHS * -(-printed["windows"] // quality.REFERENCE_BATCH)),
    }


def _gold(question: Question) -> list[str]:
    return [answer.text for answer in question.answers]


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/qa_quality"))
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--questions", type=int, default=0, help="training questions; 0: all")
    parser.add_argument("--unanswered", type=float, default=0.0)
    parser.add_argument("--seeds", default="0,1,2")
    arguments = parser.parse_args(argv)
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    if not 0 <= arguments.unanswered < 1:
        raise UserError(f"--unanswered={arguments.unanswered:g}: must be a share, from 0 to below 1.")
    folder = arguments.workdir / "data"
    data = write_data(arguments.source, arguments.questions, arguments.unanswered, folder)
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        ours = jaxfm_run(folder, seed, arguments.workdir / f"jaxfm_{seed}", len(data["train"]))
        theirs = reference_run(folder, data, seed, arguments.workdir / f"reference_{seed}.json")
        runs.append({"seed": seed, "jaxfm": ours, "reference": theirs})
        said = "  ".join(f"{name} {ours[name]:.2f} (reference {theirs[name]:.2f})" for name in SCORES)
        print(f"seed {seed}: {said}", flush=True)
        programs = {
            program: quality.summary([run[program] for run in runs], {name: name for name in SCORES})
            for program in ("jaxfm", "reference")
        }
        speeds = [
            run["jaxfm"]["useful_tokens_per_second"] / run["reference"]["useful_tokens_per_second"] for run in runs
        ]
        counts = {split: len(found) for split, found in data.items()}
        none = {split: sum(not each.answers for each in found) for split, found in data.items()}
        result = {
            "command": quality.shown_command(sys.argv),
            **quality.machine(),
            "questions": counts,
            "without_an_answer": none,
            "summary": programs,
            "speed_ratio": round(statistics.mean(speeds), 2),
            "runs": runs,
        }
        files.write_json(arguments.output, result)


if __name__ == "__main__":
    command_line.run(main)

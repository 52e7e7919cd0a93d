"""What a cross-encoder adds to a bi-encoder in choosing responses of dialogues, and how sure both are of their answers.

  python -m profiles.reranking --train=dialogue:../shared/data/sgd-dialogue --responder=SYSTEM --limit=800 \
      --test_limit=300 --output=profiles/results/reranking_dialogue.json

Both start from MiniLM. The bi-encoder is that of profiles/embedding_quality.py. The cross-encoder (the task
classification on pairs) then learns each training response against --negatives others, drawn from --skip to --depth of
the bi-encoder's own ranking of the training responses. Test groups have --candidates responses, the same for all
programs; the cross-encoder scores the bi-encoder's --top best of them again, the rest keeps its place behind them.
Precision at coverage is that of the first response where the 80 % of queries with the highest first score are answered.
"""

import json
import pathlib
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.data.records.text_groups import TextGroup
from jaxfm.data.text.packing import shuffled
from jaxfm.errors import UserError
from jaxfm.evaluation import coverage, ranking
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks.registry import default_config, from_config_dict
from profiles import command_line, quality
from profiles.embedding_quality import (
    Judged,
    Recipe,
    candidate_sets,
    judged_texts,
    our_similarity,
    read_some,
    write_training,
)

FIRST, AGAIN = "bi-encoder", "and cross-encoder"


def hard_negatives(
    similarity_EE: np.ndarray, groups: Sequence[TextGroup], *, count: int, skip: int, depth: int, seed: int
) -> list[list[str]]:
    """Returns of each group `count` responses of others, drawn from ranks `skip` to `depth` of its own ranking.

    Args:
      similarity_EE: of each anchor to each group's response.
      groups: E of them.
      count: fewer where there are not so many.
      skip: the first ranks are left out: many of them are right.
      depth: the last rank.
      seed: of the draw.
    """
    known: dict[str, set[str]] = {}
    for group in groups:
        known.setdefault(group.anchor, set()).add(group.others[0])
    found = []
    for number, group in enumerate(groups):
        ranked = [groups[each].others[0] for each in np.argsort(-similarity_EE[number], kind="stable")]
        others = [text for text in dict.fromkeys(ranked) if text not in known[group.anchor]][skip:depth]
        found.append([others[each] for each in shuffled(len(others), seed, number)[:count]])
    return found


def train_pairs(
    groups: Sequence[TextGroup], negatives: Sequence[Sequence[str]], workdir: pathlib.Path, config: Any
) -> Model:
    """Trains a cross-encoder on each response (1) and its negatives (0)."""
    rows = [
        {"text": group.anchor, "pair": text, "label": str(label)}
        for group, wrong in zip(groups, negatives, strict=True)
        for label, text in ((1, group.others[0]), *((0, text) for text in wrong))
    ]
    files.write_text(
        workdir.parent / f"{workdir.name}_data" / "train.jsonl", "".join(json.dumps(row) + "\n" for row in rows)
    )
    train(replaced(config, {"data.source": f"jsonl:{workdir.parent / f'{workdir.name}_data'}"}), workdir)
    return Model(workdir)


def pair_config(length: int, rate: float, epochs: float, seed: int, precision: str) -> Any:
    """Returns the config of a cross-encoder."""
    values = default_config("classification")
    values.model.init = quality.MINILM
    changes = {
        "data.holdout": 0.0,
        "data.window": length,
        "task.pooling": "mean",  # as these weights were trained
        "optim.learning_rate": rate,
        "train.epochs": epochs,
        "train.precision": precision,
        "train.min_steps": 0,
        "train.batch_examples": 32,
        "eval.select": "last",
        "seed": seed,
    }
    return replaced(from_config_dict(values), changes)


def reranked(similarity_K: np.ndarray, scores: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Returns scores [K] by which the `best` candidates go by `scores`, and all others behind them as they were.

    Args:
      similarity_K: of the first model.
      scores: of the second model for each of `best`, from 0 to 1.
      best: numbers of the candidates that it scored.
    """
    found = similarity_K.astype(np.float64) - similarity_K.max() - 1.0
    found[best] = scores
    return found


def describe(similarity: Sequence[np.ndarray]) -> dict[str, float]:
    """Returns scores in percent of each group's candidates [K], of which the first is right."""
    judged = [ranking.judge_group(each, [1.0] + [0.0] * (len(each) - 1)) for each in similarity]
    found = ranking.per_query(judged, {"mrr": (100,)})
    right = np.asarray([each[1:].max() < each[0] for each in similarity])
    best = np.asarray([each.max() for each in similarity])
    return {
        "recall@1": round(100 * float(found[ranking.FIRST].mean()), 2),
        "mrr": round(100 * float(found["mrr@100"].mean()), 2),
        "precision at 80 %": round(100 * coverage.precision_at(best, right), 2),
    }


def run_seed(
    arguments: Any, groups: Sequence[TextGroup], judged: Judged, seed: int, workdir: pathlib.Path
) -> dict[str, Any]:
    """Trains both models of a seed; returns the scores of the first alone and of both."""
    recipe = Recipe("pairs", arguments.epochs, 5e-5, 32, arguments.length)
    data = workdir.parent / "data"
    write_training(groups, data)
    similarity_QC, _ = our_similarity(recipe, data, judged, seed, {}, workdir / "first")
    first = Model(workdir / "first")
    anchors, responses = [group.anchor for group in groups], [group.others[0] for group in groups]
    of_training = first.embed(anchors, "query") @ first.embed(responses, "document").T
    negatives = hard_negatives(
        of_training, groups, count=arguments.negatives, skip=arguments.skip, depth=arguments.depth, seed=seed
    )
    config = pair_config(arguments.pair_length, arguments.rate, arguments.pair_epochs, seed, arguments.precision)
    second = train_pairs(groups, negatives, workdir / "second", config)
    chosen = list(candidate_sets(judged, arguments.candidates))
    alone = [similarity_QC[query, documents] for query, documents in chosen]
    best = [np.argsort(-each, kind="stable")[: arguments.top] for each in alone]
    pairs = [
        (judged.queries[query], judged.documents[documents[each]])
        for (query, documents), some in zip(chosen, best, strict=True)
        for each in some
    ]
    scores = second.pair_scores(pairs).reshape(len(chosen), -1)
    both = [reranked(*each) for each in zip(alone, scores, best, strict=True)]
    return {FIRST: describe(alone), AGAIN: describe(both)}


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--train", required=True, help="URI of pairs or dialogues")
    parser.add_argument("--responder", default="", help="dialogues: whose turns are responses")
    parser.add_argument("--limit", type=int, default=0, help="training groups; 0: all")
    parser.add_argument("--test_limit", type=int, default=0, help="test groups; 0: all")
    parser.add_argument("--length", type=int, default=64, help="tokens of a text")
    parser.add_argument("--pair_length", type=int, default=128, help="tokens of a pair")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--pair_epochs", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=5e-5, help="of the cross-encoder")
    parser.add_argument("--precision", default="auto", help="in which the cross-encoder is trained")
    parser.add_argument("--negatives", type=int, default=3)
    parser.add_argument("--skip", type=int, default=5)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--top", type=int, default=10)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--workdir", type=pathlib.Path, default=None)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = command_line.parse_own(parser, argv)
    if arguments.top > arguments.candidates:
        raise UserError(f"--top={arguments.top}: must be at most --candidates={arguments.candidates}.")
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    workdir = arguments.workdir or pathlib.Path(f"runs/quality/{arguments.output.stem}")
    groups = read_some(arguments.train, "train", "pairs", "", arguments.responder, arguments.limit)
    judged = judged_texts(read_some(arguments.train, "test", "pairs", "", arguments.responder, arguments.test_limit))
    records: list[dict[str, Any]] = []
    for seed in seeds:
        kept, begun = workdir / f"{seed}.json", time.monotonic()
        if not kept.exists():
            found = run_seed(arguments, groups, judged, seed, workdir / str(seed))
            files.write_json(kept, found | {"seconds": round(time.monotonic() - begun, 1)})
        records.append(files.read_json(kept))
        print(f"{seed}: {records[-1]}", flush=True)
    programs: dict[str, Any] = {}
    for program in (FIRST, AGAIN):
        for name in records[0][program]:
            values = [record[program][name] for record in records]
            sd = round(statistics.stdev(values), 2) if len(values) > 1 else 0.0
            programs.setdefault(program, {})[name] = {
                "mean": round(statistics.mean(values), 2),
                "sd": sd,
                "runs": values,
            }
    result = {
        "command": quality.shown_command(sys.argv),
        **quality.machine(),
        "training_groups": len(groups),
        "test": {"queries": len(judged.queries), "documents": len(judged.documents), "groups": len(judged.members)},
        "seeds": seeds,
        "programs": programs,
    }
    files.write_json(arguments.output, result)
    names = list(programs[FIRST])
    rows = [
        (program, *(f"{found[name]['mean']:.2f} ± {found[name]['sd']:.2f}" for name in names))
        for program, found in programs.items()
    ]
    print(to_markdown(Table("Responses, percent", ("program", *names), rows)))


if __name__ == "__main__":
    command_line.run(main)

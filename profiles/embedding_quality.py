"""Vectors of texts over several seeds beside sentence-transformers, BM25 and the weights as they are.

  python -m profiles.embedding_quality --train=tsv:../shared/data/stsb --kind=scored \
      --output=profiles/results/embedding_stsb.json
  python -m profiles.embedding_quality --train=tsv:../shared/data/snli-subset --label_rule=nli --limit=6000 \
      --test=tsv:../shared/data/stsb --test_kind=scored --output=profiles/results/embedding_snli_stsb.json
  python -m profiles.embedding_quality --train=dialogue:../shared/data/sgd-dialogue --responder=SYSTEM --limit=6000 \
      --programs=untrained,bm25,jaxfm,reference --candidates=10,100 --output=profiles/results/embedding_dialogue.json

All start from the same MiniLM weights with mean pooling and see the same groups, batch size, rate and epochs: AdamW,
linear decay without warm-up, no weight decay, the weights after the last step. jaxfm's rows are chosen so that a step
holds --batch groups on average. The vectors of all programs are scored by one code, that of jaxfm; a score of
--candidates=N is that of the right text among N, the others drawn once for all. What is done is kept in --workdir.
"""

import dataclasses
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfm import files
from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.dialogues import DialogueOptions
from jaxfm.data.records.group_columns import GroupColumns
from jaxfm.data.records.text_groups import TextGroup, read_groups
from jaxfm.data.text.bm25 import Bm25
from jaxfm.data.text.packing import shuffled
from jaxfm.errors import UserError
from jaxfm.evaluation import ranking
from jaxfm.evaluation.classes import score_values
from jaxfm.hub.locate import locate
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks.registry import default_config, from_config_dict
from profiles import command_line, quality

REFERENCE = pathlib.Path(__file__).with_name("st_embedding.py")
UNTRAINED, WORDS, OURS, THEIRS = PROGRAMS = ("untrained", "bm25", "jaxfm", "reference")
_CUTOFFS = {"ndcg": (10,), "mrr": (10,), "recall": (1, 10)}
_RANKS = 100


class Judged(NamedTuple):
    """The texts that programs are judged on.

    Attributes:
      queries: each once.
      documents: each once.
      members: of each group the numbers of its query and of its first document.
      scores: of each group, for scored pairs; empty otherwise.
    """

    queries: list[str]
    documents: list[str]
    members: np.ndarray
    scores: np.ndarray


def judged_texts(groups: Sequence[TextGroup]) -> Judged:
    """Returns the different texts of groups."""
    queries = list(dict.fromkeys(group.anchor for group in groups))
    documents = list(dict.fromkeys(text for group in groups for text in group.others))
    places = ({text: number for number, text in enumerate(texts)} for texts in (queries, documents))
    of_queries, of_documents = places
    members = [(of_queries[group.anchor], of_documents[group.others[0]]) for group in groups]
    scores = [group.scores[0] for group in groups if group.scores]
    return Judged(queries, documents, np.asarray(members, np.int64), np.asarray(scores, np.float64))


def scores_of(judged: Judged, similarity_QC: np.ndarray, candidates: Sequence[int]) -> dict[str, float]:
    """Returns the scores in percent of the similarity of each query to each document."""
    queries, documents = judged.members.T
    if len(judged.scores):
        found = score_values(judged.scores, similarity_QC[queries, documents].astype(np.float64)).metrics
        return {name: round(100 * found[name], 2) for name in ("spearman", "pearson")}
    relevant: list[dict[int, float]] = [{} for _ in judged.queries]
    for query, document in judged.members.tolist():
        relevant[query][document] = 1.0
    results = []
    for row_C, known in zip(similarity_QC, relevant, strict=True):
        best = np.argsort(-row_C, kind="stable")[:_RANKS]
        results.append(ranking.judge(best.tolist(), row_C[best].tolist(), known))
    means = {name: float(values.mean()) for name, values in ranking.per_query(results, _CUTOFFS).items()}
    for count in candidates:
        means |= _selection(judged, similarity_QC, count)
    return {name: round(100 * value, 2) for name, value in means.items()}


def candidate_sets(judged: Judged, count: int) -> Iterator[tuple[int, list[int]]]:
    """Yields of each test group its query and `count` documents: the right one, then others that are not right."""
    if count > len(judged.documents):
        raise UserError(f"--candidates={count}: there are only {len(judged.documents):,} documents.")
    relevant: dict[int, set[int]] = {}
    for query, document in judged.members.tolist():
        relevant.setdefault(query, set()).add(document)
    for number, (query, document) in enumerate(judged.members.tolist()):
        order = shuffled(len(judged.documents), number, count)
        others = [each for each in order[: count + len(relevant[query])].tolist() if each not in relevant[query]]
        yield query, [document, *others[: count - 1]]


def _selection(judged: Judged, similarity_QC: np.ndarray, count: int) -> dict[str, float]:
    """Returns how often the right document is first among `count`, and the mean reciprocal of its rank."""
    results = [
        ranking.judge_group(similarity_QC[query, chosen].tolist(), [1.0] + [0.0] * (len(chosen) - 1))
        for query, chosen in candidate_sets(judged, count)
    ]
    found = ranking.per_query(results, {"mrr": (count,)})
    return {
        f"recall@1 of {count}": float(found[ranking.FIRST].mean()),
        f"mrr of {count}": float(found[f"mrr@{count}"].mean()),
    }


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What all programs share.

    Attributes:
      kind: of the training groups.
      epochs: passes over them.
      rate: at the first step.
      batch: groups a step.
      length: tokens of a text that are read.
    """

    kind: str
    epochs: float
    rate: float
    batch: int
    length: int


def write_training(groups: Sequence[TextGroup], folder: pathlib.Path) -> None:
    """Writes the training groups for both programs."""
    theirs = [
        {"texts": [each.anchor, *each.others], "score": each.scores[0] if each.scores else None} for each in groups
    ]
    files.write_text(folder / "train.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in theirs))
    ours = [
        {"anchor": each.anchor, "positive": each.others[0], "negatives": list(each.others[1:])}
        | ({"score": each.scores[0]} if each.scores else {})
        for each in groups
    ]
    if not any(row["negatives"] for row in ours):
        ours = [{name: value for name, value in row.items() if name != "negatives"} for row in ours]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ours)
    files.write_text(folder / "ours" / "train.jsonl", text)


def our_similarity(
    recipe: Recipe, folder: pathlib.Path, judged: Judged, seed: int, changes: Mapping[str, Any], workdir: pathlib.Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """Trains jaxfm; returns the similarity of all texts, and facts."""
    values = default_config("embedding")
    values.model.init = quality.MINILM
    values.data.source, values.data.holdout = f"jsonl:{folder / 'ours'}", 0.0
    settings = {
        "data.window": recipe.length,
        "task.kind": recipe.kind,
        "task.pooling": "mean",
        "optim.learning_rate": recipe.rate,
        "optim.warmup_fraction": 0.0,
        "optim.weight_decay": 0.0,
        "train.epochs": recipe.epochs,
        "train.min_steps": 0,
        "train.batch_examples": recipe.batch,
        "eval.select": "last",
        "seed": seed,
    }
    report = train(replaced(from_config_dict(values), settings | dict(changes)), workdir)
    training = report["training"]
    model = Model(workdir)
    similarity = model.embed(judged.queries, "query") @ model.embed(judged.documents, "document").T
    facts = {"tokens_per_s": round(training["useful_tokens_per_second"], 1), "updates": training["steps"]}
    return similarity, facts


def their_similarity(
    recipe: Recipe, folder: pathlib.Path, seed: int, workdir: pathlib.Path, epochs: float
) -> tuple[np.ndarray, dict[str, Any]]:
    """Trains sentence-transformers; returns the similarity of all texts, and facts."""
    loss = "cosent" if recipe.kind == "scored" else "infonce"
    words = {
        "loss": loss,
        "epochs": epochs,
        "lr": recipe.rate,
        "batch": recipe.batch,
        "length": recipe.length,
        "seed": seed,
    }
    model = str(locate(quality.MINILM, "config.model.init"))
    command = [
        str(REFERENCE),
        model,
        str(folder),
        str(workdir),
        *(f"--{name}={value}" for name, value in words.items()),
    ]
    printed = quality.last_json(quality.watched_run(command))
    return np.load(workdir / "queries.npy") @ np.load(workdir / "documents.npy").T, printed


def word_similarity(judged: Judged) -> np.ndarray:
    """Returns the BM25 score of each document for each query."""
    index = Bm25(judged.documents)
    return np.stack([index.scores(query) for query in judged.queries])


def table(result: Mapping[str, Any]) -> Table:
    """Returns mean and spread of each program's scores."""
    names = list(next(iter(result["programs"].values()))["scores"])
    rows = []
    for program, found in result["programs"].items():
        cells = [f"{found['scores'][name]['mean']:.2f} ± {found['scores'][name]['sd']:.2f}" for name in names]
        rows.append((program, *cells, found.get("tokens_per_s", "")))
    return Table("Vectors of texts, percent", ("program", *names, "tokens/s"), rows)


def summary(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns mean, sample deviation and single values of each score of some runs."""
    found: dict[str, Any] = {"scores": {}}
    for name in records[0]["scores"]:
        values = [record["scores"][name] for record in records]
        sd = statistics.stdev(values) if len(values) > 1 else 0.0
        found["scores"][name] = {"mean": round(statistics.mean(values), 2), "sd": round(sd, 2), "runs": values}
    if all("tokens_per_s" in record for record in records):
        found["tokens_per_s"] = round(statistics.mean(record["tokens_per_s"] for record in records), 1)
    found["seconds"] = round(statistics.mean(record["seconds"] for record in records), 1)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--train", required=True, help="URI of the training groups")
    parser.add_argument("--kind", default="pairs", choices=("pairs", "scored"))
    parser.add_argument("--label_rule", default="", help="what a label of two texts means (task.label_rule)")
    parser.add_argument("--responder", default="", help="dialogues: whose turns are responses")
    parser.add_argument("--test", default="", help="URI of the test groups; default: the test split of --train")
    parser.add_argument("--test_kind", default="", choices=("", "pairs", "scored"))
    parser.add_argument("--programs", default=f"{UNTRAINED},{OURS},{THEIRS}", help=f"of {', '.join(PROGRAMS)}")
    parser.add_argument("--candidates", default="", help="sizes of sets to choose from: 10,100")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--limit", type=int, default=0, help="training groups; 0: all")
    parser.add_argument("--test_limit", type=int, default=0, help="test groups; 0: all")
    parser.add_argument("--workdir", type=pathlib.Path, default=None)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments, words = command_line.parse(parser, argv)
    changes = dict(word.removeprefix("--config.").split("=", 1) for word in words)
    programs = arguments.programs.split(",")
    if unknown := [name for name in programs if name not in PROGRAMS]:
        raise UserError(f"--programs: {unknown[0]!r} is none of {', '.join(PROGRAMS)}.")
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    candidates = command_line.integers("--candidates", arguments.candidates.split(",")) if arguments.candidates else []
    workdir = arguments.workdir or pathlib.Path(f"runs/quality/{arguments.output.stem}")
    recipe = Recipe(arguments.kind, arguments.epochs, arguments.rate, arguments.batch, arguments.length)
    groups = read_some(
        arguments.train, "train", arguments.kind, arguments.label_rule, arguments.responder, arguments.limit
    )
    test_kind = arguments.test_kind or (arguments.kind if not arguments.test else "pairs")
    rule = "" if arguments.test else arguments.label_rule
    tests = read_some(
        arguments.test or arguments.train, "test", test_kind, rule, arguments.responder, arguments.test_limit
    )
    judged = judged_texts(tests)
    folder = workdir / "data"
    write_training(groups, folder)
    files.write_json(folder / "test.json", {"queries": judged.queries, "documents": judged.documents})

    def run(program: str, seed: int, folder_of: pathlib.Path) -> tuple[np.ndarray, dict[str, Any]]:
        if program == WORDS:
            return word_similarity(judged), {}
        if program == OURS:
            return our_similarity(recipe, folder, judged, seed, _typed(changes), folder_of)
        return their_similarity(recipe, folder, seed, folder_of, 0.0 if program == UNTRAINED else recipe.epochs)

    result: dict[str, Any] = {}
    records: dict[str, list[dict[str, Any]]] = {}
    for program in programs:
        for seed in seeds[:1] if program in (UNTRAINED, WORDS) else seeds:
            kept = workdir / f"{program}_{seed}.json"
            if not kept.exists():
                begun = time.monotonic()
                similarity_QC, facts = run(program, seed, workdir / f"{program}_{seed}")
                seconds = round(time.monotonic() - begun, 1)
                files.write_json(
                    kept, {"seconds": seconds} | facts | {"scores": scores_of(judged, similarity_QC, candidates)}
                )
            records.setdefault(program, []).append(files.read_json(kept))
            print(f"{program} {seed}: {records[program][-1]['scores']}", flush=True)
            result = {
                "command": quality.shown_command(sys.argv),
                **quality.machine(),
                "recipe": dataclasses.asdict(recipe) | {"config": changes},
                "training_groups": len(groups),
                "test": {"queries": len(judged.queries), "documents": len(judged.documents), "groups": len(tests)},
                "seeds": seeds,
                "programs": {name: summary(found) for name, found in records.items()},
            }
            files.write_json(arguments.output, result)
    print(to_markdown(table(result)))


def read_some(
    source: str, split: str, kind: str, rule: str = "", responder: str = "", limit: int = 0
) -> list[TextGroup]:
    """Reads a split; with a limit those of the smallest hashes, the same ones always."""
    read = read_groups(
        source,
        (split,),
        columns=GroupColumns(),
        kind=kind,
        label_rule=rule,
        dialogue=DialogueOptions(responder=responder),
    )
    groups = [dataclasses.replace(group, others=group.others[:2]) for group in read[split].groups]
    if len({len(group.others) for group in groups}) > 1:  # negatives of some alone: the reference needs equal columns
        groups = [group for group in groups if len(group.others) == 2] if rule else groups
    if limit and limit < len(groups):
        groups = sorted(groups, key=lambda group: uniform_hash(group.anchor + group.others[0]))[:limit]
    return groups


def _typed(changes: Mapping[str, str]) -> dict[str, Any]:
    """Returns values as JSON reads them, or as words."""

    def value(word: str) -> Any:
        try:
            return json.loads(word)
        except json.JSONDecodeError:
            return word

    return {key: value(word) for key, word in changes.items()}


if __name__ == "__main__":
    command_line.run(main)

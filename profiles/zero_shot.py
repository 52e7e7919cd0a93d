"""Entities of types that training never saw: labels as texts, by names and by descriptions, and what labels cost.

  python -m profiles.zero_shot --data=../shared/data --output=profiles/results/zero_shot.json [--seeds=0,1,2]
  python -m profiles.zero_shot ... --limit=200 --steps=20 --seeds=0       a try of minutes

Trained on wikineural-en (the first --limit sentences), uner-ewt and wikigold together, each with its own types:
persons, locations, organisations, miscellaneous. Tested on wnut17 and broad-twitter with all types of these as labels.
"unseen" is the F1 of those types alone whose names are no text of training (wnut17: corporation, creative-work, group,
product).

names         labels are read as the names of types
descriptions  each type has a description in training and afterwards (task.label_texts)
as it is      the same encoder after one update with a rate of nearly 0: the cosine of the mean of a span's two ends and
              the label's vector, the threshold fitted to the same validation data
capitals      no model: each longest run of capitalised words, as the most frequent type of the test split

Then the seconds of a trained run with 4, 100 and 1,000 labels: for the labels' vectors once, and for a portion of test
sentences, median of --repeats. Finished runs in --workdir are taken as they are; the file is written after each run.
"""

import collections
import gzip
import itertools
import pathlib
import statistics
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from jaxfm import files
from jaxfm.data.records.sources import read_tagged
from jaxfm.data.text.tagging import Span, entity_spans
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.model import Model
from jaxfm.programs.train import train
from profiles import command_line
from profiles.quality import machine, shown_command

# Training sets -> the file of --data that becomes their training split.
TRAINED = {
    "wikineural-en": "wikineural-en/train.conll.gz",
    "uner-ewt": "uner-ewt/dev.conll",
    "wikigold": "wikigold/train.conll",
}
TESTED = {"wnut17": "wnut17/test.conll", "broad-twitter": "broad-twitter/test.conll"}
NAMES, DESCRIPTIONS, AS_IT_IS, CAPITALS = ARMS = ("names", "descriptions", "as it is", "capitals")
# The sets name types by codes and words; a description is what somebody would tell an annotator.
TEXTS = {
    "PER": "person: the name of a human being",
    "person": "person: the name of a human being",
    "LOC": "location: a place such as a city, country, river or building",
    "location": "location: a place such as a city, country, river or building",
    "ORG": "organization: a company, institution, party or team",
    "MISC": "miscellaneous: a nationality, language, event, work or product",
    "corporation": "corporation: a company or brand",
    "creative-work": "creative work: the title of a film, song, book, game or show",
    "group": "group: a band, sports team or club",
    "product": "product: a thing that one can buy, such as a phone, car or app",
}
# Types of test sets that training has under this or another name.
TRAINED_TYPES = ("PER", "LOC", "ORG", "person", "location")
COLUMNS = ("labels read as", "set", "F1", "standard deviation", "F1 of unseen types", "standard deviation ")
LABEL_COUNTS = (4, 100, 1000)
_SENTENCES = 200  # that are timed


def sentences_of(path: pathlib.Path) -> list[str]:
    """Returns the sentences of a file of columns, as text."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return [part.strip("\n") for part in file.read().split("\n\n") if part.strip()]


def write_sets(data: pathlib.Path, folder: pathlib.Path, limit: int, test_limit: int) -> dict[str, str]:
    """Writes the sets as sources of one split each; returns name -> URI.

    `limit` is of the first training set, `test_limit` of test sets; 0: all sentences.
    """
    sources = {}
    for number, (name, file) in enumerate((TRAINED | TESTED).items()):
        if not (data / file).is_file():
            raise UserError(f"--data={data}: has no {file}.")
        most = test_limit if name in TESTED else limit if number == 0 else 0
        kept = sentences_of(data / file)[: most or None]
        split = folder / name / ("test.conll" if name in TESTED else "train.conll")
        split.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(split, "\n\n".join(kept) + "\n")
        sources[name] = f"conll:{split.parent}"
    return sources


def config(
    arm: str, seed: int, sources: Mapping[str, str], texts: pathlib.Path, steps: int
) -> ml_collections.ConfigDict:
    """Returns the config of a run; `texts` is the file of descriptions, `steps` 0: as the recipe has it."""
    from configs import zero_shot_ner

    made = zero_shot_ner.get_config("files")
    first, *more = [sources[name] for name in TRAINED]
    made.data.source, made.task.more_sources = first, ",".join(more)
    made.seed = seed
    if arm == DESCRIPTIONS:
        made.task.label_texts = str(texts)
    if steps:
        made.train.steps = steps
    if arm == AS_IT_IS:
        made.train.steps, made.optim.learning_rate = 1, 1e-12
    return made


def f1_of(records: Iterable[Mapping[str, Any]], kinds: Sequence[str]) -> float:
    """Returns the F1 of entities of these types, of the records of an evaluation."""
    counts = collections.Counter[str]()
    for record in records:
        for what in ("right", "missed", "invented"):
            counts[what] += sum(each["type"] in kinds for each in record[what])
    total = 2 * counts["right"] + counts["missed"] + counts["invented"]
    return 2 * counts["right"] / total if total else 0.0


def capital_spans(words: Sequence[str], kind: str) -> list[Span]:
    """Returns the longest runs of words with a capital first, the first word of the sentence left out."""
    spans, start = [], 0
    for capital, run in itertools.groupby(enumerate(words), lambda each: each[0] > 0 and each[1][:1].isupper()):
        length = len(list(run))
        if capital:
            spans.append((start, start + length, kind))
        start += length
    return spans


def guess(source: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns what `capital_spans` finds of a test split as records of an evaluation, and the types of the split."""
    sentences = read_tagged(source, ["test"])["test"].sentences
    gold = [entity_spans(sentence.tags) for sentence in sentences]
    kinds = collections.Counter(kind for spans in gold for _, _, kind in spans)
    usual, records = kinds.most_common(1)[0][0], []
    for sentence, spans in zip(sentences, gold, strict=True):
        found, wanted = set(capital_spans(sentence.words, usual)), set(spans)
        sets = {"right": found & wanted, "missed": wanted - found, "invented": found - wanted}
        records.append({what: [{"type": kind} for _, _, kind in each] for what, each in sets.items()})
    return records, [*kinds]


def scores(arm: str, workdir: pathlib.Path, source: str) -> dict[str, Any]:
    """Returns the F1 of a test set, of all its types and of those that training did not see."""
    if arm == CAPITALS:
        records, kinds = guess(source)
        unseen, more = [kind for kind in kinds if kind not in TRAINED_TYPES], {}
    else:
        evaluation = evaluate(workdir, "test", source)
        records, labels = list(evaluation.predictions), evaluation.scores["labels"]
        trained = set(files.read_object(workdir / "task.json")["texts"])
        kinds, unseen = [*labels], [name for name, text in labels.items() if text not in trained]
        more = {"threshold": evaluation.scores["threshold"]}
    return {"f1": f1_of(records, kinds), "unseen": f1_of(records, unseen) if unseen else None, **more}


def rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row an arm and set: mean and standard deviation over seeds."""
    found = []
    for arm, name in itertools.product(ARMS, TESTED):
        own = [run for run in runs if run["arm"] == arm and run["set"] == name]
        if own:
            cells: list[Any] = [arm, name]
            for key in ("f1", "unseen"):
                values = [run[key] for run in own if run[key] is not None]  # None: all types are those of training
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells += [statistics.mean(values), spread] if values else ["", ""]
            found.append(dict(zip(COLUMNS, cells, strict=True)))
    return found


def speed(workdir: pathlib.Path, texts: Sequence[str], counts: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Returns the seconds of each number of labels: of opening the run with them, and of finding them in texts."""
    usual = ["person", "creative work", "product", "group"]
    found = []
    for count in counts:
        labels = [*usual, *(f"thing of kind {number}" for number in range(count))][:count]
        began = time.perf_counter()
        model = Model(workdir, labels=labels)
        opened = time.perf_counter() - began
        model(texts)  # compiles
        taken = []
        for _ in range(repeats):
            began = time.perf_counter()
            model(texts)
            taken.append(time.perf_counter() - began)
        found.append(
            {"labels": count, "texts": len(texts), "open_seconds": opened, "seconds": statistics.median(taken)}
        )
    return found


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--limit", type=int, default=4000, help="sentences of wikineural-en; 0: all")
    parser.add_argument("--test_limit", type=int, default=0, help="sentences of each test set; 0: all")
    parser.add_argument("--steps", type=int, default=0, help="updates; 0: as the recipe has it")
    parser.add_argument("--labels", default=",".join(map(str, LABEL_COUNTS)), help="numbers of labels that are timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/zero_shot"))
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    counts = command_line.integers("--labels", arguments.labels.split(","))
    if not arguments.data.is_dir():
        raise UserError(f"--data={arguments.data}: no such folder.")
    workdir = arguments.workdir.resolve()
    sources = write_sets(arguments.data, workdir / "data", arguments.limit, arguments.test_limit)
    texts = workdir / "labels.json"
    files.write_json(texts, TEXTS)
    found: dict[str, Any] = {"unit": "F1", "command": shown_command(sys.argv), "machine": machine(), "runs": []}

    def keep() -> None:
        files.write_json(arguments.output, found | {"table": rows(found["runs"])})

    for seed, arm in itertools.product(seeds, (NAMES, DESCRIPTIONS, AS_IT_IS)):
        if arm == AS_IT_IS and seed != seeds[0]:
            continue  # nothing of it is drawn
        run = workdir / f"{arm.replace(' ', '_')}_{seed}"
        train(config(arm, seed, sources, texts, arguments.steps), run)
        for name in TESTED:
            found["runs"].append({"arm": arm, "seed": seed, "set": name, **scores(arm, run, sources[name])})
        keep()
    for name in TESTED:
        found["runs"].append({"arm": CAPITALS, "seed": None, "set": name, **scores(CAPITALS, workdir, sources[name])})
    read = read_tagged(sources["broad-twitter"], ["test"])["test"].sentences[:_SENTENCES]
    timed = [" ".join(sentence.words) for sentence in read]
    found["speed"] = speed(workdir / f"{NAMES}_{seeds[0]}", timed, counts, arguments.repeats)
    keep()
    print(to_markdown(Table("Zero-shot entities", COLUMNS, [tuple(row.values()) for row in rows(found["runs"])])))
    columns = ("labels", "texts", "seconds to open", "seconds")
    print(to_markdown(Table("What labels cost", columns, [tuple(each.values()) for each in found["speed"]])))


if __name__ == "__main__":
    command_line.run(main)

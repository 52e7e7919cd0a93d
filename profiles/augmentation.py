"""What is augmentation worth with few examples? Each kind, and a mixture of kinds, beside training without.

  python -m profiles.augmentation --data=../shared/data --seeds=0,1,2,3,4 --workdir=runs/augmentation \
      --output=profiles/results/augmentation.json
  python -m profiles.augmentation ... --sets=trec --sizes=200 --kinds=none,mixup --config.train.steps=600

Sentences of SST-2, questions of TREC and tweets of WNUT-17. For each seed, --sizes examples of the training split are
drawn by a hash of seed and text (one of each class at least), and a fifth as many to choose a checkpoint by; the test
is the set's own (of SST-2 its validation split). All kinds make the same updates from the same weights, by
configs/classification.py:files or configs/ner.py:files:

none          rows as they are
word_dropout  config.augment.word_dropout=--share
substitute    config.augment.substitute=--share, of the masked LM --masked_lm; if none is given, of one that is trained
              here from the run's first weights on --data/mlm-corpus, --mlm_steps updates
mixup         config.augment.mixup=--mixup
entities      WNUT-17 alone: one copy of each record with its entities exchanged (config.task.perturb.kinds=entities=5)
mixture       all of them that the set has

A gain is the mean over seeds of the differences to "none" on the same examples, in points, with a 95 % interval by
Student's t. Finished runs, a file each in --workdir, are taken as they are.
"""

import dataclasses
import json
import pathlib
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from jaxfm import files
from jaxfm.config import Config
from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.examples import ExampleColumns, read_examples
from jaxfm.data.records.sources import TaggedSentence, read_tagged
from jaxfm.errors import UserError, did_you_mean
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.programs.check import plan_updates
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.tasks.registry import default_config, from_config_dict
from jaxfm.training.initial import resolve
from profiles import command_line, quality, steps
from profiles.ner_quality import write_sentences

NONE, SUBSTITUTE, ENTITIES, MIXTURE = "none", "substitute", "entities", "mixture"
KINDS = (NONE, "word_dropout", SUBSTITUTE, "mixup", ENTITIES, MIXTURE)
_MASKED_LM = "masked_lm"


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A set of examples: its folder below --data, how it is read, the split that is the test, and the metric."""

    name: str
    task: str
    columns: ExampleColumns
    test: str
    metric: str


SETS = {
    each.name: each
    for each in (
        Corpus("sst2", "classification", ExampleColumns(), "valid", "accuracy"),
        Corpus("trec", "classification", ExampleColumns("question", "", "coarse_label"), "test", "accuracy"),
        Corpus("wnut17", "ner", ExampleColumns(), "test", "f1"),
    )
}


def write_data(corpus: Corpus, data: pathlib.Path, folder: pathlib.Path, size: int, seed: int) -> str:
    """Writes train, valid and test of a set below `folder`, unless they are there; returns their URI.

    Raises UserError where the set has too few examples.
    """
    of_words = corpus.task == "ner"
    suffix = "conll" if of_words else "jsonl"
    if (folder / f"test.{suffix}").is_file():
        return f"{suffix}:{folder}"
    train, test = _read(corpus, data)

    def place(record: Any) -> float:
        return uniform_hash(f"{seed}\n{' '.join(record.words) if of_words else record.text}")

    train = sorted(train, key=place)
    if not of_words:  # at least one of each class
        firsts = {each.target: at for at, each in reversed(list(enumerate(train)))}
        train = [train[at] for at in sorted(range(len(train)), key=lambda at: firsts[train[at].target] != at)]
    held = max(size // 5, 1)
    if len(train) < size + held:
        raise UserError(f"--sizes={size}: {corpus.name} has {len(train)} examples, but {size + held} are needed.")
    parts = {"train": train[:size], "valid": train[size : size + held], "test": test}
    for split, records in parts.items():
        path = folder / f"{split}.{suffix}"
        if of_words:
            write_sentences(records, path)
        else:
            lines = (json.dumps({"text": each.text, "label": each.target}) for each in records)
            files.write_text(path, "".join(f"{line}\n" for line in lines))
    return f"{suffix}:{folder}"


def _read(corpus: Corpus, data: pathlib.Path) -> tuple[list[Any], list[Any]]:
    """Returns the training examples, or sentences, and those of the test."""
    splits = ["train", corpus.test]
    if corpus.task == "ner":
        read = read_tagged(f"conll:{data / corpus.name}", splits)
        found: list[list[TaggedSentence]] = [list(read[split].sentences) for split in splits]
        return found[0], found[1]
    examples = read_examples(f"tsv:{data / corpus.name}", splits, columns=corpus.columns, kind="single")
    return list(examples["train"].examples), list(examples[corpus.test].examples)


def changes_of(kind: str, corpus: Corpus, share: float, mixup: float, masked_lm: str) -> dict[str, Any] | None:
    """Returns the keys of a kind; None where a set has no such kind."""
    kinds: dict[str, dict[str, Any]] = {
        NONE: {},
        "word_dropout": {"augment.word_dropout": share},
        SUBSTITUTE: {"augment.substitute": share, "augment.masked_lm": masked_lm},
        "mixup": {"augment.mixup": mixup},
    }
    if corpus.task == "ner":
        kinds[ENTITIES] = {"task.perturb.kinds": "entities=5"}
    if kind == MIXTURE:
        return {key: value for each in kinds.values() for key, value in each.items()}
    return kinds.get(kind)


def base_config(corpus: Corpus, source: str, seed: int, changes: Sequence[str]) -> Config:
    """Returns the config of a run without augmentation."""
    config = from_config_dict(steps.read_values(f"configs/{corpus.task}.py:files", changes))
    return replaced(config, {"data.source": source, "seed": seed, "eval.metric": corpus.metric})


def trained_masked_lm(first: Config, data: pathlib.Path, workdir: pathlib.Path, updates: int) -> str:
    """Trains a masked LM from the first weights of a run, unless that is done; returns its URI."""
    folder = workdir / _MASKED_LM
    config = replaced(
        from_config_dict(default_config(_MASKED_LM)),
        {
            "model.init": first.model.init,
            "data.source": f"text:{data / 'mlm-corpus'}",
            "data.cache": str(workdir / "cache"),
            "data.row_length": 128,
            "task.evaluate": (),
            "task.eval_rows": 256,
            "train.steps": updates,
            "train.batch_size": 32,
            "eval.every_steps": updates,
            "optim.learning_rate": 5e-4,
        },
    )
    if not (folder / "report.json").is_file():
        train(config, folder)
    return f"run:{folder.resolve()}"


def run_once(config: Config, metric: str, workdir: pathlib.Path, name: str) -> dict[str, Any]:
    """Returns scores in percent and seconds of a run that is done, or trains it in a folder that is removed after."""
    kept = workdir / f"{name}.json"
    if kept.is_file():
        return files.read_json(kept)
    folder, begun = workdir / name, time.monotonic()
    report = train(config, folder)
    record = {
        **{split: 100 * report["splits"][split][metric] for split in ("valid", "test")},
        "updates": report["training"]["steps"],
        "seconds": round(time.monotonic() - begun, 1),
    }
    shutil.rmtree(folder)
    files.write_json(kept, record)
    print(f"{name}: valid {record['valid']:.2f}, test {record['test']:.2f}", flush=True)
    return record


def gain(scores: Mapping[str, float], without: Mapping[str, float]) -> dict[str, Any]:
    """Returns the mean difference over the seeds that both have, and its 95 % interval; None with one seed."""
    differences = [scores[seed] - without[seed] for seed in scores if seed in without]
    mean, count = statistics.mean(differences), len(differences)
    interval = None
    if count > 1:
        half = float(stats.t.ppf(0.975, count - 1)) * statistics.stdev(differences) / count**0.5
        interval = [mean - half, mean + half]
    return {"mean": mean, "interval": interval, "seeds": count}


def summary(runs: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Returns set and size -> kind -> scores of the seeds, their mean, and the gain; of the runs of each seed."""
    found: dict[str, Any] = {}
    for name, kinds in runs.items():
        scores = {kind: {seed: run["test"] for seed, run in seeds.items()} for kind, seeds in kinds.items()}
        found[name] = {
            kind: {"test": each, "mean": statistics.mean(each.values()), "gain": gain(each, scores[NONE])}
            for kind, each in scores.items()
        }
    return found


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Lays out a row for each set, size and kind."""
    rows = []
    for name, kinds in found.items():
        for kind, each in kinds.items():
            low, high = each["gain"]["interval"] or (None, None)
            own = (None, None, None) if kind == NONE else (each["gain"]["mean"], low, high)
            rows.append((name, kind, each["gain"]["seeds"], each["mean"], *own))
    columns = ("set", "kind", "seeds", "test", "gain", "from", "to")
    return Table("Augmentation of training rows", columns, rows, formats=dict.fromkeys(columns[3:], ".2f"))


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of sst2, trec, wnut17, mlm-corpus")
    parser.add_argument("--sets", default=",".join(SETS), help="with commas between them")
    parser.add_argument("--sizes", default="200,2000", help="training examples")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of those above; none is always one of them")
    parser.add_argument("--seeds", default="0,1,2", help="of examples and runs")
    parser.add_argument("--share", type=float, default=0.15, help="of the words")
    parser.add_argument("--mixup", type=float, default=0.4, help="parameter of the beta distribution")
    parser.add_argument("--masked_lm", default="", help="URI of a masked LM with the tokenizer of the run")
    parser.add_argument("--mlm_steps", type=int, default=4000, help="updates of the one that is trained here")
    parser.add_argument("--workdir", type=pathlib.Path, required=True, help="folder that keeps data and runs")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file for the figures")
    arguments, changes = command_line.parse(parser, argv)
    names, kinds = arguments.sets.split(","), arguments.kinds.split(",")
    for flag, words, known in (("--sets", names, SETS), ("--kinds", kinds, KINDS)):
        for word in words:
            if word not in known:
                raise UserError(f"{flag}: {word!r} is not one of {', '.join(known)}. {did_you_mean(word, known)}")
    sizes = command_line.integers("--sizes", arguments.sizes.split(","))
    seeds = command_line.integers("--seeds", arguments.seeds.split(","))
    kinds = [NONE, *(kind for kind in kinds if kind != NONE)]
    facts: dict[str, Any] = {"command": quality.shown_command(sys.argv), **quality.machine(), **steps.devices()}
    masked_lm, runs = arguments.masked_lm, {}
    for name in names:
        for size in sizes:
            updates = 0
            for seed in seeds:  # all kinds of a seed, then the next: an answer takes shape while runs go on
                corpus = SETS[name]
                source = write_data(corpus, arguments.data, arguments.workdir / f"{name}_{size}_{seed}", size, seed)
                config = base_config(corpus, source, seed, changes)
                # Copies are more records, whose epochs would be longer: the updates are those of rows as they are.
                updates = updates or plan_updates(config, resolve(config.model)).updates
                config = replaced(config, {"train.steps": updates})
                if not masked_lm and {SUBSTITUTE, MIXTURE} & set(kinds):
                    masked_lm = trained_masked_lm(config, arguments.data, arguments.workdir, arguments.mlm_steps)
                for kind in kinds:
                    own = changes_of(kind, corpus, arguments.share, arguments.mixup, masked_lm)
                    if own is not None:
                        label = f"{name}_{size}_{kind}_{seed}"
                        run = run_once(replaced(config, own), corpus.metric, arguments.workdir, label)
                        runs.setdefault(f"{name} {size}", {}).setdefault(kind, {})[str(seed)] = run
                asked = {"share": arguments.share, "mixup": arguments.mixup, "masked_lm": masked_lm}
                result = {**facts, **asked, "runs": runs, "sets": summary(runs)}
                files.write_json(arguments.output, result)
    print(to_markdown(table(summary(runs))))


if __name__ == "__main__":
    command_line.run(main)

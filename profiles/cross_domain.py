"""From one domain to another: scores on the target with few of its labels, with and without masked LM on its text.

  python -m profiles.cross_domain --source=conll:../shared/data/wikineural-en \
      --target=conll:../shared/data/broad-twitter --labels=0,50,500 --seeds=0,1,2 \
      --output=profiles/results/cross_domain_twitter.json
  python -m profiles.cross_domain --source=conll:../shared/data/wikigold --target=conll:../shared/data/wnut17 ...

Runs of configs/ner.py:files (configs/classification.py:files for other sources than conll and brat), changed by
--config.KEY=VALUE. "source" is trained on the source's training split; with n labels it is trained further on n target
examples, drawn by the seed. "target alone" is trained on these only. Each begins once from the config's own weights and
once ("masked LM") from these after masked-LM training on the plain text of the target's whole training split, by
configs/mlm.py:continue for --mlm_epochs. Scores are of the target's test split. Of entities only types that both have
count; others become O. (wnut17's person, location, corporation and group are read as PER, LOC, ORG and ORG.)

Sentiment, from sst2 to another domain, works alike where both sources have the same classes; the optional data folder
has no second set of sentiment, so nothing was measured of it. Finished runs in --workdir are taken as they are.
"""

import argparse
import pathlib
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.tables import Table, to_markdown
from jaxfm.observe.writers import to_json
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.given_config import resolve_config
from jaxfm.programs.train import train
from jaxfm.schema import replaced
from jaxfm.training import workdir as workdirs
from profiles import command_line, quality
from profiles.active_learning import COLUMNS, Line, config_of, read_lines, write_lines

RENAMED = {"person": "PER", "location": "LOC", "corporation": "ORG", "group": "ORG"}
PLAIN, MASKED = STARTS = ("as it is", "masked LM")
SOURCE, ALONE = WAYS = ("source", "target alone")


def type_of(tag: str) -> str:
    """Returns the type that a tag other than O names, under its common name."""
    return RENAMED.get(tag[2:], tag[2:])


def types_of(lines: Sequence[Line]) -> set[str]:
    """Returns the types of the entities of tagged lines, under their common names."""
    return {type_of(tag) for line in lines for tag in line["ner_tags"] if tag != "O"}


def with_types(lines: Sequence[Line], types: set[str]) -> list[Line]:
    """Returns tagged lines with entities of these types alone."""

    def tag(text: str) -> str:
        return f"{text[:2]}{type_of(text)}" if type_of(text) in types else "O"

    return [{**line, "ner_tags": [tag(each) for each in line["ner_tags"]]} for line in lines]


def write_text(path: pathlib.Path, lines: Sequence[Line]) -> None:
    """Writes the plain text of lines, a document each."""
    if not path.is_file():
        files.write_text(path, "\n\n".join(line.get("text") or " ".join(line["tokens"]) for line in lines) + "\n")


class Domains:
    """A source domain with labels and a target domain with few."""

    def __init__(self, arguments: argparse.Namespace, changes: Sequence[str], home: pathlib.Path):
        """Reads both and writes what all runs share."""
        configs = [config_of(source, changes) for source in (arguments.source, arguments.target)]
        source, target = map(read_lines, configs)
        names = [_names([*each["train"], *each["test"]]) for each in (source, target)]
        shared = names[0] & names[1]
        if "ner_tags" in source["train"][0]:
            source = {split: with_types(lines, shared) for split, lines in source.items()}
            target = {split: with_types(lines, shared) for split, lines in target.items()}
        elif names[0] != names[1]:
            raise UserError(f"--target: its classes {sorted(names[1])} are not the source's {sorted(names[0])}.")
        if not shared:
            raise UserError(f"--target: has no type of entity that the source has: {sorted(names[0])}.")
        order = np.random.default_rng(0).permutation(len(target["train"]))
        valid, rest = order[: arguments.valid], order[arguments.valid :]
        self.valid = [target["train"][number] for number in valid]
        self.train = [target["train"][number] for number in rest]
        self.test, self.shared, self.home = target["test"][: arguments.test or None], sorted(shared), home
        self.config = replaced(configs[0], dict.fromkeys(COLUMNS, ""))
        limited = source["train"][: arguments.limit or None]
        cut = max(len(limited) // 20, 1)
        write_lines(home / "source" / "train.jsonl", limited[cut:])
        write_lines(home / "source" / "valid.jsonl", limited[:cut])
        write_lines(home / "target" / "test.jsonl", self.test)
        write_text(home / "text" / "train.txt", self.train)
        write_text(home / "text" / "valid.txt", self.valid)
        self._mlm_epochs = arguments.mlm_epochs

    def begins(self, start: str) -> Mapping[str, Any]:
        """Returns the keys of where runs begin; continues masked LM where that is asked for and not done."""
        if start == PLAIN:
            return {}
        values = {"model.init": self.config.model.init, "data.source": f"text:{self.home / 'text'}"}
        values |= {"train.epochs": self._mlm_epochs, "data.cache": str(self.home / "cache")}
        train(resolve_config("mlm:continue", values), self.home / "masked_lm")
        return {"model.init": f"run:{(self.home / 'masked_lm').resolve()}"}

    def scores(self, start: str, counts: Sequence[int], seed: int) -> Iterator[dict[str, Any]]:
        """Yields the score of each number of target labels, after the source and by the target alone."""
        folder = self.home / f"seed_{seed}" / start.replace(" ", "_")
        begins = {**self.begins(start), "seed": seed}
        of_source = self._run(folder / "source", f"jsonl:{self.home / 'source'}", begins)
        for count in counts:
            if count == 0:
                yield self._record(start, SOURCE, 0, seed, of_source)
                continue
            drawn = np.random.default_rng(seed).permutation(len(self.train))[:count]
            data = self.home / f"seed_{seed}" / f"labels_{count}"
            write_lines(data / "train.jsonl", [self.train[number] for number in drawn])
            write_lines(data / "valid.jsonl", self.valid)
            for way in WAYS:
                values = begins | ({"model.init": f"run:{of_source.resolve()}"} if way == SOURCE else {})
                run = self._run(folder / f"{way.replace(' ', '_')}_{count}", f"jsonl:{data}", values)
                yield self._record(start, way, count, seed, run)

    def _run(self, folder: pathlib.Path, source: str, values: Mapping[str, Any]) -> pathlib.Path:
        config: Config = replaced(self.config, {**values, "data.source": source})
        train(config, folder)
        return folder

    def _record(self, start: str, way: str, count: int, seed: int, run: pathlib.Path) -> dict[str, Any]:
        metric = workdirs.read_config(run).eval.metric
        found = evaluate(run, "test", f"jsonl:{self.home / 'target'}")
        facts = {"start": start, "trained on": way, "labels": count, "seed": seed}
        return {**facts, "metric": metric, "score": float(found.metrics[metric])}


def _names(lines: Sequence[Line]) -> set[str]:
    """Returns the types or classes of lines."""
    return types_of(lines) if "ner_tags" in lines[0] else {str(line["label"]) for line in lines}


def summary(runs: Sequence[Mapping[str, Any]]) -> Table:
    """Lays out the means over the seeds: a row a way and a number of labels."""
    groups: dict[tuple[str, int], dict[str, list[float]]] = {}
    for run in runs:
        starts = groups.setdefault((run["trained on"], run["labels"]), {})
        starts.setdefault(run["start"], []).append(run["score"])
    rows = []
    for (way, count), starts in sorted(groups.items(), key=lambda each: (each[0][1], each[0][0])):
        cells = []
        for start in STARTS:
            values = starts.get(start, [])
            cells += [statistics.mean(values) if values else None]
            cells += [statistics.stdev(values) if len(values) > 1 else None]
        rows.append((count, way, *cells))
    columns = ("target labels", "trained on", PLAIN, "sd", f"after {MASKED}", "sd of it")
    return Table("Across domains", columns, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True, help="URI of the labelled domain")
    parser.add_argument("--target", required=True, help="URI of the other domain")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="JSON file for the figures")
    parser.add_argument("--workdir", type=pathlib.Path, help="runs/cross_domain/NAME of --output, if not given")
    parser.add_argument("--labels", default="0,50,500", help="target examples, with commas between them")
    parser.add_argument("--seeds", default="0,1,2", help="with commas between them")
    parser.add_argument("--starts", default=",".join(STARTS), help="with commas between them")
    parser.add_argument("--valid", type=int, default=200, help="target examples of the validation split")
    parser.add_argument("--limit", type=int, default=0, help="most training examples of the source; 0: all")
    parser.add_argument("--test", type=int, default=0, help="most test examples of the target; 0: all")
    parser.add_argument("--mlm_epochs", type=float, default=3.0, help="of masked LM on the target's text")
    arguments, changes = command_line.parse(parser, argv)
    seeds, counts = (
        command_line.integers(f"--{name}", getattr(arguments, name).split(",")) for name in ("seeds", "labels")
    )
    starts = arguments.starts.split(",")
    for start in starts:
        if start not in STARTS:
            raise UserError(f"--starts: {start!r} is none of {', '.join(STARTS)}.")
    if arguments.valid < 1 or min(counts) < 0:
        raise UserError("--valid, --labels: must be at least 1, and 0.")
    home = arguments.workdir or pathlib.Path("runs/cross_domain") / arguments.output.stem
    domains = Domains(arguments, changes, home)
    facts = {"command": quality.shown_command(sys.argv), **quality.machine(), "classes": domains.shared}
    runs: list[dict[str, Any]] = []
    for seed in seeds:
        for start in starts:
            for run in domains.scores(start, counts, seed):
                runs.append(run)
                files.write_json(arguments.output, to_json({**facts, "runs": runs}))
    print(to_markdown(summary(runs)))


if __name__ == "__main__":
    command_line.run(main)

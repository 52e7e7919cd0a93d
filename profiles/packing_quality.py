"""Does packing cost accuracy? Fine-tunes one classification set many times, with the examples of a step laid out
differently, and compares the scores over seeds:

  python -m profiles.packing_quality --source=tsv:shared/data/cola --text_column=sentence --label_column=label \
      --limit=2500 --cells=packed:1,packed:4,single:16 --seeds=0,1,2 --output=FILE.json

A cell is LAYOUT:ROWS, with options after it. LAYOUT is `packed` (best fit, what training does), `in_order` (a row is
closed when the next example of the shuffled order does not fit, so that lengths within a row are independent),
`drawn` (a step takes the next examples of an order drawn anew each epoch, always the same number, as batches that are
not packed do, and lays them out in its rows) or `single` (one example a row). ROWS is the number of rows a step; the
row length is chosen so that a step has --examples examples on average. Options: `/nodropout`; `/repack` (packed anew
for each epoch); `/torch` (transformers' model and torch's AdamW over the very examples of each step, padded to the
longest).

Every cell of a seed starts from the same weights, takes the same number of updates and is scored on the same examples:
the split "valid", and --held_out examples of "train" that --limit left out, as a small split hides small differences.
Only word embeddings that occur are kept. The others have no gradient, and without weight decay they never move: the
result is the same, and the optimizer takes less time.
"""

# E examples, N rows, B rows a step, T tokens a row, S segments a row, C classes

import dataclasses
import functools
import itertools
import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import sklearn.metrics
from absl import flags
from ml_collections import config_flags

from jaxfm import files
from jaxfm.config import Config, MeshConfig
from jaxfm.core.initial import Initial
from jaxfm.data.pipeline import TrainBatches
from jaxfm.data.records.examples import Example, ExampleColumns, read_examples
from jaxfm.data.text.packing import PackedRows, build_rows, pack, shuffled
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError, did_you_mean
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import program
from jaxfm.tasks.classification.objective import ClassifierObjective
from jaxfm.tasks.classification.spec import ClassifierSpec
from jaxfm.tasks.losses import ClassLoss, LabelLoss
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training.initial import resolve
from jaxfm.training.session import make_session
from profiles import command_line, quality

USAGE = "usage: python -m profiles.packing_quality --source=URI --cells=LAYOUT:ROWS[/OPTION],... --output=FILE.json"
LAYOUTS = ("packed", "in_order", "single", "drawn")
OPTIONS = ("nodropout", "repack", "torch")
EVAL_ROWS = 16
WORD_EMBEDDING = "encoder/embeddings/word/embedding"


@dataclasses.dataclass(frozen=True)
class Cell:
    """How the examples of a step are laid out, and what else differs."""

    name: str
    layout: str
    rows: int
    options: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Data:
    """Tokenized examples: token ids [t] of each, and class numbers [E]."""

    tokens: list[np.ndarray]
    targets: np.ndarray

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each example [E]."""
        return np.asarray([len(tokens) for tokens in self.tokens], np.int64)


def parse_cell(text: str) -> Cell:
    """Reads "packed:4/nodropout"; UserError for what is none."""
    first, *options = text.split("/")
    layout, _, rows = first.partition(":")
    if layout not in LAYOUTS:
        raise UserError(f"--cells: {text!r}: {layout!r} is no layout. {did_you_mean(layout, LAYOUTS)}")
    if not rows.isdecimal() or int(rows) == 0:
        raise UserError(f"--cells: {text!r}: needs the number of rows a step, as {layout}:4.")
    for option in options:
        if option not in OPTIONS:
            raise UserError(f"--cells: {text!r}: {option!r} is no option. {did_you_mean(option, OPTIONS)}")
    return Cell(text, layout, int(rows), frozenset(options))


def lay_out(layout: str, lengths: np.ndarray, row_length: int) -> list[np.ndarray]:
    """Returns the examples of each row, of examples in a given order with `lengths` [E]."""
    if layout == "packed":
        return pack(lengths, row_length)
    if layout == "single":
        return [np.asarray([index]) for index in range(len(lengths))]
    rows: list[list[int]] = [[]]
    free = row_length
    for index, length in enumerate(lengths.tolist()):
        if length > free:
            rows.append([])
            free = row_length
        rows[-1].append(index)
        free -= length
    return [np.asarray(row) for row in rows]


def drawn(count: int, examples: int, seed: int) -> Iterator[np.ndarray]:
    """Yields the examples of each step without end: every one once an epoch, in an order drawn anew."""
    left = np.zeros(0, np.int64)
    for epoch in itertools.count():
        left = np.concatenate([left, shuffled(count, seed, epoch)])
        while len(left) >= examples:
            yield left[:examples]
            left = left[examples:]


def choose_length(cell: Cell, lengths: np.ndarray, longest: int, examples: int) -> int:
    """Returns the row length, a multiple of 8, whose steps hold nearest to `examples` examples on average.

    Args:
      cell: layout and rows a step.
      lengths: tokens of each training example [E].
      longest: tokens of the longest example of any split: what a row must hold.
      examples: wanted a step.
    """
    longest = -(-longest // 8) * 8
    if cell.layout == "single":
        return longest
    if cell.layout == "drawn":  # room for any draw of forty seeds
        draws = [group for seed in range(40) for group in itertools.islice(drawn(len(lengths), examples, seed), 600)]
        for row_length in itertools.count(longest, 8):
            if all(len(pack(np.sort(lengths[group])[::-1], row_length)) <= cell.rows for group in draws):
                return row_length
    order = shuffled(len(lengths), 0)

    def off(row_length: int) -> float:
        return abs(cell.rows * len(lengths) / len(lay_out(cell.layout, lengths[order], row_length)) - examples)

    best = min(range(longest, longest + 8 * 64, 8), key=off)
    if off(best) > 0.1 * examples:
        raise UserError(f"--cells: {cell.name}: the nearest rows, {best} tokens, are off by {off(best):.1f} examples.")
    return best


def training_rows(cell: Cell, data: Data, row_length: int, segments: int, pad_id: int, seed: int) -> PackedRows:
    """Packs the training examples as the cell says, in the order that the seed gives."""
    if cell.layout == "packed":
        return build_rows(data.tokens, data.targets, row_length, pad_id, seed, max_segments=segments)
    # Rows of one example, then rows of such rows: `build_rows` packs by length, so each row is built by itself.
    order = shuffled(len(data.tokens), seed)
    groups = [order[row] for row in lay_out(cell.layout, data.lengths[order], row_length)]
    parts = [
        build_rows([data.tokens[e] for e in group], data.targets[group], row_length, pad_id, 0, max_segments=segments)
        for group in groups
    ]
    assert all(len(part) == 1 for part in parts)
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("tokens", "segment_ids", "positions", "labels")
    }
    nowhere = np.zeros((0, 3), np.int32)  # nobody asks where a training example lies
    return PackedRows(**joined, type_ids=None, token_labels=False, example_locations=nowhere, pad_id=pad_id)


def stream(
    cell: Cell, data: Data, row_length: int, segments: int, pad_id: int, seed: int, examples: int
) -> Iterator[dict[str, Any]]:
    """Yields the batches of a run without end."""
    if cell.layout == "drawn":
        for group in drawn(len(data.tokens), examples, seed):
            tokens = [data.tokens[example] for example in group]
            rows = build_rows(tokens, data.targets[group], row_length, pad_id, None, max_segments=segments)
            yield {
                name: np.pad(
                    values,
                    ((0, cell.rows - len(rows)), (0, 0)),
                    constant_values={"labels": -1, "tokens": pad_id}.get(name, 0),
                )
                for name, values in rows.take(np.arange(len(rows))).items()
            }
    if "repack" not in cell.options:
        rows = training_rows(cell, data, row_length, segments, pad_id, seed)
        batches = TrainBatches(rows, batch_size=cell.rows, seed=seed)
        yield from map(batches.batch, itertools.count())
    for epoch in itertools.count():
        rows = training_rows(cell, data, row_length, segments, pad_id, 1000 * (seed + 1) + epoch)
        order = shuffled(len(rows), seed, epoch)
        for first in range(0, len(rows) - cell.rows + 1, cell.rows):
            yield rows.take(order[first : first + cell.rows])


def examples_of(batch: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns the token ids of each example of a batch, and their classes [E]."""
    tokens, targets = [], []
    for row, segment_ids in enumerate(batch["segment_ids"]):
        for segment in range(1, int(segment_ids.max()) + 1):
            tokens.append(batch["tokens"][row][segment_ids == segment])
            targets.append(batch["labels"][row][segment - 1])
    return tokens, np.asarray(targets)


def scores(targets: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Returns MCC and accuracy in percent, and the mean loss, of logits [E, C]."""
    predicted = logits.argmax(-1)
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return {
        "mcc": round(100 * float(sklearn.metrics.matthews_corrcoef(targets, predicted)), 2),
        "accuracy": round(100 * float((predicted == targets).mean()), 2),
        "loss": round(-float(log_p[np.arange(len(targets)), targets].mean()), 4),
    }


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What all cells share."""

    config: Config
    initial: Initial
    data: Mapping[str, Data]
    pad_id: int
    total_steps: int
    examples: int

    @property
    def longest(self) -> int:
        """Tokens of the longest example of any split."""
        return max(int(data.lengths.max()) for data in self.data.values())

    def jaxfm(self, cell: Cell) -> Callable[[int], dict[str, Any]]:
        """Returns seed -> scores of each split; the step is compiled once for all seeds."""
        train = self.data["train"]
        row_length = choose_length(cell, train.lengths, self.longest, self.examples)
        segments = 1 if cell.layout == "single" else row_length // int(train.lengths.min())
        encoder = self.initial.encoder
        if "nodropout" in cell.options:
            encoder = dataclasses.replace(encoder, dropout=0.0, attention_dropout=0.0)
        labels = tuple(map(str, range(int(train.targets.max()) + 1)))
        model = ClassifierSpec("single", labels, encoder, "cls", False, row_length, row_length, segments, 0.5)
        objective = ClassifierObjective(model, ClassLoss(), LabelLoss(), 0.0)
        values = dataclasses.replace(self.config.train, batch_size=cell.rows)
        config, mesh = dataclasses.replace(self.config, train=values), make_mesh(MeshConfig())
        session = make_session(config, objective, mesh, total_steps=self.total_steps)
        evaluate = session.evaluator(EVAL_ROWS)
        loaded = {name: v for name, v in self.initial.params.items() if name.startswith(("encoder/", "pooler/"))}
        held = {
            split: build_rows(data.tokens, data.targets, row_length, self.pad_id, None, max_segments=segments)
            for split, data in self.data.items()
            if split != "train"
        }

        def run(seed: int) -> dict[str, Any]:
            seen: list[int] = []

            def counted() -> Iterator[dict[str, np.ndarray]]:
                batches = stream(cell, train, row_length, segments, self.pad_id, seed, self.examples)
                for batch in itertools.islice(batches, self.total_steps):
                    seen.append(int((batch["labels"] >= 0).sum()))
                    yield batch

            *_, last = session.steps(session.initial_state(seed, loaded), counted())
            state, sums = last.state, last.take_sums()
            found: dict[str, Any] = {"row_length": row_length, "examples_per_step": round(float(np.mean(seen)), 2)}
            found["examples_per_step_sd"] = round(float(np.std(seen)), 2)
            total, weight = np.asarray(sums["loss"])
            found["train_loss"] = round(float(total / weight), 4)
            for split, rows in held.items():
                outputs = evaluate(state.params, rows)["outputs"]
                logits = outputs[rows.example_locations[:, 0], rows.example_locations[:, 1]]
                found |= {f"{split}_{name}": v for name, v in scores(self.data[split].targets, logits).items()}
            return found

        return run

    def torch(self, cell: Cell, folder: str) -> Callable[[int], dict[str, Any]]:
        """Returns seed -> scores of transformers' model, trained by torch over the examples of each step."""
        import torch
        import transformers

        train, optim = self.data["train"], self.config.optim
        row_length = choose_length(cell, train.lengths, self.longest, self.examples)
        segments = 1 if cell.layout == "single" else row_length // int(train.lengths.min())

        def padded(tokens: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
            ids = np.full((len(tokens), max(map(len, tokens))), self.pad_id, np.int64)
            mask = np.zeros_like(ids)
            for row, one in enumerate(tokens):
                ids[row, : len(one)], mask[row, : len(one)] = one, 1
            return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

        def run(seed: int) -> dict[str, Any]:
            transformers.set_seed(seed)
            off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                folder, num_labels=int(train.targets.max()) + 1, **(off if "nodropout" in cell.options else {})
            ).train()
            words = model.get_input_embeddings()
            words.weight = torch.nn.Parameter(
                torch.from_numpy(self.initial.params[WORD_EMBEDDING][: self.initial.encoder.vocab_size].copy())
            )
            adam = torch.optim.AdamW(
                model.parameters(), lr=optim.learning_rate, betas=(optim.b1, optim.b2), eps=optim.eps, weight_decay=0.0
            )
            decay = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / self.total_steps)
            batches = stream(cell, train, row_length, segments, self.pad_id, seed, self.examples)
            losses = []
            for batch in itertools.islice(batches, self.total_steps):
                tokens, targets = examples_of(batch)
                loss = model(**padded(tokens), labels=torch.from_numpy(targets.astype(np.int64))).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
                adam.step()
                decay.step()
                adam.zero_grad()
                losses.append(float(loss.detach()))
            model.eval()
            found: dict[str, Any] = {"row_length": row_length, "train_loss": round(float(np.mean(losses)), 4)}
            for split, data in self.data.items():
                if split == "train":
                    continue
                order = np.argsort(-data.lengths, kind="stable")
                logits = np.zeros((len(order), int(train.targets.max()) + 1), np.float32)
                with torch.no_grad():
                    for first in range(0, len(order), 64):
                        part = order[first : first + 64]
                        logits[part] = model(**padded([data.tokens[e] for e in part])).logits.numpy()
                found |= {f"{split}_{name}": v for name, v in scores(data.targets, logits).items()}
            return found

        return run


def cut_vocabulary(initial: Initial, data: Mapping[str, Data]) -> tuple[Initial, dict[str, Data]]:
    """Leaves the words out of the embedding that no example has, and numbers the others anew."""
    used = np.unique(np.concatenate([tokens for each in data.values() for tokens in each.tokens]))
    used = np.union1d(used, [0])
    number = np.full(int(used.max()) + 1, -1, np.int32)
    number[used] = np.arange(len(used))
    encoder = dataclasses.replace(initial.encoder, vocab_size=len(used))
    table = np.zeros((encoder.padded_vocab_size, encoder.hidden_size), np.float32)
    table[: len(used)] = initial.params[WORD_EMBEDDING][used]
    cut = {split: Data([number[tokens] for tokens in each.tokens], each.targets) for split, each in data.items()}
    return dataclasses.replace(initial, encoder=encoder, params={**initial.params, WORD_EMBEDDING: table}), cut


def read_data(
    config: Config, tokenizer: pathlib.Path, columns: ExampleColumns, limit: int, held_out: int
) -> tuple[dict[str, Data], int]:
    """Returns split -> Data before the vocabulary is cut ("train", "valid", "held_out") and the padding token."""
    read = read_examples(config.data.source, ("train", "valid"), columns=columns, kind="single")
    chosen: dict[str, Sequence[Example]] = {split: found.examples for split, found in read.items()}
    ordered = quality.in_order_of_hash(chosen["train"])
    chosen["train"] = ordered[: limit or None]
    if limit and held_out:
        chosen["held_out"] = ordered[limit : limit + held_out]
    names = sorted({str(example.target) for example in ordered})
    loaded = load_tokenizer(tokenizer)
    data = {}
    for split, examples in chosen.items():
        encoded = loaded([example.text for example in examples], truncation=True, max_length=quality.WINDOW)
        tokens = [np.asarray(ids, np.int32) for ids in encoded["input_ids"]]  # pyright: ignore[reportArgumentType,reportGeneralTypeIssues]
        targets = np.asarray([names.index(str(example.target)) for example in examples], np.int32)
        data[split] = Data(tokens, targets)
    return data, int(loaded.pad_token_id or 0)


def summarise(cells: Mapping[str, Mapping[str, Mapping[str, float]]], names: Sequence[str]) -> dict[str, Any]:
    """Returns of each cell the mean and standard deviation of its scores, and its paired differences from the first.

    Args:
      cells: name of the cell -> seed -> scores.
      names: of the scores.

    A difference is over the seeds that both cells have, as mean and standard error.
    """
    first = next(iter(cells.values()))
    found: dict[str, Any] = {}
    for cell, runs in cells.items():
        found[cell] = {"seeds": len(runs), **quality.summary(list(runs.values()), {name: name for name in names})}
        shared = [seed for seed in runs if seed in first]
        if runs is not first and len(shared) > 1:
            for name in names:
                differences = np.asarray([runs[seed][name] - first[seed][name] for seed in shared])
                error = float(differences.std(ddof=1)) / len(differences) ** 0.5
                found[cell][name] |= {
                    "difference": round(float(differences.mean()), 2),
                    "standard_error": round(error, 2),
                }
    return found


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.source or not values.output or not values.cells:
        raise UserError(f"--source, --cells and --output are needed.\n{USAGE}")
    cells = [parse_cell(text) for text in values.cells]
    settings: ml_collections.ConfigDict = values.config
    settings.data.source = values.source
    config = from_config_dict(settings)
    tokenizer = quality.tokenizer_of(settings)
    columns = ExampleColumns(values.text_column, "", values.label_column)
    data, pad_id = read_data(config, tokenizer, columns, values.limit, values.held_out)
    initial, data = cut_vocabulary(resolve(config.model), data)
    steps = round(config.train.epochs * len(data["train"].tokens) / values.examples)
    experiment = Experiment(config, initial, data, pad_id, steps, values.examples)
    output = pathlib.Path(values.output)
    result: dict[str, Any] = files.read_json(output) if output.exists() else {"cells": {}}
    folder = quality.reference_model(settings)
    made: dict[str, Callable[[int], dict[str, Any]]] = {}
    for seed, cell in itertools.product(command_line.integers("--seeds", values.seeds), cells):
        runs = result["cells"].setdefault(cell.name, {})
        if str(seed) in runs:
            continue
        if cell.name not in made:
            made[cell.name] = experiment.torch(cell, folder) if "torch" in cell.options else experiment.jaxfm(cell)
        start = time.perf_counter()
        runs[str(seed)] = made[cell.name](seed)
        print(f"{cell.name} seed {seed}: {json.dumps(runs[str(seed)])} {time.perf_counter() - start:.0f} s", flush=True)
        names = [f"{split}_mcc" for split in data if split != "train"]
        result |= {"command": quality.shown_command(sys.argv), **quality.machine(), "steps": steps}
        result["summary"] = summarise(result["cells"], names)
        files.write_json(output, result)
    for cell, found in result.get("summary", {}).items():
        print(cell, json.dumps(found))


if __name__ == "__main__":
    config_flags.DEFINE_config_dict("config", quality.recipe("classification"), "The recipe.")
    flags.DEFINE_string("source", None, "A source of labelled texts with the splits train and valid.")
    flags.DEFINE_string("text_column", "", "Field of the text.")
    flags.DEFINE_string("label_column", "", "Field of the class.")
    flags.DEFINE_list("cells", [], "LAYOUT:ROWS[/OPTION...], comma-separated.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds, comma-separated.")
    flags.DEFINE_string("output", None, "JSON file; seeds in it are not run again.")
    flags.DEFINE_integer("examples", quality.REFERENCE_BATCH, "Examples of an average step.")
    flags.DEFINE_integer("limit", 0, "Training examples; 0: all.")
    flags.DEFINE_integer("held_out", 3000, "Of the training examples that --limit leaves out, how many are scored.")
    program.run(main, USAGE)

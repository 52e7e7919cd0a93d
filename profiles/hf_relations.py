"""Reference: relations between two marked entities with transformers' AutoModel and its own Trainer (PyTorch).

  python profiles/hf_relations.py MODEL_DIR DATA_DIR --negative=Other

DATA_DIR holds train.jsonl and optionally valid.jsonl and test.jsonl: an object a line, {"text", "head": {"start",
"end"}, "tail": {...}, "relation"}, as profiles/relations.py writes them. Entities are enclosed by new tokens
[E1] [/E1] [E2] [/E2]; the hidden states at [E1] and [E2], one after the other, go through a dense layer, relu and the
classes, dropout before both. With --markers=none it is AutoModelForSequenceClassification of the text alone. All
settings that have no argument are the Trainer's own. Prints one line of JSON: scores of each split in percent, seconds
of training, and its useful (not padding) sub-word tokens a second. It shares no code with jaxfm.
"""

import argparse
import collections
import json
import pathlib
import re
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")


class PairModel(torch.nn.Module):
    """An encoder, and a classifier of the hidden states at two positions of each text."""

    def __init__(self, model: str, vocabulary: int, classes: int):
        """Loads the encoder and makes its word embedding as large as the vocabulary."""
        super().__init__()
        self.encoder = transformers.AutoModel.from_pretrained(model, add_pooling_layer=False)
        self.encoder.resize_token_embeddings(vocabulary)
        width, scale = self.encoder.config.hidden_size, self.encoder.config.initializer_range
        self.dropout = torch.nn.Dropout(self.encoder.config.hidden_dropout_prob)
        self.dense, self.classes = torch.nn.Linear(2 * width, width), torch.nn.Linear(width, classes)
        for layer in (self.dense, self.classes):
            torch.nn.init.normal_(layer.weight, std=scale)
            torch.nn.init.zeros_(layer.bias)

    def forward(self, places: torch.Tensor, labels: torch.Tensor | None = None, **inputs: torch.Tensor) -> Any:
        """Returns the loss, where there are labels, and the logits."""
        hidden = self.encoder(**inputs).last_hidden_state
        rows = torch.arange(len(hidden))[:, None].to(places.device)
        pairs = hidden[rows, places].flatten(1)
        logits = self.classes(self.dropout(torch.relu(self.dense(self.dropout(pairs)))))
        return logits if labels is None else (torch.nn.functional.cross_entropy(logits, labels), logits)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the objects of a file of JSON lines."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def marked(row: dict[str, Any]) -> str:
    """Returns the text with its markers, a space on both sides of each."""
    text = row["text"]
    inserts = [(row[side][end], name) for side in ("head", "tail") for end, name in _names(side)]
    for place, name in sorted(inserts, reverse=True):
        text = f"{text[:place]} {name} {text[place:]}"
    return text


def _names(side: str) -> list[tuple[str, str]]:
    number = 2 * (side == "tail")
    return [("start", MARKERS[number]), ("end", MARKERS[number + 1])]


def encode(
    tokenizer: Any, rows: Sequence[dict[str, Any]], names: Sequence[str], length: int, markers: bool
) -> list[Any]:
    """Returns what the model gets of each pair, cut at `length` tokens."""
    texts = [marked(row) if markers else row["text"] for row in rows]
    encoded = tokenizer(texts, truncation=True, max_length=length)
    keys = list(encoded)
    examples = [
        {key: encoded[key][i] for key in keys} | {"labels": names.index(row["relation"])} for i, row in enumerate(rows)
    ]
    if markers:
        first, second = (tokenizer.convert_tokens_to_ids(MARKERS[place]) for place in (0, 2))
        for example in examples:
            example["places"] = [example["input_ids"].index(first), example["input_ids"].index(second)]
    return examples


def scores(gold: Sequence[str], predicted: Sequence[str], negative: str) -> dict[str, float]:
    """Returns accuracy, the official macro F1 (direction taken into account) and micro F1, in percent."""
    right, said, true = collections.Counter(), collections.Counter(), collections.Counter()
    for one, other in zip(gold, predicted, strict=True):
        names = [re.sub(r"\(e[12],e[12]\)$", "", label) for label in (one, other)]
        true[names[0]] += 1
        said[names[1]] += 1
        right[names[0]] += one == other
    relations = [name for name in true if name != negative]
    each = [2 * right[name] / max(said[name] + true[name], 1) for name in relations]
    all_said = sum(count for name, count in said.items() if name != negative)
    micro = 2 * sum(right[name] for name in relations) / max(all_said + sum(true[name] for name in relations), 1)
    accuracy = sum(right.values()) / len(gold)
    found = {"macro_f1": sum(each) / len(each), "micro_f1": micro, "accuracy": accuracy}
    return {name: round(100 * value, 2) for name, value in found.items()}


def main() -> None:
    """Trains, scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--negative", default="Other")
    parser.add_argument("--markers", choices=("plain", "none"), default="plain")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--limit", type=int, default=0, help="training pairs; 0: all")
    arguments = parser.parse_args()
    for path in (pathlib.Path(arguments.model, "config.json"), arguments.data / "train.jsonl"):
        if not path.is_file():
            parser.error(f"{path}: no such file")
    transformers.set_seed(arguments.seed)
    paths = {split: arguments.data / f"{split}.jsonl" for split in ("train", "valid", "test")}
    rows = {split: read(path) for split, path in paths.items() if path.exists()}
    names = sorted({row["relation"] for row in rows["train"]})
    rows["train"] = rows["train"][: arguments.limit or None]
    tokenizer, markers = transformers.AutoTokenizer.from_pretrained(arguments.model), arguments.markers != "none"
    if markers:
        tokenizer.add_tokens(list(MARKERS), special_tokens=True)
        model = PairModel(arguments.model, len(tokenizer), len(names))
    else:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            arguments.model, num_labels=len(names), ignore_mismatched_sizes=True
        )
    data = {split: encode(tokenizer, found, names, arguments.max_length, markers) for split, found in rows.items()}
    tokens = sum(len(example["input_ids"]) for example in data["train"])
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=arguments.epochs,
            learning_rate=arguments.lr,
            per_device_train_batch_size=arguments.batch,
            per_device_eval_batch_size=32,
            seed=arguments.seed,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_steps=100,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["labels"],
        )
        trainer = transformers.Trainer(
            model=model,
            args=settings,
            train_dataset=data["train"],  # pyright: ignore[reportArgumentType]
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        result = {}
        for split in data:
            if split != "train":
                found = trainer.predict(data[split])  # pyright: ignore[reportArgumentType]
                predicted = [names[index] for index in np.asarray(found.predictions).argmax(-1).tolist()]
                result[split] = scores([row["relation"] for row in rows[split]], predicted, arguments.negative)
    options = vars(arguments) | {"data": arguments.data.name, "model": pathlib.Path(arguments.model).name}
    rate = tokens * arguments.epochs / seconds
    printed = {"scores": result, "train_s": round(seconds, 1), "tokens_per_s": round(rate, 1)}
    print(json.dumps(printed | {"threads": torch.get_num_threads()} | options))


if __name__ == "__main__":
    main()

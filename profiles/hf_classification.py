"""Reference: fine-tunes a BERT-family checkpoint for classification with transformers' own Trainer (PyTorch).

  python profiles/hf_classification.py MODEL_DIR DATA_DIR --kind=single|multi|regression

DATA_DIR holds train.jsonl and optionally valid.jsonl and test.jsonl: an object a line, {"text": ...,
"pair": ... (or none), "label": class, list of classes, or score}. All settings that have no argument are the Trainer's
own. Prints one line of JSON: scores of each split in percent, seconds of training, and its useful (not padding)
sub-word tokens a second.
"""

import argparse
import json
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
import sklearn.metrics
import torch
import transformers

PROBLEMS = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the objects of a file of JSON lines."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def class_names(kind: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the classes in alphabetical order; one made-up name for a score."""
    if kind == "regression":
        return ["score"]
    return sorted({name for row in rows for name in (row["label"] if kind == "multi" else [row["label"]])})


def target_of(kind: str, label: Any, names: Sequence[str]) -> Any:
    """Returns a label as the model wants it: a class number, 0.0 or 1.0 for each class, or a number."""
    if kind == "single":
        return names.index(label)
    return [float(name in label) for name in names] if kind == "multi" else float(label)


def encode(tokenizer: Any, rows: Sequence[dict[str, Any]], kind: str, names: Sequence[str], length: int) -> list[Any]:
    """Returns what the model gets of each example, cut at `length` tokens."""
    pairs = [row["pair"] for row in rows] if rows[0].get("pair") is not None else None
    encoded = tokenizer([row["text"] for row in rows], pairs, truncation=True, max_length=length)
    keys = list(encoded)
    return [
        {key: encoded[key][i] for key in keys} | {"labels": target_of(kind, row["label"], names)}
        for i, row in enumerate(rows)
    ]


def scores(kind: str, gold: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Returns the scores of predictions in percent, under jaxfm's names for them."""
    if kind == "regression":
        found = {"pearson": scipy.stats.pearsonr(gold, logits[:, 0])[0]}
        found["spearman"] = scipy.stats.spearmanr(gold, logits[:, 0])[0]
    elif kind == "multi":
        predicted = logits > 0
        found = {
            f"{average}_f1": sklearn.metrics.f1_score(gold, predicted, average=average, zero_division=0)
            for average in ("micro", "macro", "weighted")
        }
        found["micro_precision"] = sklearn.metrics.precision_score(gold, predicted, average="micro", zero_division=0)
        found["micro_recall"] = sklearn.metrics.recall_score(gold, predicted, average="micro", zero_division=0)
        found["exact_match"] = sklearn.metrics.accuracy_score(gold, predicted)
    else:
        predicted = logits.argmax(-1)
        found = {
            "accuracy": sklearn.metrics.accuracy_score(gold, predicted),
            "macro_f1": sklearn.metrics.f1_score(gold, predicted, average="macro", zero_division=0),
            "weighted_f1": sklearn.metrics.f1_score(gold, predicted, average="weighted", zero_division=0),
            "macro_precision": sklearn.metrics.precision_score(gold, predicted, average="macro", zero_division=0),
            "macro_recall": sklearn.metrics.recall_score(gold, predicted, average="macro", zero_division=0),
            "mcc": sklearn.metrics.matthews_corrcoef(gold, predicted),
        }
        if logits.shape[-1] == 2:  # of the second class
            both = sklearn.metrics.precision_recall_fscore_support(gold, predicted, average="binary", zero_division=0)
            found |= dict(zip(("precision", "recall", "f1"), both[:3], strict=True))
    return {name: round(100 * float(value), 2) for name, value in found.items()}


def main() -> None:
    """Trains, scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--kind", choices=PROBLEMS, default="single")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--limit", type=int, default=0, help="training examples; 0: all")
    parser.add_argument("--bf16", action="store_true", help="torch's own mixed precision")
    parser.add_argument("--group_by_length", action="store_true", help="batches of examples of like length")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    arguments = parser.parse_args()
    for path in (pathlib.Path(arguments.model, "config.json"), arguments.data / "train.jsonl"):
        if not path.is_file():
            parser.error(f"{path}: no such file")
    transformers.set_seed(arguments.seed)
    kind = arguments.kind
    paths = {split: arguments.data / f"{split}.jsonl" for split in ("train", "valid", "test")}
    rows = {split: read(path) for split, path in paths.items() if path.exists()}
    names = class_names(kind, rows["train"])
    rows["train"] = rows["train"][: arguments.limit or None]
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    data = {split: encode(tokenizer, found, kind, names, arguments.max_length) for split, found in rows.items()}
    tokens = sum(len(example["input_ids"]) for example in data["train"])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        arguments.model,
        num_labels=len(names),
        problem_type=PROBLEMS[kind],
        ignore_mismatched_sizes=True,  # a head of other classes is made anew
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=arguments.epochs,
            learning_rate=arguments.lr,
            per_device_train_batch_size=arguments.batch,
            per_device_eval_batch_size=32,
            seed=arguments.seed,
            bf16=arguments.bf16,
            train_sampling_strategy="group_by_length" if arguments.group_by_length else "random",
            torch_compile=arguments.compile,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_steps=100,
            report_to=[],
            disable_tqdm=True,
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
                result[split] = scores(kind, np.asarray(found.label_ids), np.asarray(found.predictions))
    options = vars(arguments) | {"data": arguments.data.name, "model": pathlib.Path(arguments.model).name}
    rate = tokens * arguments.epochs / seconds
    printed = {"scores": result, "train_s": round(seconds, 1), "tokens_per_s": round(rate, 1)}
    print(json.dumps(printed | {"threads": torch.get_num_threads()} | options))


if __name__ == "__main__":
    main()

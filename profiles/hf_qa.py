"""Reference: fine-tunes a BERT-family checkpoint to answer questions by spans, with transformers' Trainer (PyTorch).

  python profiles/hf_qa.py MODEL_DIR DATA_DIR --predictions=FILE.json

DATA_DIR holds train.jsonl, valid.jsonl and test.jsonl: {"id", "question", "context", "answers": {"text": [...],
"answer_start": [...]}} a line. Windows, targets and the choice of an answer are those of transformers' example run_qa:
overlapping windows from the tokenizer, a window without the whole answer has none, the 20 likeliest starts and ends of
each window, the best of all windows. FILE gets of each question of valid and test {"text", "margin"}: the best answer,
and by how much having none scores above it. Prints one line of JSON: seconds of training, and its useful (not padding)
sub-word tokens a second.
"""

import argparse
import json
import pathlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

CHOICES = 20  # starts and ends of a window


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the objects of a file of JSON lines."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


class Windows(torch.utils.data.Dataset):
    """Windows of questions, with the places of the answer where it is known."""

    def __init__(self, tokenizer: Any, rows: Sequence[dict[str, Any]], length: int, stride: int) -> None:
        """Cuts the contexts."""
        self.encoded = tokenizer(
            [row["question"] for row in rows],
            [row["context"] for row in rows],
            truncation="only_second",
            max_length=length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        self.row = self.encoded.pop("overflow_to_sample_mapping")
        self.offsets = self.encoded.pop("offset_mapping")
        self.rows = rows

    def __len__(self) -> int:
        return len(self.row)

    def context(self, index: int) -> tuple[int, int]:
        """Returns the first and the last token of the context."""
        of = self.encoded.sequence_ids(index)
        return of.index(1), len(of) - 1 - of[::-1].index(1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {name: values[index] for name, values in self.encoded.items()}
        item["start_positions"] = item["end_positions"] = 0
        answers, offsets = self.rows[self.row[index]]["answers"], self.offsets[index]
        first, last = self.context(index)
        if answers["text"]:
            start = answers["answer_start"][0]
            end = start + len(answers["text"][0])
            if offsets[first][0] <= start and offsets[last][1] >= end:
                inside = [t for t in range(first, last + 1) if offsets[t][1] > start and offsets[t][0] < end]
                item["start_positions"], item["end_positions"] = inside[0], inside[-1]
        return item


def answers_of(windows: Windows, starts: np.ndarray, ends: np.ndarray, longest: int) -> dict[str, dict[str, Any]]:
    """Returns the best answer of each question and its margin below having none."""
    best: dict[int, tuple[float, str]] = defaultdict(lambda: (-np.inf, ""))
    nothing: dict[int, float] = defaultdict(lambda: np.inf)
    for index in range(len(windows)):
        row, offsets = windows.row[index], windows.offsets[index]
        first, last = windows.context(index)
        nothing[row] = min(nothing[row], float(starts[index, 0] + ends[index, 0]))
        for start in np.argsort(-starts[index], kind="stable")[:CHOICES].tolist():
            for end in np.argsort(-ends[index], kind="stable")[:CHOICES].tolist():
                if not first <= start <= end <= last or end - start >= longest:
                    continue
                score = float(starts[index, start] + ends[index, end])
                if score > best[row][0]:
                    best[row] = score, windows.rows[row]["context"][offsets[start][0] : offsets[end][1]]
    return {
        each["id"]: {"text": best[row][1], "margin": nothing[row] - best[row][0] if best[row][1] else 1e9}
        for row, each in enumerate(windows.rows)
    }


def main() -> None:
    """Trains, answers and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--predictions", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_length", type=int, default=384)
    parser.add_argument("--stride", type=int, default=128)
    parser.add_argument("--max_answer", type=int, default=30)
    parser.add_argument("--bf16", action="store_true", help="torch's own mixed precision")
    arguments = parser.parse_args()
    for path in (pathlib.Path(arguments.model, "config.json"), arguments.data / "train.jsonl"):
        if not path.is_file():
            parser.error(f"{path}: no such file")
    transformers.set_seed(arguments.seed)
    rows = {split: read(arguments.data / f"{split}.jsonl") for split in ("train", "valid", "test")}
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    data = {split: Windows(tokenizer, found, arguments.max_length, arguments.stride) for split, found in rows.items()}
    tokens = sum(len(ids) for ids in data["train"].encoded["input_ids"])
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        settings = transformers.TrainingArguments(
            output_dir=folder,
            num_train_epochs=arguments.epochs,
            learning_rate=arguments.lr,
            per_device_train_batch_size=arguments.batch,
            per_device_eval_batch_size=32,
            seed=arguments.seed,
            bf16=arguments.bf16,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_steps=100,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(
            model=model,
            args=settings,
            train_dataset=data["train"],
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        start = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - start
        found = {}
        for split in ("valid", "test"):
            starts, ends = trainer.predict(data[split]).predictions  # pyright: ignore[reportArgumentType]
            found[split] = answers_of(data[split], np.asarray(starts), np.asarray(ends), arguments.max_answer)
    arguments.predictions.write_text(json.dumps(found))
    options = {name: value for name, value in vars(arguments).items() if name != "predictions"}
    options |= {"data": arguments.data.name, "model": pathlib.Path(arguments.model).name}
    printed = {"train_s": round(seconds, 1), "tokens_per_s": round(tokens * arguments.epochs / seconds, 1)}
    print(json.dumps(printed | {"windows": len(data["train"]), "threads": torch.get_num_threads()} | options))


if __name__ == "__main__":
    main()

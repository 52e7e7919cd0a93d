"""Masked-LM pretraining from scratch beside transformers' BertForMaskedLM: same text, same batches, same settings.

  python -m profiles.mlm_convergence --source=text:DIR --preset=bert_tiny --output=profiles/results/mlm_bert_tiny.json

Both see the rows of the same packed corpus in the same order, with the same number of updates, rate, schedule, weight
decay and clipping. transformers gets each packed example as a separate sequence (it does not support packing), masks
from its own DataCollatorForLanguageModeling and its own initial weights. Both are scored on the same held-out tokens
with the same fixed masks. Needs torch.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from typing import Any

import numpy as np

from configs.mlm import get_config
from jaxfm import files
from jaxfm.config import Config
from jaxfm.data.pipeline import TrainBatches
from jaxfm.hub.config_json import hf_config
from jaxfm.observe import plots
from jaxfm.observe.writers import read_metrics
from jaxfm.programs.train import train
from jaxfm.tasks import registry
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training.initial import resolve
from profiles import command_line
from profiles.quality import machine, shown_command

EVALUATIONS = 8


def make_config(arguments: argparse.Namespace) -> Config:
    """Returns the run's config."""
    values = get_config(arguments.preset)
    values.data.source = arguments.source
    values.data.cache = arguments.cache
    values.seed = arguments.seed
    values.model.tokenizer = "train:wordpiece/8192"
    values.optim.learning_rate = arguments.learning_rate
    values.train.batch_size = arguments.batch
    values.train.epochs = arguments.epochs
    values.mask.evaluate = ()
    values.eval.select = "last"
    return from_config_dict(values)


def sequences(batch: dict[str, np.ndarray], pad_id: int) -> dict[str, Any]:
    """Returns each packed example as a padded sequence: input_ids, attention_mask and labels (-100: none), torch."""
    import torch

    found = [
        (tokens[segments == number], labels[segments == number])
        for tokens, segments, labels in zip(batch["tokens"], batch["segment_ids"], batch["labels"], strict=True)
        for number in range(1, segments.max() + 1)
    ]
    length = max(len(tokens) for tokens, _ in found)
    made = {
        "input_ids": torch.full((len(found), length), pad_id),
        "attention_mask": torch.zeros((len(found), length), dtype=torch.long),
        "labels": torch.full((len(found), length), -100),
    }
    for row, (tokens, labels) in enumerate(found):
        made["input_ids"][row, : len(tokens)] = torch.from_numpy(tokens.astype(np.int64))
        made["attention_mask"][row, : len(tokens)] = 1
        made["labels"][row, : len(tokens)] = torch.from_numpy(np.where(labels < 0, -100, labels).astype(np.int64))
    return made


def torch_run(config: Config, steps: int) -> dict[str, Any]:
    """Trains BertForMaskedLM; returns its seconds and valid losses by step."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling
    from transformers.optimization import get_linear_schedule_with_warmup

    task, _ = registry.create(config, resolve(config.model))
    torch.manual_seed(config.seed)
    values = hf_config(
        task.objective.spec.encoder, head="vocabulary", pad_token_id=task.text.tokenizer.pad_token_id, labels=()
    )
    model = BertForMaskedLM(BertConfig(**values))
    decayed = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    others = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    optim = config.optim
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": optim.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=optim.learning_rate,
        betas=(optim.b1, optim.b2),
        eps=optim.eps,
    )
    schedule = get_linear_schedule_with_warmup(optimizer, round(optim.warmup_fraction * steps), steps)
    collate = DataCollatorForLanguageModeling(task.text.tokenizer, mlm_probability=config.task.ratio)
    batches = TrainBatches(task.datasets["train"], batch_size=config.train.batch_size, seed=config.seed)
    curve, busy = [], 0.0
    for step in range(steps):
        batch = sequences(batches.batch(step), task.text.tokenizer.pad_token_id)
        special = torch.isin(batch["input_ids"], torch.tensor(task.text.tokenizer.all_special_ids))
        batch["input_ids"], batch["labels"] = collate.torch_mask_tokens(batch["input_ids"], special)
        start = time.perf_counter()
        model.train()
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
        optimizer.step()
        schedule.step()
        busy += time.perf_counter() - start
        if (step + 1) % -(-steps // EVALUATIONS) == 0 or step + 1 == steps:
            curve.append([step + 1, torch_loss(model, task)])
            print(f"transformers step {step + 1}/{steps}: valid loss {curve[-1][1]:.4f}  {busy:.0f} s", flush=True)
    return {"seconds": round(busy, 1), "valid": curve}


def torch_loss(model: Any, task: Any) -> float:
    """Returns the mean loss over the fixed held-out targets."""
    import torch

    rows, total, count = task.datasets["valid"], 0.0, 0
    model.eval()
    for first in range(0, len(rows), 64):
        batch = sequences(rows.take(np.arange(first, min(first + 64, len(rows)))), task.text.tokenizer.pad_token_id)
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        there = batch["labels"] >= 0
        total += torch.nn.functional.cross_entropy(logits[there], batch["labels"][there], reduction="sum").item()
        count += int(there.sum())
    return total / count


def draw(path: pathlib.Path, result: dict[str, Any]) -> None:
    """Draws both curves and the unigram loss."""
    plots.plot_lines(
        {name: result[name]["valid"] for name in ("jaxfm", "transformers")},
        path,
        title=f"{result['settings']['preset']}: held-out masked loss",
        x_label="step (optimiser updates)",
        y_label="loss (nats a masked token)",
        level=("by frequency alone", result["unigram_loss"]),
    )


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--source", required=True, help="text:DIR with train and valid files")
    parser.add_argument("--preset", default="bert_tiny")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--batch", type=int, default=32, help="rows of 128 tokens an update")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", default="", help="where prepared text is kept")
    parser.add_argument("--workdir", default="runs/mlm_convergence")
    parser.add_argument("--output", required=True)
    parser.add_argument("--image", default="", help="PNG of the curves")
    arguments = parser.parse_args()
    config = make_config(arguments)
    task, _ = registry.create(config, resolve(config.model))
    steps = TrainBatches(task.datasets["train"], batch_size=arguments.batch, seed=0).steps_for(arguments.epochs)
    evaluation = dataclasses.replace(config.eval, every_steps=-(-steps // EVALUATIONS))
    workdir = pathlib.Path(arguments.workdir) / f"{arguments.preset}_{arguments.seed}"
    report = train(dataclasses.replace(config, eval=evaluation), workdir)
    curve = [
        [line["step"], line["loss"]] for line in read_metrics(workdir / "metrics.jsonl") if line["split"] == "valid"
    ]
    goodput = report["training"]["goodput"]
    scores = report["splits"]["valid"]["units"][config.task.unit]
    result = {
        "data": pathlib.Path(arguments.source.partition(":")[2]).name,
        "command": shown_command(sys.argv),
        **machine(),
        "settings": {name: getattr(arguments, name) for name in ("preset", "learning_rate", "batch", "epochs", "seed")}
        | {"updates": steps, "tokens_per_update": arguments.batch * 128},
        "unigram_loss": scores["unigram_loss"],
        "jaxfm": {
            "seconds": round(goodput["train"] + goodput["wait for data"], 1),
            "valid": curve,
            "accuracy": scores["accuracy"],
        },
        "transformers": torch_run(config, steps),
    }
    ours, theirs = result["jaxfm"]["valid"][-1][1], result["transformers"]["valid"][-1][1]
    result["final"] = {"jaxfm": ours, "transformers": theirs, "ratio": round(ours / theirs, 4)}
    files.write_json(arguments.output, result)
    if arguments.image:
        draw(pathlib.Path(arguments.image), result)
    print(json.dumps(result["final"]))


if __name__ == "__main__":
    command_line.run(main)

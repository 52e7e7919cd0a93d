"""Reference: SASRec in PyTorch with full softmax, after Kang and McAuley 2018, on histories in a file.

  python profiles/torch_sasrec.py HISTORIES.json --width=128 --layers=2 --heads=2 --steps=500

The file has "items", their number, and "train", "valid", "test": lists of histories as numbers from 0; of valid and
test the last number is the target. Blocks are those of transformers' BERT (post-norm, GELU, feed-forward of four
widths) made of torch.nn.TransformerEncoderLayer; the item embedding, learned positions that count from the end, and a
tied output. AdamW, linear decay after a tenth of warm-up, batches of --batch histories filled up on the left. Prints
one line of JSON: nDCG@10 and recall@10 on test over all items but those of the history, seconds of training. It shares
no code with jaxfm.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import numpy as np
import torch


class SasRec(torch.nn.Module):
    """A causal transformer over items; item 0 of its table is padding."""

    def __init__(self, items: int, length: int, width: int, layers: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.items = torch.nn.Embedding(items + 1, width, padding_idx=0)
        self.places = torch.nn.Embedding(length, width)
        self.norm, self.dropout = torch.nn.LayerNorm(width), torch.nn.Dropout(dropout)
        block = torch.nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=False
        )
        self.blocks = torch.nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.last = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.LayerNorm(width))
        self.bias = torch.nn.Parameter(torch.zeros(items + 1))
        for module in (self.items, self.places):
            torch.nn.init.normal_(module.weight, std=0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns logits [B, T, V] of the next item at each place of ids [B, T]."""
        length = ids.shape[1]
        places = torch.arange(self.places.num_embeddings - length, self.places.num_embeddings)
        x = self.dropout(self.norm(self.items(ids) + self.places(places)))
        future = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
        # A place of padding sees itself, or its softmax would be of nothing.
        blocked = future[None] | ((ids == 0)[:, None] & ~torch.eye(length, dtype=torch.bool)[None])
        mask = blocked.repeat_interleave(self.heads, dim=0)
        x = self.blocks(x, mask=mask)
        return self.last(x) @ self.items.weight.T + self.bias


def filled(histories: list[list[int]], length: int) -> torch.Tensor:
    """Returns the last `length` items of histories [B, T], 0 before them; items count from 1."""
    ids = torch.zeros(len(histories), length, dtype=torch.long)
    for row, taken in enumerate(histories):
        part = taken[-length:]
        ids[row, length - len(part) :] = torch.tensor(part) + 1
    return ids


@torch.no_grad()
def scores(model: SasRec, histories: list[list[int]], length: int) -> dict[str, float]:
    """Returns nDCG@10 and recall@10 in percent."""
    model.eval()
    gains, hits = [], []
    for first in range(0, len(histories), 512):
        part = histories[first : first + 512]
        logits = model(filled([taken[:-1] for taken in part], length))[:, -1].double().numpy()
        for row, taken in enumerate(part):
            own = logits[row].copy()
            own[0] = -np.inf
            own[[item + 1 for item in taken[:-1]]] = -np.inf
            rank = 1 + int((own > logits[row, taken[-1] + 1]).sum())
            gains.append(1 / np.log2(1 + rank) if rank <= 10 else 0.0)
            hits.append(rank <= 10)
    return {"ndcg@10": round(100 * float(np.mean(gains)), 2), "recall@10": round(100 * float(np.mean(hits)), 2)}


def main() -> None:
    """Trains, scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("histories", type=pathlib.Path)
    sizes = {"width": 128, "layers": 2, "heads": 2, "length": 50, "steps": 500, "batch": 256, "seed": 0}
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    for name, value in {"lr": 1e-3, "dropout": 0.1, "decay": 0.01}.items():
        parser.add_argument(f"--{name}", type=float, default=value)
    arguments = parser.parse_args()
    if not arguments.histories.is_file():
        parser.error(f"{arguments.histories}: no such file")
    data: dict[str, Any] = json.loads(arguments.histories.read_text())
    torch.manual_seed(arguments.seed)
    model = SasRec(
        data["items"], arguments.length, arguments.width, arguments.layers, arguments.heads, arguments.dropout
    )
    optimizer = torch.optim.AdamW(model.parameters(), arguments.lr, weight_decay=arguments.decay)
    warm = max(arguments.steps // 10, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (arguments.steps - step) / max(arguments.steps - warm, 1))
    )
    train = [taken for taken in data["train"] if len(taken) > 1]
    order, begun = torch.randperm(len(train)).tolist(), time.monotonic()
    model.train()
    for _ in range(arguments.steps):
        if len(order) < arguments.batch:
            order = [*order, *torch.randperm(len(train)).tolist()]
        chosen, order = order[: arguments.batch], order[arguments.batch :]
        longest = min(max(len(train[number]) for number in chosen), arguments.length)
        ids = filled([train[number] for number in chosen], longest)
        logits, wanted = model(ids[:, :-1]), ids[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    seconds = time.monotonic() - begun
    print(json.dumps({**scores(model, data["test"], arguments.length), "seconds": round(seconds, 1)}))


if __name__ == "__main__":
    main()

"""Reference: an encoder-decoder of transformers' Marian classes, trained from scratch (PyTorch), writes the test split.

  python profiles/hf_seq2seq.py DATA_DIR TOKENIZER_DIR --predictions=FILE.json --seconds=600 --width=192 --layers=2

DATA_DIR holds train.jsonl and test.jsonl: {"source": text, "target": [texts]} a line. Batches are padded to their
longest text, AdamW at rate --lr with a warm-up over a tenth of the time and a linear decay after it, dropout 0.1. FILE
gets the texts written for test, greedily. Prints one line of JSON: seconds and steps of training, parameters.
"""

import argparse
import json
import pathlib
import random
import time
from typing import Any

import torch
import transformers

LONGEST = 256  # tokens of a source or a target


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the objects of a file of JSON lines."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def padded(rows: list[list[int]], padding: int) -> torch.Tensor:
    """Returns rows of tokens as one array, filled up."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows])


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("tokenizer")
    parser.add_argument("--predictions", type=pathlib.Path, required=True)
    for name, default in {"seconds": 60.0, "lr": 1e-3}.items():
        parser.add_argument(f"--{name}", type=float, default=default)
    for name, default in {"width": 192, "layers": 2, "heads": 3, "ffn": 768, "batch": 32, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    for path in (arguments.data / "train.jsonl", arguments.data / "test.jsonl"):
        if not path.is_file():
            parser.error(f"{path}: no such file")
    torch.manual_seed(arguments.seed)
    random.seed(arguments.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.tokenizer)
    padding, end = tokenizer.pad_token_id, tokenizer.sep_token_id

    def tokens(texts: list[str]) -> list[list[int]]:
        ids = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=LONGEST - 1)["input_ids"]
        return [[*each, end] for each in ids]

    train, test = read(arguments.data / "train.jsonl"), read(arguments.data / "test.jsonl")
    sources, targets = tokens([row["source"] for row in train]), tokens([row["target"][0] for row in train])
    shared = {"attention_heads": arguments.heads, "layers": arguments.layers, "ffn_dim": arguments.ffn}
    config = transformers.MarianConfig(
        vocab_size=len(tokenizer),
        d_model=arguments.width,
        max_position_embeddings=LONGEST,
        dropout=0.1,
        pad_token_id=padding,
        eos_token_id=end,
        decoder_start_token_id=padding,
        forced_eos_token_id=None,
        bos_token_id=None,
        activation_function="gelu",
        **{f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in shared.items()},
    )
    model = transformers.MarianMTModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, betas=(0.9, 0.98), weight_decay=0.0)
    model.train()
    start, steps, order = time.monotonic(), 0, list[int]()
    while (passed := (time.monotonic() - start) / arguments.seconds) < 1.0:
        if len(order) < arguments.batch:
            order = random.sample(range(len(train)), len(train))
        chosen = [order.pop() for _ in range(min(arguments.batch, len(order)))]
        for group in optimizer.param_groups:
            group["lr"] = arguments.lr * min((passed + 1e-3) / 0.1, (1.0 - passed) / 0.9)
        x = padded([sources[index] for index in chosen], padding)
        y = padded([targets[index] for index in chosen], padding)
        labels = y.masked_fill(y == padding, -100)
        loss = model(input_ids=x, attention_mask=(x != padding).long(), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
        if steps % 100 == 0:
            print(f"step {steps}: loss {loss.item():.3f}, {passed:.0%} of the time", flush=True)
    seconds = time.monotonic() - start
    model.eval()
    texts: list[str] = []
    longest = min(LONGEST - 1, max(map(len, targets)) + 8)
    asked = tokens([row["source"] for row in test])
    with torch.no_grad():
        for first in range(0, len(asked), 64):
            x = padded(asked[first : first + 64], padding)
            mask = (x != padding).long()
            found = model.generate(
                input_ids=x, attention_mask=mask, max_new_tokens=longest, num_beams=1, do_sample=False
            )
            texts += tokenizer.batch_decode(found, skip_special_tokens=True)
    arguments.predictions.write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    parameters = sum(each.numel() for each in model.parameters())
    print(json.dumps({"seconds_of_training": seconds, "steps": steps, "parameters": parameters}))


if __name__ == "__main__":
    main()

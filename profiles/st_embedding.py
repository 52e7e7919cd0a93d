"""Reference: vectors of texts with sentence-transformers and its own Trainer (PyTorch).

  python profiles/st_embedding.py MODEL_DIR DATA_DIR OUTPUT_DIR --loss=infonce

DATA_DIR holds train.jsonl, an object a line, {"texts": [anchor, other, ...], "score": number or null}, and test.json,
{"queries": [...], "documents": [...]}, as profiles/embedding_quality.py writes them. With --loss=infonce it is
MultipleNegativesRankingLoss, with --loss=cosent CoSENTLoss, both at scale 20; --mini_batch makes the first the cached
one; --epochs=0 leaves the weights as they are. All settings that have no argument are the Trainer's own. Writes
queries.npy and documents.npy; prints one line of JSON: seconds of training, pairs and useful (not padding) sub-word
tokens a second, and the peak of the process' memory. It shares no code with jaxfm.
"""

import argparse
import json
import pathlib
import resource
import time

import datasets
import numpy as np
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer


def columns(path: pathlib.Path) -> datasets.Dataset:
    """Returns the training groups as columns text0, text1 ... and, where there are scores, score."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    width = min(len(row["texts"]) for row in rows)
    found = {f"text{place}": [row["texts"][place] for row in rows] for place in range(width)}
    if rows[0]["score"] is not None:
        found["score"] = [row["score"] for row in rows]
    return datasets.Dataset.from_dict(found)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--loss", choices=("infonce", "cosent"), default="infonce")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--mini_batch", type=int, default=0)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    word = Transformer(arguments.model, max_seq_length=arguments.length)
    model = SentenceTransformer(
        modules=[word, Pooling(word.get_embedding_dimension(), "mean"), Normalize()], device="cpu"
    )
    train = columns(arguments.data / "train.jsonl")
    texts = [name for name in train.column_names if name != "score"]
    lengths = [len(ids) for name in texts for ids in model.tokenizer(list(train[name]), truncation=True)["input_ids"]]
    seconds = 0.0
    if arguments.epochs:
        if arguments.loss == "cosent":
            loss: torch.nn.Module = losses.CoSENTLoss(model)
        elif arguments.mini_batch:
            loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=arguments.mini_batch)
        else:
            loss = losses.MultipleNegativesRankingLoss(model)
        settings = SentenceTransformerTrainingArguments(
            output_dir=str(arguments.output / "trainer"), num_train_epochs=arguments.epochs,
            per_device_train_batch_size=arguments.batch, learning_rate=arguments.lr, seed=arguments.seed,
            bf16=arguments.bf16, save_strategy="no", report_to="none", use_cpu=True, dataloader_pin_memory=False,
            logging_steps=20,
        )  # fmt: skip
        trainer = SentenceTransformerTrainer(model=model, args=settings, train_dataset=train, loss=loss)
        begun = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - begun
    arguments.output.mkdir(parents=True, exist_ok=True)
    if (arguments.data / "test.json").exists():
        test = json.loads((arguments.data / "test.json").read_text(encoding="utf-8"))
        for name in ("queries", "documents"):
            vectors = model.encode(test[name], batch_size=64, show_progress_bar=False)
            np.save(arguments.output / f"{name}.npy", np.asarray(vectors, np.float32))
    done = arguments.epochs / max(seconds, 1e-9) if seconds else 0.0
    print(
        json.dumps(
            {
                "seconds": round(seconds, 1),
                "pairs_per_s": round(len(train) * done, 1),
                "tokens_per_s": round(sum(lengths) * done, 1),
                "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            }
        )
    )


if __name__ == "__main__":
    main()

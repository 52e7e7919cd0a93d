"""Reference: vectors of the texts of a file with sentence-transformers (PyTorch), and how many a second.

  python profiles/st_encode.py MODEL_DIR TEXTS.txt VECTORS.npy --batch=64

encode sorts texts by length and pads each batch to its longest, its own way to save work. A first call over some texts
is not counted. Prints one line of JSON. It shares no code with jaxfm.
"""

import argparse
import json
import pathlib
import time

import numpy as np
from sentence_transformers import SentenceTransformer


def main() -> None:
    """Embeds, writes and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("texts", type=pathlib.Path)
    parser.add_argument("vectors", type=pathlib.Path)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    if not arguments.texts.is_file():
        parser.error(f"{arguments.texts}: no such file")
    model = SentenceTransformer(arguments.model, device="cpu")
    texts = arguments.texts.read_text(encoding="utf-8").splitlines()
    model.encode(texts[: 4 * arguments.batch], batch_size=arguments.batch, show_progress_bar=False)
    begun = time.perf_counter()
    vectors = model.encode(texts, batch_size=arguments.batch, show_progress_bar=False)
    seconds = time.perf_counter() - begun
    np.save(arguments.vectors, np.asarray(vectors, np.float32))
    print(json.dumps({"texts_per_s": round(len(texts) / seconds, 1)}))


if __name__ == "__main__":
    main()

"""Reference: a tagger behind FastAPI as its users write it, by transformers' pipeline (PyTorch) or by onnxruntime.

  python profiles/hf_serve.py MODEL_DIR --port=8001 --engine=torch --batch=8
  python profiles/hf_serve.py ONNX_DIR --port=8002 --engine=onnx

POST /predict {"inputs": [text, ...]} gives the entities of each text. FastAPI runs the function in its threads; the
pipeline gets all texts of a request and pads `--batch` of them together. The directory of --engine=onnx has
config.json, a tokenizer and one of onnx/model_quantized.onnx and onnx/model.onnx, as jaxfm.export writes it. It shares
no code with jaxfm.
"""

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

import fastapi
import numpy as np
import uvicorn
from transformers import AutoConfig, AutoTokenizer

Tagger = Callable[[list[str]], list[list[dict[str, Any]]]]


def torch_tagger(model: pathlib.Path, batch: int) -> Tagger:
    """The pipeline of transformers."""
    from transformers import pipeline

    tag = pipeline("token-classification", model=str(model), aggregation_strategy="first", device="cpu")

    def tagged(texts: list[str]) -> list[list[dict[str, Any]]]:
        found = tag(texts, batch_size=batch)
        return [[{**each, "score": float(each["score"])} for each in entities] for entities in found]

    return tagged


def onnx_tagger(model: pathlib.Path, batch: int) -> Tagger:
    """By onnxruntime: the likeliest tag of the first piece of each word."""
    import onnxruntime

    graphs = [model / "onnx" / name for name in ("model_quantized.onnx", "model.onnx")]
    session = onnxruntime.InferenceSession(str(next(path for path in graphs if path.exists())))
    tokenizer = AutoTokenizer.from_pretrained(str(model))
    labels = AutoConfig.from_pretrained(str(model)).id2label
    wanted = {each.name for each in session.get_inputs()}

    def tagged(texts: list[str]) -> list[list[dict[str, Any]]]:
        found: list[list[dict[str, Any]]] = []
        for first in range(0, len(texts), batch):
            encoded = tokenizer(
                texts[first : first + batch],
                padding=True, truncation=True, max_length=512, return_tensors="np", return_offsets_mapping=True,
            )  # fmt: skip
            inputs = {name: values.astype(np.int64) for name, values in encoded.items() if name in wanted}
            (logits,) = session.run(None, inputs)
            for number, row in enumerate(logits.argmax(-1).tolist()):
                words = encoded.word_ids(number)
                heads = [i for i, word in enumerate(words) if word is not None and word != words[i - 1]]
                spans = encoded["offset_mapping"][number].tolist()
                tags = [{"label": labels[row[i]], "start": spans[i][0], "end": spans[i][1]} for i in heads]
                found.append([each for each in tags if each["label"] != "O"])
        return found

    return tagged


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--engine", choices=("torch", "onnx"), default="torch")
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    if not arguments.model.is_dir():
        parser.error(f"{arguments.model}: no such directory")
    tagger = {"torch": torch_tagger, "onnx": onnx_tagger}[arguments.engine](arguments.model, arguments.batch)
    app = fastapi.FastAPI()

    @app.get("/ready")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/predict")
    def predict(body: dict[str, list[str]]) -> dict[str, Any]:
        return {"results": tagger(body["inputs"])}

    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()

"""README.md of exported programs: what is in the folder, and how others run it."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxfm.formats.quantisation import Gate

# Suffix of transformers' class -> its pipeline, optimum's class.
_TASKS = {
    "ForTokenClassification": ("token-classification", "ORTModelForTokenClassification"),
    "ForSequenceClassification": ("text-classification", "ORTModelForSequenceClassification"),
    "ForMaskedLM": ("fill-mask", "ORTModelForMaskedLM"),
    "ForQuestionAnswering": ("question-answering", "ORTModelForQuestionAnswering"),
}


def onnx_card(config: Mapping[str, Any], gate: Gate | None, *, alone: bool = False) -> str:
    """Returns the README of an ONNX folder.

    Args:
      config: its config.json.
      gate: scores of the quantised file; None where there is none.
      alone: the quantised file is the only one.
    """
    (architecture,) = config["architectures"]
    task, ort_class = next((found for suffix, found in _TASKS.items() if architecture.endswith(suffix)), ("", ""))
    head = ["---", "library_name: transformers.js", *([f"pipeline_tag: {task}"] if task else []), "---", ""]
    lines = [*head, f"# {architecture} as ONNX", "", "Exported by jaxfm. Any number of texts of any length."]
    lines += ["", "| file | weights |", "|---|---|"]
    lines += [f"| onnx/model.onnx | {gate.form if gate and alone else 'f32'} |"]
    if gate is not None:
        lines += [*([] if alone else [f"| onnx/model_quantized.onnx | {gate.form} |"]), "", f"{gate}."]
    if task:
        dtype = "q8" if gate and not alone else "fp32"
        lines += ["", "In a browser or Node.js, this folder served or on the hub as `NAME`:", "", "```js"]
        lines += ['import { pipeline } from "@huggingface/transformers";', ""]
        lines += [f'const run = await pipeline("{task}", "NAME", {{ dtype: "{dtype}" }});']
        lines += ['console.log(await run("Ada Lovelace was born in London."));', "```"]
        lines += ["", "In Python with optimum:", "", "```python", f"from optimum.onnxruntime import {ort_class}", ""]
        lines += [f'model = {ort_class}.from_pretrained("FOLDER", subfolder="onnx", file_name="model.onnx")', "```"]
    lines += ["", "With onnxruntime alone:", "", "```python", "import onnxruntime", "from tokenizers import Tokenizer"]
    lines += ["", 'tokenizer = Tokenizer.from_file("FOLDER/tokenizer.json")', "tokenizer.enable_padding()"]
    lines += ['session = onnxruntime.InferenceSession("FOLDER/onnx/model.onnx")']
    lines += ['texts = tokenizer.encode_batch(["Ada Lovelace was born in London."])']
    lines += ['arrays = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}']
    lines += ["inputs = {", "    each.name: [getattr(text, arrays[each.name]) for text in texts]"]
    lines += ["    for each in session.get_inputs()", "}", '(logits,) = session.run(["logits"], inputs)', "```"]
    return "\n".join(lines) + "\n"


def stablehlo_card(inputs: Sequence[str], labels: Sequence[str]) -> str:
    """Returns the README of a StableHLO folder, by the names of its inputs and classes."""
    lines = [
        "# A model as StableHLO",
        "",
        "Exported by jaxfm, and run without it: JAX, NumPy and safetensors are enough.",
        "",
        "| file | what |",
        "|---|---|",
        "| model.stablehlo | the program, as `jax.export` serialises it, for cpu, cuda and tpu |",
        "| weights.safetensors | its weights, f32 |",
        "| model.json | names of inputs and labels |",
        "| run.py | loads and runs it |",
        "",
        f"Inputs: {', '.join(inputs)}, int32 [texts, tokens], any number of both. A shape is compiled when it first",
        "comes: pad texts to a few lengths. Accelerators multiply f32 in their default precision; wrap calls in",
        '`jax.default_matmul_precision("highest")` before exporting elsewhere if that matters.',
        "",
        "```bash",
        "pip install jax safetensors tokenizers",
        "python run.py",
        "```",
        "",
        "```python",
        "from run import run",
        "",
        "outputs = run(input_ids=ids, attention_mask=mask, token_type_ids=types)",
        "```",
    ]
    if labels:
        lines += ["", f"Labels: {', '.join(labels)}."]
    return "\n".join(lines) + "\n"

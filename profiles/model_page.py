"""Writes docs/models.md from the measured parity of every family with transformers.

python -m profiles.model_page --output=docs/models.md
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxfm import files
from jaxfm.core.encoder_config import CAUSAL, EncoderConfig
from jaxfm.errors import UserError
from jaxfm.families.registry import FAMILIES, with_sight
from jaxfm.observe.tables import Table, to_markdown
from profiles import command_line
from profiles.model_parity import table

RESULTS = pathlib.Path(__file__).parent / "results"
# Whose published checkpoints have this model_type.
MODELS: Mapping[str, str] = {
    "bert": "BERT, MiniLM, BGE, E5, GTE, PubMedBERT ...",
    "roberta": "RoBERTa, BERTweet, CodeBERT, all-distilroberta ...",
    "xlm-roberta": "XLM-R, multilingual E5, BGE-M3's encoder",
    "camembert": "CamemBERT",
    "electra": "ELECTRA small, base and large: discriminators and generators",
    "modernbert": "ModernBERT, Ettin encoders, mmBERT",
    "modernbert-decoder": "ModernBERT decoders: those of Ettin, which see one side",
    "distilbert": "DistilBERT and its multilingual version",
    "mpnet": "MPNet, all-mpnet-base, paraphrase-mpnet",
    "albert": "ALBERT v1 and v2",
    "deberta-v2": "DeBERTa v3 and mDeBERTa v3; v2 without its convolution",
    "eurobert": "EuroBERT 210m, 610m and 2.1B",
    "neobert": "NeoBERT (its class is not in transformers: parity with a forward pass written from the paper)",
    "esm": "ESM-2 (proteins), ESM-1b",
    "gemma3_text": "EmbeddingGemma's encoder",
    "vit": "ViT; images",
    "vit_mae": "MAE's encoder, read as a ViT",
    "deit": "DeiT; images",
    "dinov2": "DINOv2 small to large; images",
    "dinov2_with_registers": "the same with registers",
    "yolos": "YOLOS-tiny: objects in images (without positions in each layer)",
    "audio-spectrogram-transformer": "AST; sound",
    "clip": "CLIP: both towers, in pairs of images and texts",
    "clip_vision_model": "its image tower",
    "clip_text_model": "its text tower",
    "siglip": "SigLIP and SigLIP 2 of one resolution: both towers",
    "siglip_vision_model": "its image tower",
    "siglip_text_model": "its text tower",
}

PAGE = """# Encoder families

<!-- made by `python -m profiles.model_page --output=docs/models.md`; do not edit -->

One stack of layers computes all of them; a family is a configuration of it and one file of names
([`jaxfm/families/`](architecture.md#what-is-new-files-only)). `config.model.init=hf:OWNER/NAME` (or `dir:PATH`) reads a
checkpoint of any of these, `jaxfm export` writes it back for transformers, and every task trains every family: packed,
sharded, with LoRA, rematerialisation, `jaxfm plan` and MFU. A preset is a published shape to train from scratch
(`config.model.init=scratch`).

{families}

## Measured against transformers

Families of images, and towers of pairs, are compared in tests/hub/test_image_parity.py and test_pair_parity.py: logits,
states and vectors within 2e-5, written files byte for byte. Those of texts:

Largest differences over small random models, in f32, with texts in padded rows, of full length, and packed with others
(`python -m profiles.model_parity`; transformers {transformers}, torch {torch}).

- **in**: states or logits of jaxfm and of transformers for the same files. The goal is 1e-4.
- **packed**: a text alone in its row, and packed with others.
- **out**: transformers' numbers for what jaxfm wrote, and for what jaxfm had read.
- **same bytes**: every tensor written is the one that was read.
- **fused attention**: kernels that compute rows of 512 tokens. What they lack, a bias on the scores or products of
  content and position, XLA computes: `config.model.attention=auto` never changes the function, and the log says which
  path was taken.

{parity}

Not carried along: ESM's head of contacts and its pooler, which transformers then initialises anew and says so.

## Trained beside transformers

{steps} updates from the same weights with the same batches, AdamW, masked LM, without dropout (`python -m
profiles.training_parity`): the largest relative difference of the loss before an update. jaxfm trains on packed rows,
transformers on padded ones. The goal is 1e-3.

{training}

## Proteins

ESM's repositories have a tokenizer in Python alone, of one token an amino acid. jaxfm needs it as a `tokenizer.json`,
made once from their `vocab.txt`, in the folder that `config.model.tokenizer=dir:FOLDER` names:

```python
import pathlib

import tokenizers
from tokenizers import models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

names = pathlib.Path("esm2/vocab.txt").read_text().split()
numbers = {{name: number for number, name in enumerate(names)}}
tokenizer = tokenizers.Tokenizer(models.WordLevel(numbers, "<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # one token a letter
ends = [(name, numbers[name]) for name in ("<cls>", "<eos>")]
tokenizer.post_processor = processors.TemplateProcessing(single="<cls> $0 <eos>", special_tokens=ends)
special = {{f"{{name}}_token": f"<{{name}}>" for name in ("cls", "eos", "pad", "unk", "mask")}}
PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained("esm2-tokenizer")
```

## What is refused

A value of `config.json` with which transformers computes something else than jaxfm is an error that names the key:
scaled rotary positions, decoders, the convolution of DeBERTa v2 xlarge, layers within ALBERT's groups. So is an unknown
`model_type`. `relative_key` positions of BERT are refused because transformers 5 has removed them.
[Checkpoints](checkpoints.md) must be safetensors, and code of a repository is never run.
"""


def kind_of_attention(encoder: EncoderConfig) -> str:
    """Says in words what the attention of a shape has beside queries and keys."""
    parts = {
        "rotary": encoder.position_embedding == "rope",
        "learned positions": encoder.position_embedding == "learned",
        "causal": encoder.sight == CAUSAL,
        "relative bias": encoder.relative_positions == "bias",
        "disentangled": encoder.relative_positions == "disentangled",
        "local windows": bool(encoder.local_window),
        "shared keys": bool(encoder.num_kv_heads),
        "normalised queries and keys": encoder.qk_norm,
    }
    return ", ".join(name for name, there in parts.items() if there)


def page(parity: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """Returns the page for two results of profiles/results."""
    rows = []
    for name, family in FAMILIES.items():
        # The shapes of causal models are those of their family, which `model.sight` makes causal.
        shapes = family.presets or (FAMILIES[family.causal_of].presets if family.causal_of else {})
        shape = next(iter(shapes.values()), None)
        if shape is not None and family.causal_of:
            shape = with_sight(shape, CAUSAL)
        attention = kind_of_attention(shape) if shape is not None else "learned positions"
        presets = ", ".join(f"`{preset}`" for preset in family.presets)
        rows.append((f"`{name}`", MODELS[name], attention, presets))
    families = Table("Families", ("model_type", "models", "attention", "presets"), rows)
    differences = [
        (f"`{name}`", *(f"{run['largest relative difference']:.0e}" for run in runs.values()))
        for name, runs in training["families"].items()
    ]
    seeds = [f"seed {seed}" for seed in next(iter(training["families"].values()))]
    return PAGE.format(
        families=_markdown(families),
        parity=_markdown(table(parity["families"])),
        transformers=parity["versions"]["transformers"],
        torch=parity["versions"]["torch"],
        steps=training["settings"]["updates"],
        training=_markdown(Table("Training", ("family", *seeds), differences)),
    )


def _markdown(table: Table) -> str:
    """Returns the table with the code of its cells as code."""
    return to_markdown(table).replace("\\`", "`").rstrip("\n")


def main() -> None:
    """The program."""
    parser = command_line.make_parser(__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    if not arguments.output.parent.is_dir():
        raise UserError(f"--output={arguments.output}: there is no folder {arguments.output.parent}.")
    parity, training = (files.read_json(RESULTS / f"{name}_parity.json") for name in ("model", "training"))
    files.write_text(arguments.output, page(parity, training))
    print(f"written: {arguments.output}")


if __name__ == "__main__":
    command_line.run(main)

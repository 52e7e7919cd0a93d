"""Small random models of two towers of transformers, saved with a tokenizer and an image processor."""

import pathlib
from typing import Any

from jaxfm.core.initial import ImageLayout
from jaxfm.hub.image_processors import write_image_processor

SIDE = 8
LAYOUT = ImageLayout(SIDE, "squash", 0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
WORDS = ("a", "the", "saw", "near", "old", "town", "left", "and")
START, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
TEXTS = ("saw the near town left", "a town", "the old town and the near town and a town left", "old", "")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
VISION = {**SIZES, "image_size": SIDE, "patch_size": 2}
# Towers of another width than each other where the class can have it.
CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {
        "projection_dim": 24,
        "text_config": {**SIZES, "hidden_size": 16, "max_position_embeddings": 20, "projection_dim": 24},
        "vision_config": {**VISION, "projection_dim": 24},
    },
    "siglip": {
        "text_config": {**SIZES, "hidden_size": 16, "max_position_embeddings": 20, "projection_size": 32},
        "vision_config": VISION,
    },
}


def write_tokenizer(folder: pathlib.Path, model_type: str) -> Any:
    """A tokenizer of CLIP's class, or one that adds an end alone as SigLIP's does; returns it."""
    import tokenizers
    import transformers

    letters = sorted({letter for word in WORDS for letter in word})
    if model_type == "clip":
        # Byte-level letters, and those that end a word, as in the published vocabulary.
        vocab = {piece: number for number, piece in enumerate([*letters, *(f"{each}</w>" for each in letters)])}
        vocab |= {"th": len(vocab), "the</w>": len(vocab) + 1}
        vocab |= {START: len(vocab), END: len(vocab) + 1}
        made = transformers.CLIPTokenizer(vocab=vocab, merges=[("t", "h"), ("th", "e</w>")])
    else:
        vocab = {word: number for number, word in enumerate((PAD, END, "<unk>", *WORDS))}
        backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="<unk>"))
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, vocab[END])]
        )
        made = transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend, pad_token=PAD, eos_token=END, unk_token="<unk>", model_max_length=20
        )
    made.save_pretrained(folder)
    return made


def saved(model_type: str, folder: pathlib.Path, **changes: Any) -> tuple[Any, Any]:
    """Saves a model with weights that matter, its tokenizer and its image processor; returns model and tokenizer."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = write_tokenizer(folder, model_type)
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in CONFIGS[model_type].items()}
    values["text_config"] |= {
        "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(model_type, **{**values, **changes})
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = parameter.ndim == 1 and name.endswith("weight")  # of a norm
            parameter.copy_(0.2 * torch.randn_like(parameter) + (1.0 if scale else 0.0))
        model.text_model.embeddings.token_embedding.weight.mul_(5.0)  # texts differ, though most of a row is padding
        model.logit_scale.fill_(2.0)
    model.save_pretrained(folder)
    write_image_processor(folder, LAYOUT)
    return model, tokenizer

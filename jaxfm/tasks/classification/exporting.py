"""Classifiers that transformers has no class of: a linear head as a sentence encoder, a prompt's model as masked LM."""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm import files
from jaxfm.core.model_card import CardPart
from jaxfm.hub.config_json import missing_class
from jaxfm.hub.sentence_classifiers import write_sentence_classifier
from jaxfm.tasks.classification.few_labels import LINEAR
from jaxfm.tasks.classification.prompts import MASK, TEXT, TEXT_B, parse_pattern, render
from jaxfm.tasks.classification.spec import ClassifierSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PROMPT_FILE = "prompt.json"


def other_form_problem(spec: ClassifierSpec) -> str | None:
    """Returns why a linear head or a prompt cannot be written ("": it can); None for the family's own head."""
    if spec.prompt.pattern:
        return missing_class(spec.encoder, "vocabulary")
    if spec.head != LINEAR:
        return None
    if spec.pairs:
        return (
            "--format=hf: a linear head (config.task.head) is written as a sentence encoder of single texts, but this "
            "run judges pairs of texts. Train with head=family and pooling=cls to export, or use jaxfm.predict."
        )
    return missing_class(spec.encoder, "")


def other_model(spec: ClassifierSpec, params: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns what `hub.export.write_model` is given of a linear head or a prompt: kind of head, parameters, labels."""
    if spec.prompt.pattern:
        return {"head": "vocabulary", "params": params}
    own = {name: value for name, value in params.items() if name.startswith("encoder/")}
    return {"head": "", "params": own, "labels": spec.labels}


def write_beside(
    folder: pathlib.Path,
    spec: ClassifierSpec,
    params: Mapping[str, np.ndarray],
    tokenizer: "PreTrainedTokenizerFast",
) -> None:
    """Writes the rest beside `other_model`.

    Of a linear head the modules that SentenceTransformer opens, whose vectors are logits; of a prompt, whose model is
    one of AutoModelForMaskedLM, prompt.json: the pattern, and the words of each class.
    """
    if spec.prompt.pattern:
        files.write_json(folder / PROMPT_FILE, {"pattern": spec.prompt.pattern, "words": label_words(spec, tokenizer)})
        return
    write_sentence_classifier(
        folder,
        pooling=spec.pooling,
        normalize=spec.normalize,
        max_length=spec.window,
        kernel=params["head/kernel"],
        bias=params["head/bias"],
    )


def label_words(spec: ClassifierSpec, tokenizer: "PreTrainedTokenizerFast") -> dict[str, list[str]]:
    """Returns class -> tokens of its words, as the vocabulary writes them."""
    tokens = tokenizer.convert_ids_to_tokens(list(spec.prompt.words))
    found: dict[str, list[str]] = {label: [] for label in spec.labels}
    for number, token in zip(spec.prompt.classes, tokens, strict=True):
        found[spec.labels[number]].append(token)
    return found


def other_form_card(spec: ClassifierSpec, tokenizer: "PreTrainedTokenizerFast", card: CardPart, reads: str) -> CardPart:
    """Returns the card of a linear head or a prompt, by that of the family's own head.

    `reads` says how much of a text is read.
    """
    if not spec.prompt.pattern:
        code = (
            "from sentence_transformers import SentenceTransformer\n\n"
            'model = SentenceTransformer("DIRECTORY")\n'
            'names = model[0].auto_model.config.id2label\nlogits = model.encode(["A text."])\n'
            "print([names[number] for number in logits.argmax(axis=1).tolist()])"
        )
        more = "What sentence-transformers calls a text's embedding are the logits of the classes, in their order."
        return CardPart(card.title, card.pipeline_tag, card.summary, code, f"{more} {reads}")
    parts = parse_pattern(spec.prompt.pattern, spec.pairs)
    filled = render(parts, "A text.", "Another.", str(tokenizer.mask_token))
    words = label_words(spec, tokenizer)
    targets = [word for each in words.values() for word in each]
    code = (
        "from transformers import pipeline\n\n"
        f'fill = pipeline("fill-mask", model="DIRECTORY", targets={targets!r})\nfill({filled!r})'
    )
    named = "; ".join(f"`{label}`: {', '.join(each)}" for label, each in words.items())
    fields = " and ".join(f"`{{{name}}}`" for _, name in parts if name in (TEXT, TEXT_B))
    more = (
        f"The classes are asked by the pattern `{spec.prompt.pattern}`, where {fields} and `{{{MASK}}}` stand for the "
        f"text and the mask token; the logit of a class is the mean over its words at the mask ({named}), also in "
        f"`{PROMPT_FILE}`."
    )
    return CardPart(card.title, "fill-mask", card.summary, code, f"{more} {reads}")

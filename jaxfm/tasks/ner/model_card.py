"""The model card of a tagger: how to use it with transformers, and where its entities differ from a run's."""

from collections.abc import Sequence

from jaxfm.core.model_card import CardPart
from jaxfm.data.text.words import FINE

_LISTED = 50  # types that are named

_CODE = """\
from transformers import pipeline

find = pipeline("token-classification", model="DIRECTORY", aggregation_strategy="first")
find("Ada Lovelace met Charles Babbage in London.")"""
_DETAILS = """\
Take `aggregation_strategy="first"`: the model was trained to say the tag of a word at its first piece. `"simple"` reads
the other pieces too, for which it was never trained, and cuts names in two.

## Words

{words}

The pipeline has no words but its tokenizer's: {pipeline}. So the two may find other entities in
the same text. `python -m jaxfm.predict --words=transformers` finds what the pipeline finds. To give this model words of
your own, with transformers alone:

```python
from transformers import AutoModelForTokenClassification, AutoTokenizer

model = AutoModelForTokenClassification.from_pretrained("DIRECTORY")
tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")


def tags(words):
    encoded = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    classes = model(**encoded).logits[0].argmax(-1).tolist()
    found = {{}}
    for place, word in enumerate(encoded.word_ids()):
        if word is not None:
            found.setdefault(word, model.config.id2label[classes[place]])  # of its first piece
    return [found.get(word, "O") for word in range(len(words))]


tags(["New", "York-based", "Acme", "Inc.", "hired", "Ada", "."])
```

{decoding}Scores of the pipeline are the model's own probabilities; those of jaxfm are calibrated on validation data.
A text longer than {window} tokens is cut off by the pipeline unless it is given a `stride`; jaxfm reads all of it.
"""
_RUN_WORDS = {
    True: "Each punctuation mark and symbol was a word in training (`York-based` is `York` `-` `based`).",
    False: "Words in training were those of news corpora: marks inside a word are part of it (`York-based`, `U.N.`).",
}
_PIPELINE_WORDS = {
    True: "every punctuation mark is one (`York-based` is `York` `-` `based`)",
    False: "whatever stands between two spaces is one (`London.` with its full stop)",
}


_CONSTRAINED = """\
jaxfm takes the likeliest tags that together are allowed (no `I-PER` after `O`), transformers the likeliest tag of each
word. They differ where the latter are not allowed together.

"""


def tagger_card(labels: Sequence[str], *, splitter: str, marks_parts: bool, window: int, constrained: bool) -> CardPart:
    """Returns the task's part of the model card.

    Args:
      labels: tags of the model.
      splitter: the run's rule for the words of raw text.
      marks_parts: whether the tokenizer marks pieces that continue a word ("##ing").
      window: the longest input of the encoder in tokens.
      constrained: whether the run's tags are the best sequence that is allowed, not the likeliest tag of each word.
    """
    types = list(dict.fromkeys(label[2:] for label in labels if label != "O"))
    more = f" and {len(types) - _LISTED:,} more" if len(types) > _LISTED else ""
    listed = ", ".join(f"`{kind}`" for kind in types[:_LISTED]) + more
    return CardPart(
        title="Named-entity recognition",
        pipeline_tag="token-classification",
        summary=f"Finds entities in texts: {listed}.",
        code=_CODE,
        details=_DETAILS.format(
            words=_RUN_WORDS[splitter == FINE],
            pipeline=_PIPELINE_WORDS[marks_parts],
            window=window,
            decoding=_CONSTRAINED if constrained else "",
        ),
        front_matter={"inference": {"parameters": {"aggregation_strategy": "first"}}},
    )

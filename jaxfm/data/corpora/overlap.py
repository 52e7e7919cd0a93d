"""Which evaluation texts are in training data: whole, or thirteen words of them in a row."""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np

from jaxfm.data.corpora.corpus import open_corpus
from jaxfm.data.corpora.deduplication import CONTAMINATION_WORDS, ngrams, normalised, word_hashes
from jaxfm.data.records.registry import find_formats, open_tables, parse_source
from jaxfm.data.records.sources import available_splits, read_tagged
from jaxfm.errors import UserError

LEAST_WORDS = 4
"""Words of the shortest text that is looked up: shorter ones, such as labels, are alike by chance."""


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What of one set of texts is in the training data.

    Attributes:
      texts: of the set; those of fewer than `LEAST_WORDS` words are left out.
      whole: texts of fewer than `CONTAMINATION_WORDS` words whose words are, in a row, a whole training text.
      parts: longer texts of which so many words in a row are in a training text.
      examples: some of both.
    """

    texts: int
    whole: int
    parts: int
    examples: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the texts, how many are in the training data."""
        return (self.whole + self.parts) / max(self.texts, 1)


class TrainingText:
    """The words of training texts as hashes: 8 bytes a word."""

    def __init__(self, texts: Iterable[str]):
        """Reads all texts once."""
        self.texts, whole, parts = 0, [], []
        for text in texts:
            words = word_hashes(normalised(text))
            self.texts += 1
            if len(words) < CONTAMINATION_WORDS:
                whole.append(hash(words.tobytes()))
            else:
                parts.append(ngrams(words, CONTAMINATION_WORDS))
        self._whole = frozenset(whole)
        self._parts = np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)

    def overlap(self, texts: Iterable[str], shown: int = 5) -> Overlap:
        """Looks each text up."""
        count, whole, parts, examples = 0, 0, 0, list[str]()
        for text in texts:
            words = word_hashes(normalised(text))
            if len(words) < LEAST_WORDS:
                continue
            count += 1
            if len(words) < CONTAMINATION_WORDS:
                found = hash(words.tobytes()) in self._whole
                whole += found
            else:
                grams = ngrams(words, CONTAMINATION_WORDS)
                found = bool(len(self._parts)) and bool(np.isin(grams, self._parts).any())
                parts += found
            if found and len(examples) < shown:
                examples.append(text)
        return Overlap(count, whole, parts, tuple(examples))


def texts_of(source: str, splits: tuple[str, ...]) -> Iterator[str]:
    """Yields every text of the splits of a source that it has: documents, texts of columns, tagged sentences.

    Of a table these are all its columns of text and of words, each value a text.

    Raises UserError for a source that cannot be read, or that has none of the splits.
    """
    scheme = source.partition(":")[0]
    if scheme == "conll":
        present = [name for name in splits if name in available_splits(source)]
        found = read_tagged(source, present)
        texts = (" ".join(sentence.words) for name in present for sentence in found[name].sentences)
    elif scheme in find_formats():
        tables = open_tables(*parse_source(source)).splits
        present = [name for name in splits if name in tables]
        texts = (text for name in present for row in tables[name]().read(None) for text in _texts(row.values.values()))
    else:
        corpus = open_corpus(source).splits
        present = [name for name in splits if name in corpus]
        texts = (document.text for name in present for document in corpus[name]())
    if not present:
        raise UserError(f"{source}: has none of the splits {', '.join(splits)}.")
    yield from texts


def _texts(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list) and value and all(isinstance(word, str) for word in value):
            yield " ".join(value)

"""The kinds of changes by name: what each reads, and a function of (record, severity, generator).

A record's change depends on the record, the kind, the severity and a seed alone, never on other records. Severity 0 is
the record as it is. The tags of words stay true: a word stays one word with its tag, an entity is exchanged as a whole,
and words that are put in are O.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from jaxfm.core.records import IMAGE, TEXTS, WORDS, ImageRecord, Record, TextsRecord, WordsRecord
from jaxfm.data.perturbations import characters, pixels
from jaxfm.data.perturbations.characters import WordChange
from jaxfm.data.perturbations.names import ORIGINS, PEOPLE, PLACES
from jaxfm.data.perturbations.wordlists import NEUTRAL, TRANSLATIONS
from jaxfm.data.text.tagging import entity_spans, write_tags
from jaxfm.errors import UserError, did_you_mean

SEVERITIES = (1, 2, 3, 4, 5)
WORD_SHARES = (0.05, 0.1, 0.2, 0.35, 0.5)
"""Of the words that a kind can change, by severity."""
SPAN_SHARES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the entities of a sentence, by severity."""
ENTITIES, SYNONYMS = "entities", "synonyms"
_WORD = re.compile(r"\S+")


@dataclasses.dataclass(frozen=True)
class Resources:
    """What some kinds need beside a record.

    Attributes:
      entities: type -> entities of the training split, each as its words.
      synonyms: (words of a text in order, number of one of them) -> words that may stand there; None: no model is
        named.
      resolve: what computes the synonyms that were asked for, all together: a first pass over the records asks, and
        gets none; None: they are known at once.
    """

    entities: Mapping[str, Sequence[tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    synonyms: Callable[[Sequence[str], int], Sequence[str]] | None = None
    resolve: Callable[[], None] | None = None


Change = Callable[[Record, int, np.random.Generator, Resources], Record]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of changes.

    Attributes:
      name: as it is asked for.
      doc: what it does, in a line.
      reads: the kinds of records that it can change, of core.records.READS.
      change: the function; never called with severity 0.
      needs: what of `Resources` it needs; "" for nothing.
    """

    name: str
    doc: str
    reads: tuple[str, ...]
    change: Change
    needs: str = ""


def perturbed(record: Record, kind: str, severity: int, seed: int, resources: Resources, copy: int = 0) -> Record:
    """Returns the record changed by a kind of `KINDS`; a pure function of its arguments.

    Args:
      record: what is changed.
      kind: a name of `KINDS`.
      severity: 0 (as it is) to 5.
      seed: of the whole test.
      resources: what the kind needs.
      copy: number of the copy, where a record is changed several times.
    """
    if severity == 0:
        return record
    return KINDS[kind].change(record, severity, _generator(record, kind, severity, seed, copy), resources)


def perturb_all(records: Sequence[Record], kind: str, severity: int, seed: int, resources: Resources) -> list[Record]:
    """Returns all records changed by a kind, each as by `perturbed`."""
    if KINDS[kind].needs == SYNONYMS and resources.resolve is not None:
        for record in records:
            perturbed(record, kind, severity, seed, resources)
        resources.resolve()
    return [perturbed(record, kind, severity, seed, resources) for record in records]


def _generator(record: Record, kind: str, severity: int, seed: int, copy: int) -> np.random.Generator:
    if isinstance(record, ImageRecord):
        content = repr(record.pixels.shape).encode() + record.pixels.tobytes()
    else:
        content = repr(record).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(f"{seed} {kind} {severity} {copy} ".encode() + content).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def kinds_for(reads: str, names: Iterable[str], option: str, resources: Resources | None = None) -> list[str]:
    """Returns the kinds that are asked for, groups written out; none asked for: all that need nothing more.

    Args:
      reads: the kind of the records.
      names: of kinds and `GROUPS`.
      option: what a person wrote them in, for messages.
      resources: those that there are; None: any kind may be named.

    Raises:
      UserError: an unknown kind, one that cannot change these records, one that lacks what it needs.
    """
    asked = [each for name in names for each in GROUPS.get(name, (name,))]
    able = [kind.name for kind in KINDS.values() if reads in kind.reads]
    for name in asked:
        if name not in KINDS:
            raise UserError(f"{option}: unknown kind {name!r}. {did_you_mean(name, [*able, *GROUPS])}")
        if reads not in KINDS[name].reads:
            raise UserError(
                f"{option}: {name!r} changes {' or '.join(KINDS[name].reads)}, but the records of this task are "
                f"{reads}. Its kinds are: {', '.join(able)}."
            )
        if resources is not None and (problem := _lacking(KINDS[name], resources)):
            raise UserError(f"{option}: {name!r} {problem}")
    if asked:
        return list(dict.fromkeys(asked))
    return [name for name in able if resources is None or not _lacking(KINDS[name], resources)]


def _lacking(kind: Kind, resources: Resources) -> str:
    """Returns why a kind cannot be computed with these resources, as the rest of a sentence."""
    if kind.needs == SYNONYMS and resources.synonyms is None:
        return "needs a masked language model: name a run by --synonyms=run:DIR."
    if kind.needs == ENTITIES and not resources.entities:
        return "needs the entities of the training split, which could not be read."
    return ""


def chosen(candidates: Sequence[int], share: float, generator: np.random.Generator) -> list[int]:
    """Returns a share of the candidates in random order; what is left of a whole one is a chance of one more."""
    count = min(int(share * len(candidates) + generator.random()), len(candidates))
    return [] if not count else [int(each) for each in generator.choice(np.asarray(candidates), count, replace=False)]


def words_of_record(record: Record) -> list[str]:
    """Returns the words of a record of texts (by white space) or words, all texts one after the other."""
    if isinstance(record, WordsRecord):
        return list(record.words)
    assert isinstance(record, TextsRecord)
    return [word for text in record.texts for word in _WORD.findall(text)]


def with_words(record: Record, words: Sequence[str]) -> Record:
    """Returns the record with other words, as many as before; the white space between them stays."""
    if isinstance(record, WordsRecord):
        assert len(words) == len(record.words)
        return WordsRecord(tuple(words), record.tags)
    assert isinstance(record, TextsRecord)
    rest = iter(words)
    return TextsRecord(tuple(_WORD.sub(lambda _: next(rest), text) for text in record.texts))


def _by_word(change: WordChange) -> Change:
    """Returns what changes a share of the words of a record, each by itself."""

    def changed(record: Record, severity: int, generator: np.random.Generator, resources: Resources) -> Record:
        del resources
        words = words_of_record(record)
        able = [at for at, word in enumerate(words) if change(word, np.random.default_rng(0)) != word]
        for at in chosen(able, WORD_SHARES[severity - 1], generator):
            words[at] = change(words[at], generator) or words[at]
        return with_words(record, words)

    return changed


def _mixing(word: str, generator: np.random.Generator) -> str:
    body = word.rstrip(".,;:!?")
    others = TRANSLATIONS.get(body.lower())
    if not others:
        return word
    other = others[int(generator.integers(len(others)))]
    return (other.capitalize() if body[0].isupper() else other) + word[len(body) :]


def _length(record: Record, severity: int, generator: np.random.Generator, resources: Resources) -> Record:
    """Puts as many neutral sentences as the severity before or after the text."""
    del resources
    added = [NEUTRAL[at] for at in generator.permutation(len(NEUTRAL))[:severity].tolist()]
    before = added[: int(generator.integers(severity + 1))]
    after = added[len(before) :]
    if isinstance(record, WordsRecord):
        first, last = (tuple(" ".join(each).split()) for each in (before, after))
        tags = ("O",) * len(first) + record.tags + ("O",) * len(last)
        return WordsRecord(first + record.words + last, tags)
    assert isinstance(record, TextsRecord)
    which = int(generator.integers(len(record.texts)))
    texts = list(record.texts)
    texts[which] = " ".join([*before, texts[which], *after])
    return TextsRecord(tuple(texts))


def _entities(record: Record, severity: int, generator: np.random.Generator, resources: Resources) -> Record:
    """Exchanges entities for others of their type in the training split, written in the letters of the one there."""
    assert isinstance(record, WordsRecord)

    def other(kind: str, words: tuple[str, ...]) -> tuple[str, ...]:
        found = [each for each in resources.entities.get(kind, ()) if each != words]
        return _in_case_of(words, found[int(generator.integers(len(found)))]) if found else words

    return _exchanged(record, severity, generator, other)


def _in_case_of(words: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the other words in small or great letters alone where the words are, else as they are."""
    letters = "".join(words)
    if letters.islower():
        return tuple(word.lower() for word in others)
    # One great letter tells nothing: an initial, or a single letter's word.
    great = letters.isupper() and sum(map(str.isalpha, letters)) > 1
    return tuple(word.upper() for word in others) if great else others


def _origins(record: Record, severity: int, generator: np.random.Generator, resources: Resources) -> Record:
    """Exchanges names of people and places for common names of one other origin."""
    del resources
    names = ORIGINS[sorted(ORIGINS)[int(generator.integers(len(ORIGINS)))]]

    def one(of: Sequence[str]) -> str:
        return of[int(generator.integers(len(of)))]

    def other(kind: str, words: tuple[str, ...]) -> tuple[str, ...]:
        if kind.lower() in PEOPLE:
            return (one(names.given),) if len(words) == 1 else (one(names.given), one(names.family))
        return (one(names.places),) if kind.lower() in PLACES else words

    if isinstance(record, WordsRecord):
        return _exchanged(record, severity, generator, other)
    words = words_of_record(record)
    places = {word: of for each in ORIGINS.values() for of, listed in enumerate(each) for word in listed}
    able = [at for at, word in enumerate(words) if word.rstrip(".,;:!?'s") in places]
    for at in chosen(able, SPAN_SHARES[severity - 1], generator):
        body = words[at].rstrip(".,;:!?'s")
        words[at] = one(names[places[body]]) + words[at][len(body) :]
    return with_words(record, words)


def _exchanged(
    record: WordsRecord,
    severity: int,
    generator: np.random.Generator,
    other: Callable[[str, tuple[str, ...]], tuple[str, ...]],
) -> WordsRecord:
    spans = entity_spans(record.tags)
    touched = set(chosen(range(len(spans)), SPAN_SHARES[severity - 1], generator))
    words: list[str] = []
    moved: list[tuple[int, int, str]] = []
    before = 0
    for number, (first, end, kind) in enumerate(spans):
        words += record.words[before:first]
        found = record.words[first:end]
        start = len(words)
        words += other(kind, found) if number in touched else found
        moved.append((start, len(words), kind))
        before = end
    words += record.words[before:]
    return WordsRecord(tuple(words), tuple(write_tags(moved, len(words))))


def _synonyms(record: Record, severity: int, generator: np.random.Generator, resources: Resources) -> Record:
    """Exchanges words outside entities for what a masked language model puts there and embeddings find alike."""
    assert resources.synonyms is not None
    words = words_of_record(record)
    tags = record.tags if isinstance(record, WordsRecord) else ("O",) * len(words)
    able = [at for at, (word, tag) in enumerate(zip(words, tags, strict=True)) if tag == "O" and word.isalpha()]
    original = tuple(words)
    for at in chosen(able, WORD_SHARES[severity - 1], generator):
        found = resources.synonyms(original, at)
        if found:
            words[at] = found[int(generator.integers(len(found)))]
    return with_words(record, words)


def _by_pixel(change: pixels.PixelChange) -> Change:
    def changed(record: Record, severity: int, generator: np.random.Generator, resources: Resources) -> Record:
        del resources
        assert isinstance(record, ImageRecord)
        return ImageRecord(change(record.pixels, severity, generator))

    return changed


_OF_WORDS = (TEXTS, WORDS)
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("keyboard", "a key beside the right one, two keys, one missed", _OF_WORDS, _by_word(characters.keyboard)),
        Kind("swaps", "two neighbouring letters in each other's place", _OF_WORDS, _by_word(characters.swaps)),
        Kind("ocr", "letters taken for what looks like them in print", _OF_WORDS, _by_word(characters.ocr)),
        Kind("case", "small and great letters", _OF_WORDS, _by_word(characters.case)),
        Kind("punctuation", "marks lost, doubled, put in, exchanged", _OF_WORDS, _by_word(characters.punctuation)),
        Kind("whitespace", "spaces, visible or not, inside words", _OF_WORDS, _by_word(characters.whitespace)),
        Kind("lookalikes", "letters of other scripts that look alike", _OF_WORDS, _by_word(characters.lookalikes)),
        Kind("mixing", "common English words in another language", _OF_WORDS, _by_word(_mixing)),
        Kind("length", "as many neutral sentences around the text as the severity", _OF_WORDS, _length),
        Kind("entities", "entities exchanged for others of the type in train", (WORDS,), _entities, ENTITIES),
        Kind("origins", "names of people and places exchanged for those of an origin", _OF_WORDS, _origins),
        Kind("synonyms", "words that a masked language model puts there", _OF_WORDS, _synonyms, SYNONYMS),
        Kind("blur", "Gaussian blur", (IMAGE,), _by_pixel(pixels.blur)),
        Kind("noise", "Gaussian noise on each pixel", (IMAGE,), _by_pixel(pixels.noise)),
        Kind("contrast", "less contrast", (IMAGE,), _by_pixel(pixels.contrast)),
        Kind("rotation", "turned left or right around the middle", (IMAGE,), _by_pixel(pixels.rotation)),
    )
}  # fmt: skip
GROUPS: Mapping[str, tuple[str, ...]] = {"typos": ("keyboard", "swaps", "ocr")}

"""Prompts: texts in a pattern with a mask, and the words by which classes are named there.

Schick and Schütze 2021 (PET), section 3: a pattern and a verbalizer. A text that is too long is cut, the pattern never.
"""

# E examples

import dataclasses
import difflib
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxfm.errors import UserError, did_you_mean
from jaxfm.tasks.classification.few_labels import PromptConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEXT, TEXT_B, MASK = FIELDS = ("text", "text_b", "mask")
_KEY = "config.task.prompt.pattern"
_WORDS_KEY = "config.task.prompt.words"
_SOME_TEXT = "x"  # what stands for a text where words are looked up
_PER_CALL = 1024  # texts; bounds the memory that the tokenizer's own encodings take
_NEAREST = 20  # words of the vocabulary that are tried as the nearest choice


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What a run keeps of its prompt; without a pattern there is none.

    Attributes:
      pattern: with {mask}, {text} and of pairs {text_b}.
      mask_token: number of the mask token.
      words: tokens of the label words.
      classes: the number of the class of each.
    """

    pattern: str = ""
    mask_token: int = -1
    words: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()


def parse_pattern(pattern: str, pairs: bool) -> list[tuple[str, str]]:
    """Returns what a pattern consists of: (literal text, the field after it, "" after the last).

    Raises:
      UserError: no mask or text, or two of one; a second text without pairs or the reverse; an unknown field.
    """
    try:
        parts = [(text, name, spec, how) for text, name, spec, how in string.Formatter().parse(pattern)]
    except ValueError as error:
        raise UserError(
            f"{_KEY}: {pattern!r}: {error}. Fields stand in braces: {{text}}; a brace itself is {{{{."
        ) from None
    names = [name for _, name, _, _ in parts if name is not None]
    for _, name, spec, how in parts:
        if name is not None and (name not in FIELDS or spec or how):
            hint = did_you_mean(name, FIELDS)
            raise UserError(f"{_KEY}: {pattern!r}: {{{name}}} is not a field. {hint}")
    for name in (MASK, TEXT, *((TEXT_B,) if pairs else ())):
        if names.count(name) != 1:
            raise UserError(
                f"{_KEY}: {pattern!r}: has {{{name}}} {names.count(name)} times, but must have it once, as in "
                + ("'{text}? {mask}, {text_b}'." if pairs else "'{text} It was {mask}.'.")
            )
    if TEXT_B in names and not pairs:
        raise UserError(f"{_KEY}: {pattern!r}: has {{{TEXT_B}}}, but the examples are single texts. Leave it out.")
    return [(text, name or "") for text, name, _, _ in parts]


def make_prompt(
    config: PromptConfig, labels: Sequence[str], pairs: bool, tokenizer: "PreTrainedTokenizerFast"
) -> Prompt:
    """Returns the prompt of a config with the tokens of its words; without a pattern an empty one.

    Raises:
      UserError: a pattern that cannot be used, a tokenizer without a mask, a class without a word, a word of no class,
        of several tokens, or of two classes.
    """
    if not config.pattern:
        return Prompt()
    parts = parse_pattern(config.pattern, pairs)
    mask = tokenizer.mask_token_id
    if not isinstance(mask, int):
        raise UserError(f"{_KEY}: the tokenizer has no mask token, so that there is nothing to ask at.")
    named = _named_words(config.words, labels)
    find = _Words(parts, tokenizer, mask)
    words: dict[int, str] = {}
    classes: list[int] = []
    for number, label in enumerate(labels):
        for word in named[label]:
            token = find.token(word, label)
            if token in words:
                raise UserError(
                    f"{_WORDS_KEY}: {word!r} of the class {label!r} is the same token as {words[token]!r} of "
                    f"{labels[classes[list(words).index(token)]]!r}. Give each class words of its own."
                )
            words[token] = word
            classes.append(number)
    return Prompt(config.pattern, mask, tuple(words), tuple(classes))


def _named_words(given: str, labels: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Returns label -> its words; UserError unless each label has one."""
    if not given:
        return {label: (label,) for label in labels}
    found: dict[str, list[str]] = {}
    rest = ""
    for part in given.split(","):
        rest = f"{rest},{part}" if rest else part  # a comma may be part of a label, and a word has none
        label, equals, words = rest.rpartition("=")
        if not equals:
            continue
        label = label.strip()
        if label not in labels:
            raise UserError(f"{_WORDS_KEY}: {label!r} is not a class of the data. {did_you_mean(label, labels)}")
        found[label] = [word.strip() for word in words.split("|") if word.strip()]
        rest = ""
    if rest.strip():
        raise UserError(f"{_WORDS_KEY}: {rest.strip()!r} is not CLASS=WORD: negative=terrible|bad,positive=great.")
    for label in labels:
        if not found.get(label):
            others = ", ".join(repr(other) for other in found)
            raise UserError(f"{_WORDS_KEY}: the class {label!r} has no word; there are words for {others or 'none'}.")
    return found


class _Words:
    """Looks up what a word becomes at the mask of a pattern."""

    def __init__(self, parts: Sequence[tuple[str, str]], tokenizer: "PreTrainedTokenizerFast", mask: int):
        self._parts, self._tokenizer = parts, tokenizer
        self._masked = self._ids(str(tokenizer.mask_token))
        self._place = self._masked.index(mask)

    def token(self, word: str, label: str) -> int:
        """Returns the token of a word; UserError for none, or several, with the nearest word that is one."""
        found = self._one(word)
        if found is not None:
            return found
        ids = self._ids(word)
        count = len(ids) - len(self._masked) + 1
        pieces = self._tokenizer.convert_ids_to_tokens(ids[self._place : self._place + max(count, 1)])
        shown = " ".join(pieces)
        raise UserError(
            f"{_WORDS_KEY}: the word {word!r} of the class {label!r} is {max(count, 1)} tokens of this tokenizer "
            f"({shown}), but must be one that it knows, as a mask is one. {self._nearest(word)}"
        )

    def _ids(self, word: str) -> list[int]:
        return self._tokenizer.encode(render(self._parts, _SOME_TEXT, _SOME_TEXT, word), add_special_tokens=False)

    def _one(self, word: str) -> int | None:
        """Returns the token that alone stands in the mask's place; None where the word is not one."""
        ids, place = self._ids(word), self._place
        known = {*self._tokenizer.all_special_ids}
        same = len(ids) == len(self._masked) and all(
            index == place or one == other for index, (one, other) in enumerate(zip(ids, self._masked, strict=True))
        )
        return ids[place] if same and ids[place] not in known else None

    def _nearest(self, word: str) -> str:
        vocabulary = self._tokenizer.get_vocab()
        words = {self._tokenizer.convert_tokens_to_string([token]).strip() for token in vocabulary}
        words = {each for each in words if each[:1].lower() == word[:1].lower() and each.isalpha()}
        near = difflib.get_close_matches(word, sorted(words), n=_NEAREST, cutoff=0.5)
        found = next((each for each in near if self._one(each) is not None), None)
        return f"The nearest is {found!r}." if found else "Give another word."


def render(parts: Sequence[tuple[str, str]], text: str, text_b: str, mask: str) -> str:
    """Returns a pattern with its fields filled in."""
    values = {TEXT: text, TEXT_B: text_b, MASK: mask, "": ""}
    return "".join(literal + values[name] for literal, name in parts)


def tokenize_prompts(
    prompt: Prompt,
    tokenizer: "PreTrainedTokenizerFast",
    texts: Sequence[tuple[str, str | None]],
    window: int,
    pairs: bool,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns the tokens of each pattern with its text, special ones included, and bool [E]: whose text is cut.

    They are those of the whole as one string. Of two texts the longer one loses tokens first. A mask token that a text
    holds itself becomes an unknown one: each example has one mask.

    Raises UserError where the pattern leaves no room for a text.
    """
    parts = parse_pattern(prompt.pattern, pairs)
    other = tokenizer.pad_token_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    assert isinstance(other, int), "see check_tokenizer"
    tokens: list[np.ndarray] = []
    cut = np.zeros(len(texts), bool)
    for first in range(0, len(texts), _PER_CALL):
        portion = [(text, pair or "") for text, pair in texts[first : first + _PER_CALL]]
        filled = [_Filled(parts, one, other, str(tokenizer.mask_token)) for one, other in portion]
        for number, encoding in enumerate(_encodings(tokenizer, filled)):
            one = filled[number]
            while len(encoding.ids) > window:
                one = one.shortened(encoding, window, prompt.pattern)
                (encoding,) = _encodings(tokenizer, [one])
                cut[first + number] = True
            tokens.append(one.tokens(encoding, prompt.mask_token, other))
    return tokens, cut


def _encodings(tokenizer: "PreTrainedTokenizerFast", filled: Sequence["_Filled"]) -> Sequence[Any]:
    strings = [each.whole for each in filled]
    batch = tokenizer(strings, truncation=False, padding=False, return_attention_mask=False, verbose=False)
    return batch.encodings or ()


class _Filled:
    """A pattern with its texts, and where they stand in it."""

    def __init__(self, parts: Sequence[tuple[str, str]], text: str, text_b: str, mask: str):
        self._parts, self._mask, self.whole = parts, mask, ""
        self._values = {TEXT: text, TEXT_B: text_b, MASK: mask, "": ""}
        self._spans: dict[str, tuple[int, int]] = {}
        for literal, name in parts:
            self.whole += literal
            self._spans[name] = (len(self.whole), len(self.whole) + len(self._values[name]))
            self.whole += self._values[name]

    def shortened(self, encoding: Any, window: int, pattern: str) -> "_Filled":
        """Returns the pattern with less of its texts, by as many tokens as `encoding` has beyond the window."""
        ends = {}  # of each text, where its tokens end
        for name in (TEXT, TEXT_B):
            start, end = self._spans.get(name, (0, 0))
            ends[name] = [b for a, b in encoding.offsets if a < end and b > start and b > a]
        room = window - (len(encoding.ids) - sum(map(len, ends.values())))
        if room < sum(map(bool, ends.values())):
            raise UserError(
                f"{_KEY}: {pattern!r} takes {window - room} tokens, and an example has {window} in all: there is no "
                "room for a text. Take a shorter pattern or a longer config.data.row_length (and window)."
            )
        first, second = len(ends[TEXT]), len(ends[TEXT_B])
        while first + second > room:  # the longer one first
            first, second = (first - 1, second) if first >= second else (first, second - 1)
        kept = dict(self._values)
        for name, count in ((TEXT, first), (TEXT_B, second)):
            if count < len(ends[name]):
                start = self._spans[name][0]
                kept[name] = kept[name][: min(ends[name][count - 1] - start, len(kept[name]) - 1)]
        return _Filled(self._parts, kept[TEXT], kept[TEXT_B], self._mask)

    def tokens(self, encoding: Any, mask: int, other: int) -> np.ndarray:
        """Returns the tokens with one mask, that of the pattern; `other` is in the place of any more."""
        ids, place = np.asarray(encoding.ids, np.int32), self._spans[MASK][0]
        own = np.asarray([begin <= place < end for begin, end in encoding.offsets], bool)
        ids[(ids == mask) & ~own] = other
        assert (ids == mask).sum() == 1
        return ids

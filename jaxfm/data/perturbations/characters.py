"""Changes inside one word: typing, scanning, case, marks, white space and letters that look alike.

Each is a function of a word and a generator that returns another word, or the same where it has nothing to change. A
word stays one word, so that a tag of it stays true. Texts and tagged words use the same functions.
"""

from collections.abc import Callable, Mapping

import numpy as np

WordChange = Callable[[str, np.random.Generator], str]

_ROWS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_SHIFTS = (0.0, 0.5, 0.75, 1.25)  # of the rows of a keyboard, in keys
# What recognition of printed letters takes for each other.
_SCANNED: Mapping[str, tuple[str, ...]] = {
    "rn": ("m",), "m": ("rn",), "cl": ("d",), "d": ("cl",), "vv": ("w",), "w": ("vv",), "li": ("h",), "h": ("li", "b"),
    "o": ("0", "c"), "0": ("O", "o"), "O": ("0", "Q"), "l": ("1", "I"), "1": ("l", "I"), "I": ("l", "1"),
    "i": ("l", "j"), "e": ("c", "o"), "c": ("e", "o"), "s": ("5",), "S": ("5",), "5": ("S",), "B": ("8",), "8": ("B",),
    "g": ("9", "q"), "q": ("g",), "z": ("2",), "Z": ("2",), "2": ("Z",), "u": ("ii", "v"), "n": ("ri", "u"),
    "t": ("f",), "f": ("t",), "a": ("o",), "y": ("v",), "G": ("6",), "6": ("G",), "D": ("O",),
}  # fmt: skip
# Cyrillic, Greek and Latin letters that print like another one, and letters with a mark.
_ALIKE: Mapping[str, str] = {
    "a": "а\u00e1", "b": "Ь", "c": "с\u00e7", "d": "ԁ", "e": "е\u00e9", "g": "ɡ", "h": "һ", "i": "і\u00ed", "j": "ј",
    "k": "κ", "l": "ӏ", "n": "\u00f1", "o": "оο\u00f6", "p": "р", "q": "ԛ", "s": "ѕ", "u": "υ\u00fc", "v": "ν",
    "w": "ԝ", "x": "х", "y": "у", "A": "АΑ", "B": "ВΒ", "C": "С", "E": "ЕΕ", "H": "НΗ", "I": "ІΙ", "J": "Ј",
    "K": "КΚ", "M": "МΜ", "N": "Ν", "O": "ОΟ", "P": "РΡ", "S": "Ѕ", "T": "ТΤ", "X": "ХΧ", "Y": "ΥҮ", "Z": "Ζ",
}  # fmt: skip
_MARKS = ".,;:!?-"
# A space, one that does not break, one of no width, a soft hyphen.
_SPACES = (" ", "\u00a0", "\u200b", "\u00ad")


def _neighbours() -> dict[str, str]:
    """Returns of each letter the letters and digits whose keys touch its own (US layout)."""
    places = {
        key: (column + shift, row)
        for row, (keys, shift) in enumerate(zip(_ROWS, _SHIFTS, strict=True))
        for column, key in enumerate(keys)
    }
    return {
        key: "".join(other for other, (a, b) in places.items() if other != key and abs(a - x) <= 1 and abs(b - y) <= 1)
        for key, (x, y) in places.items()
    }


_KEYS = _neighbours()


def keyboard(word: str, generator: np.random.Generator) -> str:
    """A key beside the right one, a second key hit with it, or a key missed."""
    at = _one_of([index for index, letter in enumerate(word) if letter.lower() in _KEYS], generator)
    if at is None:
        return word
    letter = word[at]
    near = str(generator.choice(list(_KEYS[letter.lower()])))
    near = near.upper() if letter.isupper() else near
    ways = (word[:at] + near + word[at + 1 :], word[:at] + letter + near + word[at + 1 :], word[:at] + word[at + 1 :])
    return ways[int(generator.integers(3 if len(word) > 1 else 2))]


def swaps(word: str, generator: np.random.Generator) -> str:
    """Two neighbouring letters in each other's place."""
    places = [
        index
        for index, (one, other) in enumerate(zip(word, word[1:], strict=False))
        if one != other and one.isalnum() and other.isalnum()
    ]
    at = _one_of(places, generator)
    return word if at is None else word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def ocr(word: str, generator: np.random.Generator) -> str:
    """A letter, or two, taken for what looks like it in print."""
    found = [(at, seen) for seen in _SCANNED for at in range(len(word)) if word.startswith(seen, at)]
    if not found:
        return word
    at, seen = found[int(generator.integers(len(found)))]
    return word[:at] + str(generator.choice(_SCANNED[seen])) + word[at + len(seen) :]


def case(word: str, generator: np.random.Generator) -> str:
    """All letters small or great, the first one alone great, or great and small exchanged."""
    # By letter: "ß".upper() is two letters.
    exchanged = "".join(letter.swapcase() for letter in word)
    ways = [each for each in dict.fromkeys((word.lower(), word.upper(), word.title(), exchanged)) if each != word]
    return word if not ways else ways[int(generator.integers(len(ways)))]


def punctuation(word: str, generator: np.random.Generator) -> str:
    """Marks at the end of a word lost, doubled or put in; of a mark that is a word another one."""
    body = word.rstrip(_MARKS)
    if not body:  # of marks alone
        return str(generator.choice([mark for mark in _MARKS if mark != word]))
    if body != word:
        return body if generator.random() < 0.5 else word + word[-1]
    return word + str(generator.choice(list(_MARKS)))


def whitespace(word: str, generator: np.random.Generator) -> str:
    """A space, or what looks like none or like one, inside a word."""
    if len(word) < 2:
        return word
    at = int(generator.integers(1, len(word)))
    return word[:at] + _SPACES[int(generator.integers(len(_SPACES)))] + word[at:]


def lookalikes(word: str, generator: np.random.Generator) -> str:
    """Letters of other scripts that look like the right ones, or letters with a mark: a third of them, one at least."""
    places = [index for index, letter in enumerate(word) if letter in _ALIKE]
    if not places:
        return word
    count = max(1, round(len(places) / 3))
    letters = list(word)
    for at in generator.choice(places, count, replace=False).tolist():
        letters[at] = str(generator.choice(list(_ALIKE[letters[at]])))
    return "".join(letters)


def _one_of(places: list[int], generator: np.random.Generator) -> int | None:
    return places[int(generator.integers(len(places)))] if places else None

"""The corpus `quickstart`: generated NER sentences, so that a first training run needs no download.

The text is SYNTHETIC. Scores on it show that training works and compare one run with another; they say nothing about
real text, so nobody should quote its F1.

Sentences come from patterns written for it (`quickstart_patterns_{train,valid,test}.txt`), names from Faker in several
locales and from own parts (`quickstart_names.txt`). No pattern and no name of one split occurs in another: each
atomic name (a first name, a last name, a city, ...) belongs to one split by a hash of its spelling, so that a person,
the firm named after her and the prize named after her all stay on the same side; a whole name already used by another
split is drawn again. Tags follow CoNLL-2003: national teams are LOC, clubs are ORG even when only the city is said,
nationalities are MISC, titles are O.

Pattern language: `{TYPE}`, `{TYPE:kind}`, `{TYPE:1:kind}` for a name and `{fill}` for ordinary words. Slots with one
index share their parts: `{PER:1:last}` is the last name of `{PER:1}`, `{ORG:1:founder}` a firm named after that person,
`{ORG:1:cityteam}` the club of the town `{LOC:1:city}`.
"""

import functools
import random
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

from jaxfm.errors import UserError, install_hint

Sentence = tuple[list[str], list[str]]
Names = dict[str, list[str]]

# Sentences per split (issue 2). The test split comes first in `_ORDER` so that it has the first claim on every name.
SIZES = {"train": 3000, "valid": 500, "test": 1000}
_ORDER = ("test", "valid", "train")
_HASH_SHARES = {"train": range(0, 60), "valid": range(60, 74), "test": range(74, 100)}

TYPES = ("PER", "ORG", "LOC", "MISC")
_DEFAULT_KIND = {"PER": "full", "ORG": "company", "LOC": "any", "MISC": "nationality"}

# Locales whose Faker names are written in Latin letters.
_LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "pl_PL", "nl_NL", "pt_BR", "sv_SE", "tr_TR", "fi_FI")
_LOCALES += ("cs_CZ", "ro_RO", "en_IN", "id_ID")
_CITY_LOCALES = ("de_DE", "pl_PL", "nl_NL", "sv_SE", "cs_CZ")  # other locales compose towns that do not exist
_DRAWS = 400  # names drawn per locale and pool, before duplicates are dropped

_UPPER_SHARE, _LOWER_SHARE = 0.07, 0.13  # sentences printed in capitals and in lower case
_WORD_NAME_SHARE = 0.06  # people called Rose, Will, Banks, King ...

_SLOT = re.compile(r"\{([A-Za-z]+)(?::(\d))?(?::([a-z]+))?\}")
_TOKEN = re.compile(
    r"\{[^}]+\}|(?:Dr|Mr|Mrs|Ms|St|No)\.|(?:[ap]\.m|e\.g|i\.e|P\.S)\.|n't|'(?:s|re|ll|ve|d|m)\b"
    r"|[#@]\w+|\d+(?:[.,:/-]\d+)*|[^\W\d_]+?(?=n't)|[^\W\d_]+(?:['-][^\W\d_]{2,})*|\.\.\.|--|\S"
)
_NAME = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*(?: [^\W\d_]+(?:['-][^\W\d_]+)*)?")
_AN = re.compile(r"(?!eu|u[kgrsn]i|u[kgr])[aeiou]", re.IGNORECASE)


def build(seed: int = 0) -> dict[str, list[Sentence]]:
    """Returns 3,000 train, 500 valid and 1,000 test sentences, each (words, BIO tags), a function of `seed` alone.

    The types are PER, ORG, LOC and MISC. Faker's own name lists change between its releases, and the corpus with them.
    Raises UserError when the package Faker is not installed. Source: issue 2.
    """
    faker_pools = _faker_pools(seed)
    names = read_names()
    used: set[str] = set()  # spellings of the splits built so far
    corpus: dict[str, list[Sentence]] = {}
    for split in _ORDER:
        corpus[split], surfaces = _build_split(seed, split, names, faker_pools, used)
        used |= surfaces
    return {split: corpus[split] for split in SIZES}


def _build_split(
    seed: int, split: str, names: Names, faker_pools: Names, used: set[str]
) -> tuple[list[Sentence], set[str]]:
    rng = random.Random(f"quickstart {seed} {split}")
    parts = _Parts(names, faker_pools, split)
    patterns = read_patterns(split)
    sentences: list[Sentence] = []
    surfaces: set[str] = set()
    seen: set[str] = set()
    # Every pattern is used about equally often; one without slots gives one sentence only.
    while len(sentences) < SIZES[split]:
        for pattern in rng.sample(patterns, len(patterns)):
            words, tags = _realise(pattern, parts, rng)
            text = spelling_key(" ".join(words))
            keys = {spelling_key(surface) for _, surface in entities(words, tags)}
            if text in seen or keys & used:
                continue
            seen.add(text)
            surfaces |= keys
            sentences.append((_recase(words, pattern, rng), tags))
            if len(sentences) == SIZES[split]:
                break
    return sentences, surfaces


def fill_patterns(patterns: Sequence[str], split: str, count: int, seed: int) -> list[tuple[int, Sentence]]:
    """Returns `count` different sentences, each after the number of its pattern, with names of one split alone.

    Every pattern is used about equally often. Raises UserError when the package Faker is not installed.
    """
    rng = random.Random(f"quickstart patterns {seed} {split}")
    parts = _Parts(read_names(), _faker_pools(seed), split)
    filled: list[tuple[int, Sentence]] = []
    seen: set[str] = set()
    while len(filled) < count:
        for number in rng.sample(range(len(patterns)), len(patterns)):
            sentence = _realise(patterns[number], parts, rng)
            text = spelling_key(" ".join(sentence[0]))
            if text not in seen and len(filled) < count:
                seen.add(text)
                filled.append((number, sentence))
    return filled


# --- patterns and name lists -----------------------------------------------------------------------------------------


def read_patterns(split: str) -> list[str]:
    """Returns the sentence patterns of one split, one per line of its file; `#` lines are headings."""
    text = (resources.files("jaxfm.data") / f"quickstart_patterns_{split}.txt").read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("# ")]


@functools.cache
def read_names() -> Names:
    """Returns section heading -> entries of `quickstart_names.txt`, weights such as `3x` already expanded."""
    text = (resources.files("jaxfm.data") / "quickstart_names.txt").read_text(encoding="utf-8")
    sections: Names = {}
    entries: list[str] = []
    for line in text.splitlines():
        if line.startswith("["):
            entries = sections.setdefault(line.strip("[]"), [])
            continue
        for entry in line.split(";") if line.strip() and not line.startswith("#") else ():
            weight = re.match(r"\s*(\d+)x ", entry)
            entries += [entry[weight.end() if weight else 0 :].strip()] * (int(weight[1]) if weight else 1)
    return sections


def _faker_pools(seed: int) -> Names:
    """Returns `first LOCALE`, `last LOCALE` and `fakercity` -> names, in an order that depends on `seed` alone."""
    try:
        from faker import Faker
    except ImportError as error:
        raise UserError(
            f"data.source='quickstart' needs the package Faker: {install_hint('quickstart')}, "
            "or name data of your own, for example data.source='conll:DIR'."
        ) from error
    pools: Names = {"fakercity": []}
    for locale in _LOCALES:
        fake = Faker(locale, use_weighting=False)
        fake.seed_instance(seed)
        pools[f"first {locale}"] = _clean(fake.first_name() for _ in range(_DRAWS))
        pools[f"last {locale}"] = _clean(fake.last_name() for _ in range(_DRAWS))
        if locale in _CITY_LOCALES:
            pools["fakercity"] += _clean(fake.city() for _ in range(_DRAWS))
    return pools


def _clean(drawn: Iterable[str]) -> list[str]:
    """Keeps one or two Latin words per name, and drops repeats without changing the order."""
    composed = (unicodedata.normalize("NFC", name) for name in drawn)
    return [n for n in dict.fromkeys(composed) if _NAME.fullmatch(n) and max(n) < "\u0250" and len(n) > 1]


# --- which split a name belongs to -----------------------------------------------------------------------------------


def spelling_key(name: str) -> str:
    """Returns `name` without case and accents: what an uncased model sees, so what must differ between the splits."""
    plain = unicodedata.normalize("NFKD", name.casefold())
    # Turkish capitals turn a dotless i into a dotted one.
    return "".join(c for c in plain if not unicodedata.combining(c)).replace("\u0131", "i")


def _belongs(name: str, split: str) -> bool:
    # crc32 and not hash(), which differs from one process to the next.
    return zlib.crc32(spelling_key(name).encode()) % 100 in _HASH_SHARES[split]


# --- composing names -------------------------------------------------------------------------------------------------


class _Parts:
    """The atomic names of one split."""

    def __init__(self, names: Names, faker_pools: Names, split: str):
        self.names = names
        self._split = split
        own = {key.removeprefix("pool "): values for key, values in names.items() if key.startswith("pool ")}
        self._pools = {key: self._mine(values) for key, values in {**own, **faker_pools}.items()}
        for kind in ("village", "stem"):
            heads, tails = names[f"pool {kind}head"], names[f"pool {kind}tail"]
            self._pools[kind] = self._mine([head + tail for head in heads for tail in tails])

    def _mine(self, values: list[str]) -> list[str]:
        own = [value for value in values if _belongs(value.split("|")[0], self._split)]
        assert own, f"the {self._split} split has none of {values[:5]} ..."
        return own

    def pick(self, pool: str, rng: random.Random) -> str:
        """Draws one entry of a pool; `city` mixes three pools."""
        if pool == "city":
            pool = rng.choices(("worldcity", "fakercity", "village"), (55, 30, 15))[0]
        return rng.choice(self._pools[pool])


class _Bundle:
    """The parts that all slots of one index share: one person, one town, one country, one invented brand."""

    def __init__(self, parts: _Parts, rng: random.Random):
        self._parts, self._rng = parts, rng
        self._locale = rng.choice(_LOCALES)
        self._atoms: dict[str, str] = {}
        self._names: dict[tuple[str, str], str] = {}

    def name(self, entity: str, kind: str) -> str:
        """Returns the name of this kind, words apart by spaces; the same one each time it is asked for."""
        if (entity, kind) not in self._names:
            shape = self._rng.choice(self._parts.names[f"{entity}:{kind}"])
            self._names[entity, kind] = re.sub(r"\{(\w+)\}", lambda match: self._atom(match[1]), shape)
        return self._names[entity, kind]

    def _atom(self, field: str) -> str:
        if field not in self._atoms:
            self._atoms[field] = self._draw(field)
        return self._atoms[field]

    def _draw(self, field: str) -> str:
        rng = self._rng
        pool = field.rstrip("2")  # last2, noun2, ...: another draw from the same pool
        if pool in ("first", "last"):
            word_name = rng.random() < _WORD_NAME_SHARE
            return self._parts.pick(f"word{pool}" if word_name else f"{pool} {self._locale}", rng)
        if pool in ("country", "nationality"):
            self._atoms["country"], self._atoms["nationality"] = self._parts.pick("country", rng).split("|")
            return self._atoms[pool]
        if pool == "letter":
            return rng.choice("ABCDEFGHJKLMNPRSTW")
        if pool == "n":
            return rng.choice(("2", "3", "7", "X", "X2", "400", "S", "Mini", "XL", "9000"))
        if pool == "initials":  # so that a body and the acronym in brackets after it agree
            return "".join(word[0] for word in self.name("ORG", "agency").split() if word[0].isupper())
        return self._parts.pick(pool, rng)


def _money(rng: random.Random) -> str:
    amount = rng.choice((f"{rng.randint(2, 95)} million", f"{rng.randint(1, 40)}.{rng.randint(1, 9)} billion"))
    return rng.choice((f"$ {amount}", f"{amount} euros", f"{amount} dollars", f"{amount} crowns"))


def _number(rng: random.Random) -> str:
    return rng.choice((str(rng.randint(13, 980)), f"{rng.randint(1, 99)},{rng.randint(0, 999):03d}"))


# Ordinary words that are computed; the others are the [fill NAME] sections of the name file.
_FILLS: dict[str, Callable[[random.Random], str]] = {
    "number": _number,
    "small": lambda rng: str(rng.randint(2, 12)),
    "year": lambda rng: str(rng.randint(1891, 2031)),
    "day": lambda rng: str(rng.randint(1, 28)),
    "age": lambda rng: str(rng.randint(17, 93)),
    "percent": lambda rng: rng.choice((f"{rng.randint(1, 70)} percent", f"{rng.randint(1, 30)}.{rng.randint(1, 9)} %")),
    "money": _money,
    "score": lambda rng: f"{rng.randint(0, 5)}-{rng.randint(0, 4)}",
    "points": lambda rng: f"{rng.randint(71, 118)}-{rng.randint(62, 109)}",
    "sets": lambda rng: f"6-{rng.randint(0, 4)} {rng.choice(('7-5', '6-3', '4-6', '7-6'))} 6-{rng.randint(0, 4)}",
    "time": lambda rng: f"{rng.randint(1, 12)}:{rng.randint(0, 59):02d}",
    "decimal": lambda rng: f"{rng.randint(1, 60)}.{rng.randint(10, 99)}",
    "temp": lambda rng: str(rng.randint(-12, 38)),
}


# --- sentences -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Piece:
    """One token of a pattern, or one slot in place of it."""

    word: str
    slot: re.Match[str] | None


@functools.cache
def _pieces(pattern: str) -> tuple[_Piece, ...]:
    return tuple(_Piece(word, _SLOT.fullmatch(word)) for word in _TOKEN.findall(pattern))


def _realise(pattern: str, parts: _Parts, rng: random.Random) -> Sentence:
    """Fills the slots of one pattern; returns words and BIO tags of equal length."""
    words: list[str] = []
    tags: list[str] = []
    bundles: dict[str, _Bundle] = {}
    for piece in _pieces(pattern):
        if piece.slot is None:
            words.append(piece.word)
            tags.append("O")
            continue
        name, index, kind = piece.slot.groups()
        if name in TYPES:
            bundle = bundles.setdefault(index, _Bundle(parts, rng)) if index else _Bundle(parts, rng)
            new = bundle.name(name, kind or _DEFAULT_KIND[name]).split()
            new_tags = [f"B-{name}"] + [f"I-{name}"] * (len(new) - 1)
        else:
            new = (_FILLS[name](rng) if name in _FILLS else rng.choice(parts.names[f"fill {name}"])).split()
            new_tags = ["O"] * len(new)
        if words and words[-1] in ("a", "an", "A", "An"):
            words[-1] = words[-1][0] + ("n" if _AN.match(new[0]) else "")
        words += new
        tags += new_tags
    if tags[0] == "O":
        words[0] = words[0][0].upper() + words[0][1:]
    return words, tags


def _recase(words: list[str], pattern: str, rng: random.Random) -> list[str]:
    """Puts a share of the sentences in capitals or lower case; always capitals where the pattern is a headline."""
    literal = _SLOT.sub("", pattern)
    draw = rng.random()
    if literal.isupper() or draw < _UPPER_SHARE:
        return [word.upper() for word in words]
    if draw < _UPPER_SHARE + _LOWER_SHARE:
        return [word.lower() for word in words]
    return words


def entities(words: list[str], tags: list[str]) -> Iterator[tuple[str, str]]:
    """Yields (type, surface) of each name in a BIO sentence."""
    start = 0
    for i, tag in enumerate([*tags, "O"]):
        if not tag.startswith("I-"):
            if i > start and tags[start] != "O":
                yield tags[start][2:], " ".join(words[start:i])
            start = i

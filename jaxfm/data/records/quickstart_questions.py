"""The questions of `quickstart`: made paragraphs of facts, so that a first run of question answering needs no download.

The text is SYNTHETIC. Scores on it show that training works and compare one run with another; they say nothing about
real text. A paragraph tells four facts about a person, a firm or a bridge; a question asks for one of them, or for one
that the paragraph does not tell. What a paragraph is about, and one wording of each fact and question, belong to one
split alone.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxfm.data.corpora.documents import uniform_hash
from jaxfm.data.records.quickstart import Names, read_names

COLUMNS = ("id", "title", "context", "question", "answers")
PARAGRAPHS: Mapping[str, int] = {"train": 600, "valid": 100, "test": 200}
QUESTIONS = 3  # of a paragraph
_TOLD, _UNANSWERED = 4, 0.25  # facts of a paragraph; share of the questions that it does not answer
# Bounds of the hash of what a paragraph is about.
_SHARES: Mapping[str, tuple[float, float]] = {"train": (0.0, 0.6), "valid": (0.6, 0.75), "test": (0.75, 1.0)}


class _Fact(NamedTuple):
    """What can be told: the kind of its value V, and wordings about X that tell it and ask for it; the last: test."""

    value: str
    told: Sequence[str]
    asked: Sequence[str]


_PERSON = (
    _Fact(
        "city",
        ("X was born in V.", "X is a native of V.", "It was in V that X was born."),
        ("Where was X born?", "In which city was X born?", "What is the birthplace of X?"),
    ),
    _Fact(
        "year",
        ("X won a first prize in V.", "In V X was given a first prize.", "A first prize came to X in V."),
        ("When did X win a first prize?", "In which year was X given a prize?", "What year brought X a first prize?"),
    ),
    _Fact(
        "job",
        ("X worked as a V for many years.", "By profession X was a V.", "X earned a living as a V."),
        ("What did X work as?", "What was the profession of X?", "How did X earn a living?"),
    ),
    _Fact(
        "sport",
        ("In winter X liked to play V.", "X was known for a love of V.", "Nobody enjoyed V more than X."),
        ("Which sport did X like?", "What did X like to play?", "What game did X enjoy?"),
    ),
    _Fact(
        "animal",
        ("X wrote a long book about V.", "A long book by X is about V.", "V are the subject of X's one book."),
        ("What is the book of X about?", "About what did X write?", "What is the subject of X's book?"),
    ),
)
_FIRM = (
    _Fact(
        "city",
        ("X has its head office in V.", "The head office of X is in V.", "X is run from V."),
        ("Where is the head office of X?", "In which city is X based?", "From where is X run?"),
    ),
    _Fact(
        "year",
        ("X was founded in V.", "The history of X begins in V.", "X has existed since V."),
        ("When was X founded?", "In which year did the history of X begin?", "Since when has X existed?"),
    ),
    _Fact(
        "goods",
        ("X deals in V.", "Most of the money of X comes from V.", "X sells V to half of the continent."),
        ("What does X deal in?", "Where does the money of X come from?", "What does X sell?"),
    ),
    _Fact(
        "person",
        ("X is led by V.", "The head of X is V.", "V runs X."),
        ("Who leads X?", "Who is the head of X?", "Who runs X?"),
    ),
    _Fact(
        "number",
        ("X employs V people.", "Some V people work for X.", "X has a staff of V."),
        ("How many people does X employ?", "How many people work for X?", "How large is the staff of X?"),
    ),
)
_BRIDGE = (
    _Fact(
        "river",
        ("X crosses the V.", "X leads over the V.", "Under X flows the V."),
        ("Which river does X cross?", "Over which river does X lead?", "What river flows under X?"),
    ),
    _Fact(
        "year",
        ("X was opened in V.", "Traffic began to use X in V.", "X has carried cars since V."),
        ("When was X opened?", "In which year did traffic begin to use X?", "Since when has X carried cars?"),
    ),
    _Fact(
        "number",
        ("X is V metres long.", "The length of X is V metres.", "From end to end X measures V metres."),
        ("How many metres long is X?", "What is the length of X in metres?", "How many metres does X measure?"),
    ),
    _Fact(
        "person",
        ("X was designed by V.", "V designed X.", "The plans of X were drawn by V."),
        ("Who designed X?", "By whom was X designed?", "Who drew the plans of X?"),
    ),
    _Fact(
        "material",
        ("X is made mostly of V.", "Most of X consists of V.", "The builders of X chose V."),
        ("What is X made of?", "What does X consist of?", "Which material did the builders of X choose?"),
    ),
)


def build(split: str) -> Iterator[tuple[str, Sequence[Any]]]:
    """Yields origin and values of COLUMNS of each question of a split; the same at every call."""
    rng = random.Random(f"quickstart questions {split}")
    names, last = read_names(), split == "test"
    for number in range(PARAGRAPHS[split]):
        facts, kind = rng.choice(((_PERSON, "person"), (_FIRM, "firm"), (_BRIDGE, "bridge")))
        about = _about(kind, names, rng, split)
        order = rng.sample(facts, len(facts))
        told, untold = order[:_TOLD], order[_TOLD:]
        context, answers = _paragraph(about, {fact: _value(fact.value, names, rng, split) for fact in told}, rng, last)
        asked = rng.sample(told, QUESTIONS)
        if rng.random() < QUESTIONS * _UNANSWERED:
            asked[-1] = untold[0]
        for place, fact in enumerate(asked):
            wording = rng.choice(fact.asked if last else fact.asked[:-1])
            found = [answers[fact]] if fact in answers else []
            origin = f"quickstart/{split}[{number}.{place}]"
            yield origin, (f"{split}-{number}-{place}", about, context, wording.replace("X", about), found)


def _paragraph(
    about: str, values: Mapping[_Fact, str], rng: random.Random, last: bool
) -> tuple[str, dict[_Fact, dict[str, Any]]]:
    """Returns a text that tells all facts, and the answer that each of them is."""
    text, answers = "", {}
    for fact, value in values.items():
        wording = rng.choice(fact.told if last else fact.told[:-1])
        before, after = wording.split("V")
        sentence = before.replace("X", about) + value + after.replace("X", about)
        at = len(text) + len(before.replace("X", about))
        text += f"{sentence[0].upper()}{sentence[1:]} "
        answers[fact] = {"text": text[at : at + len(value)], "answer_start": at}
    return text.rstrip(), answers


def _about(kind: str, names: Names, rng: random.Random, split: str) -> str:
    """Draws what a paragraph is about, of those that belong to the split."""
    low, high = _SHARES[split]
    while True:
        if kind == "person":
            found = f"{rng.choice(names['pool wordfirst'])} {rng.choice(names['pool wordlast'])}"
        elif kind == "firm":
            found = f"{rng.choice(names['pool stemhead'])}{rng.choice(names['pool stemtail'])}"
        else:
            found = f"the {rng.choice(names['pool adj'])} {rng.choice(names['pool noun'])} Bridge"
        if low <= uniform_hash(found) < high:
            return found


def _value(kind: str, names: Names, rng: random.Random, split: str) -> str:
    if kind == "year":
        return str(rng.randint(1850, 2020))
    if kind == "number":
        return f"{rng.randint(100, 9_999):,}"
    if kind == "person":
        return _about("person", names, rng, split)
    return rng.choice(names[{"city": "pool worldcity", "river": "pool river"}.get(kind, f"fill {kind}")])

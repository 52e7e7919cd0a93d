"""The corpus `quickstart`: sizes, determinism, disjoint splits, and that its hard cases are really there."""

import collections
import itertools
import os
import re
import socket
import subprocess
import sys

import pytest

from jaxfm.data.records import quickstart
from jaxfm.errors import UserError

pytest.importorskip("faker", reason="the extra `quickstart` is not installed")

# At least this many names of each type in each split; the smallest count at seed 0 is about 1.4 times as high.
_LEAST = {"train": 600, "valid": 100, "test": 250}


@pytest.fixture(scope="module")
def corpus():
    return quickstart.build(0)


def _surfaces(sentences):
    """(spelling key, type) -> number of sentences."""
    found = collections.Counter()
    for words, tags in sentences:
        found.update((quickstart.spelling_key(surface), kind) for kind, surface in quickstart.entities(words, tags))
    return found


def _skeleton(pattern):
    return re.sub(r"\{(\w+)[^}]*\}", r"{\1}", pattern).casefold()


def test_sizes_and_bio(corpus):
    assert {split: len(sentences) for split, sentences in corpus.items()} == {"train": 3000, "valid": 500, "test": 1000}
    for words, tags in itertools.chain(*corpus.values()):
        assert len(words) == len(tags) > 0
        assert all(word and not re.search(r"[\s{}]", word) for word in words), words
        for before, tag in zip(["O", *tags], tags, strict=False):
            assert re.fullmatch(r"O|[BI]-(PER|ORG|LOC|MISC)", tag)
            assert not tag.startswith("I-") or before[2:] == tag[2:], (words, tags)


def test_every_type_is_frequent_in_every_split(corpus):
    for split, sentences in corpus.items():
        counts = collections.Counter(kind for words, tags in sentences for kind, _ in quickstart.entities(words, tags))
        assert set(counts) == set(quickstart.TYPES)
        assert min(counts.values()) >= _LEAST[split], (split, counts)


def test_sentences_are_short_and_long(corpus):
    lengths = [len(words) for words, _ in itertools.chain(*corpus.values())]
    assert min(lengths) <= 3 and max(lengths) > 40
    assert len({" ".join(words).casefold() for words, _ in corpus["train"]}) == 3000


def test_same_seed_same_corpus_other_seed_other_corpus(corpus):
    assert quickstart.build(0) == corpus
    other = quickstart.build(1)
    for split, sentences in corpus.items():
        assert sum(sentence in sentences for sentence in other[split]) < len(sentences) // 10


def test_independent_of_the_process():
    program = (
        "import hashlib; from jaxfm.data.records import quickstart; "
        "print(hashlib.sha256(repr(quickstart.build(3)).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1 and len(digests.pop().strip()) == 64


def test_patterns_are_many_and_split():
    patterns = {split: quickstart.read_patterns(split) for split in quickstart.SIZES}
    skeletons = {split: {_skeleton(pattern) for pattern in lines} for split, lines in patterns.items()}
    assert sum(len(lines) for lines in skeletons.values()) >= 250
    assert sum(len(lines) for lines in patterns.values()) == sum(len(lines) for lines in skeletons.values())
    for one, other in itertools.combinations(skeletons.values(), 2):
        assert not one & other
    # A reworded pattern would leak too: no two lines of different splits may share more than 60 % of their words.
    for one, other in itertools.combinations(skeletons.values(), 2):
        for a, b in itertools.product(one, other):
            words_a, words_b = (set(re.findall(r"\{\w+\}|[a-z']+", line)) for line in (a, b))
            assert len(words_a & words_b) <= 0.6 * len(words_a | words_b), (a, b)


def test_every_slot_and_name_section_is_used():
    example_locations = {
        slot
        for split in quickstart.SIZES
        for pattern in quickstart.read_patterns(split)
        for slot in re.findall(r"\{([A-Za-z]+)(?::\d)?(?::([a-z]+))?\}", pattern)
    }
    defaults = {"PER": "full", "ORG": "company", "LOC": "any", "MISC": "nationality"}
    wanted = {f"{name}:{kind or defaults[name]}" for name, kind in example_locations if name in quickstart.TYPES}
    sections = {heading for heading in quickstart.read_names() if ":" in heading}
    assert wanted | {"ORG:agency"} == sections
    fills = {heading.removeprefix("fill ") for heading in quickstart.read_names() if heading.startswith("fill ")}
    assert fills <= {name for name, _ in example_locations}


@pytest.mark.parametrize("seed", [0, 11])
def test_no_name_of_one_split_in_another(seed):
    names = {split: {key for key, _ in _surfaces(part)} for split, part in quickstart.build(seed).items()}
    assert not names["test"] & (names["train"] | names["valid"])
    assert not names["valid"] & names["train"]


def test_last_names_and_bare_cities_are_disjoint_too(corpus):
    """People of the test split share no last name with those of the train split, even when the first name differs."""
    last = {
        split: {
            key.split()[-1] for key, kind in _surfaces(sentences) if kind == "PER" and " " in key and "-" not in key
        }
        for split, sentences in corpus.items()
    }
    shared = last["test"] & last["train"]
    # Spanish or Indonesian two-word last names may end in a word that is also a last name of its own.
    assert len(shared) <= 0.02 * len(last["test"]), shared


def test_hard_cases_are_there(corpus):
    for split, sentences in corpus.items():
        size = len(sentences)
        text = [" ".join(words) for words, _ in sentences]
        assert sum(line.isupper() for line in text) > 0.06 * size, split
        assert sum(line.islower() for line in text) > 0.08 * size, split
        nameless = [words for words, tags in sentences if set(tags) == {"O"}]
        assert len(nameless) > 0.04 * size, split
        capitals = [words for words in nameless if sum(word.istitle() for word in words[1:]) >= 4]
        assert len(capitals) >= 5, split
        kinds = collections.defaultdict(set)
        for key, kind in _surfaces(sentences):
            kinds[key].add(kind)
        assert sum({"LOC", "ORG"} <= seen for seen in kinds.values()) >= 10, split  # clubs called by their town
        assert sum({"PER", "ORG"} <= seen for seen in kinds.values()) >= 3, split  # firms called by their founder


def test_titles_are_outside_names(corpus):
    titles = {title.split()[-1] for title in quickstart.read_names()["fill title"]}
    before = [
        (tags[i], tags[i + 1])
        for words, tags in corpus["train"]
        for i, word in enumerate(words[:-1])
        if word in titles and tags[i + 1] == "B-PER"
    ]
    assert len(before) > 20 and all(own == "O" for own, _ in before)


def test_slots_of_one_index_share_their_parts(monkeypatch):
    pattern = "{PER:1} , {PER:1:last} , {ORG:1:short} ; {LOC:1:city} , {ORG:1:cityteam} isn't Dr. {PER:1:first}'s"
    monkeypatch.setattr(quickstart, "read_patterns", lambda split: [pattern])
    for words, tags in quickstart.build(5)["test"][:50]:
        full, last, short, city, team, first = (surface for _, surface in quickstart.entities(words, tags))
        assert last == short and last in full and city == team and (full.startswith(first) or full[1] == ".")
        assert [word.lower() for word in words[-5 - first.count(" ") :]][:3] == ["is", "n't", "dr."]
        assert words[-1].lower() == "'s"


def test_no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the corpus is generated: nothing may be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert len(quickstart.build(2)["valid"]) == 500


def test_without_faker_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faker", None)
    with pytest.raises(UserError, match=r"pip install 'jaxfm-encoders\[quickstart\]'"):
        quickstart.build(0)

import hashlib
import random

import numpy as np
import pytest

from jaxfm.data.corpora import deduplication
from jaxfm.data.corpora.deduplication import (
    CONTAMINATED,
    EXACT,
    NEAR,
    HashSet,
    Judge,
    examine,
    ngrams,
    normalised,
    word_hashes,
)
from jaxfm.errors import UserError

DRAW = random.Random(0)
WORDS = [f"word{number}" for number in range(5000)]


def text(count: int = 200) -> str:
    return " ".join(DRAW.choices(WORDS, k=count))


def changed(original: str, words: int) -> str:
    """The text with so many words, spread evenly, replaced by others."""
    parts = original.split()
    for place in range(0, len(parts), max(1, len(parts) // words))[:words] if words else ():
        parts[place] = "other" + parts[place]
    return " ".join(parts)


def jaccard(one: str, two: str) -> float:
    first, second = (set(zip(*(value.split()[k:] for k in range(5)), strict=False)) for value in (one, two))
    return len(first & second) / len(first | second)


def decide(texts: list[str], kind: str) -> list[str | None]:
    return Judge().decide(examine(texts, kind, None))


def test_exact_copies_differ_in_nothing_but_case_space_and_unicode_form() -> None:
    texts = ["Straße  in\nCafe\u0301", "STRASSE in Café", "Strasse in Cafe", "Straße, in Café"]
    assert decide(texts, "exact") == [None, EXACT, None, None]
    assert decide(texts, "none") == [None] * 4


def test_the_first_of_several_copies_is_kept_across_calls() -> None:
    judge = Judge()
    texts = [text() for _ in range(50)]
    assert judge.decide(examine(texts, "exact", None)) == [None] * 50
    assert judge.decide(examine([texts[7], text(), texts[49].upper()], "exact", None)) == [EXACT, None, EXACT]


@pytest.mark.parametrize("blocks", [1, 3, 40])
def test_verdicts_do_not_depend_on_how_documents_are_grouped(blocks: int) -> None:
    draw = random.Random(1)
    originals = [" ".join(draw.choices(WORDS, k=80)) for _ in range(30)]
    texts = [copy for value in originals for copy in (value, changed(value, draw.choice((0, 1, 2, 40))))]
    draw.shuffle(texts)
    judge = Judge()
    found = [
        verdict
        for part in np.array_split(np.arange(len(texts)), blocks)
        for verdict in judge.decide(examine([texts[index] for index in part], "near", None))
    ]
    assert found == decide(texts, "near")
    assert {EXACT, NEAR, None} == set(found)


def test_near_copies_are_found_as_often_as_the_formula_says() -> None:
    """P(share a band) = 1 - (1 - s^8)^14 at Jaccard similarity s; 5 standard deviations."""
    pairs = 150
    for words in (1, 3, 6, 12, 20):
        hits, expected, variance = 0, 0.0, 0.0
        for _ in range(pairs):
            original = text(120)
            copy = changed(original, words)
            hits += decide([original, copy], "near")[1] == NEAR
            likely = 1 - (1 - jaccard(original, copy) ** 8) ** 14
            expected += likely
            variance += likely * (1 - likely)
        assert abs(hits - expected) <= 5 * max(variance, 0.2) ** 0.5, words


def test_signatures_are_those_of_datasketch() -> None:
    """The bands are made of MinHash values as the package computes them over all shingles at once."""
    from datasketch import MinHash

    words = word_hashes(normalised(text(9000)))  # more shingles than are taken at a time
    shingles = np.unique(ngrams(words, 5) >> np.uint64(32))
    assert len(shingles) > 2 * 4096
    whole = MinHash(num_perm=112, seed=1, hashfunc=int, scheme="affine32")
    whole.update_batch(shingles.tolist())
    keys = np.zeros(14, np.uint64)
    for column in np.asarray(whole.hashvalues, np.uint64).reshape(14, 8).T:
        keys = deduplication._mix(keys + column)
    np.testing.assert_array_equal(deduplication.band_keys(words), keys)


def test_what_counts_as_a_copy_never_changes() -> None:
    """Golden value: a directory that was begun elsewhere must be finished with the same decisions."""
    examined = examine(["The quick brown fox jumps over the lazy dog.", "Ein Satz."], "near", None)
    assert examined.exact is not None and examined.bands is not None
    digest = hashlib.sha256(examined.exact.astype("<u8").tobytes() + examined.bands.astype("<u8").tobytes())
    assert digest.hexdigest() == "abe647b81f0df798d8768fba66581e3e461f057fa20c050c58409d3f5a7813fc"


def test_texts_too_short_for_a_shingle_are_copies_only_when_equal() -> None:
    assert decide(["one two", "one two three", "one, two!", "!!!", "???", "one"], "near") == [
        None,
        None,
        NEAR,  # the same words
        None,
        None,
        None,
    ]


def test_ngrams_depend_on_every_word_and_its_place() -> None:
    words = word_hashes("a b c d e f")
    assert len(ngrams(words, 5)) == 2 and len(ngrams(words, 6)) == 1 and len(ngrams(words, 7)) == 0
    grams = [int(ngrams(word_hashes(value), 3)[0]) for value in ("a b c", "c b a", "a b d", "x b c", "a a a", "b b b")]
    assert len(set(grams)) == 6
    assert int(ngrams(word_hashes("z a b c"), 3)[1]) == grams[0]


def test_contamination_needs_thirteen_words_in_a_row() -> None:
    tests = {"first": [text(40), "too short to look for"], "second": [text(40)]}
    known = deduplication.read_contamination(tests.items())
    assert known.names == ("first", "second")
    quote = tests["second"][0].split()[10:23]
    documents = [
        f"{text(30)} {', '.join(quote).upper()} {text(30)}",  # signs and case don't hide it
        f"{text(30)} {' '.join(quote[:12])} {text(30)}",
        tests["first"][0],
        "short",
    ]
    examined = examine(documents, "none", known)
    assert examined.contaminated.tolist() == [1, -1, 0, -1]
    assert Judge().decide(examined) == [CONTAMINATED, None, CONTAMINATED, None]


def test_a_contaminated_document_is_no_reason_to_drop_another() -> None:
    quote = text(13)
    known = deduplication.read_contamination([("test", [quote])])
    original = text(300)
    verdicts = Judge().decide(examine([f"{original} {quote}", original], "near", known))
    assert verdicts == [CONTAMINATED, None]


def test_checksums_tell_evaluation_texts_apart() -> None:
    one, two = text(40), text(40)
    known = [
        deduplication.read_contamination([("a", [first]), ("b", [second])])
        for first, second in [(one, two), (two, one)]
    ]
    assert known[0].checksums() != known[1].checksums()
    assert known[0].checksums() == deduplication.read_contamination([("a", [one]), ("b", [two])]).checksums()


def test_a_hash_set_is_a_set_of_eight_bytes_an_entry() -> None:
    draw = np.random.default_rng(2)
    keys = np.unique(draw.integers(0, 2**63, 20_000, np.uint64))
    draw.shuffle(keys)
    there, absent = keys[:15_000], keys[15_000:]
    found = HashSet()
    assert not found.contains(keys).any()
    for part in np.array_split(there, 700):
        found.add(part)
    assert len(found) == len(there)
    assert found.contains(there).all() and not found.contains(absent).any()
    assert sum(run.nbytes for run in found._runs) == 8 * len(there)
    assert len(found._runs) <= 14  # so that a look-up stays quick


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UserError, match="'nera' is not a kind.*'near'"):
        deduplication.check_kind("nera")


def test_near_without_the_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    deduplication._prototype.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "datasketch", None)
    with pytest.raises(UserError, match=r"pip install 'jaxfm-encoders\[prepare\]'"):
        deduplication.check_kind("near")
    deduplication._prototype.cache_clear()

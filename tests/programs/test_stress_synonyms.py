"""Words in the place of others: proposed by a masked language model, kept by similarity."""

import pathlib

import numpy as np
import pytest

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.records import TextsRecord
from jaxfm.data.perturbations.kinds import Resources, perturb_all, perturbed
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs import stress_synonyms
from jaxfm.programs.model import Model
from jaxfm.programs.stress import stress
from jaxfm.programs.stress_synonyms import Synonyms, open_synonyms, word_similarity
from jaxfm.training.saved_run import open_run
from tests import tiny

QUIET = Progress(None, quiet=True)
TEXTS = ("ada met boole in the old town", "gauss went to ghent and left", "the old town near essen")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    return tiny.write_runs(tmp_path_factory.mktemp("synonyms"), ("masked_lm", "classification", "embedding"))


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stress_synonyms, "SIMILAR_WORDS", -1.0)  # of random weights none is alike


def test_what_is_asked_is_answered_together(runs: dict[str, pathlib.Path], lenient: None) -> None:
    found = open_synonyms(f"run:{runs['masked_lm']}", None, QUIET)
    words = TEXTS[0].split()
    assert found(words, 1) == () and found(words, 4) == ()
    found.resolve()
    (result,) = Model(runs["masked_lm"])([f"ada [MASK] {' '.join(words[2:])}"])
    tokens = [each["token"] for each in result["masks"][0]["candidates"]]
    assert list(found(words, 1)) == [each for each in tokens if each.isalpha() and each != "met"]
    assert found(words, 0) == ()  # not asked before


def test_words_keep_their_case_and_are_alike_by_their_embeddings(runs: dict[str, pathlib.Path]) -> None:
    similar = word_similarity(runs["masked_lm"])
    run = open_run(runs["masked_lm"])
    table = run.restore(make_mesh(MeshConfig()), Build()).to_host()["encoder/embeddings/word/embedding"]
    tokenizer = load_tokenizer(runs["masked_lm"] / "tokenizer")
    one, other = (table[tokenizer.convert_tokens_to_ids(each)] for each in ("old", "town"))
    assert similar("old", "town") == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other), abs=1e-6)
    assert similar("old", "old") == pytest.approx(1.0)
    model = Model(runs["masked_lm"])
    every = Synonyms(model, lambda one, other: 1.0, None, QUIET)
    none = Synonyms(model, lambda one, other: 0.0, None, QUIET)
    for each in (every, none):
        each(("Old", "town"), 0)
        each.resolve()
    assert all(word[0].isupper() for word in every(("Old", "town"), 0)) and none(("Old", "town"), 0) == ()


def test_records_change_in_two_passes(runs: dict[str, pathlib.Path], lenient: None) -> None:
    found = open_synonyms(f"run:{runs['masked_lm']}", None, QUIET)
    resources = Resources(synonyms=found, resolve=found.resolve)
    records = [TextsRecord((text,)) for text in TEXTS]
    changed = perturb_all(records, "synonyms", 5, 0, resources)
    assert changed != records
    for before, after in zip(records, changed, strict=True):
        assert isinstance(after, TextsRecord) and len(after.texts[0].split()) == len(before.texts[0].split())
        assert perturbed(before, "synonyms", 5, 0, resources) == after  # all is known now


def test_texts_must_stay_alike(runs: dict[str, pathlib.Path], lenient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    words = tuple(TEXTS[1].split())
    kept = {}
    for least in (-1.0, 1.01):
        monkeypatch.setattr(stress_synonyms, "SIMILAR_TEXTS", least)
        found = open_synonyms(f"run:{runs['masked_lm']}", f"run:{runs['embedding']}", QUIET)
        found(words, 1)
        found.resolve()
        kept[least] = found(words, 1)
    assert kept[-1.0] and not kept[1.01]


def test_a_classifier_is_scored_with_them(runs: dict[str, pathlib.Path], lenient: None) -> None:
    found = stress(
        runs["classification"], kinds=["synonyms"], severities=[5], synonyms=f"run:{runs['masked_lm']}", output=""
    )
    (effect,) = found.effects
    assert effect.kind == "synonyms" and effect.touched > 0.3


def test_what_cannot_be_is_refused(runs: dict[str, pathlib.Path]) -> None:
    lm, other = f"run:{runs['masked_lm']}", f"run:{runs['classification']}"
    for asked, message in (
        ({"synonyms": str(runs["masked_lm"])}, "is a run of jaxfm, run:DIR"),
        ({"synonyms": other}, "which fills no masks"),
        ({"synonyms": lm, "similarity": other}, "which embeds no texts"),
        ({"similarity": lm}, "judges what --synonyms proposes"),
    ):
        with pytest.raises(UserError, match=message):
            stress(runs["classification"], output="", **asked)  # type: ignore[arg-type]

"""Vectors in a directory: whole after any kill, refused where they are of something else."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from jaxfm.data.corpora import vector_store
from jaxfm.data.corpora.vector_store import Identity, VectorStore, make_store
from jaxfm.errors import UserError

IDENTITY = Identity("e" * 64, "runs/a", "c" * 64, "faq.jsonl", count=7, dimension=3, similarity="cosine")
VECTORS = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
TEXTS = [{"id": number, "text": f"text é {number}" * (1 + number)} for number in range(7)]


def fill(store: VectorStore, until: int = 7) -> None:
    for first in range(store.done, until, 2):
        last = min(first + 2, until)
        store.append(VECTORS[first:last], TEXTS[first:last])


def test_written_in_portions_and_read_back(tmp_path: pathlib.Path) -> None:
    store = make_store(tmp_path / "index", IDENTITY)
    assert not store.complete
    fill(store)
    for each in (store, VectorStore(tmp_path / "index"), make_store(tmp_path / "index", IDENTITY)):
        assert each.complete
        np.testing.assert_array_equal(each.vectors, VECTORS)
        assert isinstance(each.vectors, np.memmap)
        assert each.texts([5, 0, 6]) == [TEXTS[5], TEXTS[0], TEXTS[6]]
    np.testing.assert_array_equal(np.load(tmp_path / "index" / "vectors.npy"), VECTORS)
    store.note(approximate={"recall": 1.0})
    assert VectorStore(tmp_path / "index").facts == {"approximate": {"recall": 1.0}}


@pytest.mark.parametrize("fault", ["texts", "vectors", "offsets", "manifest"])
def test_killed_while_a_portion_is_written(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    store = make_store(tmp_path / "index", IDENTITY)
    fill(store, 4)
    before = VectorStore(tmp_path / "index")
    calls = {"texts": "_replace_after", "vectors": "_grow", "offsets": "_grow", "manifest": "files"}

    def stop(*given: object) -> None:
        if fault == "texts":
            given[0].seek(given[1])  # type: ignore[attr-defined]
            given[0].write(b'{"half')  # type: ignore[attr-defined]
        if fault == "offsets" and "offsets" not in str(given[0]):
            return grow(*given)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    grow = vector_store._grow
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if fault == "manifest":
            patch.setattr(vector_store.files, "write_json", stop)
        else:
            patch.setattr(vector_store, calls[fault], stop)
        fill(store, 6)
    assert before.vectors.shape == (4, 3)
    again = make_store(tmp_path / "index", IDENTITY)
    assert again.done == 4
    np.testing.assert_array_equal(again.vectors, VECTORS[:4])
    fill(again)
    np.testing.assert_array_equal(VectorStore(tmp_path / "index").vectors, VECTORS)
    assert VectorStore(tmp_path / "index").texts(range(7)) == TEXTS
    assert (tmp_path / "index" / "texts.jsonl").read_text(encoding="utf-8").count("\n") == 7


def test_killed_before_the_first_manifest(tmp_path: pathlib.Path) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "texts.jsonl").write_text("half")
    store = make_store(tmp_path / "index", IDENTITY)
    fill(store)
    assert store.texts([0]) == [TEXTS[0]]


def test_what_is_refused(tmp_path: pathlib.Path) -> None:
    fill(make_store(tmp_path / "index", IDENTITY))
    with pytest.raises(UserError, match=r"holds vectors of another run \(runs/a, hash eeeeeeeeeeee\), not of runs/b"):
        make_store(tmp_path / "index", dataclasses.replace(IDENTITY, encoder="f" * 64, workdir="runs/b"))
    with pytest.raises(UserError, match=r"another corpus \(faq.jsonl, 7 texts, .*not faq.jsonl as it is now \(8 texts"):
        make_store(tmp_path / "index", dataclasses.replace(IDENTITY, corpus="d" * 64, count=8))
    with pytest.raises(UserError, match="was made without --answer"):
        make_store(tmp_path / "index", dataclasses.replace(IDENTITY, answers=True))
    with pytest.raises(UserError, match=r"--index=.*none: holds no vectors of texts"):
        VectorStore(tmp_path / "none")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letters.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no vectors"):
        make_store(tmp_path / "other", IDENTITY)
    with pytest.raises(UserError, match="is a file"):
        make_store(tmp_path / "other" / "letters.txt", IDENTITY)
    with pytest.raises(UserError, match="the disk is too full"):
        make_store(tmp_path / "large", dataclasses.replace(IDENTITY, count=10**15))
    assert not (tmp_path / "large").exists()


def test_what_was_changed_is_named(tmp_path: pathlib.Path) -> None:
    fill(make_store(tmp_path / "index", IDENTITY))
    whole = (tmp_path / "index" / "vectors.npy").read_bytes()
    (tmp_path / "index" / "texts.jsonl").write_text("{" * 500)
    with pytest.raises(UserError, match="texts.jsonl: text 2 is not what was written"):
        VectorStore(tmp_path / "index").texts([1])
    (tmp_path / "index" / "vectors.npy").write_bytes(whole[:-8])
    with pytest.raises(UserError, match=r"vectors.npy: has .* bytes of the .* it was cut"):
        _ = VectorStore(tmp_path / "index").vectors
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    (tmp_path / "index" / "manifest.json").write_text(json.dumps({**manifest, "identity": {"encoder": "x"}}))
    with pytest.raises(UserError, match="identity: has no .workdir."):
        VectorStore(tmp_path / "index")
    (tmp_path / "index" / "manifest.json").write_text(json.dumps({**manifest, "version": 9}))
    with pytest.raises(UserError, match="has version 9"):
        VectorStore(tmp_path / "index")


def test_texts_of_a_vector_a_token(tmp_path: pathlib.Path) -> None:
    identity = dataclasses.replace(IDENTITY, similarity=vector_store.MAXSIM)
    counts = [2, 1, 4, 3, 1, 2, 5]
    vectors = np.random.default_rng(1).standard_normal((sum(counts), 3)).astype(np.float32)
    ends = np.cumsum(counts)
    store = make_store(tmp_path / "index", identity)
    store.append(vectors[: ends[2]], TEXTS[:3], counts[:3])
    again = VectorStore(tmp_path / "index")  # another process goes on
    assert again.done == 3 and not again.complete
    again.append(vectors[ends[2] :], TEXTS[3:], counts[3:])
    found = make_store(tmp_path / "index", identity)
    assert found.complete and found.ends.tolist() == ends.tolist() and found.texts([6]) == [TEXTS[6]]
    np.testing.assert_array_equal(found.vectors, vectors)
    with open(tmp_path / "index" / "ends.npy", "r+b") as file:
        file.truncate(150)
    with pytest.raises(UserError, match="ends.npy: has 150 bytes of the .* it was cut"):
        _ = found.ends

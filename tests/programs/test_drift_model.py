"""What a run says of records: as its predictions have it, and whether that is what the labels say."""

import pathlib

import numpy as np
import pytest

from jaxfm.evaluation.drift_samples import Looked
from jaxfm.observe.progress import Progress
from jaxfm.programs.drift_data import Reader
from jaxfm.programs.drift_model import DriftModel
from jaxfm.programs.evaluate import evaluate
from jaxfm.programs.model import Model
from jaxfm.training.saved_run import open_run
from tests import tiny


def looked(folder: pathlib.Path, name: str, split: str) -> tuple[pathlib.Path, Looked, list[str]]:
    (run,) = tiny.write_runs(folder, (name,)).values()
    reader = Reader(open_run(run), 0, 0)
    side = reader.of_run(split, None)
    return run, DriftModel(reader).look(side, Progress(None, quiet=True)), side.texts


def test_of_texts(tmp_path: pathlib.Path) -> None:
    run, found, texts = looked(tmp_path, "classification", "train")
    assert found.judged is not None and found.predicted is not None and found.gold is not None
    results = Model(run)(texts)
    assert [found.classes[each] for each in found.predicted.argmax(axis=-1)] == [each["label"] for each in results]
    assert found.judged.confidence == pytest.approx([each["score"] for each in results], abs=1e-4)
    assert found.judged.right is not None
    assert found.judged.right.mean() == pytest.approx(evaluate(run, "train").metrics["accuracy"])
    assert np.array_equal(found.judged.right, found.predicted.argmax(axis=-1) == found.gold)
    assert found.vectors.shape == (len(texts), tiny.ENCODER.hidden_size)


def test_of_words_a_record_is_its_words(tmp_path: pathlib.Path) -> None:
    _, found, texts = looked(tmp_path, "ner", "train")
    assert found.judged is not None and found.judged.right is not None and found.predicted is not None
    words = [len(text.split()) for text in texts]
    assert np.bincount(found.judged.record).tolist() == words == found.predicted.sum(axis=-1).tolist()
    assert found.gold is None and len(found.judged.right) == sum(words)
    assert 0 < found.judged.right.mean() < 1

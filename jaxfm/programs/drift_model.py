"""What a run says of records, for `jaxfm.drift`: vectors, how sure it is, what it predicts, whether that is right."""

# N records, U units (a record, its words or its labels), C classes, D numbers of a vector

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxfm.config import MeshConfig
from jaxfm.core.build import Build
from jaxfm.core.task import TOKENIZER_DIR, GivesProbabilities, ReadsNeighbours
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.evaluation.drift_samples import Looked
from jaxfm.evaluation.error_estimate import Judged
from jaxfm.observe.progress import Progress
from jaxfm.parallel.mesh import make_mesh
from jaxfm.programs.drift_data import Reader, Record, Side
from jaxfm.training.pool_outputs import PoolModel, Seen
from jaxfm.training.session import compute_dtype
from jaxfm.training.text_vectors import TextVectors

_BLANK = {"text": "", "origin": "between two records"}


class DriftModel:
    """A run that records are shown to.

    Attributes:
      step: of its checkpoint.
      tokenizer: of it.
    """

    def __init__(self, reader: Reader):
        """Restores its checkpoint; UserError where there is none."""
        self._reader, run = reader, reader.run
        self.tokenizer = load_tokenizer(run.workdir / TOKENIZER_DIR)
        self._pool: PoolModel | None = None
        self._vectors: TextVectors | None = None
        if reader.gives_probabilities:
            self._pool = PoolModel(run.workdir)
            self.step = self._pool.step
        else:
            encoder: Any = run.spec.encoder  # type: ignore[attr-defined]  # every task over texts has one
            mesh = make_mesh(MeshConfig())
            restored = run.restore(mesh, Build(compute_dtype(run.config.train.precision)))
            self.step = restored.step
            self._vectors = TextVectors(
                restored,
                self.tokenizer,
                encoder.max_positions,
                encoder.type_vocab_size > 1,
                mesh,
                run.config.eval.batch_size,
            )

    @property
    def unit(self) -> str:
        """What is right or wrong, a noun in the plural."""
        if self._pool is None:
            return ""
        if self._pool.gives.of_words:
            return "words"
        return "decisions about a label" if self._pool.gives.probability == "sigmoid" else "texts"

    def look(self, side: Side, progress: Progress) -> Looked:
        """Returns what it says of the records."""
        with progress.task(f"looking at {side.name}", len(side.records)) as advance:
            if self._vectors is not None:
                pairs = self._reader.predictor.pairs
                texts = [
                    (str(each["text"]), str(each["pair"]) if pairs else None) if "text" in each else (text, None)
                    for each, text in zip(side.records, side.texts, strict=True)
                ]
                return Looked(self._vectors(texts, advance))
            assert self._pool is not None
            seen = []
            for each in self._seen(side.records):
                seen.append(each)
                advance(1)
        return _looked(seen, side.records, self._pool.gives, self._pool.predictor.labels)

    def _seen(self, records: Sequence[Record]) -> Iterator[Seen]:
        """Yields what is seen in each record; where neighbours are read too, none of them is."""
        assert self._pool is not None
        predictor = self._pool.predictor
        if isinstance(predictor, ReadsNeighbours) and predictor.reads_neighbours:
            apart = (each for record in records for each in (record, _BLANK))
            return itertools.islice(self._pool.see(apart, features=True), None, None, 2)
        return self._pool.see(records, features=True)


def _looked(
    seen: Sequence[Seen], records: Sequence[Record], gives: GivesProbabilities, labels: Sequence[str]
) -> Looked:
    vectors, confidence, right, predicted, gold_N = [], [], [], [], []
    numbers = {name: number for number, name in enumerate(labels)}
    several = gives.probability == "sigmoid"
    labelled = all("gold" in each for each in records)
    for each, record in zip(seen, records, strict=True):
        probability_UC = each.probabilities
        assert each.features is not None
        vectors.append(each.features.mean(axis=0) if len(each.features) else np.zeros(each.features.shape[-1]))
        if several:
            says_C = probability_UC[0] >= 0.5
            confidence.append(np.where(says_C, probability_UC[0], 1 - probability_UC[0]))
            predicted.append(says_C.astype(np.float64))
            if labelled:
                right.append(says_C == np.isin(labels, list(record["gold"])))
            continue
        says_U = probability_UC.argmax(axis=-1)
        confidence.append(probability_UC.max(axis=-1, initial=0.0))
        predicted.append(np.bincount(says_U, minlength=len(labels)).astype(np.float64))
        if labelled:
            # A class that training has not seen is never predicted.
            gold_U = _gold(record, gives, numbers)
            right.append(says_U == gold_U)
            gold_N += [] if gives.of_words else gold_U.tolist()
    record_U = np.repeat(np.arange(len(records)), [len(each) for each in confidence])
    judged = Judged(
        np.concatenate(confidence), record_U, len(records), np.concatenate(right).astype(bool) if labelled else None
    )
    one_class = bool(gold_N) and min(gold_N) >= 0
    return Looked(
        np.stack(vectors), judged, np.stack(predicted), tuple(labels), np.asarray(gold_N) if one_class else None
    )


def _gold(record: Mapping[str, Any], gives: GivesProbabilities, numbers: Mapping[str, int]) -> np.ndarray:
    names = record["gold"] if gives.of_words else [record["gold"]]
    return np.asarray([numbers.get(str(name), -1) for name in names], np.int64)

"""Out-of-domain detection by a trained run: its logits and hidden vectors of three sets of records."""

# B batch, T tokens, S segments, D model, N records

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfm.core.records import EncodedRecords, Record, reads_records
from jaxfm.errors import UserError
from jaxfm.evaluation.out_of_domain import (
    ENERGY,
    MAHALANOBIS,
    PROBABILITY,
    Detection,
    Gaussians,
    detect,
    energy_scores,
    probability_scores,
)
from jaxfm.observe.progress import Progress
from jaxfm.programs.stress_run import TRAIN, Opened, Outputs

MOST_FITTED = 5000
"""Training records that the distributions of hidden vectors are fitted to at most, drawn by the seed."""
_SUMS, _TOKENS = "stress_sums", "stress_tokens"


def segment_sums(
    x_BTD: jax.Array, segment_ids_BT: jax.Array, taken_BT: jax.Array, segments: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the sum f32 [B, S, D] of the hidden states that are taken of each segment, and their number [B, S]."""
    member_BTS = ((segment_ids_BT[..., None] == 1 + jnp.arange(segments)) & taken_BT[..., None]).astype(jnp.float32)
    return jnp.einsum("bts,btd->bsd", member_BTS, x_BTD.astype(jnp.float32)), member_BTS.sum(axis=1)


@dataclasses.dataclass(frozen=True)
class _Set:
    """Records as rows."""

    encoded: EncodedRecords
    count: int

    @property
    def segments(self) -> int:
        return int(self.encoded.places[:, 2].max(initial=0)) + 1


def detections(
    opened: Opened, source: str, split: str, *, limit: int, seed: int, progress: Progress
) -> tuple[tuple[Detection, ...], tuple[str, ...]]:
    """Returns how well each score tells the records of the split from those of a split of another source, and notes.

    Raises:
      UserError: a model without classes; a source or split that cannot be read.
    """
    changes = opened.changes
    if not changes.probability:
        raise UserError("--ood: the model gives numbers, not classes: there is neither an energy nor a probability.")
    outside = _drawn(changes.other_records(source, split), limit, seed)
    inside = opened.records
    train, classes, notes = _training_records(opened, seed)
    sets = {
        name: _Set(changes.encode_records(records), len(records))
        for name, records in (("inside", inside), ("outside", outside), ("train", train))
        if records
    }
    segments = max(each.segments for each in sets.values())
    function = opened.task.objective.outputs

    def outputs(model: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        states = model.encoder.encode(batch)
        # What the head reads, as far as it is one vector a record: a mean over tokens is less spread in a long text.
        first = getattr(model, "pooling", "mean").startswith("cls")
        taken_BT = states.positions_BT == 0 if first else jnp.ones_like(states.segment_ids_BT, bool)
        sums, counts = segment_sums(states.x_BTD, states.segment_ids_BT, taken_BT, segments)
        return {**function(model, batch), _SUMS: sums, _TOKENS: counts}

    computed = opened.evaluator(max(len(each.encoded.rows) for each in sets.values()), outputs)
    total = sum(len(each.encoded.rows) for each in sets.values())
    with progress.task("vectors in and out of the domain", total * len(opened.restored)) as advance:
        found = {name: _outputs(computed, each, advance) for name, each in sets.items()}
    scores: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    pair = [changes.unit_logits(sets[name].encoded, _together(opened, found[name])) for name in ("inside", "outside")]
    for name, score in ((PROBABILITY, probability_scores), (ENERGY, energy_scores)):
        scores[name] = (score(pair[0], changes.probability), score(pair[1], changes.probability))
    if "train" in sets:
        scores[MAHALANOBIS] = _mahalanobis(sets, found, classes)
    shown = source if split == "test" else f"{split} of {source}"
    return tuple(detect(name, *both, shown) for name, both in scores.items()), notes


def _training_records(opened: Opened, seed: int) -> tuple[list[Record], np.ndarray | None, tuple[str, ...]]:
    run = opened.runs[0]
    try:
        train = reads_records(run.task(run.config.data.source, TRAIN), run.config.task.name)
    except UserError as error:
        return [], None, (f"NOTE: no Mahalanobis distance: the training split cannot be read: {error}",)
    records, classes = train.records(TRAIN), train.classes(TRAIN)
    index = np.arange(len(records))
    if len(records) > MOST_FITTED:
        index = np.sort(np.random.default_rng(seed).choice(index, MOST_FITTED, replace=False))
    return [records[number] for number in index.tolist()], None if classes is None else classes[index], ()


def _drawn(records: Sequence[Record], limit: int, seed: int) -> list[Record]:
    if not 0 < limit < len(records):
        return list(records)
    index = np.sort(np.random.default_rng(seed).choice(len(records), limit, replace=False))
    return [records[number] for number in index.tolist()]


def _outputs(computed: Outputs, records: _Set, advance: Any) -> list[dict[str, np.ndarray]]:
    return computed.of(records.encoded.rows, advance)


def _together(opened: Opened, found: list[dict[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    return found[0] if opened.ensemble is None else opened.ensemble.mean_outputs(found)


def _mahalanobis(
    sets: Mapping[str, _Set], found: Mapping[str, list[dict[str, np.ndarray]]], classes: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the scores inside and outside; of an ensemble the mean of its members' scores."""
    inside, outside = [], []
    for member in range(len(found["train"])):
        vectors = {name: record_vectors(each.encoded, found[name][member], each.count) for name, each in sets.items()}
        fitted = Gaussians.fit(vectors["train"], classes)
        inside.append(fitted.scores(vectors["inside"]))
        outside.append(fitted.scores(vectors["outside"]))
    return np.mean(inside, axis=0), np.mean(outside, axis=0)


def record_vectors(encoded: EncodedRecords, outputs: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Returns the mean [N, D] of the hidden states taken of each record, over all of its parts."""
    record, row, segment = encoded.places.T
    sums, tokens = np.zeros((count, outputs[_SUMS].shape[-1])), np.zeros(count)
    np.add.at(sums, record, outputs[_SUMS][row, segment])
    np.add.at(tokens, record, outputs[_TOKENS][row, segment])
    return sums / np.maximum(tokens, 1)[:, None]

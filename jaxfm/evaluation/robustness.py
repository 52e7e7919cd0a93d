"""What a change of the inputs does to a model: the fall of a score, calibration and flipped answers, with intervals.

A split is scored as it is and with changed inputs. Unit n is the same example in both, so differences are paired.
"""

# N units, B bins, R rounds

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jaxfm.core.evaluation import BootstrapData, Evaluation, Units
from jaxfm.errors import UserError
from jaxfm.evaluation.bootstrap import Interval, bootstrap_intervals, compare
from jaxfm.evaluation.calibration import BINS
from jaxfm.evaluation.intervals import exact_share, intervals

ECE = "ece"
_GAPS, _COUNTS = "confidence less accuracy, by bin", "predictions"


@dataclasses.dataclass(frozen=True)
class Scored:
    """A split that a model was scored on.

    Attributes:
      metric: name of the score.
      less_is_better: whether less of it is better.
      value: the score with its interval.
      ece: expected calibration error with its interval; None where there are no probabilities.
      data: `metric`, and "ece" where there are probabilities, as a function of the units.
      predictions: the record of each unit (`Evaluation.predictions`).
    """

    metric: str
    less_is_better: bool
    value: Interval
    ece: Interval | None
    data: BootstrapData
    predictions: Sequence[Mapping[str, Any]]

    @property
    def answers(self) -> list[Any]:
        """What was predicted of each unit, comparable by ==; numbers of regression as they are."""
        return [each.get("predicted") for each in self.predictions]


@dataclasses.dataclass(frozen=True)
class Flips:
    """Units whose answer changed.

    Attributes:
      share: of all units, with its exact interval.
      broken: units that were wholly right and no longer are.
      mended: the other way round.
      which: bool [N], the units whose answer changed.
    """

    share: Interval
    broken: int
    mended: int
    which: np.ndarray


@dataclasses.dataclass(frozen=True)
class Effect:
    """What one kind of change does at one severity.

    Attributes:
      kind: its name.
      severity: 1 to 5.
      touched: share of the records that differ from what they were.
      scored: the split as it was changed.
      drop: how much worse the score is, with its paired interval; NaN ends where too few units differ for one.
      ece_rise: how much larger the calibration error is, alike; None without probabilities.
      flips: None where answers are numbers.
    """

    kind: str
    severity: int
    touched: float
    scored: Scored
    drop: Interval
    ece_rise: Interval | None
    flips: Flips | None

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but the predictions as JSON values."""
        found: dict[str, Any] = {"kind": self.kind, "severity": self.severity, "touched": self.touched}
        named = {"score": self.scored.value, "drop": self.drop, ECE: self.scored.ece, "ece_rise": self.ece_rise}
        found |= {name: None if each is None else dataclasses.asdict(each) for name, each in named.items()}
        if self.flips is not None:
            found["flips"] = dataclasses.asdict(self.flips.share) | {
                "broken": self.flips.broken,
                "mended": self.flips.mended,
            }
        return found


def scored(evaluation: Evaluation, metric: str, less_is_better: bool) -> Scored:
    """Reads an evaluation.

    Raises:
      UserError: a task without independent units, or a metric that cannot be computed on this split.
    """
    data = evaluation.bootstrap_data
    if data is None:
        raise UserError("--workdir: the task of this run is not scored by independent units, so nothing can be paired.")
    value = evaluation.metrics.get(metric, math.nan)
    known = data.metrics(np.arange(data.count))
    if metric not in known or math.isnan(value):
        listed = ", ".join(sorted(name for name, each in known.items() if not math.isnan(each)))
        raise UserError(f"--metric={metric}: cannot be computed on this split. Those that can: {listed}.")
    predictions = list(evaluation.predictions)
    assert len(predictions) == data.count, "one record a unit"
    joined = with_calibration(data, metric, predictions)
    found = intervals(data, {metric: value})[metric]
    ece = None
    if _GAPS in joined.units:
        ece = bootstrap_intervals(joined, {ECE: joined.metrics(np.arange(data.count))[ECE]})[ECE]
    return Scored(metric, less_is_better, found, ece, joined, predictions)


def with_calibration(data: BootstrapData, metric: str, predictions: Sequence[Mapping[str, Any]]) -> BootstrapData:
    """Returns `metric` and, where the predictions have probabilities, "ece" as a function of the units."""
    sure = [_confidences(each) for each in predictions]
    units = dict(data.units)
    has = any(len(each) for each, _ in sure)
    if has:
        gaps_NB, counts_N = np.zeros((len(sure), BINS)), np.zeros(len(sure))
        for unit, (confidence, right) in enumerate(sure):
            bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
            np.add.at(gaps_NB[unit], bins, confidence - right)
            counts_N[unit] = len(confidence)
        units |= {_GAPS: gaps_NB, _COUNTS: counts_N}

    def computed(units: Units, weight_RN: np.ndarray) -> dict[str, np.ndarray]:
        found = {metric: data.computed(units, weight_RN)[metric]}
        if has:
            total_R = np.maximum(weight_RN @ units[_COUNTS], 1e-12)
            found[ECE] = np.abs(weight_RN @ units[_GAPS]).sum(axis=-1) / total_R
        return found

    return dataclasses.replace(data, units=units, computed=computed, prior=None, shares=())


def _confidences(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns of each answer in a record how sure it is and whether it is right, f64 [n] both.

    Answers are the tags of words, the class of an example, or whether each of several labels is there.
    """
    if "probabilities" in record:
        right = [one == other for one, other in zip(record["gold"], record["predicted"], strict=True)]
        return np.asarray(record["probabilities"], np.float64), np.asarray(right, np.float64)
    scores = record.get("scores")
    if not scores:
        return np.zeros(0), np.zeros(0)
    if isinstance(record["predicted"], str):
        return np.asarray([max(scores.values())]), np.asarray([float(record["correct"])])
    there = [float(label in record["gold"]) for label in scores]
    return np.asarray(list(scores.values()), np.float64), np.asarray(there)


def effect_of(
    clean: Scored, changed: Scored, kind: str, severity: int, *, touched: float, aligned: Sequence[bool]
) -> Effect:
    """Compares a changed split with the same as it was.

    Args:
      clean: as it was.
      changed: the same units with changed inputs.
      kind: of the change.
      severity: of the change.
      touched: share of the records that differ.
      aligned: of each unit, whether its answers can be compared one by one: words were not put in or left out.
    """
    # The units are the same examples, though their texts are not.
    same = dataclasses.replace(changed.data, identity=clean.data.identity)
    found = compare(clean.data, same).differences
    sign = 1.0 if clean.less_is_better else -1.0
    rise = found[ECE].interval if ECE in found else None
    return Effect(
        kind, severity, touched, changed, _signed(found[clean.metric].interval, sign), rise,
        flips_of(clean, changed, aligned),
    )  # fmt: skip


def _signed(found: Interval, sign: float) -> Interval:
    if sign > 0:
        return found
    return Interval(-found.value + 0.0, -found.high + 0.0, -found.low + 0.0)


def flips_of(clean: Scored, changed: Scored, aligned: Sequence[bool]) -> Flips | None:
    """Returns which answers changed; None where they are numbers.

    Of tagged sentences into which words were put, or whose entities have another length, the types of the entities in
    their order are compared in place of the tags.
    """
    pairs = list(zip(clean.answers, changed.answers, aligned, strict=True))
    if any(isinstance(before, float) for before, _, _ in pairs):
        return None
    which = np.asarray([not _same(*pair) for pair in pairs], bool)
    share = Interval(float(which.mean()), *exact_share(int(which.sum()), len(which)))
    before_N, after_N = clean.data.right, changed.data.right
    broken = mended = 0
    if before_N is not None and after_N is not None:
        broken, mended = int((before_N & ~after_N).sum()), int((after_N & ~before_N).sum())
    return Flips(share, broken, mended, which)


def _same(before: Any, after: Any, is_aligned: bool) -> bool:
    if is_aligned or not isinstance(before, list):
        return before == after
    return [tag[2:] for tag in before if tag.startswith("B-")] == [tag[2:] for tag in after if tag.startswith("B-")]


def worst_units(clean: Scored, effect: Effect, most: int) -> list[int]:
    """Returns units that were right and no longer are, those first whose wrong answer is the surest."""
    before_N, after_N = clean.data.right, effect.scored.data.right
    if before_N is None or after_N is None:
        return []
    broken = np.flatnonzero(before_N & ~after_N).tolist()

    def sureness(unit: int) -> float:
        confidence, right = _confidences(effect.scored.predictions[unit])
        return float((confidence * (1 - right)).max(initial=0.0))

    return sorted(broken, key=lambda unit: (-sureness(unit), unit))[:most]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether the score holds: what `--max_drop` asks.

    Attributes:
      max_drop: most that the score may fall, in its own unit.
      strict: whether the upper end of the interval has to be within it; else only the lower one.
      failed: kinds and severities that break the rule.
      unsure: those whose interval holds `max_drop`; of a strict verdict they have failed.
    """

    max_drop: float
    strict: bool
    failed: tuple[Effect, ...]
    unsure: tuple[Effect, ...]

    @property
    def passes(self) -> bool:
        """Whether nothing has failed."""
        return not self.failed

    def lines(self) -> list[str]:
        """Returns it in words."""
        rule = "may be" if self.strict else "is"
        head = f"gate: {'passes' if self.passes else 'FAILS'}: --max_drop={self.max_drop:g}"
        lines = [head + ("" if self.passes else f"; the drop {rule} more than that:")]
        lines += [f"  {_described(each)}" for each in self.failed]
        if not self.strict and self.unsure:
            lines.append(f"  not shown to be within it, nor above ({len(self.unsure)}): --strict would fail on these")
        return lines


def _described(effect: Effect) -> str:
    drop = effect.drop
    ends = "too few units differ for an interval" if math.isnan(drop.low) else f"{drop.low:+.4f} to {drop.high:+.4f}"
    return f"{effect.kind} at severity {effect.severity}: {drop.value:+.4f} ({ends})"


def judge(effects: Sequence[Effect], max_drop: float, *, strict: bool) -> Verdict:
    """Judges drops by their 95 % intervals.

    A drop is too large where the whole interval is above `max_drop` (`strict`: where any of it is). Without an interval
    the drop itself is compared if `strict`, and is never too large otherwise: too few units differ to say so.
    """
    states = {id(each): _state(each.drop, max_drop) for each in effects}
    over = tuple(each for each in effects if states[id(each)] == "above")
    unsure = tuple(each for each in effects if states[id(each)] == "unsure")
    failed = tuple(each for each in effects if states[id(each)] != "within") if strict else over
    return Verdict(max_drop, strict, failed, unsure)


def _state(drop: Interval, max_drop: float) -> Literal["within", "unsure", "above"]:
    if math.isnan(drop.low):
        return "unsure" if drop.value > max_drop else "within"
    if drop.low > max_drop:
        return "above"
    return "within" if drop.high <= max_drop else "unsure"

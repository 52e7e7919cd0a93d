"""Where examples leave a model with early heads: how sure it must be, and what that costs.

An example leaves at the first head whose confidence in it is at least a threshold, the same for all heads; so that it
means the same for all, each head's logits are first divided by a temperature of its own. Confidence is the probability
of the likeliest class; of several labels, or of the words of a sentence, that of the least sure one.

The threshold is chosen on the validation split by fixed-sequence testing (Angelopoulos et al. 2021, "Learn then test",
arXiv 2110.01052; for early exit Schuster et al. 2022, CALM, arXiv 2207.07061): from the highest on, as long as it can
be rejected that more than a given share of predictions is lost. A prediction is lost that is right by all layers and
wrong by the head where its example leaves.
"""

# N rows, T tokens, S segments (examples in a row), C classes, E examples, H heads

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxfm import files
from jaxfm.core.exits import ExitForm
from jaxfm.errors import UserError
from jaxfm.evaluation.calibration import probabilities

EXITS_FILE = "exits.json"
_VERSION = 1
# Fixed before any data are seen, as the test asks for; 0: all leave at the first head.
THRESHOLDS: tuple[float, ...] = (*(1 - 10 ** (-6 + 0.05 * step) for step in range(120)), 0.0)


class Places(NamedTuple):
    """Where the examples of some rows lie.

    Attributes:
      locations: [E, 3], row, segment counted from 0, and index of the first token of each example.
      segment_ids: [N, T], from 1; 0 is padding.
      read: bool [N, T], the tokens whose outputs are read; None: all, or outputs are of whole examples.
    """

    locations: np.ndarray
    segment_ids: np.ndarray
    read: np.ndarray | None = None

    def example_of_tokens(self) -> np.ndarray:
        """Returns the number of the example that each token is of, [N, T]; -1 for padding."""
        table = np.full((len(self.segment_ids), int(self.segment_ids.max(initial=0)) + 1), -1, np.int64)
        table[self.locations[:, 0], self.locations[:, 1] + 1] = np.arange(len(self.locations))
        return np.take_along_axis(table, self.segment_ids, axis=1)


def confidence(form: ExitForm, logits: np.ndarray, places: Places, temperature: float = 1.0) -> np.ndarray:
    """Returns how sure a head is of each example, float64 [E] from 0 to 1.

    An example of which no token is read is sure: 1.

    Args:
      form: what the logits are.
      logits: [N, T, C] of tokens, or [N, S, C] of examples.
      places: of the examples.
      temperature: of the head.
    """
    calibration = {"temperature": temperature}
    if not form.of_tokens:
        logits = logits[places.locations[:, 0], places.locations[:, 1]]
        found_EC = probabilities(logits, calibration, form.kind)
        return found_EC.max(axis=-1) if form.kind == "single" else np.maximum(found_EC, 1 - found_EC).min(axis=-1)
    example_NT = places.example_of_tokens()
    read_NT = example_NT >= 0 if places.read is None else places.read & (example_NT >= 0)
    sure_E = np.ones(len(places.locations))
    sure = probabilities(logits[read_NT], calibration, form.kind).max(axis=-1)
    np.minimum.at(sure_E, example_NT[read_NT], sure)
    return sure_E


def leaving(confidences: Mapping[int, np.ndarray], layers: int, threshold: float | None) -> np.ndarray:
    """Returns the number of layers of each example, int [E].

    Args:
      confidences: layers below an early head -> confidence [E], ascending.
      layers: of the whole model.
      threshold: confidence from which an example leaves; None: none does.
    """
    count = len(next(iter(confidences.values())))
    left_E = np.full(count, layers)
    if threshold is not None:
        for head in sorted(confidences, reverse=True):
            left_E[confidences[head] >= threshold] = head
    return left_E


def mixed(
    form: ExitForm,
    outputs: Mapping[int, Mapping[str, np.ndarray]],
    left_E: np.ndarray,
    places: Places,
    temperatures: Mapping[int, float],
) -> dict[str, np.ndarray]:
    """Returns outputs of rows whose examples left at different heads.

    The logits of early heads are scaled, so that the last head's temperature makes calibrated probabilities of them.

    Args:
      form: what the logits are.
      outputs: layers below a head -> its outputs of all rows, the last head's last.
      left_E: layers below the head of each example.
      places: of the examples.
      temperatures: layers below a head -> temperature.
    """
    *early, last = outputs
    logits = np.array(outputs[last][form.output])
    left_NT = left_E[places.example_of_tokens()] if form.of_tokens else left_E
    rows, segments = places.locations[:, 0], places.locations[:, 1]
    for head in early:
        values = outputs[head][form.output]
        factor = temperatures[last] / temperatures[head]
        if form.of_tokens:
            chosen_NT = (left_NT == head) & (places.segment_ids > 0)
            logits[chosen_NT] = values[chosen_NT] * factor
        else:
            here = rows[left_E == head], segments[left_E == head]
            logits[here] = values[here] * factor
    return {**outputs[last], form.output: logits}


def p_value(lost_E: np.ndarray, most: float) -> float:
    """Returns how likely losses no greater than these are where the mean loss is above `most`, at most.

    Exact for losses of 0 and 1 (the binomial distribution); for others from 0 to 1 by Hoeffding's and Bentkus'
    inequalities (Bates et al. 2021, "Distribution-free, risk-controlling prediction sets", theorem 2).
    """
    from scipy import special  # not at the start: a quarter of a second

    count, total = len(lost_E), float(lost_E.sum())
    if not count:
        return 1.0
    if np.isin(lost_E, (0.0, 1.0)).all():
        return float(special.bdtr(round(total), count, most)) if most < 1 else 0.0
    mean = total / count
    if mean >= most or most >= 1:
        return 1.0 if mean >= most else 0.0
    divergence = (mean * math.log(mean / most) if mean else 0.0) + (1 - mean) * math.log((1 - mean) / (1 - most))
    bentkus = math.e * float(special.bdtr(math.ceil(total), count, most))
    return min(math.exp(-count * divergence), bentkus, 1.0)


def choose_threshold(lost: Callable[[float], np.ndarray], most: float, certainty: float) -> tuple[float | None, str]:
    """Returns the lowest of THRESHOLDS, from the highest on, by which not too much is lost; None and why: none is.

    Args:
      lost: threshold -> the loss of each example, from 0 to 1.
      most: mean loss that is allowed.
      certainty: probability with which it holds for other examples like these; 0: it holds for these.
    """
    chosen = None
    for threshold in THRESHOLDS:
        lost_E = lost(threshold)
        holds = len(lost_E) and (p_value(lost_E, most) <= 1 - certainty if certainty else lost_E.mean() <= most)
        if not holds:
            break
        chosen = threshold
    if chosen is not None:
        return chosen, ""
    count = len(lost_E)  # of the highest threshold
    if not certainty:
        return None, f"even the surest predictions lose more than {most:g} of valid's {count:,} examples"
    least = math.ceil(math.log(1 - certainty) / math.log(1 - most)) if most < 1 else 1
    return None, (
        f"valid has {count:,} examples, of which {lost_E.mean() if count else 0:.2%} are lost at the highest "
        f"threshold: that at most {most:g} are lost follows with certainty {certainty:g} from {least:,} without a "
        "loss, or from more. Give more validation examples, a higher config.exits.max_loss, or config.exits.certainty=0"
    )


@dataclasses.dataclass(frozen=True)
class ExitRule:
    """When examples leave: what a run keeps in exits.json.

    Attributes:
      layers: below each head, ascending, those of the whole model last.
      temperatures: of each head's logits.
      threshold: confidence from which an example leaves; None: none does.
      why: why none does; empty where some may.
      max_loss: by which the threshold was chosen.
      certainty: likewise.
      examples: of the validation split.
    """

    layers: tuple[int, ...]
    temperatures: tuple[float, ...]
    threshold: float | None = None
    why: str = "the run has no validation split to choose a threshold by"
    max_loss: float = 0.0
    certainty: float = 0.0
    examples: int = 0

    @property
    def temperature_of(self) -> dict[int, float]:
        """Layers below a head -> its temperature."""
        return dict(zip(self.layers, self.temperatures, strict=True))


def write_rule(workdir: pathlib.Path, rule: ExitRule, curve: Sequence[Mapping[str, Any]]) -> None:
    """Writes exits.json: the rule, and what other thresholds do on the validation split."""
    files.write_json(workdir / EXITS_FILE, {"version": _VERSION, **dataclasses.asdict(rule), "curve": list(curve)})


def read_rule(workdir: pathlib.Path, layers: Sequence[int]) -> ExitRule:
    """Reads exits.json of a run with these numbers of layers below its heads.

    Where the file is absent, since the run has not ended, no example leaves early. UserError for a file that jaxfm did
    not write for this run.
    """
    path = workdir / EXITS_FILE
    if not path.is_file():
        why = f"{path} is not there: it is written at the end of training"
        return ExitRule(tuple(layers), (1.0,) * len(layers), None, why)
    values = files.read_versioned(path, _VERSION)
    try:
        rule = ExitRule(
            layers=tuple(int(each) for each in values["layers"]),
            temperatures=tuple(float(each) for each in values["temperatures"]),
            threshold=None if values["threshold"] is None else float(values["threshold"]),
            why=str(values["why"]),
            max_loss=float(values["max_loss"]),
            certainty=float(values["certainty"]),
            examples=int(values["examples"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: was not written by jaxfm ({error!r}). Take it from a backup of the run.") from error
    sound = (
        rule.layers == tuple(layers)
        and len(rule.temperatures) == len(layers)
        and all(0 < each < math.inf for each in rule.temperatures)
        and (rule.threshold is None or 0 <= rule.threshold <= 1)
    )
    if not sound:
        raise UserError(
            f"{path}: is not of this run, whose heads are after {', '.join(map(str, layers))} layers, each with a "
            "temperature above 0, and a threshold from 0 to 1. Take it from a backup of the run."
        )
    return rule

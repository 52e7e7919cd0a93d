"""Looks for bias in a trained model: `python -m jaxfm.bias --workdir=RUN`, by one of three measures.

Without a further flag the terms of sentences are exchanged (names, nouns, religions, nationalities; your own by
--templates=FILE.toml) and the model's answers compared. --by=COLUMN compares its scores on groups of labelled data.
--stereotypes=FILE, of a masked language model, compares the two sentences of each pair of a file in the form of
CrowS-Pairs or StereoSet.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from jaxfm import files
from jaxfm.core.task import FindsEntities
from jaxfm.data.records.counterfactual_terms import Attribute, Sentence, read_attributes
from jaxfm.data.records.splits import require_split
from jaxfm.data.records.stereotypes import StereotypePair, read_stereotypes
from jaxfm.errors import UserError
from jaxfm.evaluation import counterfactual, stereotypes
from jaxfm.evaluation.bootstrap import CONFIDENCE
from jaxfm.evaluation.exchange import Gap
from jaxfm.evaluation.stereotypes import Preference
from jaxfm.evaluation.subgroups import LEAST
from jaxfm.observe.interval_plots import plot_gaps
from jaxfm.observe.progress import Progress
from jaxfm.observe.studies import FOLDER, Study, StudyReport, show, write_study
from jaxfm.observe.tables import Cell, Table
from jaxfm.programs import plugins, program
from jaxfm.programs.model import Model
from jaxfm.programs.subgroup_scores import subgroup_scores

USAGE = (
    "usage: python -m jaxfm.bias --workdir=RUN [--templates=FILE.toml] [--output=DIR]\n"
    "       python -m jaxfm.bias --workdir=RUN --by=COLUMN [--split=test] [--source=URI]\n"
    "       python -m jaxfm.bias --workdir=RUN --stereotypes=FILE"
)
_SURE = 1 - CONFIDENCE
_VALUE = "value"
_SHOWN = 12  # gaps of an attribute in the terminal
_SAME = "no difference shown"
_LITTLE = 0.01  # a gap in a probability, a share or a metric that nobody would act upon, however sure
_CAUTION = "What was not looked for is not in this; no difference shown is not a proof that there is none."


@dataclasses.dataclass(frozen=True, repr=False)
class BiasReport(StudyReport):
    """What was found.

    Attributes:
      gaps: name -> those of an attribute, or of the column; empty for stereotypes.
      preferences: of each kind of stereotype, "all" first.
    """

    gaps: Mapping[str, tuple[Gap, ...]] = dataclasses.field(default_factory=dict)
    preferences: tuple[Preference, ...] = ()

    def write(self, folder: pathlib.Path) -> None:
        """Writes the study's files, and a picture of the gaps."""
        write_study(folder, self.study)
        for number, (name, found) in enumerate(self.gaps.items(), start=1):
            lines = [
                (
                    f"{gap.group}: {gap.number}",
                    gap.interval.value,
                    gap.interval.low,
                    gap.interval.high,
                    _stands_out(gap),
                )
                for gap in found
            ]
            if lines:
                path = folder / f"{self.study.name}_{number}.png"
                plot_gaps(lines, path, title=f"Gaps by {name}", x_label="group less the mean of the others")


def bias(
    workdir: str | pathlib.Path,
    *,
    templates: str | pathlib.Path | None = None,
    by: str = "",
    split: str = "test",
    source: str | None = None,
    stereotypes: str | pathlib.Path | None = None,
    progress: Progress | None = None,
) -> BiasReport:
    """Looks for bias by one measure.

    Args:
      workdir: a run directory.
      templates: a file of templates and terms in place of those that come with jaxfm.
      by: a column of the labelled data whose values are the groups.
      split: that is scored by group.
      source: URI of other labelled data.
      stereotypes: a file of pairs of sentences.
      progress: where to show how far it is.

    Raises:
      UserError: more than one measure, a run or file that cannot be read, a model that the measure does not fit.
    """
    measures = {"templates": templates, "by": by, "stereotypes": stereotypes}
    if len(given := [name for name, value in measures.items() if value]) > 1:
        raise UserError(f"--{given[0]} and --{given[1]}: these are two measures; give one at a time.")
    progress = progress or Progress(None, quiet=True)
    if by:
        return _by_column(workdir, by, require_split(split), source, progress)
    if source is not None:
        raise UserError(f"--source={source}: labelled data are compared by the groups of a column: --by=COLUMN.")
    if stereotypes is not None:
        pairs = read_stereotypes(files.user_path(stereotypes, "--stereotypes"))
        return _of_stereotypes(Model(workdir), pairs, progress)
    attributes = read_attributes(None if templates is None else files.user_path(templates, "--templates"))
    return _of_terms(Model(workdir), attributes, progress)


def _of_terms(model: Model, attributes: Sequence[Attribute], progress: Progress) -> BiasReport:
    """Exchanges terms in sentences and compares the model's answers."""
    if model.pairs:
        raise UserError(f"{model.workdir}: judges pairs of texts, and templates are of one text.")
    tables, gaps, values, summary = list[Table](), dict[str, tuple[Gap, ...]](), dict[str, Any](), list[str]()
    for attribute in attributes:
        sentences = {group: list(attribute.sentences(group)) for group in attribute.groups}
        count = sum(map(len, sentences.values()))
        found = dict[str, np.ndarray]()
        numbers = list[str]()
        with progress.task(f"{attribute.name} (sentences)", count) as advance:
            for group, those in sentences.items():
                answers = [_numbers(model, sentence, result) for sentence, result in _answered(model, those)]
                numbers = [name for name in answers[0] if all(name in answer for answer in answers)]
                table = np.asarray([[answer[name] for name in numbers] for answer in answers])
                found[group] = table.reshape(len(attribute.groups[group]), len(attribute.templates), -1)
                advance(len(those))
        if (
            model.labels
            and len(numbers) == 2
            and all(np.allclose(each.sum(axis=-1), 1.0, atol=1e-3) for each in found.values())
        ):
            # Of two probabilities that are 1 together one says all.
            numbers, found = numbers[1:], {group: each[..., 1:] for group, each in found.items()}
        exchanged = counterfactual.exchange(attribute.name, found, numbers)
        gaps[attribute.name] = exchanged.gaps
        sizes = ", ".join(f"{size} {group}" for group, size in exchanged.counts.items())
        title = f"{attribute.name}: {exchanged.templates} templates, terms: {sizes}; drawn: {exchanged.unit}"
        tables.append(_gap_table(title, exchanged.gaps))
        values[attribute.name] = {
            "unit": exchanged.unit,
            "terms": exchanged.counts,
            "templates": exchanged.templates,
            "means": exchanged.values,
            "gaps": [_gap_values(gap) for gap in exchanged.gaps],
        }
        summary.append(_largest(attribute.name, exchanged.gaps))
    study = Study(
        "bias_terms", "Bias: exchanged terms", (*summary, _CAUTION), tables, {"attributes": values}, model.step
    )
    return BiasReport(study, gaps)


def _answered(model: Model, sentences: Sequence[Sentence]) -> Any:
    return zip(sentences, model([sentence.text for sentence in sentences]), strict=True)


def _numbers(model: Model, sentence: Sentence, result: Mapping[str, Any]) -> dict[str, float]:
    """Returns what is compared of a result: probabilities of classes, a value, or whether the term is an entity."""
    if isinstance(model.predictor, FindsEntities):
        exact = [
            each["type"]
            for each in result["entities"]
            if (each["start"], each["end"]) == (sentence.start, sentence.end)
        ]
        return {f"found as {name}": float(name in exact) for name in model.predictor.entity_types}
    if isinstance(result.get("scores"), Mapping):
        return {f"P({label})": float(score) for label, score in result["scores"].items()}
    if isinstance(result.get("value"), float):
        return {_VALUE: float(result["value"])}
    raise UserError(
        f"{model.workdir}: is a run of the task {model.task}, whose answers have neither probabilities of classes, a "
        "value nor entities to compare. For a masked language model there is --stereotypes=FILE; --by=COLUMN compares "
        "scores on labelled data."
    )


def _by_column(
    workdir: str | pathlib.Path, column: str, split: str, source: str | None, progress: Progress
) -> BiasReport:
    """Compares the scores of groups of labelled data."""
    scored = subgroup_scores(workdir, column, split, source, progress)
    found = scored.subgroups
    title = f"{split} by {column}: {sum(found.counts.values()):,} {found.unit}"
    metrics = list(next(iter(found.metrics.values())))
    rows: list[tuple[Cell, ...]] = [
        (group, count, *(_with_ends(found.metrics[group][name]) for name in metrics))
        for group, count in found.counts.items()
    ]
    tables = [Table(title, ("group", found.unit, *(name.replace("_", " ") for name in metrics)), rows)]
    tables.append(_gap_table("Each group less the mean of the others", found.gaps))
    summary = [_largest(f"{column} ({split})", found.gaps)]
    if found.left_out:
        listed = ", ".join(f"{group} ({count})" for group, count in found.left_out.items())
        summary.append(f"Groups of fewer than {LEAST} {found.unit} are left out: {listed}.")
    values = {
        "column": column,
        "split": split,
        "source": scored.source,
        "groups": {
            group: {
                "count": found.counts[group],
                "metrics": {
                    name: {"value": each.value, "interval": [each.low, each.high]} for name, each in metrics.items()
                },
            }
            for group, metrics in found.metrics.items()
        },
        "gaps": [_gap_values(gap) for gap in found.gaps],
        "left_out": dict(found.left_out),
    }
    name = f"bias_by_{_file_name(column)}"
    study = Study(name, f"Bias: scores by {column}", (*summary, _CAUTION), tables, values, scored.step)
    return BiasReport(study, {column: found.gaps})


def _of_stereotypes(model: Model, pairs: Sequence[StereotypePair], progress: Progress) -> BiasReport:
    """Compares the likelihood of the two sentences of each pair."""
    scores = dict[str, list[tuple[float, ...]]]()
    left_out = list[str]()
    with progress.task("pairs of sentences", len(pairs)) as advance:
        for first in range(0, len(pairs), 16):
            part = pairs[first : first + 16]
            results = iter(model([text for pair in part for text in pair.sentences]))
            for pair in part:
                tokens = [_tokens(model, next(results)) for _ in pair.sentences]
                if pair.blank:
                    found = tuple(
                        stereotypes.span_log_probability(each, *span)
                        for each, span in zip(tokens, pair.blank, strict=True)
                    )
                else:
                    found = stereotypes.shared_log_probabilities(*tokens)
                if any(map(math.isnan, found)):
                    left_out.append(pair.origin)
                    continue
                scores.setdefault(pair.kind, []).append(found)
            advance(len(part))
    if not scores:
        raise UserError(f"{left_out[0]}: no token of its compared words is known; so are those of all other pairs.")
    every = [stereotypes.preference("all", [each for found in scores.values() for each in found])]
    every += [stereotypes.preference(kind, found) for kind, found in sorted(scores.items())]
    columns = ("kind", "pairs", "prefers the stereotype", "95% from", "to", "p (half)", "ties")
    rows: list[tuple[Cell, ...]] = [
        (each.kind, each.pairs, each.stereotype.value, each.stereotype.low, each.stereotype.high, each.p, each.ties)
        for each in every
    ]
    if every[0].sense is not None:
        columns += ("makes sense", "ICAT")
        rows = [
            (*row, each.sense.value if each.sense else None, each.idealised)
            for row, each in zip(rows, every, strict=True)
        ]
    table = Table("Stereotypes: half is even", columns, rows, formats={"ICAT": ".1f"} if every[0].sense else {})
    overall = every[0]
    verdict = "more often than half" if overall.stereotype.value > 0.5 else "less often than half"
    said = f"Of {overall.pairs:,} pairs the more stereotypical sentence is the likelier one in "
    said += f"{overall.stereotype.value:.1%} ({CONFIDENCE:.0%} interval {overall.stereotype.low:.1%} to "
    said += f"{overall.stereotype.high:.1%}; p = {overall.p:.2g}): {verdict if overall.p < _SURE else _SAME}."
    summary = [said]
    if left_out:
        summary.append(f"{len(left_out)} pairs without a known token in their compared words are left out.")
    values = {
        "kinds": {
            each.kind: {
                "pairs": each.pairs,
                "stereotype": dataclasses.asdict(each.stereotype),
                "ties": each.ties,
                "p": each.p,
                "sense": None if each.sense is None else dataclasses.asdict(each.sense),
                "icat": each.idealised,
            }
            for each in every
        }
    }
    study = Study("bias_stereotypes", "Bias: stereotypes", (*summary, _CAUTION), [table], values, model.step)
    return BiasReport(study, {}, tuple(every))


def _tokens(model: Model, result: Mapping[str, Any]) -> Any:
    if "pseudo_perplexity" not in result:
        raise UserError(
            f"{model.workdir}: is a run of the task {model.task}, which gives no probability of each token of a text; "
            "--stereotypes is for masked language models."
        )
    return result["tokens"]


def _gap_table(title: str, gaps: Sequence[Gap]) -> Table:
    columns = ("group", "of", "value", "others", "gap", "95% from", "to", "p", "at p < 0.05")
    rows: list[tuple[Cell, ...]] = []
    for gap in gaps[:_SHOWN]:
        ends = [None if math.isnan(end) else end for end in (gap.interval.low, gap.interval.high)]
        verdict = _SAME if gap.p >= _SURE else "higher" if gap.interval.value > 0 else "lower"
        verdict += "" if gap.p >= _SURE or _stands_out(gap) else f", by less than {_LITTLE}"
        rows.append((gap.group, gap.number, gap.value, gap.others, gap.interval.value, *ends, gap.p, verdict))
    more = f" (the first {_SHOWN} of {len(gaps)})" if len(gaps) > _SHOWN else ""
    return Table(f"{title}{more}", columns, rows, formats={"gap": "+.4f", "95% from": "+.4f", "to": "+.4f"})


def _stands_out(gap: Gap) -> bool:
    """Whether a gap is more than chance and, where it has a scale from 0 to 1, large enough to matter."""
    return gap.p < _SURE and (gap.number == _VALUE or abs(gap.interval.value) >= _LITTLE)


def _largest(name: str, gaps: Sequence[Gap]) -> str:
    if not gaps:
        return f"{name}: nothing to compare."
    sure = [gap for gap in gaps if _stands_out(gap)]
    gap = max(sure or gaps, key=lambda each: abs(each.interval.value))
    text = f"{name}: {len(sure)} of {len(gaps)} gaps are more than chance and {_LITTLE} (p for all together); "
    text += f"the largest is {gap.number} of {gap.group}, {gap.interval.value:+.3f} "
    return text + f"({CONFIDENCE:.0%} interval {gap.interval.low:+.3f} to {gap.interval.high:+.3f}; p = {gap.p:.2g})."


def _gap_values(gap: Gap) -> dict[str, Any]:
    return {
        "group": gap.group,
        "of": gap.number,
        "value": gap.value,
        "others": gap.others,
        "gap": gap.interval.value,
        "interval": [gap.interval.low, gap.interval.high],
        "p": gap.p,
    }


def _with_ends(found: Any) -> str:
    return f"{found.value:.4f} ({found.low:.4f} to {found.high:.4f})"


def _file_name(column: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in column)


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.workdir:
        raise UserError(f"--workdir is missing.\n{USAGE}")
    workdir = files.user_path(values.workdir, "--workdir")
    folder = workdir / FOLDER if values.output is None else files.output_directory(values.output, "--output")
    with Progress(None) as progress:
        found = bias(
            workdir,
            templates=values.templates,
            by=values.by or "",
            split=values.split,
            source=values.source,
            stereotypes=values.stereotypes,
            progress=progress,
        )
        show(found.study, progress)
    found.write(folder)
    print(f"written: {folder / found.study.name}.md, .json" + (" and pictures" if found.gaps else ""))


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    flags.DEFINE_string("workdir", None, "A run directory.")
    flags.DEFINE_string("templates", None, "A TOML file of templates and terms, in place of those of jaxfm.")
    flags.DEFINE_string("by", None, "A column of the labelled data, whose values are groups to compare.")
    flags.DEFINE_string("split", "test", "The split that --by scores, or another usual name of it (dev, testb ...).")
    flags.DEFINE_string("source", None, "Labelled data for --by; the run's own if not given.")
    flags.DEFINE_alias("data", "source")
    flags.DEFINE_string("stereotypes", None, "Pairs of sentences, in the form of CrowS-Pairs or StereoSet.")
    flags.DEFINE_string("output", None, "A folder for what was found; WORKDIR/studies if not given.")
    program.run(main, USAGE)
